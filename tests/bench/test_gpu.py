"""The stages that run on a GPU, rehearsed: every item runs on the CPU, and a run that was cut goes on."""

import json
from functools import partial

import pytest
import torch

from harmony_core.__main__ import main
from harmony_core.bench.gpu import check, speed
from harmony_core.bench.gpu.stages import Place, Stage, results, run_stages

CPU = Place(device=torch.device("cpu"), small=True)


@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight:UserWarning")  # RMSNorm under autocast
@pytest.mark.parametrize("name", check.items())
def test_the_device_computes_what_the_cpu_does(name, tmp_path):
    """On a machine with a GPU that one is held against the CPU, else the CPU against itself."""
    place = Place(device=torch.device("cuda"), small=True) if torch.cuda.is_available() else CPU
    run_stages([Stage(name="check", minutes=5, items={name: check.items()[name]})], place, tmp_path)
    found = results(tmp_path, "check", place)[name]
    assert "error" not in found, found


def test_a_wrong_result_is_found():
    """A device that is wrong by a tenth of one value in a hundred does not pass."""

    def compute(_device, _dtype, seen=[]):  # noqa: B006 - counts its calls
        seen.append(None)
        right = torch.linspace(-1, 1, 400)
        return {"x": right if len(seen) == 1 else right + 0.5 * (torch.arange(400) % 100 == 0)}

    assert "from the CPU's float32" in check._compared(compute, 1.0, CPU)["error"]


@pytest.mark.parametrize("name", [name for name in speed.items() if "compiled" not in name])  # a compiler takes a minute
def test_every_measurement_runs_in_small(name):
    figures = speed.items()[name](CPU)
    assert figures
    assert all(value > 0 for key, value in figures.items() if key.startswith("seconds"))


def test_a_run_that_was_cut_goes_on_and_keeps_what_it_has(tmp_path):
    ran = []

    def item(name, _place):
        ran.append(name)
        return {"value": len(ran)}

    def failing(_place):
        raise RuntimeError("no kernel " + "x" * 1000)

    stage = Stage(name="s", minutes=1, items={"a": partial(item, "a"), "bad": failing, "b": partial(item, "b")})
    assert not run_stages([stage], CPU, tmp_path, minutes=0)
    assert ran == []
    assert not run_stages([stage], CPU, tmp_path)
    assert ran == ["a", "b"]
    found = results(tmp_path, "s", CPU)
    assert found["bad"]["error"].startswith("RuntimeError: no kernel x")
    assert len(found["bad"]["error"]) == 400
    mended = Stage(name="s", minutes=1, items={**stage.items, "bad": partial(item, "bad")})
    assert run_stages([mended], CPU, tmp_path)
    assert ran == ["a", "b", "bad"]
    assert [one["value"] for one in results(tmp_path, "s", CPU).values()] == [1, 3, 2]
    (file,) = tmp_path.iterdir()
    assert json.loads(file.read_text())["device"] == "cpu"


def test_the_command_refuses_what_is_not_there(tmp_path, capsys):
    for args, message in (
        (["--stages", "check,drive"], "--stages: drive is none; the stages are check, speed"),
        (["--minutes", "nan"], "--minutes is a positive number"),
        (["--device", "cuda:99"], "--device cuda:99 cannot be used"),
    ):
        assert main(["bench", "gpu", "--out", str(tmp_path / "o"), *args]) != 0
        assert message in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


def test_a_file_that_is_no_result_is_named_and_kept(tmp_path):
    (tmp_path / "s-cpu-small.json").write_text("[]")
    with pytest.raises(ValueError, match=r"s-cpu-small.json is no result of this command .*; move it away"):
        run_stages([Stage(name="s", minutes=1, items={})], CPU, tmp_path)
    assert (tmp_path / "s-cpu-small.json").read_text() == "[]"

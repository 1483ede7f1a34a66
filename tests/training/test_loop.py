import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from harmony_core.geometry import ClipSpec, Grid
from harmony_core.media import read_image
from harmony_core.progress import Cancelled
from harmony_core.records import to_record
from harmony_core.training.cache import LatentCache
from harmony_core.training.config import ObjectiveConfig, OptimizerConfig, StageConfig
from harmony_core.training.loop import Hooks, Phase, read_log, train
from harmony_core.training.model import start_model, train_model
from harmony_core.training.objective import Objective
from harmony_core.training.plots import COLOURS, HEIGHT
from harmony_core.training.store import Entry, writing
from harmony_core.training.tasks import draw_batch
from harmony_core.types import Modality
from harmony_core.weights.checkpoint import load_checkpoint

SPEC = ClipSpec(frames=9, height=32, width=32, grid=Grid(patch=1))


def losses(folder) -> list[dict]:
    lines = [line for line in read_log(Path(folder) / "log.jsonl") if "measured" not in line]
    return [{k: v for k, v in line.items() if k not in {"seconds", "wait"}} for line in lines]


def stop_after(step: int):
    def progress(done: int, total: int) -> None:
        if done == step:
            raise Cancelled

    return progress


def two_stages() -> tuple[StageConfig, ...]:
    common = {"reference_seconds": (0.05, 0.2)}
    return (
        StageConfig(
            name="audio",
            steps=4,
            optimizer=OptimizerConfig(lr=1e-3, warmup=1),
            objective=ObjectiveConfig(streams="audio", reference="same_clip", **common),
        ),
        StageConfig(
            name="joint",
            steps=5,
            optimizer=OptimizerConfig(lr=5e-4, warmup=1),
            objective=ObjectiveConfig(mode="mixed", **common),
        ),
    )


@pytest.mark.parametrize("stopped", [1, 4, 5, 7])
@pytest.mark.bitwise("program")
def test_a_resumed_run_is_the_uninterrupted_run_bit_for_bit(make_run, cache, tmp_path, stopped):
    whole = make_run(stages=two_stages(), output=str(tmp_path / "whole"))
    model = train_model(whole, cache)
    parts = make_run(stages=two_stages(), output=str(tmp_path / "parts"))
    with pytest.raises(Cancelled):
        train_model(parts, cache, progress=stop_after(stopped))
    resumed = train_model(parts, cache, resume=True)
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    assert [line["step"] for line in losses(tmp_path / "parts")] == list(range(1, 10))
    a, b = load_file(model), load_file(resumed)
    assert all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.bitwise("program")
def test_a_killed_run_goes_on_from_its_last_whole_checkpoint(make_run, cache, tmp_path):
    whole = make_run(output=str(tmp_path / "whole"))
    train_model(whole, cache)
    config = make_run()
    (tmp_path / "config.json").write_text(json.dumps(to_record(config)))
    program = f"""
        import json, os, signal, torch
        torch.set_num_threads(1)
        from harmony_core.records import from_record
        from harmony_core.training.cache import LatentCache
        from harmony_core.training.config import ModelRun
        from harmony_core.training.model import train_model
        def killed(done, total):
            if done == 4:
                os.kill(os.getpid(), signal.SIGKILL)
        config = from_record(ModelRun, json.load(open({str(tmp_path / "config.json")!r})), "config")
        train_model(config, LatentCache({str(cache.folder)!r}), progress=killed)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=False)
    assert done.returncode == -signal.SIGKILL
    folder = Path(config.run.output)
    (folder / "checkpoints" / ".step-00000006.dead").mkdir()  # as a kill while writing leaves it
    with (folder / "log.jsonl").open("a") as log:
        log.write('{"step": 5, "lo')
    train_model(config, cache, resume=True)
    assert losses(folder) == losses(tmp_path / "whole")
    assert not list((folder / "checkpoints").glob(".*"))


@pytest.mark.parametrize("then", ["SIG_IGN", "SIG_DFL"])
@pytest.mark.bitwise("program")
def test_a_full_disk_or_a_kill_while_saving_leaves_the_last_checkpoint(make_run, cache, tmp_path, then):
    """A limit on the size of a file stands for the full disk: the write fails in the same place, or its signal kills there."""
    train_model(make_run(output=str(tmp_path / "whole")), cache)
    config = make_run(output=str(tmp_path / "full"))
    with pytest.raises(Cancelled):
        train_model(config, cache, progress=stop_after(3))
    checkpoints = tmp_path / "full" / "checkpoints"
    before = {path.name: path.read_bytes() for path in (checkpoints / "step-00000003").iterdir()}
    (tmp_path / "config.json").write_text(json.dumps(to_record(config)))
    program = f"""
        import json, resource, signal, torch
        torch.set_num_threads(1)
        from harmony_core.records import from_record
        from harmony_core.training.cache import LatentCache
        from harmony_core.training.config import ModelRun
        from harmony_core.training.model import train_model
        signal.signal(signal.SIGXFSZ, signal.{then})
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
        config = from_record(ModelRun, json.load(open({str(tmp_path / "config.json")!r})), "config")
        train_model(config, LatentCache({str(cache.folder)!r}), resume=True)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=False, capture_output=True, text=True)
    left = [path.name for path in checkpoints.glob(".step-00000006.*")]
    if then == "SIG_IGN":
        assert "ValueError: cannot write the checkpoint of step 6" in done.stderr
        assert "the last good one is" in done.stderr
        assert not left
    else:
        assert done.returncode == -signal.SIGXFSZ
        assert left
    assert [path.name for path in checkpoints.glob("step-*")] == ["step-00000003"]
    assert {path.name: path.read_bytes() for path in (checkpoints / "step-00000003").iterdir()} == before
    train_model(config, cache, resume=True)
    assert losses(tmp_path / "full") == losses(tmp_path / "whole")
    assert not list(checkpoints.glob(".*"))


def test_a_loss_that_is_not_finite_names_step_and_clips_and_keeps_the_checkpoint(make_run, cache):
    config = make_run(lr=1e11, steps=12, save_every=1)
    with pytest.raises(ValueError, match=r"step \d+: .* not finite, with the clips \d\.mp4, ") as caught:
        train_model(config, cache)
    step = int(str(caught.value).split()[1].rstrip(":"))
    kept = sorted(p.name for p in (Path(config.run.output) / "checkpoints").iterdir())
    assert kept[-1] == f"step-{step - 1:08d}"
    tensors = load_file(Path(config.run.output) / "checkpoints" / kept[-1] / "state.safetensors")
    assert all(value.isfinite().all() for value in tensors.values())


def test_only_the_newest_checkpoints_are_kept(make_run, cache):
    config = make_run(save_every=1, keep=2)
    train_model(config, cache)
    names = sorted(p.name for p in (Path(config.run.output) / "checkpoints").iterdir())
    assert names == ["step-00000005", "step-00000006"]


def test_a_run_is_not_overwritten_nor_resumed_as_another(make_run, cache):
    config = make_run()
    train_model(config, cache)
    with pytest.raises(ValueError, match="holds a run already"):
        train_model(config, cache)
    other = make_run(lr=2e-3)
    with pytest.raises(ValueError, match=r"stages"):
        train_model(other, cache, resume=True)
    with pytest.raises(ValueError, match="no run to resume"):
        train_model(make_run(output=config.run.output + "-none"), cache, resume=True)


def test_parts_of_a_batch_average_to_the_whole(make_run, cache, tmp_path):
    runs = [make_run(output=str(tmp_path / str(n)), accumulate=n) for n in (1, 4)]
    one, four = (load_file(train_model(run, cache)) for run in runs)
    assert max(float((one[key] - four[key]).abs().max()) for key in one) < 1e-5
    for a, b in zip(losses(tmp_path / "1"), losses(tmp_path / "4"), strict=True):
        assert math.isclose(a["loss"], b["loss"], rel_tol=1e-5)


@pytest.mark.parametrize("driver", [None, *Modality])
def test_a_model_learns_one_batch_by_heart(make_run, cache, model_config, driver):
    objective = ObjectiveConfig(mode="mixed", reference="none", first_frame=0.0)
    config = make_run(objective=objective, steps=100, lr=5e-3, save_every=100, batch=3)
    batch = draw_batch(cache, model_config, objective, step=0, batch=3, seed=0)
    batch = dataclasses.replace(batch, driver=driver)
    model = start_model(config)
    phase = Phase(name="one", steps=100, optimizer=config.stages[0].optimizer, draw=lambda step: batch)
    train(Objective(model), model, [phase], config, Hooks(export=lambda weights: None))
    log = losses(config.run.output)
    for name in set(log[0]) & {"joint.video", "joint.audio", "audio_driven.video", "video_driven.audio"}:
        assert log[-1][name] < 0.5 * log[0][name], name


@pytest.mark.bitwise("file")
def test_the_file_at_the_end_is_the_averaged_model(make_run, cache):
    config = make_run(ema=0.5)
    path = train_model(config, cache, metadata={"modelspec.title": "small"})
    loaded = load_checkpoint(path)
    assert loaded.config == config.model
    assert loaded.metadata == {"modelspec.title": "small"}
    state = load_file(Path(config.run.output) / "checkpoints" / "step-00000006" / "state.safetensors")
    name = "video.blocks.0.ffn.0.weight"
    assert torch.equal(loaded.tensors[name], state[f"average.{name}"])
    assert not torch.equal(loaded.tensors[name], state[f"weights.{name}"])


@pytest.mark.bitwise("file")
def test_resuming_a_run_that_is_done_exports_again(make_run, cache):
    config = make_run()
    path = train_model(config, cache)
    wanted = load_checkpoint(path).tensors
    path.unlink()
    again = load_checkpoint(train_model(config, cache, resume=True)).tensors
    assert wanted.keys() == again.keys()
    assert all(torch.equal(wanted[key], again[key]) for key in wanted)


def test_measures_are_logged_and_plotted_and_kept_when_the_run_is_resumed(make_run, cache):
    config = make_run(steps=9)
    folder = Path(config.run.output)

    def measure(step, model):
        assert not model.training
        return {"event_f1": 0.1 * step}

    def drawn() -> int:
        """Pixels of the first curve in the lower panel."""
        panel = read_image(folder / "loss.png")[0, :, 0, HEIGHT:]
        colour = torch.tensor(COLOURS[0]).reshape(3, 1, 1) / 127.5 - 1
        return int(((panel - colour).abs().amax(0) < 0.01).sum())

    with pytest.raises(Cancelled):
        train_model(config, cache, measure=measure, progress=stop_after(3))
    first = drawn()
    train_model(config, cache, measure=measure, resume=True)
    measured = [line for line in read_log(folder / "log.jsonl") if "measured" in line]
    assert [line["step"] for line in measured] == [3, 6, 9]
    assert [line["measured"]["event_f1"] for line in measured] == pytest.approx([0.3, 0.6, 0.9])
    assert drawn() > first > 0


@pytest.mark.parametrize("gone", ["state.json", "state.safetensors"])
def test_a_damaged_checkpoint_is_named(make_run, cache, gone):
    config = make_run()
    with pytest.raises(Cancelled):
        train_model(config, cache, progress=stop_after(3))
    path = Path(config.run.output) / "checkpoints" / "step-00000003" / gone
    os.truncate(path, 10)
    with pytest.raises(ValueError, match="step-00000003 is damaged"):
        train_model(config, cache, resume=True)


def test_a_text_the_model_cannot_read_is_named_before_the_first_step(make_run, tmp_path):
    folder = tmp_path / "odd"
    with writing(folder, kind="latents", spec=SPEC) as writer:
        row = {"video": torch.zeros(SPEC.video_shape()[1:]), "audio": torch.zeros(SPEC.audio_shape()[1:])}
        writer.add(Entry(file="fine.mp4", transcript="hi"), row)
        writer.add(Entry(file="odd.mp4", transcript="hé"), row)
    with pytest.raises(ValueError, match=r"clip odd\.mp4: .*'é'"):
        train_model(make_run(), LatentCache(folder))
    assert not Path(make_run().run.output).exists()

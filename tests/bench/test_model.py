import json
import math

import pytest

from harmony_core.__main__ import main
from harmony_core.bench.model import case


def test_the_command_prints_every_figure_and_writes_it_as_json(tmp_path, capsys):
    assert main(["bench", "model", "--preset", "tiny", "--json", str(tmp_path / "figures.json")]) == 0
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert set(figures) <= {line.split()[0] for line in capsys.readouterr().out.splitlines()}
    assert all(math.isfinite(value) for value in figures.values())
    assert figures["driver_cache_max_abs_error"] <= 1e-5
    assert figures["video_driven_cached_over_uncached"] < 0.9
    for key in (
        "sync_cfg_cached_over_joint",
        "sync_cfg_uncached_over_joint",
        "interaction_4x_over_1x",
        "interaction_global_4x_over_1x",
        "branch_over_diffusers",
    ):
        assert figures[key] > 0


def test_the_mid_case_is_as_large_as_it_is_said_to_be():
    what = case("mid")
    assert what.spec.video_tokens >= 3000
    assert what.spec.audio_latents >= 157


def test_an_unknown_preset_is_one_sentence(capsys):
    assert main(["bench", "model", "--preset", "huge"]) == 1
    assert "no preset 'huge'" in capsys.readouterr().err


@pytest.mark.parametrize("device", ["nonsense", "cuda:99"])
def test_a_device_that_is_not_there_is_one_sentence(device, capsys):
    assert main(["bench", "model", "--preset", "tiny", "--device", device]) == 1
    assert f"--device {device} cannot be used" in capsys.readouterr().err

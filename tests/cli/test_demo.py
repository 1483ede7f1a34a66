import pytest

from harmony_core.__main__ import main
from harmony_core.media import probe
from harmony_core.weights.builtin import ASSETS, resolve

CLIPS = ("talk", "impact", "audio-driven", "video-driven")


def test_the_demo_makes_four_clips_and_measures_them(tmp_path, capsys):
    assert main(["demo", "--out", str(tmp_path / "demo"), "--steps", "2", "--threads", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 * len(CLIPS) + 1
    for number, name in enumerate(CLIPS):
        file = tmp_path / "demo" / f"{name}.mp4"
        found = probe(file)
        assert found.audio is not None
        assert found.video is not None
        assert file.with_suffix(".png").stat().st_size > 0
        assert str(file) in lines[2 * number]
        assert "within two pictures of each other" in lines[2 * number + 1]


@pytest.mark.parametrize("option", [["--steps", "0"], ["--seed", "-1"], ["--threads", "0"]])
def test_bad_options_are_refused_before_anything_is_written(tmp_path, capsys, option):
    assert main(["demo", "--out", str(tmp_path / "demo"), *option]) == 1
    assert "is a whole number from" in capsys.readouterr().err
    assert not (tmp_path / "demo").exists()


def test_what_comes_along_is_small():
    assert resolve("harmony-tiny").stat().st_size < 40_000_000
    assert sum(path.stat().st_size for path in ASSETS.rglob("*") if path.is_file()) < 40_000_000

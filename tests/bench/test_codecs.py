"""The codecs' bench runs and reports what it says."""

import json
import math

from harmony_core.__main__ import main
from harmony_core.bench import codecs

KEYS = {
    "video_decode_over_diffusers",
    "video_encode_over_diffusers",
    "video_decode_peak_241_over_49",
    "audio_decode_realtime_factor",
}


def test_a_quick_run_has_every_figure(tmp_path, capsys):
    path = tmp_path / "codecs.json"
    assert main(["bench", "codecs", "--quick", "--json", str(path)]) == 0
    figures = json.loads(path.read_text())
    assert figures.keys() == KEYS
    assert all(math.isfinite(value) and value > 0 for value in figures.values())
    assert {line.split()[0] for line in capsys.readouterr().out.splitlines()} >= KEYS


def test_an_unwritable_target_is_refused_and_nothing_is_left(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(codecs, "measure", lambda quick: {"figure": 1.0})
    assert main(["bench", "codecs", "--json", str(tmp_path / "no" / "folder.json")]) == 1
    assert "cannot write" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())

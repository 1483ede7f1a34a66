"""The codecs' bench runs and reports what it says."""

import json
import math

import pytest

from harmony_core.bench import codecs

KEYS = {
    "video_decode_over_diffusers",
    "video_encode_over_diffusers",
    "video_decode_peak_241_over_49",
    "audio_decode_realtime_factor",
}


def test_a_quick_run_has_every_figure(tmp_path):
    path = tmp_path / "codecs.json"
    results = codecs.run(json_path=path, quick=True)
    assert results.keys() == KEYS
    assert all(math.isfinite(value) and value > 0 for value in results.values())
    assert json.loads(path.read_text()) == results


def test_an_unwritable_target_is_refused_and_nothing_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr(codecs, "measure", lambda quick: {"figure": 1.0})
    with pytest.raises(ValueError, match="folder"):
        codecs.run(json_path=tmp_path / "no" / "folder.json")
    assert not list(tmp_path.iterdir())

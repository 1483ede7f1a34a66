"""Our codecs against ComfyUI's, where a checkout is at hand."""

from pathlib import Path

import pytest
from comfyui import run_beside_comfy


@pytest.fixture(scope="module")
def figures():
    return run_beside_comfy(Path(__file__).with_name("beside_comfyui.py"))


@pytest.mark.parametrize("name", ["video_encode", "video_decode", "audio_encode", "audio_decode", "vocoder"])
def test_the_same_numbers(figures, name):
    assert figures[f"{name}_error"] <= (1e-4 if name.startswith("video") else 1e-5)


def test_decoding_pictures_is_not_slower(figures):
    """By more than the noise of a shared machine."""
    assert figures["video_decode_over_comfyui"] < 1.1


def test_the_sound_compared_is_no_silence(figures):
    assert figures["vocoder_spread"] > 0.01

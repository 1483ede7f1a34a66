"""Reads the media that come with the pack."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ...harmony_core.media import read_audio, read_image, read_video
from ...harmony_core.weights.builtin import ASSETS

FOLDER = ASSETS / "demo"


def demo_media() -> tuple[Tensor, Tensor, dict[str, Any], dict[str, Any]]:
    """A video, a picture, somebody speaking, and somebody else.

    Returns:
        Pictures (49, 64, 64, 3) and (1, 64, 64, 3) in [0, 1], and ComfyUI's AUDIO of one channel at 16 kHz, twice.

    Raises:
        ValueError: this installation lacks a file; the message names it.
    """
    return (
        _images(read_video(FOLDER / "bouncing.mp4").frames),
        _images(read_image(FOLDER / "face.png")),
        _audio("speech.wav"),
        _audio("voice.wav"),
    )


def _images(frames: Tensor) -> Tensor:
    """(1, 3, F, H, W) in [-1, 1] to (F, H, W, 3) in [0, 1]."""
    return (frames[0].movedim(0, -1) + 1) / 2


def _audio(file: str) -> dict[str, Any]:
    sound = read_audio(FOLDER / file)
    return {"waveform": sound.waveform, "sample_rate": sound.sample_rate}

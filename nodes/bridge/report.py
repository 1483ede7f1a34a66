"""The sync of any IMAGE with any AUDIO, measured and drawn."""

from __future__ import annotations

from typing import Any

import comfy.model_management
import torch
from torch import Tensor

from ...harmony_core.measure.report import describe, draw
from ...harmony_core.measure.sync import Sync, measure_sync
from ...harmony_core.media.sheet import sheet
from ...harmony_core.types import Audio
from .clips import sounds_of
from .player import clips_of, measured_clip


def sync_report(images: Tensor, audio: dict[str, Any], fps: float) -> tuple[float, float, str, Tensor, list[dict[str, Any]]]:
    """Measure clips.

    Args:
        images: (F, H, W, 3 or more) in [0, 1]; of several clips, one after the other.
        audio: ComfyUI's; of several clips as :func:`.clips.sounds_of` reads it.
        fps: pictures a second.

    Returns:
        Score in [0, 1] and milliseconds the sound is late, of several clips their means; what was found in words; as a picture
        (1, H, W, 3); and what the player in the browser is given of each clip.

    Raises:
        ValueError: one picture, no sound, values that are not finite, or pictures that do not divide among the sounds.
    """
    waves = _checked(images, audio)
    found: list[Sync] = []
    said, strips = [], []
    for pictures, wave in zip(images[..., :3].movedim(-1, 1).chunk(len(waves)), waves, strict=True):
        comfy.model_management.throw_exception_if_processing_interrupted()
        sound = Audio(wave[None].float(), int(audio["sample_rate"]))
        try:
            one = measure_sync(pictures, sound, fps)
        except ValueError as error:
            raise ValueError(f"images, audio: {error}") from error
        found.append(one)
        said.append(describe(one, seen_seconds=len(pictures) / fps, heard_seconds=sound.seconds))
        strips.append(draw(one, pictures, sound, fps))
    clips = [measured_clip(clip, one) for clip, one in zip(clips_of(images, audio, fps), found, strict=True)]
    if len(found) > 1:
        said = [f"Clip {number}: {text}" for number, text in enumerate(said, start=1)]
    picture = (sheet(strips)[:, :, 0].movedim(1, -1) + 1) / 2
    score = sum(one.score for one in found) / len(found)
    offset = 1000 * sum(one.offset for one in found) / len(found)
    return score, offset, "\n".join(said), picture, clips


def _checked(images: Tensor, audio: dict[str, Any]) -> Tensor:
    """The sounds (B, C, samples)."""
    waves = sounds_of(images, audio)
    if len(images) < 2:
        raise ValueError("images: one picture shows no motion; connect the pictures of a video")
    if not waves.numel():
        raise ValueError("audio: it is empty; connect the sound of the pictures")
    if len(images) % len(waves):
        raise ValueError(
            f"audio: it is a batch of {len(waves)} sounds, among which {len(images)} pictures do not divide; connect pictures "
            "and sound of the same clips"
        )
    if not bool(torch.isfinite(waves).all()):
        raise ValueError("audio: it holds samples that are not finite numbers; look where they come from")
    return waves

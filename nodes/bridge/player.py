"""What the player in the browser is given of a clip: a small mp4, its waveform, and where it was measured its events.

The clips of the same IMAGE and AUDIO are written once, however many nodes show them.
"""

from __future__ import annotations

import logging
import secrets
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import folder_paths
import torch
import torch.nn.functional as F
from torch import Tensor

from ...harmony_core.measure.sync import Sync
from ...harmony_core.media.write import write_video
from ...harmony_core.types import Audio, Video
from .clips import sounds_of
from .preview import running_server
from .watchers import wants

PREVIEW_SIDE = 512
"""Pixels of the preview's longer side, at most."""
COLUMNS = 600
"""Of the waveform, at most."""
LOUDEST = 127
"""What full scale is in the waveform."""

_PICTURES = 16  # made small at once
_log = logging.getLogger(__name__)

# F pictures, H and W pixels, C channels


@dataclass(frozen=True)
class _Written:
    """What was written last, and of what; it does not keep either alive."""

    images: weakref.ref[Tensor]
    wave: weakref.ref[Tensor]
    rates: tuple[float, float]
    clips: list[dict[str, Any]]

    def is_of(self, images: Tensor, wave: Tensor, rates: tuple[float, float]) -> bool:
        folder = Path(folder_paths.get_temp_directory())
        same = self.images() is images and self.wave() is wave and self.rates == rates
        return same and all((folder / clip["filename"]).is_file() for clip in self.clips)


_written: _Written | None = None


def clips_of(images: Tensor, audio: dict[str, Any], fps: float) -> list[dict[str, Any]]:
    """Clips for the player; they are written into ComfyUI's temp folder.

    Args:
        images: (F, H, W, 3 or more) in [0, 1]; of several clips, one after the other.
        audio: ComfyUI's; of several clips as :func:`.clips.sounds_of` reads it.
        fps: pictures a second.

    Returns:
        Of each clip what becomes JSON: where the file is; its seconds; ``peaks``, lowest and highest sample of each column, of
        :data:`LOUDEST`.

    Raises:
        ValueError: a file cannot be written.
    """
    global _written  # noqa: PLW0603 - one for all nodes of the process
    wave, rate = audio["waveform"], int(audio["sample_rate"])
    if _written is None or not _written.is_of(images, wave, (fps, rate)):
        sounds = sounds_of(images, audio)
        parts = images[..., :3].movedim(-1, 1).chunk(len(sounds))
        clips = [_clip(part, Audio(one[None].float(), rate), fps) for part, one in zip(parts, sounds, strict=True)]
        _written = _Written(weakref.ref(images), weakref.ref(wave), (fps, rate), clips)
    return _written.clips


def watched(images: Tensor, audio: dict[str, Any], fps: float) -> dict[str, Any] | None:
    """What Harmony Decode sends to a browser that wants to play what it decodes; None where nobody does."""
    server = running_server()
    if server is None or not wants(server.client_id):
        return None
    try:
        return {"harmony_clips": clips_of(images, audio, fps)}
    except ValueError as error:
        # The clip itself is decoded and must not be lost.
        _log.warning("Harmony Decode cannot show the clip: %s", error)
        return None


def measured_clip(clip: dict[str, Any], found: Sync) -> dict[str, Any]:
    """A clip of :func:`clips_of` with what was measured of it: seconds of the part that was measured; times of the events
    seen and heard, seconds; which of them are partners; score and milliseconds the sound is late.
    """
    return {
        **clip,
        "measured": found.seconds,
        "seen": [round(float(time), 4) for time in found.seen.times],
        "heard": [round(float(time), 4) for time in found.heard.times],
        "pairs": [[int(i), int(j)] for i, j in found.events.pairs],
        "score": round(float(found.score), 4),
        "offset_ms": round(1000 * float(found.offset), 1),
        "clear": bool(found.clear),
    }


def _clip(pictures: Tensor, audio: Audio, fps: float) -> dict[str, Any]:
    name = f"harmony_{secrets.token_hex(8)}.mp4"
    write_video(
        Path(folder_paths.get_temp_directory()) / name,
        Video(2 * _small(pictures).movedim(1, 0)[None] - 1, fps),
        _stereo_at_most(audio),
        crf=23,
        preset="veryfast",
    )
    return {
        "filename": name,
        "subfolder": "",
        "type": "temp",
        "fps": fps,
        "seconds": max(len(pictures) / fps, audio.seconds),
        "peaks": peaks(audio),
        "heard_seconds": audio.seconds,
    }


def peaks(audio: Audio) -> list[list[int]]:
    """Lowest and highest sample of each of up to :data:`COLUMNS` columns, the loudest sample being :data:`LOUDEST`."""
    wave = audio.waveform[0].float().mean(0).cpu()
    wave = wave / wave.abs().max().clamp(min=1e-3) * LOUDEST
    columns = wave.tensor_split(min(COLUMNS, len(wave)))
    return [[round(float(column.min())), round(float(column.max()))] for column in columns]


def _small(pictures: Tensor) -> Tensor:
    """Of even sides, as mp4 needs them, and small enough to be sent often."""
    height, width = pictures.shape[2:]
    ratio = min(1.0, PREVIEW_SIDE / max(height, width))
    size = tuple(max(2, round(side * ratio / 2) * 2) for side in (height, width))
    parts = [part.float() for part in pictures.split(_PICTURES)]
    if size != (height, width):
        parts = [F.interpolate(part, size, mode="bilinear", antialias=True) for part in parts]
    return torch.cat(parts).clamp(0, 1)


def _stereo_at_most(audio: Audio) -> Audio:
    wave = audio.waveform.float()
    return Audio((wave if wave.shape[1] <= 2 else wave.mean(1, keepdim=True)).clamp(-1, 1), audio.sample_rate)

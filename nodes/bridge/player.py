"""What the player in the browser is given of a measured clip: a small mp4, its waveform, and its events as numbers."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

import folder_paths
import torch
import torch.nn.functional as F
from torch import Tensor

from ...harmony_core.measure.sync import Sync
from ...harmony_core.media.write import write_video
from ...harmony_core.types import Audio, Video

PREVIEW_SIDE = 512
"""Pixels of the preview's longer side, at most."""
COLUMNS = 600
"""Of the waveform, at most."""
LOUDEST = 127
"""What full scale is in the waveform."""

_PICTURES = 16  # made small at once

# F pictures, H and W pixels, C channels


def player_clip(found: Sync, pictures: Tensor, audio: Audio, fps: float) -> dict[str, Any]:
    """A clip for the player; it is written into ComfyUI's temp folder.

    Args:
        found: the measure of the clip.
        pictures: (F, 3, H, W) in [0, 1].
        audio: one sound (1, C, samples).
        fps: pictures a second.

    Returns:
        What becomes JSON: where the file is; seconds, of the file and of the part that was measured; ``peaks``, lowest and
        highest sample of each column, of :data:`LOUDEST`; times of the events seen and heard, seconds; which of them are
        partners; score and milliseconds the sound is late.

    Raises:
        ValueError: the file cannot be written.
    """
    name = f"harmony_{secrets.token_hex(8)}.mp4"
    small = _small(pictures)
    heard = _stereo_at_most(audio)
    write_video(
        Path(folder_paths.get_temp_directory()) / name,
        Video(2 * small.movedim(1, 0)[None] - 1, fps),
        heard,
        crf=23,
        preset="veryfast",
    )
    return {
        "filename": name,
        "subfolder": "",
        "type": "temp",
        "fps": fps,
        "seconds": max(len(pictures) / fps, audio.seconds),
        "measured": found.seconds,
        "peaks": peaks(audio),
        "heard_seconds": audio.seconds,
        "seen": [round(float(time), 4) for time in found.seen.times],
        "heard": [round(float(time), 4) for time in found.heard.times],
        "pairs": [[int(i), int(j)] for i, j in found.events.pairs],
        "score": round(float(found.score), 4),
        "offset_ms": round(1000 * float(found.offset), 1),
        "clear": bool(found.clear),
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

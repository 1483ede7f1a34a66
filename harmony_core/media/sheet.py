"""Clips on paper: pictures over the waveform over marks at events, all on one axis of time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..types import Audio, Video
from .pictures import Picture

Colour = tuple[int, int, int]

_COLUMNS = 12
_CELL = (128, 192)  # the largest height and width of a picture on a sheet
_WAVE_HEIGHT = 40
_MARK_HEIGHT = 10
_GAP = 6
_PAPER, _INK, _LINE = (255, 255, 255), (70, 90, 120), (200, 200, 200)
_HEAT = (1.0, -0.2, -1.0)  # orange in [-1, 1]
_HEAT_SHARE = 0.75


@dataclass(frozen=True)
class Mark:
    """A moment: seconds from the start of the clip, and a colour, 0 to 255."""

    time: float
    colour: Colour


def strip(video: Video, audio: Audio, rows: Sequence[Sequence[Mark]] = ()) -> Picture:
    """Pictures over waveform over rows of marks.

    Every picture is drawn where its instant is on the axis of time, so that a mark is right below what it marks.

    Args:
        video: one video, (1, 3, F, H, W), of any size; large pictures are drawn smaller.
        audio: its sound, at any rate; channels are averaged.
        rows: of marks, one below the other.

    Returns:
        (height, width, 3), 0 to 255.
    """
    frames = video.frames.shape[2]
    columns = min(_COLUMNS, frames)
    shown = ((torch.arange(columns) + 0.5) * frames / columns).long()
    top = np.concatenate(list(_cells(video.frames[0][:, shown])), axis=1)
    width = top.shape[1]
    middle = _wave_rows(audio.waveform[0].detach().float().mean(0).cpu().numpy(), width)
    below = []
    for row in rows:
        line = np.full((_MARK_HEIGHT, width, 3), _PAPER, np.uint8)
        for mark in row:
            x = int(mark.time / video.seconds * width)
            line[:, max(0, x - 1) : x + 2] = mark.colour
            middle[:, x : x + 1] = _LINE
        below.append(line)
    return np.concatenate([top, middle, *below])


def sheet(strips: Sequence[Picture]) -> Tensor:
    """Strips below each other, as a picture (1, 3, 1, H, W) in [-1, 1].

    Raises:
        ValueError: there are none.
    """
    if not strips:
        raise ValueError("a contact sheet shows at least one clip")
    width = max(part.shape[1] for part in strips)
    padded = [np.pad(part, ((0, _GAP), (0, width - part.shape[1]), (0, 0)), constant_values=255) for part in strips]
    drawn = torch.from_numpy(np.concatenate(padded)).permute(2, 0, 1).float() / 127.5 - 1
    return drawn[None, :, None]


def heated(video: Video, maps: Tensor, frame_stride: int) -> Video:
    """Pictures with a map over each: dimmed where it is low, towards orange where it is high.

    Args:
        video: one video, (1, 3, F, H, W).
        maps: (T, h, w) in [0, 1], one for each video latent; see :meth:`.sound_map.SoundMapRecorder.maps`.
        frame_stride: pictures that a latent after the first covers.
    """
    count, size = video.frames.shape[2], video.frames.shape[3:]
    latent = (torch.arange(count) + frame_stride - 1) // frame_stride  # the first covers one picture
    large = F.interpolate(maps[:, None].float(), size=tuple(size), mode="bilinear", align_corners=False)[latent, 0]
    heat = video.frames.new_tensor(_HEAT)[None, :, None, None, None]
    share = _HEAT_SHARE * large.to(video.frames)[None, None]
    dimmed = (video.frames + 1) * 0.6 - 1
    return Video(dimmed * (1 - share) + heat * share, video.fps)


def _cells(pictures: Tensor) -> list[Picture]:
    """(3, n, H, W) in [-1, 1] to pictures small enough for a sheet."""
    height, width = pictures.shape[2:]
    ratio = min(1.0, _CELL[0] / height, _CELL[1] / width)
    images = pictures.transpose(0, 1).detach().float().cpu()
    if ratio < 1:
        size = max(1, round(height * ratio)), max(1, round(width * ratio))
        images = F.interpolate(images, size=size, mode="bilinear", antialias=True, align_corners=False)
    drawn = ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return [image.permute(1, 2, 0).numpy() for image in drawn]


def _wave_rows(wave: np.ndarray[Any, np.dtype[np.float32]], width: int) -> Picture:
    """The waveform's extent in each column."""
    rows = np.full((_WAVE_HEIGHT, width, 3), _PAPER, np.uint8)
    edges = np.linspace(0, len(wave), width + 1).astype(int)
    half = _WAVE_HEIGHT / 2
    for column, (first, last) in enumerate(pairwise(edges)):
        piece = wave[first : max(last, first + 1)]
        low, high = (int(half - half * np.clip(value, -0.98, 0.98)) for value in (piece.max(), piece.min()))
        rows[low : high + 1, column] = _INK
    return rows

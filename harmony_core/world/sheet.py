"""Contact sheets: pictures of a clip over its waveform over marks at its events, all on one axis of time."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from .clip import Event, Pictures, Wave, WorldClip

_COLUMNS = 12
_WAVE_HEIGHT = 40
_MARK_HEIGHT = 10
_GAP = 6
_PAPER, _INK = (255, 255, 255), (70, 90, 120)
_MARKS = {"wood": (30, 76, 242), "stone": (12, 190, 56), "glass": (242, 38, 216), "": (40, 40, 40)}


def contact_sheet(clips: Sequence[WorldClip]) -> Tensor:
    """One strip for each clip, below each other, as a picture (1, 3, 1, H, W) in [-1, 1].

    Raises:
        ValueError: there are no clips.
    """
    if not clips:
        raise ValueError("a contact sheet shows at least one clip")
    strips = [strip(clip.pictures, clip.wave, clip.events, clip.spec.seconds) for clip in clips]
    width = max(part.shape[1] for part in strips)
    padded = [np.pad(part, ((0, _GAP), (0, width - part.shape[1]), (0, 0)), constant_values=255) for part in strips]
    sheet = torch.from_numpy(np.concatenate(padded)).permute(2, 0, 1).float() / 127.5 - 1
    return sheet[None, :, None]


def strip(pictures: Pictures, wave: Wave, events: Sequence[Event], seconds: float) -> Pictures:
    """Pictures over waveform over event marks, (H, W, 3).

    Every picture is drawn where its instant is on the axis of time, so that a mark is right below what it marks.

    Args:
        pictures: (F, H, W, 3), 0 to 255.
        wave: (samples,) in [-1, 1].
        events: marks; impacts in the colour of their material, openings of the mouth in black.
        seconds: length of the clip.
    """
    frames, height, width = pictures.shape[:3]
    columns = min(_COLUMNS, frames)
    shown = ((np.arange(columns) + 0.5) * frames / columns).astype(int)
    top = pictures[shown].transpose(1, 0, 2, 3).reshape(height, columns * width, 3)
    middle = _wave_rows(wave, columns * width)
    bottom = np.full((_MARK_HEIGHT, columns * width, 3), _PAPER, np.uint8)
    for event in events:
        x = int(event.time / seconds * columns * width)
        bottom[:, max(0, x - 1) : x + 2] = _MARKS[event.material]
        middle[:, x : x + 1] = (200, 200, 200)
    return np.concatenate([top, middle, bottom])


def _wave_rows(wave: Wave, width: int) -> Pictures:
    """The waveform's extent in each column."""
    rows = np.full((_WAVE_HEIGHT, width, 3), _PAPER, np.uint8)
    edges = np.linspace(0, len(wave), width + 1).astype(int)
    half = _WAVE_HEIGHT / 2
    for column, (first, last) in enumerate(pairwise(edges)):
        piece = wave[first : max(last, first + 1)]
        low, high = (int(half - half * np.clip(value, -0.98, 0.98)) for value in (piece.max(), piece.min()))
        rows[low : high + 1, column] = _INK
    return rows

"""Contact sheets of the world's clips, and the marks of its events."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ..media.sheet import Mark, sheet, strip
from .clip import WorldClip
from .trackers import Found

_COLOURS = {"wood": (30, 76, 242), "stone": (12, 190, 56), "glass": (242, 38, 216), "": (40, 40, 40)}
"""Of a mark: impacts have that of their material, openings of the mouth are black."""


def contact_sheet(clips: Sequence[WorldClip]) -> Tensor:
    """One strip for each clip, below each other, as a picture (1, 3, 1, H, W) in [-1, 1].

    Raises:
        ValueError: there are no clips.
    """
    return sheet([strip(clip.video, clip.audio, [_true_marks(clip)]) for clip in clips])


def marks(found: Found) -> list[Mark]:
    """Events that a tracker found, as marks."""
    return [Mark(float(time), _COLOURS[material]) for time, material in zip(found.times, found.materials, strict=True)]


def _true_marks(clip: WorldClip) -> list[Mark]:
    return [Mark(event.time, _COLOURS[event.material]) for event in clip.events]

"""What the sync measure found, in words and as a picture."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from ..media.pictures import Picture
from ..media.sheet import strip
from ..types import Audio, Video
from .envelopes import Curve
from .sync import FEWEST, Events, Sync

Colour = tuple[int, int, int]

_SHOWN = 12  # pictures
_CURVE_HEIGHT = 28
_JOIN_HEIGHT = 16
_PAPER: Colour = (255, 255, 255)
_SEEN: Colour = (188, 206, 236)
_HEARD: Colour = (240, 208, 176)
_MATCHED: Colour = (24, 140, 60)
_ALONE: Colour = (200, 40, 40)
_DIFFERENT = 0.05  # seconds by which lengths differ before it is said


def describe(found: Sync, *, seen_seconds: float, heard_seconds: float) -> str:
    """What was found, in a few sentences.

    Args:
        found: the measure of a clip.
        seen_seconds: length of its pictures.
        heard_seconds: length of its sound.
    """
    said = [_events(found)]
    if found.enough:
        said.append(_offset(found))
    if abs(seen_seconds - heard_seconds) > _DIFFERENT:
        lengths = f"The pictures last {seen_seconds:.2f} s, the sound {heard_seconds:.2f} s"
        said.append(f"{lengths}; the first {found.seconds:.2f} s were measured.")
    return " ".join(said)


def _events(found: Sync) -> str:
    if not len(found.heard) and not found.heard_curve.any():
        return "Score 0: the sound is silent, so there is nothing to compare the pictures with."
    if not len(found.seen) and not found.seen_curve.any():
        return "Score 0: nothing moves in the pictures, so there is nothing to compare the sound with."
    counts = f"events seen {len(found.seen)}, heard {len(found.heard)}"
    if not found.enough:
        return f"Score 0: too little happens to say anything ({counts}; it takes {FEWEST} of each)."
    events = found.events
    said = (
        f"Score {found.score:.2f}: {counts}, together {len(events.pairs)}; {events.share:.0%} of their weight matches, "
        f"of copies shifted in time {events.chance:.0%}."
    )
    if found.by_chance:
        said += f" This is no better than chance: {events.likely:.0%} of the shifted copies match as well."
    return said


def _offset(found: Sync) -> str:
    milliseconds = round(1000 * found.offset)
    side = "late" if milliseconds > 0 else "early"
    how = f"{abs(milliseconds)} ms {side}" if milliseconds else "neither late nor early"
    if found.clear:
        return f"The sound is {how} (agreement {found.agreement:.2f})."
    return f"The offset is not clear; at best the sound is {how} (agreement {found.agreement:.2f})."


def draw(found: Sync, pictures: Tensor, audio: Audio, fps: float) -> Picture:
    """Pictures over the waveform over what is seen and what is heard to happen.

    Both curves stand on one axis of time, seen above heard. A bar marks an event, green where it has a partner in the other
    curve, to which it is joined, and red where it has none.

    Args:
        found: the measure of the clip.
        pictures: (F, 3, H, W) in [0, 1].
        audio: one sound (1, C, samples).
        fps: pictures a second.

    Returns:
        (height, width, 3), 0 to 255.
    """
    count = max(1, round(found.seconds * fps))
    columns = min(_SHOWN, count)
    shown = pictures[((torch.arange(columns) + 0.5) * count / columns).long()].movedim(0, 1)[None].float().cpu() * 2 - 1
    heard = audio.waveform[:, :, : max(1, round(found.seconds * audio.sample_rate))]
    peak = heard.abs().max().clamp(min=1e-3)
    top = strip(Video(shown, columns / found.seconds), Audio(heard / peak, audio.sample_rate))
    width = top.shape[1]
    pairs = found.events.pairs
    seen_row = _curve(found.seen_curve, width, _SEEN)
    heard_row = _curve(found.heard_curve, width, _HEARD)[::-1].copy()
    seen_places = _bars(seen_row, found.seen, {i for i, _ in pairs}, found.seconds)
    heard_places = _bars(heard_row, found.heard, {j for _, j in pairs}, found.seconds)
    join = np.full((_JOIN_HEIGHT, width, 3), _PAPER, np.uint8)
    for i, j in pairs:
        xs = np.rint(np.linspace(seen_places[i], heard_places[j], _JOIN_HEIGHT)).astype(int)
        for y, x in enumerate(xs):
            join[y, max(0, x - 1) : x + 2] = _MATCHED
    return np.concatenate([top, seen_row, join, heard_row])


def _curve(values: Curve, width: int, colour: Colour) -> Picture:
    """A curve filled from below, its largest value at the top."""
    row = np.full((_CURVE_HEIGHT, width, 3), _PAPER, np.uint8)
    edges = np.linspace(0, len(values), width + 1).astype(int)
    strongest = max(float(values.max(initial=0)), 1e-9)
    for column, (first, last) in enumerate(pairwise(edges)):
        value = values[min(first, len(values) - 1) : max(last, first + 1)].max() / strongest
        height = round(value * (_CURVE_HEIGHT - 2))
        if height:
            row[-height:, column] = colour
    return row


def _bars(row: Picture, events: Events, matched: set[int], seconds: float) -> list[int]:
    """Mark events on a row; where they are."""
    places = [min(row.shape[1] - 1, int(time / seconds * row.shape[1])) for time in events.times]
    for number, x in enumerate(places):
        row[:, max(0, x - 1) : x + 2] = _MATCHED if number in matched else _ALONE
    return places

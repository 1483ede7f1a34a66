"""How well what is seen and what is heard of any clip go together, and how late the sound is.

Events are the peaks of the curves of :mod:`.envelopes`, each as weighty as it is strong. The score is the weight of those that
have a partner, less for one that is not quite at the same time, beyond what the same events find when those seen are shifted
round the clip: many events meet by chance, and that does not score. The offset is where the curves agree best within half a
second. How far both can be trusted is measured in ``bench/sync.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from ..types import Audio
from .envelopes import RATE, Curve, Seen, heard_curve, seen_curves
from .matching import match

TOLERANCE = 0.08
"""Seconds between a seen event and a heard one up to which they are partners; two pictures at 24 a second."""
REACH = 0.5
"""Seconds, the largest offset that is looked for."""
FEWEST = 2
"""Events of either stream below which nothing is said."""
SHORTEST = 0.5
"""Seconds a clip needs to be measured."""
UNLIKELY = 0.05
"""Share of shifted copies that may match as well without the match being called chance."""
CLEAR = 0.5
"""Agreement of the curves from which on an offset is trusted,"""
LEAD = 0.2
"""where it is so much higher than at every other offset."""

_LEAN = 0.05  # by how much hits agree better than starts before they are believed: starts are the rule
_NEAR = 0.07  # seconds between the two up to which they mean the same, which starts then tell more exactly
_PEAK_APART = 0.12  # seconds
_PEAK_LEAST = 0.2  # of the strongest peak
_PEAK_OVER_MEAN = 1.2  # times the mean of half a second around it
_APART = 0.5  # what a pair counts that is a whole tolerance apart
_COPIES = 200  # shifted ones, at most
_STEP = 0.02  # seconds between two of them, at least


@dataclass(frozen=True)
class Events:
    """Moments at which something happens.

    Attributes:
        times: (n,), seconds, ascending.
        strengths: (n,), shares of all.
    """

    times: Curve
    strengths: Curve

    def turned(self, shift: float, seconds: float) -> Events:
        """These, later by so many seconds, round a clip of that length."""
        times = (self.times + shift) % seconds
        order = np.argsort(times)
        return Events(times[order], self.strengths[order])

    def __len__(self) -> int:
        return len(self.times)


@dataclass(frozen=True, kw_only=True)
class Matched:
    """How much meets, beside chance.

    Attributes:
        share: of the events' weight that has a partner; 0 without events.
        chance: the same of shifted copies, on average.
        likely: share of shifted copies that match as well.
        pairs: matched events, indices into those seen and those heard.
    """

    share: float
    chance: float
    likely: float
    pairs: tuple[tuple[int, int], ...]

    @property
    def score(self) -> float:
        """0 at chance and below, 1 where every event has a partner at the same time."""
        return max(0.0, (self.share - self.chance) / (1 - self.chance)) if self.chance < 1 else 0.0


@dataclass(frozen=True, kw_only=True)
class Sync:
    """What was found.

    Attributes:
        events: how many events meet.
        offset: seconds the sound is late, early where negative; 0 where nothing is to be said.
        agreement: correlation of the curves at that offset, -1 to 1.
        lead: by how much it is higher there than at every other offset.
        seen: what is seen to happen.
        heard: what is heard to happen.
        seconds: length of the part that has pictures and sound.
        seen_curve: onset strength of the pictures, ``RATE`` a second.
        heard_curve: of the sound.
    """

    events: Matched
    offset: float
    agreement: float
    lead: float
    seen: Events
    heard: Events
    seconds: float
    seen_curve: Curve
    heard_curve: Curve

    @property
    def enough(self) -> bool:
        """Whether there are events enough to say anything."""
        return min(len(self.seen), len(self.heard)) >= FEWEST

    @property
    def score(self) -> float:
        """0 to 1: matched events beyond chance; 0 is chance, or nothing to say."""
        return self.events.score if self.enough else 0.0

    @property
    def by_chance(self) -> bool:
        """Whether the match is no better than chance gives."""
        return self.events.likely > UNLIKELY or self.score <= 0

    @property
    def clear(self) -> bool:
        """Whether the offset is to be trusted."""
        return self.enough and self.agreement >= CLEAR and self.lead >= LEAD


def measure_sync(pictures: Tensor, audio: Audio, fps: float) -> Sync:
    """Measure a clip.

    Args:
        pictures: (F, 3, H, W) in [0, 1].
        audio: one sound (1, C, samples), of any rate. What is longer than the other is not measured beyond it.
        fps: pictures a second.

    Raises:
        ValueError: less than half a second, or fewer than three pictures, of both.
    """
    seconds = min(len(pictures) / fps, audio.seconds)
    pictures = pictures[: max(1, round(seconds * fps))]
    if seconds < SHORTEST or len(pictures) < 3:
        raise ValueError(
            f"{seconds:.2f} s have both picture and sound, in {len(pictures)} pictures; sync is measured on {SHORTEST} s and "
            "3 pictures at least"
        )
    seconds = len(pictures) / fps
    curves, heard_strength = seen_curves(pictures, fps), heard_curve(audio, seconds)
    candidates = (curves.starts, curves.hits)
    found, heard = [peaks(curve) for curve in candidates], peaks(heard_strength)
    chosen, events = best_match(found, heard, seconds)
    offset = find_offset(curves, heard_strength)
    enough = min(len(found[chosen]), len(heard)) >= FEWEST
    return Sync(
        events=events,
        offset=offset.seconds if enough else 0.0,
        agreement=offset.agreement,
        lead=offset.lead,
        seen=found[chosen],
        heard=heard,
        seconds=seconds,
        seen_curve=candidates[chosen],
        heard_curve=heard_strength,
    )


def peaks(curve: Curve) -> Events:
    """The events of a curve.

    A peak is the strongest of its neighbourhood, stands out from the half second around it, and is not small beside the
    strongest of all.
    """
    strongest = curve.max(initial=0)
    if strongest <= 0:
        return Events(np.zeros(0), np.zeros(0))
    apart, around = round(_PEAK_APART * RATE) // 2, min(RATE // 4, len(curve) - 1)
    neighbours = np.lib.stride_tricks.sliding_window_view(np.pad(curve, apart), 2 * apart + 1).max(1)
    local = np.lib.stride_tricks.sliding_window_view(np.pad(curve, around, mode="reflect"), 2 * around + 1).mean(1)
    chosen = (curve >= neighbours) & (curve >= _PEAK_LEAST * strongest) & (curve >= _PEAK_OVER_MEAN * local)
    places = np.flatnonzero(chosen)
    places = places[np.diff(places, prepend=-apart - 1) > apart]
    return Events(places / RATE, curve[places] / curve[places].sum())


def best_match(seen: Sequence[Events], heard: Events, seconds: float) -> tuple[int, Matched]:
    """The candidate whose events match best, and what chance gives where it, too, may choose.

    Args:
        seen: each candidate's.
        heard: what is heard.
        seconds: length of the clip.

    Returns:
        The candidate's number, and its match.
    """

    def shares(shift: float) -> list[float]:
        return [_share(events.turned(shift, seconds), heard) for events in seen]

    here = shares(0.0)
    best = int(np.argmax(here))
    first, last = 2 * TOLERANCE, seconds - 2 * TOLERANCE
    count = min(_COPIES, max(1, int((last - first) / _STEP)))
    others = np.array([max(shares(shift)) for shift in np.linspace(first, last, count)])
    return best, Matched(
        share=here[best],
        chance=float(others.mean()),
        likely=float((others >= here[best]).mean()),
        pairs=match(seen[best].times, heard.times, TOLERANCE).pairs,
    )


@dataclass(frozen=True)
class Offset:
    """By how many seconds the sound is late, the correlation there, and by how much it is higher than anywhere else."""

    seconds: float
    agreement: float
    lead: float


def find_offset(seen: Seen, heard: Curve) -> Offset:
    """Where the curves of pictures and sound agree best."""
    starts, hits = _offset(seen.starts, heard), _offset(seen.hits, heard)
    if starts.agreement + _LEAN >= hits.agreement:
        return starts
    return replace(hits, seconds=starts.seconds) if abs(starts.seconds - hits.seconds) <= _NEAR else hits


def _offset(seen: Curve, heard: Curve) -> Offset:
    reach = min(round(REACH * RATE), len(seen) // 2)
    values = np.array([_overlap_correlation(seen, heard, shift) for shift in range(-reach, reach + 1)])
    best = int(values.argmax())
    shift = float(best - reach)
    if 0 < best < len(values) - 1:
        before, here, after = values[best - 1 : best + 2]
        bend = before - 2 * here + after
        shift += 0.5 * (before - after) / bend if bend < 0 else 0.0
    elsewhere = np.abs(np.arange(len(values)) - best) > _PEAK_APART * RATE
    second = float(values[elsewhere].max()) if elsewhere.any() else -1.0
    return Offset(shift / RATE, float(values[best]), float(values[best]) - second)


def _overlap_correlation(seen: Curve, heard: Curve, shift: int) -> float:
    """Correlation where the sound is moved ahead by so many moments."""
    a = seen[max(0, -shift) : len(seen) - max(0, shift)]
    b = heard[max(0, shift) : len(heard) + min(0, shift)]
    a, b = a - a.mean(), b - b.mean()
    size = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / size if size > 0 else 0.0


def _share(seen: Events, heard: Events) -> float:
    """Weight of the events that have a partner, of all; less for partners that are apart."""
    total = 0.0
    for i, j in match(seen.times, heard.times, TOLERANCE).pairs:
        apart = abs(seen.times[i] - heard.times[j]) / TOLERANCE
        total += (1 - (1 - _APART) * apart**2) * (seen.strengths[i] + heard.strengths[j]) / 2
    return float(total)

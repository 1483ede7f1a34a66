"""What was seen and heard of every source, clip by clip, and the figures made of it.

Pictures and sound are let go of as soon as they are judged; what is kept of a clip is a few kilobytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from torch import Tensor

from ...world.clip import Floats, Kind, WorldClip
from ...world.dataset import Voices
from ...world.evaluation import Figures, derangement
from ...world.metrics import Fractions, Heard, Interval, Seen, compare, compare_shuffled, intervals
from .maps import Targets, fixed_figures, shuffled_figures
from .plan import FLOOR, HEADLINE, ROWS, TASKS, TRUTH, Row

_RESAMPLES = 1000


@dataclass
class Record:
    """Of one kind of clips: by source, one entry a clip.

    Attributes:
        clips: the truth, without its pictures and sound, by voices.
        seen: what the pictures show.
        heard: what the sound holds.
        maps: sound-source maps, (T, rows, columns) each.
        targets: what sounds, for the maps.
        map_figures: of the maps.
    """

    clips: dict[Voices, list[WorldClip]] = field(default_factory=dict)
    seen: dict[str, list[Seen]] = field(default_factory=dict)
    heard: dict[str, list[Heard]] = field(default_factory=dict)
    maps: dict[str, list[Tensor]] = field(default_factory=dict)
    targets: dict[str, list[Targets]] = field(default_factory=dict)
    map_figures: dict[str, list[Fractions]] = field(default_factory=dict)

    def add_truth(self, voices: Voices, clip: WorldClip) -> None:
        """Remember a true clip for what it is held against: events, words, reference."""
        light = replace(clip, pictures=clip.pictures[:0], wave=clip.wave[:0])
        self.clips.setdefault(voices, []).append(light)

    def fractions(self, row: Row, seed: int) -> list[Fractions]:
        """Every measure of a row, clip by clip; ``events_seen`` and ``events_heard`` are impacts, in talk openings."""
        clips, seen, heard = self.clips[row.voices], self.seen[row.seen], self.heard[row.heard]
        if row.shuffled:
            order = derangement(len(heard), seed)
            heard = [heard[other] for other in order]
            others = [clips[other] for other in order]
            found = [compare_shuffled(s, h, c, o) for s, h, c, o in zip(seen, heard, clips, others, strict=True)]
        else:
            found = [compare(s, h, c) for s, h, c in zip(seen, heard, clips, strict=True)]
        if row.only:
            return [{name: one[name] for name in row.only} for one in found]
        counts = [_counts(s, h, c) for s, h, c in zip(seen, heard, clips, strict=True)]
        return [one | count for one, count in zip(found, counts, strict=True)]

    def map_fractions(self, source: str, seed: int, cell: int) -> list[Fractions]:
        """Every measure of a source's maps, clip by clip; none where it has no maps."""
        if source not in self.maps:
            return []
        maps, targets = self.maps[source], self.targets[source]
        shuffled = shuffled_figures(maps, targets, derangement(len(maps), seed), cell)
        fixed = fixed_figures(targets, maps[0].shape[1], maps[0].shape[2], cell)
        return [one | two | three for one, two, three in zip(self.map_figures[source], shuffled, fixed, strict=True)]


def gather(rows: Mapping[str, Row], record: Record, *, seed: int, cell: int) -> dict[str, list[Fractions]]:
    """Every measure of every row, clip by clip.

    Args:
        rows: of the table.
        record: what was seen and heard.
        seed: of shuffles.
        cell: pixels a map's cell covers.
    """
    found = {name: record.fractions(row, seed) for name, row in rows.items()}
    for name, row in rows.items():
        maps = record.map_fractions(name, seed, cell) if name in TASKS and not row.only else []
        if maps:
            found[name] = [one | two for one, two in zip(found[name], maps, strict=True)]
    return found


def figures_of(kind: Kind, fractions: Mapping[str, Sequence[Fractions]], *, seed: int) -> dict[str, Figures]:
    """Figures of every row with their intervals, and what is derived from several rows.

    Derived: ``<figure>_share``, the headline figure's share of the way from the shuffled to the true pairs, and
    ``<figure>_gain``, what SyncCFG adds to it. Both are taken over the same clips, resampled together.

    Args:
        kind: of the clips.
        fractions: by row, clip by clip.
        seed: of bootstraps.
    """
    figures = {name: intervals(found, seed=seed) for name, found in fractions.items()}
    headline = HEADLINE[kind]
    for name in fractions:
        if is_judged(name):
            voices = ROWS[name].voices
            compared = [fractions[other] for other in (name, FLOOR[voices], TRUTH[voices])]
            figures[name][f"{headline}_share"] = together(_share, compared, headline, seed=seed)
        plain = name.removesuffix("_sync_cfg")
        if plain != name and plain in fractions:
            figures[name][f"{headline}_gain"] = together(_gain, [fractions[name], fractions[plain]], headline, seed=seed)
    return figures


def is_judged(name: str) -> bool:
    """Whether a row is one to judge, and neither a floor, a ceiling, nor an anchor's."""
    return name in ROWS and not ROWS[name].only and (name in TASKS or name.startswith("codec"))


def together(combine: Callable[..., Floats], rows: Sequence[Sequence[Fractions]], name: str, *, seed: int = 0) -> Interval:
    """One figure made of several rows of the same clips, with a bootstrap that resamples the clips of all rows alike.

    Args:
        combine: makes the figure of each row's value; given arrays, one value a resample.
        rows: fractions clip by clip.
        name: of the figure that is combined.
        seed: of the bootstrap.
    """
    table = np.array([[clip.get(name, (0.0, 0.0)) for clip in row] for row in rows], dtype=np.float64)
    count = table.shape[1]
    draws = np.random.default_rng(seed).integers(count, size=(_RESAMPLES, count))
    with np.errstate(divide="ignore", invalid="ignore"):
        whole = table.sum(axis=1, keepdims=True)
        top, bottom = np.moveaxis(np.concatenate([whole, table[:, draws].sum(axis=2)], axis=1), -1, 0)
        values = combine(*(top / bottom))
    finite = values[1:][np.isfinite(values[1:])]
    if not np.isfinite(values[0]) or not len(finite):
        return Interval(float("nan"), float("nan"), float("nan"), 0)
    low, high = np.percentile(finite, [2.5, 97.5])
    return Interval(float(values[0]), float(low), float(high), count)


def _counts(seen: Seen, heard: Heard, clip: WorldClip) -> Fractions:
    """Events a clip: scores of pictures without any, beside sound without any, are no scores at all."""
    if clip.kind == "talk":
        return {"events_seen": (len(seen.releases), 1.0), "events_heard": (len(heard.releases), 1.0)}
    return {"events_seen": (len(seen.impacts.times), 1.0), "events_heard": (len(heard.impacts.times), 1.0)}


def _share(value: Floats, floor: Floats, ceiling: Floats) -> Floats:
    return np.asarray((value - floor) / (ceiling - floor))


def _gain(value: Floats, plain: Floats) -> Floats:
    return np.asarray(value - plain)

"""Which clips a step has: a function of the config, seed and step alone, so that a resumed run and every process find the same.

Clips of one source (a folder) and one bucket (a shape) are a *cell*. A batch comes from one bucket. Which, and how many clips
of it come from which source, is not drawn but dealt: every cell gets its share of the clips as nearly as whole batches allow,
at every step and not only in the long run. Inside a cell every clip comes once an epoch, in an order of its own each time;
nothing is left over, as the batch at an epoch's end goes on with the next one's beginning.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch

from .draws import ORDER_STREAM, generator

PERMUTATIONS = 64
"""Orders of cells that are remembered: one or two for each cell that is drawn from."""
EVEN = 8
"""Batches found from a budget of tokens are multiples of this where they are as large: they divide among processes."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """Clips of one source and one bucket.

    Attributes:
        source: number of the source.
        clips: their numbers.
        weight: of the clips drawn in the stage, the share that are of this cell, before the weights are brought to a sum of 1.
    """

    source: int
    clips: tuple[int, ...]
    weight: float


@dataclass(frozen=True, kw_only=True)
class Bucket:
    """Clips of one shape.

    Attributes:
        number: of the bucket.
        batch: clips a step.
        cells: by source; none is empty.
    """

    number: int
    batch: int
    cells: tuple[Cell, ...]

    @property
    def weight(self) -> float:
        """Of all its cells."""
        return sum(cell.weight for cell in self.cells)


@dataclass(frozen=True, kw_only=True)
class StageOrder:
    """What is drawn from in some steps.

    Attributes:
        steps: how many.
        buckets: one or more.
    """

    steps: int
    buckets: tuple[Bucket, ...]


class Order:
    """The clips of every step of a run."""

    def __init__(self, stages: Sequence[StageOrder], seed: int) -> None:
        """Nothing is drawn yet; steps are found from the first on, which for a million of them takes seconds, once."""
        self._stages, self._seed = tuple(stages), seed
        self._several = len({(b.number, c.source) for stage in stages for b in stage.buckets for c in b.cells}) > 1
        self._rewind()

    def clips(self, step: int) -> list[int]:
        """Numbers of the clips of a step, counted over the whole run from 0; all of one bucket."""
        if step < self._next:
            self._rewind()
        while self._next < step:
            self._deal()
        before = dict(self._drawn)
        bucket, counts = self._deal()
        picked: list[tuple[float, int, int]] = []
        for cell, count in zip(bucket.cells, counts, strict=True):
            first = before.get((bucket.number, cell.source), 0)
            # Spread evenly over the batch, so that every part of it, on every process, is mixed alike.
            picked += [((n + 0.5) / count, cell.source, self._clip(bucket, cell, first + n)) for n in range(count)]
        return [clip for *_, clip in sorted(picked, key=lambda place: place[:2])]

    def _rewind(self) -> None:
        self._next, self._stage, self._left = 0, 0, self._stages[0].steps
        self._drawn: dict[tuple[int, int], int] = {}
        self._dealt: dict[tuple[int, int], int] = {}  # likewise, in this stage

    def _deal(self) -> tuple[Bucket, list[int]]:
        """Go one step on; the bucket it has and how many clips of each of its cells."""
        if self._left == 0:
            if self._stage + 1 == len(self._stages):
                raise IndexError(f"the run has {self._next} steps")
            self._stage += 1
            self._left, self._dealt = self._stages[self._stage].steps, {}
        buckets = self._stages[self._stage].buckets
        had = {b.number: [self._dealt.get((b.number, cell.source), 0) for cell in b.cells] for b in buckets}
        # The bucket whose next batch is due first at the rate of its weight.
        bucket = min(buckets, key=lambda b: (sum(had[b.number]) + b.batch) / b.weight)
        counts = shared(bucket.batch, [cell.weight for cell in bucket.cells], had[bucket.number])
        for cell, count in zip(bucket.cells, counts, strict=True):
            key = bucket.number, cell.source
            self._dealt[key] = self._dealt.get(key, 0) + count
            self._drawn[key] = self._drawn.get(key, 0) + count
        self._next, self._left = self._next + 1, self._left - 1
        return bucket, counts

    def _clip(self, bucket: Bucket, cell: Cell, place: int) -> int:
        """The clip at a place of the cell's own endless order."""
        epoch, within = divmod(place, len(cell.clips))
        # A cell that is the only one has the order of a run of one folder: runs of older versions go on as they were.
        which = (bucket.number, cell.source) if self._several else ()
        return cell.clips[_permutation(len(cell.clips), self._seed, epoch, *which)[within]]


def order(count: int, step: int, batch: int, seed: int) -> list[int]:
    """The clips of a step of a run with one cell: every clip once an epoch; a batch may span epochs."""
    clips: list[int] = []
    for place in range(step * batch, (step + 1) * batch):
        epoch, within = divmod(place, count)
        clips.append(_permutation(count, seed, epoch)[within])
    return clips


@lru_cache(maxsize=PERMUTATIONS)
def _permutation(count: int, seed: int, epoch: int, *which: int) -> list[int]:
    return torch.randperm(count, generator=generator(seed, epoch, ORDER_STREAM, *which)).tolist()


def shared(batch: int, weights: Sequence[float], had: Sequence[int]) -> list[int]:
    """Deal ``batch`` clips so that, with those dealt before, every weight has its share to within one clip.

    Args:
        batch: how many.
        weights: positive.
        had: clips dealt before.
    """
    if len(weights) == 1:
        return [batch]
    total, whole = sum(weights), sum(had) + batch
    due = [weight / total * whole - n for weight, n in zip(weights, had, strict=True)]
    counts = [max(0, math.floor(value) - 1) for value in due]
    while sum(counts) > batch:
        counts[max(range(len(counts)), key=lambda n: counts[n] - due[n])] -= 1
    while sum(counts) < batch:
        counts[max(range(len(counts)), key=lambda n: due[n] - counts[n])] += 1
    return counts


def arranged(
    clips: Mapping[tuple[int, int], Sequence[int]], shares: Sequence[float], batches: Mapping[int, int]
) -> tuple[Bucket, ...]:
    """Cells with the weights that give every source its share.

    Args:
        clips: by bucket and source.
        shares: of the sources; those without a clip are passed over.
        batches: clips a step, by bucket.
    """
    sizes = [sum(len(some) for (_, source), some in clips.items() if source == n) for n in range(len(shares))]
    cells: dict[int, list[Cell]] = {}
    for (bucket, source), some in sorted(clips.items()):
        if some:
            weight = shares[source] * len(some) / sizes[source]
            cells.setdefault(bucket, []).append(Cell(source=source, clips=tuple(some), weight=weight))
    return tuple(Bucket(number=n, batch=batches[n], cells=tuple(found)) for n, found in cells.items())


def clips_for(budget: int, tokens: int) -> int:
    """How many clips a budget of tokens a step is enough for: a multiple of 8, and below that 4, 2 or 1.

    Args:
        budget: tokens a step.
        tokens: of one clip.

    Raises:
        ValueError: not even for one.
    """
    count = budget // tokens
    if count < 1:
        raise ValueError(f"stage.tokens {budget} is less than one clip has, {tokens}")
    return count - count % EVEN if count >= EVEN else 1 << (count.bit_length() - 1)

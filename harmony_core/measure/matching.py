"""Compare two lists of event times."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Match:
    """Pairs of indices into two lists, and the lengths of the lists."""

    pairs: tuple[tuple[int, int], ...]
    first: int
    second: int


def match(first: Floats, second: Floats, tolerance: float) -> Match:
    """Pair as many times as possible one to one, none further apart than ``tolerance`` seconds.

    Both lists ascend; taking each time's earliest partner in turn is then the best there is.
    """
    pairs = []
    i = j = 0
    while i < len(first) and j < len(second):
        if abs(first[i] - second[j]) <= tolerance:
            pairs.append((i, j))
            i, j = i + 1, j + 1
        elif first[i] < second[j]:
            i += 1
        else:
            j += 1
    return Match(tuple(pairs), len(first), len(second))


def nearest_offsets(first: Floats, second: Floats, reach: float) -> Floats:
    """Second minus first for every time of the first list that has a partner within ``reach`` seconds, (n,)."""
    if not len(first) or not len(second):
        return np.zeros(0)
    offsets = second[None, :] - first[:, None]
    nearest = offsets[np.arange(len(first)), np.abs(offsets).argmin(axis=1)]
    return np.asarray(nearest[np.abs(nearest) <= reach])


def f1(matched: float, first: float, second: float) -> float:
    """Harmonic mean of precision and recall; NaN where there is nothing to find and nothing was found."""
    return 2 * matched / (first + second) if first + second else float("nan")

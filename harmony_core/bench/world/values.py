"""What was measured of every clip, in a file, so that a measurement can be shared out among processes and put together again.

A figure is a sum over clips, so that the clips of several parts make the very figures of one run; shuffled pairs, and the one
cell that serves maps best, are of clips of the same part.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from ...atomic import replacing
from ...inputs import named, read_text
from ...world.clip import Kind
from ...world.evaluation import Figures
from ...world.metrics import Fractions, intervals
from .plan import FLOOR, HEADLINE, ROWS, TASKS, TRUTH
from .record import figures_of, is_judged

Values = dict[str, dict[str, list[Fractions]]]
"""By kind (or ``anchors``) and row, clip by clip."""

_MOST = 1 << 31
LARGEST_PART = 1 << 28
"""Bytes of such a file."""
_OF_A_PART = {"first", "clips", "first_seed", "ranges", "batch", "device", "versions", "seconds", "wall_seconds"}


@dataclass(frozen=True)
class Part:
    """A measurement of some clips: what was measured and how, and the values."""

    meta: Mapping[str, Any]
    values: Values


def write_part(path: Path, part: Part) -> None:
    """Write a part as JSON.

    Raises:
        ValueError: the file cannot be written.
    """
    columns = {
        kind: {row: {name: [clip.get(name) for clip in clips] for name in _names(clips)} for row, clips in rows.items()}
        for kind, rows in part.values.items()
    }
    with replacing(path) as temporary:
        temporary.write_text(json.dumps({"meta": part.meta, "values": columns}, allow_nan=False) + "\n", encoding="utf-8")


def read_part(path: Path) -> Part:
    """Read what :func:`write_part` wrote.

    Raises:
        ValueError: the file is missing or holds something else.
    """
    text = read_text(path, most=LARGEST_PART)
    try:
        record = json.loads(text)
        values = {kind: {row: _clips(columns) for row, columns in rows.items()} for kind, rows in record["values"].items()}
        part = Part(dict(record["meta"]), values)
        _check(part)
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        raise ValueError(f"{named(path)} holds no values of clips, as evaluate --values writes them") from error
    return part


def _check(part: Part) -> None:
    """Whether it can be summed and shown.

    Raises:
        ValueError: it lacks something, or has something else in its place.
    """
    numbers = [part.meta[name] for name in ("first", "clips", "seed", "steps")]
    texts = [part.meta[name] for name in ("split", "sampler")]
    if not all(type(number) is int and 0 <= number < _MOST for number in numbers) or not all(isinstance(t, str) for t in texts):
        raise ValueError(part.meta)
    for kind, rows in part.values.items():
        if kind == "anchors":
            continue
        known = {*ROWS, *(f"{row}_shuffled" for row in TASKS)}
        judged = {other for row in rows if is_judged(row) for other in (FLOOR[ROWS[row].voices], TRUTH[ROWS[row].voices])}
        if kind not in HEADLINE or not set(rows) <= known or not judged <= set(rows):
            raise ValueError(kind)
        if len({len(clips) for clips in rows.values()}) > 1:
            raise ValueError(kind)


def merge(parts: Sequence[Part]) -> Part:
    """Parts of one measurement as one.

    Raises:
        ValueError: they were measured in different ways, of different rows, or have clips in common.
    """
    parts = sorted(parts, key=lambda part: int(part.meta["first"]))
    one = parts[0]
    for other in parts[1:]:
        differing = sorted(
            key for key in (set(one.meta) | set(other.meta)) - _OF_A_PART if one.meta.get(key) != other.meta.get(key)
        )
        if differing:
            raise ValueError(f"these parts are not of one measurement, their {', '.join(differing)} differ")
        if {kind: set(rows) for kind, rows in one.values.items()} != {kind: set(rows) for kind, rows in other.values.items()}:
            raise ValueError("these parts are not of one measurement, they have other rows")
    ranges = [[int(part.meta["first"]), int(part.meta["clips"])] for part in parts]
    for (first, count), (after, _) in pairwise(ranges):
        if first + count > after:
            raise ValueError(f"these parts have clips in common, from number {after} on")
    values = {
        kind: {row: [clip for part in parts for clip in part.values[kind][row]] for row in rows}
        for kind, rows in one.values.items()
    }
    return Part({**one.meta, "clips": sum(count for _, count in ranges), "ranges": ranges}, values)


def tables_of(part: Part) -> dict[str, dict[str, Figures]]:
    """Figures by kind and row."""
    seed = int(part.meta["seed"])
    return {kind: _figures(kind, rows, seed) for kind, rows in part.values.items()}


def _figures(kind: str, rows: Mapping[str, Sequence[Fractions]], seed: int) -> dict[str, Figures]:
    if kind == "anchors":
        return {name: intervals(clips, seed=seed) for name, clips in rows.items() if clips}
    measured: Kind = kind  # type: ignore[assignment]  # all others are kinds
    return figures_of(measured, rows, seed=seed)


def _names(clips: Sequence[Fractions]) -> list[str]:
    return list(dict.fromkeys(name for clip in clips for name in clip))


def _clips(columns: Mapping[str, Sequence[Sequence[float] | None]]) -> list[Fractions]:
    count = max(map(len, columns.values()), default=0)
    clips: list[Fractions] = [{} for _ in range(count)]
    for name, column in columns.items():
        for clip, fraction in zip(clips, column, strict=True):
            if fraction is not None:
                top, bottom = fraction
                clip[name] = float(top), float(bottom)
                if not all(map(math.isfinite, clip[name])):
                    raise ValueError(name)
    return clips

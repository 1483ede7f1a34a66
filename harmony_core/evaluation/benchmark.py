"""A list of items through a generator and the metrics; every item's result is a file, so that a run can be cut anywhere."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..atomic import replacing
from ..media import probe, read_audio, read_video
from ..progress import Progress
from .clip_metrics import measure_clip
from .generators import Generator
from .items import Item

RESULTS, CLIPS = "results", "clips"
RESAMPLES = 2000


@dataclass(frozen=True, kw_only=True)
class Result:
    """What became of an item.

    Attributes:
        item: that was asked for.
        clip: the file; empty where there is none.
        figures: what was measured.
        error: why there is no clip, or none that can be measured.
    """

    item: Item
    clip: str = ""
    figures: Mapping[str, float] = field(default_factory=dict)
    error: str = ""


@dataclass(frozen=True)
class Mean:
    """A mean over items with its 95 % bootstrap interval."""

    value: float
    low: float
    high: float
    count: int


def run(items: Sequence[Item], generator: Generator, out: Path, *, progress: Progress | None = None) -> list[Result]:
    """Make and measure what has no result yet; an item that cannot be made is a result, too.

    Args:
        items: of one list.
        generator: makes their clips.
        out: folder of the results.
        progress: called after each item.

    Raises:
        ValueError: the folder cannot be written, or holds results of another list.
    """
    try:
        for part in (RESULTS, CLIPS):
            (out / part).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"cannot make folders in {out}: {error.strerror or error}") from error
    found = {result.item.id: result for result in read_results(out)}
    for number, item in enumerate(items):
        known = found.get(item.id)
        if known is not None and known.item != item:
            raise ValueError(
                f"{out} holds results of another list: its item {item.id} asks for something else; name another folder"
            )
        if known is None or known.error:
            found[item.id] = _one(item, number, generator, out)
        if progress is not None:
            progress(number + 1, len(items))
    return [found[item.id] for item in items]


def read_results(out: Path) -> list[Result]:
    """The results in a folder, in the order of their ids.

    Raises:
        ValueError: a file is none.
    """
    return [_read(path) for path in sorted((out / RESULTS).glob("*.json"))]


def _read(path: Path) -> Result:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        figures = {str(name): float(value) for name, value in record["figures"].items()}
        return Result(item=Item(**record["item"]), clip=str(record["clip"]), figures=figures, error=str(record["error"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} is no result of this command ({str(error)[:120]}); remove it") from error


def means(results: Sequence[Result], *, seed: int = 0) -> dict[str, Mean]:
    """Each figure over the items that have it."""
    names = dict.fromkeys(name for result in results for name in result.figures)
    return {name: _mean([r.figures[name] for r in results if name in r.figures], seed) for name in names}


def differences(first: Sequence[Result], second: Sequence[Result], *, seed: int = 0) -> dict[str, Mean]:
    """Each figure of the second less that of the first, item by item, over those that both have.

    Raises:
        ValueError: they have no item in common.
    """
    before = {result.item.id: result for result in first}
    pairs = [(before[r.item.id], r) for r in second if r.item.id in before]
    if not pairs:
        raise ValueError("the two have no item in common: they are of different lists")
    names = dict.fromkeys(name for _, b in pairs for name in b.figures)
    gained = {
        name: [b.figures[name] - a.figures[name] for a, b in pairs if {name} <= a.figures.keys() & b.figures.keys()]
        for name in names
    }
    return {name: _mean(values, seed) for name, values in gained.items() if values}


def _mean(values: Sequence[float], seed: int) -> Mean:
    table = np.asarray(values, dtype=np.float64)
    drawn = table[np.random.default_rng(seed).integers(len(table), size=(RESAMPLES, len(table)))].mean(axis=1)
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Mean(float(table.mean()), float(low), float(high), len(table))


def _one(item: Item, number: int, generator: Generator, out: Path) -> Result:
    try:
        clip = generator.clip(item, out / CLIPS / f"{item.id}.mp4", number)
        result = Result(item=item, clip=str(clip), figures=_measured(clip))
    except ValueError as error:
        result = Result(item=item, error=str(error)[:400])
    record: dict[str, Any] = {"item": dataclasses.asdict(item), "clip": result.clip, "figures": dict(result.figures)}
    with replacing(out / RESULTS / f"{item.id}.json") as temporary:
        temporary.write_text(json.dumps({**record, "error": result.error}, ensure_ascii=False, indent=1), encoding="utf-8")
    return result


def _measured(path: Path) -> dict[str, float]:
    info = probe(path)
    if info.video is None or info.still:
        raise ValueError(f"{path} has no moving pictures")
    figures = measure_clip(read_video(path), None if info.audio is None else read_audio(path))
    return {name: value for name, value in figures.items() if math.isfinite(value)}

"""Stages of items, each with a budget of time; every item's result is on the disk before the next begins.

GPU time comes in short pieces, so a run can be cut at any second and goes on where it ended: items that have a result are not
run again. An item that fails is a result, too, and the next one runs.
"""

from __future__ import annotations

import json
import logging
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ...atomic import replacing

log = logging.getLogger(__name__)

Figures = Mapping[str, Any]
"""Numbers and words by name, as JSON has them."""
LONGEST_ERROR = 400


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where items run.

    Attributes:
        device: to prove or to measure.
        small: a rehearsal: shapes small enough for a CPU; figures of speed mean nothing then.
    """

    device: torch.device
    small: bool = False

    @property
    def name(self) -> str:
        """What the device is called."""
        if self.device.type == "cuda":
            return str(torch.cuda.get_device_name(self.device))
        return self.device.type


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Items that belong together, in order of worth.

    Attributes:
        name: of the stage.
        minutes: after which no further item is begun.
        items: by name; each gives its figures.
        needs: GiB of memory on a GPU below which the stage is left out.
    """

    name: str
    minutes: float
    items: Mapping[str, Callable[[Place], Figures]]
    needs: float = 0.0


def run_stages(
    stages: Sequence[Stage], place: Place, out: Path, *, minutes: float | None = None, told: Callable[[str], None] = log.info
) -> bool:
    """Run what has no result yet.

    Args:
        stages: in order of worth.
        place: to run on.
        out: folder of the results, one file a stage and device.
        minutes: for all stages together; by default the sum of theirs.
        told: gets a line an item.

    Returns:
        Whether every item of every stage has a result without an error.

    Raises:
        ValueError: the folder cannot be written, or a result in it cannot be read.
    """
    end = time.monotonic() + 60 * (sum(stage.minutes for stage in stages) if minutes is None else minutes)
    whole = True
    for stage in stages:
        whole &= _run(stage, place, out, min(end, time.monotonic() + 60 * stage.minutes), told)
    return whole


def results(out: Path, stage: str, place: Place) -> dict[str, Any]:
    """What a stage has found on a device so far.

    Raises:
        ValueError: its file cannot be read.
    """
    path = _file(out, stage, place)
    if not path.is_file():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8"))["items"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no result of this command ({error}); move it away") from error


def _run(stage: Stage, place: Place, out: Path, end: float, told: Callable[[str], None]) -> bool:
    found = results(out, stage.name, place)
    lacking = _lacking(stage, place)
    if lacking:
        told(f"{stage.name}: left out, {lacking}")
        return False
    for name, item in stage.items.items():
        if name in found and "error" not in found[name]:
            continue
        if time.monotonic() >= end:
            told(f"{stage.name}: the time is over before {name}; run it again to go on")
            return False
        begun = time.monotonic()
        found[name] = {**_one(item, place), "seconds": round(time.monotonic() - begun, 2)}
        _write(_file(out, stage.name, place), found, place)
        told(f"{stage.name} {name}: {_line(found[name])}")
    return all("error" not in found[name] for name in stage.items)


def _one(item: Callable[[Place], Figures], place: Place) -> dict[str, Any]:
    try:
        return dict(item(place))
    except Exception as error:  # whatever goes wrong in one item is its result, and the next one runs
        where = traceback.extract_tb(error.__traceback__)[-1]
        text = f"{type(error).__name__}: {error}"[:LONGEST_ERROR]
        return {"error": text, "where": f"{Path(where.filename).name}, line {where.lineno}"}
    finally:
        if place.device.type == "cuda":
            torch.cuda.empty_cache()


def _lacking(stage: Stage, place: Place) -> str:
    if place.small or place.device.type != "cuda":
        return ""
    have = torch.cuda.mem_get_info(place.device)[1] / 2**30
    return f"it needs {stage.needs:g} GiB, {place.name} has {have:.0f}" if have < stage.needs else ""


def _file(out: Path, stage: str, place: Place) -> Path:
    device = "".join(c if c.isalnum() else "-" for c in place.name.lower())
    return out / f"{stage}-{device}{'-small' if place.small else ''}.json"


def _write(path: Path, found: Mapping[str, Any], place: Place) -> None:
    record = {
        "device": place.name,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "small": place.small,
        "items": found,
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"cannot make the folder {path.parent}: {error.strerror or error}") from error
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def _line(result: Mapping[str, Any]) -> str:
    return ", ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in result.items())

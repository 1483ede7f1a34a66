"""The config kept beside a run's checkpoints, and the check that a resumed run is still the same run."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..atomic import replacing
from ..inputs import exists, named, read_text
from ..records import to_record
from ..shown import shown
from .config import AnyRun, to_run

CONFIG = "config.json"
LARGEST_RECORD = 1 << 20
SHOWN = 5
"""Fields that a message names."""
FREE = {"run.output", "run.save_every", "run.keep", "run.threads", "run.device", "run.sharding", "run.timeout_minutes"}
"""Fields that do not change what is learned."""


def write_record(config: AnyRun, output: Path) -> None:
    """Keep the config.

    Raises:
        ValueError: the folder cannot be made or written to.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"cannot make the folder {named(output)}: {error.strerror or error}") from error
    with replacing(output / CONFIG) as temporary:
        temporary.write_text(json.dumps(to_record(config), indent=2), encoding="utf-8")


def check_same(config: AnyRun, output: Path) -> None:
    """Refuse to resume a run with another config.

    Raises:
        ValueError: there is no run, or fields that matter differ; they are named.
    """
    path = output / CONFIG
    if not exists(path):
        raise ValueError(f"there is no run to resume in {named(output)}")
    try:
        before = json.loads(read_text(path, most=LARGEST_RECORD))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{named(path)} cannot be read: {shown(str(error))}") from error
    now = _plain(config)
    with contextlib.suppress(ValueError):  # a run of an older version lacks fields that are new: they were as by default
        before = _plain(to_run(before))
    differing = sorted(set(_differences(before, now, "")) - FREE)
    if differing:
        more = f" and {len(differing) - SHOWN} more" if len(differing) > SHOWN else ""
        listed = ", ".join(shown(field, 60) for field in differing[:SHOWN])
        raise ValueError(f"the run in {named(output)} has another config, in {listed}{more}; change it back or start a new run")


def _plain(config: AnyRun) -> Any:
    return json.loads(json.dumps(to_record(config)))


def _differences(a: Any, b: Any, where: str) -> Iterator[str]:
    if isinstance(a, dict) and isinstance(b, dict):
        for key in {**a, **b}:
            yield from _differences(a.get(key), b.get(key), f"{where}.{key}".lstrip("."))
    elif a != b:
        yield where

"""Whether sound-source maps point at what sounds (Figure 6 of the paper, made a number).

Of every event the map's strongest cell, in the video latent of the event's moment, should lie on the ball that strikes or the
mouth that opens. Where pictures were given, the object's place is the truth's. Where they were generated, it is where the
object is seen in them within a picture of the moment; an event without such an object is left out, and ``map_seen`` says how
many were not.
"""

# T video latents in time, F pictures

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor

from ...geometry import ClipSpec
from ...world.clip import Event, Floats, WorldClip
from ...world.face import INSIDE
from ...world.metrics import Fractions, Heard
from ...world.scenes import COLOURS
from ...world.trackers import BallTracker, centroid, colour_likeness

Path = tuple[Floats, Floats, Floats]
"""Mass, x and y of a colour in each picture."""


@dataclass(frozen=True)
class Target:
    """What sounds at one moment.

    Attributes:
        latent: the video latent that shows it.
        x: pixels from the left.
        y: pixels from the top.
        radius: pixels.
    """

    latent: int
    x: float
    y: float
    radius: float


@dataclass(frozen=True)
class Targets:
    """Of a clip: what sounds and could be placed, and how many events there were."""

    placed: tuple[Target, ...]
    events: int


def true_targets(clip: WorldClip, spec: ClipSpec) -> Targets:
    """What sounds in a true clip, where it truly is."""
    placed = [Target(_latent(picture_of(e.time, spec), spec), e.x, e.y, e.radius) for e in clip.events]
    return Targets(tuple(placed), len(placed))


def seen_targets(events: Sequence[tuple[float, str]], frames: Tensor, spec: ClipSpec) -> Targets:
    """What sounds in generated pictures, where it is seen.

    A ball is as large as the disc of its pixels; of a mouth the dark red inside is taken.

    Args:
        events: time in seconds and material of each; an empty material is a mouth's.
        frames: (3, F, H, W) in [-1, 1].
        spec: of the clip.
    """
    paths: dict[str, Path] = {}
    placed = []
    for time, material in events:
        if material not in paths:
            paths[material] = centroid(colour_likeness(frames, COLOURS[material] if material else INSIDE))
        found = _nearest(paths[material], picture_of(time, spec), spec)
        if found is not None:
            placed.append(found)
    return Targets(tuple(placed), len(events))


def events_of(clip: WorldClip) -> list[tuple[float, str]]:
    """Time and material of a true clip's events; the mouth of a clip with balls is left out, as pink balls look like mouths."""
    return [(event.time, event.material) for event in clip.events if _placeable(event, clip)]


def events_in(heard: Heard, clip: WorldClip) -> list[tuple[float, str]]:
    """Time and material of the events in generated sound, of the sort a clip of this kind has."""
    if clip.kind == "talk":
        return [(float(time), "") for time in heard.releases]
    return [(float(time), material) for time, material in zip(heard.impacts.times, heard.impacts.materials, strict=True)]


def map_figures(maps: Tensor, targets: Targets, cell: int) -> Fractions:
    """How many events the map points at, and how many any cell would.

    Args:
        maps: (T, rows, columns), not negative.
        targets: what sounds.
        cell: pixels a map's cell covers, each way.

    Returns:
        ``map_hit``: events whose strongest cell touches the object; ``map_chance``: mean share of cells that do; ``map_seen``:
        events whose object could be placed.
    """
    hits, shares = 0.0, 0.0
    for target in targets.placed:
        touched = touching(target, maps.shape[1], maps.shape[2], cell)
        row, column = np.unravel_index(int(maps[target.latent].argmax()), touched.shape)
        hits += float(touched[row, column])
        shares += float(touched.mean())
    count = float(len(targets.placed))
    return {"map_hit": (hits, count), "map_chance": (shares, count), "map_seen": (count, float(targets.events))}


def touching(target: Target, rows: int, columns: int, cell: int) -> npt.NDArray[np.bool_]:
    """Which cells hold a part of the object, (rows, columns)."""
    left, top = np.arange(columns) * cell, np.arange(rows) * cell
    dx = np.maximum(0, np.maximum(left - target.x, target.x - left - cell))
    dy = np.maximum(0, np.maximum(top - target.y, target.y - top - cell))
    return np.asarray(np.hypot(dy[:, None], dx[None]) < target.radius)


def shuffled_figures(maps: Sequence[Tensor], targets: Sequence[Targets], order: Sequence[int], cell: int) -> list[Fractions]:
    """``map_shuffled`` of each clip: what its events would find in the map of another clip of the same source.

    A map that always points where balls use to land, or where faces have their mouth, scores here as well as in ``map_hit``.
    """
    return [{"map_shuffled": map_figures(maps[other], own, cell)["map_hit"]} for own, other in zip(targets, order, strict=True)]


def fixed_figures(targets: Sequence[Targets], rows: int, columns: int, cell: int) -> list[Fractions]:
    """``map_fixed`` of each clip: what its events would find in a map that always points at the one cell that serves best.

    Balls strike near the floor and faces have their mouth in the middle, so that this floor lies far above ``map_chance``. The
    cell is chosen on the very clips it is measured on: no fixed map does better.
    """
    hits = np.zeros((len(targets), rows, columns))
    for number, own in enumerate(targets):
        for target in own.placed:
            hits[number] += touching(target, rows, columns, cell)
    best = np.unravel_index(hits.sum(axis=0).argmax(), (rows, columns))
    return [{"map_fixed": (float(clip[best]), float(len(own.placed)))} for clip, own in zip(hits, targets, strict=True)]


def picture_of(time: float, spec: ClipSpec) -> int:
    """The picture that is shown at a time."""
    return min(max(int(time * spec.fps), 0), spec.frames - 1)


def _latent(picture: int, spec: ClipSpec) -> int:
    """The video latent that holds a picture: the first holds one, every other ``frame_stride``."""
    return -(-picture // spec.grid.frame_stride)


def _placeable(event: Event, clip: WorldClip) -> bool:
    return event.what == "impact" or clip.kind == "talk"


def _nearest(path: Path, picture: int, spec: ClipSpec) -> Target | None:
    """The object at a picture, or at one beside it if it is not to be seen there."""
    mass, x, y = path
    for near in (picture, picture - 1, picture + 1):
        if 0 <= near < len(mass) and mass[near] > BallTracker.smallest:
            return Target(_latent(picture, spec), float(x[near]), float(y[near]), float(np.sqrt(mass[near] / np.pi)))
    return None


Finder = Callable[[WorldClip, Tensor, Heard, ClipSpec], Targets]
"""Tells what sounds, from a true clip, a source's pictures (3, F, H, W) and what is heard of it."""


def placed_truly(clip: WorldClip, frames: Tensor, heard: Heard, spec: ClipSpec) -> Targets:
    """Pictures given, sound generated: true events, at their true places."""
    del frames, heard
    return true_targets(clip, spec)


def placed_by_sight(clip: WorldClip, frames: Tensor, heard: Heard, spec: ClipSpec) -> Targets:
    """Sound given, pictures generated: true events, where the object is seen."""
    del heard
    return seen_targets(events_of(clip), frames, spec)


def placed_by_sight_and_hearing(clip: WorldClip, frames: Tensor, heard: Heard, spec: ClipSpec) -> Targets:
    """Both generated: events that are heard, where the object is seen."""
    return seen_targets(events_in(heard, clip), frames, spec)

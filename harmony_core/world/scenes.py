"""What happens in a clip: balls, faces and idle things, drawn at random from one generator and painted.

Nothing that makes a sound can be foretold from the caption or the first picture: balls come in from outside, or hang, or lie
still, and move off after a pause of random length; the speaker waits too. Every event is far enough from the others, and from
the ends of the clip, to be seen and heard by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from ..geometry import ClipSpec
from .clip import Event, Floats, Kind, Split, frame_times
from .drawing import Canvas, Colour, Field, gradient, jitter
from .face import Face, sample_face
from .physics import Ball, Contact, Path, Room, fly

COLOURS: dict[str, Colour] = {"wood": (0.12, 0.30, 0.95), "stone": (0.05, 0.75, 0.22), "glass": (0.95, 0.15, 0.85)}
COLOUR_NAMES = {"wood": "blue", "stone": "green", "glass": "pink"}
"""The colour of a ball is its material."""

_LOUD_SPEED = 190.0
_FIRST_EVENT, _LAST_EVENT = 0.12, 0.17  # seconds from the start and from the end of the clip
_APART = {"easy": 0.14, "hard": 0.08}
_CLEAR = {"easy": 3, "hard": 1}  # pictures before and after an event in which no ball hides another
_FEWEST_MOST = {"easy": (1, 4), "hard": (5, 14)}
_TRIES = 100_000
_START_AGAIN = 0.02


@dataclass(frozen=True, kw_only=True)
class Bouncing:
    """A ball, its material and its path; one without a material makes no sound."""

    ball: Ball
    path: Path
    material: str
    colour: Colour

    def events(self) -> list[Event]:
        """What is heard of it."""
        return [self._event(contact) for contact in self.path.contacts] if self.material else []

    def _event(self, contact: Contact) -> Event:
        return Event(
            what="impact",
            time=contact.time,
            strength=min(1.0, contact.speed / _LOUD_SPEED),
            x=contact.x,
            y=contact.y,
            radius=self.ball.radius,
            material=self.material,
        )


@dataclass(frozen=True, kw_only=True)
class Drifting:
    """A pale square that crosses the scene and makes no sound."""

    x: Floats
    y: Floats
    size: float
    turn: Floats
    colour: Colour


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Everything seen in a clip, before it is painted; balls are painted after the face, in their order."""

    background: Field
    room: Room | None
    balls: tuple[Bouncing, ...] = ()
    drifting: tuple[Drifting, ...] = ()
    face: Face | None = None

    @property
    def events(self) -> list[Event]:
        """Impacts, in the order of time."""
        return sorted((event for ball in self.balls for event in ball.events()), key=lambda event: event.time)


def sample_scene(kind: Kind, split: Split, spec: ClipSpec, rng: np.random.Generator) -> Scene:
    """A scene of some kind at random."""
    makers: dict[Kind, Callable[[Split, ClipSpec, np.random.Generator], Scene]] = {
        "impact": _impact,
        "talk": _talk,
        "complex": _complex,
        "still": _still,
    }
    scene = makers[kind](split, spec, rng)
    return replace(scene, drifting=_distractors(spec, rng)) if split == "hard" and kind != "still" else scene


def paint_room(canvas: Canvas, room: Room) -> None:
    """Paint floor and walls."""
    size = canvas.width
    canvas.rectangle(size / 2, room.floor + 32, size, 32, (0.30, 0.27, 0.25))
    for there, x, side in ((room.left_wall, room.left, -1), (room.right_wall, room.right, 1)):
        if there:
            canvas.rectangle(x + side * 32, room.floor / 2, 32, room.floor / 2, (0.38, 0.36, 0.36))


def paint_ball(canvas: Canvas, bouncing: Bouncing, times: Floats) -> None:
    """Paint a ball with a highlight, which shows nothing but its place: balls do not turn."""
    x, y = bouncing.path.positions(times)
    x, y = np.clip(x, -30, canvas.width + 30), np.clip(y, -30, canvas.height + 30)
    radius = bouncing.ball.radius
    canvas.ellipse(x, y, radius, radius, bouncing.colour)
    canvas.ellipse(x - 0.3 * radius, y - 0.35 * radius, 0.3 * radius, 0.3 * radius, (1.0, 1.0, 1.0), 0.6)


def paint_drifting(canvas: Canvas, drifting: Drifting) -> None:
    """Paint a square that drifts by."""
    canvas.rectangle(drifting.x, drifting.y, drifting.size, drifting.size, drifting.colour, drifting.turn)


def _background(spec: ClipSpec, rng: np.random.Generator) -> Field:
    base = rng.uniform(0.45, 0.85)
    top, bottom = (jitter(rng, (base, base, base), 0.06) for _ in range(2))
    return gradient(top, bottom, spec.height, spec.width, light=rng.uniform(-0.1, 0.15), focus=rng.uniform(0, 1))


def _room(spec: ClipSpec, rng: np.random.Generator, left: float = 3.0, right: float = 61.0) -> Room:
    return Room(
        floor=rng.uniform(52, 60),
        left=left,
        right=right,
        left_wall=bool(left > 3 or rng.random() < 0.7),
        right_wall=bool(right < spec.width - 3 or rng.random() < 0.7),
        gravity=rng.uniform(230, 330),
    )


def _ball(rng: np.random.Generator, room: Room, seconds: float, radius: tuple[float, float] = (4.5, 7.5)) -> Ball:
    """A ball that waits, out of sight or at rest, and then moves."""
    r = rng.uniform(*radius)
    x = rng.uniform(room.left + r + 2, room.right - r - 2)
    sideways = float(rng.choice([-1, 0, 1])) * rng.uniform(40, 80)
    open_sides = [side for side, wall in ((-1, room.left_wall), (1, room.right_wall)) if not wall]
    ways = ["above", "above", "hang", "hop"] + ["side", "side"] * bool(open_sides)
    way = str(rng.choice(ways))
    release = rng.uniform(0.02, 0.35 * seconds)
    hops = tuple((rng.uniform(0.1, 0.8), rng.uniform(0, 45), -rng.uniform(90, 150)) for _ in range(rng.integers(4)))
    ball = Ball(radius=r, restitution=rng.uniform(0.55, 0.82), x=x, y=-r - 1, vx=sideways, vy=0.0, release=release, hops=hops)
    if way == "hang":
        return replace(ball, y=rng.uniform(10, 26), vx=sideways)
    if way == "hop":
        return replace(ball, y=room.floor - r, vy=-rng.uniform(90, 150))
    if way == "side":
        side = int(rng.choice(open_sides))
        edge = -r - 1 if side < 0 else 64 + r + 1
        return replace(ball, x=edge, y=rng.uniform(8, 30), vx=-side * rng.uniform(40, 80), vy=-rng.uniform(0, 40))
    return replace(ball, vy=rng.uniform(0, 50))


def _bouncing(rng: np.random.Generator, room: Room, seconds: float, material: str) -> Bouncing:
    ball = _ball(rng, room, seconds)
    return Bouncing(ball=ball, path=fly(ball, room, seconds), material=material, colour=jitter(rng, COLOURS[material], 0.04))


def _fits(balls: list[Bouncing], split: Split, seconds: float) -> bool:
    """Whether every event can be seen and heard by itself."""
    times = np.sort([event.time for ball in balls for event in ball.events()])
    if not balls[-1].path.contacts or len(times) > _FEWEST_MOST[split][1]:
        return False
    if times[0] < _FIRST_EVENT or times[-1] > seconds - _LAST_EVENT or np.diff(times).min(initial=1) < _APART[split]:
        return False
    around = (times[:, None] + np.arange(-_CLEAR[split], _CLEAR[split] + 1) / 24).ravel()
    return all(_clear(one, balls[-1], around) for one in balls[:-1])


def _clear(one: Bouncing, two: Bouncing, times: Floats) -> bool:
    """Whether one ball never hides the other at these times."""
    (x1, y1), (x2, y2) = one.path.positions(times), two.path.positions(times)
    return bool(np.hypot(x1 - x2, y1 - y2).min() > one.ball.radius + two.ball.radius)


def _impacts(
    split: Split, spec: ClipSpec, rng: np.random.Generator, make_room: Callable[[], Room], counts: tuple[int, ...]
) -> tuple[Room, list[Bouncing]]:
    """Balls of different materials whose events all fit, and their room; now and then the search starts again in another."""
    count = int(rng.choice(counts))
    materials = [str(name) for name in rng.permutation(list(COLOURS))[:count]]
    room, balls = make_room(), list[Bouncing]()
    fewest, most = _FEWEST_MOST[split]
    for _ in range(_TRIES):
        ball = _bouncing(rng, room, spec.seconds, materials[len(balls)])
        share = len(ball.path.contacts) <= 2 + most / count
        if share and _fits([*balls, ball], split, spec.seconds):
            balls.append(ball)
            if len(balls) < count:
                continue
            if sum(len(b.path.contacts) for b in balls) >= fewest:
                return room, balls
        elif rng.random() > _START_AGAIN:
            continue
        room, balls = make_room(), []
    raise AssertionError(f"no scene fits after {_TRIES} tries")


def _impact(split: Split, spec: ClipSpec, rng: np.random.Generator) -> Scene:
    room, balls = _impacts(split, spec, rng, lambda: _room(spec, rng), (1, 1, 2) if split == "easy" else (2, 3))
    if split == "hard":  # a grey ball bounces too, and is never heard
        silent = _ball(rng, room, spec.seconds)
        grey = jitter(rng, (0.93, 0.93, 0.93), 0.05)
        balls.insert(0, Bouncing(ball=silent, path=fly(silent, room, spec.seconds), material="", colour=grey))
    return Scene(background=_background(spec, rng), room=room, balls=tuple(balls))


def _talk(split: Split, spec: ClipSpec, rng: np.random.Generator) -> Scene:
    x, y = 32 + rng.uniform(-2, 2), 31 + rng.uniform(-1.5, 1.5)
    face = sample_face(rng, frame_times(spec), x=x, y=y, scale=rng.uniform(0.93, 1.05))
    return Scene(background=_background(spec, rng), room=None, face=face)


def _complex(split: Split, spec: ClipSpec, rng: np.random.Generator) -> Scene:
    """A face on one side, one ball on the other."""
    on_left = bool(rng.random() < 0.5)
    room = _room(spec, rng, *((36.0, 62.0) if on_left else (2.0, 28.0)))
    room = replace(room, left_wall=not on_left, right_wall=on_left)
    ball_room = replace(room, left_wall=True, right_wall=True)
    _, balls = _impacts(split, spec, rng, lambda: ball_room, (1,))
    x = 18.0 if on_left else 46.0
    face = sample_face(
        rng, frame_times(spec), x=x + rng.uniform(-1, 1), y=27 + rng.uniform(-1, 1), scale=rng.uniform(0.66, 0.74)
    )
    return Scene(background=_background(spec, rng), room=room, balls=tuple(balls), face=face)


def _still(split: Split, spec: ClipSpec, rng: np.random.Generator) -> Scene:
    """An idle face, or balls that lie on the floor."""
    if rng.random() < 0.5:
        return _talk(split, spec, rng)
    room = _room(spec, rng)
    materials = [str(name) for name in rng.permutation(list(COLOURS))[: int(rng.integers(1, 3))]]
    places = rng.permutation([16.0, 32.0, 48.0])
    balls = []
    for material, place in zip(materials, places, strict=False):
        r = rng.uniform(4.5, 7.5)
        ball = Ball(radius=r, restitution=0.7, x=place, y=room.floor - r, vx=0, vy=0, release=2 * spec.seconds)
        colour = jitter(rng, COLOURS[material], 0.04)
        balls.append(Bouncing(ball=ball, path=fly(ball, room, spec.seconds), material=material, colour=colour))
    return Scene(background=_background(spec, rng), room=room, balls=tuple(balls))


def _distractors(spec: ClipSpec, rng: np.random.Generator) -> tuple[Drifting, ...]:
    """One or two squares drifting by on curved ways."""
    times = frame_times(spec)
    return tuple(
        Drifting(
            x=rng.uniform(8, 56) + rng.uniform(8, 24) * np.sin(2 * np.pi * rng.uniform(0.2, 0.6) * times + rng.uniform(0, 6)),
            y=rng.uniform(6, 30) + rng.uniform(4, 14) * np.sin(2 * np.pi * rng.uniform(0.2, 0.6) * times + rng.uniform(0, 6)),
            size=rng.uniform(2.5, 4.5),
            turn=rng.uniform(-2, 2) * times,
            colour=jitter(rng, (0.75, 0.72, 0.62), 0.12),
        )
        for _ in range(int(rng.integers(1, 3)))
    )

"""Balls in a room: free flight between contacts whose times are solved for, never stepped to.

Between contacts a ball moves uniformly sideways and falls freely; floor and walls send it back with a part of its speed.
A ball that has come to rest may hop again, silently, after a pause. So a path is a list of flights, each a closed form, and
the time of every contact is exact.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from .clip import Floats

AUDIBLE_SPEED = 30.0
"""Pixels per second at which a contact is an event; a slower ball comes to rest on the floor."""


@dataclass(frozen=True, kw_only=True)
class Room:
    """Where balls fly, pixels: the floor's height, the walls, and whether each is there."""

    floor: float
    left: float
    right: float
    left_wall: bool
    right_wall: bool
    gravity: float


@dataclass(frozen=True, kw_only=True)
class Flight:
    """Position, velocity and acceleration from ``start`` until the next flight."""

    start: float
    x: float
    y: float
    vx: float = 0.0
    vy: float = 0.0
    gravity: float = 0.0

    def at(self, time: float) -> tuple[float, float, float, float]:
        """Position and velocity at ``time``."""
        t = time - self.start
        return (
            self.x + self.vx * t,
            self.y + self.vy * t + self.gravity * t * t / 2,
            self.vx,
            self.vy + self.gravity * t,
        )


@dataclass(frozen=True, kw_only=True)
class Contact:
    """A ball strikes: when, where its centre is, and how fast it meets the surface, pixels per second."""

    time: float
    x: float
    y: float
    speed: float


@dataclass(frozen=True)
class Path:
    """A ball's flights and contacts, in the order of time."""

    flights: list[Flight] = field(default_factory=list)
    contacts: list[Contact] = field(default_factory=list)

    def positions(self, times: Floats) -> tuple[Floats, Floats]:
        """Centre at each time: x and y, pixels."""
        table = np.array([(f.start, f.x, f.y, f.vx, f.vy, f.gravity) for f in self.flights])
        start, x, y, vx, vy, gravity = table[np.maximum(0, np.searchsorted(table[:, 0], times, side="right") - 1)].T
        t = times - start
        return x + vx * t, y + vy * t + gravity * t * t / 2


@dataclass(frozen=True, kw_only=True)
class Ball:
    """A ball before it moves.

    Attributes:
        radius: pixels.
        restitution: part of the speed left after a contact.
        x: of the centre while it waits.
        y: likewise.
        vx: when it is let go, pixels per second.
        vy: likewise.
        release: when it is let go, seconds.
        hops: (pause, vx, vy) after each time it comes to rest; vx is the speed towards the middle of the room.
    """

    radius: float
    restitution: float
    x: float
    y: float
    vx: float
    vy: float
    release: float
    hops: tuple[tuple[float, float, float], ...] = ()


def fly(ball: Ball, room: Room, seconds: float) -> Path:
    """The path of a ball through a room until ``seconds``."""
    path = Path()
    path.flights.append(Flight(start=0.0, x=ball.x, y=ball.y))
    hops = list(ball.hops)
    flight = Flight(start=ball.release, x=ball.x, y=ball.y, vx=ball.vx, vy=ball.vy, gravity=room.gravity)
    while flight.start < seconds:
        path.flights.append(flight)
        time, on_floor = _next_contact(flight, ball, room)
        if not time < seconds:
            break
        x, y, vx, vy = flight.at(time)
        if not room.left <= x <= room.right:  # out of sight by the open side, and gone
            break
        speed = abs(vy) if on_floor else abs(vx)
        if speed >= AUDIBLE_SPEED:
            path.contacts.append(Contact(time=time, x=x, y=y, speed=speed))
        if not on_floor:
            flight = Flight(start=time, x=x, y=y, vx=-vx * ball.restitution, vy=vy, gravity=room.gravity)
            continue
        up = speed * ball.restitution
        if up >= AUDIBLE_SPEED:
            flight = Flight(start=time, x=x, y=y, vx=vx, vy=-up, gravity=room.gravity)
            continue
        path.flights.append(Flight(start=time, x=x, y=y))
        if not hops:
            break
        pause, hop_x, hop_y = hops.pop(0)
        away = hop_x if x < (room.left + room.right) / 2 else -hop_x
        flight = Flight(start=time + pause, x=x, y=y, vx=away, vy=hop_y, gravity=room.gravity)
    return path


def _next_contact(flight: Flight, ball: Ball, room: Room) -> tuple[float, bool]:
    """Absolute time of the next contact, infinite where there is none, and whether it is with the floor."""
    height = room.floor - ball.radius - flight.y
    root = max(0.0, flight.vy**2 + 2 * flight.gravity * height)
    floor = (-flight.vy + root**0.5) / flight.gravity
    wall = float("inf")
    if flight.vx > 0 and room.right_wall:
        wall = (room.right - ball.radius - flight.x) / flight.vx
    elif flight.vx < 0 and room.left_wall:
        wall = (room.left + ball.radius - flight.x) / flight.vx
    return flight.start + max(0.0, min(floor, wall)), floor <= wall

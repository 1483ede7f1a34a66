"""A flat face that speaks: painted from what its mouth does in every picture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .clip import Floats
from .drawing import Canvas, Colour, jitter

SKINS: dict[str, Colour] = {
    "pale": (0.95, 0.80, 0.70),
    "tan": (0.83, 0.63, 0.47),
    "brown": (0.62, 0.43, 0.30),
    "dark": (0.45, 0.30, 0.21),
}
HAIRS: dict[str, Colour] = {
    "black": (0.10, 0.09, 0.09),
    "brown": (0.36, 0.22, 0.12),
    "blond": (0.86, 0.71, 0.36),
    "grey": (0.62, 0.62, 0.62),
}
INSIDE: Colour = (0.40, 0.02, 0.14)
"""Of the open mouth, the same in every face; no other thing in the world is of this dark red."""


@dataclass(frozen=True, kw_only=True)
class Face:
    """A face and its idle motion.

    Attributes:
        x: of the centre, pixels.
        y: likewise.
        scale: 1 fills the picture of 64 pixels.
        skin: name of its colour.
        hair: name of its colour.
        long_hair: whether it falls beside the cheeks.
        colours: of skin, hair and eyes.
        sway: (F, 2) pixels, of the head.
        blink: (F,) 0 open to 1 shut.
    """

    x: float
    y: float
    scale: float
    skin: str
    hair: str
    long_hair: bool
    colours: tuple[Colour, Colour, Colour]
    sway: Floats
    blink: Floats

    def mouth_position(self) -> tuple[float, float, float]:
        """Centre and reach of the mouth at rest, pixels."""
        return self.x, self.y + 12 * self.scale, 9 * self.scale


def sample_face(rng: np.random.Generator, times: Floats, *, x: float, y: float, scale: float) -> Face:
    """A face at random, looking and moving like nobody else."""
    skin, hair = (str(rng.choice(list(names))) for names in (SKINS, HAIRS))
    eyes: Colour = ((0.25, 0.17, 0.1), (0.2, 0.35, 0.5), (0.2, 0.4, 0.25))[rng.integers(3)]
    phase, rate = rng.uniform(0, 2 * np.pi, 2), rng.uniform(0.15, 0.45, 2)
    sway = 0.7 * scale * np.sin(2 * np.pi * rate * times[:, None] + phase)
    blink = np.zeros(len(times))
    moment = rng.uniform(0.2, 2.0)
    while moment < times[-1]:
        blink = np.maximum(blink, np.clip(1.4 - np.abs(times - moment) / 0.07, 0, 1))
        moment += rng.uniform(1.0, 3.0)
    return Face(
        x=x,
        y=y,
        scale=scale,
        skin=skin,
        hair=hair,
        long_hair=bool(rng.random() < 0.5),
        colours=(jitter(rng, SKINS[skin], 0.03), jitter(rng, HAIRS[hair], 0.03), eyes),
        sway=sway,
        blink=blink,
    )


def paint_face(canvas: Canvas, face: Face, mouth: Floats) -> None:
    """Paint the face, its mouth as (F, 3) openness, width and roundness say."""
    s = face.scale
    x, y = face.x + face.sway[:, 0], face.y + face.sway[:, 1]
    skin, hair, eyes = face.colours
    if face.long_hair:
        canvas.ellipse(x, y + 4 * s, 23 * s, 27 * s, hair)
    canvas.ellipse(x, y + 34 * s, 24 * s, 12 * s, tuple(0.6 * c for c in hair[::-1]))  # type: ignore[arg-type]
    canvas.rectangle(x, y + 24 * s, 6 * s, 8 * s, _darker(skin))
    canvas.ellipse(x, y - 5 * s, 21 * s, 22 * s, hair)
    canvas.ellipse(x, y + 1.5 * s, 18 * s, 23 * s, skin)
    canvas.ellipse(x, y - 18 * s, 15 * s, 5.5 * s, hair)
    for side in (-1, 1):
        eye = x + side * 7.5 * s
        canvas.ellipse(eye, y - 4 * s, 3.6 * s, 2.4 * s * (1 - 0.9 * face.blink), (0.97, 0.97, 0.97))
        canvas.ellipse(eye, y - 4 * s, 1.7 * s, 1.9 * s * (1 - 0.9 * face.blink), eyes)
        canvas.rectangle(eye, y - 8.5 * s, 3.6 * s, 0.8 * s, hair)
    canvas.ellipse(x, y + 3.5 * s, 1.8 * s, 2.6 * s, _darker(skin), 0.7)
    _paint_mouth(canvas, x, y + 12 * s, s, skin, mouth)


def _paint_mouth(canvas: Canvas, x: Floats, y: Floats, s: float, skin: Colour, mouth: Floats) -> None:
    openness, width, roundness = mouth.T
    half_width = s * (5.2 + 3.6 * width - 1.6 * roundness)
    half_height = s * 5.6 * openness
    drop = y + 0.35 * half_height
    lips = (0.55 * skin[0] + 0.3, 0.55 * skin[1] + 0.05, 0.55 * skin[2] + 0.06)
    canvas.ellipse(x, drop, half_width + 1.2 * s, half_height + s * (1.3 + 0.7 * roundness), lips)
    canvas.ellipse(x, drop, half_width, half_height, INSIDE)
    # A shut mouth is a line in the lips' shade, not in that of the inside.
    line = s * 0.5 * np.clip(1 - 4 * openness, 0, 1)
    canvas.ellipse(x, drop, half_width, line, _darker(lips, 0.65))


def _darker(colour: Colour, by: float = 0.85) -> Colour:
    return colour[0] * by, colour[1] * by, colour[2] * by

"""Antialiased shapes on a whole clip at once, so that motion of a fraction of a pixel is seen.

A shape is painted in a window that follows it: every quantity has one value per picture, and nothing loops over pictures.
"""

# F pictures, H W size, P Q window

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from .clip import Floats, Pictures

Colour = tuple[float, float, float]
Field = npt.NDArray[np.float32]
Distance = Callable[[Field, Field], Field]

_MARGIN = 20


class Canvas:
    """The pictures of a clip while they are painted.

    Args:
        background: (H, W, 3) in [0, 1], behind every picture.
        frames: number of pictures.
    """

    def __init__(self, background: Field, frames: int) -> None:
        self.frames = frames
        self.height, self.width = background.shape[:2]
        padded = np.pad(background, ((_MARGIN, _MARGIN), (_MARGIN, _MARGIN), (0, 0)), mode="edge").astype(np.float32)
        self._FHWC = np.repeat(padded[None], frames, axis=0)

    def ellipse(
        self, x: Floats | float, y: Floats | float, rx: Floats | float, ry: Floats | float, colour: Colour, opacity: float = 1
    ) -> None:
        """Paint an ellipse in every picture.

        Args:
            x: of the centre, pixels from the left edge, one for all pictures or (F,).
            y: likewise from the top.
            rx: half width, pixels; below half a pixel the ellipse fades.
            ry: half height.
            colour: red, green, blue in [0, 1].
            opacity: 0 to 1.
        """
        a, b = self._column(rx), self._column(ry)
        thin = np.clip(2 * np.minimum(a, b), 0, 1) * opacity
        a, b = np.maximum(a, 0.5), np.maximum(b, 0.5)

        def distance(u: Field, v: Field) -> Field:
            # First-order distance to the outline: implicit function over its gradient.
            k = np.sqrt((u / a) ** 2 + (v / b) ** 2)
            slope = np.sqrt((u / a**2) ** 2 + (v / b**2) ** 2)
            return k * (k - 1) / np.maximum(slope, 1e-6)

        self._paint(x, y, float(a.max()), float(b.max()), distance, colour, thin)

    def rectangle(
        self, x: Floats | float, y: Floats | float, rx: float, ry: float, colour: Colour, turn: Floats | float = 0.0
    ) -> None:
        """Paint a rectangle of half width ``rx`` and half height ``ry``, turned by ``turn`` radians, in every picture."""
        angle = self._column(turn)
        cos, sin = np.cos(angle), np.sin(angle)

        def distance(u: Field, v: Field) -> Field:
            return np.maximum(np.abs(u * cos + v * sin) - rx, np.abs(v * cos - u * sin) - ry)

        reach = float(np.hypot(rx, ry)) if np.any(angle) else 0.0
        self._paint(x, y, max(rx, reach), max(ry, reach), distance, colour, np.ones((1, 1, 1), np.float32))

    def pictures(self) -> Pictures:
        """What was painted, (F, H, W, 3), 0 to 255."""
        inside = self._FHWC[:, _MARGIN : _MARGIN + self.height, _MARGIN : _MARGIN + self.width]
        return np.rint(np.clip(inside, 0, 1) * 255).astype(np.uint8)

    def _column(self, value: Floats | float) -> Field:
        return np.asarray(value, dtype=np.float32).reshape(-1, 1, 1)

    def _paint(
        self, x: Floats | float, y: Floats | float, rx: float, ry: float, distance: Distance, colour: Colour, opacity: Field
    ) -> None:
        """Mix ``colour`` in, by how much of each pixel is inside."""
        left, width = self._window(x, rx, self.width)
        top, height = self._window(y, ry, self.height)
        columns = left[:, None] + np.arange(width)
        rows = top[:, None] + np.arange(height)
        u = (columns + (0.5 - _MARGIN) - self._per_frame(x)[:, None])[:, None, :].astype(np.float32)
        v = (rows + (0.5 - _MARGIN) - self._per_frame(y)[:, None])[:, :, None].astype(np.float32)
        cover = np.clip(0.5 - distance(u, v), 0, 1) * opacity
        where = (np.arange(self.frames)[:, None, None], rows[:, :, None], columns[:, None, :])
        below = self._FHWC[where]
        below += cover[..., None] * (np.asarray(colour, dtype=np.float32) - below)
        self._FHWC[where] = below

    def _per_frame(self, value: Floats | float) -> Floats:
        return np.broadcast_to(np.asarray(value, dtype=np.float64), (self.frames,))

    def _window(self, centre: Floats | float, reach: float, size: int) -> tuple[npt.NDArray[np.int64], int]:
        """First pixel in each picture, on the padded canvas, and length of the window around a shape."""
        length = min(int(np.ceil(2 * reach)) + 3, size + 2 * _MARGIN)
        first = np.floor(self._per_frame(centre) - length / 2).astype(np.int64) + _MARGIN
        return np.clip(first, 0, size + 2 * _MARGIN - length), length


def gradient(top: Colour, bottom: Colour, height: int, width: int, *, light: float = 0.0, focus: float = 0.5) -> Field:
    """A background (H, W, 3): ``top`` to ``bottom``, lighter by ``light`` around ``focus`` of the width."""
    down = np.linspace(0, 1, height, dtype=np.float32)[:, None, None]
    across = np.linspace(0, 1, width, dtype=np.float32)[None, :, None]
    colours = np.asarray(top, np.float32) * (1 - down) + np.asarray(bottom, np.float32) * down
    return np.clip(colours + light * np.exp(-((across - focus) ** 2) / 0.1), 0, 1).astype(np.float32)


def jitter(rng: np.random.Generator, colour: Colour, amount: float) -> Colour:
    """A colour near ``colour``."""
    red, green, blue = np.clip(np.asarray(colour) + rng.uniform(-amount, amount, 3), 0, 1)
    return float(red), float(green), float(blue)

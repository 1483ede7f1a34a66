"""Curves of a run as PNG, drawn with numpy alone: losses over steps and, under them, what was measured at checkpoints.

One small chart needs no plotting library: axes with numbers, lines in colours, a legend. Digits and letters are a 3 x 5 font.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from ..media import write_image

WIDTH, HEIGHT, MARGIN, LEGEND = 1200, 480, 64, 260
COLOURS = ((31, 119, 180), (255, 127, 14), (44, 160, 44), (214, 39, 40), (148, 103, 189), (140, 86, 75), (227, 119, 194))
INK, GRID = (60, 60, 60), (225, 225, 225)
SCALE = 2
SKIPPED = {"step", "phase", "lr", "norm", "seconds", "wait", "measured"}
POINTS = 300
"""A curve is averaged into at most so many points."""

# Rows of each glyph from the top, three bits a row.
FONT = {
    "0": "75557", "1": "26227", "2": "71747", "3": "71717", "4": "55711", "5": "74717", "6": "74757", "7": "71122",
    "8": "75757", "9": "75717", ".": "00002", "-": "00700", "_": "00007", "/": "11244", " ": "00000",
    "a": "25755", "b": "65656", "c": "34443", "d": "65556", "e": "74747", "f": "74744", "g": "34553", "h": "55755",
    "i": "72227", "j": "11152", "k": "55655", "l": "44447", "m": "57755", "n": "65555", "o": "25552", "p": "65644",
    "q": "25563", "r": "65655", "s": "34216", "t": "72222", "u": "55557", "v": "55552", "w": "55775", "x": "55255",
    "y": "55222", "z": "71247",
}  # fmt: skip

Curves = Mapping[str, Sequence[tuple[float, float]]]


def plot_log(log: Path, folder: Path) -> None:
    """Draw ``loss.png`` from a run's log: a chart of the losses and, if something was measured, one of that under it.

    Raises:
        ValueError: a picture cannot be written.
    """
    losses: dict[str, list[tuple[float, float]]] = {}
    measured: dict[str, list[tuple[float, float]]] = {}
    for line in log.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        target = measured if "measured" in record else losses
        values = record.get("measured", record)
        for name, value in values.items():
            if name not in SKIPPED:
                target.setdefault(name, []).append((record["step"], value))
    stop = max((x for curves in (losses, measured) for points in curves.values() for x, _ in points), default=1.0)
    panels = [
        draw({name: _thin(points) for name, points in curves.items()}, stop=stop, logarithmic=curves is losses)
        for curves in (losses, measured)
        if curves
    ]
    if panels:
        pixels = torch.from_numpy(np.concatenate(panels)).permute(2, 0, 1)
        write_image(folder / "loss.png", pixels.float()[None, :, None] / 127.5 - 1)


def draw(curves: Curves, *, stop: float, logarithmic: bool) -> np.ndarray:
    """A chart of curves, their names and last values beside them.

    Args:
        curves: points (x, y) by name.
        stop: end of the x axis.
        logarithmic: the y axis, where all values are positive.

    Returns:
        (HEIGHT, WIDTH, 3) uint8.
    """
    canvas = np.full((HEIGHT, WIDTH, 3), 255, np.uint8)
    values = [y for points in curves.values() for _, y in points if math.isfinite(y)]
    logarithmic = logarithmic and bool(values) and min(values) > 0
    x_axis = _Axis(0.0, stop, MARGIN, WIDTH - LEGEND)
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    y_axis = _Axis(low, high, HEIGHT - MARGIN // 2, MARGIN // 2, logarithmic=logarithmic)
    for tick in y_axis.ticks():
        row = round(y_axis.place(tick))
        canvas[row, MARGIN : WIDTH - LEGEND] = GRID
        _write(canvas, f"{tick:.3g}", row - 5, 6, INK)
    for tick in x_axis.ticks():
        column = round(x_axis.place(tick))
        canvas[MARGIN // 2 : HEIGHT - MARGIN // 2, column] = GRID
        _write(canvas, f"{tick:.0f}", HEIGHT - MARGIN // 2 + 8, column - 12, INK)
    for number, (name, points) in enumerate(curves.items()):
        colour = COLOURS[number % len(COLOURS)]
        placed = [(x_axis.place(x), y_axis.place(y)) for x, y in points if math.isfinite(y)]
        _line(canvas, placed, colour)
        last = f" {points[-1][1]:.3g}" if points else ""
        _write(canvas, name.lower() + last, MARGIN // 2 + 14 * number, WIDTH - LEGEND + 12, colour)
    return canvas


class _Axis:
    """Values to pixels."""

    def __init__(self, low: float, high: float, start: int, stop: int, *, logarithmic: bool = False) -> None:
        self._log = logarithmic
        self._low, self._high = self._scaled(low), self._scaled(high)
        if self._high - self._low < 1e-9:
            self._low, self._high = self._low - 0.5, self._high + 0.5
        self._start, self._stop = start, stop

    def place(self, value: float) -> float:
        """Pixel of a value."""
        return self._start + (self._scaled(value) - self._low) / (self._high - self._low) * (self._stop - self._start)

    def ticks(self) -> list[float]:
        """Six values to mark."""
        at = np.linspace(self._low, self._high, 6)
        return [float(10**v if self._log else v) for v in at]

    def _scaled(self, value: float) -> float:
        return math.log10(value) if self._log else value


def _thin(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Neighbouring points averaged, so that noise does not hide the curve."""
    size = -(-len(points) // POINTS)
    groups = [points[n : n + size] for n in range(0, len(points), size)]
    return [(group[-1][0], sum(y for _, y in group) / len(group)) for group in groups]


def _line(canvas: np.ndarray, points: Sequence[tuple[float, float]], colour: tuple[int, int, int]) -> None:
    pairs = list(itertools.pairwise(points)) or [(p, p) for p in points]
    for (x0, y0), (x1, y1) in pairs:
        count = int(max(abs(x1 - x0), abs(y1 - y0))) + 2
        columns = np.linspace(x0, x1, count).round().astype(int).clip(0, WIDTH - 2)
        rows = np.linspace(y0, y1, count).round().astype(int).clip(0, HEIGHT - 2)
        canvas[rows, columns] = canvas[rows + 1, columns] = colour


def _write(canvas: np.ndarray, text: str, row: int, column: int, colour: tuple[int, int, int]) -> None:
    for place, letter in enumerate(text):
        for dy, bits in enumerate(FONT.get(letter, FONT[" "])):
            for dx in range(3):
                if int(bits) >> (2 - dx) & 1:
                    top, left = row + SCALE * dy, column + SCALE * (4 * place + dx)
                    canvas[max(top, 0) : top + SCALE, max(left, 0) : left + SCALE] = colour

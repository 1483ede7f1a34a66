"""The figures that stand beside every measurement: the truth, shuffled pairs, and the true pair with its sound late.

Without them no number on generated clips means anything: the truth says what the instruments reach at best, shuffled pairs
what chance gives, and the shifted rows how fine the instruments are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ..progress import Progress
from .clip import WorldClip
from .judges import Judges
from .metrics import Heard, Interval, Seen, compare, compare_shuffled, delayed, intervals, listen, look

Figures = dict[str, Interval]

SHIFTS = (1, 2, 4)


def standard_rows(
    truth: Sequence[WorldClip], judges: Judges, *, seed: int = 0, progress: Progress | None = None
) -> dict[str, Figures]:
    """Measure true clips of one kind in all the ways that calibrate the others.

    Args:
        truth: clips of one kind and split.
        judges: the trained networks.
        seed: of the shuffle and the bootstrap.
        progress: called after each clip.

    Returns:
        Rows ``truth``, ``shuffled``, ``late_1``, ``late_2`` and ``late_4`` (pictures), each with its figures.

    Raises:
        ValueError: fewer than two clips, or of several kinds or splits.
    """
    if len(truth) < 2 or len({(clip.kind, clip.split) for clip in truth}) > 1:
        raise ValueError(f"rows are measured on two or more clips of one kind and split, got {len(truth)}")
    seen: list[Seen] = []
    heard: dict[str, list[Heard]] = {"truth": [], **{f"late_{shift}": [] for shift in SHIFTS}}
    for done, clip in enumerate(truth, start=1):
        fps, frames = clip.spec.fps, clip.spec.frames
        seen.append(look(clip.frames, fps, judges))
        heard["truth"].append(listen(clip.samples, frames, fps, judges))
        for shift in SHIFTS:
            heard[f"late_{shift}"].append(listen(delayed(clip.samples, shift, fps), frames, fps, judges))
        if progress is not None:
            progress(done, len(truth))
    order = derangement(len(truth), seed)
    shuffled = [compare_shuffled(s, heard["truth"][i], c, truth[i]) for s, c, i in zip(seen, truth, order, strict=True)]
    rows = {name: [compare(s, h, c) for s, h, c in zip(seen, row, truth, strict=True)] for name, row in heard.items()}
    rows = {"truth": rows["truth"], "shuffled": shuffled, **rows}
    return {name: intervals(clips, seed=seed) for name, clips in rows.items()}


def derangement(count: int, seed: int) -> list[int]:
    """An order in which nobody keeps their place: a random circle."""
    circle = np.random.default_rng(seed).permutation(count)
    order = np.empty(count, dtype=int)
    order[circle] = np.roll(circle, 1)
    return [int(index) for index in order]


def table(rows: Mapping[str, Mapping[str, Interval]], columns: Sequence[str] | None = None) -> str:
    """Rows of figures as text, each with half the width of its interval.

    Args:
        rows: what :func:`standard_rows` and ``evaluate_pairs`` give, by name.
        columns: figures to show; all by default.
    """
    names = list(columns or dict.fromkeys(name for row in rows.values() for name in row))
    cells = [["", *names]]
    for row, figures in rows.items():
        cells.append([row, *(_cell(figures[name]) if name in figures else "" for name in names)])
    widths = [max(len(line[k]) for line in cells) for k in range(len(names) + 1)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells)


def _cell(figure: Interval) -> str:
    if not figure.clips:
        return "-"
    digits = 3 if abs(figure.value) < 2 else 1
    return f"{figure.value:.{digits}f} ±{(figure.high - figure.low) / 2:.{digits}f}"

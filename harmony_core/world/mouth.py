"""What a mouth does when phonemes are spoken, and when it opens.

A mouth is three numbers from 0 to 1: openness, width and roundness. Each phoneme has a target; targets flow into each other
over 35 ms, as speech organs have mass; m, b and p shut the mouth fully, whatever is spoken around them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .clip import Floats, Phoneme

COARTICULATION = 0.035
"""Seconds over which one shape becomes the next (full width at half height)."""

_GRID = 500.0  # shapes a second, before they are looked up at the times of pictures
_REST = (0.0, 0.45, 0.0)
CLOSED, OPEN = 0.15, 0.35
"""Openness below which a mouth is shut, and above which it is open; between them it stays what it was."""

# ruff: noqa: RUF001 - the letters of the phonetic alphabet look like others
# The first symbol of espeak's name decides: openness, width, roundness.
_TARGETS = {
    "ɑ": (1.0, 0.6, 0.0), "a": (1.0, 0.6, 0.0), "æ": (0.9, 0.8, 0.0), "ɐ": (0.8, 0.55, 0.0), "ʌ": (0.8, 0.55, 0.0),
    "ɛ": (0.7, 0.8, 0.0), "e": (0.65, 0.85, 0.0), "ə": (0.6, 0.55, 0.0), "ɚ": (0.55, 0.45, 0.3), "ɜ": (0.6, 0.45, 0.3),
    "i": (0.45, 1.0, 0.0), "ɪ": (0.5, 0.85, 0.0), "ɔ": (0.85, 0.35, 0.6), "o": (0.7, 0.25, 0.8), "u": (0.5, 0.1, 1.0),
    "ʊ": (0.5, 0.15, 0.9), "w": (0.4, 0.05, 1.0), "j": (0.42, 0.85, 0.0), "ɹ": (0.42, 0.4, 0.4), "l": (0.5, 0.6, 0.0),
    "n": (0.4, 0.6, 0.0), "ŋ": (0.42, 0.5, 0.0), "h": (0.5, 0.5, 0.0), "χ": (0.5, 0.5, 0.0), "s": (0.38, 0.85, 0.0),
    "z": (0.38, 0.85, 0.0), "ʃ": (0.4, 0.3, 0.7), "t": (0.4, 0.6, 0.0), "d": (0.4, 0.6, 0.0), "ɾ": (0.42, 0.6, 0.0),
    "k": (0.42, 0.55, 0.0), "ɡ": (0.42, 0.55, 0.0),
    "m": (0.0, 0.5, 0.0), "b": (0.0, 0.5, 0.0), "p": (0.0, 0.5, 0.0),
}  # fmt: skip

# Where the lips are together, seconds after the phoneme's mark at its start and before its end. espeak marks p at the burst:
# the silence before it belongs to the vowel's time.
_SHUT = {"m": (0.0, 0.01), "b": (-0.012, 0.02), "p": (-0.058, None)}
_BURST = 0.008


def shapes(phonemes: Sequence[Phoneme], times: Floats, seconds: float) -> Floats:
    """The mouth at ``times``.

    Args:
        phonemes: spoken, seconds from the start of the clip; between them the mouth rests, shut.
        times: (T,) seconds.
        seconds: length of the clip.

    Returns:
        (T, 3): openness, width, roundness.

    Raises:
        ValueError: there is a phoneme the table does not know.
    """
    pad = 4 * COARTICULATION
    grid = np.arange(-pad, seconds + pad, 1 / _GRID)
    target = np.tile(_REST, (len(grid), 1))
    for phoneme in phonemes:
        if phoneme.name[:1] not in _TARGETS:
            raise ValueError(f"the mouth knows no phoneme {phoneme.name!r}")
        target[(grid >= phoneme.start) & (grid < phoneme.end)] = _TARGETS[phoneme.name[:1]]
    sigma = COARTICULATION / 2.355
    steps = np.arange(-pad, pad + 0.5 / _GRID, 1 / _GRID)
    kernel = np.exp(-0.5 * (steps / sigma) ** 2)
    smooth = np.stack([_convolved(target[:, k], kernel / kernel.sum()) for k in range(3)], axis=1)
    for start, end in _shut_spans(phonemes):
        away = np.clip(np.maximum(start - grid, grid - end) / COARTICULATION, 0, 1)
        smooth[:, 0] *= 0.5 - 0.5 * np.cos(np.pi * away)
    return np.stack([np.interp(times, grid, smooth[:, k]) for k in range(3)], axis=1)


def _convolved(values: Floats, kernel: Floats) -> Floats:
    half = len(kernel) // 2
    return np.convolve(np.pad(values, half, mode="edge"), kernel, mode="same")[half:-half]


def _shut_spans(phonemes: Sequence[Phoneme]) -> list[tuple[float, float]]:
    spans = []
    for phoneme in phonemes:
        if phoneme.name[:1] in _SHUT:
            before, after = _SHUT[phoneme.name[:1]]
            start = phoneme.start + before
            spans.append((start, max(start + 0.04, phoneme.start + _BURST if after is None else phoneme.end - after)))
    return spans


def releases(openness: Floats, rate: float, *, start: float = 0.0) -> Floats:
    """When a mouth that was shut opens, (n,), seconds.

    The mouth counts as shut before the clip. It opens when the openness exceeds ``OPEN`` and shuts when it falls below
    ``CLOSED``; the moment of opening is where it passed their middle.

    Args:
        openness: (T,), 0 to 1.
        rate: values a second.
        start: time of the first value.
    """
    found = []
    shut, middle = True, (CLOSED + OPEN) / 2
    for index, value in enumerate(openness):
        if shut and value > OPEN:
            shut = False
            found.append(start + _passed(openness, index, middle) / rate)
        elif not shut and value < CLOSED:
            shut = True
    return np.array(found, dtype=np.float64)


def _passed(values: Floats, index: int, level: float) -> float:
    """Where the curve last rose through ``level`` at or before ``index``, in steps."""
    while index > 0 and values[index - 1] > level:
        index -= 1
    if index == 0:
        return 0.0
    below, above = values[index - 1], values[index]
    return float(index - 1 + (level - below) / (above - below))

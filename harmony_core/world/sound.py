"""Modal synthesis: what a struck ball of wood, stone or glass sounds like.

A material is a fundamental; a ball rings at (1, 2.76, 5.4) times it, the ratios of a free bar, each mode decaying by itself.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from .clip import SAMPLE_RATE, Event, Floats, Wave

MATERIALS: dict[str, float] = {"wood": 330.0, "stone": 700.0, "glass": 1500.0}
"""Fundamental of each material, Hz."""

MODES = (1.0, 2.76, 5.4)
_LEVELS = (1.0, 0.5, 0.25)
_DECAYS = (0.11, 0.075, 0.05)
_HIGHEST = 0.475 * SAMPLE_RATE
_RING_SECONDS = 0.8
_CLICK_SECONDS = 0.003
_LOUDEST = 0.42


def modes(material: str) -> list[tuple[float, float, float]]:
    """Frequency in Hz, level and decay time in seconds of each mode below the Nyquist frequency."""
    base = MATERIALS[material]
    found = [(base * ratio, level, decay) for ratio, level, decay in zip(MODES, _LEVELS, _DECAYS, strict=True)]
    return [mode for mode in found if mode[0] < _HIGHEST]


def ring(events: Iterable[Event], samples: int, rng: np.random.Generator) -> Wave:
    """The sound of impacts, (samples,).

    Each rings from its exact time on, between samples too; the first milliseconds carry a click, as of any contact.
    """
    wave = np.zeros(samples)
    for event in events:
        first = int(np.ceil(event.time * SAMPLE_RATE))
        count = min(samples - first, int(_RING_SECONDS * SAMPLE_RATE))
        if count <= 0:
            continue
        t = (first + np.arange(count)) / SAMPLE_RATE - event.time
        loudness = _LOUDEST * (0.15 + 0.85 * event.strength)
        wave[first : first + count] += loudness * (_tone(event.material, t) + _click(t, rng))
    return np.clip(wave, -1, 1).astype(np.float32)


def _tone(material: str, t: Floats) -> Floats:
    parts = [level * np.exp(-t / decay) * np.sin(2 * np.pi * hertz * t) for hertz, level, decay in modes(material)]
    return np.sum(parts, axis=0) * np.minimum(1, (_RING_SECONDS - t) / 0.05)


def _click(t: Floats, rng: np.random.Generator) -> Floats:
    return 0.3 * rng.standard_normal(len(t)) * np.exp(-t / _CLICK_SECONDS) * (t < 8 * _CLICK_SECONDS)

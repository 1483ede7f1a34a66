"""Who speaks: the pitch of a voice and its average spectrum, and how much two voices are alike."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from .clip import SAMPLE_RATE, Floats

_BLOCK, _STEP = 800, 320
_LOWEST, _HIGHEST = 65.0, 420.0
_VOICED = 0.5
_QUIET = 0.02
_BANDS = 28
_PITCH_REACH = 6.0  # semitones at which the pitch counts nothing any more


def portrait(wave: Floats) -> tuple[float, Floats]:
    """Median pitch in Hz and average spectrum of the voiced parts of a sound.

    Args:
        wave: (samples,) at 16 kHz.

    Returns:
        The pitch, NaN where nothing is voiced, and the mean log level of 28 bands, (28,).
    """
    padded = np.pad(wave, (0, max(0, _BLOCK - len(wave))))
    blocks = np.lib.stride_tricks.sliding_window_view(padded, _BLOCK)[::_STEP] * np.hanning(_BLOCK)
    power = np.abs(np.fft.rfft(blocks, 2 * _BLOCK, axis=1)) ** 2
    correlation = np.fft.irfft(power, axis=1)[:, :_BLOCK]
    window = np.fft.irfft(np.abs(np.fft.rfft(np.hanning(_BLOCK), 2 * _BLOCK)) ** 2)[:_BLOCK]
    shortest, longest = int(SAMPLE_RATE / _HIGHEST), int(SAMPLE_RATE / _LOWEST)
    energy = correlation[:, :1]
    normal = correlation[:, shortest:longest] / np.maximum(energy, 1e-12) * (window[0] / window[shortest:longest])
    # The shortest lag that is nearly as good as the best: multiples of the period are as good as the period.
    good = normal >= 0.9 * normal.max(axis=1, keepdims=True)
    first = good.argmax(axis=1)
    ends = (np.arange(normal.shape[1]) < first[:, None] + 12) & (np.arange(normal.shape[1]) >= first[:, None])
    lag = np.where(ends, normal, -1).argmax(axis=1) + shortest
    loud = energy[:, 0] > _QUIET * max(float(energy.max(initial=0)), 1e-9)
    voiced = loud & (normal.max(axis=1) > _VOICED)
    if not voiced.any():
        return float("nan"), np.zeros(_BANDS)
    return float(np.median(SAMPLE_RATE / lag[voiced])), _spectrum(power[voiced])


def _spectrum(power: Floats) -> Floats:
    """Mean log power in bands that widen with frequency, less the mean."""
    edges = np.unique(np.round(np.geomspace(10, power.shape[1], _BANDS + 1)).astype(int))
    mean = power.mean(axis=0)
    bands = np.array([np.log10(mean[low:high].mean() + 1e-9) for low, high in pairwise(edges)])
    return np.asarray(bands - bands.mean())


def likeness(one: tuple[float, Floats], two: tuple[float, Floats]) -> float:
    """How alike two voices are, 0 to 1: half by pitch, half by the correlation of their spectra."""
    (pitch1, spectrum1), (pitch2, spectrum2) = one, two
    if not (np.isfinite(pitch1) and np.isfinite(pitch2)):
        return 0.0
    semitones = abs(12 * np.log2(pitch1 / pitch2))
    correlation = float(np.corrcoef(spectrum1, spectrum2)[0, 1])
    return 0.5 * max(0.0, 1 - semitones / _PITCH_REACH) + 0.5 * max(0.0, correlation)

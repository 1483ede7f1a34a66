"""How far two sounds are apart to the ear: short-time spectra at several windows, phase left out."""

from __future__ import annotations

import torch
from torch import Tensor

FLOOR = 2e-4
"""Magnitudes below, for each sample of the window, count as silence: 62 dB under a full-scale tone. Without a floor, silent
pieces, of which synthetic sound is full, would have all the gradient."""
QUIET = 1e-3
"""What the error of a silent piece is measured against, likewise for each sample of the window."""
EPS = 1e-8
"""Under the root, where its derivative would be infinite."""


def spectral_distance(made: Tensor, truth: Tensor, window: int) -> Tensor:
    """Distance of magnitude spectra, for training a vocoder (spectral convergence and log distance, Yamamoto et al. 2020).

    Args:
        made: (B, S), in [-1, 1]; gradients flow.
        truth: (B, S).
        window: samples of a spectrum; hops are a quarter.

    Returns:
        A scalar: relative distance of the magnitudes, plus the mean distance of their logarithms.

    Raises:
        ValueError: the sounds are shorter than a window.
    """
    if made.shape[-1] < window:
        raise ValueError(f"pieces of {made.shape[-1]} samples are shorter than a spectral window of {window}; cut longer ones")
    a, b = (_magnitudes(wave, window) for wave in (made, truth))
    against = b.square().mean((1, 2)) + (QUIET * window) ** 2
    convergence = ((a - b).square().mean((1, 2)) / against + EPS).sqrt() - EPS**0.5
    # The floor is added, not a bound: a bound would leave a sound that is too quiet without a gradient to grow by.
    floor = FLOOR * window
    return convergence.mean() + ((a + floor).log() - (b + floor).log()).abs().mean()


def _magnitudes(wave: Tensor, window: int) -> Tensor:
    hann = torch.hann_window(window, device=wave.device)
    spectrum = torch.stft(wave.float(), window, hop_length=window // 4, window=hann, center=False, return_complex=True)
    return (spectrum.real.square() + spectrum.imag.square()).add(EPS).sqrt()

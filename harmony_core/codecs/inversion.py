"""Log-mel spectrogram to waveform without weights: single-pass spectrogram inversion (Beauregard, Harish & Wyse, 2015).

The bands are spread over frequencies so that their sums fit; each peak of a spectrum is a partial that goes on from where it
was a frame ago, and the frequencies around it follow its phase. Where a vocoder could be trained for minutes only, this is
the better one by far (docs/training.md): a network learns what phases to give in hundreds of hours of sound.
"""

# B batch, M mel bins, T mel frames, K frequencies, S samples

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..progress import Progress
from .mel import MelConfig, hann_window, mel_basis

FITTING_STEPS = 30
LEAST_POWER = 1e-3  # of the windows that overlap at a sample; only the mirrored ends have less


class Inversion(nn.Module):
    """A vocoder that is computed, not learnt; it has no state."""

    def __init__(self, config: MelConfig) -> None:
        super().__init__()
        self.config = config

    def stream(self, mel: Tensor, *, chunk: int, progress: Progress | None = None) -> Tensor:
        """Sound of a spectrogram, in pieces of bounded memory whose partials go on from one to the next.

        Args:
            mel: (B, mel_bins, T), log10 of magnitudes.
            chunk: frames of a piece.
            progress: told after every piece.

        Returns:
            (B, 1, T * hop) in [-1, 1], float32.

        Raises:
            ValueError: another rank or bin count, no frame, or a chunk of none.
        """
        c = self.config
        if mel.ndim != 3 or mel.shape[1] != c.bins or mel.shape[2] < 1:
            raise ValueError(f"the vocoder takes (batch, {c.bins}, frames), got shape {tuple(mel.shape)}")
        if chunk < 1:
            raise ValueError(f"a chunk has at least 1 frame, got {chunk}")
        mel = mel.float()
        B, _, frames = mel.shape
        window = hann_window(c).to(mel)
        wave = mel.new_zeros(B, (frames - 1) * c.hop + c.n_fft)
        phase = mel.new_zeros(B, c.n_fft // 2 + 1)
        starts = range(0, frames, chunk)
        for done, start in enumerate(starts, 1):
            magnitudes = fitting_magnitudes(mel[:, :, start : start + chunk], c)
            phases, phase = advance(magnitudes, phase, c)
            pieces = torch.fft.irfft(torch.polar(magnitudes, phases), dim=1) * window[:, None]
            summed = _overlap(pieces, c.hop)
            wave[:, start * c.hop : start * c.hop + summed.shape[1]] += summed
            if progress:
                progress(done, len(starts))
        power = _overlap(window.square()[None, :, None].expand(1, -1, frames), c.hop)
        wave = wave / power.clamp(min=LEAST_POWER)
        return wave[:, None, c.padding : c.padding + frames * c.hop].clamp(-1, 1)


def fitting_magnitudes(mel_BMT: Tensor, config: MelConfig) -> Tensor:
    """Magnitudes (B, K, T), none negative, whose bands are those of a log-mel spectrogram: multiplicative updates."""
    basis_MK = mel_basis(config).to(mel_BMT)
    bands = 10**mel_BMT
    wanted = basis_MK.T @ bands
    fitted = bands.mean(1, keepdim=True).expand_as(wanted)
    gram = basis_MK.T @ basis_MK
    tiny = torch.finfo(fitted.dtype).tiny
    for _ in range(FITTING_STEPS):
        fitted = fitted * wanted / (gram @ fitted).clamp(min=tiny)
    return fitted


def advance(magnitudes_BKT: Tensor, phase_BK: Tensor, config: MelConfig) -> tuple[Tensor, Tensor]:
    """Phases of spectra in which every partial goes on.

    Args:
        magnitudes_BKT: of the frames.
        phase_BK: of the partial around each frequency, at the start of the frame before the first.
        config: window and hop.

    Returns:
        Phases (B, K, T), and the partials' at the last frame, (B, K); radians.
    """
    number_K = torch.arange(magnitudes_BKT.shape[1], device=magnitudes_BKT.device)
    phases = []
    for magnitude in magnitudes_BKT.unbind(2):
        place = _places(magnitude)
        nearest = _nearest_peak(magnitude, number_K)
        place, phase_BK = place.gather(1, nearest), phase_BK.gather(1, nearest)
        phase_BK = (phase_BK + 2 * math.pi * config.hop / config.n_fft * place) % (2 * math.pi)
        # The window is centred half its length after the start of the frame: hence half a turn for each frequency between.
        phases.append(phase_BK + math.pi * (place - number_K))
    return torch.stack(phases, 2), phase_BK


def _is_peak(magnitude_BK: Tensor) -> Tensor:
    left, middle, right = magnitude_BK[:, :-2], magnitude_BK[:, 1:-1], magnitude_BK[:, 2:]
    return F.pad((middle > left) & (middle >= right), (1, 1))


def _places(magnitude_BK: Tensor) -> Tensor:
    """Where a peak at each frequency would be, in frequencies: the top of a parabola through three logarithms."""
    log = magnitude_BK.clamp(min=1e-9).log()
    left, middle, right = log[:, :-2], log[:, 1:-1], log[:, 2:]
    bend = (left - 2 * middle + right).clamp(max=-1e-9)
    shift = F.pad((0.5 * (left - right) / bend).clamp(-0.5, 0.5), (1, 1))
    return shift + torch.arange(magnitude_BK.shape[1], device=magnitude_BK.device)


def _nearest_peak(magnitude_BK: Tensor, number_K: Tensor) -> Tensor:
    """The peak nearest to each frequency; frequency 0 where there is none."""
    far = 2 * len(number_K)
    peak = _is_peak(magnitude_BK)
    below = torch.where(peak, number_K, -far).cummax(1).values
    above = -torch.where(peak, -number_K, -far).flip(1).cummax(1).values.flip(1)
    nearest = torch.where(number_K - below <= above - number_K, below, above)
    return torch.where((nearest < 0) | (nearest >= len(number_K)), 0, nearest)


def _overlap(pieces_BST: Tensor, hop: int) -> Tensor:
    """Add pieces (B, S, T), each a hop after the one before: (B, (T - 1) hop + S)."""
    size, count = pieces_BST.shape[1:]
    return F.fold(pieces_BST, (1, (count - 1) * hop + size), (1, size), stride=(1, hop))[:, 0, 0]

"""Waveform to log-mel spectrogram: the audio codec's front end, and the vocoder's input.

The layout is MMAudio's at 16 kHz: magnitudes of a 1024-point transform every 256 samples, 80 triangular bands on Slaney's
scale, log10 above a floor. The signal is mirrored at both ends by (n_fft - hop) / 2, so that a multiple of ``hop`` samples
gives exactly ``samples / hop`` frames, each centred on its hop. Nothing here is learnt and nothing is stored in a file: the
window and the bands follow from :class:`MelConfig`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from ..records import check_most

# B batch, S samples, K frequencies, M mel bins, T mel frames

LINEAR_HZ = 200 / 3  # Slaney's scale: this many Hz a mel up to 1 kHz, a factor of 6.4 in 27 mels from there on
BREAK_HZ = 1000.0
LOG_STEP = math.log(6.4) / 27
MAGNITUDE_EPS = 1e-9  # under the root, where its derivative would be infinite
BLOCK_FRAMES = 8192  # 131 s: the complex spectrum of a long recording is never held whole


@dataclass(frozen=True, kw_only=True)
class MelConfig:
    """The spectrogram's layout.

    Attributes:
        sample_rate: Hz.
        n_fft: samples a frame sees, also the length of its Hann window.
        hop: samples from one frame to the next.
        bins: mel bands.
        low: where the lowest band begins, Hz.
        high: where the highest band ends, Hz.
        floor: magnitudes below this are set to it, before the logarithm.
    """

    sample_rate: int = 16_000
    n_fft: int = 1024
    hop: int = 256
    bins: int = 80
    low: float = 0.0
    high: float = 8000.0
    floor: float = 1e-5

    def __post_init__(self) -> None:
        if min(self.sample_rate, self.n_fft, self.hop, self.bins) < 1:
            raise ValueError(f"mel sizes are at least 1, got {self}")
        check_most(self, "mel", sample_rate=768_000, n_fft=1 << 16, hop=1 << 16, bins=1024)
        if self.n_fft < self.hop or (self.n_fft - self.hop) % 2:
            raise ValueError(f"mel.n_fft {self.n_fft} exceeds mel.hop {self.hop} by an even number")
        if not 0 <= self.low < self.high <= self.sample_rate / 2:
            raise ValueError(f"mel bands lie in 0 .. {self.sample_rate / 2:g} Hz, got {self.low:g} .. {self.high:g}")
        if not self.floor > 0:
            raise ValueError(f"mel.floor is positive, got {self.floor}")

    @property
    def padding(self) -> int:
        """Samples mirrored at each end."""
        return (self.n_fft - self.hop) // 2


def log_mel(waveform: Tensor, config: MelConfig) -> Tensor:
    """The log-mel spectrogram of a waveform; differentiable.

    Args:
        waveform: (B, S), clipped to [-1, 1], at ``config.sample_rate``.
        config: the layout.

    Returns:
        (B, bins, S // hop), log10 of magnitudes, float32 at least.

    Raises:
        ValueError: another rank, or too short to be mirrored at its ends.
    """
    if waveform.ndim != 2:
        raise ValueError(f"a mel spectrogram is made of (batch, samples), got shape {tuple(waveform.shape)}")
    if waveform.shape[1] <= config.padding:
        raise ValueError(f"a mel spectrogram needs more than {config.padding} samples, got {waveform.shape[1]}")
    wave = waveform if waveform.dtype == torch.float64 else waveform.float()
    padded = F.pad(wave.clamp(-1, 1)[:, None], (config.padding, config.padding), mode="reflect")[:, 0]
    frames = waveform.shape[1] // config.hop
    blocks = []
    for start in range(0, frames, BLOCK_FRAMES):
        stop = min(start + BLOCK_FRAMES, frames)
        blocks.append(_log_mel_block(padded[:, start * config.hop : (stop - 1) * config.hop + config.n_fft], config))
    return torch.cat(blocks, dim=2)


def _log_mel_block(padded: Tensor, config: MelConfig) -> Tensor:
    spectrum_BKT = torch.stft(
        padded,
        config.n_fft,
        hop_length=config.hop,
        window=hann_window(config).to(padded),
        center=False,
        return_complex=True,
    )
    magnitude_BKT = torch.sqrt(spectrum_BKT.real.square() + spectrum_BKT.imag.square() + MAGNITUDE_EPS)
    mel_BMT = mel_basis(config).to(padded) @ magnitude_BKT
    return mel_BMT.clamp(min=config.floor).log10()


@lru_cache(maxsize=8)
def hann_window(config: MelConfig) -> Tensor:
    """The periodic Hann window, (n_fft,), float32 on the CPU."""
    # Made outside inference mode: a host that always runs in it would otherwise leave a tensor here that can never take part
    # in training.
    with torch.inference_mode(False):
        return torch.hann_window(config.n_fft, dtype=torch.float64, device="cpu").float()


@lru_cache(maxsize=8)
def mel_basis(config: MelConfig) -> Tensor:
    """Weights of every frequency in every band, (bins, n_fft // 2 + 1), float32 on the CPU.

    Triangles whose corners are evenly spaced in mels, each of area 1 when measured in Hz.
    """
    with torch.inference_mode(False):
        ends = torch.tensor([config.low, config.high], dtype=torch.float64, device="cpu")
        low, high = _hz_to_mel(ends).tolist()
        corners = _mel_to_hz(torch.linspace(low, high, config.bins + 2, dtype=torch.float64, device="cpu"))
        left, peak, right = corners[:-2, None], corners[1:-1, None], corners[2:, None]
        hz = torch.linspace(0, config.sample_rate / 2, config.n_fft // 2 + 1, dtype=torch.float64, device="cpu")
        triangles = torch.minimum((hz - left) / (peak - left), (right - hz) / (right - peak)).clamp(min=0)
        return (triangles * 2 / (right - left)).float()


def _hz_to_mel(hz: Tensor) -> Tensor:
    return torch.where(hz < BREAK_HZ, hz / LINEAR_HZ, BREAK_HZ / LINEAR_HZ + (hz.clamp(min=1) / BREAK_HZ).log() / LOG_STEP)


def _mel_to_hz(mel: Tensor) -> Tensor:
    knee = BREAK_HZ / LINEAR_HZ
    return torch.where(mel < knee, mel * LINEAR_HZ, BREAK_HZ * ((mel - knee) * LOG_STEP).exp())

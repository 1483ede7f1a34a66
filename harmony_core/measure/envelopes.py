"""How much happens at each moment: curves over time, one of the sound and two of the pictures.

Sound: spectral flux, the rise of a compressed spectrum (Bello et al. 2005). Pictures: where something starts to move, as a
mouth that opens does; and where it is hit, so that a motion ends as another begins, which is the visual counterpart of an onset
(Davis and Agrawala 2018, "Visual Rhythm and Beat"). Motion is estimated from brightness gradients, one vector a cell, in
pictures made small, as an estimate holds for motions of about a pixel; beside it stands the plain change of pixels, which
holds for any.
"""

# F pictures, H W size, h w size they are measured at, N moments

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from ..audio_ops import resample
from ..types import Audio

Curve = npt.NDArray[np.float64]

RATE = 100
"""Moments a second of every curve."""
SILENT = 1e-4
"""Root mean square up to which sound is silent; -80 dB."""
STILL = 1 / 255
"""Largest change of a measured pixel up to which pictures are still."""

_HEARD_RATE = 16_000
_WINDOW, _HOP = 512, _HEARD_RATE // RATE
_BLOCK = 4096  # spectra held at once
_PICTURES = 16  # pictures made small at once
_COARSE, _FINE = 16, 32  # of the shorter side
_CELLS = 4  # along the shorter side
_FLATNESS = 0.03  # gradient energy a pixel below which a cell's motion is taken as none
_SMOOTHING = 0.6  # standard deviation, pictures


def heard_curve(audio: Audio, seconds: float) -> Curve:
    """Onset strength of sound.

    Args:
        audio: one sound (1, C, samples); channels are averaged. Loudness does not matter.
        seconds: how long a part from the start; silence where there is no more sound.

    Returns:
        (N,), not negative; zeros where it is silent.
    """
    count = max(1, round(seconds * RATE))
    mono = Audio(audio.waveform[:, :, : round(seconds * audio.sample_rate)].float().mean(1, keepdim=True), audio.sample_rate)
    if not mono.waveform.numel() or float(mono.waveform.square().mean().sqrt()) <= SILENT:
        return np.zeros(count)
    wave = resample(mono, _HEARD_RATE).waveform[0, 0].double().cpu()
    wave = F.pad(wave / wave.abs().max(), (_WINDOW // 2, _WINDOW // 2 + max(0, count * _HOP - wave.shape[0])))
    window = torch.hann_window(_WINDOW, dtype=torch.float64)
    blocks = wave.unfold(0, _WINDOW, _HOP)[:count].split(_BLOCK)
    # Of a tone at full scale the largest value is 1, so that 0.01 of it is where the compression begins to bite.
    levels = torch.cat([torch.log1p(100 * torch.fft.rfft(block * window).abs() / (_WINDOW / 4)) for block in blocks])
    flux = F.pad((levels[2:] - levels[:-2]).clamp(min=0).mean(1), (1, 1))[:count]
    return _smooth(flux.numpy()[:, None], 2.0)[:, 0]


@dataclass(frozen=True)
class Seen:
    """Onset strength of pictures.

    Attributes:
        starts: where something starts to move, (N,).
        hits: where a motion ends as another begins, (N,).
    """

    starts: Curve
    hits: Curve


def seen_curves(pictures: Tensor, fps: float) -> Seen:
    """Onset strength of pictures.

    Args:
        pictures: (F, 3, H, W) in [0, 1], at least 3.
        fps: pictures a second.

    Returns:
        Curves, not negative; zeros where nothing moves.
    """
    count = max(1, round(len(pictures) / fps * RATE))
    coarse, fine = _small(pictures, _COARSE), _small(pictures, _FINE)
    if float(np.abs(np.diff(fine, axis=0)).max()) <= STILL:
        return Seen(np.zeros(count), np.zeros(count))
    stops, begins, rise = _turns(coarse)[0], _turns(fine)[1], _rise(fine)
    # The change between two changes is at the instant of the picture between them, in the middle of its time.
    moments, grid = (np.arange(len(pictures) - 2) + 1.5) / fps, np.arange(count) / RATE
    starts, hits = (_scaled(begins) + _scaled(other) for other in (rise, stops))
    return Seen(*(np.interp(grid, moments, curve, left=0, right=0) for curve in (starts, hits)))


def _small(pictures: Tensor, side: int) -> Curve:
    """Brightness (F, h, w) of pictures made small by averaging; those that are smaller stay."""
    height, width = pictures.shape[2:]
    ratio = min(1.0, side / min(height, width))
    size = max(1, round(height * ratio)), max(1, round(width * ratio))
    parts = [F.adaptive_avg_pool2d(part.float(), size).mean(1) for part in pictures.split(_PICTURES)]
    return torch.cat(parts).double().cpu().numpy()


def _rise(bright: Curve) -> Curve:
    """Rise of pixel change, summed over cells, (F - 2,)."""
    change = _smooth(_by_cells(np.abs(np.diff(bright, axis=0)), _CELLS), _SMOOTHING)
    return np.maximum(0, np.diff(change, axis=0)).sum(1)


def _turns(bright: Curve) -> tuple[Curve, Curve]:
    """How much of each cell's motion is not continued, and how much is no continuation, summed over cells, (F - 2,) each."""
    gradients = (np.gradient(bright, axis=axis) if bright.shape[axis] > 1 else np.zeros_like(bright) for axis in (1, 2))
    dy, dx = ((gradient[1:] + gradient[:-1]) / 2 for gradient in gradients)
    dt = np.diff(bright, axis=0)
    xx, yy, xy, xt, yt = (_by_cells(product, _CELLS) for product in (dx * dx, dy * dy, dx * dy, dx * dt, dy * dt))
    xx, yy = xx + _FLATNESS, yy + _FLATNESS
    determinant = xx * yy - xy * xy
    right = _smooth((xy * yt - yy * xt) / determinant, _SMOOTHING)
    down = _smooth((xy * xt - xx * yt) / determinant, _SMOOTHING)
    speed, tiny = np.hypot(right, down), 1e-9
    along = right[:-1] * right[1:] + down[:-1] * down[1:]
    stops = np.maximum(0, speed[:-1] - along / np.maximum(speed[:-1], tiny)).sum(1)
    begins = np.maximum(0, speed[1:] - along / np.maximum(speed[1:], tiny)).sum(1)
    return stops, begins


def _scaled(values: Curve) -> Curve:
    """With a standard deviation of 1, so that curves add up as equals."""
    deviation = float(values.std())
    return values / deviation if deviation > 0 else values


def _by_cells(values: Curve, cells: int) -> Curve:
    """(F, h, w) averaged over square cells, ``cells`` along the shorter side: (F, number of cells)."""
    side = max(1, min(values.shape[1:]) // cells)
    grid = max(1, values.shape[1] // side), max(1, values.shape[2] // side)
    return F.adaptive_avg_pool2d(torch.from_numpy(values)[:, None], grid)[:, 0].flatten(1).numpy()


def _smooth(values: Curve, deviation: float) -> Curve:
    """Gaussian smoothing over the first of two axes; the ends are held."""
    reach = int(3 * deviation + 0.5)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / deviation) ** 2)
    padded = np.pad(values, ((reach, reach), (0, 0)), mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, len(kernel), axis=0)
    return np.asarray(windows @ (kernel / kernel.sum()))

"""AV-Align (Yariv et al., "Diverse and Aligned Audio-to-Video Generation via Text-to-Video Model Adaptation", 2023).

The moments at which most moves are held against the onsets of sounds, whatever moves or sounds. It is reported because papers
report it and decides nothing: on bouncing balls the picture moves most between impacts.
"""

# F pictures, H W size, T spectra

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..codecs.mel import MelConfig, log_mel
from .clip import Floats

_SCALES = (4, 2, 1)  # of the halved pictures, coarse to fine
_PASSES = 2  # at each scale
_BLOCK = 5  # pixels that are taken to move alike
_NOISE = 1e-3  # squared slope below which nothing is seen to move
_MEL = MelConfig(n_fft=512, hop=256, bins=64, floor=1e-4)
_RATE = _MEL.sample_rate / _MEL.hop
_AROUND, _WIDER = 2, 6  # spectra, 0.03 and 0.1 s: an onset is the highest of the near ones and stands out of the wider
_STANDS_OUT = 0.07


def motion_peaks(frames: Tensor, fps: float) -> Floats:
    """Times at which the optical flow is larger than in the pictures before and after, (n,), seconds.

    The flow is that of Lucas and Kanade, coarse to fine.

    Args:
        frames: (3, F, H, W) in [-1, 1].
        fps: pictures a second.
    """
    if frames.shape[1] < 4:
        return np.zeros(0)
    small = F.avg_pool2d(frames.float().transpose(0, 1), 2)
    flow = optical_flow(small[:-1], small[1:]).norm(dim=1).mean(dim=(1, 2)).numpy()
    peaks = [k for k in range(1, len(flow) - 1) if flow[k - 1] < flow[k] > flow[k + 1]]
    return np.asarray([(k + 1) / fps for k in peaks], dtype=np.float64)  # between pictures k and k + 1


def optical_flow(before: Tensor, after: Tensor) -> Tensor:
    """How far each pixel has moved, (F, 2, H, W), x and y in pixels (Lucas & Kanade, 1981, with a pyramid).

    Args:
        before: (F, 3, H, W) in [-1, 1], sides multiples of 4.
        after: the pictures that follow, likewise.
    """
    flow = before.new_zeros(len(before), 2, before.shape[2] // _SCALES[0] // 2, before.shape[3] // _SCALES[0] // 2)
    for scale in _SCALES:
        one, two = (F.avg_pool2d(x, scale) for x in (before, after))
        flow = 2 * F.interpolate(flow, size=one.shape[2:], mode="bilinear")
        for _ in range(_PASSES):
            flow = flow + _correction(one, _moved(two, flow))
    return flow


def _moved(pictures: Tensor, flow: Tensor) -> Tensor:
    """Pictures taken back along their flow."""
    height, width = pictures.shape[2:]
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    grid = torch.stack([(x + flow[:, 0]) * 2 / width - 1, (y + flow[:, 1]) * 2 / height - 1], dim=-1)
    return F.grid_sample(pictures, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _correction(one: Tensor, two: Tensor) -> Tensor:
    """The way that best explains, to first order, how two pictures differ; at most a pixel."""
    both = F.pad((one + two) / 2, (1, 1, 1, 1), mode="replicate")
    x, y = (both[:, :, 1:-1, 2:] - both[:, :, 1:-1, :-2]) / 2, (both[:, :, 2:, 1:-1] - both[:, :, :-2, 1:-1]) / 2
    t = two - one
    sums = torch.stack([x * x, x * y, y * y, x * t, y * t], dim=1).sum(dim=2)
    xx, xy, yy, xt, yt = F.avg_pool2d(sums, _BLOCK, stride=1, padding=_BLOCK // 2).unbind(dim=1)
    xx, yy = xx + _NOISE, yy + _NOISE
    determinant = xx * yy - xy * xy
    way = torch.stack([xy * yt - yy * xt, xy * xt - xx * yt], dim=1) / determinant[:, None]
    return way.clamp(-1, 1)


def sound_onsets(wave: Tensor) -> Floats:
    """Times at which the spectrum grows all at once, (n,), seconds.

    Args:
        wave: (1, samples) in [-1, 1] at 16 kHz.
    """
    growth = log_mel(wave.float(), _MEL)[0].diff(dim=-1).clamp(min=0).mean(dim=0).double().numpy()
    if not len(growth) or growth.max() <= 0:
        return np.zeros(0)
    growth = growth / growth.max()
    onsets: list[int] = []
    for k, value in enumerate(growth):
        near, wide = growth[max(0, k - _AROUND) : k + _AROUND + 1], growth[max(0, k - _WIDER) : k + _WIDER + 1]
        if value == near.max() and value > wide.mean() + _STANDS_OUT and (not onsets or k - onsets[-1] > _AROUND):
            onsets.append(k)
    return np.asarray([(k + 1.5) / _RATE for k in onsets], dtype=np.float64)  # when the louder spectrum is heard


def av_align(peaks: Floats, onsets: Floats, fps: float) -> tuple[float, float]:
    """Intersection over union of both, as a fraction of one clip: (0, 0) where nothing moves nor sounds.

    Args:
        peaks: of the motion, seconds.
        onsets: of the sound, seconds; one is in the intersection with a peak less than a picture away.
        fps: pictures a second.
    """
    both = sum(bool((np.abs(peaks - onset) < 1 / fps).any()) for onset in onsets)
    union = len(peaks) + len(onsets) - both
    return (both / union, 1.0) if union else (0.0, 0.0)

"""From sound-source maps of a few cells a latent to smooth masks of every picture (Figure 6 of the paper, made usable).

A map says how the attention of a moment's sound is spread over coarse cells. It becomes a mask by going from latent to latent
in time rather than jumping, by smooth interpolation in space, and by taking away what every cell gets alike.
"""

# B clips, T video latents in time, F pictures, h and w cells, H and W pixels

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ..types import AV

LISTENING = AV(0.3, 0.9)
"""How much of a stream is noise when the model is asked what in it reads the other, which is given."""
_HEAT = (1.0, 0.4, 0.0)
"""Orange, in [0, 1]."""
_SMOOTH_SIDE = 128  # pixels of the shorter side at which masks are smoothed: they have no finer detail
_DIM = 0.6  # how bright the overlay leaves what is no source


def agreement(*maps: Tensor) -> Tensor:
    """What several maps of the same clips agree on: by how much a cell gets more than its even share of a latent.

    Args:
        maps: (B, T, h, w) each, not negative.

    Returns:
        (B, T, h, w): the geometric mean of the shares, less the even share; 0 where it is less.
    """
    tiny = torch.finfo(torch.float32).tiny
    shares = [one.float() / one.float().sum(dim=(2, 3), keepdim=True).clamp(min=tiny) for one in maps]
    mean = torch.stack(shares).prod(0) ** (1 / len(shares))
    return (mean - 1 / (mean.shape[2] * mean.shape[3])).clamp(min=0)


def source_masks(
    maps: Tensor,
    size: tuple[int, int],
    *,
    fps: float,
    frame_stride: int,
    floor: float = 0.1,
    seconds: float = 0.1,
    spread: float = 0.0,
) -> Tensor:
    """Masks of where the sound comes from.

    Args:
        maps: (B, T, h, w), not negative; see :meth:`.sound_map.SoundMapRecorder.maps`.
        size: height and width of the masks, pixels.
        fps: pictures a second.
        frame_stride: pictures that a latent after the first covers.
        floor: share of a clip's strongest value that counts as nothing, 0 to below 1.
        seconds: standard deviation of the smoothing over time.
        spread: of the smoothing over the picture, in shorter sides of the picture.

    Returns:
        (B, F, H, W) in [0, 1], F = 1 + ``frame_stride`` (T - 1), float32; about 1 at a clip's strongest point.

    Raises:
        ValueError: the maps are of another rank, or a setting is out of range.
    """
    if maps.ndim != 4 or not 0 <= floor < 1 or seconds < 0 or spread < 0:
        raise ValueError(
            f"maps are (clips, latents, rows, columns), floor is in [0, 1), seconds and spread are not negative, "
            f"got {tuple(maps.shape)}, {floor}, {seconds} and {spread}"
        )
    maps = _smooth(_per_picture(maps.float(), frame_stride), 1, seconds * fps)
    ratio = min(1.0, _SMOOTH_SIDE / min(size))
    small = round(size[0] * ratio), round(size[1] * ratio)
    masks = torch.stack([_enlarged(one, small, "bicubic") for one in maps])
    deviation = spread * min(small)
    masks = _smooth(_smooth(masks, 2, deviation), 3, deviation)
    peak = masks.amax(dim=(1, 2, 3), keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
    masks = ((masks / peak - floor) / (1 - floor)).clamp(0, 1)
    return masks if small == size else torch.stack([_enlarged(one, size, "bilinear") for one in masks])


def overlay(pictures: Tensor, masks: Tensor, strength: float) -> Tensor:
    """Pictures with their mask over them: dimmed where it is low, towards orange where it is high.

    Args:
        pictures: (F, H, W, 3) in [0, 1].
        masks: (F, H, W) in [0, 1].
        strength: 0 for the pictures as they are, to 1.

    Returns:
        (F, H, W, 3) in [0, 1].
    """
    share = masks[..., None].to(pictures)
    dimmed = pictures * (1 - strength * (1 - _DIM) * (1 - share))
    return torch.lerp(dimmed, pictures.new_tensor(_HEAT).expand_as(pictures), 0.75 * strength * share)


def _per_picture(maps: Tensor, stride: int) -> Tensor:
    """(B, T, h, w) to (B, F, h, w): a latent holds in the middle of the pictures it covers, and between two it is blended."""
    latents = maps.shape[1]
    pictures = torch.arange(1 + stride * (latents - 1), dtype=torch.float32)
    # Latent 0 is picture 0; latent j is in the middle of pictures stride (j - 1) + 1 to stride j.
    middles = torch.arange(latents) * stride - (stride - 1) / 2
    middles[0] = 0
    after = torch.searchsorted(middles, pictures).clamp(1, max(1, latents - 1))
    if latents == 1:
        return maps
    before = after - 1
    share = ((pictures - middles[before]) / (middles[after] - middles[before])).clamp(0, 1).view(-1, 1, 1)
    return torch.lerp(maps[:, before], maps[:, after], share)


def _enlarged(maps: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    """(F, h, w) to (F, H, W), not negative."""
    return F.interpolate(maps[:, None], size=size, mode=mode, align_corners=False)[:, 0].clamp_(min=0)


def _smooth(values: Tensor, axis: int, deviation: float) -> Tensor:
    """Gaussian smoothing along one axis; the ends are held."""
    reach = min(math.ceil(3 * deviation), values.shape[axis] - 1) if deviation > 0.1 else 0
    if not reach:
        return values
    kernel = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / deviation) ** 2)
    rows = values.movedim(axis, -1)
    shape = rows.shape
    padded = F.pad(rows.reshape(-1, 1, shape[-1]), (reach, reach), mode="replicate")
    return F.conv1d(padded, (kernel / kernel.sum()).view(1, 1, -1)).view(shape).movedim(-1, axis)

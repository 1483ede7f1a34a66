"""The convolutions of the video codec with fewer multiplications, for the CPU.

On a CPU the codec is bound by arithmetic, and two of its sums can be had for less, exactly but for rounding:

* a kernel three frames deep takes four products instead of six for every two frames (Winograd's F(2, 3), along time only:
  along height and width the transforms would cost more memory traffic than they save arithmetic);
* nearest upsampling followed by a 3 x 3 kernel is one transposed convolution, which meets every source pixel 16 times
  instead of 36 and never writes the enlarged picture.

Both are used only where the layer is torch's own and no gradient is wanted; a host's layer (casting, offload, patches) is
called as it is.
"""

# B batch, C and O channels in and out, T frames, P pairs of frames, H height, W width

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Rearranging a kernel costs as much as using it on this many voxels, whatever its width.
LEAST_VOXELS = 1024
# Below this many channels a sum of pictures is cheaper than the three-dimensional layer at any size: torch's is not blocked.
NARROW = 64


def frames_of(x: Tensor) -> Tensor:
    """A clip (B, C, T, H, W) as its pictures (B T, C, H, W); free for a channels-last clip."""
    return x.transpose(1, 2).flatten(0, 1)


def clip_of(pictures: Tensor, batch: int) -> Tensor:
    """Pictures (B T, C, H, W) as a clip (B, C, T, H, W); undoes :func:`frames_of`."""
    return pictures.unflatten(0, (batch, -1)).transpose(1, 2)


def empty_clip(like: Tensor, channels: int, frames: int) -> Tensor:
    """An unwritten channels-last clip of the batch, size, dtype and device of ``like``."""
    B, _, _, H, W = like.shape
    return like.new_empty((B, frames, H, W, channels)).movedim(-1, 1)


def convolve(conv: Any, x: Tensor, *, fresh: bool) -> Tensor:
    """Apply a layer three frames deep to a clip whose two frames of past are in front of it.

    Args:
        conv: a ``Conv3d`` of 3 x 3 x 3 or 3 x 1 x 1 that keeps height and width and does not pad time.
        x: (B, C, T + 2, H, W).
        fresh: the two frames in front are zeros, because the clip begins here.

    Returns:
        (B, O, T, H, W).
    """
    B, C, T, H, W = x.shape
    voxels, narrow = B * (T - 2) * H * W, min(C, conv.out_channels) < NARROW
    if not _is_plain(conv, nn.Conv3d, x) or not (narrow or fresh or voxels >= LEAST_VOXELS):
        return conv(x)
    if T == 3:
        return _one_frame(conv, x, taps=(2,) if fresh else (0, 1, 2))
    return _in_pairs(conv, x)


def upsample(conv: Any, x: Tensor) -> Tensor:
    """Double height and width by repeating pixels, then apply a 3 x 3 layer.

    Args:
        conv: a ``Conv2d`` with padding 1.
        x: pictures (N, C, H, W).

    Returns:
        (N, O, 2 H, 2 W).
    """
    if not _is_plain(conv, nn.Conv2d, x):
        return conv(F.interpolate(x, scale_factor=2.0, mode="nearest-exact"))
    turned = conv.weight.flip(2, 3).transpose(0, 1)
    spread = turned.new_zeros(*turned.shape[:2], 4, 4)
    for row in (0, 1):
        for column in (0, 1):
            spread[:, :, row : row + 3, column : column + 3] += turned
    spread = spread.contiguous(memory_format=torch.channels_last)
    return F.conv_transpose2d(x, spread, conv.bias, stride=2, padding=1)


def _is_plain(conv: nn.Module, kind: type[nn.Module], x: Tensor) -> bool:
    return (
        type(conv) is kind
        and x.device.type == "cpu"
        and x.dtype == conv.weight.dtype == torch.float32
        and not torch.is_grad_enabled()
    )


def _one_frame(conv: Any, x: Tensor, taps: tuple[int, ...]) -> Tensor:
    """One frame of output: a sum over the frames of past that are not zero."""
    B = x.shape[0]
    first, *others = taps
    sums = F.conv2d(x[:, :, first], _slice(conv.weight[:, :, first]), conv.bias, padding=conv.padding[1:])
    for tap in others:
        sums += F.conv2d(x[:, :, tap], _slice(conv.weight[:, :, tap]), padding=conv.padding[1:])
    return clip_of(sums, B)


def _in_pairs(conv: Any, x: Tensor) -> Tensor:
    """Two frames of output from four of input by four products.

    With frames d0..d3 and the kernel's slices g0..g2 in time, ``y0 = d0 g0 + d1 g1 + d2 g2`` and
    ``y1 = d1 g0 + d2 g1 + d3 g2`` are ``m0 + m1 + m2`` and ``m1 - m2 - m3`` of the products below.
    """
    B, _, T, _, _ = x.shape
    P = (T - 2) // 2
    d0, d1, d2, d3 = (x[:, :, at : at + 2 * P - 1 : 2] for at in range(4))
    g0, g1, g2 = conv.weight.unbind(2)
    out = empty_clip(x, conv.out_channels, T - 2)
    even, odd = out[:, :, 0 : 2 * P : 2], out[:, :, 1 : 2 * P : 2]

    def product(frames: Tensor, kernel: Tensor, bias: Tensor | None = None) -> Tensor:
        return clip_of(F.conv2d(frames_of(frames), _slice(kernel), bias, padding=conv.padding[1:]), B)

    outer = g0 + g2
    m1 = product(d1 + d2, (outer + g1).mul_(0.5), conv.bias)
    m2 = product(d2 - d1, outer.sub_(g1).mul_(0.5))
    torch.add(m1, m2, out=even)
    torch.sub(m1, m2, out=odd)
    del m1, m2, outer
    even += product(d0 - d2, g0)
    odd -= product(d1 - d3, g2)
    if T % 2:
        out[:, :, -1:] = _one_frame(conv, x[:, :, -3:], taps=(0, 1, 2))
    return out


def _slice(kernel: Tensor) -> Tensor:
    return kernel.contiguous(memory_format=torch.channels_last)

"""Rotary position embedding along any number of axes.

A position on an axis turns pairs of channels of a head by angles that fall off geometrically; several axes (time, height,
width) share the head's channels between them. Positions are real numbers: a source token can be put at its exact place on
another stream's time axis.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

# B batch, L tokens, N heads, D channels of a head, R rotated pairs


def split_channels(head_dim: int) -> tuple[int, int, int]:
    """Channels for time, height and width as Wan shares them out: 128 becomes 44, 42, 42."""
    side = 2 * (head_dim // 6)
    return head_dim - 2 * side, side, side


def rotation(positions: Sequence[Tensor], channels: Sequence[int], *, theta: float, scale: float = 1.0) -> Tensor:
    """The unit complex numbers that turn a token's channel pairs.

    Args:
        positions: for every axis the positions of all tokens, (L,).
        channels: for every axis the number of channels it turns, even.
        theta: base of the geometric series of frequencies.
        scale: multiplies every frequency.

    Returns:
        (L, 1, R) complex64, to broadcast over heads; R is half the sum of ``channels``.
    """
    angles = []
    for position, width in zip(positions, channels, strict=True):
        exponent = torch.arange(0, width, 2, dtype=torch.float64, device="cpu") / width
        frequency = scale / theta**exponent
        angles.append(position.double().cpu()[:, None] * frequency)
    angle_LR = torch.cat(angles, dim=1)
    return torch.polar(torch.ones_like(angle_LR), angle_LR).to(torch.complex64)[:, None, :]


def rotate(x: Tensor, turn: Tensor) -> Tensor:
    """Turn the first ``2 R`` channels of each head; the others pass.

    Args:
        x: (B, L, N, D).
        turn: (L, 1, R) complex, see :func:`rotation`, on the device of ``x``.

    Returns:
        As ``x``, in its dtype.
    """
    width = 2 * turn.shape[-1]
    if width < x.shape[-1]:
        return torch.cat([rotate(x[..., :width], turn), x[..., width:]], dim=-1)
    # One complex product is several times quicker than its real form where it exists; compilers and Apple's GPUs want the
    # real one.
    if x.device.type == "mps" or torch.compiler.is_compiling():
        return _rotate_real(x, turn)
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * turn).flatten(-2).to(x.dtype)


def _rotate_real(x: Tensor, turn: Tensor) -> Tensor:
    first, second = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = torch.view_as_real(turn).unbind(-1)
    return torch.stack([first * cos - second * sin, first * sin + second * cos], dim=-1).flatten(-2).to(x.dtype)

"""Modulation by time: every group of tokens that shares a time shares a scale, a shift and a gate.

Groups, not tokens, because the tokens of one latent frame share their time: the modulation of 27,280 video tokens is 31
rows. A time for all tokens is one group, a time per token is as many groups as tokens.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

# B batch, G groups, L tokens (a multiple of G), C width

MAX_PERIOD = 10_000.0
TIME_SCALE = 1000.0
"""Published Wan weights count time from 0 to 1000; sigma counts from 0 to 1."""


def sinusoidal(position: Tensor, width: int) -> Tensor:
    """Cosines then sines of ``position`` at geometrically falling frequencies, in float32.

    Args:
        position: any shape.
        width: number of features, even.

    Returns:
        ``position``'s shape with ``width`` features appended.
    """
    half = width // 2
    exponent = torch.arange(half, dtype=torch.float32, device=position.device) / half
    angle = position.float()[..., None] * torch.exp(-math.log(MAX_PERIOD) * exponent)
    return torch.cat([angle.cos(), angle.sin()], dim=-1)


def modulate(x_BLC: Tensor, shift_BGC: Tensor, scale_BGC: Tensor) -> Tensor:
    """``x (1 + scale) + shift``, group by group."""
    x = x_BLC.unflatten(1, (shift_BGC.shape[1], -1))
    return torch.addcmul(shift_BGC[:, :, None], x, 1 + scale_BGC[:, :, None]).flatten(1, 2)


def add_gated(x_BLC: Tensor, y_BLC: Tensor, gate_BGC: Tensor) -> Tensor:
    """``x + gate y``, group by group."""
    x, y = (z.unflatten(1, (gate_BGC.shape[1], -1)) for z in (x_BLC, y_BLC))
    return torch.addcmul(x, y, gate_BGC[:, :, None]).flatten(1, 2)

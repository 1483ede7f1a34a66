"""Averaged weights: what is sampled from, steadier than the last step's."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class Ema:
    """An exponential moving average of parameters, float32.

    Attributes:
        weights: the averages, by parameter name.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], decay: float) -> None:
        self.decay = decay
        self.weights: dict[str, Tensor] = {name: p.detach().clone() for name, p in parameters.items()}

    @torch.no_grad()
    def update(self, parameters: Mapping[str, nn.Parameter], step: int) -> None:
        """Take in parameters after ``step`` steps; the decay rises to its value, so that the start is forgotten."""
        share = 1 - min(self.decay, (1 + step) / (10 + step))
        for name, parameter in parameters.items():
            self.weights[name].lerp_(parameter.detach(), share)

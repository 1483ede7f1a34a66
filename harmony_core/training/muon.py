"""Muon (Jordan et al. 2024): the momentum of each weight matrix is made orthogonal before it is applied; the rest by AdamW.

On the small codecs trained here a step of it is worth two and more of AdamW's (docs/training.md).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from .parts import is_weight

MOMENTUM = 0.95
ITERATIONS = 5
QUINTIC = (3.4445, -4.7750, 2.0315)
"""Coefficients of the odd polynomial that drives singular values from anywhere in (0, 1] to about 1; Jordan's."""
MATCH = 0.2
"""Root mean square of AdamW's typical update over its learning rate: with it both share one (Liu et al. 2025)."""


class Muon(torch.optim.AdamW):
    """AdamW, but for groups with ``orthogonal`` true, whose parameters (rows, ...) are taken as matrices."""

    def __init__(self, groups: Iterable[dict[str, Any]], *, lr: float, betas: tuple[float, float]) -> None:
        super().__init__(groups, lr=lr, betas=betas)
        for group in self.param_groups:
            group.setdefault("orthogonal", False)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Apply the gradients; those of orthogonal groups are used up."""
        assert closure is None
        for group in self.param_groups:
            for parameter in group["params"] if group["orthogonal"] else ():
                if parameter.grad is not None:
                    self._turn(parameter, group["lr"], group["weight_decay"])
                    parameter.grad = None
        super().step()

    def _turn(self, parameter: Tensor, lr: float, decay: float) -> None:
        gradient, momentum = parameter.grad, self.state[parameter]["momentum"]
        assert gradient is not None
        momentum.lerp_(gradient, 1 - MOMENTUM)
        update = orthogonal(gradient.lerp(momentum, MOMENTUM).flatten(1))
        parameter.mul_(1 - lr * decay)
        parameter.add_(update.view_as(parameter), alpha=-lr * MATCH * max(update.shape) ** 0.5)


def is_matrix(name: str, parameter: nn.Parameter) -> bool:
    """Whether Muon is for this parameter: a matrix or kernel inside the network, not an embedding, a head or a table."""
    inside = not any(part in name for part in ("embedding", "head"))
    return inside and is_weight(name, parameter) and parameter.shape[0] > 1


def orthogonal(x: Tensor) -> Tensor:
    """About the nearest matrix with orthogonal rows or columns, by five Newton-Schulz iterations."""
    a, b, c = QUINTIC
    tall = x.shape[0] > x.shape[1]
    y = x.T if tall else x
    y = y / (y.norm() + 1e-7)
    for _ in range(ITERATIONS):
        square = y @ y.T
        y = a * y + (b * square + c * square @ square) @ y
    return y.T if tall else y

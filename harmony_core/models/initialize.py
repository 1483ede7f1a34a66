"""Weights to start training from, drawn from one seed, the same on every machine and in every dtype."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor, nn


def initialize(model: nn.Module, seed: int) -> None:
    """Set every weight of a joint model.

    As Wan does it: Xavier for projections, a small normal for embeddings of time, text and symbols, zero biases, zero for the
    heads, unit scales. Interactions are made silent by the caller.
    """
    generator = torch.Generator("cpu").manual_seed(seed)
    for name, module in model.named_modules():
        weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
        if isinstance(bias, nn.Parameter):
            nn.init.zeros_(bias)
        if not isinstance(weight, nn.Parameter):
            continue
        if weight.ndim == 1:
            nn.init.ones_(weight)
        elif name.endswith("head.head"):
            nn.init.zeros_(weight)
        elif isinstance(module, nn.Embedding) or "text_embedding" in name or "time_embedding" in name:
            _normal(weight, 0.02, generator)
        else:
            bound = math.sqrt(6 / (weight.shape[0] + weight[0].numel()))
            _put(weight, (2 * torch.rand(weight.shape, generator=generator) - 1) * bound)
    for name, parameter in model.named_parameters():
        leaf = name.rsplit(".", 1)[-1]
        if leaf == "modulation":
            _normal(parameter, parameter.shape[-1] ** -0.5, generator)
        elif leaf == "style_tokens" or name.startswith("null."):
            _normal(parameter, 0.02, generator)
        elif leaf in {"gamma", "beta"}:
            nn.init.zeros_(parameter)


def _normal(parameter: nn.Parameter, deviation: float, generator: Generator) -> None:
    _put(parameter, torch.randn(parameter.shape, generator=generator) * deviation)


def _put(parameter: nn.Parameter, values: Tensor) -> None:
    with torch.no_grad():
        parameter.copy_(values)

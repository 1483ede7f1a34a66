"""Weights to start training from, drawn from one seed, the same on every machine."""

from __future__ import annotations

import torch
from torch import nn


def initialize(model: nn.Module, seed: int) -> None:
    """Set every weight of a joint model.

    As Wan does it: Xavier for projections, a small normal for embeddings of time, text and symbols, zero biases, zero for the
    heads, unit scales. Interactions are made silent by the caller.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        if not isinstance(weight, nn.Parameter):
            continue
        if weight.ndim == 1:
            nn.init.ones_(weight)
        elif name.endswith("head.head"):
            nn.init.zeros_(weight)
        elif isinstance(module, nn.Embedding) or "text_embedding" in name or "time_embedding" in name:
            nn.init.normal_(weight, std=0.02, generator=generator)
        else:
            nn.init.xavier_uniform_(weight.view(weight.shape[0], -1), generator=generator)
        bias = getattr(module, "bias", None)
        if isinstance(bias, nn.Parameter):
            nn.init.zeros_(bias)
    for name, parameter in model.named_parameters():
        leaf = name.rsplit(".", 1)[-1]
        if leaf == "modulation":
            nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5, generator=generator)
        elif leaf == "style_tokens" or name.startswith("null."):
            nn.init.normal_(parameter, std=0.02, generator=generator)
        elif leaf in {"gamma", "beta"}:
            nn.init.zeros_(parameter)

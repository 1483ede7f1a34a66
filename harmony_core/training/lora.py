"""Training of a LoRA: a pair of thin matrices beside each of a model's linear layers, in place of the model's own weights.

A layer's output becomes ``W x + alpha / rank * up(down(x))``. ``up`` starts at zero, so that the first step sees the model as
it is; its weights have no gradient and are never written. What is trained, averaged and kept in checkpoints are the pairs
alone.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from ..models.harmony import Harmony
from ..records import to_record
from ..weights.lora import Change
from .config import LoraConfig

FILE = "lora.safetensors"
LORA_KEY = "harmony.lora"
_SEPARATOR = "/"  # a module's name has no dot
_SHOWN = 3


class Pair(nn.Module):
    """The change of one layer."""

    def __init__(self, layer: nn.Linear, config: LoraConfig, generator: Generator) -> None:
        super().__init__()
        bound = 1 / math.sqrt(layer.in_features)
        drawn = torch.rand(config.rank, layer.in_features, generator=generator)
        self.down = nn.Parameter((2 * drawn - 1) * bound)
        self.up = nn.Parameter(torch.zeros(layer.out_features, config.rank))
        self.scale = config.alpha / config.rank

    def added(self, _layer: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        """The layer's output with the change, as a hook after its forward pass."""
        return output + self.scale * F.linear(F.linear(inputs[0], self.down), self.up)


class Pairs(nn.Module):
    """The pairs of a model's layers; the module that is trained."""

    def __init__(self, model: Harmony, config: LoraConfig, seed: int) -> None:
        """Make them and put them on the model, whose own weights are no longer trained.

        Args:
            model: to put them on.
            config: rank and layers.
            seed: of the first weights.

        Raises:
            ValueError: a target is no layer's name.
        """
        super().__init__()
        model.requires_grad_(False)
        generator = torch.Generator("cpu").manual_seed(seed)
        layers = targets(model, config)
        made = {name.replace(".", _SEPARATOR): Pair(layer, config, generator) for name, layer in layers.items()}
        self.pairs = nn.ModuleDict(made)
        for pair, layer in zip(made.values(), layers.values(), strict=True):
            layer.register_forward_hook(pair.added)


def targets(model: Harmony, config: LoraConfig) -> dict[str, nn.Linear]:
    """The layers that get a pair, by name.

    Raises:
        ValueError: a target is no layer's name.
    """
    linear = {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Linear)}
    for target in config.targets:
        if not any(fnmatchcase(name, target) for name in linear):
            such = ", ".join(list(linear)[:_SHOWN])
            raise ValueError(f"config.lora.targets: no linear layer of this model is called {target!r}; there are {such}, ...")
    return {name: layer for name, layer in linear.items() if any(fnmatchcase(name, target) for target in config.targets)}


def changes(config: LoraConfig, weights: Mapping[str, Tensor]) -> dict[str, Change]:
    """The state of :class:`Pairs` as changes of the model's layers."""
    layers = {key.split(".")[1] for key in weights}
    return {
        layer.replace(_SEPARATOR, "."): Change(
            down=weights[f"pairs.{layer}.down"], up=weights[f"pairs.{layer}.up"], alpha=config.alpha
        )
        for layer in sorted(layers)
    }


def lora_metadata(config: LoraConfig, *, title: str) -> dict[str, str]:
    """As the metadata of a LoRA's file."""
    return {
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": "harmony/lora",
        "modelspec.title": title,
        LORA_KEY: json.dumps(to_record(config), sort_keys=True),
    }

"""How weights are stored: in eight bits where that is chosen, or as ComfyUI's quantised layers.

A quantised layer has beside its weight a note of its format and its scales; ComfyUI's mixed-precision operations read both.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import comfy.model_management
import comfy.utils
import torch
from torch import Tensor, nn

from ...harmony_core.models.harmony import Harmony
from ...harmony_core.runtime import Runtime
from ...harmony_core.weights.checkpoint import CODEC_PARTS, Checkpoint
from ...harmony_core.weights.files import check_keys

DTYPES: Mapping[str, torch.dtype | None] = {
    "default": None,
    "fp8_e4m3fn": torch.float8_e4m3fn,
    "fp8_e5m2": torch.float8_e5m2,
}
"""What the widget offers, by what it is."""
EIGHT_BITS = frozenset({torch.float8_e4m3fn, torch.float8_e5m2})
SUPPORTED = [torch.bfloat16, torch.float32]
"""To compute in; Wan's blocks overflow in float16."""
NOTE = ".comfy_quant"
OLD_NOTE = "scaled_fp8"


class EightBitMatrices:
    """Layer classes that store the matrices of linear layers in eight bits.

    They are nearly all there is. What is left keeps its precision: eight bits of a scale or a bias cost more than they save.
    """

    def __init__(self, operations: Any, dtype: torch.dtype) -> None:
        self._operations = operations
        self._dtype = dtype

    def __getattr__(self, name: str) -> Any:
        return getattr(self._operations, name)

    def Linear(self, inputs: int, outputs: int, *, bias: bool, device: Any, dtype: torch.dtype | None) -> Any:  # noqa: N802
        """A linear layer; ``dtype`` is its bias's."""
        layer = self._operations.Linear(inputs, outputs, bias=bias, device=device, dtype=self._dtype)
        if layer.bias is not None:
            layer.bias = nn.Parameter(layer.bias.to(dtype))
        # Where layers are empty until their weights come, this is what those become.
        layer.bias_comfy_model_dtype = dtype
        return layer


def dtypes_of(
    weights: Mapping[str, Tensor], chosen: torch.dtype | None, *, quantised: bool, device: torch.device
) -> tuple[torch.dtype, torch.dtype | None]:
    """What weights are stored in, and what they are cast to where that is another.

    Args:
        weights: as they are in the file.
        chosen: by the user; None for what suits.
        quantised: whether layers say themselves how they are stored; then nobody else does.
        device: where they compute.
    """
    management, free = comfy.model_management, not quantised
    dtype = (chosen if free else None) or management.unet_dtype(
        model_params=comfy.utils.calculate_parameters(weights),
        supported_dtypes=SUPPORTED,
        weight_dtype=comfy.utils.weight_dtype(weights) if free else None,
    )
    return dtype, management.unet_manual_cast(dtype if free else None, device, SUPPORTED)


def with_notes(checkpoint: Checkpoint) -> Checkpoint:
    """The same with every quantised layer's format noted beside it, however the file says it."""
    if OLD_NOTE not in checkpoint.tensors and "_quantization_metadata" not in checkpoint.metadata:
        return checkpoint
    try:
        tensors, _ = comfy.utils.convert_old_quants(dict(checkpoint.tensors), "", metadata=dict(checkpoint.metadata))
    except (json.JSONDecodeError, KeyError, AttributeError) as error:
        raise ValueError(f"what its metadata says of quantised layers cannot be read ({error!r})") from error
    return replace(checkpoint, tensors=tensors)


def quantised_layers(weights: Mapping[str, Tensor]) -> set[str]:
    """The names of the layers that have a note."""
    return {key.removesuffix(NOTE) for key in weights if key.endswith(NOTE)}


def model_weights(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """The weights of the model alone, seen to fit its config.

    Raises:
        ValueError: weights are missing, left over or of another shape; they are named.
    """
    weights = {key: value for key, value in checkpoint.tensors.items() if not key.startswith(CODEC_PARTS)}
    layers = quantised_layers(weights)
    # Layers inside ComfyUI may be empty until their weights come: what is wanted is asked of plain ones.
    wanted = {key: tuple(value.shape) for key, value in Harmony(checkpoint.config, Runtime(device="meta")).state_dict().items()}
    given: dict[str, tuple[int, ...]] = {}
    for key, value in weights.items():
        layer, _, name = key.rpartition(".")
        if layer not in layers:
            given[key] = tuple(value.shape)
        elif name in {"weight", "bias"}:
            # Some formats pack values, and their shape is the format's.
            given[key] = wanted.get(key, tuple(value.shape))
    check_keys(wanted, given, what="this model")
    return weights

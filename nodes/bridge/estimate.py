"""About how much memory a checkpoint takes at a size; found out from the header of its file, so no weights are read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import comfy.model_management
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ...harmony_core.config import HarmonyConfig
from ...harmony_core.geometry import ClipSpec
from ...harmony_core.shown import shown
from ...harmony_core.types import AV
from ...harmony_core.weights.checkpoint import CODEC_PARTS
from ...harmony_core.weights.ovi import holds_ovi
from .memory import step_bytes
from .ovi import header_of_ovi
from .saved import KEY, of_model
from .stored import DTYPES, EIGHT_BITS, NOTE, OLD_NOTE, dtypes_of

FILE_DTYPES: Mapping[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I8": torch.int8,
    "U8": torch.uint8,
}
QUANTISATION = "_quantization_metadata"
MATRIX_AXES = 2
LIMITS = {"pictures": (1, 100_000), "width": (1, 1 << 16), "height": (1, 1 << 16), "fps": (0.01, 10_000), "batch": (1, 1024)}
"""What is looked at, ends included."""


def about_memory(
    path: Path, weight_dtype: str, *, pictures: int, width: int, height: int, fps: float, batch: int
) -> dict[str, Any]:
    """Bytes of a checkpoint's model and of a step with it, on the device that ComfyUI samples on.

    Args:
        path: the checkpoint's file.
        weight_dtype: as a loader offers it.
        pictures: of a clip.
        width: pixels.
        height: pixels.
        fps: pictures a second.
        batch: clips at once.

    Returns:
        ``weights``, and ``step``: a pass and the sampler around it, as ComfyUI is told to make room for.

    Raises:
        ValueError: the file is no checkpoint, or no clip has these numbers.
    """
    if weight_dtype not in DTYPES:
        raise ValueError(f"weight_dtype: expected one of {', '.join(DTYPES)}, got {shown(weight_dtype)}")
    given = {"pictures": pictures, "width": width, "height": height, "fps": fps, "batch": batch}
    for name, (least, most) in LIMITS.items():
        if not least <= given[name] <= most:
            raise ValueError(f"{name}: expected {least:g} to {most:g}, got {shown(given[name])}")
    tensors, metadata = header(path)
    config = HarmonyConfig.from_metadata(metadata)
    spec = ClipSpec(frames=pictures, height=height, width=width, fps=fps, grid=config.grid)
    quantised = OLD_NOTE in tensors or QUANTISATION in metadata or any(key.endswith(NOTE) for key in tensors)
    weights = {k: value for k, value in of_model(tensors).items() if k != OLD_NOTE and not k.startswith(CODEC_PARTS)}
    device = comfy.model_management.get_torch_device()
    dtype, cast = dtypes_of(weights, DTYPES[weight_dtype], quantised=quantised, device=device)
    size = (cast or dtype).itemsize
    shapes = AV(spec.video_shape(batch), spec.audio_shape(batch))
    largest = max(value.numel() for value in weights.values()) if cast is not None else 0
    return {
        "weights": sum(_bytes(key, value, dtype, size, quantised=quantised) for key, value in weights.items()),
        "step": step_bytes(config, shapes, size) + largest * size,
    }


def header(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Every tensor of a checkpoint's file without its values, and what the checkpoint says of itself; Ovi's by our names.

    Raises:
        ValueError: the file is broken, or holds numbers of a kind that no checkpoint has.
    """
    if holds_ovi(path):
        return header_of_ovi(path)
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = dict(file.metadata() or {})
            slices = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118 - it is no dict
            tensors = {
                key: torch.empty(one.get_shape(), dtype=FILE_DTYPES[one.get_dtype()], device="meta")
                for key, one in slices.items()
            }
            if KEY in tensors:
                metadata |= json.loads(bytes(file.get_tensor(KEY).tolist()))
    except (SafetensorError, OSError, KeyError) as error:
        raise ValueError(f"checkpoint: {path.name} cannot be read ({error})") from error
    return tensors, metadata


def _bytes(key: str, value: Tensor, dtype: torch.dtype, compute_size: int, *, quantised: bool) -> int:
    if quantised:
        return value.nbytes
    if dtype in EIGHT_BITS:
        # Tables of symbols are no linear layers; see stored.EightBitMatrices.
        is_matrix = key.endswith(".weight") and not key.endswith("embedding.weight") and value.ndim == MATRIX_AXES
        return value.numel() * (dtype.itemsize if is_matrix else compute_size)
    return value.numel() * dtype.itemsize

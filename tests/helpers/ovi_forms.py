"""The eight-bit forms in which Ovi is published, of plain weights in its names."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def _is_matrix(key: str, value: Tensor) -> bool:
    return value.ndim == 2 and ".blocks." in key and key.endswith(".weight")


def in_eight_bits(plain: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Matrices in float8, each with one scale."""
    stored: dict[str, Tensor] = {"scaled_fp8": torch.zeros(2).to(torch.float8_e4m3fn)}
    for key, value in plain.items():
        if not _is_matrix(key, value):
            stored[key] = value
            continue
        scale = value.abs().max() / 448
        stored[key] = (value / scale).to(torch.float8_e4m3fn)
        stored[f"{key.removesuffix('.weight')}.scale_weight"] = scale
    return stored


def quanto(plain: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Matrices in whole numbers, each with a scale a row."""
    stored: dict[str, Tensor] = {}
    for key, value in plain.items():
        if not _is_matrix(key, value):
            stored[key] = value
            continue
        scale = value.abs().amax(1, keepdim=True) / 127
        stored[f"{key}._data"], stored[f"{key}._scale"] = (value / scale).round().to(torch.int8), scale
        layer = key.removesuffix(".weight")
        stored |= {f"{layer}.{one}_scale": torch.ones(()) for one in ("input", "output")}
    return stored

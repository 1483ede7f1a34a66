"""Public names of the Wan2.2 transformer and ours, both ways.

Ours are the original ones without a prefix. The same weights are also published with the prefixes single-file checkpoints
put before a diffusion model, and under diffusers' names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from enum import Enum
from typing import TypeVar

T = TypeVar("T")


class WanLayout(Enum):
    """Where a Wan transformer's key names come from."""

    ORIGINAL = ""
    PREFIXED = "model.diffusion_model."
    SHORT_PREFIXED = "diffusion_model."
    DIFFUSERS = "diffusers"


# Ours to diffusers': the parts of a key that differ. Order matters only in that each part is replaced once.
_MODULES = {
    "time_embedding.0": "condition_embedder.time_embedder.linear_1",
    "time_embedding.2": "condition_embedder.time_embedder.linear_2",
    "time_projection.1": "condition_embedder.time_proj",
    "text_embedding.0": "condition_embedder.text_embedder.linear_1",
    "text_embedding.2": "condition_embedder.text_embedder.linear_2",
    "head.head": "proj_out",
    "head.modulation": "scale_shift_table",
}
_IN_BLOCK = {
    **{
        f"{ours}.{a}": f"{theirs}.{b}"
        for ours, theirs in (("self_attn", "attn1"), ("cross_attn", "attn2"))
        for a, b in (
            ("q", "to_q"),
            ("k", "to_k"),
            ("v", "to_v"),
            ("o", "to_out.0"),
            ("norm_q", "norm_q"),
            ("norm_k", "norm_k"),
        )
    },
    "norm3": "norm2",
    "ffn.0": "ffn.net.0.proj",
    "ffn.2": "ffn.net.2",
    "modulation": "scale_shift_table",
}
_BLOCK = re.compile(r"(blocks\.\d+\.)(.+)")


def detect_layout(keys: Iterable[str]) -> WanLayout:
    """Whose names these are.

    Raises:
        ValueError: they are no Wan transformer's.
    """
    keys = set(keys)
    for layout, mark in (
        (WanLayout.ORIGINAL, "time_projection.1.weight"),
        (WanLayout.PREFIXED, "model.diffusion_model.time_projection.1.weight"),
        (WanLayout.SHORT_PREFIXED, "diffusion_model.time_projection.1.weight"),
        (WanLayout.DIFFUSERS, "condition_embedder.time_proj.weight"),
    ):
        if mark in keys:
            return layout
    raise ValueError("these are no weights of a Wan transformer: no time_projection.1.weight under any of its known names")


def to_original(tensors: Mapping[str, T], layout: WanLayout | None = None) -> dict[str, T]:
    """Rename to the original names, ours.

    Args:
        tensors: by key, of one transformer; under a prefix layout, keys without the prefix are left out.
        layout: whose names they are; found out by default.

    Raises:
        ValueError: they are no Wan transformer's.
    """
    layout = layout or detect_layout(tensors)
    if layout is WanLayout.DIFFUSERS:
        modules = {theirs: ours for ours, theirs in _MODULES.items()}
        in_block = {theirs: ours for ours, theirs in _IN_BLOCK.items()}
        return {_rename(key, modules, in_block): value for key, value in tensors.items()}
    prefix = layout.value
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def from_original(tensors: Mapping[str, T], layout: WanLayout) -> dict[str, T]:
    """Rename from the original names to another layout's; the inverse of :func:`to_original`."""
    if layout is WanLayout.DIFFUSERS:
        return {_rename(key, _MODULES, _IN_BLOCK): value for key, value in tensors.items()}
    return {layout.value + key: value for key, value in tensors.items()}


def _rename(key: str, modules: Mapping[str, str], in_block: Mapping[str, str]) -> str:
    """Exchange a module's name; the parameter's name behind it stays."""
    block = _BLOCK.fullmatch(key)
    head, rest = block.groups() if block else ("", key)
    names = in_block if block else modules
    for name, other in names.items():
        if rest == name or rest.startswith(name + "."):
            return head + other + rest[len(name) :]
    return key

"""Weights in eight bits: which ones, how they are scaled, and back.

Written is ComfyUI's form: a matrix in float8_e4m3fn, beside it one float32 ``weight_scale``, and in the file's metadata a list
of these layers. A matrix is its 8-bit values times its scale; the scale is chosen so that its largest value is the largest of
the format. Read are that form, ComfyUI's notes beside the layers (``comfy_quant``), its older form (``scale_weight`` and a
marker ``scaled_fp8``), a scale for every row, and quanto's ``weight._data`` with ``weight._scale``.

Only the matrices of attention and feed-forward inside the layers are stored in eight bits. They are nearly all of a model and
average over thousands of products, in which rounding errors mostly cancel. What is left is small, and an error in it is not
averaged away: norms, modulations and biases act on every channel by themselves; embeddings and heads are what all latents,
texts and times pass through.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from .stream import Entry

EIGHT_BITS = torch.float8_e4m3fn
LARGEST: float = torch.finfo(EIGHT_BITS).max
FORMAT = "float8_e4m3fn"
METADATA_KEY = "_quantization_metadata"
SCALE = ".weight_scale"

_SCALES = (SCALE, ".scale_weight")
_UNUSED = (".comfy_quant", ".input_scale", ".scale_input", ".output_scale")
_NOTE = ".comfy_quant"
_MARKER = "scaled_fp8"
_KNOWN = {"float8_e4m3fn", "float8_e5m2", "int8_tensorwise"}
_MATRIX = re.compile(r"^(?!.*lora_)(.*\.)?(blocks|layers)\.\d+\.(.+\.)?(self_attn|cross_attn|attn[12]?|ffn)\..*weight$")
_MULTIPLE = 16
"""Sides of a matrix that the 8-bit kernels take."""


@dataclass(frozen=True)
class Stored:
    """Where a weight is in a file.

    Attributes:
        key: of its values.
        entry: their shape and dtype.
        scale: key of what they are multiplied by; None for plain ones.
    """

    key: str
    entry: Entry
    scale: str | None = None


def find_weights(
    entries: Mapping[str, Entry], metadata: Mapping[str, str], read: Callable[[str], Tensor], where: str
) -> dict[str, Stored]:
    """The weights of a file by their plain names, each with its scale; what says how others are stored is left out.

    Args:
        entries: all tensors of the file.
        metadata: of the file.
        read: gives a tensor; asked for notes alone.
        where: the file, for messages.

    Raises:
        ValueError: weights are stored in a form that is not read here, or a scale does not fit its weight.
    """
    notes = {key.removesuffix(_NOTE): _note(read(key), f"{where}: {key}") for key in entries if key.endswith(_NOTE)}
    for layer, note in {**listed_layers(metadata, where), **notes}.items():
        _check_note(note, f"{where}: {layer}")
    weights: dict[str, Stored] = {}
    for key, entry in entries.items():
        if key.endswith((*_SCALES, *_UNUSED, "._scale")) or key.rpartition(".")[2] == _MARKER:
            continue
        name = key.removesuffix("._data")
        scale = _scale_of(key, entries)
        _check_scale(key, entry, None if scale is None else entries[scale], where)
        weights[name] = Stored(key, entry, scale)
    used = {stored.scale for stored in weights.values()}
    lost = [key for key in entries if key.endswith((*_SCALES, "._scale")) and key not in used]
    if lost:
        raise ValueError(f"{where}: {lost[0]} is the scale of no weight in this file")
    return weights


def listed_layers(metadata: Mapping[str, str], where: str) -> dict[str, Mapping[str, object]]:
    """What a file's metadata says of its quantised layers, by their names.

    Raises:
        ValueError: it cannot be read.
    """
    if METADATA_KEY not in metadata:
        return {}
    try:
        layers = json.loads(metadata[METADATA_KEY])["layers"]
        return {str(name): dict(note) for name, note in layers.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{where}: what its metadata says of quantised layers cannot be read ({error!r})") from error


def metadata_of(layers: Iterable[str]) -> dict[str, str]:
    """The metadata for layers written here.

    They are marked to be multiplied in full precision: no scale of their inputs has been measured, without which 8-bit inputs
    would be rounded as they are.
    """
    note = {"format": FORMAT, "full_precision_matrix_mult": True}
    return {METADATA_KEY: json.dumps({"format_version": "1.0", "layers": dict.fromkeys(layers, note)})}


def is_matrix(key: str, entry: Entry) -> bool:
    """Whether a weight is one that is stored in eight bits; see the module."""
    floating = entry.dtype.is_floating_point or entry.dtype is torch.int8
    return (
        len(entry.shape) == 2
        and floating
        and all(side and side % _MULTIPLE == 0 for side in entry.shape)
        and _MATRIX.search(key) is not None
    )


def plain_pieces(pieces: Iterable[Tensor], scale: Tensor | None) -> Iterator[Tensor]:
    """A weight's values: the pieces as they are, or float32 where they are scaled.

    Args:
        pieces: rows of the weight, in order.
        scale: of all of it, or of every row.
    """
    if scale is None:
        yield from pieces
        return
    scale = scale.to(torch.float32).reshape(-1)
    row = 0
    for piece in pieces:
        axes, rows = piece.ndim, piece.shape[0] if piece.ndim else 1
        factor = scale if scale.numel() == 1 else scale[row : row + rows]
        yield piece.to(torch.float32) * factor.reshape([-1, *[1] * (axes - 1)] if axes else [])
        row += rows


def scale_for(pieces: Iterable[Tensor], key: str) -> Tensor:
    """The scale of a matrix: its largest value over the format's; 1 for a matrix of zeros.

    Raises:
        ValueError: a value is not finite.
    """
    largest = torch.zeros(())
    for piece in pieces:
        largest = torch.maximum(largest, piece.to(torch.float32).abs().max())
    if not torch.isfinite(largest):
        raise ValueError(f"{key} holds values that are not finite")
    # The smallest scale whose inverse is a number.
    return (largest / LARGEST).clamp(min=torch.finfo(torch.float32).tiny) if largest > 0 else torch.ones(())


def in_eight_bits(pieces: Iterable[Tensor], scale: Tensor) -> Iterator[Tensor]:
    """A matrix's values over its scale."""
    for piece in pieces:
        yield (piece.to(torch.float32) / scale).clamp(-LARGEST, LARGEST).to(EIGHT_BITS)


def plain_tensors(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, str], dtype: torch.dtype | None = None
) -> dict[str, Tensor]:
    """Tensors in memory with every quantised weight made plain.

    Args:
        tensors: by key; returned as they are where none is quantised.
        metadata: of their file.
        dtype: of the weights made plain; by default that of most other weights.

    Raises:
        ValueError: as for :func:`find_weights`.
    """
    entries = {key: Entry(tuple(value.shape), value.dtype) for key, value in tensors.items()}
    weights = find_weights(entries, metadata, tensors.__getitem__, "this file")
    if not any(stored.scale for stored in weights.values()):
        return {name: tensors[stored.key] for name, stored in weights.items()}
    dtype = dtype or _dtype_of_rest(weights)
    plain: dict[str, Tensor] = {}
    for name, stored in weights.items():
        value = tensors[stored.key]
        if stored.scale is not None:
            (value,) = plain_pieces([value], tensors[stored.scale])
            value = value.to(dtype)
        plain[name] = value
    return plain


def _dtype_of_rest(weights: Mapping[str, Stored]) -> torch.dtype:
    counts: dict[torch.dtype, int] = {}
    for stored in weights.values():
        if stored.scale is None and stored.entry.dtype in {torch.float32, torch.float16, torch.bfloat16}:
            counts[stored.entry.dtype] = counts.get(stored.entry.dtype, 0) + stored.entry.count
    return max(counts, key=lambda dtype: counts[dtype], default=torch.bfloat16)


def _scale_of(key: str, entries: Mapping[str, Entry]) -> str | None:
    if key.endswith("._data"):
        beside = [f"{key.removesuffix('._data')}._scale"]
    elif key.endswith(".weight"):
        beside = [key.removesuffix(".weight") + suffix for suffix in _SCALES]
    else:
        return None
    return next((name for name in beside if name in entries), None)


def _check_scale(key: str, entry: Entry, scale: Entry | None, where: str) -> None:
    if scale is None:
        if entry.dtype in {torch.int8, torch.uint8} and key.endswith((".weight", "._data")):
            raise ValueError(f"{where}: {key} is stored as whole numbers without a scale; give the file in bf16, fp16 or fp8")
        return
    rows = entry.shape[0] if entry.shape else 1
    if scale.count not in {1, rows} or not scale.dtype.is_floating_point:
        raise ValueError(
            f"{where}: {key} has a scale of shape {scale.shape}; one for the whole matrix or one a row is read here, "
            "give the file in bf16, fp16 or fp8"
        )


def _note(value: Tensor, where: str) -> Mapping[str, object]:
    try:
        return dict(json.loads(bytes(value.tolist())))
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{where} cannot be read: {error}") from error


def _check_note(note: Mapping[str, object], where: str) -> None:
    kind, params = note.get("format"), note.get("params")
    rotated = note.get("convrot") or (isinstance(params, dict) and params.get("convrot"))
    if kind not in _KNOWN or rotated:
        what = f"{kind}, rotated" if rotated else str(kind)
        raise ValueError(f"{where} is stored as {what}, which is not read here; give the file in bf16, fp16 or fp8")

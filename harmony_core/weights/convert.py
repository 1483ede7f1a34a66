"""A weights file in another precision, tensor by tensor."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..config import CONFIG_KEY
from ..progress import Progress
from .checkpoint import CODEC_PARTS
from .quantise import (
    EIGHT_BITS,
    METADATA_KEY,
    SCALE,
    Stored,
    find_weights,
    in_eight_bits,
    is_matrix,
    metadata_of,
    plain_pieces,
    scale_for,
)
from .stream import Entry, TensorSource, TensorWriter, open_tensors, refuse_gguf, writing

PRECISIONS: Mapping[str, torch.dtype] = {
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp32": torch.float32,
    "fp8": EIGHT_BITS,
}
"""What can be asked for, by its name."""


@dataclass(frozen=True, kw_only=True)
class Converted:
    """What was done.

    Attributes:
        weights: written.
        quantised: of them, matrices in eight bits.
        kept: of them, those left as they were: whole numbers, codecs, and with ``fp8`` all that is no matrix.
        before: bytes of the weights that were read, scales with them.
        after: bytes of the file that was written.
    """

    weights: int
    quantised: int
    kept: int
    before: int
    after: int


def convert(source: str | Path, target: str | Path, to: str, progress: Progress | None = None) -> Converted:
    """Write a weights file in another precision; memory is that of a piece of one tensor.

    Weights that are stored in eight bits with scales are made plain, or with ``fp8`` written in ComfyUI's form. Keys and the
    rest of the metadata stay. Codecs in a Harmony checkpoint keep their precision: they are small and computed in float32.

    Args:
        source: a ``.safetensors`` file, an index beside its shards, or a pickle of tensors.
        target: a ``.safetensors`` file, which may be the source.
        to: a key of :data:`PRECISIONS`.
        progress: called after each weight.

    Raises:
        ValueError: the source cannot be read, is quantised in a form not known here or has nothing to store in eight bits; a
            value does not fit fp16 or is not finite; the target cannot be written.
    """
    if to not in PRECISIONS:
        raise ValueError(f"weights are converted to one of {', '.join(PRECISIONS)}, got {to!r}")
    refuse_gguf(Path(target))
    opened = open_tensors(source)
    plan = _Plan(opened, str(source), to)
    if to == "fp8" and not plan.matrices:
        raise ValueError(f"{source} has no attention or feed-forward matrices inside layers: nothing to store in eight bits")
    with writing(Path(target), plan.entries, plan.metadata) as writer:
        for done, (name, stored) in enumerate(plan.weights.items(), start=1):
            plan.write(writer, name, stored)
            if progress is not None:
                progress(done, len(plan.weights))
    return Converted(
        weights=len(plan.weights),
        quantised=len(plan.matrices),
        kept=sum(plan.dtype_of(name) is None for name in plan.weights),
        before=sum(entry.nbytes for entry in opened.entries.values()),
        after=Path(target).stat().st_size,
    )


class _Plan:
    """What becomes of each weight."""

    def __init__(self, source: TensorSource, where: str, to: str) -> None:
        self._source, self._dtype = source, PRECISIONS[to]
        self._harmony = CONFIG_KEY in source.metadata
        self.weights = find_weights(source.entries, source.metadata, source.read, where)
        self.matrices = {n for n, stored in self.weights.items() if to == "fp8" and self._quantised(n, stored)}
        self.metadata = {key: value for key, value in source.metadata.items() if key != METADATA_KEY}
        self.metadata |= metadata_of(sorted(name.removesuffix(".weight") for name in self.matrices)) if self.matrices else {}
        self.entries: dict[str, Entry] = {}
        for name, stored in self.weights.items():
            self.entries[name] = Entry(stored.entry.shape, self.dtype_of(name) or stored.entry.dtype)
            if name in self.matrices:
                self.entries[_scale(name)] = Entry((), torch.float32)

    def dtype_of(self, name: str) -> torch.dtype | None:
        """The dtype a weight is written in; None leaves it as it is."""
        stored = self.weights[name]
        if name in self.matrices:
            return EIGHT_BITS
        if stored.scale is not None:  # in eight bits for somebody else's reasons: it has to become something
            return torch.bfloat16 if self._dtype is EIGHT_BITS else self._dtype
        if self._dtype is EIGHT_BITS or self._codec(name) or not stored.entry.dtype.is_floating_point:
            return None
        return self._dtype

    def write(self, writer: TensorWriter, name: str, stored: Stored) -> None:
        """Read, convert and write one weight."""
        if name not in self.matrices:
            writer.write(name, cast_pieces(self._pieces(stored), self.entries[name].dtype, name))
        elif self._ready(stored):
            assert stored.scale is not None
            writer.write(name, self._source.pieces(stored.key))
            writer.write(_scale(name), [self._source.read(stored.scale).to(torch.float32).reshape(())])
        else:
            scale = scale_for(self._pieces(stored), name)
            writer.write(name, in_eight_bits(self._pieces(stored), scale))
            writer.write(_scale(name), [scale])

    def _pieces(self, stored: Stored) -> Iterator[Tensor]:
        scale = None if stored.scale is None else self._source.read(stored.scale)
        return plain_pieces(self._source.pieces(stored.key), scale)

    def _ready(self, stored: Stored) -> bool:
        """Whether a matrix is in the form already: another rounding would change it."""
        scale = None if stored.scale is None else self._source.entries[stored.scale]
        return stored.entry.dtype is EIGHT_BITS and scale is not None and scale.count == 1

    def _quantised(self, name: str, stored: Stored) -> bool:
        return is_matrix(name, stored.entry) and not self._codec(name)

    def _codec(self, name: str) -> bool:
        return self._harmony and name.startswith(CODEC_PARTS)


def cast_pieces(pieces: Iterable[Tensor], dtype: torch.dtype, name: str) -> Iterator[Tensor]:
    """Pieces of a weight in another dtype.

    Raises:
        ValueError: a value is too large for it.
    """
    for piece in pieces:
        cast = piece.to(dtype)
        if dtype is torch.float16 and piece.dtype is not dtype and bool((torch.isinf(cast) & torch.isfinite(piece)).any()):
            raise ValueError(f"{name} holds {piece.abs().max().item():g}, and fp16 ends at 65504; choose bf16")
        yield cast


def _scale(name: str) -> str:
    return name.removesuffix(".weight") + SCALE

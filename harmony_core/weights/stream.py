"""Tensors from files and into a file, a piece at a time: memory does not grow with the model.

Files are read with plain reads, not mapped: pages of a mapped file count as memory of the process until the system takes them
back. What is written goes to a file beside the target that takes its place at the end.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from io import BufferedReader
from math import prod
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from ..atomic import replacing
from ..inputs import is_file, named, reason
from ..shown import shown
from .dtypes import CODES
from .files import PICKLES, Unchanged, read_places, read_tensors, shard_places

PIECE_BYTES = 32 << 20
"""Of a tensor in memory at a time; a single row may be larger."""
MAPPED_BYTES = 128 << 20
"""Of a mapped pickle that may be touched before it is mapped anew."""

_OLD_PICKLE = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_NAMES = {dtype: code for code, dtype in CODES.items()}


@dataclass(frozen=True)
class Entry:
    """A tensor's shape and dtype."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def count(self) -> int:
        """Of its values."""
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Of its values."""
        return self.count * self.dtype.itemsize


class TensorSource(ABC):
    """Tensors that can be read one by one, and each in pieces.

    Attributes:
        entries: shapes and dtypes by key, in the file's order.
        metadata: the file's; empty for a pickle.
    """

    entries: Mapping[str, Entry]
    metadata: Mapping[str, str]

    @abstractmethod
    def pieces(self, key: str) -> Iterator[Tensor]:
        """A tensor's rows in order, some at a time: each piece has the tensor's shape but for its first axis.

        A tensor without axes is one piece. A piece may share the file's memory: use it before the next is asked for.

        Raises:
            ValueError: the file cannot be read any more.
        """

    def read(self, key: str) -> Tensor:
        """A whole tensor."""
        pieces = [piece.clone() for piece in self.pieces(key)]
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)


def open_tensors(path: str | Path) -> TensorSource:
    """Look at a weights file without reading its tensors.

    Args:
        path: a ``.safetensors`` file, an index beside its shards, or a pickle of tensors.

    Raises:
        ValueError: the file is missing, truncated or of another kind; a shard is missing or lacks a tensor; a pickle holds
            more than tensors.
    """
    path = Path(path)
    refuse_gguf(path)
    if not is_file(path):
        raise ValueError(f"no weights file at {named(path)}")
    if path.name.endswith(".safetensors.index.json"):
        return _Shards(path)
    if path.suffix == ".safetensors":
        return _SafetensorsFile(path)
    if path.suffix in PICKLES and _is_old(path):
        raise ValueError(
            f"{named(path)} was saved by torch before 1.6, which cannot be read in pieces; save it with a newer one"
        )
    return _PickleFile(path)  # which refuses any other ending


def refuse_gguf(path: Path) -> None:
    """GGUF is out of scope.

    Raises:
        ValueError: it is the ending of this path.
    """
    if path.suffix.lower() == ".gguf":
        raise ValueError(f"GGUF is neither read nor written here ({named(path)}); use .safetensors in bf16, fp16, fp32 or fp8")


def _is_old(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(_OLD_PICKLE)) == _OLD_PICKLE


class _SafetensorsFile(TensorSource):
    def __init__(self, path: Path) -> None:
        self._path = path
        self._places, self.metadata = read_places(path)  # which refuses a broken file
        unknown = [key for key, place in self._places.items() if place.code not in CODES]
        if unknown:
            code = shown(self._places[unknown[0]].code, 20)
            raise ValueError(f"{named(path)}: {shown(unknown[0])} is of dtype {code}, which is not read here")
        self.entries = {key: Entry(place.shape, CODES[place.code]) for key, place in self._places.items()}

    def pieces(self, key: str) -> Iterator[Tensor]:
        entry = self.entries[key]
        try:
            with self._path.open("rb") as file:
                file.seek(self._places[key].begin)
                for shape in _piece_shapes(entry):
                    yield _read_piece(file, Entry(shape, entry.dtype))
        except (OSError, EOFError) as error:
            raise ValueError(f"cannot read {named(self._path)}: {reason(error)}") from error


class _Shards(TensorSource):
    def __init__(self, index: Path) -> None:
        self.metadata = {}
        self.entries = {}
        self._sources: dict[str, TensorSource] = {}
        listed: dict[str, list[str]] = {}
        for key, name in shard_places(index).items():  # which refuses a broken index
            listed.setdefault(name, []).append(key)
        for name, keys in sorted(listed.items()):
            shard = index.parent / name
            if not is_file(shard):
                raise ValueError(f"{named(index)} lists the shard {shown(name)}, which is not beside it")
            source = _SafetensorsFile(shard)
            missing = [key for key in keys if key not in source.entries]
            if missing:
                raise ValueError(f"{named(index)} says that {shown(missing[0])} is in {shown(name)}, and it is not")
            self.metadata = {**self.metadata, **source.metadata}
            self.entries = {**self.entries, **{key: source.entries[key] for key in keys}}
            self._sources |= dict.fromkeys(keys, source)

    def pieces(self, key: str) -> Iterator[Tensor]:
        return self._sources[key].pieces(key)


class _PickleFile(TensorSource):
    """Torch maps the file and cannot be told to let go of what was read; so it is mapped anew once in a while."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._unchanged = Unchanged(path)
        self._tensors = read_tensors(path, mapped=True)[0]
        self._touched = 0
        self.metadata = {}
        self.entries = {key: Entry(tuple(value.shape), value.dtype) for key, value in self._tensors.items()}

    def pieces(self, key: str) -> Iterator[Tensor]:
        entry = self.entries[key]
        row = 0
        for shape in _piece_shapes(entry):
            piece = Entry(shape, entry.dtype)
            if self._touched + piece.nbytes > MAPPED_BYTES:
                self._tensors = {}
                self._tensors, self._touched = read_tensors(self._path, mapped=True)[0], 0
            self._touched += piece.nbytes
            self._unchanged.check()
            yield self._tensors[key][row : row + shape[0]].clone() if shape else self._tensors[key].clone()
            row += shape[0] if shape else 1


def _piece_shapes(entry: Entry) -> Iterator[tuple[int, ...]]:
    if not entry.shape:
        yield ()
        return
    if not entry.count:  # however many rows there are of nothing
        yield entry.shape
        return
    rows, rest = entry.shape[0], entry.shape[1:]
    at_once = max(1, PIECE_BYTES // max(1, prod(rest) * entry.dtype.itemsize))
    for first in range(0, rows, at_once):
        yield (min(at_once, rows - first), *rest)


def _read_piece(file: BufferedReader, entry: Entry) -> Tensor:
    if not entry.nbytes:
        return torch.empty(entry.shape, dtype=entry.dtype)
    data = torch.empty(entry.nbytes, dtype=torch.uint8)
    if file.readinto(data.numpy().data) != entry.nbytes:
        raise EOFError("it is shorter than it was")
    return data.view(entry.dtype).reshape(entry.shape)


class TensorWriter:
    """Puts tensors in their places in a file, in any order."""

    def __init__(self, file: BinaryIO, places: Mapping[str, tuple[int, Entry]]) -> None:
        self._file, self._places = file, places
        self._written: set[str] = set()

    def write(self, key: str, pieces: Iterable[Tensor]) -> None:
        """Write a tensor.

        Args:
            key: one of those the file was begun with.
            pieces: of it, in order, of its dtype.
        """
        begin, entry = self._places[key]
        self._file.seek(begin)
        written = 0
        for piece in pieces:
            assert piece.dtype is entry.dtype, (key, piece.dtype, entry.dtype)
            data = piece.detach().contiguous().reshape(-1).view(torch.uint8).numpy()
            self._file.write(data.data)
            written += data.nbytes
        assert written == entry.nbytes, (key, written, entry)
        self._written.add(key)

    def check_whole(self) -> None:
        """See to it that nothing was left out."""
        assert self._written == set(self._places), sorted(set(self._places) - self._written)[:3]


@contextlib.contextmanager
def writing(path: Path, entries: Mapping[str, Entry], metadata: Mapping[str, str]) -> Iterator[TensorWriter]:
    """Write a ``.safetensors`` file tensor by tensor; nothing is there until all is.

    Args:
        path: the file; replaced where it exists.
        entries: every tensor that will be written.
        metadata: of the file.

    Raises:
        ValueError: the path is of another kind, its folder is missing or cannot be written to, or the disk is full.
    """
    refuse_gguf(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"weights are written to a .safetensors file, got {named(path)}")
    header, places = _layout(entries, metadata)
    _check_space(path, len(header) + sum(entry.nbytes for entry in entries.values()))
    with replacing(path) as temporary:
        with temporary.open("r+b") as file:
            file.write(header)
            writer = TensorWriter(file, places)
            yield writer
        writer.check_whole()


def _layout(entries: Mapping[str, Entry], metadata: Mapping[str, str]) -> tuple[bytes, dict[str, tuple[int, Entry]]]:
    """The file's beginning, and where each tensor goes: wide dtypes first, so that values lie on multiples of their size."""
    ordered = sorted(entries.items(), key=lambda item: (-item[1].dtype.itemsize, item[0]))
    record: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    begins: dict[str, int] = {}
    position = 0
    for key, entry in ordered:
        begins[key] = position
        end = position + entry.nbytes
        record[key] = {"dtype": _NAMES[entry.dtype], "shape": list(entry.shape), "data_offsets": [position, end]}
        position = end
    text = json.dumps(record, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    header = len(text).to_bytes(8, "little") + text
    return header, {key: (len(header) + begins[key], entry) for key, entry in ordered}


def _check_space(path: Path, wanted: int) -> None:
    try:
        free = shutil.disk_usage(Path(os.path.realpath(path)).parent).free
    except OSError:
        return  # whatever is wrong with the folder is said when the file is begun
    if free < wanted:
        raise ValueError(
            f"cannot write {named(path)}: it takes {wanted / 1e9:.2f} GB, and {free / 1e9:.2f} GB of the disk are free"
        )

"""Tensors from files nobody vouches for: safetensors, or pickles that hold nothing but tensors."""

from __future__ import annotations

import json
import os
import pickle
import warnings
import zipfile
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load
from torch import Tensor, nn

from ..inputs import is_file, named, read_text, reason
from ..shown import shown
from .dtypes import CODES, LONGEST_AXIS
from .pickles import NotWeightsError, check_pickle

PICKLES = frozenset({".pt", ".pth", ".ckpt", ".bin"})
INDEX = ".safetensors.index.json"
WRAPPERS = ("state_dict", "module", "app", "model", "generator")
OLDEST_TORCH = "2.6"
"""Before it, a pickle can run code however it is opened (CVE-2025-32434)."""
DEEPEST = 4
SHOWN, SHOWN_LENGTH = 10, 200
"""Keys that a message names, and characters of all of them."""
LONGEST_TEXT = 16 << 20
"""Bytes of a header, an index or another text about tensors: those of the largest models have 0.3 MB."""
LONGEST_CODE = 16
COPIED = 256 << 20
"""Bytes of a ``.safetensors`` file up to which its values are copied; those of a larger one stay in the file until they are
used, and if it is cut short meanwhile, the system ends the process."""
_BITS = {
    "F64": 64, "F32": 32, "F16": 16, "BF16": 16, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8,
    "I64": 64, "I32": 32, "I16": 16, "I8": 8, "U64": 64, "U32": 32, "U16": 16, "U8": 8, "BOOL": 8,
}  # fmt: skip


def read_tensors(path: str | Path, *, device: str = "cpu", mapped: bool = False) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read every tensor of a weights file.

    Args:
        path: a ``.safetensors`` file, a ``.safetensors.index.json`` beside its shards, or a pickle of tensors.
        device: where the tensors go.
        mapped: leave the values of a pickle in the file until they are used, to look at names and shapes alone.

    Returns:
        The tensors by key, and the file's metadata (empty for a pickle).

    Raises:
        ValueError: the file is missing, truncated, of another kind, or a pickle with anything but tensors in it.
    """
    path = Path(path)
    if not is_file(path):
        raise ValueError(f"no weights file at {named(path)}")
    if path.name.endswith(".safetensors.index.json"):
        return _read_shards(path, device)
    if path.suffix == ".safetensors":
        return _read_safetensors(path, device)
    if path.suffix in PICKLES:
        return _read_pickle(path, device, mapped=mapped), {}
    raise ValueError(
        f"{named(path)} is no weights file: expected .safetensors, .safetensors.index.json or {', '.join(sorted(PICKLES))}"
    )


class Unchanged:
    """A file as it was: what is mapped of one that is cut short meanwhile ends the process when it is used."""

    def __init__(self, *paths: Path) -> None:
        self._seen = {path: _stamp(path) for path in paths}

    def check(self) -> None:
        """Look again, before what is mapped is used.

        Raises:
            ValueError: it has another size or time, or is gone.
        """
        for path, seen in self._seen.items():
            if _stamp(path) != seen:
                raise ValueError(f"{named(path)} changed while it was in use; start again with the file it is now")


def files_of(path: str | Path) -> list[Path]:
    """The files with the tensors: the path itself, or the shards an index lists.

    Raises:
        ValueError: the index cannot be read.
    """
    path = Path(path)
    return [path.parent / name for name in shard_names(path)] if path.name.endswith(INDEX) else [path]


def _stamp(path: Path) -> tuple[int, ...] | None:
    try:
        status = path.stat()
    except (OSError, ValueError):  # ValueError: a name that cannot be
        return None
    return status.st_size, status.st_mtime_ns, status.st_ino


class Place(NamedTuple):
    """A tensor as a ``.safetensors`` file lists it.

    Attributes:
        code: of its dtype, as the format has it, such as BF16.
        shape: of it.
        begin: byte of the file its values begin at.
    """

    code: str
    shape: tuple[int, ...]
    begin: int


def read_header(path: str | Path) -> tuple[dict[str, tuple[int, ...]], dict[str, str]]:
    """Read keys, shapes and metadata of a ``.safetensors`` file without its tensors; see :func:`read_places`."""
    places, metadata = read_places(path)
    return {key: place.shape for key, place in places.items()}, metadata


def read_places(path: str | Path) -> tuple[dict[str, Place], dict[str, str]]:
    """Read what a ``.safetensors`` file lists, and see that it is as long as that.

    The file is not mapped: a file larger than the memory cannot be everywhere.

    Returns:
        Where each tensor is, in the order of their values, and the file's metadata.

    Raises:
        ValueError: the file cannot be read, is truncated or of another format.
    """
    path = Path(path)
    try:
        return _listed(path)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        raise ValueError(_broken(path, error)) from error


def _listed(path: Path) -> tuple[dict[str, Place], dict[str, str]]:
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > size - 8:
            raise ValueError("its header is not whole")
        if length > LONGEST_TEXT:
            raise ValueError(f"its header has {length:,} bytes, more than the limit of {LONGEST_TEXT:,}")
        header = json.loads(file.read(length))
    metadata = header.pop("__metadata__", {})
    if not all(isinstance(text, str) for text in metadata.values()):
        raise ValueError("its metadata are no texts")
    return _places(header, 8 + length, size), metadata


def _places(header: Mapping[str, Any], first: int, size: int) -> dict[str, Place]:
    """Where the tensors of a header are: one after the other, to the end of the file."""
    places: dict[str, Place] = {}
    position = first
    for key, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        code, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
        whole = all(type(number) is int and number >= 0 for number in (*shape, begin, end))
        wanted = prod(shape) * _BITS[code] if whole and code in _BITS else 8 * (end - begin)
        whole = whole and isinstance(key, str) and isinstance(code, str) and len(code) <= LONGEST_CODE
        if not whole or first + begin != position or 8 * (end - begin) != wanted or max((0, *shape)) > LONGEST_AXIS:
            raise ValueError(f"what it says of {shown(key)} does not fit the rest")
        places[key] = Place(code, shape, position)
        position += end - begin
    if position != size:
        raise ValueError(f"its header tells of {position} bytes, and it has {size}")
    return places


def load_into(module: nn.Module, tensors: Mapping[str, Tensor], *, what: str) -> None:
    """Give a module exactly the tensors it has a place for.

    The module may be on the meta device: its parameters are replaced, not copied into.

    Raises:
        ValueError: keys are missing, left over or of another shape; the message names the first ten and the counts. The
            module is then unchanged.
    """
    numbers = [key for key, value in tensors.items() if not value.is_floating_point()]
    if numbers:
        raise ValueError(f"these weights do not fit {what}: {_complaint('of whole numbers', numbers)}")
    wanted = {key: tuple(value.shape) for key, value in module.state_dict().items()}
    given = {key: tuple(value.shape) for key, value in tensors.items()}
    check_keys(wanted, given, what=what)
    module.load_state_dict(dict(tensors), strict=True, assign=True)


def check_keys(wanted: Mapping[str, tuple[int, ...]], given: Mapping[str, tuple[int, ...]], *, what: str) -> None:
    """Refuse a key set that is not exactly the one wanted; see :func:`load_into`."""
    complaints = [
        _complaint("missing", sorted(set(wanted) - set(given))),
        _complaint("unexpected", sorted(set(given) - set(wanted))),
        _complaint(
            "of another shape",
            [
                f"{shown(key)} {given[key]} instead of {wanted[key]}"
                for key in sorted(set(wanted) & set(given))
                if wanted[key] != given[key]
            ],
        ),
    ]
    found = [c for c in complaints if c]
    if found:
        raise ValueError(f"these weights do not fit {what}: {'; '.join(found)}")


def _complaint(kind: str, keys: list[str]) -> str:
    if not keys:
        return ""
    listed: list[str] = []
    for key in keys[:SHOWN]:
        listed.append(shown(key))
        if sum(map(len, listed)) > SHOWN_LENGTH:
            break
    more = f" and {len(keys) - len(listed)} more" if len(keys) > len(listed) else ""
    return f"{len(keys)} {kind}: {', '.join(listed)}{more}"


def _read_safetensors(path: Path, device: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    places, metadata = read_places(path)  # which refuses what would take more than the file has
    unread = [key for key, place in places.items() if place.code not in CODES]
    if unread:
        raise ValueError(
            f"{named(path)}: {shown(unread[0])} is of dtype {shown(places[unread[0]].code)}, which is not read here"
        )
    try:
        if path.stat().st_size <= COPIED:
            copied = load(path.read_bytes())  # in no order
            return {key: copied[key].to(device) for key in places}, metadata
        with safe_open(str(path), framework="pt", device=device) as file:
            return {key: file.get_tensor(key) for key in places}, metadata
    except (SafetensorError, OSError) as error:
        raise ValueError(_broken(path, error)) from error


def _read_shards(index: Path, device: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    names = shard_names(index)
    tensors: dict[str, Tensor] = {}
    metadata: dict[str, str] = {}
    for name in names:
        shard = index.parent / name
        if not is_file(shard):
            raise ValueError(f"{named(index)} lists the shard {shown(name)}, which is not beside it")
        part, meta = _read_safetensors(shard, device)
        tensors |= part
        metadata |= meta
    return tensors, metadata


def shard_names(index: Path) -> list[str]:
    """The file names an index lists, each a plain name beside the index."""
    return sorted(set(shard_places(index).values()))


def shard_places(index: Path) -> dict[str, str]:
    """The file name each tensor of an index is in, each a plain name beside the index.

    Raises:
        ValueError: the index cannot be read, or names something else.
    """
    text = read_text(index, most=LONGEST_TEXT)
    try:
        places = {str(key): str(name) for key, name in json.loads(text)["weight_map"].items()}
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"{named(index)} is no safetensors index: {shown(str(error))}") from error
    for name in dict.fromkeys(places.values()):
        if Path(name).name != name or "\0" in name:
            raise ValueError(f"{named(index)} lists a shard outside its own folder: {shown(name)}")
    return places


def _read_pickle(path: Path, device: str, *, mapped: bool) -> dict[str, Tensor]:
    if torch.__version__ < OLDEST_TORCH:  # ComfyUI brings a torch of its own, whatever pyproject.toml asks for
        raise ValueError(
            f"{named(path)} is a pickle, and in torch {torch.__version__} a pickle can run code; update torch to "
            f"{OLDEST_TORCH} or newer, or convert the file to .safetensors elsewhere"
        )
    try:
        check_pickle(path)
    except pickle.UnpicklingError as error:
        raise ValueError(_more_than_tensors(path)) from error
    except NotWeightsError as error:
        raise ValueError(f"{named(path)} {error}") from error
    except Exception as error:  # damaged bytes lead the unpickler to raise anything
        raise ValueError(_broken(path, error)) from error
    mapped = mapped and zipfile.is_zipfile(path)  # pickles of torch before 1.6 cannot be
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch asks for bug reports on pickles of other programs
            loaded = torch.load(path, map_location=device, weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        raise ValueError(_more_than_tensors(path)) from error
    except Exception as error:  # as above
        raise ValueError(_broken(path, error)) from error
    return _flatten(loaded, path)


def _flatten(loaded: Any, path: Path) -> dict[str, Tensor]:
    """A flat dict of tensors; training checkpoints nest it under one of a few names."""
    for _ in range(DEEPEST):
        if not isinstance(loaded, dict):
            break
        inner = next((loaded[name] for name in WRAPPERS if isinstance(loaded.get(name), dict)), None)
        if inner is None:
            break
        loaded = inner
    if not isinstance(loaded, dict) or not loaded or not all(isinstance(v, Tensor) for v in loaded.values()):
        raise ValueError(f"{named(path)} holds no flat table of tensors")
    if not all(isinstance(key, str) for key in loaded):
        raise ValueError(f"{named(path)} holds tensors without names")
    return loaded


def _more_than_tensors(path: Path) -> str:
    return f"{named(path)} holds more than tensors and is not opened; convert it to .safetensors where it was made"


def _broken(path: Path, error: Exception) -> str:
    why = shown(" ".join((reason(error) or type(error).__name__).split()), 120)
    return f"{named(path)} cannot be read as weights, it is truncated or of another format ({why})"

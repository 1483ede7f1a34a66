"""Tensors from files nobody vouches for: safetensors, or pickles that hold nothing but tensors."""

from __future__ import annotations

import json
import os
import pickle
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

PICKLES = frozenset({".pt", ".pth", ".ckpt", ".bin"})
WRAPPERS = ("state_dict", "module", "app", "model", "generator")
OLDEST_TORCH = "2.6"
"""Before it, a pickle can run code however it is opened (CVE-2025-32434)."""
DEEPEST = 4
SHOWN = 10
_LONGEST_HEADER = 100_000_000
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
    if not path.is_file():
        raise ValueError(f"no weights file at {path}")
    if path.name.endswith(".safetensors.index.json"):
        return _read_shards(path, device)
    if path.suffix == ".safetensors":
        return _read_safetensors(path, device)
    if path.suffix in PICKLES:
        return _read_pickle(path, device, mapped=mapped), {}
    raise ValueError(
        f"{path} is no weights file: expected .safetensors, .safetensors.index.json or {', '.join(sorted(PICKLES))}"
    )


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
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(_broken(path, error)) from error


def _listed(path: Path) -> tuple[dict[str, Place], dict[str, str]]:
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, _LONGEST_HEADER):
            raise ValueError("its header is not whole")
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
        code, shape, (begin, end) = entry["dtype"], tuple(map(int, entry["shape"])), entry["data_offsets"]
        wanted = prod(shape) * _BITS[code] if code in _BITS else 8 * (end - begin)
        if first + begin != position or min((0, *shape)) < 0 or 8 * (end - begin) != wanted:
            raise ValueError(f"what it says of {key} does not fit the rest")
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
                f"{key} {given[key]} instead of {wanted[key]}"
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
    more = f" and {len(keys) - SHOWN} more" if len(keys) > SHOWN else ""
    return f"{len(keys)} {kind}: {', '.join(keys[:SHOWN])}{more}"


def _read_safetensors(path: Path, device: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(str(path), framework="pt", device=device) as file:
            names = list(file.keys())
            return {key: file.get_tensor(key) for key in names}, file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ValueError(_broken(path, error)) from error


def _read_shards(index: Path, device: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    names = shard_names(index)
    tensors: dict[str, Tensor] = {}
    metadata: dict[str, str] = {}
    for name in names:
        shard = index.parent / name
        if not shard.is_file():
            raise ValueError(f"{index} lists the shard {name}, which is not beside it")
        part, meta = _read_safetensors(shard, device)
        tensors |= part
        metadata |= meta
    return tensors, metadata


def shard_names(index: Path) -> list[str]:
    """The file names an index lists, each a plain name beside the index."""
    try:
        names: Iterable[Any] = set(json.loads(index.read_text())["weight_map"].values())
    except (json.JSONDecodeError, RecursionError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{index} is no safetensors index: {error}") from error
    checked = sorted(str(name) for name in names)
    for name in checked:
        if Path(name).name != name:
            raise ValueError(f"{index} lists a shard outside its own folder: {name}")
    return checked


def _read_pickle(path: Path, device: str, *, mapped: bool) -> dict[str, Tensor]:
    if torch.__version__ < OLDEST_TORCH:  # ComfyUI brings a torch of its own, whatever pyproject.toml asks for
        raise ValueError(
            f"{path} is a pickle, and in torch {torch.__version__} a pickle can run code; update torch to {OLDEST_TORCH} or "
            "newer, or convert the file to .safetensors elsewhere"
        )
    mapped = mapped and zipfile.is_zipfile(path)  # pickles of torch before 1.6 cannot be
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch asks for bug reports on pickles of other programs
            loaded = torch.load(path, map_location=device, weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} holds more than tensors and is not opened; convert it to .safetensors where it was made"
        ) from error
    except Exception as error:  # damaged bytes lead the unpickler to raise anything
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
        raise ValueError(f"{path} holds no flat table of tensors")
    return loaded


def _broken(path: Path, error: Exception) -> str:
    return f"{path} cannot be read as weights, it is truncated or of another format ({error})"

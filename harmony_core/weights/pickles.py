"""What a pickle of tensors would take, found out before torch reads it.

Torch's ``weights_only`` lets no code run, and takes what a file says of itself at its word: a compressed entry becomes a
thousand times as large, a ``bytearray(2**33)`` is made, a storage is as long as it is said to be. So the pickle is walked first
with stand-ins that hold no values: each storage is known by its size in the file, each tensor by its shape, and all of it has
to fit the file. What torch then reads has been seen.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import torch

from ..shown import shown
from .dtypes import LONGEST_AXIS, READ

LONGEST = 8 << 20
"""Bytes of a pickle beside its values: those of 50,000 tensors."""
MOST_SHARED = 4
"""How often the values of a file may be used on average: tied weights share them."""
_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
_OTHER_LAYOUTS = {
    "_rebuild_sparse_tensor": "sparse",
    "_rebuild_sparse_csr_tensor": "sparse",
    "_rebuild_nested_tensor": "nested",
    "_rebuild_meta_tensor_no_storage": "meta",
    "_rebuild_qtensor": "quantised",
}
_DTYPES = {
    "DoubleStorage": torch.float64, "FloatStorage": torch.float32, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32, "ShortStorage": torch.int16,
    "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool, "UntypedStorage": torch.uint8,
    "ComplexFloatStorage": torch.complex64, "ComplexDoubleStorage": torch.complex128, "QInt8Storage": torch.qint8,
    "QUInt8Storage": torch.quint8, "QInt32Storage": torch.qint32,
}  # fmt: skip
_OPCODES = (
    pickle.GLOBAL, pickle.REDUCE, pickle.APPEND, pickle.APPENDS, pickle.MARK, pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2,
    pickle.TUPLE3, pickle.NONE, pickle.NEWFALSE, pickle.NEWTRUE, pickle.EMPTY_TUPLE, pickle.EMPTY_LIST, pickle.EMPTY_DICT,
    pickle.BININT, pickle.BININT1, pickle.BININT2, pickle.BINFLOAT, pickle.BINUNICODE, pickle.SHORT_BINSTRING,
    pickle.BINPERSID, pickle.BINGET, pickle.LONG_BINGET, pickle.BINPUT, pickle.LONG_BINPUT, pickle.LONG1, pickle.PROTO,
    pickle.STOP,
)  # fmt: skip


class NotWeightsError(Exception):
    """A pickle holds what no file of weights holds; the text says what, to follow the file's name."""


@dataclass(frozen=True)
class _Storage:
    """Values in the file, by their number."""

    name: str
    dtype: torch.dtype
    nbytes: int


class _Ignored:
    """Something beside the tensors, such as a device: passed over."""


def check_pickle(path: Path) -> None:
    """Refuse a pickle that torch should not read.

    Raises:
        pickle.UnpicklingError: there is more than tensors in it, by the names it calls.
        NotWeightsError: it takes more memory than the file holds, or has tensors of a kind that is not read.
        Exception: of damaged bytes, whatever they lead to.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        walk = _zipped(file, size) if zipfile.is_zipfile(file) else _plain(file, size)
    if walk.used > MOST_SHARED * size:
        raise NotWeightsError(f"names tensors of {walk.used:,} bytes, and the file has {size:,}")


def _zipped(file: BinaryIO, size: int) -> _Walk:
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        names = [entry.filename for entry in entries]
        packed = [
            entry for entry in entries if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size
        ]
        if packed:
            raise NotWeightsError("is compressed, which torch never does; save it again with torch.save")
        # Torch looks names up without regard to case, and begins at the first byte: what it finds has to be what is seen here.
        twice = len({name.lower() for name in names}) < len(names)
        if twice or archive.comment or min((entry.header_offset for entry in entries), default=1):
            raise NotWeightsError("is no archive as torch.save writes it")
        if sum(entry.file_size for entry in entries) > size:
            raise NotWeightsError("lists more bytes than it has")
        folder = names[0].split("/")[0]
        sizes = {name.removeprefix(f"{folder}/data/"): entry.file_size for name, entry in zip(names, entries, strict=True)}
        if f"{folder}/data.pkl" not in names:
            raise NotWeightsError("is an archive without tensors of torch.save")
        if archive.getinfo(f"{folder}/data.pkl").file_size > LONGEST:
            raise NotWeightsError(f"says more than {LONGEST:,} bytes about its tensors")
        walk = _Walk(io.BytesIO(archive.read(f"{folder}/data.pkl")), sizes)
    walk.load()
    return walk


def _plain(file: BinaryIO, size: int) -> _Walk:
    """As torch wrote before 1.6: five pickles, the third with the tensors, then the values."""
    file.seek(0)
    head = io.BytesIO(file.read(LONGEST))
    if _Walk(head).load() != _MAGIC or _Walk(head).load() != _PROTOCOL:
        raise NotWeightsError("is no file of torch.save")
    _Walk(head).load()
    walk = _Walk(head)
    walk.load()
    if sum(storage.nbytes for storage in walk.storages.values()) > size:
        raise NotWeightsError("lists more bytes than it has")
    return walk


class _Walk(pickle._Unpickler):  # noqa: SLF001 - the same in Python: memory only for what is read
    """A pickle's contents with stand-ins for tensors, storages and all else.

    Attributes:
        storages: by their names.
        used: bytes of all tensors.
    """

    stack: list[Any]
    pop_mark: Callable[[], list[Any]]

    def __init__(self, file: BinaryIO, sizes: Mapping[str, int] | None = None) -> None:
        super().__init__(file, encoding="utf-8")
        self._sizes = sizes
        self.storages: dict[str, _Storage] = {}
        self.used = 0
        known: dict[str, Any] = {
            "collections.OrderedDict": _empty,
            "collections.Counter": _counter,
            "torch._utils._rebuild_tensor": self._tensor,
            "torch._utils._rebuild_tensor_v2": self._tensor,
            "torch._utils._rebuild_tensor_v3": self._tensor,
            "torch._utils._rebuild_parameter": _first,
            "torch._utils._rebuild_parameter_with_state": _first,
            "torch.Size": _sides,
            "torch.device": _ignored,
            "torch.serialization._get_layout": _ignored,
            "_codecs.encode": _encoded,
        }
        known |= {f"torch._utils.{name}": _refuse(kind) for name, kind in _OTHER_LAYOUTS.items()}
        known |= {f"{module}.{name}": dtype for name, dtype in _DTYPES.items() for module in ("torch", "torch.storage")}
        known |= {f"torch.{name}": value for name, value in vars(torch).items() if isinstance(value, torch.dtype)}
        self._known = known

    def find_class(self, module: str, name: str) -> Any:
        """What stands for a name in the pickle."""
        found = self._known.get(f"{module}.{name}")
        if found is None:
            raise pickle.UnpicklingError(f"it calls {shown(f'{module}.{name}')}")
        return found

    def persistent_load(self, pid: Any) -> _Storage:
        """A storage, of as many bytes as the file has for it."""
        kind, dtype, name, _, count, *view = pid
        if kind != "storage" or not isinstance(name, str) or not isinstance(dtype, torch.dtype) or not _is_size(count):
            raise NotWeightsError("names values in a way that torch.save does not")
        storage = _Storage(name, dtype, count * dtype.itemsize)
        if self._sizes is not None and self._sizes.get(name) != storage.nbytes:
            raise NotWeightsError(f"says that values {shown(name, 20)} have {storage.nbytes:,} bytes, and they have not")
        if any(part is not None for part in view) or self.storages.setdefault(name, storage) != storage:
            raise NotWeightsError("names values in a way that torch.save does not")
        return storage

    def _tensor(self, storage: Any, offset: Any, shape: Any, stride: Any, *rest: Any) -> _Ignored:
        """A tensor that lies in its storage, and is no larger than it."""
        sides = (*shape, *stride, offset)
        if not isinstance(storage, _Storage) or len(shape) != len(stride) or not all(map(_is_size, sides)):
            raise NotWeightsError("holds a tensor without values")
        dtype = next((part for part in rest if isinstance(part, torch.dtype)), storage.dtype)
        if dtype not in READ:
            raise NotWeightsError(f"holds a tensor of dtype {str(dtype).removeprefix('torch.')}, which is not read here")
        count, last = 1, offset
        for side, step in zip(shape, stride, strict=True):
            count *= side
            last += max(0, side - 1) * step
        there = storage.nbytes // dtype.itemsize
        if count and (count > there or last >= there):
            raise NotWeightsError(f"holds a tensor of {count:,} values, and has {there:,} of them")
        if not count and max(shape) > LONGEST_AXIS:
            raise NotWeightsError(f"holds a tensor with an axis of {max(shape):,}")
        self.used += count * dtype.itemsize
        return _Ignored()

    def _setitem(self) -> None:
        """As the unpickler does it, with keys that cost nothing to compare: not tuples of tuples of tuples."""
        value, key = self.stack.pop(), self.stack.pop()
        _put(self.stack[-1], key, value)

    def _setitems(self) -> None:
        items = self.pop_mark()
        for key, value in zip(items[::2], items[1::2], strict=True):
            _put(self.stack[-1], key, value)

    def _build(self) -> None:
        """What an object is given beside its items; torch's tables have versions there."""
        self.stack.pop()

    def _refused(self) -> None:
        raise pickle.UnpicklingError("it uses what torch does not")

    # Of the opcodes those that torch reads.
    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = {
        **dict.fromkeys(range(256), _refused),
        **{code[0]: pickle._Unpickler.dispatch[code[0]] for code in _OPCODES},  # noqa: SLF001
        pickle.SETITEM[0]: _setitem,
        pickle.SETITEMS[0]: _setitems,
        pickle.BUILD[0]: _build,
    }


def _put(table: Any, key: Any, value: Any) -> None:
    if not isinstance(table, dict) or not (key is None or isinstance(key, str | int | float | bytes)):
        raise NotWeightsError("holds a table with keys that are neither words nor numbers")
    table[key] = value


def _is_size(value: Any) -> bool:
    return type(value) is int and value >= 0


def _first(value: Any, *_: Any) -> Any:
    return value


def _empty() -> OrderedDict[str, Any]:
    return OrderedDict()


def _counter(counts: Any = None) -> Counter[Any]:
    return Counter(counts if isinstance(counts, dict) else None)


def _sides(values: Any = ()) -> tuple[Any, ...]:
    return tuple(values)


def _ignored(*_: Any) -> _Ignored:
    return _Ignored()


def _encoded(text: Any, *_: Any) -> bytes:
    return str(text).encode("utf-8", "surrogatepass")


def _refuse(kind: str) -> Callable[..., Any]:
    def refuse(*_: Any) -> Any:
        raise NotWeightsError(f"holds a {kind} tensor, which is not read here; make it a plain one and save it again")

    return refuse

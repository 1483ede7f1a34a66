"""What a weights file lists of its tensors, and how it stores them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple


class Entry(NamedTuple):
    """A tensor as a header lists it."""

    shape: tuple[int, ...]
    dtype: str


Header = Mapping[str, Entry]

_SHOWN, _LONGEST_NAME = 8, 40
_QUANTO = "._data"
_SCALES = (".scale_weight", ".weight_scale", "scaled_fp8")
_BESIDE = (*_SCALES, ".scale_input", ".input_scale", ".output_scale", "._scale", ".comfy_quant")


def plain(header: Header) -> dict[str, Entry]:
    """The tensors that a quantised file stands for, under the names they have in one that is not.

    Left out are scales and marks; quanto's ``weight._data`` is ``weight``.
    """
    return {key.removesuffix(_QUANTO): entry for key, entry in header.items() if not key.endswith(_BESIDE)}


def below(header: Header, prefix: str) -> dict[str, Entry]:
    """The tensors whose names begin so, without the prefix."""
    return {key.removeprefix(prefix): entry for key, entry in header.items() if key.startswith(prefix)}


def stored(header: Header) -> str:
    """How the weights are quantised, as the end of a sentence; empty for those that are not."""
    if any(key.endswith(_QUANTO) for key in header):
        return ", quantised to int8 as quanto stores it"
    small = sorted({entry.dtype for entry in header.values() if entry.dtype.startswith("float8") or entry.dtype == "int8"})
    if any(key.endswith(_SCALES) for key in header):
        return f", quantised{' to ' + ' and '.join(small) if small else ''} with scales beside the weights"
    return f", in {' and '.join(small)} without scales" if small else ""


def shape(header: Header, key: str) -> tuple[int, ...]:
    """Of one tensor; empty where there is none of that name."""
    return header[key].shape if key in header else ()


def begins(key: str) -> str:
    """The part of a name before its first dot."""
    return key.partition(".")[0][:_LONGEST_NAME]


def beginnings(header: Header) -> str:
    """The first parts of the names and how many tensors begin so, most frequent first."""
    counts = sorted(Counter(map(begins, header)).items(), key=lambda item: (-item[1], item[0]))
    more = f" and {len(counts) - _SHOWN} others" if len(counts) > _SHOWN else ""
    return (", ".join(f"{name} ({count})" for name, count in counts[:_SHOWN]) or "nothing, there is no tensor") + more

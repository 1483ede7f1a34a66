"""Frozen configs to and from JSON, strictly: a field that is unknown, missing or of the wrong type is refused by name."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Iterable
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from .shown import shown

R = TypeVar("R")

LARGEST = 1e12
LONGEST = 64
"""Of a tuple that says how large a network is."""
SHOWN = 5
"""Fields that a message names."""


def to_record(config: Any) -> dict[str, Any]:
    """A config dataclass as plain JSON values."""
    return dataclasses.asdict(config)


def from_record(cls: type[R], record: Any, where: str) -> R:
    """Build the dataclass ``cls`` from plain JSON values.

    Args:
        cls: a dataclass whose fields are numbers, strings, literals, tuples, optionals or dataclasses of those.
        record: what ``to_record`` gave, perhaps by way of a file.
        where: name of the record in messages.

    Raises:
        ValueError: a field is unknown, missing or of the wrong type; the message names it.
    """
    if not isinstance(record, dict):
        raise ValueError(f"{where} is an object with fields, got {type(record).__name__}")
    assert dataclasses.is_dataclass(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}
    unknown = set(record) - set(fields)
    if unknown:
        raise ValueError(f"{where} has unknown field(s) {_few(unknown)}; known: {', '.join(fields)}")
    required = [n for n, f in fields.items() if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING]
    missing = [n for n in required if n not in record]
    if missing:
        raise ValueError(f"{where} lacks field(s) {', '.join(missing)}")
    hints = get_type_hints(cls)
    return cls(**{name: _value(hints[name], value, f"{where}.{name}") for name, value in record.items()})


def check_fields(config: Any, where: str) -> None:
    """Refuse a config dataclass built in code with a field of the wrong type, as one from a file is refused.

    Raises:
        ValueError: a field has another type, or is a number that is not finite or absurdly large.
    """
    hints = get_type_hints(type(config))
    for name in hints:
        _value(hints[name], getattr(config, name), f"{where}.{name}")


def check_most(config: Any, where: str, **most: int) -> None:
    """Refuse sizes that no network has, before one is built of them.

    Args:
        config: a dataclass.
        where: its name in messages.
        most: by field, the largest value, or of a tuple the largest in it; a tuple has at most :data:`LONGEST` of them.

    Raises:
        ValueError: a field is larger; the message names it.
    """
    for name, limit in most.items():
        value = getattr(config, name)
        values = value if isinstance(value, tuple) else (value,)
        if len(values) > LONGEST:
            raise ValueError(f"{where}.{name} has at most {LONGEST} values, got {len(values)}")
        largest = max(values, default=0)
        if largest > limit:
            raise ValueError(f"{where}.{name} is at most {limit:,}, got {largest:,}")


def is_text(value: str) -> bool:
    """Whether it can be written as UTF-8: JSON and YAML can spell halves of characters, which cannot."""
    return not any("\ud800" <= character <= "\udfff" for character in value)


def _got(value: Any) -> str:
    """A value in a message, text in quotes."""
    return shown(repr(value) if isinstance(value, str) else value)


def _few(names: Iterable[object]) -> str:
    listed = sorted(name if isinstance(name, str) else _got(name) for name in names)
    more = f" and {len(listed) - SHOWN} more" if len(listed) > SHOWN else ""
    return ", ".join(shown(name, 40) for name in listed[:SHOWN]) + more


def _value(hint: Any, value: Any, where: str) -> Any:
    origin = get_origin(hint)
    if origin in {Union, types.UnionType}:
        if value is None:
            if type(None) in get_args(hint):
                return None
            raise ValueError(f"{where} is {_name(hint)}, got null")
        (inner,) = (a for a in get_args(hint) if a is not type(None))
        return _value(inner, value, where)
    if origin is Literal:
        if value not in get_args(hint):
            raise ValueError(f"{where} is one of {', '.join(map(repr, get_args(hint)))}, got {_got(value)}")
        return value
    if origin is tuple:
        return _tuple(hint, value, where)
    if dataclasses.is_dataclass(hint):
        return value if isinstance(value, hint) else from_record(hint, value, where)  # type: ignore[arg-type]
    accepted = (int, float) if hint is float else (hint,)
    if type(value) not in accepted:
        raise ValueError(f"{where} is {_name(hint)}, got {_got(value)}")
    if hint in {int, float} and not abs(value) < LARGEST:  # a NaN is not less than anything
        raise ValueError(f"{where} is a number below {LARGEST:g}, got {_got(value)}")
    if hint is str and not is_text(value):
        raise ValueError(f"{where} is text, got half a character in {_got(value)}")
    return float(value) if hint is float else value


def _tuple(hint: Any, value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise ValueError(f"{where} is a list, got {_got(value)}")
    args = get_args(hint)
    inner = [args[0]] * len(value) if len(args) == 2 and args[1] is Ellipsis else list(args)
    if len(inner) != len(value):
        raise ValueError(f"{where} has {len(inner)} values, got {len(value)}")
    return tuple(_value(h, v, f"{where}[{i}]") for i, (h, v) in enumerate(zip(inner, value, strict=True)))


def _name(hint: Any) -> str:
    return getattr(hint, "__name__", str(hint))

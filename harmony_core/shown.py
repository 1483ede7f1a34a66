"""What somebody gave, as it is put into a sentence: short, and nothing in it that a terminal, a log or JSON stumbles over."""

from __future__ import annotations

import reprlib
from pathlib import PurePath

PATH_FACTOR = 4
"""A path may be this many times longer: its beginning and its end say which file it is."""
_GAP = "..."


def shown(value: object, limit: int = 80) -> str:
    """A value for a message.

    Text stands in quotes, as ``repr`` has it; paths and errors stand as they read; anything else is its ``repr``. What is not
    printable is escaped, lone surrogates and line ends too, and of what is too long the middle is left out.

    Args:
        value: anything, however large or deep.
        limit: characters, at least 10; a path may have :data:`PATH_FACTOR` times as many.
    """
    if isinstance(value, PurePath):
        return _cut(_printable(str(value)), PATH_FACTOR * limit)
    if isinstance(value, BaseException):
        return _cut(_printable(" ".join(str(value).split())), limit)
    short = reprlib.Repr()
    short.maxstring = short.maxother = short.maxlong = limit
    try:
        text = short.repr(value)
    except Exception:  # a repr may raise anything, as that of a number of 5,000 digits does
        text = f"a {type(value).__name__} that cannot be shown"
    return _cut(_printable(text), limit)


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _cut(text: str, limit: int) -> str:
    if len(text) <= limit:
        return text
    end = (limit - len(_GAP)) // 2
    return text[: limit - len(_GAP) - end] + _GAP + text[len(text) - end :]

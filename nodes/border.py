"""What every node does with what it is given, before anything else looks at it.

ComfyUI checks widgets only: NaN passes its minima and maxima, what comes through a link is not looked at, and a text may hold
halves of characters, with which not even an error can be written to the log.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from math import isfinite
from typing import Any

from comfy_api.latest import io


class HarmonyNode(io.ComfyNode):
    """A node whose numbers are finite and whose texts are text; inherit from it instead of ComfyUI's class."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        own = cls.__dict__.get("execute")
        if own is not None and not hasattr(own.__func__, "__wrapped__"):  # as those of the copies that ComfyUI makes are
            cls.execute = classmethod(_checked(own.__func__))  # type: ignore[method-assign,assignment]


def check_values(values: Mapping[str, Any]) -> None:
    """Refuse numbers that are none and texts that are none, by the name of the input.

    Raises:
        ValueError: one is not finite, or holds half of a character.
    """
    for name, value in values.items():
        if isinstance(value, float) and not isfinite(value):
            raise ValueError(f"{name}: it is {value}, a finite number is expected; set one, or look where it comes from")
        if isinstance(value, str) and (half := next((c for c in value if "\ud800" <= c <= "\udfff"), None)) is not None:
            raise ValueError(
                f"{name}: it holds half of a character, \\u{ord(half):04x}, as texts do that were cut in two; type it again"
            )


def _checked(execute: Callable[..., io.NodeOutput]) -> Callable[..., io.NodeOutput]:
    @wraps(execute)
    def checked(cls: type[HarmonyNode], *args: Any, **values: Any) -> io.NodeOutput:
        check_values(values)
        return execute(cls, *args, **values)

    return checked

"""Tables that depend on the shapes of clips alone, such as rotary factors: made at their first use, then kept."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, TypeVar

T = TypeVar("T")


class Tables:
    """The tables used last, by what they depend on.

    A run of sampling has its own. Training hands the same ones to every step: made anew they would take a float64 computation
    on the CPU and a copy that the device waits for.
    """

    def __init__(self, most: int = 64) -> None:
        """None yet.

        Args:
            most: kept at once, the one used longest ago goes. References of other lengths ask for another of the audio's each.
        """
        self._most = most
        self._tables: dict[Hashable, Any] = {}

    def __len__(self) -> int:
        return len(self._tables)

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """A table, made if it is not there."""
        found = self._tables.pop(key) if key in self._tables else make()
        self._tables[key] = found
        if len(self._tables) > self._most:
            del self._tables[next(iter(self._tables))]
        return found

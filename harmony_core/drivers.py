"""What driven streams read of their drivers, kept for one sampling run.

A driver is a clean stream: the user's sound or picture, or SyncCFG's silence and still. With driver isolation what it gives
to the other stream is the same at every step. It is computed once and kept here within a memory budget: on the model's
device, else in host memory, else not at all, and then the driver is run again at every step.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from functools import partial

import torch

from .models.harmony import DriverMemory
from .models.interaction import Memory

log = logging.getLogger(__name__)

Keep = Callable[[int, str, Memory], None]
"""Takes a layer's number, a link's name and what it read."""

Read = Callable[[Keep], None]
"""Runs the driver and hands over what is to be kept; see ``Harmony.read_driver``."""


@dataclass(frozen=True)
class MemoryBudget:
    """Bytes that drivers may take up.

    Attributes:
        device: on the model's device.
        host: in host memory, beside what is on the device.
    """

    device: int
    host: int = 0

    def __post_init__(self) -> None:
        if self.device < 0 or self.host < 0:
            raise ValueError(f"a memory budget is not negative, got {self.device} and {self.host} bytes")

    @classmethod
    def of(cls, device: torch.device) -> MemoryBudget:
        """A budget that leaves room: half of what is free on a GPU, and 16 GiB of host memory."""
        if device.type == "cuda":
            return cls(device=torch.cuda.mem_get_info(device)[0] // 2, host=16 << 30)
        return cls(device=16 << 30)


class _Full(Exception):  # noqa: N818 - control flow, not an error
    """The budget is used up."""


class _Kept:
    """The memory of one driver, link by link."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._links: dict[tuple[int, str], Memory] = {}

    def put(self, layer: int, link: str, memory: Memory) -> None:
        self._links[layer, link] = memory

    def recall(self, layer: int, link: str) -> Memory:
        return tuple(t.to(self._device) for t in self._links[layer, link])


class DriverCache:
    """The drivers of one sampling run. Make one a run and let it go with the run."""

    def __init__(self, device: torch.device, budget: MemoryBudget | Callable[[], MemoryBudget] | None = None) -> None:
        """An empty one.

        Args:
            device: the model's.
            budget: of the drivers, or what tells it at the first one, when the model is loaded; by default
                :meth:`MemoryBudget.of`.
        """
        self._device = device
        self._given = budget or partial(MemoryBudget.of, device)
        self._left: MemoryBudget | None = None
        self._kept: dict[Hashable, _Kept | None] = {}
        self._taken: dict[Hashable, MemoryBudget] = {}

    def get(self, key: Hashable, read: Read) -> DriverMemory | None:
        """The memory of a driver, computed at the first call.

        Args:
            key: what the driver is: stream, text, content.
            read: runs the driver.

        Returns:
            Its memory, or None where the budget does not hold it: then the caller runs the driver along.
        """
        if key not in self._kept:
            before = self.bytes_left
            self._kept[key] = self._fill(read)
            left = self.bytes_left
            self._taken[key] = MemoryBudget(before.device - left.device, before.host - left.host)
        return self._kept[key]

    def drop(self, key: Hashable) -> None:
        """Let go of one driver, if it is kept; what it took is free for others."""
        if self._kept.pop(key, None) is not None:
            taken, left = self._taken[key], self.bytes_left
            self._left = MemoryBudget(left.device + taken.device, left.host + taken.host)
        self._taken.pop(key, None)

    def __iter__(self) -> Iterator[Hashable]:
        """The keys of drivers that were asked for."""
        return iter(tuple(self._kept))

    @property
    def bytes_left(self) -> MemoryBudget:
        """What is left of the budget."""
        if self._left is None:
            self._left = self._given() if callable(self._given) else self._given
        return self._left

    def clear(self) -> None:
        """Let go of everything."""
        self._kept.clear()
        self._taken.clear()
        self._left = None

    def _fill(self, read: Read) -> _Kept | None:
        before, kept = self.bytes_left, _Kept(self._device)
        try:
            read(lambda layer, link, memory: kept.put(layer, link, tuple(self._place(t) for t in memory)))
        except _Full:
            self._left = before
            log.info("a driver does not fit the memory budget; it is run again at every step")
            return None
        except BaseException:
            self._left = before
            raise
        return kept

    def _place(self, tensor: torch.Tensor) -> torch.Tensor:
        size, left = tensor.numel() * tensor.element_size(), self.bytes_left
        if size <= left.device:
            self._left = MemoryBudget(left.device - size, left.host)
            return tensor
        if size <= left.host:
            self._left = MemoryBudget(left.device, left.host - size)
            return tensor.to("cpu")
        raise _Full

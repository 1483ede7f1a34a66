"""How many bytes of tensors are there at once: followed operation by operation, also on the meta device, or as allocated."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Follows every storage an operation makes until it is let go.

    Attributes:
        highest: most bytes that were there at once.
    """

    def __init__(self) -> None:
        super().__init__()
        self._live: dict[int, tuple[StorageWeakRef, int]] = {}
        self._before: set[int] = set()
        self.highest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        for given in self._storages((args, kwargs)):
            self._before.add(given._cdata) if given._cdata not in self._live else None
        out = func(*args, **kwargs)
        self._live = {key: one for key, one in self._live.items() if not one[0].expired()}
        for made in self._storages(out):
            if made._cdata not in self._live and made._cdata not in self._before:
                self._live[made._cdata] = (StorageWeakRef(made), made.nbytes())
        self.highest = max(self.highest, sum(size for _, size in self._live.values()))
        return out

    @staticmethod
    def _storages(tree) -> list[torch.UntypedStorage]:
        return [x.untyped_storage() for x in tree_leaves(tree) if isinstance(x, torch.Tensor)]


def live_bytes(work: Callable[[], object]) -> int:
    """Most bytes that were there at once beside what was there before."""
    with torch.no_grad(), LiveBytes() as counter:
        work()
    return counter.highest


def allocated_bytes(work: Callable[[], object]) -> int:
    """The same as the CPU's allocator saw it, with what operations take inside."""
    with torch.no_grad():
        return highest_allocated(work)


def highest_allocated(work: Callable[[], object]) -> int:
    """The same, with what is kept for gradients."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        work()
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = top = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        top = max(top, now)
    return top

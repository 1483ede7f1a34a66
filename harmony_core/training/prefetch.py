"""Batches made ready while the step before is computed."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

DEPTH = 2
"""Batches that lie ready; one more is being read."""


class Prefetcher:
    """Iterates over the batches of some steps, which a thread of its own draws and reads.

    What a batch is depends on its step alone, so there is no state to keep for a resumed run. Where they go to a CUDA device
    they lie in pinned memory, from which they are copied while the device computes. An error of a draw is raised where its
    batch is asked for. As a context manager it ends its thread.
    """

    def __init__(self, draw: Callable[[int], Any], steps: Sequence[int], *, device: torch.device | str) -> None:
        """Start.

        Args:
            draw: gives the batch of a step.
            steps: in order.
            device: the batches' destination.
        """
        self._draw, self._steps = draw, steps
        target = torch.device(device)
        self._pinned = target.type == "cuda"
        self._cuda = (torch.cuda.current_device() if target.index is None else target.index) if self._pinned else 0
        self._ready: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue(DEPTH)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, name="prefetch", daemon=True)

    def __enter__(self) -> Prefetcher:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        while self._thread.is_alive():  # it may wait for a place in the queue
            while not self._ready.empty():
                self._ready.get_nowait()
            self._thread.join(0.05)

    def __iter__(self) -> Iterator[Any]:
        for _ in self._steps:
            batch, error = self._ready.get()
            if error is not None:
                raise error
            yield batch

    def _work(self) -> None:
        if self._pinned:
            torch.cuda.set_device(self._cuda)  # pinning would else open a context on the first GPU, from every rank
        for step in self._steps:
            if self._ended.is_set():
                return
            try:
                batch = self._draw(step)
                found: tuple[Any, BaseException | None] = (batch.pin_memory() if self._pinned else batch, None)
            except BaseException as error:  # raised again by the one who waits for the batch
                found = None, error
            self._ready.put(found)
            if found[1] is not None:
                return

"""Timing on noisy machines: what is compared is run in turn, and ratios are of medians of one run."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

import torch


def interleaved(
    tasks: Mapping[str, Callable[[], object]], *, rounds: int, device: torch.device, warm: bool = True
) -> dict[str, float]:
    """Median seconds of each task.

    Args:
        tasks: by name.
        rounds: how often all are run, in turn.
        device: waited for before the clock is read.
        warm: whether all are run once first, uncounted; long tasks need it less.
    """
    for task in tasks.values() if warm else ():
        task()
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for _ in range(rounds):
        for name, task in tasks.items():
            synchronize(device)
            start = time.perf_counter()
            task()
            synchronize(device)
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def synchronize(device: torch.device) -> None:
    """Wait until a device has done its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()

"""Sources of random numbers: every draw of a training is a function of the run's seed, the step and what is drawn."""

from __future__ import annotations

import torch

MASK = (1 << 64) - 1
ORDER_STREAM = 0


def generator(seed: int, step: int, stream: int, *which: int) -> torch.Generator:
    """The source of one step's random numbers for one purpose, on the CPU; independent for different arguments."""
    # A linear map of the arguments would give neighbouring steps related states; the mixing of SplitMix64 does not.
    state = 0
    for value in (seed, step, stream, *which):
        state = (state + value + 0x9E3779B97F4A7C15) & MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & MASK
        state ^= state >> 31
    return torch.Generator("cpu").manual_seed(state)

"""Sound whose samples are known."""

import math

import torch

from harmony_core.types import Audio


def tone(hertz: float, rate: int, seconds: float = 1.0) -> Audio:
    """A sine of half of full scale, (1, 1, samples)."""
    time = torch.arange(round(seconds * rate), dtype=torch.float64) / rate
    return Audio(0.5 * torch.sin(2 * math.pi * hertz * time).float()[None, None], rate)

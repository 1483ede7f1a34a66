"""A clip whose events are known: a square that bounces off the floor, and a click at every bounce."""

from itertools import pairwise

import torch

from harmony_core.types import Audio

FPS = 24.0
BOUNCES = (0.45, 1.0, 1.65, 2.15, 2.85, 3.4)
SECONDS = 4.0

_EDGE = 0.2  # of the square, in shorter sides of the picture
_PULL = 3.0


def bouncing(size: tuple[int, int] = (64, 64), *, fps: float = FPS, seconds: float = SECONDS) -> torch.Tensor:
    """Pictures (F, 3, H, W) in [0, 1]: it flies freely between bounces, and lies before the first and after the last."""
    height, width = size
    side = min(size)
    down, across = torch.arange(height)[:, None] / side, torch.arange(width)[None] / side
    left = (width / side - _EDGE) / 2

    def covered(place: torch.Tensor, first: float) -> torch.Tensor:
        # Edges of a pixel's width, so that motions smaller than a pixel show.
        return ((place - first) * side + 0.5).clamp(0, 1) * ((first + _EDGE - place) * side + 0.5).clamp(0, 1)

    tops = [height / side - 0.05 - _EDGE - _above((number + 0.5) / fps) for number in range(round(seconds * fps))]
    shown = torch.stack([covered(down, top) * covered(across, left) for top in tops])
    return (0.3 + 0.6 * shown)[:, None].expand(-1, 3, -1, -1)


def _above(time: float) -> float:
    """How high it is, in shorter sides of the picture."""
    for before, after in pairwise((BOUNCES[0] - 0.5, *BOUNCES, BOUNCES[-1] + 0.5)):
        if before <= time <= after:
            return _PULL * (time - before) * (after - time)
    return 0.0


def clicks(*, late: float = 0.0, rate: int = 16_000, channels: int = 1, seconds: float = SECONDS, level: float = 0.5) -> Audio:
    """The sound, as late as wanted; the same noise at every bounce."""
    wave = torch.zeros(round(seconds * rate))
    burst = torch.rand(rate // 10, generator=torch.Generator().manual_seed(0)) - 0.5
    burst = burst * torch.exp(-torch.arange(rate // 10) / (0.02 * rate))
    for time in BOUNCES:
        start = round((time + late) * rate)
        if 0 <= start < len(wave):
            piece = burst[: len(wave) - start]
            wave[start : start + len(piece)] += piece
    return Audio(level * wave.expand(1, channels, -1), rate)

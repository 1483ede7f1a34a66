"""Flow matching: a straight path from data to noise, its times, and the noise itself.

    x(sigma) = (1 - sigma) data + sigma noise        velocity = dx / dsigma = noise - data

Sigma is 1 at noise and 0 at data. Both streams walk such a path; their sigmas may differ at the same step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from .shown import shown
from .types import AV

MOST_STEPS = 1000
"""Of a run: models are trained on a thousand times at most."""
SHIFTS, GAMMAS = (1e-3, 1e3), (1e-2, 1e2)
"""Lowest and highest; beyond, times are no longer told apart."""
Sigmas = AV[list[float]]
"""Each stream's times from first to last, strictly decreasing, equally many."""


def mix(data: Tensor, noise: Tensor, sigma: Tensor | float) -> Tensor:
    """The point of the path at ``sigma``."""
    return (1 - sigma) * data + sigma * noise


def to_data(x: Tensor, velocity: Tensor, sigma: Tensor | float) -> Tensor:
    """The data a velocity at ``x`` points to: ``x - sigma velocity``."""
    return x - sigma * velocity


def shifted_schedule(steps: int, *, shift: float = 5.0) -> list[float]:
    """Sigmas of a run, from 1 to 0: evenly spaced, then shifted towards noise, ``s t / (1 + (s - 1) t)``.

    Args:
        steps: number of steps; one more sigma is returned.
        shift: 1 leaves the spacing even; Wan and Harmony use 5.

    Raises:
        ValueError: no steps, or a shift that is not positive.
    """
    if not isinstance(steps, int) or steps < 1:
        raise ValueError(f"a run has a whole number of steps, at least one, got {shown(steps)}")
    if steps > MOST_STEPS:
        raise ValueError(f"a run has at most {MOST_STEPS} steps, got {shown(steps)}")
    if not SHIFTS[0] <= shift <= SHIFTS[1]:
        raise ValueError(f"shift is a positive number from {SHIFTS[0]:g} to {SHIFTS[1]:g}, got {shift}")
    even = [1 - i / steps for i in range(steps + 1)]
    return [shift * t / (1 + (shift - 1) * t) for t in even]


def adjust_times(sigmas: Sequence[float], *, gamma: float = 1.0) -> Sigmas:
    """Each stream's own times (timestep adjustment, arXiv 2409.17550).

    ``sigma ** sqrt(g)`` for video, ``sigma ** (1 / sqrt(g))`` for sound: with g above 1 the picture settles first.

    Raises:
        ValueError: gamma is not positive.
    """
    if not GAMMAS[0] <= gamma <= GAMMAS[1]:
        raise ValueError(f"gamma is a positive number from {GAMMAS[0]:g} to {GAMMAS[1]:g}, got {gamma}")
    root = math.sqrt(gamma)
    return AV([s**root for s in sigmas], [s ** (1 / root) for s in sigmas])


def base_time(sigma: AV[float]) -> float:
    """Where on the schedule a step is whose streams have these times; the inverse of :func:`adjust_times`, whatever its gamma.

    The logarithms of the two times are that of the base's, multiplied and divided by the same root.
    """
    if sigma.video == sigma.audio:
        return sigma.video
    if min(sigma) <= 0:
        return 0.0
    return math.exp(-math.sqrt(math.log(sigma.video) * math.log(sigma.audio)))


def check_sigmas(sigmas: Sigmas) -> int:
    """The number of steps.

    Raises:
        ValueError: the streams have different counts, a sigma lies outside [0, 1], or they do not fall strictly.
    """
    if len(sigmas.video) != len(sigmas.audio):
        raise ValueError(f"video has {len(sigmas.video)} sigmas, audio {len(sigmas.audio)}; they step together")
    if len(sigmas.video) < 2:
        raise ValueError(f"a run has at least two sigmas, got {len(sigmas.video)}")
    for name, values in (("video", sigmas.video), ("audio", sigmas.audio)):
        if not all(0 <= s <= 1 for s in values):
            raise ValueError(f"{name} sigmas lie between 0 and 1, got {values}")
        if not all(a > b for a, b in pairwise(values)):
            raise ValueError(f"{name} sigmas fall from step to step, got {values}")
    return len(sigmas.video) - 1


def draw_noise(shapes: AV[Sequence[int]], seeds: Sequence[int]) -> AV[Tensor]:
    """Noise for a batch of clips, drawn clip by clip.

    Every clip has a seed of its own and its noise is drawn on the CPU, video first, then sound: the same seed gives the
    same clip alone or in a batch, whatever the device.

    Args:
        shapes: of each stream's latents, batch first.
        seeds: one a clip.

    Returns:
        float32 noise on the CPU.
    """
    if any(shape[0] != len(seeds) for shape in shapes):
        raise ValueError(f"{len(seeds)} seeds for batches of {shapes.video[0]} and {shapes.audio[0]}")
    clips = []
    for seed in seeds:
        generator = torch.Generator("cpu").manual_seed(seed)
        clips.append(AV(*(torch.randn(tuple(shape[1:]), generator=generator) for shape in shapes)))
    return AV(torch.stack([c.video for c in clips]), torch.stack([c.audio for c in clips]))

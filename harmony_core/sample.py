"""A run of the joint model: from a setting to finished latents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from .denoiser import Denoiser, Setting
from .flow import adjust_times, draw_noise, shifted_schedule
from .models.harmony import Harmony
from .recipes import HARMONY
from .sampling import OnStep, sampler
from .types import AV


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How a run goes from noise to data.

    Attributes:
        steps: sampling steps.
        shift: of the schedule towards noise.
        gamma: timestep adjustment between the streams; 1 is none.
        sampler: name of a sampler.
    """

    steps: int = HARMONY.steps
    shift: float = HARMONY.shift
    gamma: float = 1.0
    sampler: str = HARMONY.sampler


@dataclass(frozen=True, kw_only=True)
class Sampled:
    """The outcome of a run.

    Attributes:
        latents: finished, float32; what was given is in them bit for bit.
        passes: how often each branch was run, evaluation by evaluation.
    """

    latents: AV[Tensor]
    passes: tuple[AV[int], ...]


def sample(
    model: Harmony, setting: Setting, *, seeds: Sequence[int], schedule: Schedule | None = None, on_step: OnStep | None = None
) -> Sampled:
    """Sample latents.

    Args:
        model: a joint model.
        setting: what is given, told and guided.
        seeds: one a clip.
        schedule: steps and sampler.
        on_step: called every step; it cancels the run by raising.

    Raises:
        ValueError: the parts do not fit each other.
    """
    schedule = schedule or Schedule()
    walk = sampler(schedule.sampler)
    sigmas = adjust_times(shifted_schedule(schedule.steps, shift=schedule.shift), gamma=schedule.gamma)
    canvas = setting.canvas
    denoiser = Denoiser(model, setting)
    passes: list[AV[int]] = []

    def velocity(x: AV[Tensor], sigma: AV[float]) -> AV[Tensor]:
        v = denoiser(x, sigma)
        passes.append(denoiser.passes)
        return v

    home = canvas.given.video.device
    noise = draw_noise(canvas.given.map(lambda x: x.shape), seeds)
    try:
        end = walk(velocity, noise.map(lambda x: x.to(denoiser.device)), sigmas, on_step)
    finally:
        denoiser.close()
    return Sampled(latents=canvas.compose(end.map(lambda x: x.to(home))), passes=tuple(passes))

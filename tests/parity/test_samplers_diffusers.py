"""Our multistep samplers against diffusers' schedulers on a flow with a known velocity."""

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, UniPCMultistepScheduler

from harmony_core.sampling import dpmpp_2m, unipc
from harmony_core.types import AV


def velocity(x, sigma):
    """Of data N(0.7, 0.5 ** 2), exactly."""
    a = 1 - sigma
    x0 = 0.7 + a * 0.25 / (a * a * 0.25 + sigma * sigma) * (x - a * 0.7)
    return (x - x0) / sigma


@pytest.mark.parametrize(("scheduler", "ours"), [(UniPCMultistepScheduler, unipc), (DPMSolverMultistepScheduler, dpmpp_2m)])
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("steps", [2, 3, 12])
def test_the_same_walk(scheduler, ours, steps):
    theirs = scheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5.0, solver_order=2)
    theirs.set_timesteps(steps)
    sigmas = [float(s) for s in theirs.sigmas.double()]
    start = torch.linspace(-2, 2, 9, dtype=torch.float64).view(1, 1, 9)
    x = start
    for t, sigma in zip(theirs.timesteps, sigmas, strict=False):
        x = theirs.step(velocity(x, sigma), t, x).prev_sample
    out = ours(lambda y, s: y.map(velocity, s), AV(start, start), AV(sigmas, sigmas))
    assert torch.allclose(out.video, x, atol=1e-6)

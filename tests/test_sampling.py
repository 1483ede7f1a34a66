import math
from itertools import pairwise

import pytest
import torch
from rounding import ROUNDING, away

from harmony_core.flow import shifted_schedule
from harmony_core.progress import Cancelled
from harmony_core.sampling import SAMPLERS, sampler
from harmony_core.types import AV

MEAN, SPREAD = 0.7, 0.5
ORDERS = {"euler": 1, "heun": 2, "dpmpp_2m": 2, "unipc": 3}


def gaussian(x, sigma):
    """The exact velocity where data are normal."""
    a = 1 - sigma
    x0 = MEAN + a * SPREAD**2 / (a * a * SPREAD**2 + sigma * sigma) * (x - a * MEAN)
    return (x - x0) / sigma


def solution(x, start, end):
    def deviation(sigma):
        return math.sqrt((1 - sigma) ** 2 * SPREAD**2 + sigma**2)

    return (1 - end) * MEAN + deviation(end) / deviation(start) * (x - (1 - start) * MEAN)


def even_in_log_snr(steps, first=0.95, last=0.05):
    a, b = (math.log((1 - s) / s) for s in (first, last))
    return [1 / (1 + math.exp(a + (b - a) * i / steps)) for i in range(steps + 1)]


def points() -> AV[torch.Tensor]:
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)
    return AV(x, x.flip(0))


@pytest.mark.parametrize("name", SAMPLERS)
def test_each_converges_at_its_order(name):
    x, errors = points(), []
    for steps in (32, 64, 128):
        sigmas = even_in_log_snr(steps)
        out = SAMPLERS[name](lambda y, s: y.map(gaussian, s), x, AV(sigmas, sigmas))
        errors.append((out.video - solution(x.video, sigmas[0], sigmas[-1])).abs().max().item())
    for coarse, fine in pairwise(errors):
        assert math.log2(coarse / fine) == pytest.approx(ORDERS[name], abs=0.1)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("steps", [1, 2, 3, 7])
def test_each_is_exact_on_a_straight_path(name, steps):
    x = points()
    slope = AV(torch.full((9,), 0.3, dtype=torch.float64), torch.full((9,), -1.7, dtype=torch.float64))
    data = x.map(lambda start, v: start - v, slope)
    sigmas = shifted_schedule(steps)
    # The data a straight path leads to is one point: velocity = (x - data) / sigma at every x.
    out = SAMPLERS[name](lambda y, s: y.map(lambda z, d, t: (z - d) / t, data, s), x, AV(sigmas, sigmas))
    assert torch.allclose(out.video, data.video, atol=1e-12)
    assert torch.allclose(out.audio, data.audio, atol=1e-12)


def test_euler_is_exact_under_a_constant_velocity_in_one_step_as_in_many():
    x = points()
    for steps in (1, 10):
        sigmas = shifted_schedule(steps)
        out = SAMPLERS["euler"](lambda y, s: y.map(torch.ones_like), x, AV(sigmas, sigmas))
        assert torch.allclose(out.video, x.video - 1, atol=1e-12)


@pytest.mark.parametrize("name", SAMPLERS)
def test_streams_walk_their_own_schedules(name):
    """Together they end where each would alone: no sigma of one leaks into the other."""
    x, video, audio = points(), even_in_log_snr(6), even_in_log_snr(6, first=0.8, last=0.2)
    run = SAMPLERS[name]
    both = run(lambda y, s: y.map(gaussian, s), x, AV(video, audio))
    assert away(both.video, run(lambda y, s: y.map(gaussian, s), x, AV(video, video)).video) <= ROUNDING
    assert away(both.audio, run(lambda y, s: y.map(gaussian, s), x, AV(audio, audio)).audio) <= ROUNDING


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_run_may_stop_and_go_on_between_steps(name):
    """Two stages of a schedule that does not end at data make sense to every sampler (only the history is lost)."""
    x, sigmas = points(), even_in_log_snr(64)
    first = SAMPLERS[name](lambda y, s: y.map(gaussian, s), x, AV(sigmas[:33], sigmas[:33]))
    out = SAMPLERS[name](lambda y, s: y.map(gaussian, s), first, AV(sigmas[32:], sigmas[32:]))
    expected = solution(x.video, sigmas[0], sigmas[-1])
    assert (out.video - expected).abs().max() < 0.03


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_callback_sees_every_step_and_cancels_by_raising(name):
    sigmas = shifted_schedule(5)
    seen = []
    SAMPLERS[name](lambda y, s: y.map(gaussian, s), points(), AV(sigmas, sigmas), seen.append)
    assert [(s.index, s.steps, s.sigma.video) for s in seen] == [(i, 5, sigmas[i]) for i in range(5)]
    v = seen[2].x.map(gaussian, seen[2].sigma)
    assert torch.allclose(seen[2].x0.audio, seen[2].x.audio - seen[2].sigma.audio * v.audio)

    def stop(step):
        if step.index == 2:
            raise Cancelled

    with pytest.raises(Cancelled):
        SAMPLERS[name](lambda y, s: y.map(gaussian, s), points(), AV(sigmas, sigmas), stop)


def test_heun_asks_nothing_at_sigma_zero():
    asked = []

    def velocity(x, sigma):
        asked.append(sigma.video)
        return x.map(gaussian, sigma)

    sigmas = shifted_schedule(4)
    SAMPLERS["heun"](velocity, points(), AV(sigmas, sigmas))
    assert len(asked) == 7
    assert min(asked) > 0


def test_unknown_samplers_are_refused_with_the_known():
    with pytest.raises(ValueError, match="no sampler 'magic'; there are euler, heun, dpmpp_2m, unipc"):
        sampler("magic")

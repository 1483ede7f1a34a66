"""Samplers: from noise to data along a velocity.

A sampler knows nothing of guidance, tasks or models: it is given ``velocity(x, sigma)``, a start and each stream's sigmas.
With the same velocity at every sigma all of them are exact; the higher orders differ in how they bend.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from torch import Tensor

from .flow import Sigmas, check_sigmas, to_data
from .shown import shown
from .types import AV, Modality

Velocity = Callable[[AV[Tensor], AV[float]], AV[Tensor]]
"""``velocity(x, sigma)``: noise minus data at x, for each stream."""


@dataclass(frozen=True)
class Step:
    """What a step callback sees.

    Attributes:
        index: of the step, from 0.
        steps: of the run.
        sigma: where the step began.
        x: the point it began at.
        x0: the data the velocity there points to; what a preview shows.
    """

    index: int
    steps: int
    sigma: AV[float]
    x: AV[Tensor]
    x0: AV[Tensor]


OnStep = Callable[[Step], None]
"""Called once a step; it cancels the run by raising."""


class Sampler(Protocol):
    """Walks from the first sigma to the last."""

    def __call__(self, velocity: Velocity, x: AV[Tensor], sigmas: Sigmas, on_step: OnStep | None = None) -> AV[Tensor]:
        """Sample.

        Args:
            velocity: the model, with whatever guidance.
            x: where to start, at the first sigmas.
            sigmas: each stream's times.
            on_step: called after each step's first evaluation.

        Returns:
            The point at the last sigmas.

        Raises:
            ValueError: the sigmas are not two equally long, strictly falling lists in [0, 1].
        """
        ...


def euler(velocity: Velocity, x: AV[Tensor], sigmas: Sigmas, on_step: OnStep | None = None) -> AV[Tensor]:
    """Order 1: ``x + (sigma' - sigma) v``. See :class:`Sampler`."""
    steps = check_sigmas(sigmas)
    for i in range(steps):
        now, then = _at(sigmas, i), _at(sigmas, i + 1)
        v = velocity(x, now)
        _tell(on_step, i, steps, now, x, v)
        x = x.map(_advance, v, now, then)
    return x


def heun(velocity: Velocity, x: AV[Tensor], sigmas: Sigmas, on_step: OnStep | None = None) -> AV[Tensor]:
    """Order 2, two evaluations a step: the mean of the velocities at both ends. See :class:`Sampler`.

    A last step to sigma 0 is Euler's: at 0 a model takes its input for given, not for nearly finished.
    """
    steps = check_sigmas(sigmas)
    for i in range(steps):
        now, then = _at(sigmas, i), _at(sigmas, i + 1)
        v = velocity(x, now)
        _tell(on_step, i, steps, now, x, v)
        guess = x.map(_advance, v, now, then)
        if then.video > 0 and then.audio > 0:
            v = v.map(lambda a, b: (a + b) / 2, velocity(guess, then))
            guess = x.map(_advance, v, now, then)
        x = guess
    return x


def dpmpp_2m(velocity: Velocity, x: AV[Tensor], sigmas: Sigmas, on_step: OnStep | None = None) -> AV[Tensor]:
    """Order 2, one evaluation a step: DPM-Solver++(2M), which extrapolates the data estimate in log-SNR.

    See :class:`Sampler`.
    """
    steps = check_sigmas(sigmas)
    data = list[AV[Tensor]]()
    for i in range(steps):
        now, then = _at(sigmas, i), _at(sigmas, i + 1)
        v = velocity(x, now)
        _tell(on_step, i, steps, now, x, v)
        data = [*data[-1:], x.map(to_data, v, now)]
        x = x.map(_towards, _ahead(data, sigmas, i), now, then)
    return x


def unipc(velocity: Velocity, x: AV[Tensor], sigmas: Sigmas, on_step: OnStep | None = None) -> AV[Tensor]:
    """UniPC of order 2, variant B2, one evaluation a step. See :class:`Sampler`.

    The predictor is DPM-Solver++(2M)'s; the evaluation at the predicted point also corrects that point, which makes it
    order 3. A last step to sigma 0 is of first order, here as in every multistep sampler in log-SNR.
    """
    steps = check_sigmas(sigmas)
    start, data = x, list[AV[Tensor]]()
    for i in range(steps):
        now, then = _at(sigmas, i), _at(sigmas, i + 1)
        v = velocity(x, now)
        _tell(on_step, i, steps, now, x, v)
        x0 = x.map(to_data, v, now)
        if data:
            passed = sigmas.map(lambda values, i=i: values[max(0, i - 2) : i + 1])
            x = start.map(_correct, AV.of(partial(_of_stream, data)), x0, passed)
        start, data = x, [*data[-1:], x0]
        x = x.map(_towards, _ahead(data, sigmas, i), now, then)
    return x


SAMPLERS: dict[str, Sampler] = {"euler": euler, "heun": heun, "dpmpp_2m": dpmpp_2m, "unipc": unipc}


def sampler(name: str) -> Sampler:
    """One of the samplers.

    Raises:
        ValueError: there is none of that name.
    """
    if name not in SAMPLERS:
        raise ValueError(f"no sampler {shown(repr(name))}; there are {', '.join(SAMPLERS)}")
    return SAMPLERS[name]


def _at(sigmas: Sigmas, i: int) -> AV[float]:
    return sigmas.map(lambda values: values[i])


def _tell(on_step: OnStep | None, i: int, steps: int, sigma: AV[float], x: AV[Tensor], v: AV[Tensor]) -> None:
    if on_step is not None:
        on_step(Step(i, steps, sigma, x, x.map(to_data, v, sigma)))


def _advance(x: Tensor, v: Tensor, now: float, then: float) -> Tensor:
    return x + (then - now) * v


def _towards(x: Tensor, x0: Tensor, now: float, then: float) -> Tensor:
    """The exact solution from ``now`` to ``then`` where the data estimate stays ``x0``."""
    ratio = then / now
    return ratio * x + (1 - ratio) * x0


def _log_snr(sigma: float) -> float:
    """Half the log signal-to-noise ratio, ``log((1 - sigma) / sigma)``; infinite at both ends."""
    if sigma <= 0:
        return math.inf
    return math.log((1 - sigma) / sigma) if sigma < 1 else -math.inf


def _of_stream(data: list[AV[Tensor]], modality: Modality) -> list[Tensor]:
    return [estimate[modality] for estimate in data]


def _ahead(data: list[AV[Tensor]], sigmas: Sigmas, i: int) -> AV[Tensor]:
    """The mean data estimate over the step from i, extrapolated linearly in log-SNR from the last two estimates.

    Not extrapolated where a step is infinite in log-SNR, from pure noise or to pure data.
    """
    if len(data) < 2:
        return data[-1]

    def one(old: Tensor, new: Tensor, s: list[float]) -> Tensor:
        last, coming = _log_snr(s[i]) - _log_snr(s[i - 1]), _log_snr(s[i + 1]) - _log_snr(s[i])
        return new if math.isinf(last) or math.isinf(coming) else new + coming / (2 * last) * (new - old)

    return data[-2].map(one, data[-1], sigmas)


def _correct(start: Tensor, data: list[Tensor], reached: Tensor, sigmas: list[float]) -> Tensor:
    """UniC: the last step again, its data estimate interpolated through the one at its end.

    Args:
        start: the point the step began at.
        data: one or two data estimates, the last at the step's beginning.
        reached: the data estimate at the step's end.
        sigmas: of those estimates, in order.
    """
    *before, now, then = sigmas
    middle = data[-1] + 0.5 * (reached - data[-1])
    h = _log_snr(then) - _log_snr(now)
    if len(data) == 2 and math.isfinite(h) and math.isfinite(_log_snr(before[-1])):
        r = (_log_snr(before[-1]) - _log_snr(now)) / h
        phi1 = -math.expm1(-h)
        b1 = (1 - phi1 / h) / phi1
        b2 = 2 * (0.5 - (1 - phi1 / h) / h) / phi1
        rho = (b1 - b2) / (1 - r)
        middle = data[-1] + rho / r * (data[-2] - data[-1]) + (b1 - rho) * (reached - data[-1])
    return _towards(start, middle, now, then)

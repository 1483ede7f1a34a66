import math

import pytest
import torch

from harmony_core.flow import adjust_times, base_time, check_sigmas, draw_noise, mix, shifted_schedule, to_data
from harmony_core.types import AV


def test_velocity_points_from_data_to_noise():
    data, noise = torch.randn(2, 5).unbind(0)
    x = mix(data, noise, 0.3)
    assert torch.allclose(to_data(x, noise - data, 0.3), data, atol=1e-6)


@pytest.mark.parametrize("shift", [1.0, 3.0, 5.0])
def test_the_schedule_falls_from_noise_to_data_and_shift_stays_longer_in_noise(shift):
    sigmas = shifted_schedule(10, shift=shift)
    assert sigmas[0] == 1
    assert sigmas[-1] == 0
    assert check_sigmas(AV(sigmas, sigmas)) == 10
    assert sigmas[5] == pytest.approx(shift * 0.5 / (1 + (shift - 1) * 0.5))


def test_timestep_adjustment_settles_the_picture_first_and_one_changes_nothing():
    sigmas = shifted_schedule(8)
    assert adjust_times(sigmas) == AV(sigmas, sigmas)
    adjusted = adjust_times(sigmas, gamma=1.5)
    assert check_sigmas(adjusted) == 8
    for s, v, a in zip(sigmas, adjusted.video, adjusted.audio, strict=True):
        assert v == pytest.approx(s ** math.sqrt(1.5))
        assert a == pytest.approx(s ** (1 / math.sqrt(1.5)))
        assert v <= s <= a


@pytest.mark.parametrize(
    ("sigmas", "message"),
    [
        (AV([1.0, 0.5, 0.5], [1.0, 0.5, 0.0]), "video sigmas fall"),
        (AV([1.0, 0.5, 0.0], [0.5, 0.7, 0.0]), "audio sigmas fall"),
        (AV([1.0, 0.0], [1.0, 0.5, 0.0]), "step together"),
        (AV([1.0], [1.0]), "at least two"),
        (AV([2.0, 0.0], [1.0, 0.0]), "between 0 and 1"),
        (AV([1.0, float("nan")], [1.0, 0.0]), "between 0 and 1"),
    ],
)
def test_sigmas_that_are_no_schedule_are_refused(sigmas, message):
    with pytest.raises(ValueError, match=message):
        check_sigmas(sigmas)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: shifted_schedule(0), "at least one, got 0"),
        (lambda: shifted_schedule(2.5), "whole number"),
        (lambda: shifted_schedule(4, shift=0), "shift is a positive"),
        (lambda: shifted_schedule(4, shift=float("nan")), "shift is a positive"),
        (lambda: adjust_times([1.0, 0.0], gamma=-1), "gamma is a positive"),
        (lambda: draw_noise(AV((2, 3), (2, 4)), [1]), "1 seeds for batches"),
    ],
)
def test_bad_numbers_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_seed_gives_the_same_noise_alone_and_in_a_batch():
    shapes = AV((3, 4, 5), (3, 2, 7))
    batch = draw_noise(shapes, [7, 8, 9])
    for i, seed in enumerate([7, 8, 9]):
        alone = draw_noise(shapes.map(lambda s: (1, *s[1:])), [seed])
        assert torch.equal(batch.video[i], alone.video[0])
        assert torch.equal(batch.audio[i], alone.audio[0])
    assert not torch.equal(batch.video[0], batch.video[1])


@pytest.mark.parametrize("gamma", [0.3, 1.0, 2.0, 9.0])
def test_the_base_time_undoes_timestep_adjustment(gamma):
    schedule = shifted_schedule(24)
    own = adjust_times(schedule, gamma=gamma)
    found = [base_time(AV(v, a)) for v, a in zip(own.video, own.audio, strict=True)]
    assert found == pytest.approx(schedule, rel=1e-12)

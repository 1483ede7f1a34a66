import numpy as np
import pytest
import torch
from bounces import BOUNCES, FPS, SECONDS, bouncing, clicks

from harmony_core.measure.envelopes import RATE, heard_curve, seen_curves
from harmony_core.measure.sync import peaks
from harmony_core.types import Audio


def far(times, wanted) -> float:
    """How far the farthest of the wanted times is from what was found."""
    return max(np.abs(times - one).min() for one in wanted)


def test_clicks_are_heard_when_they_sound():
    curve = heard_curve(clicks(), SECONDS)
    assert curve.shape == (round(SECONDS * RATE),)
    found = peaks(curve).times
    assert len(found) == len(BOUNCES)
    assert far(found, BOUNCES) <= 0.03


def test_a_bounce_is_seen_as_a_hit_within_two_pictures():
    curve = seen_curves(bouncing(), FPS).hits
    assert curve.shape == (round(SECONDS * RATE),)
    assert far(peaks(curve).times, BOUNCES) <= 2 / FPS


def test_a_start_is_seen_where_something_starts_to_move():
    pictures = torch.full((48, 3, 64, 64), 0.2)
    for number in range(48):
        place = max(0, number - 23) * 1.5  # moves from picture 24 on
        columns = torch.arange(64)
        pictures[number, :, 20:40] += (0.6 * ((columns - place).clamp(0, 1) * (16 + place - columns).clamp(0, 1)))[None, None]
    curve = seen_curves(pictures, 24.0).starts
    assert abs(curve.argmax() / RATE - 24 / 24) <= 2 / 24


@pytest.mark.parametrize("level", [0.005, 0.05])
def test_loudness_does_not_matter(level):
    np.testing.assert_allclose(heard_curve(clicks(level=level), 2.0), heard_curve(clicks(), 2.0), atol=1e-6)


def test_channels_and_rate_do_not_matter():
    stereo = peaks(heard_curve(clicks(rate=48_000, channels=2), SECONDS)).times
    assert far(stereo, BOUNCES) <= 0.03
    assert len(stereo) == len(BOUNCES)


@pytest.mark.parametrize("wave", [torch.zeros(1, 1, 16_000), torch.zeros(1, 2, 0), torch.full((1, 1, 16_000), 1e-5)])
def test_silence_is_a_curve_of_zeros(wave):
    assert not heard_curve(Audio(wave, 16_000), 1.0).any()


def test_pictures_that_do_not_move_are_curves_of_zeros():
    still = torch.rand(1, 3, 48, 64).expand(24, -1, -1, -1)
    seen = seen_curves(still, 24.0)
    assert not seen.starts.any()
    assert not seen.hits.any()


@pytest.mark.parametrize("size", [(1, 1), (2, 300), (5, 7), (128, 96)])
def test_pictures_of_any_size_are_measured(size):
    seen = seen_curves(torch.rand(12, 3, *size, generator=torch.Generator().manual_seed(0)), 24.0)
    for curve in (seen.starts, seen.hits):
        assert np.isfinite(curve).all()
        assert curve.shape == (50,)

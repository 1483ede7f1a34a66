import numpy as np
import pytest
import torch
from bounces import BOUNCES, FPS, SECONDS, bouncing, clicks

from harmony_core.measure.sync import TOLERANCE, Events, best_match, measure_sync
from harmony_core.types import Audio


@pytest.fixture(scope="module")
def pictures():
    return bouncing()


def test_a_clip_in_sync_scores_high_and_is_not_late(pictures):
    found = measure_sync(pictures, clicks(), FPS)
    assert found.score > 0.6
    assert not found.by_chance
    assert found.clear
    assert abs(found.offset) <= 1 / FPS


@pytest.mark.parametrize("late", [-0.3, -0.1, 0.1, 0.2, 0.4])
def test_a_late_sound_is_found_to_be_as_late_within_a_picture(pictures, late):
    found = measure_sync(pictures, clicks(late=late), FPS)
    assert abs(found.offset - late) <= 1 / FPS
    assert found.score < 0.6


@pytest.mark.parametrize(
    ("size", "rate", "channels", "fps"),
    [((90, 160), 48_000, 2, 25.0), ((320, 180), 44_100, 1, 30.0), ((256, 256), 8_000, 6, 60.0)],
)
def test_it_holds_for_any_size_rate_and_channels(size, rate, channels, fps):
    found = measure_sync(bouncing(size, fps=fps), clicks(rate=rate, channels=channels), fps)
    assert found.score > 0.5
    assert abs(found.offset) <= 0.042


@pytest.mark.parametrize("seconds", [SECONDS, 9.0])
def test_sound_beyond_the_pictures_is_not_measured(pictures, seconds):
    longer = clicks(seconds=seconds)
    longer.waveform[..., round(SECONDS * 16_000) :] = torch.rand(max(0, longer.waveform.shape[-1] - round(SECONDS * 16_000)))
    found, plain = measure_sync(pictures, longer, FPS), measure_sync(pictures, clicks(), FPS)
    assert found.seconds == pytest.approx(SECONDS)
    assert found.score == pytest.approx(plain.score, abs=0.1)
    assert max(found.heard.times) < SECONDS


def test_pictures_beyond_the_sound_are_not_measured(pictures):
    found = measure_sync(pictures, clicks(seconds=2.5), FPS)
    assert found.seconds == pytest.approx(2.5)
    assert found.score > 0.5
    assert max(found.seen.times) < 2.5


@pytest.mark.parametrize("seconds", [0.733, 1.99, 3.979])
def test_sound_that_ends_within_a_picture_is_measured(pictures, seconds):
    found = measure_sync(pictures, clicks(seconds=seconds), FPS)
    assert abs(found.seconds - seconds) <= 0.5 / FPS
    assert len(found.seen_curve) == len(found.heard_curve)


def test_too_few_events_say_nothing(pictures):
    silent = Audio(torch.zeros(1, 1, 64_000), 16_000)
    still = pictures[:1].expand(len(pictures), -1, -1, -1)
    for found in (measure_sync(pictures, silent, FPS), measure_sync(still, clicks(), FPS)):
        assert not found.enough
        assert (found.score, found.offset) == (0, 0)
        assert found.by_chance
        assert not found.clear


@pytest.mark.parametrize(("frames", "seconds"), [(96, 0.3), (4, 4.0), (96, 0.01)])
def test_a_clip_too_short_to_measure_is_refused(pictures, frames, seconds):
    with pytest.raises(ValueError, match=r"sync is measured on 0\.5 s"):
        measure_sync(pictures[:frames], clicks(seconds=seconds), FPS)


def events(times) -> Events:
    return Events(np.array(times, dtype=float), np.full(len(times), 1 / len(times)))


def test_many_events_meet_by_chance_and_do_not_score():
    every = events(np.arange(0.05, 4, 0.15))
    _, found = best_match([every], events(BOUNCES), SECONDS)
    assert len(found.pairs) == len(BOUNCES)
    assert found.score < 0.2
    assert found.likely > 0.05


def test_partners_at_the_same_time_count_more_than_those_apart():
    exact = best_match([events(BOUNCES)], events(BOUNCES), SECONDS)[1]
    apart = best_match([events(np.array(BOUNCES) + 0.7 * TOLERANCE)], events(BOUNCES), SECONDS)[1]
    assert exact.share == pytest.approx(1)
    assert len(apart.pairs) == len(exact.pairs)
    assert apart.share < exact.share
    assert exact.score == pytest.approx(1)


def test_the_candidate_that_matches_is_chosen():
    number, found = best_match([events([0.2, 0.7, 2.5]), events(BOUNCES)], events(BOUNCES), SECONDS)
    assert number == 1
    assert found.pairs == tuple((n, n) for n in range(len(BOUNCES)))

"""Trackers, calibrated on the truth."""

import numpy as np
import pytest
import torch

from harmony_core.measure.matching import f1, match, nearest_offsets
from harmony_core.world.dataset import Recipe, make_clip, make_talk
from harmony_core.world.scenes import COLOURS
from harmony_core.world.trackers import hear_impacts, track_impacts, track_releases

FRAME = 1 / 24


@pytest.fixture(scope="module")
def impacts():
    return [make_clip(Recipe(kind="impact", seed=2_000 + seed)) for seed in range(24)]


def score(truth, found, tolerance=2 * FRAME):
    matches = [match(one, two, tolerance) for one, two in zip(truth, found, strict=True)]
    return f1(sum(len(m.pairs) for m in matches), sum(m.first for m in matches), sum(m.second for m in matches))


def test_pictures_tell_when_balls_strike(impacts):
    found = [track_impacts(clip.frames, 24) for clip in impacts]
    truth = [clip.times("impact") for clip in impacts]
    assert score(truth, [f.times for f in found]) >= 0.95
    offsets = np.concatenate([nearest_offsets(t, f.times, 2 * FRAME) for t, f in zip(truth, found, strict=True)])
    assert abs(offsets.mean()) < 0.004


def test_sound_tells_when_balls_strike_and_of_what_they_are(impacts):
    found = [hear_impacts(clip.samples) for clip in impacts]
    assert score([clip.times("impact") for clip in impacts], [f.times for f in found], 0.01) >= 0.97
    for clip, heard in zip(impacts, found, strict=True):
        pairs = match(clip.times("impact"), heard.times, 0.02).pairs
        assert all(clip.events[i].material == heard.materials[j] for i, j in pairs)


def test_speech_is_not_taken_for_impacts_and_does_not_hide_them():
    pytest.importorskip("espeakng_loader")
    both = [make_clip(Recipe(kind="complex", seed=2_000 + seed)) for seed in range(32)]
    heard = [hear_impacts(clip.samples) for clip in both]
    assert score([clip.times("impact") for clip in both], [h.times for h in heard], 0.02) >= 0.95
    for clip, found in zip(both, heard, strict=True):
        materials = [event.material for event in clip.events if event.what == "impact"]
        assert all(materials[i] == found.materials[j] for i, j in match(clip.times("impact"), found.times, 0.02).pairs)
    assert score([track_impacts(clip.frames, 24).times for clip in both], [h.times for h in heard]) >= 0.88
    spoken = [make_talk(Recipe(kind="talk", seed=2_000 + seed)).wave for seed in range(32)]
    assert sum(len(hear_impacts(torch.from_numpy(wave)).times) for wave in spoken) <= 10


def test_touching_a_wall_too_slowly_to_be_heard_is_no_impact():
    x = np.concatenate([np.linspace(20, 42, 24), np.linspace(41.2, 25, 24)])  # 0.96 pixels a picture
    rows, columns = np.mgrid[:64, :64] + 0.5
    near = np.hypot(columns - x[:, None, None], rows - 30) < 6
    colours = np.where(near[..., None], COLOURS["stone"], (0.6, 0.6, 0.6))
    slow = torch.from_numpy(colours).permute(3, 0, 1, 2).float() * 2 - 1
    assert not len(track_impacts(slow, 24).times)
    assert len(track_impacts(slow[:, ::2], 12).times) == 1


def test_noise_and_blur_do_not_blind_the_trackers(impacts):
    generator = torch.Generator().manual_seed(0)
    found, heard = [], []
    for clip in impacts[:12]:
        soft = torch.nn.functional.avg_pool2d(clip.frames, 3, stride=1, padding=1, count_include_pad=False)
        found.append(track_impacts((soft + 0.04 * torch.randn(soft.shape, generator=generator)).clamp(-1, 1), 24).times)
        noise = 0.003 * torch.randn(clip.samples.shape, generator=generator)
        heard.append(hear_impacts(clip.samples + noise).times)
    truth = [clip.times("impact") for clip in impacts[:12]]
    assert score(truth, found) > 0.85
    assert score(truth, heard) > 0.95


def test_nothing_is_found_where_nothing_happens():
    still = make_clip(Recipe(kind="still", seed=1))
    assert not len(track_impacts(still.frames, 24).times)
    assert not len(hear_impacts(still.samples).times)
    assert not len(track_releases(still.frames, 24))
    noise = 0.002 * torch.randn(1, 32_667, generator=torch.Generator().manual_seed(1))
    assert not len(hear_impacts(noise).times)


def test_pictures_tell_when_a_mouth_opens():
    pytest.importorskip("espeakng_loader")
    clips = [make_clip(Recipe(kind="talk", seed=2_000 + seed)) for seed in range(16)]
    found = [track_releases(clip.frames, 24) for clip in clips]
    assert score([clip.times("release") for clip in clips], found, FRAME) >= 0.95


def test_matching_pairs_as_many_as_can_be():
    times = np.array([0.0, 0.1, 0.2])
    assert match(times, times + 0.05, 0.06).pairs == ((0, 0), (1, 1), (2, 2))
    assert match(times, np.array([0.19]), 0.02).pairs == ((2, 0),)
    assert match(times, np.zeros(0), 1.0).pairs == ()
    assert nearest_offsets(times, times - 0.03, 0.04) == pytest.approx([-0.03] * 3)
    assert f1(1, 1, 2) == pytest.approx(2 / 3)
    assert np.isnan(f1(0, 0, 0))

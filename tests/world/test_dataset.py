"""Clips: what they promise about themselves."""

import itertools
import json

import numpy as np
import pytest

from harmony_core.__main__ import main
from harmony_core.config import PRESETS
from harmony_core.encoders.symbols import to_symbols
from harmony_core.media import read_clip
from harmony_core.world.clip import SAMPLE_RATE, clip_spec
from harmony_core.world.dataset import TEST_SEEDS, TRAIN_SEEDS, Recipe, make_clip, make_clips, recipes
from harmony_core.world.physics import AUDIBLE_SPEED, Ball, Room, fly
from harmony_core.world.speech import VOICES

SPEECH = ("talk", "complex")


def clip(kind, seed=0, **settings):
    if kind in SPEECH:
        pytest.importorskip("espeakng_loader")
    return make_clip(Recipe(kind=kind, seed=seed, **settings))


@pytest.mark.parametrize("kind", ["impact", "talk", "complex", "still"])
@pytest.mark.parametrize("split", ["easy", "hard"])
def test_a_clip_has_the_exact_shape_of_its_split(kind, split):
    made, spec = clip(kind, split=split), clip_spec(split)
    assert made.video.frames.shape == (1, 3, spec.frames, 64, 64)
    assert made.audio.waveform.shape == (1, 1, spec.samples)
    assert made.frames.abs().max() <= 1
    assert made.samples.abs().max() <= 1
    assert (made.reference is not None) == (kind in SPEECH)
    tiny = PRESETS["tiny"]
    to_symbols([made.transcript], tiny.speech)
    to_symbols([made.video_caption, made.audio_caption], tiny.caption)


@pytest.mark.parametrize("kind", ["impact", "talk"])
@pytest.mark.bitwise("program")
def test_a_clip_depends_on_its_recipe_alone(kind):
    first, other, again = clip(kind, 5), clip(kind, 6), clip(kind, 5)
    assert np.array_equal(first.pictures, again.pictures)
    assert np.array_equal(first.wave, again.wave)
    assert first.events == again.events
    assert not np.array_equal(first.wave, other.wave)


@pytest.mark.bitwise("program")
def test_several_processes_make_the_same_clips():
    wanted = recipes(6, mix={"impact": 1, "still": 1})
    for one, two in zip(make_clips(wanted), make_clips(wanted, workers=2), strict=True):
        assert np.array_equal(one.pictures, two.pictures)
        assert np.array_equal(one.wave, two.wave)


def test_nothing_sounds_before_the_first_event_and_a_still_is_silent():
    made = clip("impact", 3)
    first = made.events[0].time * SAMPLE_RATE
    assert not made.wave[: int(first)].any()
    assert np.abs(made.wave[int(first) : int(first) + 400]).max() > 0.03
    assert not clip("still", 1).wave.any()


def test_a_louder_impact_is_a_faster_one():
    room = Room(floor=60, left=0, right=64, left_wall=True, right_wall=True, gravity=300)
    low, high = (fly(Ball(radius=5, restitution=0.5, x=30, y=y, vx=0, vy=0, release=0), room, 2.0).contacts[0] for y in (45, 5))
    assert low.speed < high.speed
    assert high.speed == pytest.approx((2 * 300 * 50) ** 0.5)
    assert high.time == pytest.approx((2 * 50 / 300) ** 0.5)


@pytest.mark.parametrize("seed", range(10))
def test_balls_stay_in_the_room_and_strike_where_they_say(seed):
    rng = np.random.default_rng(seed)
    room = Room(floor=58, left=3, right=61, left_wall=True, right_wall=True, gravity=280)
    ball = Ball(radius=5, restitution=0.7, x=30, y=20, vx=rng.uniform(-80, 80), vy=0, release=0.1, hops=((0.2, 40.0, -120.0),))
    path = fly(ball, room, 4.0)
    x, y = path.positions(np.arange(0, 4, 0.001))
    assert x.min() > 8 - 1e-6
    assert x.max() < 56 + 1e-6
    assert y.max() < 53 + 1e-6
    for contact in path.contacts:
        assert contact.speed >= AUDIBLE_SPEED
        assert min(abs(contact.x - 8), abs(contact.x - 56), abs(contact.y - 53)) < 1e-6


def test_the_first_picture_does_not_tell_when():
    """Times of first events are spread out, whether a ball is seen at the start or not."""
    times = [clip("impact", seed).events[0].time for seed in range(30)]
    assert np.std(times) > 0.2


def test_the_reference_says_other_words_in_the_same_voice():
    made = clip("talk", 2)
    assert made.voice in {voice.name for voice in VOICES["seen"]}
    assert clip("talk", 2, voices="unseen").voice in {voice.name for voice in VOICES["unseen"]}
    assert made.reference.std() > 0.02


def test_the_source_of_a_sound_is_what_strikes():
    impact, talk, still = (make_clip(Recipe(kind=kind, seed=3)) for kind in ("impact", "talk", "still"))
    assert impact.sound_source == ", ".join(sorted({event.material for event in impact.events}))
    assert impact.sound_source
    assert talk.sound_source == still.sound_source == ""


def test_the_mouth_is_shut_for_m_b_and_p_and_in_silence():
    for seed in range(12):
        made = clip("talk", seed)
        times = (np.arange(made.spec.frames) + 0.5) / made.spec.fps
        for phoneme in made.phonemes:
            if phoneme.name[0] == "m":
                inside = (times > phoneme.start + 0.01) & (times < phoneme.end - 0.02)
                assert (made.mouth[inside, 0] < 0.1).all()
        before = times < made.phonemes[0].start - 0.06
        assert (made.mouth[before, 0] < 0.05).all()


def test_seeds_of_training_and_test_do_not_meet():
    assert not set(TRAIN_SEEDS) & set(TEST_SEEDS)
    longer, shorter = recipes(40), recipes(20)
    assert longer[:20] == shorter
    with pytest.raises(ValueError, match="test seeds"):
        recipes(2, first_seed=TRAIN_SEEDS[-1])


@pytest.mark.parametrize(
    "settings", [{"kind": "music"}, {"split": "medium"}, {"seed": -1}, {"voices": "both"}, {"seed": TEST_SEEDS.stop}]
)
def test_a_wrong_recipe_is_refused(settings):
    with pytest.raises(ValueError, match="got"):
        Recipe(**({"kind": "impact", "seed": 0} | settings))


def test_the_command_writes_clips_that_read_back_in_sync(tmp_path):
    assert main(["world", "--out", str(tmp_path), "--count", "2", "--seed", "3", "--kind", "impact"]) == 0
    lines = [json.loads(line) for line in (tmp_path / "manifest.jsonl").read_text().splitlines()]
    video, audio = read_clip(tmp_path / lines[0]["file"], clip_spec("easy"))
    made = clip("impact", 3)
    assert (video.frames[0] - made.frames).abs().mean() < 0.05
    assert lines[0]["meta"]["events"][0]["time"] == made.events[0].time
    onset = next(itertools.compress(itertools.count(), (audio.waveform[0, 0].abs() > 0.03).tolist()))
    assert abs(onset / SAMPLE_RATE - made.events[0].time) < 0.01
    assert (tmp_path / "contact_sheet.png").is_file()


def test_the_command_refuses_seeds_out_of_range(tmp_path, capsys):
    assert main(["world", "--out", str(tmp_path / "no"), "--seed", "-4"]) == 1
    assert "--seed is a whole number from 0" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()

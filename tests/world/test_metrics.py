"""Measures, on the truth and on pairs that are wrong in known ways."""

import dataclasses

import numpy as np
import pytest
import torch

from harmony_core.world.av_align import av_align, motion_peaks, optical_flow, sound_onsets
from harmony_core.world.dataset import Recipe, make_clip
from harmony_core.world.evaluation import derangement, standard_rows, table
from harmony_core.world.judges import Judges, JudgesConfig, Listener, SyncNet, train_judges
from harmony_core.world.metrics import (
    compare,
    compare_shuffled,
    delayed,
    edits,
    evaluate_pairs,
    flat,
    intervals,
    listen,
    look,
    sync,
)
from harmony_core.world.voice import likeness, portrait

FRAME_MS = 1000 / 24


@pytest.fixture(scope="module")
def judges():
    """Untrained: what is measured without them does not depend on them."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Judges(Listener().eval(), SyncNet().eval())


@pytest.fixture(scope="module")
def impacts():
    return [make_clip(Recipe(kind="impact", seed=1_000_000 + seed)) for seed in range(24)]


def pairs(clips):
    return torch.stack([clip.frames for clip in clips]), torch.stack([clip.samples for clip in clips])


def test_the_rows_are_ordered_as_they_must_be(judges, impacts):
    rows = standard_rows(impacts, judges)
    assert rows["truth"]["event_f1"].value >= 0.95
    assert rows["shuffled"]["event_f1"].value <= 0.45
    assert rows["truth"]["material"].value >= 0.97
    assert rows["late_1"]["event_f1"].value >= 0.95 > rows["late_4"]["event_f1"].value
    assert rows["late_1"]["event_f1_1"].low < rows["truth"]["event_f1_1"].low
    base = rows["truth"]["event_offset"].value
    assert abs(base) < 6
    # A later shift brings some events nearer to their neighbours' partners, and the mean falls short of it.
    assert rows["late_1"]["event_offset"].value - base == pytest.approx(FRAME_MS, abs=8)
    assert rows["late_2"]["event_offset"].value - base > 1.4 * FRAME_MS
    assert "truth" in table(rows, ["event_f1"])
    assert {"impact.event_f1", "impact.event_f1.low", "impact.event_f1.high"} <= set(flat(rows["truth"], "impact"))


@pytest.mark.bitwise("program")
def test_pairs_give_the_row_of_the_truth_again_and_again(judges, impacts):
    frames, audio = pairs(impacts[:6])
    first = evaluate_pairs(frames, audio, impacts[:6], judges)
    assert first["event_f1"] == evaluate_pairs(frames, audio, impacts[:6], judges)["event_f1"]
    assert first["event_f1"].low <= first["event_f1"].value <= first["event_f1"].high
    assert first["event_f1"].clips == 6


def test_silence_and_standstill_are_measured(judges):
    clips = [make_clip(Recipe(kind="still", seed=seed)) for seed in range(4)]
    figures = evaluate_pairs(*pairs(clips), clips, judges)
    assert figures["loudness"].value == pytest.approx(-100)
    assert figures["motion"].value < 0.01
    assert figures["event_f1"].clips == 0
    assert np.isnan(figures["event_f1"].value)


@pytest.mark.parametrize("spoil", ["frames", "audio", "number", "nothing", "split"])
def test_pairs_that_do_not_fit_are_refused(judges, impacts, spoil):
    clips = impacts[:2]
    frames, audio = pairs(clips)
    if spoil == "frames":
        frames = frames[:, :, :-1]
    elif spoil == "audio":
        audio = audio[..., :-1]
    elif spoil == "number":
        audio = audio * float("nan")
    elif spoil == "nothing":
        clips = []
    else:
        clips = [clips[0], make_clip(Recipe(kind="impact", seed=0, split="hard"))]
    with pytest.raises(ValueError, match="clips|finite"):
        evaluate_pairs(frames, audio, clips, judges)


def test_rows_need_clips_of_one_kind(judges, impacts):
    with pytest.raises(ValueError, match="one kind"):
        standard_rows([impacts[0], make_clip(Recipe(kind="still", seed=0))], judges)


def test_an_interval_holds_the_figure_and_shrinks_with_more_clips():
    rng = np.random.default_rng(0)
    clips = [{"a": (float(rng.random() < 0.7), 1.0)} for _ in range(400)]
    few, many = intervals(clips[:40])["a"], intervals(clips)["a"]
    assert many.low < many.value < many.high
    assert many.high - many.low < few.high - few.low
    assert intervals([{"a": (0.0, 0.0)}])["a"].clips == 0


def test_sync_finds_the_shift():
    steps = torch.randn(49, 16, generator=torch.Generator().manual_seed(0))
    embedding = torch.nn.functional.normalize(steps, dim=1)
    confidence, distance, offset = sync(embedding[3:-3], embedding[1:-5])
    assert offset == 2
    assert distance < 1e-5
    assert confidence > 1


def test_a_voice_is_known_by_its_pitch():
    times = np.arange(16_000) / 16_000

    def hum(hertz):
        return portrait(sum(np.sin(2 * np.pi * hertz * k * times) / k for k in range(1, 12)))

    assert hum(120)[0] == pytest.approx(120, rel=0.02)
    assert hum(230)[0] == pytest.approx(230, rel=0.02)
    assert likeness(hum(120), hum(120)) == pytest.approx(1)
    assert likeness(hum(120), hum(122)) > likeness(hum(120), hum(230))
    assert likeness(hum(120), portrait(np.zeros(8000))) == 0


def test_edits_and_orders():
    assert edits(["a", "b"], ["a", "b"]) == 0
    assert edits(["a", "b"], ["b"]) == 1
    assert edits([], ["a"]) == 1
    assert edits(["a", "b", "c"], ["a", "x", "c"]) == 1
    order = derangement(9, 0)
    assert sorted(order) == list(range(9))
    assert all(place != member for place, member in enumerate(order))


def test_words_are_one_less_the_error_rate_of_all_clips_together():
    wrong, right, nothing_said = {"words": (-3.0, 1.0)}, {"words": (2.0, 2.0)}, {"words": (-1.0, 0.0)}
    assert intervals([wrong, right])["words"].value == pytest.approx(-1 / 3)
    assert intervals([wrong, right, nothing_said])["words"].value == pytest.approx(-2 / 3)
    assert intervals([nothing_said])["words"].clips == 0


def test_a_shuffled_pair_of_one_voice_says_nothing_of_voices(judges):
    pytest.importorskip("espeakng_loader")
    clips = [make_clip(Recipe(kind="talk", seed=2_000 + seed)) for seed in range(2)]
    seen, heard = look(clips[0].frames, 24, judges), listen(clips[0].samples, 49, 24, judges)
    assert clips[0].voice != clips[1].voice
    whole = compare(seen, heard, clips[0])
    assert compare_shuffled(seen, heard, clips[0], clips[1]) == whole
    same = dataclasses.replace(clips[1], voice=clips[0].voice)
    assert set(whole) - set(compare_shuffled(seen, heard, clips[0], same)) == {"voice"}


@pytest.mark.parametrize("way", [(0, 0), (1, 0), (2, -1), (-3, 2)])
def test_the_flow_is_how_far_a_picture_moved(way):
    noise = torch.rand(1, 3, 40, 40, generator=torch.Generator().manual_seed(0))
    soft = torch.nn.functional.avg_pool2d(noise, 5, stride=1, padding=2)
    flow = optical_flow(soft, torch.roll(soft, (way[1], way[0]), (2, 3)))[0, :, 8:32, 8:32]
    assert flow.mean(dim=(1, 2)).tolist() == pytest.approx(way, abs=0.1)


def test_av_align_is_the_share_of_peaks_and_onsets_that_meet():
    peaks, onsets = np.array([0.5, 1.0]), np.array([0.52, 1.5])
    assert av_align(peaks, onsets, 24) == (pytest.approx(1 / 3), 1.0)
    assert av_align(peaks, peaks, 24) == (1.0, 1.0)
    assert av_align(peaks, np.zeros(0), 24) == (0.0, 1.0)
    assert av_align(np.zeros(0), np.zeros(0), 24) == (0.0, 0.0)


def test_onsets_and_motion_are_found_whatever_sounds_and_moves(impacts):
    for clip in impacts[:6]:
        onsets = sound_onsets(clip.samples)
        assert all(abs(onsets - event.time).min() < 0.02 for event in clip.events)
    still = torch.zeros(3, 24, 64, 64)
    assert not len(motion_peaks(still, 24))
    assert not len(sound_onsets(torch.zeros(1, 16_000)))
    jump = make_clip(Recipe(kind="still", seed=0)).frames[:, :1].repeat(1, 24, 1, 1)
    jump[:, 12:] = jump[:, 12:].roll(3, dims=-1)
    assert motion_peaks(jump, 24).tolist() == [0.5]


@pytest.mark.bitwise("copy")
def test_sound_comes_late_by_whole_pictures():
    wave = torch.arange(1, 32_668.0)[None]
    assert delayed(wave, 0, 24).equal(wave)
    assert delayed(wave, 2, 24)[0, 1333] == 1
    assert delayed(wave, 2, 24).shape == wave.shape


@pytest.mark.bitwise("program")
def test_judges_train_alike_from_one_seed_and_keep(tmp_path):
    pytest.importorskip("espeakng_loader")
    config = JudgesConfig(talks=12, clips=6, listener_steps=3, sync_steps=2, batch=4)
    state = torch.get_rng_state()
    one, two = train_judges(config), train_judges(config)
    assert torch.equal(torch.get_rng_state(), state)
    one.save(tmp_path / "judges.safetensors")
    kept = Judges.load(tmp_path / "judges.safetensors")
    for name in ("listener", "syncnet"):
        for a, b, c in zip(*(getattr(j, name).state_dict().values() for j in (one, two, kept)), strict=True):
            assert torch.equal(a, b)
            assert torch.equal(a, c)


def test_judges_can_be_stopped():
    pytest.importorskip("espeakng_loader")

    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_judges(JudgesConfig(talks=4, clips=4, listener_steps=2, sync_steps=2, batch=2), progress=stop)


def test_files_without_judges_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no file"):
        Judges.load(tmp_path / "none.safetensors")
    (tmp_path / "text.safetensors").write_text("not tensors")
    with pytest.raises(ValueError, match="no judges"):
        Judges.load(tmp_path / "text.safetensors")

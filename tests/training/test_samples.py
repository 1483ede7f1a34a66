import dataclasses
from pathlib import Path

import pytest
import torch
from world_model import world_pipeline

from harmony_core.media import probe
from harmony_core.training.config import SamplesConfig, WorldConfig
from harmony_core.training.model import averaged_model, start_model
from harmony_core.training.samples import _told, event_f1, pick, sampler
from harmony_core.training.store import Entry
from harmony_core.world.clip import clip_spec
from harmony_core.world.dataset import Recipe, make_clip

FPS = clip_spec("easy").fps


@pytest.fixture(scope="module")
def impacts():
    """Pictures and sound of three clips, each with events at times of its own."""
    clips = [make_clip(Recipe(kind="impact", seed=seed)) for seed in range(3)]
    return torch.stack([clip.frames for clip in clips]), torch.stack([clip.samples for clip in clips])


def test_true_clips_are_in_sync_and_exchanged_sounds_are_not(impacts):
    frames, waves = impacts
    true = event_f1(frames, waves, FPS)["event_f1"]
    assert true > 0.9
    assert event_f1(frames, waves.roll(1, 0), FPS)["event_f1"] < true - 0.3


def test_clips_count_by_their_events(impacts):
    """A silent grey clip says nothing, a silent true one that its impacts are not heard."""
    frames, waves = impacts
    grey, silence = torch.zeros_like(frames[:1]), torch.zeros_like(waves[:1])
    true = event_f1(frames, waves, FPS)
    assert event_f1(torch.cat([frames, grey]), torch.cat([waves, silence]), FPS) == true
    assert event_f1(torch.cat([frames, frames[:1]]), torch.cat([waves, silence]), FPS)["event_f1"] < true["event_f1"]
    assert event_f1(frames[:1], silence, FPS) == {"event_f1": 0.0}
    assert event_f1(grey, silence, FPS) == {}


def test_of_the_small_world_impacts_are_sampled_of_other_data_the_first_clips():
    names = ["talk_0000000", "impact_0000001", "still_0000002", "impact_0000003", "impact_0000004"]
    entries = [*(Entry(file=name) for name in names), Entry(file="impact_0000005", null=True)]
    assert pick(entries, 2, impacts=True) == [1, 3]
    assert pick(entries, 9, impacts=True) == [1, 3, 4]
    assert pick(entries, 2, impacts=False) == [0, 1]
    assert pick(entries[:1], 2, impacts=True) == [0]


@pytest.mark.parametrize("world", [None, WorldConfig(clips=3)])
def test_samples_are_written_and_measured(make_run, cache, world):
    config = make_run()
    data = dataclasses.replace(config.data, world=world)
    config = dataclasses.replace(config, data=data, samples=SamplesConfig(clips=2, steps=2))
    Path(config.run.output).mkdir()
    codecs = world_pipeline()
    found = sampler(config, cache, codecs.video_vae, codecs.audio_codec)(7, start_model(config).eval())
    assert {"motion", "loudness"} <= set(found) <= {"motion", "loudness"} | ({"event_f1"} if world else set())
    assert all(value >= 0 for value in found.values())
    files = sorted((Path(config.run.output) / "samples").iterdir())
    assert [file.name for file in files] == ["step-00000007-0.mp4", "step-00000007-1.mp4"]
    clip = probe(files[1])
    assert clip.video is not None
    assert clip.audio is not None


def test_samples_are_made_where_the_training_is(make_run, cache, monkeypatch):
    """The meta device stands for a GPU: nothing of the model or of what it is told is elsewhere."""
    config = make_run()
    weights = start_model(config).state_dict()
    model = averaged_model(dataclasses.replace(config, run=dataclasses.replace(config.run, device="meta")), weights)
    assert {value.device.type for value in model.state_dict().values()} == {"meta"}
    asked = []
    monkeypatch.setattr(model, "encode_captions", lambda symbols: asked.append(symbols.device.type) or symbols)
    _told(model, cache, [0, 1])
    assert asked == ["meta", "meta"]

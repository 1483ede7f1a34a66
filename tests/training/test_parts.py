"""What of a network decays, and what a stage trains."""

import dataclasses
import importlib.util
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small import small_model
from torch import nn

from harmony_core.codecs.audio import PRESETS as AUDIO_PRESETS
from harmony_core.codecs.audio import AudioCodec
from harmony_core.codecs.video_vae import PRESETS as VIDEO_PRESETS
from harmony_core.codecs.video_vae import VideoVAE
from harmony_core.config import PRESETS
from harmony_core.models.harmony import Harmony
from harmony_core.progress import Cancelled
from harmony_core.training.config import LoraConfig, ObjectiveConfig, OptimizerConfig, StageConfig
from harmony_core.training.loop import make_optimizer, read_log
from harmony_core.training.model import check_parts, train_model
from harmony_core.training.parts import chosen
from harmony_core.weights.checkpoint import save_checkpoint

spec = importlib.util.spec_from_file_location("processes", Path(__file__).with_name("test_distributed.py"))
processes = importlib.util.module_from_spec(spec)
spec.loader.exec_module(processes)

COMMON = {"reference_seconds": (0.05, 0.2)}


def stage(name: str, *train: str, streams: str = "both", **more) -> StageConfig:
    objective = ObjectiveConfig(streams=streams, mode="joint", **COMMON)
    return StageConfig(
        name=name, steps=3, optimizer=OptimizerConfig(lr=1e-2, warmup=1), objective=objective, train=train, **more
    )


@pytest.mark.parametrize("kind", ["adamw", "muon"])
@pytest.mark.parametrize(
    "make",
    [
        lambda: Harmony(PRESETS["tiny"]),
        lambda: Harmony(dataclasses.replace(PRESETS["tiny"], caption=None)),
        lambda: VideoVAE(VIDEO_PRESETS["tiny"]),
        lambda: AudioCodec(AUDIO_PRESETS["tiny"]),
    ],
    ids=["tiny", "without captions of its own", "video codec", "audio codec"],
)
def test_weight_decay_is_for_weights_of_layers_and_for_all_of_them(make, kind):
    """Every parameter, by the layer it belongs to."""
    network = make()
    parameters = dict(network.named_parameters())
    layers = (nn.Linear, nn.Embedding, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d)
    expected = {f"{name}.weight" for name, module in network.named_modules() if isinstance(module, layers)}
    groups = make_optimizer(parameters, OptimizerConfig(lr=1e-3, kind=kind)).param_groups
    decayed = {id(p) for group in groups if group["weight_decay"] > 0 for p in group["params"]}
    assert {name for name, p in parameters.items() if id(p) in decayed} == expected
    assert sum(len(group["params"]) for group in groups) == len(parameters)


def test_parts_are_beginnings_of_names_or_patterns():
    names = ["video.blocks.0.ffn", "video.blocks.10.ffn", "video.head", "interaction.style_tokens", "audio.head"]
    assert chosen(names, ("video",)) == {*names[:3]}
    assert chosen(names, ("video.blocks.1*", "audio")) == {names[1], names[4]}
    assert chosen(names, ("video.blocks.0",)) == {names[0]}
    assert chosen(names, ("*.head",)) == {names[2], names[4]}
    with pytest.raises(ValueError, match=r"no weight of this model is called 'vidoe'; its parts are video, interaction, audio"):
        chosen(names, ("video", "vidoe"))


@pytest.fixture
def init(tmp_path, model_config) -> Path:
    path = tmp_path / "base.safetensors"
    save_checkpoint(path, model_config, small_model(model_config).state_dict())
    return path


@pytest.mark.bitwise("locked")
def test_what_a_stage_does_not_train_stays_bit_for_bit_and_has_no_state(make_run, cache, init):
    config = dataclasses.replace(make_run(stages=(stage("meet", "interaction"),), ema=0.5), init=str(init))
    path = train_model(config, cache)
    before, after = load_file(init), load_file(path)
    state = load_file(path.parent / "checkpoints" / "step-00000003" / "state.safetensors")
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved and {name.split(".")[0] for name in moved} == {"interaction"}
    for kept in ("weights", "average"):
        assert all(torch.equal(before[name], state[f"{kept}.{name}"]) for name in before if not name.startswith("interaction."))
    assert {key.split(".")[1] for key in state if key.startswith("optimizer.")} == {"interaction"}


@pytest.mark.bitwise("program")
@pytest.mark.parametrize("stopped", [2, 3, 5])
def test_a_resumed_run_of_frozen_stages_is_the_uninterrupted_run_bit_for_bit(make_run, cache, tmp_path, stopped):
    def stop(done: int, total: int) -> None:
        if done == stopped:
            raise Cancelled

    stages = (stage("sound", "audio", "speech", streams="audio"), stage("meet", "interaction.*", "video.blocks.1"))
    whole, parts = (make_run(stages=stages, output=str(tmp_path / name), save_every=1, ema=0.9) for name in ("whole", "parts"))
    expected = load_file(train_model(whole, cache))
    with pytest.raises(Cancelled):
        train_model(parts, cache, progress=stop)
    found = load_file(train_model(parts, cache, resume=True))
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    ends = [load_file(tmp_path / "whole" / "checkpoints" / f"step-0000000{n}" / "state.safetensors") for n in (5, 6)]
    names = [key.removeprefix("weights.") for key in ends[0] if key.startswith("weights.")]
    moved = {n for n in names if any(not torch.equal(ends[0][f"{k}.{n}"], ends[1][f"{k}.{n}"]) for k in ("weights", "average"))}
    assert moved and all(n.startswith(("interaction.", "video.blocks.1.")) for n in moved)


def test_a_stage_that_trains_nothing_its_loss_depends_on_is_refused(make_run, cache):
    config = make_run(stages=(stage("sound", "video", streams="audio"),))
    with pytest.raises(ValueError, match="stage 'sound' trains video, which its loss does not depend on"):
        train_model(config, cache)


def test_a_part_that_is_none_is_refused_before_anything_is_written(make_run, cache):
    config = make_run(stages=(stage("meet", "interactions"),))
    with pytest.raises(
        ValueError, match=r"stage\.train: no weight of this model is called 'interactions'; its parts are video"
    ):
        check_parts(config)
    with pytest.raises(ValueError, match="'interactions'"):
        train_model(config, cache)
    assert not Path(config.run.output).exists()
    with pytest.raises(
        ValueError, match=r"stage\.train is for a model's own weights; what a LoRA changes is said by lora\.targets"
    ):
        dataclasses.replace(make_run(stages=(stage("meet", "video"),)), init="x", lora=LoraConfig())


def test_stages_have_batches_of_their_own(make_run, cache, tmp_path):
    """Four clips a step, then six in two parts: the same weights as in one part; an epoch goes on where it was."""
    stages = stage("few"), stage("many", batch=6, accumulate=2)
    parts = make_run(stages=stages, output=str(tmp_path / "parts"))
    whole = make_run(stages=(stages[0], dataclasses.replace(stages[1], accumulate=1)), output=str(tmp_path / "whole"))
    a, b = (load_file(train_model(run, cache)) for run in (parts, whole))
    assert max(float((a[name] - b[name]).abs().max()) for name in a) < 1e-4
    lines = read_log(tmp_path / "parts" / "log.jsonl")
    assert all(0 <= line["wait"] <= line["seconds"] for line in lines)
    with pytest.raises(ValueError, match=r"a batch of 4 clips \(stage 'few'\) does not divide among 1 processes of 3 parts"):
        train_model(make_run(stages=(stage("few", accumulate=3),), output=str(tmp_path / "none")), cache)


@pytest.mark.parametrize("sharding", ["ddp", "fsdp"])
def test_two_processes_freeze_what_one_does(make_run, cache, tmp_path, sharding):
    stages = stage("sound", "audio", "speech", streams="audio", batch=2), stage("meet", "interaction")
    stages = tuple(dataclasses.replace(s, steps=2, optimizer=OptimizerConfig(lr=1e-3, warmup=1)) for s in stages)
    one, two = (make_run(output=str(tmp_path / name), stages=stages, sharding=sharding) for name in ("one", "two"))
    expected = load_file(train_model(one, cache))
    processes.together(two, cache, tmp_path)
    assert processes.largest_difference(expected, load_file(tmp_path / "two" / "model.safetensors")) <= 1e-5
    processes.same_log(tmp_path / "one", tmp_path / "two")

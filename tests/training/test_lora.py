"""A LoRA is trained in place of its model, exactly as a model is, and the model stays as it was."""

import dataclasses
import importlib.util
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small import small_model

from harmony_core.progress import Cancelled
from harmony_core.records import to_record
from harmony_core.training.config import LoraConfig, ObjectiveConfig, to_run
from harmony_core.training.loop import Hooks, Phase, read_log, train
from harmony_core.training.lora import Pairs, changes
from harmony_core.training.model import averaged_model, start_model, train_model
from harmony_core.training.objective import Objective
from harmony_core.training.tasks import draw_batch
from harmony_core.weights.checkpoint import save_checkpoint
from harmony_core.weights.inspect import inspect
from harmony_core.weights.lora import LoraStack, merge_loras, read_lora, shapes_of

spec = importlib.util.spec_from_file_location("processes", Path(__file__).with_name("test_distributed.py"))
processes = importlib.util.module_from_spec(spec)
spec.loader.exec_module(processes)

LORA = LoraConfig(rank=4, alpha=8.0)
HEART = ObjectiveConfig(mode="mixed", shares=(1.0, 0.0, 0.0), reference="none", first_frame=0.0)


@pytest.fixture(scope="module")
def init(tmp_path_factory, model_config) -> Path:
    """A model whose heads and interaction are not zero."""
    path = tmp_path_factory.mktemp("init") / "base.safetensors"
    save_checkpoint(path, model_config, small_model(model_config).state_dict())
    return path


@pytest.fixture
def make(make_run, init):
    """A run of a LoRA; keyword arguments as of a model's run."""

    def run(lora: LoraConfig | None = LORA, **parts):
        return dataclasses.replace(make_run(**parts), init=str(init), lora=lora)

    return run


def logged(folder) -> list[float]:
    return [line["loss"] for line in read_log(Path(folder) / "log.jsonl") if "loss" in line]


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.bitwise("copy")
def test_the_loss_falls_and_only_the_pairs_change(make, cache, model_config, init):
    """One batch, learnt by heart; afterwards the file's model has that loss, and without the file the one of the base."""
    before = init.read_bytes()
    config = make(steps=60, lr=1e-2, save_every=60, batch=3, objective=HEART, ema=0.0)
    batch = draw_batch(cache, model_config, HEART, step=0, batch=3, seed=0)
    model = start_model(config)
    base = {name: value.clone() for name, value in model.state_dict().items()}
    pairs = Pairs(model, LORA, seed=0)
    objective = Objective(model)
    objective.add_module("lora", pairs)
    phase = Phase(name="one", steps=60, optimizer=config.stages[0].optimizer, draw=lambda step: batch)
    kept = {}
    train(objective, pairs, [phase], config, Hooks(export=lambda weights: kept.update(weights.items())))
    losses = logged(config.run.output)
    assert losses[-1] < 0.6 * losses[0]
    assert same(base, model.state_dict()) and init.read_bytes() == before
    assert {name for name, p in objective.named_parameters() if p.requires_grad} == {f"lora.{n}" for n in kept}
    assert all(p.grad is None for p in model.parameters()) and all(p.grad is not None for p in pairs.parameters())
    state = Path(config.run.output) / "checkpoints" / "step-00000060" / "state.safetensors"
    assert {key.split(".")[1] for key in load_file(state)} == {"pairs"}
    with torch.no_grad():
        trained = float(objective(batch)["loss"])
        merged = float(Objective(averaged_model(config, kept))(batch)["loss"])
        plain = float(Objective(start_model(config))(batch)["loss"])
    assert plain == pytest.approx(losses[0], rel=1e-5) and trained < 0.6 * plain
    assert merged == pytest.approx(trained, rel=1e-4)


@pytest.mark.bitwise("file")
def test_the_file_is_read_by_all_who_read_loras(make, cache):
    config = make(ema=0.5)
    path = train_model(config, cache, metadata={"harmony.clip": '{"frames": 9, "height": 32, "width": 32}'})
    assert path == Path(config.run.output) / "lora.safetensors" and not path.with_name("model.safetensors").exists()
    model = start_model(config)
    layers = {
        f"{part}.{n}.{layer}.lora_{half}.weight"
        for part in ("diffusion_model.video.blocks", "diffusion_model.audio.blocks")
        for n in range(2)
        for half in ("up", "down")
        for layer in (*(f"{a}.{p}" for a in ("self_attn", "cross_attn") for p in "qkvo"), "ffn.0", "ffn.2")
    }
    assert layers < load_file(path).keys()
    lora = read_lora(path)
    assert lora.metadata["modelspec.architecture"] == "harmony/lora" and lora.metadata["modelspec.title"] == "run"
    assert inspect(path).kind == "lora"
    fitted = lora.fit(shapes_of(model))
    assert not fitted.note and {change.scale for change in fitted.changes.values()} == {2.0}
    # Nothing reads the reference's tokens after the last layer.
    assert all(change.up.abs().max() > 0 for layer, change in fitted.changes.items() if ".1.to_audio.style." not in layer)
    state = load_file(path.parent / "checkpoints" / "step-00000006" / "state.safetensors")
    key, name = "diffusion_model.video.blocks.0.ffn.0.lora_up.weight", "pairs.video/blocks/0/ffn/0.up"
    assert torch.equal(load_file(path)[key], state[f"average.{name}"])
    assert not torch.equal(load_file(path)[key], state[f"weights.{name}"])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    stack = LoraStack(model)
    stack.set([(fitted, 1.0)])
    assert not same(before, model.state_dict())
    stack.clear()
    assert same(before, model.state_dict())


@pytest.mark.parametrize("stopped", [1, 4])
@pytest.mark.bitwise("program")
def test_a_resumed_run_is_the_uninterrupted_run_bit_for_bit(make, cache, tmp_path, stopped):
    def stop(done: int, total: int) -> None:
        if done == stopped:
            raise Cancelled

    whole, parts = (make(output=str(tmp_path / name)) for name in ("whole", "parts"))
    expected = train_model(whole, cache)
    with pytest.raises(Cancelled):
        train_model(parts, cache, progress=stop)
    resumed = train_model(parts, cache, resume=True)
    assert logged(tmp_path / "parts") == logged(tmp_path / "whole")
    assert same(load_file(expected), load_file(resumed))
    with pytest.raises(ValueError, match=r"another config, in lora\.alpha"):
        train_model(dataclasses.replace(parts, lora=dataclasses.replace(LORA, alpha=4.0)), cache, resume=True)


@pytest.mark.parametrize("sharding", ["ddp", "fsdp"])
def test_two_processes_equal_one(make, cache, tmp_path, sharding):
    changes = {"sharding": sharding, "steps": 4, "save_every": 2}
    one, two = (make(output=str(tmp_path / name), **changes) for name in ("one", "two"))
    expected = load_file(train_model(one, cache))
    processes.together(two, cache, tmp_path)
    assert processes.largest_difference(expected, load_file(tmp_path / "two" / "lora.safetensors")) <= 1e-5
    processes.same_log(tmp_path / "one", tmp_path / "two")


def test_layers_computed_twice_learn_the_same(make, cache, tmp_path):
    held, again = make(output=str(tmp_path / "held")), make(output=str(tmp_path / "again"))
    a, b = (load_file(train_model(run, cache)) for run in (held, dataclasses.replace(again, gradient_checkpointing=True)))
    assert processes.largest_difference(a, b) <= 1e-6


def test_targets_are_the_layers_named(make, model_config):
    model = start_model(make())
    pairs = Pairs(model, LoraConfig(rank=1, targets=("speech.projection", "audio.blocks.*.self_attn.[qk]")), seed=0)
    made = changes(LORA, pairs.state_dict())
    assert made.keys() == {"speech.projection", *(f"audio.blocks.{n}.self_attn.{p}" for n in range(2) for p in "qk")}


def test_samples_are_of_the_trained_pair(make, cache, init):
    seen = []
    config = make(steps=3, lr=1e-2, ema=0.0)
    train_model(config, cache, measure=lambda step, model: seen.append(model) or {"none": 0.0})
    wanted = start_model(config)
    merge_loras(wanted, [(read_lora(Path(config.run.output) / "lora.safetensors").fit(shapes_of(wanted)), 1.0)])
    assert processes.largest_difference(wanted.state_dict(), seen[-1].state_dict()) <= 1e-6


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"rang": 4}, r"config\.lora has unknown field\(s\) rang; known: rank, alpha, targets"),
        ({"rank": 0}, r"lora\.rank is at least 1, got 0"),
        ({"rank": 2.5}, r"config\.lora\.rank is int, got 2\.5"),
        ({"alpha": -1.0}, r"lora\.alpha is positive, got -1\.0"),
        ({"targets": []}, r"lora\.targets names at least one layer"),
        ({"targets": "video.*"}, r"config\.lora\.targets is a list"),
    ],
)
def test_a_config_is_read_strictly(make, changed, message):
    record = to_record(make())
    assert to_run(record).lora == LORA
    with pytest.raises(ValueError, match=message):
        to_run({**record, "lora": {**record["lora"], **changed}})


def test_a_lora_of_nothing_or_of_no_layer_is_refused_before_anything_is_written(make, make_run, cache):
    with pytest.raises(ValueError, match=r"config\.lora is for a trained model: name its file as config\.init"):
        dataclasses.replace(make_run(), lora=LORA)
    config = make(LoraConfig(targets=("video.blocks.*", "vidoe.blocks.*")))
    with pytest.raises(ValueError, match=r"no linear layer of this model is called 'vidoe\.blocks\.\*'; there are video\."):
        train_model(config, cache)
    assert not Path(config.run.output).exists()

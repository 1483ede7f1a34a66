"""What a training starts from."""

import dataclasses

import pytest
import torch

from harmony_core.models.harmony import Harmony
from harmony_core.runtime import Runtime
from harmony_core.training.model import start_model
from harmony_core.weights.checkpoint import load_checkpoint, save_checkpoint
from harmony_core.weights.convert import convert


@pytest.mark.parametrize("codecs", [{}, {"video_vae.conv1.weight": torch.ones(2)}], ids=["alone", "with codecs"])
@pytest.mark.bitwise("file")
def test_a_checkpoint_is_where_a_training_starts(make_run, tmp_path, codecs):
    run = make_run()
    torch.manual_seed(1)
    model = Harmony(run.model)
    model.initialize(7)
    path = tmp_path / "start.safetensors"
    save_checkpoint(path, run.model, model.state_dict() | codecs)
    started = start_model(dataclasses.replace(run, init=str(path))).state_dict()
    assert all(torch.equal(started[key], value) for key, value in model.state_dict().items())
    assert not all(torch.equal(value, started[key]) for key, value in start_model(run).state_dict().items())
    other = dataclasses.replace(run, init=str(path), model=run.model.replace(interaction={"window": 2}))
    with pytest.raises(ValueError, match=r"start\.safetensors is of another config than config\.model"):
        start_model(other)
    faster = dataclasses.replace(run.model, fps=25.0)
    data = dataclasses.replace(run.data, fps=25.0)
    again = start_model(dataclasses.replace(run, init=str(path), model=faster, data=data))
    assert again.config.fps == 25.0
    assert all(torch.equal(started[key], value) for key, value in again.state_dict().items())


@pytest.mark.bitwise("file")
def test_a_checkpoint_in_eight_bits_is_made_plain(make_run, tmp_path):
    run = make_run()
    model = Harmony(run.model)
    model.initialize(7)
    plain, small = tmp_path / "plain.safetensors", tmp_path / "small.safetensors"
    save_checkpoint(plain, run.model, model.state_dict())
    convert(plain, small, "fp8")
    started = start_model(dataclasses.replace(run, init=str(small))).state_dict()
    wanted = load_checkpoint(small).model(Runtime(dtype=torch.float32)).state_dict()
    assert all(torch.equal(started[key], value) for key, value in wanted.items())
    changed = [key for key, value in model.state_dict().items() if not torch.equal(started[key], value)]
    assert changed
    assert all(torch.allclose(started[key], model.state_dict()[key], rtol=0.07, atol=1e-3) for key in changed)

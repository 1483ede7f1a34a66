"""What a training starts from."""

import dataclasses

import pytest
import torch

from harmony_core.models.harmony import Harmony
from harmony_core.training.model import start_model
from harmony_core.weights.checkpoint import save_checkpoint


@pytest.mark.parametrize("codecs", [{}, {"video_vae.conv1.weight": torch.ones(2)}], ids=["alone", "with codecs"])
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

import os
import stat
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from small import small_conditioning, small_config, small_latents, small_model

from harmony_core.config import FORMAT_KEY
from harmony_core.runtime import Runtime
from harmony_core.types import AV
from harmony_core.weights import checkpoint as checkpoint_module
from harmony_core.weights.checkpoint import load_checkpoint, save_checkpoint


def run(model) -> AV[torch.Tensor]:
    context = model.prepare(small_conditioning(), 1)
    with torch.no_grad():
        return model(small_latents(), AV(torch.full((1, 1), 0.5), torch.full((1, 1), 0.5)), context)


@pytest.mark.parametrize("shard_bytes", [None, 50_000])
def test_a_saved_model_is_the_same_model(tmp_path, shard_bytes):
    model, path = small_model(), tmp_path / "m.safetensors"
    save_checkpoint(path, model.config, model.state_dict(), metadata={"modelspec.title": "small"}, shard_bytes=shard_bytes)
    if shard_bytes:
        assert len(list(tmp_path.glob("*.safetensors"))) > 3
        path = tmp_path / "m.safetensors.index.json"
    loaded = load_checkpoint(path)
    assert loaded.config == model.config
    assert loaded.metadata == {"modelspec.title": "small"}
    expected, out = run(model), run(loaded.model())
    assert torch.equal(expected.video, out.video)
    assert torch.equal(expected.audio, out.audio)
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_codecs_travel_along_and_come_back_as_parts(tmp_path):
    model, path = small_model(), tmp_path / "m.safetensors"
    save_checkpoint(path, model.config, {**model.state_dict(), "video_vae.x": torch.ones(2)})
    loaded = load_checkpoint(path)
    assert torch.equal(loaded.part("video_vae.")["x"], torch.ones(2))
    loaded.model()


def test_weights_are_cast_on_loading(tmp_path):
    model, path = small_model(), tmp_path / "m.safetensors"
    save_checkpoint(path, model.config, model.state_dict())
    assert {p.dtype for p in load_checkpoint(path).model(Runtime(dtype=torch.bfloat16)).parameters()} == {torch.bfloat16}


def tampered(tmp_path, change):
    model, path = small_model(), tmp_path / "m.safetensors"
    tensors, meta = dict(model.state_dict()), model.config.to_metadata()
    change(tensors, meta)
    save_file(tensors, str(path), metadata=meta)
    return path


def test_missing_extra_and_misshapen_weights_are_named(tmp_path):
    def change(tensors, meta):
        del tensors["video.head.modulation"]
        tensors["video.blocks.9.x"] = torch.zeros(1)
        tensors["audio.patch_embedding.bias"] = torch.zeros(3)

    with pytest.raises(ValueError, match="1 missing: video.head.mod.*; 1 unexpected: video.blocks.9.x; 1 of another"):
        load_checkpoint(tampered(tmp_path, change)).model()


def test_keys_of_no_part_are_unexpected_too(tmp_path):
    with pytest.raises(ValueError, match="1 unexpected: optimizer.x"):
        load_checkpoint(tampered(tmp_path, lambda t, m: t.update({"optimizer.x": torch.zeros(1)}))).model()


def test_another_version_is_refused_naming_the_file(tmp_path):
    path = tampered(tmp_path, lambda t, m: m.update({FORMAT_KEY: "7"}))
    with pytest.raises(ValueError, match=r"m.safetensors: harmony.format is '7'.* reads '1'"):
        load_checkpoint(path)


def test_an_interrupted_write_keeps_what_was_there(tmp_path, monkeypatch):
    model, path = small_model(), tmp_path / "m.safetensors"
    save_checkpoint(path, model.config, model.state_dict())
    before = path.read_bytes()

    def interrupted(tensors, name, metadata):
        Path(name).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint_module, "save_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(path, model.config, model.state_dict())
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["m.safetensors"]


def test_files_are_readable_as_any_new_file_is(tmp_path):
    path = tmp_path / "m.safetensors"
    save_checkpoint(path, small_config(), {"null.video": torch.ones(1)})
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask
    assert load_file(str(path)).keys() == {"null.video"}


@pytest.mark.parametrize(
    ("name", "keys", "message"),
    [
        ("m.pt", {}, "is a .safetensors file"),
        ("none/m.safetensors", {}, "cannot write .*none"),
        ("m.safetensors", {"optimizer.x": torch.zeros(1)}, "keys of no known part: optimizer.x"),
    ],
)
def test_bad_targets_are_refused(tmp_path, name, keys, message):
    with pytest.raises(ValueError, match=message):
        save_checkpoint(tmp_path / name, small_config(), keys)
    assert not list(tmp_path.iterdir())

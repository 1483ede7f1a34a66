import pytest
import torch
from safetensors.torch import save_file
from small import small_clip, small_latents

from harmony_core.weights.latents import LATENTS_KEY, load_latents, save_latents


@pytest.mark.bitwise("file")
def test_latents_come_back_with_their_clip(tmp_path):
    latents, spec = small_latents(2), small_clip()
    save_latents(tmp_path / "l.safetensors", latents, spec)
    loaded, same = load_latents(tmp_path / "l.safetensors")
    assert same == spec
    assert torch.equal(loaded.video, latents.video)
    assert torch.equal(loaded.audio, latents.audio)
    assert [p.name for p in tmp_path.iterdir()] == ["l.safetensors"]


def test_what_does_not_belong_together_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no latents of a clip of 9 frames of 64 x 64"):
        save_latents(tmp_path / "l.safetensors", small_latents(), small_clip(width=64))
    with pytest.raises(ValueError, match="a .safetensors file"):
        save_latents(tmp_path / "l.pt", small_latents(), small_clip())
    with pytest.raises(ValueError, match="there is no such folder|cannot write"):
        save_latents(tmp_path / "none" / "l.safetensors", small_latents(), small_clip())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("metadata", [None, {LATENTS_KEY: "{"}, {LATENTS_KEY: "{}"}])
def test_other_files_are_refused(tmp_path, metadata):
    save_file({"video": torch.zeros(1), "audio": torch.zeros(1)}, tmp_path / "l.safetensors", metadata=metadata)
    with pytest.raises(ValueError, match="holds no latents of a clip|lacks field"):
        load_latents(tmp_path / "l.safetensors")

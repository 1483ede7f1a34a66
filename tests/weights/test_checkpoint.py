import os
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rounding import ROUNDING, away
from safetensors.torch import load_file, save_file
from small import small_conditioning, small_config, small_latents, small_model

from harmony_core.codecs.audio import PRESETS as AUDIO_PRESETS
from harmony_core.codecs.audio import AudioCodec
from harmony_core.codecs.video_vae import PRESETS as VIDEO_PRESETS
from harmony_core.codecs.video_vae import VideoVAE
from harmony_core.config import FORMAT_KEY
from harmony_core.runtime import Runtime
from harmony_core.types import AV
from harmony_core.weights import checkpoint as checkpoint_module
from harmony_core.weights.checkpoint import CodecConfigs, load_checkpoint, save_checkpoint


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
    assert away(expected.video, out.video) <= ROUNDING
    assert away(expected.audio, out.audio) <= ROUNDING
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def all_in_one(path):
    torch.manual_seed(0)
    model = small_model()
    video, audio = VideoVAE(VIDEO_PRESETS["tiny"]), AudioCodec(AUDIO_PRESETS["tiny"])
    audio.audio_vae.set_latent_statistics(torch.randn(20), torch.rand(20) + 0.5)
    codecs = CodecConfigs(video=replace(video.config, mean=(0.25,) * 48), audio=audio.config)
    tensors = {**model.state_dict(), **{f"video_vae.{k}": v for k, v in video.state_dict().items()}, **audio.state_dict()}
    save_checkpoint(path, model.config, tensors, codecs=codecs)
    return VideoVAE(codecs.video), video, audio


def test_codecs_travel_along_with_their_statistics(tmp_path):
    same_config, video, audio = all_in_one(tmp_path / "m.safetensors")
    same_config.load_state_dict(video.state_dict())
    loaded = load_checkpoint(tmp_path / "m.safetensors")
    loaded.model()
    frames, latents = torch.rand(1, 3, 5, 32, 32) * 2 - 1, torch.randn(1, 20, 4)
    with torch.no_grad():
        assert away(loaded.video_vae().encode(frames), same_config.encode(frames)) <= ROUNDING
        assert away(loaded.audio_codec().decode(latents).waveform, audio.decode(latents).waveform) <= ROUNDING
    rough = loaded.audio_codec(Runtime(dtype=torch.bfloat16))
    assert {p.dtype for p in rough.parameters()} == {torch.bfloat16}
    assert {b.dtype for b in rough.buffers()} == {torch.float32}


def test_a_checkpoint_without_codecs_says_so(tmp_path):
    path = tmp_path / "m.safetensors"
    save_checkpoint(path, small_model().config, small_model().state_dict())
    with pytest.raises(ValueError, match="no video codec in it; give"):
        load_checkpoint(path).video_vae()
    with pytest.raises(ValueError, match="no audio codec in it; give"):
        load_checkpoint(path).audio_codec()


def test_a_codec_config_with_an_unknown_field_is_refused(tmp_path):
    path = tampered(tmp_path, lambda t, m: m.update({"harmony.video_vae": '{"colour": 1}'}))
    with pytest.raises(ValueError, match=r"m.safetensors: harmony.video_vae has unknown field.* colour"):
        load_checkpoint(path)


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


def test_an_interrupted_sharded_write_keeps_the_old_shards_and_a_finished_one_removes_them(tmp_path, monkeypatch):
    old, new, path = small_model(seed=0), small_model(seed=5), tmp_path / "m.safetensors"
    index = tmp_path / "m.safetensors.index.json"

    def save(model):
        save_checkpoint(path, model.config, model.state_dict(), shard_bytes=50_000)

    save(old)
    before = sorted(p.name for p in tmp_path.iterdir())
    real, calls = checkpoint_module.save_file, []

    def third_fails(*args, **kwargs):
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        real(*args, **kwargs)

    monkeypatch.setattr(checkpoint_module, "save_file", third_fails)
    with pytest.raises(KeyboardInterrupt):
        save(new)
    assert sorted(p.name for p in tmp_path.iterdir()) == before
    assert away(run(load_checkpoint(index).model()).video, run(old).video) <= ROUNDING
    monkeypatch.setattr(checkpoint_module, "save_file", real)
    save(new)
    assert away(run(load_checkpoint(index).model()).video, run(new).video) <= ROUNDING
    assert len(list(tmp_path.iterdir())) == len(before)


def test_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path):
    """The limit on a file's size stands for the full disk; it is set in a process of its own."""
    script = f"""
import resource, torch
from harmony_core.config import preset
from harmony_core.weights.checkpoint import save_checkpoint
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    save_checkpoint({str(tmp_path / "m.safetensors")!r}, preset("tiny"), {{"null.video": torch.zeros(100_000)}})
except ValueError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert "cannot write" in done.stdout, done
    assert not list(tmp_path.iterdir())


def test_tensors_that_share_memory_are_saved_apart(tmp_path):
    path, whole = tmp_path / "m.safetensors", torch.arange(6.0)
    save_checkpoint(path, small_config(), {"null.video": whole[:3], "null.audio": whole[:3], "speech.x": whole})
    assert {k: v.tolist() for k, v in load_checkpoint(path).tensors.items()} == {
        "null.video": [0, 1, 2],
        "null.audio": [0, 1, 2],
        "speech.x": [0, 1, 2, 3, 4, 5],
    }

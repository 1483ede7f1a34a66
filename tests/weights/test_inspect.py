"""Every kind of file is known by what is in it, and what is not known is said to be so."""

import json

import pytest
import torch
from all_in_one import SPEC, all_in_one_config, save_all_in_one
from safetensors.torch import save_file
from small import small_branch, small_clip, small_config, small_latents, small_model

from harmony_core.codecs.audio import PRESETS as AUDIO
from harmony_core.codecs.audio import AudioCodec
from harmony_core.codecs.video_vae import PRESETS as VIDEO
from harmony_core.codecs.video_vae import VideoVAE
from harmony_core.config import FORMAT_KEY, preset
from harmony_core.models.branch import Branch
from harmony_core.runtime import Runtime
from harmony_core.weights.audio_codec import to_comfyui, to_mmaudio
from harmony_core.weights.checkpoint import CodecConfigs, save_checkpoint
from harmony_core.weights.inspect import inspect
from harmony_core.weights.keymap import WanLayout, from_original
from harmony_core.weights.latents import save_latents
from harmony_core.weights.video_vae import to_diffusers


def saved(path, tensors, metadata=None):
    save_file({key: value.clone() for key, value in tensors.items()}, str(path), metadata=metadata)
    return path


def test_a_harmony_checkpoint_says_all_about_itself(tmp_path):
    path = save_all_in_one(tmp_path / "all.safetensors")
    found = inspect(path)
    assert found.kind == "harmony"
    assert found.what == "a Harmony checkpoint of format 1, with its video and audio codecs"
    assert found.config == all_in_one_config()
    assert found.clip == SPEC
    assert found.codecs == CodecConfigs(video=VIDEO["tiny"], audio=AUDIO["tiny"])
    assert found.metadata["modelspec.title"] == "small"
    assert not [key for key in found.metadata if "config" in key]
    assert found.size == path.stat().st_size
    assert found.dtypes == ("float32",)
    parts = {part.name: part for part in found.parts}
    assert set(parts) == {"video", "audio", "interaction", "speech", "caption", "video_vae", "audio_vae", "vocoder"}
    assert sum(part.parameters for part in found.parts) == found.parameters
    assert sum(part.tensors for part in found.parts) == found.tensors


def test_shards_are_one_checkpoint(tmp_path):
    model = small_model()
    save_checkpoint(tmp_path / "m.safetensors", model.config, model.state_dict(), shard_bytes=50_000)
    found = inspect(tmp_path / "m.safetensors.index.json")
    assert found.what.endswith("without codecs")
    assert found.files > 3
    assert found.tensors == len(model.state_dict())
    assert found.config == small_config()
    next(tmp_path.glob("m-*.safetensors")).unlink()
    with pytest.raises(ValueError, match="lists the shard .*, which is not beside it"):
        inspect(tmp_path / "m.safetensors.index.json")


@pytest.mark.parametrize("layout", list(WanLayout))
def test_a_wan_transformer_is_known_in_all_its_names(tmp_path, layout):
    branch = Branch(small_branch(48, (1, 2, 2)), Runtime())
    found = inspect(saved(tmp_path / "wan.safetensors", from_original(branch.state_dict(), layout)))
    assert found.kind == "wan"
    assert "not TI2V-5B: dim 48, 48 channels, 2 layers" in found.what
    assert ("diffusers'" in found.what) == (layout is WanLayout.DIFFUSERS)


def test_the_published_size_is_known_by_its_shapes(tmp_path):
    branch = Branch(preset("5b").video, Runtime(device="meta"))
    patch = branch.state_dict()["patch_embedding.weight"].shape
    thin = {key: torch.zeros(1, dtype=torch.bfloat16) for key in branch.state_dict()}
    found = inspect(
        saved(tmp_path / "w.safetensors", thin | {"patch_embedding.weight": torch.zeros(patch), "scaled_fp8": torch.zeros(1)})
    )
    assert found.what == "Wan2.2-TI2V-5B's video transformer, in its original names, quantised with scales beside the weights"
    assert found.dtypes == ("float32", "bfloat16")


def test_codecs_are_known_in_all_their_names(tmp_path):
    torch.manual_seed(0)
    video, audio = VideoVAE(VIDEO["tiny"]).state_dict(), AudioCodec(AUDIO["tiny"]).state_dict()
    vae, vocoder = to_mmaudio(audio)
    ours = CodecConfigs(video=VIDEO["tiny"]).to_metadata()
    files = {
        "a Harmony video codec": ({f"video_vae.{key}": value for key, value in video.items()}, ours),
        "a video VAE of Wan2.2's design in the tiny size, in its original names": (video, None),
        "a video VAE of Wan2.2's design in the tiny size, in diffusers' names": (to_diffusers(video), None),
        "an audio VAE in MMAudio's names, of 20 latent channels (16 kHz: 20), without a vocoder": (vae, None),
        "a BigVGAN vocoder, without a VAE": (vocoder, None),
        "an audio VAE with its vocoder, in ComfyUI's names": (to_comfyui(audio, AUDIO["tiny"].mel), None),
        "an audio VAE with its vocoder, in Harmony's names": (audio, None),
    }
    for what, (tensors, metadata) in files.items():
        assert inspect(saved(tmp_path / "c.safetensors", tensors, metadata)).what == what
    torch.save({"generator": vocoder}, tmp_path / "best_netG.pt")
    found = inspect(tmp_path / "best_netG.pt")
    assert found.what == "a BigVGAN vocoder, without a VAE"
    assert found.tensors == len(vocoder)
    wan21 = {
        "encoder.conv1.weight": torch.zeros(1, 1, 1, 1, 1),
        "encoder.head.0.gamma": torch.zeros(384),
        "decoder.head.0.gamma": torch.zeros(96),
    }
    assert "not Wan2.2's: its towers end on 384 and 96" in inspect(saved(tmp_path / "c.safetensors", wan21)).what


def test_what_is_no_model_of_ours_is_named_as_far_as_it_is_known(tmp_path):
    one = torch.zeros(1)
    files = {
        "a LoRA of rank 4 for 1 layers": {
            "blocks.0.q.lora_A.weight": torch.zeros(4, 9),
            "blocks.0.q.lora_B.weight": torch.zeros(9, 4),
        },
        "in Ovi's names, its video and audio towers": {
            "video_model.blocks.0.cross_attn.k_fusion.weight": one,
            "audio_model.head.head.weight": one,
        },
        "its video tower alone": {"blocks.0.cross_attn.k_fusion.weight": one, "time_projection.1.weight": one},
        "judges": {"listener.words.weight": one, "syncnet.scale": one},
        "in Harmony's names (audio (1), video (1)) whose metadata lacks the config": {"video.a": one, "audio.a": one},
        "nothing known here; its keys begin with unet (2), text (1)": {"unet.a": one, "unet.b": one, "text.a": one},
    }
    for what, tensors in files.items():
        assert what in inspect(saved(tmp_path / "x.safetensors", tensors)).what
    save_latents(tmp_path / "l.safetensors", small_latents(), small_clip())
    assert inspect(tmp_path / "l.safetensors").kind == "latents"


def test_what_is_no_whole_weights_file_is_refused(tmp_path):
    whole = save_all_in_one(tmp_path / "all.safetensors", codecs=False).read_bytes()
    contents = {
        "cut.safetensors": (whole[: len(whole) // 2], "truncated or of another format"),
        "head.safetensors": (whole[:20], "truncated or of another format"),
        "empty.safetensors": (b"", "is empty"),
        "text.pt": (b"Dear diary", "truncated or of another format|holds more than tensors"),
        "index.safetensors.index.json": (json.dumps({"a": 1}).encode(), "is no safetensors index"),
        "song.mp3": (b"ID3", "is no weights file"),
    }
    for name, (content, message) in contents.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=message) as caught:
            inspect(tmp_path / name)
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="there is no file"):
        inspect(tmp_path / "none.safetensors")
    with pytest.raises(ValueError, match="is a folder"):
        inspect(tmp_path)
    later = saved(tmp_path / "later.safetensors", {"a": torch.zeros(1)}, small_config().to_metadata() | {FORMAT_KEY: "9"})
    with pytest.raises(ValueError, match="harmony.format is '9'"):
        inspect(later)

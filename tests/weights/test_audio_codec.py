"""Audio codecs from files: every layout gives the same codec, and what is none is refused."""

import logging
import re

import pytest
import torch
from safetensors.torch import save_file

from harmony_core.codecs.audio import AudioCodec, AudioCodecConfig
from harmony_core.codecs.audio_vae import AudioVAEConfig
from harmony_core.codecs.vocoder import VocoderConfig
from harmony_core.runtime import Runtime
from harmony_core.weights import audio_codec
from harmony_core.weights.audio_codec import from_comfyui, from_mmaudio, load_audio_codec, to_comfyui, to_mmaudio

SMALL = AudioCodecConfig(vae=AudioVAEConfig(width=8), vocoder=VocoderConfig(width=64))


@pytest.fixture(scope="module")
def codec() -> AudioCodec:
    """A codec whose VAE has rows a little shorter than 1, as the published has."""
    codec = AudioCodec(SMALL)
    generator = torch.Generator().manual_seed(0)
    codec.audio_vae.init_weights(generator)
    codec.vocoder.init_weights(generator)
    with torch.no_grad():
        for parameter in codec.audio_vae.parameters():
            parameter.mul_(0.999)
    return codec


@pytest.fixture(params=["ours", "comfyui", "mmaudio"])
def files(request, codec, tmp_path):
    """The codec in a layout's files."""
    one, two = tmp_path / "one.safetensors", None
    if request.param == "ours":
        save_file(codec.state_dict() | {"video.blocks.0.weight": torch.zeros(1)}, one)
    elif request.param == "comfyui":
        save_file(to_comfyui(codec.state_dict()), one)
    else:
        one, two = tmp_path / "v1-16.pth", tmp_path / "best_netG.pt"
        vae, vocoder = to_mmaudio(codec.state_dict())
        torch.save(vae, one)
        torch.save({"generator": vocoder}, two)
    return one, two


def test_every_layout_gives_the_same_codec(codec, files):
    loaded = load_audio_codec(*files, config=SMALL)
    assert not loaded.training
    for key, value in codec.state_dict().items():
        assert torch.allclose(loaded.state_dict()[key], value, atol=1e-6), key


@pytest.mark.bitwise("file")
def test_runtime_decides_the_precision_and_statistics_stay_exact(codec, files):
    loaded = load_audio_codec(*files, config=SMALL, runtime=Runtime(dtype=torch.bfloat16))
    assert all(parameter.dtype == torch.bfloat16 for parameter in loaded.parameters())
    assert torch.equal(loaded.audio_vae.data_mean, codec.audio_vae.data_mean)
    assert torch.isfinite(loaded.decode(torch.zeros(1, 20, 2)).waveform).all()


def test_licence_of_public_weights_is_said_once(codec, tmp_path, caplog):
    audio_codec._say_licence.cache_clear()
    save_file(codec.state_dict(), tmp_path / "ours.safetensors")
    save_file(to_comfyui(codec.state_dict()), tmp_path / "theirs.safetensors")
    with caplog.at_level(logging.WARNING):
        load_audio_codec(tmp_path / "ours.safetensors", config=SMALL)
        assert not caplog.records
        for _ in range(2):
            load_audio_codec(tmp_path / "theirs.safetensors", config=SMALL)
    assert [record.message for record in caplog.records] == [
        "the public weights of MMAudio's VAE and vocoder are licensed CC-BY-NC 4.0: not for commercial use"
    ]


def test_unfolded_rows_are_folded_whatever_their_length(codec):
    vae, vocoder = to_mmaudio(codec.state_dict())
    expected = from_mmaudio(vae, vocoder)["audio_vae.encoder.conv_in.weight"]
    assert not torch.allclose(vae["encoder.conv_in.weight"], expected)
    longer = {key: value * 100 if key.endswith(".weight") else value for key, value in vae.items()}
    folded = from_mmaudio(longer, vocoder)["audio_vae.encoder.conv_in.weight"]
    assert torch.allclose(folded.flatten(1).norm(dim=1), torch.ones(8), atol=1e-4)
    assert torch.allclose(folded * 0.999, expected, atol=1e-3)


@pytest.mark.bitwise("copy")
def test_rows_somebody_folded_already_are_left(codec):
    plain = {k.removeprefix("audio_vae."): v for k, v in codec.state_dict().items() if k.startswith("audio_vae.")}
    vae = {key: value for key, value in plain.items() if not key.startswith("latent_")}
    state = from_mmaudio(vae, to_mmaudio(codec.state_dict())[1])
    assert torch.equal(state["audio_vae.encoder.conv_in.weight"], plain["encoder.conv_in.weight"])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_files_survive_both_layouts(codec, dtype):
    state = {
        k: v if k.removeprefix("audio_vae.") in {"latent_mean", "latent_std"} else v.to(dtype)
        for k, v in codec.state_dict().items()
    }
    for back in (from_comfyui(to_comfyui(state)), from_mmaudio(*to_mmaudio(state))):
        assert back.keys() == state.keys()
        for key, value in state.items():
            assert back[key].dtype == value.dtype
            assert torch.allclose(back[key].float(), value.float(), rtol=torch.finfo(dtype).eps * 2, atol=1e-6), key


def test_files_can_be_written_from_every_converter(codec, tmp_path):
    save_file(to_comfyui(codec.state_dict()), tmp_path / "c.safetensors")  # refuses tensors that share memory
    for table in to_mmaudio(codec.state_dict()):
        save_file(table, tmp_path / "m.safetensors")


def test_constants_of_another_codec_are_refused(codec):
    table = to_comfyui(codec.state_dict())
    for key in ("mel_converter.mel_basis", "vocoder.activation_post.upsample.filter"):
        for other in (table[key] * 1.1, table[key][..., 1:], table[key] * torch.nan):
            with pytest.raises(ValueError, match=re.escape(key)):
                from_comfyui(table | {key: other})


def test_tables_that_are_no_audio_codec_are_refused(codec, tmp_path):
    table, (vae, vocoder) = to_comfyui(codec.state_dict()), to_mmaudio(codec.state_dict())
    with pytest.raises(ValueError, match=r"model\.diffusion"):
        from_comfyui(table | {"model.diffusion.weight": torch.zeros(1)})
    with pytest.raises(ValueError, match="no audio VAE"):
        from_mmaudio(vocoder, vae)
    del vocoder["conv_pre.parametrizations.weight.original0"]
    with pytest.raises(ValueError, match="incomplete"):
        from_mmaudio(vae, vocoder)
    save_file(vae, tmp_path / "vae.safetensors")
    with pytest.raises(ValueError, match="no complete audio codec"):
        load_audio_codec(tmp_path / "vae.safetensors", config=SMALL)
    save_file(table, tmp_path / "small.safetensors")
    with pytest.raises(ValueError, match="do not fit the audio codec"):
        load_audio_codec(tmp_path / "small.safetensors")
    with pytest.raises(ValueError, match="no weights file"):
        load_audio_codec(tmp_path / "none.safetensors")


def test_what_a_public_layout_cannot_hold_is_refused(codec):
    state = codec.state_dict() | {"audio_vae.latent_std": torch.full((1, 20, 1), 2.0)}
    for convert in (to_mmaudio, to_comfyui):
        with pytest.raises(ValueError, match="normalisation of the latents"):
            convert(state)
        with pytest.raises(ValueError, match="no state of an audio codec"):
            convert(to_comfyui(codec.state_dict()))
    key = "audio_vae.encoder.conv_in.weight"
    with pytest.raises(ValueError, match="length 1 at most"):
        to_mmaudio(codec.state_dict() | {key: 2 * codec.state_dict()[key]})

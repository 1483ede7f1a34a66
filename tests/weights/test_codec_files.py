"""Codecs as a run's config names them."""

import pytest
import torch
from safetensors.torch import save_file

from harmony_core.codecs.audio import PRESETS, AudioCodec, AudioCodecConfig
from harmony_core.codecs.audio_vae import AudioVAEConfig
from harmony_core.codecs.vocoder import VocoderConfig
from harmony_core.weights.audio_codec import to_mmaudio
from harmony_core.weights.codec_files import load_sound_codec

SMALL = AudioCodecConfig(vae=AudioVAEConfig(width=8), vocoder=VocoderConfig(width=64))


def test_mmaudio_s_two_files_are_one_codec(tmp_path, monkeypatch):
    """The shape is MMAudio's; here a smaller one stands for it."""
    monkeypatch.setitem(PRESETS, "mmaudio-16k", SMALL)
    codec, generator = AudioCodec(SMALL), torch.Generator().manual_seed(0)
    codec.audio_vae.init_weights(generator)
    codec.vocoder.init_weights(generator)
    with torch.no_grad():
        for parameter in codec.audio_vae.parameters():
            parameter.mul_(0.999)  # such rows the layout can hold
    vae, vocoder = to_mmaudio(codec.state_dict())
    torch.save(vae, tmp_path / "vae.pth")
    save_file(vocoder, tmp_path / "vocoder.safetensors")
    loaded = load_sound_codec(tmp_path / "vae.pth", vocoder=tmp_path / "vocoder.safetensors")
    assert all(torch.allclose(loaded.state_dict()[key], value, atol=1e-6) for key, value in codec.state_dict().items())
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    with pytest.raises(ValueError, match=r"vae\.pth holds no complete audio codec"):
        load_sound_codec(tmp_path / "vae.pth")

"""The audio codec against MMAudio's own implementation.

MMAudio's is not run here: ``fixtures/audio_codec_mmaudio.npz`` and ``fixtures/audio_codec_mmaudio_keys.json.gz`` hold what it
gave for weights and inputs that anybody can make again from their names. To make the fixtures again, with ``librosa`` and a
checkout of MMAudio: ``MMAUDIO_PATH=... python tests/parity/test_audio_codec_mmaudio.py``.
"""

import gzip
import importlib
import json
import os
import sys
import types
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from rounding import ROUNDING, away

from harmony_core.codecs.audio import AudioCodec, AudioCodecConfig, audio_codec_preset
from harmony_core.codecs.audio_vae import AudioVAEConfig
from harmony_core.codecs.mel import MelConfig, log_mel, mel_basis
from harmony_core.codecs.vocoder import VocoderConfig, low_pass
from harmony_core.runtime import Runtime
from harmony_core.types import Audio
from harmony_core.weights.audio_codec import FILTERS, from_comfyui, from_mmaudio, to_comfyui, to_mmaudio
from harmony_core.weights.files import load_into

FIXTURES = Path(__file__).parent / "fixtures"
NUMBERS = FIXTURES / "audio_codec_mmaudio.npz"
KEYS = FIXTURES / "audio_codec_mmaudio_keys.json.gz"

SMALL = AudioCodecConfig(vae=AudioVAEConfig(width=8), vocoder=VocoderConfig(width=128))
STORED = {"data_mean", "data_std"}
THIN = 7  # one sample of so many is kept of a waveform


def numbers(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Normal numbers of a name; this generator's stream never changes."""
    seed = zlib.crc32(name.encode())
    return torch.from_numpy(np.random.RandomState(seed).standard_normal(shape).astype(np.float32))


def weight(key: str, shape: tuple[int, ...]) -> torch.Tensor:
    """A weight in MMAudio's own layout."""
    draw = numbers(key, shape)
    if key.endswith("original0"):
        return 0.4 + 0.2 * draw.abs()
    if key.endswith("original1") or len(shape) == 3:
        return draw
    return 0.2 * draw


def sound() -> torch.Tensor:
    """(1, 5120): a loud sweep in noise, clipped in places."""
    time = torch.arange(5120, dtype=torch.float64) / 16_000
    return (1.2 * torch.sin(2 * torch.pi * (200 + 6000 * time) * time).float() + 0.05 * numbers("sound", (5120,)))[None]


def spectrogram() -> torch.Tensor:
    return -1.5 + numbers("spectrogram", (1, 80, 24))


def latents() -> torch.Tensor:
    return numbers("latents", (1, 20, 10))


def reference(hidden: int, width: int):
    """MMAudio's VAE and vocoder with weights made from their names, before the weight norms are removed."""
    vae_module = importlib.import_module("mmaudio.ext.autoencoder.vae")
    vocoder_module = importlib.import_module("mmaudio.ext.bigvgan.models")
    shape = types.SimpleNamespace(
        resblock="1",
        num_mels=80,
        upsample_rates=[4, 4, 2, 2, 2, 2],
        upsample_kernel_sizes=[8, 8, 4, 4, 4, 4],
        upsample_initial_channel=width,
        resblock_kernel_sizes=[3, 7, 11],
        resblock_dilation_sizes=[[1, 3, 5]] * 3,
        activation="snakebeta",
        snake_logscale=True,
    )
    return vae_module.VAE(data_dim=80, embed_dim=20, hidden_dim=hidden), vocoder_module.BigVGANVocoder(shape)


def make() -> None:
    """Run MMAudio and write the fixtures."""
    sys.path.insert(0, os.environ["MMAUDIO_PATH"])
    mel_module = importlib.import_module("mmaudio.ext.mel_converter")
    vae, vocoder = reference(8, 128)
    for module in (vae, vocoder):
        state = module.state_dict()
        made = {k: weight(k, tuple(v.shape)) for k, v in state.items() if k not in STORED and not k.endswith(FILTERS)}
        module.load_state_dict(state | made)
        module.remove_weight_norm()
    mel = mel_module.get_mel_converter("16k")
    result = {"mel_basis": mel.mel_basis, "mel": mel(sound()), "data_mean": vae.data_mean, "data_std": vae.data_std}
    with torch.no_grad():
        posterior = vae.encode(spectrogram())
        result |= {"mean": posterior.mean, "log_variance": posterior.logvar, "decoded": vae.decode(latents())}
        result |= {"filter": vocoder.activation_post.upsample.filter, "vocoded": vocoder(spectrogram())[..., ::THIN]}
        result |= {
            "encoded_sound": vae.encode(mel(sound())).mean,
            "sound_of_latents": vocoder(vae.decode(latents()))[..., ::THIN],
        }
    np.savez_compressed(NUMBERS, **{name: value.numpy() for name, value in result.items()})
    with torch.device("meta"):
        full = reference(384, 1536)
    shapes = [{key: list(value.shape) for key, value in module.state_dict().items()} for module in full]
    KEYS.write_bytes(gzip.compress(json.dumps(shapes).encode(), mtime=0))
    print({name: (tuple(value.shape), value.std().item()) for name, value in result.items()})


if __name__ == "__main__":
    make()


@pytest.fixture(scope="module")
def expected():
    with np.load(NUMBERS) as file:
        return {name: torch.from_numpy(file[name]) for name in file.files}


def layout(config: AudioCodecConfig):
    """Keys and shapes of MMAudio's two tables, for a codec of this shape."""
    state = {key: torch.zeros(value.shape) for key, value in AudioCodec(config).state_dict().items()}
    state["audio_vae.latent_std"] += 1
    return [{key: tuple(value.shape) for key, value in table.items()} for table in to_mmaudio(state)]


@pytest.fixture(scope="module")
def tables(expected):
    """MMAudio's two tables of the small size, filled from their names."""
    vae, vocoder = (
        {key: weight(key, shape) for key, shape in table.items() if not key.endswith(FILTERS)} for table in layout(SMALL)
    )
    return vae | {key: expected[key] for key in STORED}, vocoder


@pytest.fixture(scope="module")
def codec(tables):
    codec = AudioCodec(SMALL, Runtime(device="meta"))
    load_into(codec, from_mmaudio(*tables), what="the small audio codec")
    return codec.requires_grad_(requires_grad=False)


def close(ours, theirs, tolerance=1e-5):
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() <= tolerance * max(1.0, theirs.abs().max().item())


def test_the_full_size_has_the_published_keys_and_shapes():
    published = json.loads(gzip.decompress(KEYS.read_bytes()))
    codec = AudioCodec(audio_codec_preset("mmaudio-16k"), Runtime(device="meta"))
    state = {key: value.shape for key, value in codec.state_dict().items()}
    table = {key: torch.zeros(()).expand(shape) for key, shape in state.items()}  # all views of one number
    table["audio_vae.latent_std"] = torch.ones(state["audio_vae.latent_std"])
    for ours, theirs in zip(to_mmaudio(table), published, strict=True):
        assert {key: list(value.shape) for key, value in ours.items()} == theirs


def test_mmaudios_tables_of_a_codec_read_back(codec):
    state = from_mmaudio(*to_mmaudio(codec.state_dict()))
    assert state.keys() == codec.state_dict().keys()
    for key, value in codec.state_dict().items():
        close(state[key], value, 1e-6)


def test_mel_bands_are_librosas(expected):
    close(mel_basis(MelConfig()), expected["mel_basis"], 1e-8)


def test_activation_filter_is_bigvgans(expected):
    close(low_pass(torch.device("cpu"), torch.float32), expected["filter"], 1e-7)


def test_mel_spectrogram_is_mmaudios(expected):
    close(log_mel(sound(), MelConfig()), expected["mel"])


@pytest.mark.bitwise("copy")
def test_new_codec_has_the_published_mel_statistics(expected):
    vae = AudioCodec(SMALL).audio_vae
    for name in STORED:
        assert torch.equal(getattr(vae, name), expected[name])


def test_encoder_is_mmaudios(codec, expected):
    posterior = codec.audio_vae.posterior(spectrogram())
    close(posterior.mean, expected["mean"])
    close(posterior.log_variance, expected["log_variance"])


def test_decoder_is_mmaudios(codec, expected):
    close(codec.audio_vae.decode(latents()), expected["decoded"])


def test_vocoder_is_mmaudios(codec, expected):
    close(codec.vocoder(spectrogram())[..., ::THIN], expected["vocoded"])


def test_whole_codec_is_mmaudios(codec, expected):
    close(codec.encode(Audio(sound()[:, None], 16_000)), expected["encoded_sound"])
    close(codec.decode(latents(), chunk=7).waveform[..., ::THIN], expected["sound_of_latents"])


def test_old_and_new_names_of_weight_norm_are_the_same(tables, codec):
    vae, vocoder = tables
    old = {
        key.replace(".parametrizations.weight.original0", ".weight_g").replace(
            ".parametrizations.weight.original1", ".weight_v"
        ): value
        for key, value in vocoder.items()
    }
    assert old.keys() != vocoder.keys()
    state = from_mmaudio(vae, old)
    assert away(codec.state_dict(), {key: state[key] for key in codec.state_dict()}) <= ROUNDING


def test_comfyuis_table_of_a_codec_reads_back(codec):
    state = from_comfyui(to_comfyui(codec.state_dict()))
    assert away(codec.state_dict(), {key: state[key] for key in codec.state_dict()}) <= ROUNDING

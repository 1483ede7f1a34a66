"""The audio codec as a whole: lengths to the sample, bad input, bounded pieces."""

import json
import math

import pytest
import torch
from rounding import ROUNDING, away
from tones import tone

from harmony_core.codecs.audio import (
    PRESETS,
    AudioCodec,
    AudioCodecConfig,
    audio_codec_preset,
)
from harmony_core.codecs.audio_vae import AudioVAEConfig
from harmony_core.codecs.mel import MelConfig, log_mel
from harmony_core.codecs.vocoder import VocoderConfig
from harmony_core.geometry import ClipSpec
from harmony_core.progress import Cancelled
from harmony_core.records import from_record, to_record
from harmony_core.runtime import Runtime
from harmony_core.types import Audio

SMALL = AudioCodecConfig(
    vae=AudioVAEConfig(width=8),
    vocoder=VocoderConfig(width=32, rates=(16, 16), rate_kernels=(32, 32), block_kernels=(3,), block_dilations=((1, 3),)),
)


@pytest.fixture(scope="module")
def codec() -> AudioCodec:
    codec = AudioCodec(SMALL)
    generator = torch.Generator().manual_seed(0)
    codec.audio_vae.init_weights(generator)
    codec.vocoder.init_weights(generator)
    return codec


def noise(samples: int, channels: int = 1, batch: int = 1) -> torch.Tensor:
    return 0.1 * torch.randn(batch, channels, samples, generator=torch.Generator().manual_seed(0))


def latents(length: int, batch: int = 1) -> torch.Tensor:
    return torch.randn(batch, 20, length, generator=torch.Generator().manual_seed(0))


def test_tiny_preset_is_small_and_has_the_published_geometry():
    config = audio_codec_preset("tiny")
    assert sum(p.numel() for p in AudioCodec(config, Runtime(device="meta")).parameters()) <= 2.5e6
    for preset in PRESETS.values():
        assert (preset.mel.sample_rate, preset.hop, preset.vae.latent_channels) == (16_000, 512, 20)


@pytest.mark.parametrize("name", PRESETS)
def test_configs_survive_a_file(name):
    config = PRESETS[name]
    assert from_record(AudioCodecConfig, json.loads(json.dumps(to_record(config))), "audio") == config


@pytest.mark.parametrize("frames", [1, 5, 49, 121, 241])
@pytest.mark.parametrize("fps", [24.0, 23.976, 25.0, 30.0])
def test_sound_of_a_clip_is_as_long_as_the_clip(codec, frames, fps):
    spec = ClipSpec(frames=frames, height=64, width=64, fps=fps)
    assert codec.latents(spec.samples) == spec.audio_latents
    if fps == 23.976:
        assert codec.encode(Audio(noise(spec.samples), 16_000)).shape == spec.audio_shape()
        assert codec.decode(latents(spec.audio_latents), samples=spec.samples).waveform.shape == (1, 1, spec.samples)


@pytest.mark.parametrize(("rate", "channels"), [(16_000, 1), (44_100.0, 2), (48_000, 6), (8_000, 1), (11_025, 2), (192_000, 2)])
def test_any_rate_and_any_channels_give_a_clips_latents(codec, rate, channels):
    encoded = codec.encode(Audio(noise(int(rate), channels, batch=2), rate))
    assert encoded.shape == (2, 20, 32)
    assert torch.isfinite(encoded).all()


def test_a_single_sample_is_a_latent(codec):
    assert codec.encode(Audio(noise(1), 44_100)).shape == (1, 20, 1)


def test_channels_are_averaged(codec):
    left, right = noise(4096), noise(8192)[..., 4096:]
    both = Audio(torch.cat([left, right], dim=1), 16_000)
    assert away(codec.encode(both), codec.encode(Audio((left + right) / 2, 16_000))) <= ROUNDING


def test_what_is_missing_to_a_whole_latent_is_silence(codec):
    wave = noise(1000)
    padded = torch.nn.functional.pad(wave, (0, 24))
    assert away(codec.encode(Audio(wave, 16_000)), codec.encode(Audio(padded, 16_000))) <= ROUNDING


def test_rate_does_not_change_what_is_heard(codec):
    low, high = (log_mel(codec.waveform(tone(1000, rate, 0.512)), codec.config.mel) for rate in (16_000, 44_100))
    assert low.shape == high.shape
    loud = low > -1
    assert loud.any()
    assert (low - high)[loud][:-1].abs().max() < 0.01


@pytest.mark.parametrize("chunk", [10, 64, 100])
def test_decoding_in_pieces_is_decoding_whole(codec, chunk):
    whole, pieces = codec.decode(latents(50)), codec.decode(latents(50), chunk=chunk)
    assert torch.allclose(whole.waveform, pieces.waveform, atol=1e-5)


def test_every_clip_of_a_batch_decodes_as_alone(codec):
    both = codec.decode(latents(8, batch=2)).waveform
    assert torch.allclose(both[1:], codec.decode(latents(8, batch=2)[1:]).waveform, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_six_sigma_decodes_in_every_precision(dtype):
    half = AudioCodec(SMALL)
    half.audio_vae.init_weights(torch.Generator().manual_seed(0))
    half.vocoder.init_weights(torch.Generator().manual_seed(0))
    half.to(dtype)
    sound = half.decode(6 * latents(6).sign())
    assert sound.waveform.dtype == torch.float32
    assert torch.isfinite(sound.waveform).all()
    assert sound.waveform.abs().max() <= 1
    assert torch.isfinite(half.encode(Audio(noise(3000), 16_000))).all()


@pytest.mark.bitwise("program")
def test_progress_counts_and_cancelling_leaves_nothing(codec):
    told: list[tuple[int, int]] = []
    whole = codec.decode(latents(20), progress=lambda *step: told.append(step), chunk=10)
    assert told == [(i, 5) for i in range(1, 6)]

    def cancel(done, total):
        if done == 3:
            raise Cancelled

    with pytest.raises(Cancelled):
        codec.decode(latents(20), progress=cancel, chunk=10)
    assert torch.equal(codec.decode(latents(20), chunk=10).waveform, whole.waveform)

    told.clear()
    codec.encode(Audio(noise(4096), 16_000), progress=lambda *step: told.append(step))
    assert told == [(1, 2), (2, 2)]


def test_codec_learns_a_sound():
    codec = AudioCodec(SMALL)
    generator = torch.Generator().manual_seed(0)
    codec.audio_vae.init_weights(generator)
    codec.vocoder.init_weights(generator)
    sound = tone(440, 16_000, 0.256)
    target = log_mel(codec.waveform(sound), codec.config.mel)
    optimizer = torch.optim.Adam(codec.parameters(), lr=3e-3)
    losses = []
    for _ in range(12):
        mel = codec.audio_vae.decode(codec.posterior(sound).sample(generator))
        heard = log_mel(codec.vocoder(mel)[:, 0], codec.config.mel)
        loss = (mel - target).abs().mean() + (heard - target).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


def test_sound_that_is_none_is_refused(codec):
    for wave in (torch.zeros(1, 1, 0), torch.zeros(1, 0, 100), torch.zeros(0, 1, 100)):
        with pytest.raises(ValueError, match="no sound"):
            codec.encode(Audio(wave, 16_000))
    with pytest.raises(ValueError, match="NaN"):
        codec.encode(Audio(torch.full((1, 1, 600), math.nan), 16_000))
    with pytest.raises(ValueError, match="floats"):
        codec.encode(Audio(torch.zeros(1, 1, 600, dtype=torch.int16), 16_000))
    for rate in (10, 10_000_000, 44_100.5):
        with pytest.raises(ValueError, match="rates"):
            codec.encode(Audio(noise(600), rate))


def test_latents_that_are_none_are_refused(codec):
    with pytest.raises(ValueError, match="audio latents are"):
        codec.decode(torch.zeros(1, 48, 8))
    with pytest.raises(ValueError, match="audio latents are"):
        codec.decode(torch.zeros(20, 8))
    with pytest.raises(ValueError, match="audio latents are"):
        codec.decode(torch.zeros(1, 20, 0))
    for value in (math.nan, math.inf):
        with pytest.raises(ValueError, match="finite"):
            codec.decode(torch.full((1, 20, 8), value))
    for samples in (0, -1, 8 * 512 + 1):
        with pytest.raises(ValueError, match="samples"):
            codec.decode(latents(8), samples=samples)
    with pytest.raises(ValueError, match="chunk"):
        codec.decode(latents(8), chunk=0)


def test_parts_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="bins"):
        AudioCodecConfig(mel=MelConfig(bins=64))
    with pytest.raises(ValueError, match="hop"):
        AudioCodecConfig(vocoder=VocoderConfig(rates=(4, 4, 2, 2, 2), rate_kernels=(8, 8, 4, 4, 4)))
    with pytest.raises(ValueError, match="preset"):
        audio_codec_preset("huge")

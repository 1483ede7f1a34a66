import math

import pytest
import torch

from harmony_core.codecs.audio import AudioCodec, AudioCodecConfig
from harmony_core.codecs.audio_vae import AudioVAEConfig
from harmony_core.codecs.inversion import Inversion, fitting_magnitudes
from harmony_core.codecs.mel import MelConfig, log_mel, mel_basis
from harmony_core.types import Audio

CONFIG = MelConfig()


def chirp(seconds: float = 1.0, start: float = 300.0, end: float = 600.0) -> torch.Tensor:
    """A tone that rises, (1, samples)."""
    t = torch.arange(int(16_000 * seconds) // 512 * 512) / 16_000
    return 0.3 * torch.sin(2 * math.pi * (start * t + (end - start) * t * t / (2 * seconds)))[None]


def invert(wave: torch.Tensor, chunk: int = 512) -> torch.Tensor:
    return Inversion(CONFIG).stream(log_mel(wave, CONFIG), chunk=chunk)[:, 0]


def test_a_tone_comes_back_at_its_pitch_and_level():
    wave = chirp(end=300.0)
    made = invert(wave)
    assert made.shape == wave.shape
    inside = slice(2048, -2048)
    spectrum = torch.fft.rfft(made[0, inside] * torch.hann_window(made[0, inside].numel())).abs()
    assert abs(float(spectrum.argmax()) * 16_000 / made[0, inside].numel() - 300) < 4
    level = made[0, inside].square().mean() / wave[0, inside].square().mean()
    assert 0.5 < float(level) < 1.5


def test_the_spectrogram_of_a_gliding_tone_comes_back():
    wave = chirp()
    wanted, made = log_mel(wave, CONFIG), log_mel(invert(wave), CONFIG)
    loud = wanted > wanted.amax() - 1.0
    assert float((wanted - made)[loud].abs().mean()) < 0.2  # 4 dB


def test_silence_stays_silent():
    assert float(invert(torch.zeros(1, 8192)).abs().max()) < 1e-3


def test_pieces_equal_the_whole():
    wave = torch.cat([chirp(), chirp(start=900.0, end=500.0)])
    error = (invert(wave) - invert(wave, chunk=7)).abs()
    # Rounding differs with the shape of a product, and decides now and then which of two equal neighbours is the peak.
    assert float(error.mean()) < 1e-3
    assert float(error.max()) < 0.05


def test_a_clip_alone_equals_the_clip_in_a_batch():
    wave = torch.cat([chirp(), chirp(start=900.0, end=500.0)])
    assert torch.allclose(invert(wave)[1:], invert(wave[1:]), atol=1e-4)


def test_fitting_magnitudes_have_the_bands_they_were_made_for():
    mel = log_mel(chirp(), CONFIG)
    fitted = fitting_magnitudes(mel, CONFIG)
    assert bool((fitted >= 0).all())
    bands = (mel_basis(CONFIG) @ fitted).clamp(min=CONFIG.floor).log10()
    loud = mel > mel.amax() - 2
    assert float((bands - mel)[loud].abs().mean()) < 0.05


def test_progress_is_told_after_every_piece():
    told = []
    Inversion(CONFIG).stream(log_mel(chirp(), CONFIG), chunk=20, progress=lambda done, total: told.append((done, total)))
    assert told == [(n, 4) for n in range(1, 5)]


def test_a_codec_without_a_vocoder_has_no_weights_for_one_and_decodes():
    codec = AudioCodec(AudioCodecConfig(vae=AudioVAEConfig(width=8), vocoder=None))
    codec.audio_vae.init_weights(torch.Generator().manual_seed(0))
    assert not [key for key in codec.state_dict() if key.startswith("vocoder")]
    latents = codec.encode(Audio(chirp()[None], 16_000))
    assert codec.decode(latents, samples=15_000).waveform.shape == (1, 1, 15_000)


@pytest.mark.parametrize(("shape", "chunk"), [((1, 79, 8), 4), ((80, 8), 4), ((1, 80, 0), 4), ((1, 80, 8), 0)])
def test_what_is_no_spectrogram_is_refused(shape, chunk):
    with pytest.raises(ValueError, match=r"the vocoder takes|a chunk has"):
        Inversion(CONFIG).stream(torch.zeros(shape), chunk=chunk)

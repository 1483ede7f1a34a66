"""The mel spectrogram: lengths, what lands in which band, and input at its limits."""

import math

import pytest
import torch
from rounding import ROUNDING, away

from harmony_core.codecs import mel
from harmony_core.codecs.mel import MelConfig, log_mel, mel_basis

CONFIG = MelConfig()


def tone(hertz: float, samples: int = 4096, level: float = 0.5) -> torch.Tensor:
    time = torch.arange(samples, dtype=torch.float64) / CONFIG.sample_rate
    return (level * torch.sin(2 * math.pi * hertz * time)).float()[None]


@pytest.mark.parametrize("hops", [2, 3, 31])
def test_every_hop_gives_a_frame(hops):
    assert log_mel(tone(440, hops * CONFIG.hop), CONFIG).shape == (1, CONFIG.bins, hops)


def test_bands_have_unit_area_where_the_transform_resolves_them():
    width_hz = CONFIG.sample_rate / CONFIG.n_fft
    areas = mel_basis(CONFIG).sum(dim=1) * width_hz
    assert torch.allclose(areas[40:], torch.ones(40), atol=0.05)


def test_a_tone_is_loudest_in_the_band_around_it():
    basis = mel_basis(CONFIG)
    hz = torch.linspace(0, CONFIG.sample_rate / 2, basis.shape[1])
    for hertz in (500.0, 1500.0, 3500.0, 6500.0):
        band = int(log_mel(tone(hertz), CONFIG)[0, :, 8].argmax())
        inside = hz[basis[band] > 0]
        assert inside.min() - 16 <= hertz <= inside.max() + 16


def test_ten_times_the_signal_is_one_more():
    quiet, loud = log_mel(tone(1000, level=0.05), CONFIG), log_mel(tone(1000, level=0.5), CONFIG)
    peak = int(loud[0, :, 8].argmax())
    assert loud[0, peak, 8] - quiet[0, peak, 8] == pytest.approx(1.0, abs=1e-3)


def test_a_click_is_in_the_frame_of_its_hop():
    wave = torch.zeros(1, 20 * CONFIG.hop)
    wave[0, 10 * CONFIG.hop + CONFIG.hop // 2] = 1
    assert int(log_mel(wave, CONFIG)[0].sum(dim=0).argmax()) == 10


def test_blocks_equal_the_whole(monkeypatch):
    wave = torch.randn(2, 23 * CONFIG.hop, generator=torch.Generator().manual_seed(0))
    whole = log_mel(wave, CONFIG)
    monkeypatch.setattr(mel, "BLOCK_FRAMES", 7)
    assert away(log_mel(wave, CONFIG), whole) <= ROUNDING


def test_values_beyond_one_are_clipped():
    assert away(log_mel(tone(1000, level=3.0), CONFIG), log_mel(tone(1000, level=3.0).clamp(-1, 1), CONFIG)) <= ROUNDING


def test_silence_has_finite_values_and_gradients():
    wave = torch.zeros(1, 2048, requires_grad=True)
    spectrogram = log_mel(wave, CONFIG)
    spectrogram.sum().backward()
    assert torch.isfinite(spectrogram).all()
    assert torch.isfinite(wave.grad).all()
    assert (spectrogram >= math.log10(CONFIG.floor) - 1e-5).all()


@pytest.mark.parametrize("shape", [(4096,), (1, 1, 4096), (1, CONFIG.padding), (1, 0)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match="mel spectrogram"):
        log_mel(torch.zeros(shape), CONFIG)


@pytest.mark.parametrize(
    "change", [{"hop": 0}, {"n_fft": 1023}, {"n_fft": 128}, {"high": 9000.0}, {"low": 8000.0}, {"floor": 0.0}]
)
def test_impossible_configs_are_refused(change):
    with pytest.raises(ValueError, match="mel"):
        MelConfig(**change)

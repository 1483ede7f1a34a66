"""Resampling, measured: what it keeps, what it lets through, and where events stay."""

import math

import pytest
import torch
from tones import tone

from harmony_core.audio_ops import resample
from harmony_core.types import Audio


def level(wave: torch.Tensor) -> float:
    """Decibels below a tone of amplitude 0.5, the ends left out."""
    return 10 * math.log10(wave[..., 1000:-1000].double().square().mean().item() / 0.125)


@pytest.mark.parametrize("rate", [22_050, 44_100, 48_000, 96_000])
def test_resampling_keeps_what_fits_and_nothing_else(rate):
    for hertz in (100.0, 1000.0, 5000.0, 7000.0):
        ours, ideal = resample(tone(hertz, rate), 16_000).waveform, tone(hertz, 16_000).waveform
        assert level(ours - ideal) < -75, hertz  # signal to error
    for hertz in (8500.0, 9500.0, 10_500.0):
        assert level(resample(tone(hertz, rate), 16_000).waveform) < -90, hertz  # aliases


@pytest.mark.parametrize("rate", [8_000, 11_025, 44_100, 48_000])
def test_resampling_moves_no_event_and_rounds_the_length(rate):
    wave = torch.zeros(1, 2, rate + 7)
    wave[0, 1, rate // 2] = 1
    result = resample(Audio(wave, rate), 16_000)
    assert result.waveform.shape == (1, 2, round((rate + 7) * 16_000 / rate))
    assert result.waveform[0, 0].abs().max() == 0
    assert abs(int(result.waveform[0, 1].argmax()) - rate // 2 * 16_000 / rate) <= 0.5


def test_resampling_up_and_back_is_the_same_sound():
    sound = tone(3000, 16_000)
    assert level(resample(resample(sound, 48_000), 16_000).waveform - sound.waveform) < -75
    assert resample(sound, 16_000) is sound


def test_long_sound_resamples_as_short_sound_does():
    wave = 0.1 * torch.randn(1, 1, 150_000, generator=torch.Generator().manual_seed(0))
    whole = resample(Audio(wave, 44_100), 16_000).waveform
    start = resample(Audio(wave[..., :44_100], 44_100), 16_000).waveform
    assert torch.allclose(whole[..., :15_000], start[..., :15_000], atol=1e-6)

"""The vocoder: pieces that equal the whole, what a sample depends on, aliasing, precision."""

import copy
import logging
import math
from itertools import pairwise

import pytest
import torch
from rounding import ROUNDING, away

from harmony_core.codecs import precision
from harmony_core.codecs.vocoder import SmoothSnake, Snake, Vocoder, VocoderConfig, low_pass
from harmony_core.progress import Cancelled
from harmony_core.runtime import Runtime

SMALL = VocoderConfig(width=32, rates=(4, 4), rate_kernels=(8, 8), block_kernels=(3, 5), block_dilations=((1, 3), (1, 2)))


def made(config: VocoderConfig = SMALL) -> Vocoder:
    vocoder = Vocoder(config)
    vocoder.init_weights(torch.Generator().manual_seed(0))
    return vocoder


def mel(frames: int = 60, batch: int = 1) -> torch.Tensor:
    return torch.randn(batch, 80, frames, generator=torch.Generator().manual_seed(1)) - 1.5


@pytest.mark.parametrize(
    "config", [SMALL, VocoderConfig(width=64), VocoderConfig(width=16, rates=(3, 5), rate_kernels=(5, 11))]
)
def test_every_frame_becomes_a_hop(config):
    sound = made(config)(mel(7, batch=2))
    assert sound.shape == (2, 1, 7 * config.hop)
    assert sound.abs().max() <= 1


@pytest.mark.parametrize("chunk", [1, 13, 59, 60, 100])
def test_pieces_equal_the_whole(chunk):
    vocoder = made()
    with torch.no_grad():
        assert torch.allclose(vocoder.stream(mel(), chunk=chunk), vocoder(mel()), atol=1e-6)


def test_context_is_what_a_frame_reaches_and_hardly_more():
    vocoder, middle = made().double(), 40
    spectrogram = mel(81).double().requires_grad_()
    hop = vocoder(spectrogram)[0, 0].unflatten(0, (81, -1))[middle]
    (gradient,) = torch.autograd.grad((hop * torch.randn_like(hop)).sum(), spectrogram)
    reached = gradient[0].abs().sum(dim=0).nonzero().flatten()
    reach = max(middle - int(reached.min()), int(reached.max()) - middle)
    assert reach <= SMALL.context <= reach + 2


def test_activation_at_twice_the_rate_keeps_most_of_a_harmonic_from_folding_back():
    time = torch.arange(512, dtype=torch.float64)
    tone = torch.sin(2 * math.pi * 0.34 * time).reshape(1, 1, -1)  # its square is at 0.68, which folds to 0.32
    runtime = Runtime(dtype=torch.float64)

    def folded(sound: torch.Tensor) -> float:
        window = torch.hann_window(512, dtype=torch.float64)
        return float((sound.detach().flatten() * window * torch.exp(-2j * math.pi * 0.32 * time)).sum().abs())

    assert folded(SmoothSnake(1, runtime)(tone)) < 0.25 * folded(Snake(1, runtime)(tone))


def test_activation_keeps_a_constant():
    level = torch.full((1, 3, 20), 0.7)
    smooth = SmoothSnake(3, Runtime())
    assert torch.allclose(smooth(level), smooth.act(level), atol=1e-6)


def test_filter_is_symmetric_and_keeps_a_constant():
    taps = low_pass(torch.device("cpu"), torch.float64)
    assert torch.allclose(taps, taps.flip(2))
    assert taps.sum() == pytest.approx(1.0)


def test_gradients_reach_every_weight_and_the_spectrogram():
    vocoder = made()
    with torch.inference_mode():  # must leave no constant behind that training cannot use
        low_pass.cache_clear()
        vocoder(mel(4))
    spectrogram = mel(6).requires_grad_()
    vocoder(spectrogram).square().mean().backward()
    for parameter in (spectrogram, *vocoder.parameters()):
        assert parameter.grad is not None
        assert torch.isfinite(parameter.grad).all()
        assert parameter.grad.any()


def test_fresh_sound_is_quiet_but_there():
    sound = made(VocoderConfig(width=64))(mel())
    assert 1e-3 < sound.std() < 0.5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_near_single(dtype):
    whole = made()(mel(8))
    half = made().to(dtype).stream(mel(8).to(dtype))
    assert half.dtype == dtype
    assert (half.float() - whole).abs().max() < 0.05 * whole.abs().max()


def test_float16_overflow_is_computed_again_and_said_once(caplog):
    precision._warn.cache_clear()
    half = made().half()
    with torch.no_grad():
        for (up,) in half.ups:
            up.weight *= 1000  # two stages: beyond 65504 inside
        expected = copy.deepcopy(half).float()(mel(8).half().float())
        assert not torch.isfinite(half(mel(8).half())).all()
        with caplog.at_level(logging.WARNING):
            results = [half.stream(mel(8).half(), chunk=8) for _ in range(2)]
    assert [record.message.split(";")[0] for record in caplog.records] == ["float16 overflows in the vocoder"]
    for result in results:
        assert result.dtype == torch.float32
        assert away(result, expected) <= ROUNDING
    assert next(half.parameters()).dtype == torch.float16


@pytest.mark.bitwise("program")
def test_progress_counts_pieces_and_may_cancel():
    vocoder, told = made(), []

    def cancel(done, total):
        told.append((done, total))
        if done == 2:
            raise Cancelled

    with torch.no_grad():
        whole = vocoder.stream(mel())
        with pytest.raises(Cancelled):
            vocoder.stream(mel(), chunk=20, progress=cancel)
        assert told == [(1, 3), (2, 3)]
        assert torch.equal(vocoder.stream(mel()), whole)


def test_wrong_input_is_refused():
    vocoder = made()
    for shape in ((1, 79, 8), (80, 8), (1, 80, 0)):
        for run in (vocoder, vocoder.stream):
            with pytest.raises(ValueError, match="the vocoder takes"):
                run(torch.zeros(shape))
    with pytest.raises(ValueError, match="chunk"):
        vocoder.stream(mel(), chunk=0)


@pytest.mark.parametrize(
    "change",
    [
        {"rates": ()},
        {"rates": (4, 4)},
        {"rate_kernels": (8, 8, 4, 4, 4, 5)},
        {"rate_kernels": (8, 8, 4, 4, 4, 0)},
        {"block_kernels": (3, 7)},
        {"block_kernels": (3, 7, 10)},
        {"width": 96 + 16},
    ],
)
def test_impossible_configs_are_refused(change):
    with pytest.raises(ValueError, match="vocoder"):
        VocoderConfig(**change)


def test_bigger_pieces_of_network_see_further():
    contexts = [VocoderConfig(width=64, rates=(4,) * n, rate_kernels=(8,) * n).context for n in (1, 2, 3)]
    assert all(a < b for a, b in pairwise(contexts))

"""The audio VAE: shapes, normalisations, gradients, and where its layers come from."""

from types import SimpleNamespace

import pytest
import torch
from rounding import ROUNDING, away
from torch import nn

from harmony_core.codecs import audio_vae
from harmony_core.codecs.audio_vae import AudioVAE, AudioVAEConfig, Posterior
from harmony_core.runtime import Runtime, sdpa

SMALL = AudioVAEConfig(width=8)


def made(config: AudioVAEConfig = SMALL, runtime: Runtime | None = None) -> AudioVAE:
    vae = AudioVAE(config, runtime)
    vae.init_weights(torch.Generator().manual_seed(0))
    return vae


def random(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def mel(batch: int = 2, frames: int = 24) -> torch.Tensor:
    return random(batch, 80, frames) - 1.5


@pytest.mark.parametrize("halvings", [(), (0,), (0, 1)])
def test_latents_cover_a_stride_of_frames_and_decode_to_them(halvings):
    vae = made(AudioVAEConfig(width=8, halvings=halvings))
    assert vae.config.stride == 2 ** len(halvings)
    latents = vae.encode(mel())
    assert latents.shape == (2, 20, 24 // vae.config.stride)
    assert vae.decode(latents).shape == (2, 80, 24)


def test_a_clip_does_not_depend_on_its_neighbours_in_the_batch():
    vae, both = made(), mel()
    assert torch.allclose(vae.encode(both)[1:], vae.encode(both[1:]), atol=1e-5)


def test_measured_statistics_give_latents_of_unit_variance_and_change_no_sound():
    vae, spectrogram = made(), mel(4, 64)
    raw = vae.encode(spectrogram)
    before = vae.decode(raw)
    mean, std = raw.mean(dim=(0, 2)) + 0.5, 3 * raw.std(dim=(0, 2))
    vae.set_latent_statistics(mean, std)
    latents = vae.encode(spectrogram)
    assert torch.allclose(latents, (raw - mean[:, None]) / std[:, None], atol=1e-5)
    assert torch.allclose(vae.decode(latents), before, atol=1e-4)


def test_statistics_scale_the_posteriors_spread_too():
    vae, spectrogram = made(), mel()
    before = vae.posterior(spectrogram).log_variance
    vae.set_latent_statistics(torch.zeros(20), torch.full((20,), 2.0))
    assert torch.allclose((0.5 * vae.posterior(spectrogram).log_variance).exp() * 2, (0.5 * before).exp(), rtol=1e-4)


def test_mel_statistics_are_what_the_decoder_falls_back_to():
    vae = made()
    mean, std = random(80), random(80).abs() + 0.1
    vae.set_mel_statistics(mean, std)
    with torch.no_grad():
        vae.decoder.learnable_gain.fill_(-1)  # a decoder that says nothing
    assert torch.allclose(vae.decode(random(1, 20, 4)), mean[None, :, None].expand(1, 80, 8))


def test_statistics_travel_with_the_weights():
    vae, other = made(), made()
    vae.set_latent_statistics(random(20), random(20).abs() + 0.1)
    other.load_state_dict(vae.state_dict())
    assert away(other.encode(mel()), vae.encode(mel())) <= ROUNDING


def test_posterior_draws_what_it_says():
    posterior = Posterior(torch.full((1, 1, 20_000), 2.0), torch.full((1, 1, 20_000), -2.0))
    draw = posterior.sample(torch.Generator().manual_seed(0))
    assert draw.mean() == pytest.approx(2.0, abs=0.02)
    assert draw.std() == pytest.approx(torch.tensor(-1.0).exp().item(), rel=0.03)


def test_divergence_is_torchs():
    mean, log_variance = random(2, 3, 4), random(2, 3, 4, seed=2)
    normal = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
    expected = torch.distributions.kl_divergence(normal, torch.distributions.Normal(0.0, 1.0))
    assert torch.allclose(Posterior(mean, log_variance).kl(), expected, atol=1e-5)


def test_gradients_reach_every_weight():
    vae = made()
    posterior = vae.posterior(mel())
    (vae.decode(posterior.sample()).square().mean() + posterior.kl().mean()).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() and p.grad.any() for p in vae.parameters())


def test_fresh_rows_have_unit_length():
    for parameter in made().parameters():
        if parameter.ndim == 3:
            assert torch.allclose(parameter.flatten(1).norm(dim=1), torch.ones(parameter.shape[0]), atol=1e-5)


def test_attention_in_blocks_is_the_whole(monkeypatch):
    vae, latents = made(), random(1, 20, 33)
    whole = vae.decode(latents)
    monkeypatch.setattr(audio_vae, "QUERY_BLOCK", 10)
    assert torch.allclose(vae.decode(latents), whole, atol=1e-5)


def test_layers_and_attention_are_the_runtimes():
    calls = []

    class Conv1d(nn.Conv1d):
        pass

    def attention(q, k, v, mask=None):
        calls.append(q.shape)
        return sdpa(q, k, v, mask)

    vae = made(runtime=Runtime(layers=SimpleNamespace(Conv1d=Conv1d), attention=attention))
    vae.decode(vae.encode(mel()))
    assert calls == [(2, 1, 12, 32)] * 2
    assert all(isinstance(module, Conv1d) for module in vae.modules() if isinstance(module, nn.Conv1d))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_six_sigma_is_finite_in_every_precision(dtype):
    vae = made().to(dtype)
    decoded = vae.decode((6 * random(1, 20, 8).sign()).to(dtype))
    assert torch.isfinite(decoded).all()
    assert torch.isfinite(vae.encode((100 * mel(1)).to(dtype))).all()


def test_wrong_shapes_are_refused():
    vae = made()
    for shape in ((1, 80, 7), (1, 80, 0), (1, 79, 8), (80, 8)):
        with pytest.raises(ValueError, match="the audio VAE takes"):
            vae.encode(torch.zeros(shape))
    for shape in ((1, 48, 8), (1, 20, 0), (20, 8)):
        with pytest.raises(ValueError, match="audio latents are"):
            vae.decode(torch.zeros(shape))


@pytest.mark.bitwise("copy")
def test_impossible_statistics_are_refused_and_change_nothing():
    vae = made()
    for mean, std in (
        (torch.zeros(19), torch.ones(20)),
        (torch.zeros(20), torch.zeros(20)),
        (torch.full((20,), torch.nan), torch.ones(20)),
    ):
        with pytest.raises(ValueError, match="statistics"):
            vae.set_latent_statistics(mean, std)
    assert torch.equal(vae.latent_mean, torch.zeros(1, 20, 1))
    assert torch.equal(vae.latent_std, torch.ones(1, 20, 1))


@pytest.mark.parametrize("change", [{"width": 0}, {"multipliers": ()}, {"halvings": (2,)}, {"halvings": (0, 0)}])
def test_impossible_configs_are_refused(change):
    with pytest.raises(ValueError, match=r"audio VAE|halvings"):
        AudioVAEConfig(**change)

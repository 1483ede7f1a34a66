"""Our video codec against diffusers' AutoencoderKLWan and the published Wan2.2 file's names."""

import gzip
import json
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLWan

from harmony_core.codecs.video_vae import PRESETS, WAN_MEAN, WAN_STD, VideoVAE, VideoVAEConfig
from harmony_core.runtime import Runtime
from harmony_core.weights.video_vae import from_diffusers, to_diffusers

PUBLISHED = Path(__file__).parent / "fixtures" / "wan22_video_vae_keys.json.gz"
SMALL = VideoVAEConfig(encoder_width=8, decoder_width=12, multipliers=(1, 2, 4, 4), blocks=2, mean=WAN_MEAN, std=WAN_STD)


def theirs(config: VideoVAEConfig) -> AutoencoderKLWan:
    return AutoencoderKLWan(
        base_dim=config.encoder_width,
        decoder_base_dim=config.decoder_width,
        z_dim=config.channels,
        dim_mult=list(config.multipliers),
        num_res_blocks=config.blocks,
        temperal_downsample=[False, True, True],
        latents_mean=list(config.mean),
        latents_std=list(config.std),
        is_residual=True,
        in_channels=12,
        out_channels=12,
        patch_size=2,
        scale_factor_spatial=16,
    ).eval()


def shapes(module: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in module.state_dict().items()}


@pytest.fixture(scope="module")
def pair() -> tuple[VideoVAE, AutoencoderKLWan]:
    torch.manual_seed(0)
    reference = theirs(SMALL).requires_grad_(False)
    for name, weight in reference.named_parameters():
        if name.endswith("gamma"):
            weight.uniform_(0.5, 1.5)
    ours = VideoVAE(SMALL).requires_grad_(False)
    ours.load_state_dict(from_diffusers(reference.state_dict(), ours.state_dict()))
    return ours, reference


def statistics() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.tensor(WAN_MEAN).view(1, -1, 1, 1, 1), torch.tensor(WAN_STD).view(1, -1, 1, 1, 1)


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("frames", [1, 5, 9, 17])
def test_encode_equals_diffusers(pair, frames, batch):
    ours, reference = pair
    mean, std = statistics()
    x = torch.rand(batch, 3, frames, 48, 32, generator=torch.Generator().manual_seed(frames)) * 2 - 1
    expected = reference.encode(x).latent_dist
    torch.testing.assert_close(ours.encode(x), (expected.mean - mean) / std, atol=1e-4, rtol=0)
    got = ours.posterior(x)
    torch.testing.assert_close(got[0], expected.mean, atol=1e-4, rtol=0)
    torch.testing.assert_close(got[1], expected.logvar, atol=1e-4, rtol=0)


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("frames", [1, 5, 9, 17])
def test_decode_equals_diffusers(pair, frames, batch):
    ours, reference = pair
    mean, std = statistics()
    z = torch.randn(batch, 48, 1 + (frames - 1) // 4, 3, 2, generator=torch.Generator().manual_seed(frames))
    expected = reference.decode(z * std + mean).sample
    assert expected.std() > 0.05
    torch.testing.assert_close(ours.decode(z), expected, atol=1e-4, rtol=0)


def test_the_arithmetic_saved_on_a_cpu_changes_nothing_that_gradients_see(pair):
    ours, reference = pair
    mean, std = statistics()
    z = torch.randn(1, 48, 3, 2, 2, generator=torch.Generator().manual_seed(3)).requires_grad_()
    (expected,) = torch.autograd.grad(reference.decode(z * std + mean).sample.square().sum(), z)
    (got,) = torch.autograd.grad(ours.decode(z).square().sum(), z)
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-3)


def test_full_size_has_the_published_names_and_shapes():
    with gzip.open(PUBLISHED, "rt") as file:
        published = {key: tuple(shape) for key, shape in json.load(file).items()}
    assert shapes(VideoVAE(PRESETS["wan2.2"], Runtime(device="meta"))) == published


def test_full_size_has_the_names_and_shapes_of_diffusers_both_ways():
    with torch.device("meta"):
        reference = theirs(PRESETS["wan2.2"])
    ours = VideoVAE(PRESETS["wan2.2"], Runtime(device="meta"))
    renamed = to_diffusers(ours.state_dict())
    assert {key: tuple(value.shape) for key, value in renamed.items()} == shapes(reference)
    back = from_diffusers(reference.state_dict(), ours.state_dict())
    assert {key: tuple(value.shape) for key, value in back.items()} == shapes(ours)


def test_published_statistics_are_those_of_the_diffusers_pipeline_order():
    # The posterior is normalised channel by channel: a permuted or shifted table would not undo itself.
    vae = VideoVAE(SMALL)
    z = torch.randn(1, 48, 1, 1, 1)
    torch.testing.assert_close(vae.normalise(vae.denormalise(z)), z)
    torch.testing.assert_close(vae.denormalise(torch.zeros_like(z)).flatten(), torch.tensor(WAN_MEAN))

"""Our branch against diffusers' WanTransformer3DModel, an independent implementation, on small random weights."""

import pytest
import torch
from diffusers import WanTransformer3DModel

from harmony_core.config import BranchConfig, preset
from harmony_core.layers.rope import split_channels
from harmony_core.models.branch import Branch
from harmony_core.runtime import Runtime
from harmony_core.weights.files import load_into
from harmony_core.weights.keymap import WanLayout, from_original, to_original

CONFIG = BranchConfig(
    channels=12,
    patch=(1, 2, 2),
    dim=96,
    heads=3,
    layers=3,
    ffn=160,
    text_dim=24,
    text_len=10,
    freq_dim=32,
    rope_axes=split_channels(32),
)


def theirs(config: BranchConfig) -> WanTransformer3DModel:
    return WanTransformer3DModel(
        patch_size=config.patch,
        num_attention_heads=config.heads,
        attention_head_dim=config.head_dim,
        in_channels=config.channels,
        out_channels=config.channels,
        text_dim=config.text_dim,
        freq_dim=config.freq_dim,
        ffn_dim=config.ffn,
        num_layers=config.layers,
        cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
        eps=config.eps,
    ).eval()


def pair() -> tuple[Branch, WanTransformer3DModel]:
    torch.manual_seed(0)
    other = theirs(CONFIG)
    for name, parameter in other.named_parameters():
        unit = 1.0 if "norm" in name and name.endswith("weight") else 0.0
        torch.nn.init.normal_(parameter, mean=unit, std=0.15)
    with torch.device("meta"):
        ours = Branch(CONFIG, Runtime())
    load_into(ours, to_original(other.state_dict()), what="a branch")
    return ours, other


@pytest.mark.parametrize("size", [(1, 2, 2), (3, 4, 6), (5, 8, 4)])
@pytest.mark.parametrize("batch", [1, 2])
@torch.no_grad()
def test_one_time_for_all_tokens(size, batch):
    ours, other = pair()
    x, text = torch.randn(batch, 12, *size), torch.randn(batch, 10, 24)
    t = torch.linspace(0.25, 0.75, batch)
    expected = other(hidden_states=x, timestep=1000 * t, encoder_hidden_states=text).sample
    assert expected.std() > 0.1
    assert (ours(x, t, text) - expected).abs().max() <= 1e-5


@torch.no_grad()
def test_a_time_for_every_token():
    ours, other = pair()
    x, text = torch.randn(2, 12, 4, 4, 6), torch.randn(2, 10, 24)
    t_frame = torch.tensor([[0.0, 0.5, 0.125, 1.0], [0.25, 0.0, 0.75, 0.5]])
    t_token = t_frame.repeat_interleave(6, 1)
    expected = other(hidden_states=x, timestep=1000 * t_token, encoder_hidden_states=text).sample
    assert (ours(x, t_token, text) - expected).abs().max() <= 1e-5
    # A frame's tokens share their time: said once a frame it is the same.
    assert (ours(x, t_frame, text) - expected).abs().max() <= 1e-5


@torch.no_grad()
def test_short_captions_are_padded_with_zeros_as_wan_pads_them():
    ours, other = pair()
    x, text = torch.randn(1, 12, 2, 4, 4), torch.randn(1, 4, 24)
    padded = torch.cat([text, torch.zeros(1, 6, 24)], 1)
    expected = other(hidden_states=x, timestep=torch.tensor([500.0]), encoder_hidden_states=padded).sample
    assert (ours(x, torch.tensor([0.5]), text) - expected).abs().max() <= 1e-5


def test_full_size_names_and_shapes_are_diffusers_both_ways():
    config = preset("5b").video
    with torch.device("meta"):
        other = {k: tuple(v.shape) for k, v in theirs(config).state_dict().items()}
        ours = {k: tuple(v.shape) for k, v in Branch(config, Runtime()).state_dict().items()}
    assert to_original(other) == ours
    assert from_original(ours, WanLayout.DIFFUSERS) == other

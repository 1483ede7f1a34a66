"""Frame-wise attention against its definition, and every interaction's silence at the start."""

import pytest
import torch
from rounding import CHANGED, ROUNDING, away
from small import small_conditioning, small_config, small_latents, small_model

from harmony_core.layers.attention import KeysValues
from harmony_core.models.alignment import align
from harmony_core.models.branch import Layout, Stream
from harmony_core.models.interaction import Exchange
from harmony_core.types import AV, Modality

KINDS = ["frame_wise", "global", "cmc_pe", "fused"]
PATCHES = 6


def stream(frames: int, patches: int = 1, *, batch: int = 2, prefix: int = 0, seed: int = 0, dim: int = 48) -> Stream:
    torch.manual_seed(seed)
    layout = Layout(frames, patches, 1, prefix)
    x = torch.randn(batch, layout.tokens, dim)
    nothing = torch.empty(0)
    return Stream(x=x, layout=layout, turn=nothing, time=nothing, modulation=nothing, text=())


def setting(frames: int, length: int, fps: float = 24.0, **interaction):
    config = small_config(**interaction)
    model = small_model(config)
    return model.interaction.layers[0], align(config, frames, length, fps).map(Exchange), config


def dense(link, target: Stream, source: Stream, exchange: Exchange, near: torch.Tensor) -> torch.Tensor:
    """The definition: attention of all to all under a mask, nothing where nothing is adjacent."""
    a = exchange.alignment
    q = link.attn.queries(link.norm(target.body), a.target_turn.repeat_interleave(target.layout.patches, 0))
    turn = a.source_turn.repeat_interleave(source.layout.patches, 0)
    k, v = link.attn.keys_values(link.norm_source(source.body), turn)
    mask = near.repeat_interleave(target.layout.patches, 0).repeat_interleave(source.layout.patches, 1)
    heard = mask.any(1)
    q, k, v = (z.transpose(1, 2) for z in (q, k, v))
    out = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask | ~heard[:, None])
    delta = link.attn.o(out.transpose(1, 2).flatten(2)) * heard[:, None]
    return torch.cat([target.prefix, target.body + delta], 1)


# Sound that fits, that is far shorter, far longer, one token, one frame.
LENGTHS = [(13, 64), (13, 20), (13, 1), (13, 150), (1, 2), (1, 30), (2, 7), (5, 22)]


@pytest.mark.parametrize(("frames", "length"), LENGTHS)
@pytest.mark.parametrize("window", [0, 1, 3])
@pytest.mark.parametrize(("fps", "positions"), [(24.0, "exact"), (12.5, "exact"), (24.0, "paper"), (30.0, "index")])
def test_frame_wise_attention_is_masked_dense_attention(frames, length, window, fps, positions):
    layer, exchanges, config = setting(frames, length, fps, window=window, positions=positions)
    streams = AV(stream(frames, PATCHES), stream(length, prefix=2, seed=1))
    line_map = align(config, frames, length, fps)
    near = adjacency(_nearest(config, frames, length, fps), frames, window)
    assert line_map.video.heard.tolist() == near.any(1).tolist()
    for target, link in (
        (Modality.VIDEO, layer.links(Modality.VIDEO)["main"]),
        (Modality.AUDIO, layer.links(Modality.AUDIO)["main"]),
    ):
        source = streams[target.other]
        out = link.write(streams[target], link.read(source, exchanges[target]), exchanges[target])
        expected = dense(link, streams[target], source, exchanges[target], near if target is Modality.VIDEO else near.T)
        assert torch.isfinite(out).all()
        assert (out - expected).abs().max() <= 1e-5


def adjacency(nearest: torch.Tensor, frames: int, window: int) -> torch.Tensor:
    """Which video latent and audio token are adjacent, (T_v, T_a)."""
    return (torch.arange(frames)[:, None] - nearest[None, :]).abs() <= window


def _nearest(config, frames: int, length: int, fps: float) -> torch.Tensor:
    """The nearest video latent of every audio token, from the formula."""
    j = torch.arange(length, dtype=torch.float64)
    if config.interaction.positions == "paper":
        place = j * frames / length
    else:
        place = ((j + 0.5) * 512 / 16_000 * fps + 1) / 4
    return torch.floor(place + 0.5).long()


def test_the_window_is_the_papers_size():
    """About 16 audio tokens for a frame, three frames for an audio token."""
    near = adjacency(_nearest(small_config(), 31, 158, 24.0), 31, 1)
    inner = near[2:-2]
    assert set(inner.sum(1).tolist()) <= {15, 16}
    assert set(near[:, 10:-10].sum(0).tolist()) == {3}


@pytest.mark.bitwise("mask")
def test_gradient_from_outside_the_window_is_exactly_zero():
    frames, length, window = 7, 34, 1
    layer, exchanges, config = setting(frames, length, window=window)
    near = adjacency(_nearest(config, frames, length, 24.0), frames, window)
    for target in Modality:
        link = layer.links(target)["main"]
        streams = AV(stream(frames, PATCHES, batch=1), stream(length, batch=1))
        me, other = streams[target], streams[target.other]
        other = other.to(other.x.requires_grad_())
        out = link.write(me, link.read(other, exchanges[target]), exchanges[target])
        mask = near if target is Modality.VIDEO else near.T
        for i in range(me.layout.frames):
            rows = out[:, i * me.layout.patches : (i + 1) * me.layout.patches]
            (gradient,) = torch.autograd.grad(rows.square().sum(), other.x, retain_graph=True)
            touched = gradient[0].unflatten(0, (other.layout.frames, -1)).abs().amax((1, 2)) > 0
            assert torch.equal(touched, mask[i])


@pytest.mark.bitwise("mask")
def test_where_nothing_is_adjacent_nothing_changes_and_gradients_are_finite():
    layer, exchanges, _ = setting(13, 8)
    link = layer.links(Modality.VIDEO)["main"]
    target, source = stream(13, PATCHES), stream(8, seed=1)
    source = source.to(source.x.requires_grad_())
    out = link.write(target, link.read(source, exchanges.video), exchanges.video)
    heard = exchanges.video.alignment.heard
    assert 0 < heard.sum() < 13
    changed = (out - target.x).unflatten(1, (13, PATCHES)).abs().amax((0, 2, 3)) > 0
    assert torch.equal(changed, heard)
    (gradient,) = torch.autograd.grad(out.square().sum(), source.x)
    assert torch.isfinite(gradient).all()


def test_cost_is_linear_nothing_of_both_lengths_is_ever_made():
    """Tables and windows of a clip four times as long are about four times as large, not sixteen times."""

    def entries(frames: int, length: int) -> int:
        a = align(small_config(), frames, length, 24.0)
        return sum(t.numel() for one in a for t in (one.rows.index, one.seen, one.target_turn, one.source_turn))

    assert entries(121, 632) / entries(31, 158) < 4.2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("style", "tokens"), [(True, 0), (True, 2), (False, 0)])
def test_a_new_interaction_is_silent_the_joint_model_is_its_two_branches(kind, style, tokens):
    model = small_model(small_config(kind=kind, style=style, style_tokens=tokens), silent=True)
    for layer in model.interaction.layers:
        layer.zero()
    x, told = small_latents(2), small_conditioning(2)
    context = model.prepare(told, 2)
    times = AV(torch.rand(2, 3), torch.rand(2, 12))
    joint = model(x, times, context)
    assert away(joint.video, model.video(x.video, times.video, told.video_caption)) <= ROUNDING
    for m in Modality:
        assert away(joint[m], model.forward_alone(m, x[m], times[m], context)) <= ROUNDING


@pytest.mark.parametrize("kind", KINDS)
def test_each_stream_reads_the_other(kind):
    model, x = small_model(small_config(kind=kind)), small_latents()
    context = model.prepare(small_conditioning(), 1)
    times = AV(torch.full((1, 1), 0.5), torch.full((1, 1), 0.5))
    base = model(x, times, context)
    for m in Modality:
        other = model(x.replace(m.other, x[m.other] + 1), times, context)
        assert (base[m] - other[m]).abs().max() > 1e-3


@pytest.mark.bitwise("copy")
def test_style_alignment_changes_reference_tokens_alone_in_its_own_layer():
    layer, exchanges, _ = setting(5, 22)
    link = layer.links(Modality.AUDIO)["style"]
    target, source = stream(22, prefix=3), stream(5, PATCHES, seed=1)
    out = link.write(target, link.read(source, exchanges.audio), exchanges.audio)
    assert torch.equal(out[:, 3:], target.body)
    k, v = link.attn.keys_values(link.norm_source(source.body))
    expected = target.prefix + link.attn.o(link.attn.attend(link.attn.queries(link.norm(target.prefix)), KeysValues(k, v)))
    assert away(out[:, :3], expected) <= ROUNDING
    assert not link.wanted(0)


def test_cmc_resamples_by_time_and_broadcasts_over_space():
    layer, exchanges, _ = setting(5, 22, kind="cmc_pe")
    to_video, to_audio = (layer.links(m)["main"] for m in Modality)
    video, audio = stream(5, PATCHES), stream(22, seed=1)
    added = to_video.write(video, to_video.read(audio, exchanges.video), exchanges.video) - video.x
    per_frame = added.unflatten(1, (5, PATCHES))
    assert torch.allclose(per_frame, per_frame[:, :, :1].expand_as(per_frame), atol=1e-5)
    # A video that does not change gives every audio token the same features; one that does, not.
    still = video.to(video.x[:, :1].expand_as(video.x))
    features = to_audio.read(still, exchanges.audio)[0]
    assert torch.allclose(features, features[:, :1].expand_as(features), atol=1e-5)
    moving = to_audio.read(video, exchanges.audio)[0]
    assert (moving - moving[:, :1]).abs().max() > 1e-3


def test_unaligned_positions_differ_from_aligned_ones():
    a, b = (align(small_config(positions=p), 13, 64, 24.0) for p in ("exact", "index"))
    assert away(a.video.source_turn, b.video.source_turn) > CHANGED
    assert a.video.rows.index.tolist() == b.video.rows.index.tolist()

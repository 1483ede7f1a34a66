"""The video codec's properties, on a tiny one with random weights: streams, tiles, precision, cancelling, refusals."""

import dataclasses
import gc
import logging
import weakref

import pytest
import torch
from rounding import ROUNDING, away
from safetensors.torch import save_file
from torch import nn

from harmony_core.codecs import video_kernels
from harmony_core.codecs.video_stream import patchify, unpatchify
from harmony_core.codecs.video_tiling import Tiling, tiles
from harmony_core.codecs.video_vae import PRESETS, VideoVAE, VideoVAEConfig
from harmony_core.progress import Cancelled
from harmony_core.records import from_record, to_record
from harmony_core.runtime import Runtime
from harmony_core.weights.video_vae import load_video_vae, to_diffusers

NARROW = dataclasses.replace(PRESETS["tiny"], encoder_width=8, decoder_width=8)


def make(dtype: torch.dtype = torch.float32, config: VideoVAEConfig = NARROW) -> VideoVAE:
    torch.manual_seed(0)
    return VideoVAE(config).requires_grad_(False).to(dtype)


@pytest.fixture(scope="module")
def vae() -> VideoVAE:
    return make()


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def film(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def worst(a: torch.Tensor, b: torch.Tensor) -> float:
    assert a.shape == b.shape
    return (a - b).abs().max().item()


# Streams


@pytest.mark.parametrize("chunk", [1, 2, 3])
def test_a_stream_equals_the_whole(vae, chunk):
    z, x = noise(2, 48, 7, 2, 3), film(2, 3, 25, 32, 48)
    whole, latents = vae.decode(z, chunk=7), vae.encode(x, chunk=7)
    assert worst(torch.cat(list(vae.decode_chunks(z, chunk=chunk)), 2), whole) < 1e-5
    assert worst(torch.cat(list(vae.encode_chunks([x], chunk=chunk)), 2), latents) < 1e-5
    assert worst(vae.decode(z, chunk=chunk), whole) < 1e-5
    assert worst(vae.encode(x, chunk=chunk), latents) < 1e-5


def test_frames_may_come_in_pieces_of_any_length(vae):
    x = film(1, 3, 21, 32, 32)
    pieces = list(x.split([2, 1, 7, 1, 10], dim=2))
    assert worst(torch.cat(list(vae.encode_chunks(pieces, chunk=2)), 2), vae.encode(x)) < 1e-5


def test_a_frame_does_not_depend_on_later_ones(vae):
    x = film(1, 3, 9, 32, 32)
    later = x.clone()
    later[:, :, 5:] = 0
    assert worst(vae.encode(x)[:, :, :2], vae.encode(later)[:, :, :2]) < 1e-6
    z = noise(1, 48, 4, 2, 2)
    assert worst(vae.decode(z)[:, :, :9], vae.decode(z[:, :, :3])) < 1e-5


def test_two_streams_of_one_codec_do_not_disturb_each_other(vae):
    z = noise(2, 48, 4, 2, 2)
    streams = [vae.decode_chunks(part, chunk=1) for part in z.split(1)]
    turns = [[next(stream) for stream in streams] for _ in range(4)]
    for n, part in enumerate(z.split(1)):
        assert worst(torch.cat([turn[n] for turn in turns], 2), vae.decode(part)) < 1e-5


@pytest.mark.bitwise("program")
def test_a_cancelled_run_leaves_nothing(vae):
    z, x = noise(1, 48, 4, 2, 2), film(1, 3, 13, 32, 32)
    before, latents = vae.decode(z), vae.encode(x)
    held = dict(vars(vae)), [dict(vars(module)) for module in vae.modules()]

    def cancel(done: int, total: int) -> None:
        assert total == 4
        if done == 2:
            raise Cancelled

    for work in (lambda: vae.decode(z, chunk=1, progress=cancel), lambda: vae.encode(x, chunk=1, progress=cancel)):
        with pytest.raises(Cancelled):
            work()
    assert (dict(vars(vae)), [dict(vars(module)) for module in vae.modules()]) == held
    assert torch.equal(vae.decode(z), before)
    assert torch.equal(vae.encode(x), latents)


def test_a_stream_lets_go_of_what_it_yielded(vae):
    stream = vae.decode_chunks(noise(1, 48, 3, 2, 2), chunk=1)
    first = weakref.ref(next(stream))
    gc.collect()
    assert first() is None


def test_progress_counts_chunks_and_tiles(vae):
    seen: list[tuple[int, int]] = []
    vae.decode(noise(1, 48, 3, 12, 10), chunk=2, tiling=Tiling(size=160, overlap=80), progress=lambda *now: seen.append(now))
    assert seen == [(n, 4) for n in range(1, 5)]
    seen.clear()
    vae.encode(film(1, 3, 9, 192, 160), chunk=2, tiling=Tiling(size=160, overlap=80), progress=lambda *now: seen.append(now))
    assert seen == [(n, 4) for n in range(1, 5)]


# Tiles


def test_tiled_decoding_differs_only_where_tiles_overlap(vae):
    z = noise(1, 48, 2, 16, 12)
    whole, tiled = vae.decode(z), vae.decode(z, tiling=Tiling(size=192, overlap=80))
    differs = (whole - tiled).abs().amax((0, 1, 2, 4))
    # 256 rows by tiles of 192: rows 64 to 192 are in both.
    assert differs[:64].max() < 1e-5
    assert differs[192:].max() < 1e-5
    assert 1e-5 < differs.max() < 0.02 * whole.std()


def test_tiled_encoding_equals_the_whole(vae):
    x = film(1, 3, 5, 224, 192)
    assert worst(vae.encode(x, tiling=Tiling(size=160, overlap=80)), vae.encode(x)) < 1e-5


@pytest.mark.parametrize(("height", "width"), [(5, 40), (24, 24), (25, 41), (39, 100)])
def test_shares_of_tiles_add_up(height, width):
    plan = tiles(height, width, size=24, overlap=10, margin=8, source=1, result=4)
    total = torch.zeros(height * 4, width * 4)
    for tile in plan:
        tile.add(total, torch.ones(len(tile.row_share), len(tile.column_share)))
    torch.testing.assert_close(total, torch.ones_like(total))
    assert all(tile.cut(torch.zeros(height, width)).shape == plan[0].cut(torch.zeros(height, width)).shape for tile in plan)


# Arithmetic


@pytest.mark.parametrize("frames", [1, 2, 5, 6])
@pytest.mark.parametrize("kernel", [(3, 3, 3), (3, 1, 1)])
def test_fewer_multiplications_give_the_same_convolution(kernel, frames):
    conv = nn.Conv3d(20, 24, kernel, padding=(0, kernel[1] // 2, kernel[2] // 2)).requires_grad_(False)
    x = noise(2, 20, frames + 2, 5, 4)
    x[:, :, :2] = 0
    with torch.no_grad():
        for fresh in (True, False):
            torch.testing.assert_close(video_kernels.convolve(conv, x, fresh=fresh), conv(x), atol=1e-5, rtol=0)


def test_upsampling_without_the_enlarged_picture_gives_the_same(vae):
    conv = nn.Conv2d(6, 10, 3, padding=1).requires_grad_(False)
    x = noise(2, 6, 5, 4)
    with torch.no_grad():
        fast = video_kernels.upsample(conv, x)
    with torch.enable_grad():
        torch.testing.assert_close(fast, video_kernels.upsample(conv, x), atol=1e-5, rtol=0)


def test_a_hosts_layers_are_called_and_give_the_same(vae):
    calls = []

    class Conv3d(nn.Conv3d):
        def forward(self, x):
            calls.append(self)
            return super().forward(x)

    class Layers:
        Conv2d = nn.Conv2d

    Layers.Conv3d = Conv3d
    hosted = VideoVAE(NARROW, Runtime(layers=Layers)).requires_grad_(False)
    hosted.load_state_dict(vae.state_dict())
    z = noise(1, 48, 3, 2, 2)
    assert worst(hosted.decode(z), vae.decode(z)) < 1e-5
    of_decoder = {m for m in hosted.decoder.modules() if isinstance(m, Conv3d)} | {hosted.conv2}
    assert set(calls) == of_decoder


@pytest.mark.bitwise("copy")
def test_patches_fold_and_unfold():
    x = film(2, 3, 3, 4, 6)
    assert torch.equal(unpatchify(patchify(x)), x)
    # Channel (colour, column, row): colour 1, column 1, row 0.
    assert torch.equal(patchify(x)[:, 6], x[:, 1, :, 0::2, 1::2])


# Training


def test_gradients_reach_every_weight_and_both_ends():
    vae = make().requires_grad_(True)
    x = film(1, 3, 9, 32, 32).requires_grad_()
    mean, logvar = vae.posterior(x)
    assert mean.shape == logvar.shape == (1, 48, 3, 2, 2)
    (vae.decode(vae.normalise(mean), clamp=False).square().mean() + logvar.square().mean()).backward()
    assert x.grad is not None
    assert x.grad.abs().amax((0, 1, 3, 4)).min() > 0
    for name, weight in vae.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.abs().max() > 0, name


def test_a_training_step_lowers_the_loss():
    vae = make().requires_grad_(True)
    x = film(1, 3, 5, 32, 32)
    optimizer = torch.optim.SGD(vae.parameters(), lr=1e-2)
    losses = []
    for _ in range(4):
        optimizer.zero_grad()
        loss = (vae.decode(vae.posterior(x)[0], clamp=False) - x).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0]


def test_with_and_without_gradients_the_same(vae):
    z = noise(1, 48, 3, 2, 2)
    assert worst(vae.decode(z.clone().requires_grad_()).detach(), vae.decode(z)) < 1e-5
    assert not vae.decode(z).requires_grad


def test_statistics_learnt_later_are_a_change_of_config(vae):
    learnt = dataclasses.replace(NARROW, mean=(0.5,) * 48, std=(2.0,) * 48)
    other = VideoVAE(from_record(VideoVAEConfig, to_record(learnt), "vae"))
    other.load_state_dict(vae.state_dict())
    x = film(1, 3, 5, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(other.encode(x), (vae.encode(x) - 0.5) / 2)
        assert worst(other.decode(other.encode(x)), vae.decode(vae.encode(x))) < 1e-5


# Precision


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_six_sigma_decodes_in_any_precision(dtype):
    z = noise(1, 48, 2, 2, 2)
    z *= 6 / z.abs().max()
    frames = make(dtype).decode(z)
    assert frames.dtype == torch.float32
    assert frames.isfinite().all()
    assert frames.abs().max() <= 1
    assert worst(frames, make().decode(z)) < 0.1


@pytest.mark.parametrize("chunk", [1, None])
def test_float16_that_overflows_is_said_once_and_computed_wider(caplog, chunk):
    loud = make()
    loud.decoder.conv1.weight *= 1e6
    loud.encoder.conv1.weight *= 1e6
    z, x = noise(1, 48, 3, 2, 2), film(1, 3, 9, 32, 32)
    frames, latents = loud.decode(z), loud.encode(x)
    loud.half()
    for got, expected in ((lambda: loud.decode(z, chunk=chunk), frames), (lambda: loud.encode(x, chunk=chunk), latents)):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            assert worst(got(), expected) < 0.05
        assert [record.message.split(";")[0] for record in caplog.records] == ["the video codec overflows in float16"]
    assert all(weight.dtype == torch.float16 for weight in loud.parameters())


def test_results_come_in_the_dtype_of_the_input(vae):
    assert vae.decode(noise(1, 48, 1, 2, 2).bfloat16()).dtype == torch.bfloat16
    assert make(torch.bfloat16).encode(film(1, 3, 1, 32, 32)).dtype == torch.float32


# Refusals


@pytest.mark.parametrize(
    ("latents", "says"),
    [
        (torch.zeros(1, 16, 2, 2, 2), "48"),
        (torch.zeros(48, 2, 2, 2), "48"),
        (torch.zeros(1, 48, 0, 2, 2), "frames"),
        (torch.full((1, 48, 2, 2, 2), float("nan")), "not finite"),
        (torch.zeros(1, 48, 2, 2, 2, dtype=torch.int64), "floating-point"),
    ],
)
def test_latents_that_do_not_fit_are_refused(vae, latents, says):
    with pytest.raises(ValueError, match=says):
        vae.decode(latents)
    with pytest.raises(ValueError, match=says):
        next(iter(vae.decode_chunks(latents)))


@pytest.mark.parametrize(
    ("frames", "says"),
    [
        (torch.zeros(1, 4, 5, 32, 32), "3, frames"),
        (torch.zeros(1, 3, 4, 32, 32), "1 \\+ 4k"),
        (torch.zeros(1, 3, 0, 32, 32), "frames"),
        (torch.zeros(1, 3, 5, 32, 40), "multiples of 16"),
        (torch.full((1, 3, 5, 32, 32), float("nan")), "finite numbers in"),
        (torch.full((1, 3, 5, 32, 32), 255.0), "got 255 to 255"),
        (torch.zeros(1, 3, 5, 32, 32, dtype=torch.uint8), "floating-point"),
    ],
)
def test_frames_that_do_not_fit_are_refused(vae, frames, says):
    for work in (vae.encode, vae.posterior, lambda x: list(vae.encode_chunks([x]))):
        with pytest.raises(ValueError, match=says):
            work(frames)


def test_pieces_that_do_not_fit_together_are_refused(vae):
    with pytest.raises(ValueError, match="one shape"):
        list(vae.encode_chunks([film(1, 3, 2, 32, 32), film(1, 3, 3, 32, 48)]))
    with pytest.raises(ValueError, match="at least one frame"):
        list(vae.encode_chunks([]))


def test_tilings_that_do_not_fit_are_refused(vae):
    with pytest.raises(ValueError, match="multiple of 16"):
        Tiling(size=200, overlap=96)
    with pytest.raises(ValueError, match="at most 128"):
        Tiling(size=256, overlap=144)
    with pytest.raises(ValueError, match="at least 80"):
        vae.decode(noise(1, 48, 1, 12, 12), tiling=Tiling(size=128, overlap=64))
    with pytest.raises(ValueError, match="at least one latent"):
        vae.decode(noise(1, 48, 1, 2, 2), chunk=0)


@pytest.mark.parametrize("change", [{"multipliers": (2, 2, 4, 4)}, {"blocks": 0}, {"std": (0.0,) * 48}, {"mean": (0.0,)}])
def test_configs_that_do_not_fit_are_refused(change):
    with pytest.raises(ValueError, match="video codec"):
        dataclasses.replace(NARROW, **change)


def test_damaged_weights_are_said(vae):
    broken = make()
    broken.decoder.conv1.weight[0, 0, 2, 1, 1] = float("nan")
    with pytest.raises(ValueError, match="damaged"):
        broken.decode(noise(1, 48, 1, 2, 2))


# Files


def test_the_tiny_preset_is_small():
    assert sum(p.numel() for p in VideoVAE(PRESETS["tiny"], Runtime(device="meta")).parameters()) < 3e6


@pytest.mark.parametrize("layout", ["original.safetensors", "original.pth", "diffusers.safetensors"])
def test_every_layout_loads_to_the_same_codec(tmp_path, layout):
    tiny = make(config=PRESETS["tiny"])
    tensors = to_diffusers(tiny.state_dict()) if layout.startswith("diffusers") else tiny.state_dict()
    path = tmp_path / layout
    if path.suffix == ".pth":
        torch.save(tensors, path)
    else:
        save_file(tensors, path)
    loaded = load_video_vae(path)
    assert loaded.config == PRESETS["tiny"]
    assert not any(weight.requires_grad or weight.is_meta for weight in loaded.parameters())
    z = noise(1, 48, 2, 2, 2)
    assert away(loaded.decode(z), tiny.decode(z)) <= ROUNDING
    assert load_video_vae(path, Runtime(dtype=torch.bfloat16)).conv1.weight.dtype == torch.bfloat16


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "other.safetensors"
    save_file({"blocks.0.weight": torch.zeros(2)}, path)
    with pytest.raises(ValueError, match="are no Wan2"):
        load_video_vae(path)
    tensors = make(config=PRESETS["tiny"]).state_dict()
    del tensors["conv2.bias"]
    save_file(tensors, path)
    with pytest.raises(ValueError, match="1 missing: conv2"):
        load_video_vae(path)
    save_file(make().state_dict(), path)
    with pytest.raises(ValueError, match="end on 32 and 8 channels"):
        load_video_vae(path)

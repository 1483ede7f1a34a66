"""What is planned, against what is counted and measured: operations, memory, the passes of a run."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from live_bytes import allocated_bytes, live_bytes
from small import small_branch, small_clip, small_conditioning, small_config, small_latents, small_model
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from harmony_core.canvas import Canvas
from harmony_core.codecs.audio import PRESETS as AUDIO
from harmony_core.codecs.audio import AudioCodec
from harmony_core.codecs.video_layers import Memory
from harmony_core.codecs.video_stream import patchify, unpatchify
from harmony_core.codecs.video_tiling import Tiling
from harmony_core.codecs.video_vae import PRESETS as VIDEO
from harmony_core.codecs.video_vae import VideoVAE
from harmony_core.conditioning import Conditioning
from harmony_core.config import BranchConfig, HarmonyConfig, InteractionConfig, preset
from harmony_core.denoiser import Denoiser, Setting
from harmony_core.drivers import DriverCache, MemoryBudget
from harmony_core.geometry import ClipSpec, Grid
from harmony_core.guidance import Guidance, modality_guidance, sync_guidance, text_guidance
from harmony_core.layers.rope import split_channels
from harmony_core.models.harmony import Context, Harmony
from harmony_core.offload import Offload
from harmony_core.plan.fit import AHEAD, CARDS, RESERVE, Job, Way, way_on
from harmony_core.plan.memory import (
    audio_codec_bytes,
    context_values,
    driver_values,
    pass_values,
    step_bytes,
    video_codec_bytes,
    video_piece_bytes,
)
from harmony_core.plan.operations import driven_pass, driver_pass, joint_pass, lone_pass, operations_of, run_of, tokens_of
from harmony_core.plan.parts import audio_codec_size, model_size, video_codec_size
from harmony_core.plan.rate import Rate, measure_rate
from harmony_core.runtime import Runtime
from harmony_core.sample import Schedule, sample
from harmony_core.types import AV, Audio, Modality

COUNTED = 0.02
"""How far operations may be from torch's own count."""
MOST = 1.6
"""How much more memory than is taken may be planned."""
KINDS = ["frame_wise", "global", "cmc_pe", "fused", "none"]
PASSES = ["joint", "joint with a driver", "alone", "read", "driven"]
GIB = 2**30


def mid_branch(channels: int, patch: tuple[int, ...], dim: int = 512, layers: int = 3) -> BranchConfig:
    return BranchConfig(
        channels=channels,
        patch=patch,
        dim=dim,
        heads=8,
        layers=layers,
        ffn=dim * 14 // 3 // 2 * 2,
        text_dim=256,
        text_len=128,
        rope_axes=split_channels(dim // 8) if len(patch) == 3 else (dim // 8,),
    )


MID = HarmonyConfig(video=mid_branch(48, (1, 2, 2)), audio=mid_branch(20, (1,)), interaction=InteractionConfig(style_tokens=4))
MID_CLIP = ClipSpec(frames=49, height=192, width=256)
TINY_CLIP = ClipSpec(frames=49, height=64, width=64, grid=Grid(patch=1))
SIZES = {"tiny": (preset("tiny"), TINY_CLIP), "mid": (MID, MID_CLIP)}


def plain_attention(q, k, v, mask=None):
    """Attention that a device without memory computes, and whose operations are counted."""
    del mask
    return (q @ k.transpose(-1, -2)) @ v


def on_meta(config: HarmonyConfig, dtype: torch.dtype = torch.float32, attention=plain_attention) -> Harmony:
    return Harmony(config, Runtime(device="meta", dtype=dtype, attention=attention)).requires_grad_(False)


def run(model: Harmony, spec: ClipSpec, what: str, stream: Modality = Modality.VIDEO, prefix: int = 0) -> object:
    """A function that does one pass, its conditions ready, on the meta device."""
    config, dtype = model.config, next(model.parameters()).dtype
    heard = config.speech.length if config.speech else 0
    lengths = AV(config.video.text_len, config.audio.text_len + heard)
    empty = torch.empty(0, device="meta", dtype=dtype)
    text = AV.of(lambda m: model.branch(m).read_context(empty.new_empty(1, lengths[m], model.branch(m).config.dim)))
    context = Context(text, empty.new_empty(1, prefix, config.audio.dim) if prefix else None)
    x = AV(empty.new_empty(spec.video_shape()), empty.new_empty(spec.audio_shape()))
    times = AV(empty.new_empty(1, spec.latent_frames), empty.new_empty(1, spec.audio_latents))
    other, kept = stream.other, {}
    length = x[other].shape[2]
    if what == "read":
        return lambda: model.read_driver(stream, x[stream], context, lambda *_: None, other_length=length)
    if what == "driven":
        model.read_driver(other, x[other], context, lambda i, n, m: kept.update({(i, n): m}), other_length=x[stream].shape[2])
        memory = DriverCache(empty.device, MemoryBudget(1 << 50)).get(
            "x", lambda keep: [keep(*key, memory) for key, memory in kept.items()]
        )
        return lambda: model.forward_driven(stream, x[stream], times[stream], context, memory, driver_length=length)
    if what == "alone":
        return lambda: model.forward_alone(stream, x[stream], times[stream], context)
    driver = stream if what == "joint with a driver" else None
    times = times if driver is None else times.replace(driver, empty.new_empty(1, 1))
    return lambda: model(x, times, context, driver=driver)


def passes(config: HarmonyConfig, what: str, stream: Modality):
    return {
        "joint": joint_pass(config),
        "joint with a driver": joint_pass(config, stream),
        "alone": lone_pass(stream),
        "read": driver_pass(stream),
        "driven": driven_pass(stream),
    }[what]


def counted(work) -> float:
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        work()
    return counter.get_total_flops()


# ---- operations


@pytest.mark.parametrize("stream", list(Modality))
@pytest.mark.parametrize("what", PASSES)
@pytest.mark.parametrize("size", list(SIZES))
def test_operations_of_a_pass_are_those_torch_counts(size, what, stream):
    config, spec = SIZES[size]
    planned = operations_of(config, spec, [passes(config, what, stream)], prefix=4).total
    assert planned == pytest.approx(counted(run(on_meta(config), spec, what, stream, prefix=4)), rel=COUNTED)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("what", ["joint", "read", "driven"])
def test_operations_of_every_interaction_are_those_torch_counts(kind, what):
    config = MID.replace(interaction={"kind": kind, "style": kind == "frame_wise", "style_tokens": 0})
    for stream in Modality:
        planned = operations_of(config, MID_CLIP, [passes(config, what, stream)]).total
        assert planned == pytest.approx(counted(run(on_meta(config), MID_CLIP, what, stream)), rel=COUNTED)


@pytest.mark.parametrize("name", ["5b", "ovi-720"])
def test_operations_of_a_full_size_pass_are_those_torch_counts(name):
    """Two of its layers, on the meta device: 27,280 tokens of video."""
    config = preset(name).replace(video={"layers": 2}, audio={"layers": 2})
    spec = ClipSpec(frames=121, height=704, width=1280)
    planned = operations_of(config, spec, [joint_pass(config)]).total
    assert planned == pytest.approx(counted(run(on_meta(config, torch.bfloat16), spec, "joint")), rel=COUNTED)


def test_operations_of_a_run_with_real_weights_are_those_torch_counts():
    """A SyncCFG step on the CPU, drivers kept: the passes as the denoiser makes them, attention as torch computes it."""
    config, spec, guidance = small_config(), small_clip(), sync_guidance(AV(3.0, 2.0))
    setting = Setting(
        canvas=Canvas.blank(spec), told=small_conditioning(reference=3), anchors=small_latents(seed=90), guidance=guidance
    )
    denoiser, counter = Denoiser(small_model(config), setting), FlopCounterMode(display=False)
    with sdpa_kernel(SDPBackend.MATH):
        denoiser(small_latents(), AV(0.5, 0.5))
        with counter:
            denoiser(small_latents(), AV(0.5, 0.5))
    planned = operations_of(config, spec, run_of(config, guidance).step, prefix=3).total
    assert planned == pytest.approx(counter.get_total_flops(), rel=COUNTED)


GUIDANCE = {
    "none": Guidance(),
    "sync": sync_guidance(AV(3.0, 2.0)),
    "sync without text": sync_guidance(AV(3.0, 2.0), text="null"),
    "sync of the sound": sync_guidance(AV(1.0, 2.0)),
    "text": text_guidance(AV(2.0, 2.0)),
    "text beside": sync_guidance(AV(3.0, 2.0), text="additive", text_scale=AV(2.0, 1.0)),
    "modality": modality_guidance(AV(2.0, 2.0)),
}


@pytest.mark.parametrize("guidance", list(GUIDANCE))
@pytest.mark.parametrize("driver", [None, *Modality])
@pytest.mark.parametrize("isolation", [True, False])
def test_the_passes_of_a_run_are_those_the_denoiser_makes(guidance, driver, isolation):
    config = small_config(driver_isolation=isolation)
    canvas = Canvas.blank(small_clip())
    if driver is not None:
        canvas = canvas.with_given(driver, small_latents(seed=50)[driver])
    setting = Setting(canvas=canvas, told=small_conditioning(), anchors=small_latents(seed=90), guidance=GUIDANCE[guidance])
    done = sample(small_model(config), setting, seeds=[1], schedule=Schedule(steps=2, sampler="euler")).passes
    planned = run_of(config, GUIDANCE[guidance], driver)
    assert done[1] == planned.branches
    first = AV.of(lambda m: planned.branches[m] + sum(m in one.streams for one in planned.once))
    assert done[0] == first
    assert len(planned.drivers) == len(planned.once)


# ---- weights


@pytest.mark.parametrize("config", [small_config(), small_config(kind="global"), preset("tiny"), MID])
def test_weights_are_counted_part_by_part(config):
    model, found = Harmony(config), model_size(config)
    assert found.total.values == sum(p.numel() for p in model.parameters())
    for part, size in found.parts.items():
        assert size.values == sum(p.numel() for name, p in model.named_parameters() if name.partition(".")[0] == part)
    assert found.layer.values == sum(
        p.numel() for m in (model.video.blocks[1], model.audio.blocks[1], model.interaction.layers[1]) for p in m.parameters()
    )


def test_a_published_model_has_its_published_size():
    assert model_size(preset("ovi-720")).total.values == 11_660_753_108


def test_codecs_are_counted():
    assert video_codec_size(VIDEO["tiny"]).values == sum(p.numel() for p in VideoVAE(VIDEO["tiny"]).parameters())
    assert audio_codec_size(AUDIO["tiny"]).values == sum(p.numel() for p in AudioCodec(AUDIO["tiny"]).parameters())


def test_what_an_offloaded_pass_holds_is_what_is_planned():
    model = small_model(small_config().replace(video={"layers": 4}, audio={"layers": 4}))
    job = job_of(model.config, small_clip(), dtype="float32")
    offload = Offload(model, "cpu", ahead=AHEAD)
    with offload.using(model):
        sample(model, Setting(canvas=Canvas.blank(small_clip())), seeds=[0], schedule=Schedule(steps=1, sampler="euler"))
        held = offload.layers.traffic.most_bytes_here + offload.parts.traffic.bytes_here
    stage = next(s for s in job.stages(Way(dtype="float32", offload=True)) if s.name == "sample")
    assert held == stage.weights


# ---- memory beside weights


@pytest.mark.parametrize("what", ["joint", "alone"])
@pytest.mark.parametrize("stream", list(Modality))
def test_memory_of_a_full_size_pass_is_what_its_tensors_take(what, stream):
    """Followed tensor by tensor on the meta device, in bfloat16, as a GPU's fused attention leaves them."""
    config = preset("5b").replace(video={"layers": 2}, audio={"layers": 2})
    spec = ClipSpec(frames=121, height=704, width=1280)
    model = on_meta(config, torch.bfloat16, attention=lambda q, k, v, mask=None: torch.empty_like(q))
    streams = set(Modality) if what == "joint" else {stream}
    planned = 2 * pass_values(config, AV(spec.video_shape(), spec.audio_shape()), streams)
    taken = live_bytes(run(model, spec, what, stream))
    assert taken <= 1.2 * planned  # the margin of the plan
    assert planned <= MOST * taken


@pytest.mark.parametrize("size", list(SIZES))
def test_memory_of_a_run_is_within_the_plan_as_measured(size):
    """By the CPU's allocator, over a whole step with its sampler, on real weights."""
    config, spec = SIZES[size]
    config = config.replace(video={"layers": 2}, audio={"layers": 2})
    model = Harmony(config).requires_grad_(False)
    model.initialize(0)
    setting = Setting(canvas=Canvas.blank(spec), told=Conditioning())
    schedule = Schedule(steps=2, sampler="unipc")
    taken = allocated_bytes(lambda: sample(model, setting, seeds=[0], schedule=schedule))
    shapes = AV(spec.video_shape(), spec.audio_shape())
    planned = step_bytes(config, shapes.replace(Modality.AUDIO, (*shapes.audio[:2], shapes.audio[2] + 4)), 4)
    assert taken <= planned <= MOST * taken


def test_conditions_take_what_is_planned():
    config = small_config()
    context = small_model(config).prepare(small_conditioning(), 1)
    kept = sum(x.numel() for m in Modality for pair in context.text[m] for x in pair)
    assert kept == context_values(config)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("driver", list(Modality))
@pytest.mark.parametrize("reference", [0, 3])
def test_what_is_kept_of_a_driver_is_what_is_planned(kind, driver, reference):
    config = small_config(kind=kind, style_tokens=0)
    model, x = small_model(config), small_latents()
    context = model.prepare(small_conditioning(reference=reference), 1)
    kept: list[torch.Tensor] = []
    model.read_driver(driver, x[driver], context, lambda _i, _n, m: kept.extend(m), other_length=x[driver.other].shape[2])
    taken = sum(t.numel() for t in kept)
    planned = driver_values(config, driver, tokens_of(small_clip()), prefix=reference > 0)
    assert planned == taken if kind != "cmc_pe" else taken <= planned


TILES = Tiling(size=192, overlap=96)
CODED = [("tiny", (13, 64, 64), None), ("tiny", (17, 160, 160), None), ("tiny", (9, 384, 224), TILES)]


@pytest.mark.parametrize(("name", "clip", "tiling"), CODED, ids=["one piece", "pieces", "tiles"])
@pytest.mark.parametrize("decode", [True, False], ids=["decode", "encode"])
def test_memory_of_the_video_codec_is_within_the_plan_as_measured(name, clip, tiling, decode):
    frames, height, width = clip
    config, latent = VIDEO[name], ((frames + 3) // 4, height // 16, width // 16)
    vae = VideoVAE(config).requires_grad_(False)
    if decode:
        z = torch.randn(1, config.channels, *latent)
        taken = allocated_bytes(lambda: vae.decode(z, tiling=tiling))
    else:
        x = torch.rand(1, 3, *clip) * 2 - 1
        taken = allocated_bytes(lambda: vae.encode(x, tiling=tiling))
    piece = video_piece_bytes(config, latent, decode=decode, tiling=tiling)
    planned = piece.device + piece.host + decode * 4 * 3 * frames * height * width
    assert taken <= planned <= (MOST if tiling is None else 2) * taken


@pytest.mark.parametrize("tile", [(44, 80), (24, 24)], ids=["704 x 1280", "a tile"])
@pytest.mark.parametrize("decode", [True, False], ids=["decode", "encode"])
def test_memory_of_the_full_size_video_codec_is_what_its_tensors_take(tile, decode):
    """Followed tensor by tensor on the meta device: three pieces of the fine half, where it is highest."""
    config, (h, w) = VIDEO["wan2.2"], tile
    vae = VideoVAE(config, Runtime(device="meta")).requires_grad_(False)

    def pieces():
        past = None
        for number in range(3):
            memory = Memory(past)
            if decode:
                x = torch.empty(1, 4 * config.decoder_width, 2 if number else 1, 2 * h, 2 * w, device="meta")
                unpatchify(vae.decoder(x, memory, "fine"))
            else:
                x = torch.empty(1, 3, 4 if number else 1, 16 * h, 16 * w, device="meta")
                vae.encoder(patchify(x), memory, "fine")
            past = memory.kept

    taken = live_bytes(pieces)
    planned = video_piece_bytes(config, (31, h, w), decode=decode).device
    assert taken <= planned <= 1.35 * taken


def test_tiles_are_planned_to_take_less_on_the_device():
    latent = (31, 44, 80)
    whole, cut = (video_piece_bytes(VIDEO["wan2.2"], latent, decode=True, tiling=t) for t in (None, Tiling()))
    assert cut.device < whole.device / 3
    assert cut.host > whole.host == 0
    small = (31, 16, 16)
    assert video_piece_bytes(VIDEO["wan2.2"], small, decode=True, tiling=Tiling()) == video_piece_bytes(
        VIDEO["wan2.2"], small, decode=True
    )


@pytest.mark.parametrize("decode", [True, False], ids=["decode", "encode"])
def test_memory_of_the_audio_codec_is_within_the_plan_as_measured(decode):
    codec, length = AudioCodec(AUDIO["tiny"]), 158
    z, sound = torch.randn(1, 20, length), Audio(torch.rand(1, 1, length * 512) - 0.5, 16_000)
    taken = allocated_bytes(lambda: codec.decode(z) if decode else codec.encode(sound))
    assert taken <= audio_codec_bytes(codec.config, length, decode=decode) <= MOST * taken


def test_a_clip_in_one_place_takes_its_pictures_too():
    latent = (5, 16, 16)
    piece = video_piece_bytes(VIDEO["tiny"], latent, decode=True)
    assert video_codec_bytes(VIDEO["tiny"], latent, decode=True) > piece.device + 4 * 3 * 17 * 256 * 256


# ---- what fits


def job_of(config: HarmonyConfig, spec: ClipSpec, *, dtype: str = "bfloat16", **changes) -> Job:
    del dtype
    return Job(config=config, spec=spec, video_codec=VIDEO["wan2.2"], audio_codec=AUDIO["mmaudio-16k"], **changes)


FULL = ClipSpec(frames=121, height=704, width=1280)


@pytest.mark.parametrize("driver", [None, *Modality])
@pytest.mark.parametrize("guidance", ["none", "sync"])
def test_a_larger_card_is_never_slower_and_every_way_fits(driver, guidance):
    job, rate = job_of(preset("5b"), FULL, guidance=GUIDANCE[guidance], driver=driver), Rate(1e14, 1e14, 2e10)
    for dtype in ("bfloat16", "fp8"):
        ways = [(card, job.way_within(card * GIB - RESERVE, dtype)) for card in CARDS]
        assert all(way is None or job.peak(way) <= card * GIB - RESERVE for card, way in ways)
        seconds = [job.step_seconds(way, rate) for _, way in ways if way is not None]
        assert seconds == sorted(seconds, reverse=True)
        assert ways[-1][1] is not None and not ways[-1][1].offload


def test_everything_that_is_offered_saves_memory():
    job = job_of(preset("5b"), FULL, guidance=GUIDANCE["sync"])
    whole = job.peak(Way())
    assert job.peak(Way(dtype="fp8")) < whole
    assert job.peak(Way(tiled=True)) < whole
    assert job.peak(Way(offload=True)) < whole / 2
    assert job.peak(Way(offload=True, tiled=True)) < job.peak(Way(offload=True))
    assert job.peak(Way(offload=True, tiled=True, cache="host")) < job.peak(Way(offload=True, tiled=True))


def test_longer_and_larger_clips_take_more():
    peaks = [
        job_of(preset("5b"), ClipSpec(frames=frames, height=height, width=1280)).peak(Way(offload=True, tiled=True))
        for frames, height in ((121, 704), (241, 704), (241, 960))
    ]
    assert peaks == sorted(peaks) and len(set(peaks)) == 3


def test_a_step_waits_for_copies_only_where_they_take_longer():
    job, way = job_of(preset("5b"), FULL), Way(offload=True)
    whole = job.step_seconds(Way(), Rate(1e14, 1e14, 1e9))
    assert job.step_seconds(way, Rate(1e14, 1e14, 1e12)) == whole
    assert job.step_seconds(way, Rate(1e14, 1e14, 1e9)) > whole
    assert job.step_seconds(way, Rate(1e14, 1e14)) == whole  # copies that were not measured are not guessed


def test_a_device_that_says_nothing_of_its_memory_gets_everything():
    assert way_on(job_of(preset("tiny"), TINY_CLIP), torch.device("cpu"), "float32") == Way(dtype="float32")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device to ask for its memory")
def test_on_cuda_a_clip_too_large_for_any_way_is_refused():
    with pytest.raises(ValueError, match="make it shorter or smaller"):
        way_on(job_of(preset("5b"), ClipSpec(frames=2401, height=4096, width=4096)), torch.device("cuda"), "bfloat16")


# ---- rates


def test_a_device_is_measured():
    rate = measure_rate(torch.device("cpu"), torch.float32)
    assert rate.measured
    assert rate.copies is None
    assert 1e8 < rate.products < 1e14
    assert 1e7 < rate.attention < 1e14


@pytest.mark.parametrize("value", [0.0, -1.0, float("inf"), float("nan")])
def test_a_rate_that_is_none_is_refused(value):
    with pytest.raises(ValueError, match="--tflops is a positive number"):
        Rate.given(value)


def test_small_branches_of_other_widths_are_counted_too():
    """Where the streams differ in width, links have two of them."""
    config = dataclasses.replace(small_config(), audio=small_branch(20, (1,), dim=32, rope_axes=(16,)))
    for what in PASSES:
        for stream in Modality:
            planned = operations_of(config, small_clip(), [passes(config, what, stream)]).total
            assert planned == pytest.approx(counted(run(on_meta(config), small_clip(), what, stream)), rel=COUNTED)

"""Layers that come and go: the same numbers, few weights at once, and everything home afterwards."""

from __future__ import annotations

import itertools

import pytest
import torch
from all_in_one import SPEC, save_all_in_one
from rounding import CHANGED, ROUNDING, away
from small import small_clip, small_conditioning, small_config, small_latents, small_model
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from harmony_core.canvas import Canvas
from harmony_core.denoiser import Setting
from harmony_core.drivers import DriverCache
from harmony_core.guidance import Guidance, sync_guidance, text_guidance
from harmony_core.models.harmony import Harmony
from harmony_core.offload import Offload, Porter, layers_of, pack, weights_of
from harmony_core.pipeline import Pipeline, Request, generate
from harmony_core.progress import Cancelled
from harmony_core.runtime import Runtime, sdpa
from harmony_core.sample import Schedule, sample
from harmony_core.types import AV, Audio, Modality, Video

LAYERS = 4
SHORT = Schedule(steps=2, sampler="euler")
WAYS = ["joint", "joint with a driver", "alone", "driven video", "driven audio"]
NO_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device: the copying stream is not run")


class ComputesOnCopies(TorchDispatchMode):
    """Fails where anything but a copy reads a weight in host memory: what another device would refuse, seen on a CPU."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.home = {weight.untyped_storage().data_ptr() for weight in weights_of(model)}
        self.copied = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        read = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor) and self._is_home(x)]
        if func is torch.ops.aten.copy_.default:
            self.copied += len(read)
            assert not self._is_home(args[0]), "a weight in host memory was written to"
        elif func not in {torch.ops.aten.empty_like.default, torch.ops.aten.detach.default}:
            assert not read, f"{func} computes with a weight in host memory"
        return func(*args, **(kwargs or {}))

    def _is_home(self, x: torch.Tensor) -> bool:
        return x.untyped_storage().data_ptr() in self.home


def deep_config(**interaction):
    """As many layers as it takes to see that they do not pile up."""
    config = small_config(**interaction)
    return config.replace(video={"layers": LAYERS}, audio={"layers": LAYERS})


@pytest.fixture
def pair():
    """The same model twice, the second offloaded."""
    plain, moved = small_model(deep_config()), small_model(deep_config())
    return plain, moved, Offload(moved, "cpu")


@torch.no_grad()
def run(model: Harmony, way: str, device: str = "cpu") -> list[torch.Tensor]:
    """One of the ways to run the model, and the conditions it needs."""
    x, t = small_latents().map(lambda v: v.to(device)), AV.both(torch.tensor([[0.7]], device=device))
    context = model.prepare(small_conditioning(), 1, device=device)
    if way == "joint":
        return list(model(x, t, context))
    if way == "joint with a driver":
        return list(model(x, t.replace(Modality.AUDIO, torch.zeros(1, 1, device=device)), context, driver=Modality.AUDIO))
    if way == "alone":
        return [model.forward_alone(m, x[m], t[m], context) for m in Modality]
    target = Modality(way.removeprefix("driven "))
    source = target.other
    memory = DriverCache(torch.device(device)).get(
        "driver", lambda keep: model.read_driver(source, x[source], context, keep, other_length=x[target].shape[2])
    )
    assert memory is not None
    return [model.forward_driven(target, x[target], t[target], context, memory, driver_length=x[source].shape[2])]


def all_equal(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def places(module: torch.nn.Module) -> list[int]:
    return [weight.data_ptr() for weight in weights_of(module)]


def size(module: torch.nn.Module) -> int:
    return sum(weight.numel() * weight.element_size() for weight in weights_of(module))


@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_run_gives_the_same_numbers(pair, way):
    plain, moved, offload = pair
    with offload.using(moved):
        assert away(run(moved, way), run(plain, way)) <= ROUNDING


@pytest.mark.parametrize("kind", ["frame_wise", "global", "cmc_pe", "fused", "none"])
def test_every_interaction_gives_the_same_numbers(kind):
    config = deep_config(kind=kind)
    plain, moved = small_model(config), small_model(config)
    offload = Offload(moved, "cpu")
    with offload.using(moved):
        assert away(run(moved, "joint"), run(plain, "joint")) <= ROUNDING


@pytest.mark.parametrize("way", WAYS)
def test_nothing_computes_with_a_weight_that_was_not_brought(pair, way):
    _, moved, offload = pair
    watch = ComputesOnCopies(moved)
    with watch, offload.using(moved):
        run(moved, way)
    assert watch.copied > LAYERS


def test_the_watch_over_copies_sees_a_layer_that_was_not_brought(pair):
    plain, _, _ = pair
    with pytest.raises(AssertionError, match="computes with a weight in host memory"), ComputesOnCopies(plain):
        run(plain, "joint")


@pytest.mark.parametrize("ahead", [0, 1, 2])
def test_few_layers_are_there_at_once(ahead):
    model = small_model(deep_config())
    offload = Offload(model, "cpu", ahead=ahead)
    layer = sum(size(module) for module in layers_of(model)) // LAYERS
    with offload.using(model):
        run(model, "joint")
        traffic = offload.layers.traffic
        assert (traffic.most_here, traffic.most_bytes_here) == (1 + ahead, (1 + ahead) * layer)
        assert traffic.visits == 3 * LAYERS  # keys and values of both contexts, and one pass
        assert traffic.here == traffic.bytes_here == 0
        assert offload.parts.traffic.bytes_here == size(model) - LAYERS * layer
    assert offload.parts.traffic.bytes_here == 0


def test_a_pass_of_one_branch_brings_no_weight_of_the_other(pair):
    _, moved, offload = pair
    reader = sum(size(link) for layer in moved.interaction.layers for link in layer.links(Modality.VIDEO).values())
    with offload.using(moved), torch.no_grad():
        context = moved.prepare(small_conditioning(), 1)
        before = offload.layers.traffic.moved
        moved.read_driver(Modality.AUDIO, small_latents().audio, context, lambda *_: None, other_length=3)
        assert offload.layers.traffic.moved - before == sum(map(size, moved.audio.blocks)) + reader


def test_layers_left_out_are_not_brought(pair):
    plain, moved, offload = pair
    x, t = small_latents(), AV.both(torch.tensor([[0.7]]))
    with offload.using(moved), torch.no_grad():
        contexts = [model.prepare(small_conditioning(), 1) for model in (plain, moved)]
        before = offload.layers.traffic.visits
        outs = [model(x, t, context, skip_layers=(1,)) for model, context in zip((plain, moved), contexts, strict=True)]
        assert offload.layers.traffic.visits - before == LAYERS - 1
    assert away(outs[1], outs[0]) <= ROUNDING


@pytest.mark.bitwise("copy")
def test_weights_are_home_again_and_untouched(pair):
    _, moved, offload = pair
    before, values = places(moved), [weight.clone() for weight in weights_of(moved)]
    with offload.using(moved):
        run(moved, "joint")
        assert not set(places(moved.video.head)) & set(before)
    assert places(moved) == before
    assert all_equal(values, list(weights_of(moved)))


def test_weights_changed_between_runs_are_seen(pair):
    """As a LoRA changes them: in place, by another tensor behind the same parameter, and back again."""
    plain, moved, offload = pair
    with offload.using(moved):
        untouched = run(moved, "joint")
    kept = {}
    for model in (plain, moved):
        low, high = torch.randn(48, 2, generator=torch.Generator().manual_seed(5)), torch.ones(2, 48)
        weight, other = model.video.blocks[1].self_attn.q.weight, model.interaction.layers[2].links(Modality.AUDIO)["main"]
        kept[model] = weight.data.clone(), other.attn.k.weight.data
        weight.data += low @ high
        other.attn.k.weight.data = other.attn.k.weight.data + low @ high
    with offload.using(moved):
        changed = run(moved, "joint")
    assert away(changed, run(plain, "joint")) <= ROUNDING
    assert away(changed, untouched) > CHANGED
    weight, other = kept[moved]
    moved.video.blocks[1].self_attn.q.weight.data.copy_(weight)
    moved.interaction.layers[2].links(Modality.AUDIO)["main"].attn.k.weight.data = other
    with offload.using(moved):
        assert away(run(moved, "joint"), untouched) <= ROUNDING


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_what_it_is(dtype):
    plain, moved = (small_model(deep_config()).to(dtype) for _ in range(2))
    offload = Offload(moved, "cpu")
    x, t = small_latents().map(lambda v: v.to(dtype)), AV.both(torch.tensor([[0.7]]))
    with offload.using(moved), torch.no_grad():
        outs = [list(model(x, t, model.prepare(small_conditioning(), 1, dtype=dtype))) for model in (plain, moved)]
    assert away(outs[1], outs[0]) <= ROUNDING
    assert {weight.dtype for weight in weights_of(moved)} == {dtype}


def test_a_failure_inside_a_layer_leaves_every_weight_home():
    calls = []

    def failing(q, k, v, mask=None):
        calls.append(q)
        if len(calls) == 9:
            raise MemoryError("full")
        return sdpa(q, k, v, mask)

    model = Harmony(deep_config(), Runtime(attention=failing))
    model.initialize(0)
    model.requires_grad_(False)
    offload, before = Offload(model, "cpu"), places(model)
    with pytest.raises(MemoryError), offload.using(model):
        run(model, "joint")
    assert places(model) == before
    assert offload.layers.traffic.here == offload.parts.traffic.here == 0
    calls.extend([None] * 9)
    with offload.using(model):
        run(model, "joint")  # and it runs again


def test_gradients_of_weights_that_leave_are_refused():
    model = small_model().requires_grad_(True)
    offload, x = Offload(model, "cpu"), small_latents()
    with offload.using(model):
        with torch.no_grad():
            context = model.prepare(small_conditioning(), 1)
        with pytest.raises(ValueError, match="offloaded have no gradients"):
            model(x, AV.both(torch.tensor([[0.7]])), context)


def test_a_model_can_be_taken_back(pair):
    plain, moved, offload = pair
    offload.close()
    visits = offload.layers.traffic.visits
    assert away(run(moved, "joint"), run(plain, "joint")) <= ROUNDING
    assert offload.layers.traffic.visits == visits


@pytest.mark.bitwise("copy")
def test_weights_are_packed_into_few_blocks_that_torch_does_not_round_up():
    model, blocks = small_model(deep_config()).to(torch.bfloat16), []
    before = [weight.clone() for weight in weights_of(model)]
    biggest = max(weight.numel() * weight.element_size() for weight in weights_of(model))

    def allocate(bytes_wanted):
        blocks.append(torch.empty(bytes_wanted, dtype=torch.uint8))
        return blocks[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("harmony_core.offload.BLOCK", 1 << 15)
        pack(list(weights_of(model)), allocate)
    assert all_equal(before, list(weights_of(model)))
    homes = {block.untyped_storage().data_ptr() for block in blocks}
    assert {weight.untyped_storage().data_ptr() for weight in weights_of(model)} <= homes
    starts = sorted((w.data_ptr(), w.data_ptr() + w.numel() * w.element_size()) for w in weights_of(model))
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(starts)), "two weights share memory"
    assert {block.numel() for block in blocks} == {1 << 15}
    assert biggest < 1 << 15
    assert sum(block.numel() for block in blocks) < 1.2 * size(model)


def test_fewer_than_no_layers_ahead_is_refused():
    with pytest.raises(ValueError, match="0 or more, got -1"):
        Porter("cpu", ahead=-1)


@pytest.mark.parametrize("guidance", [Guidance(), sync_guidance(AV(3.0, 2.0)), text_guidance(AV(2.0, 2.0))])
@pytest.mark.parametrize("driver", [None, *Modality])
def test_a_whole_run_is_the_same(pair, guidance, driver):
    plain, moved, offload = pair
    canvas = Canvas.blank(small_clip())
    if driver is not None:
        canvas = canvas.with_given(driver, small_latents(seed=50)[driver])
    setting = Setting(canvas=canvas, told=small_conditioning(), anchors=small_latents(seed=90), guidance=guidance)
    one = sample(plain, setting, seeds=[1], schedule=SHORT)
    with offload.using(moved):
        other = sample(moved, setting, seeds=[1], schedule=SHORT)
    assert away(other.latents, one.latents) <= ROUNDING
    assert one.passes == other.passes


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_all_in_one(tmp_path_factory.mktemp("weights") / "small.safetensors")


def requests() -> dict[str, Request]:
    sound = Audio(0.3 * torch.randn(1, 1, SPEC.samples, generator=torch.Generator().manual_seed(1)).clamp(-1, 1), 16_000)
    pictures = torch.rand(1, 3, SPEC.frames, SPEC.height, SPEC.width, generator=torch.Generator().manual_seed(2)) * 2 - 1
    return {
        "joint": Request(spec=SPEC, video_caption="a ball", transcript="abc", voice=sound, image=pictures[:, :, :1]),
        "audio-driven": Request(spec=SPEC, video_caption="a ball", drive=sound),
        "video-driven": Request(spec=SPEC, drive=Video(pictures, SPEC.fps)),
    }


@pytest.mark.parametrize("name", ["joint", "audio-driven", "video-driven"])
def test_a_clip_is_the_same_and_parts_take_turns(checkpoint, name):
    """Model and codecs: while one is there, the others are not."""
    plain, moved = Pipeline.load(checkpoint), Pipeline.load(checkpoint, offload=True)
    assert moved.offload is not None
    parts = {"model": moved.model, "video": moved.video_vae, "audio": moved.audio_codec}
    home = {part: places(module) for part, module in parts.items()}
    there: dict[str, set[str]] = {"step": set(), "decode": set()}

    def look(moment: str) -> None:
        there[moment] |= {part for part, module in parts.items() if places(module) != home[part]}

    guidance = sync_guidance(AV(3.0, 2.0))
    one = generate(plain, requests()[name], seeds=[3], guidance=guidance, schedule=SHORT)
    other = generate(
        moved,
        requests()[name],
        seeds=[3],
        guidance=guidance,
        schedule=SHORT,
        on_step=lambda _: look("step"),
        on_decode=lambda *_: look("decode"),
    )
    assert there["step"] == {"model"}
    assert there["decode"] == (set() if name == "video-driven" else {"video"})
    assert away(other.latents, one.latents) <= ROUNDING
    assert away(one.video.frames, other.video.frames) <= ROUNDING
    assert away(one.audio.waveform, other.audio.waveform) <= ROUNDING
    assert {part: places(module) for part, module in parts.items()} == home


def test_a_cancelled_clip_leaves_every_part_home(checkpoint):
    pipeline = Pipeline.load(checkpoint, offload=True)
    assert pipeline.offload is not None
    before = [places(module) for module in (pipeline.model, pipeline.video_vae, pipeline.audio_codec)]

    def stop(_step):
        raise Cancelled

    with pytest.raises(Cancelled):
        generate(pipeline, requests()["joint"], seeds=[3], schedule=SHORT, on_step=stop)
    assert [places(module) for module in (pipeline.model, pipeline.video_vae, pipeline.audio_codec)] == before
    assert pipeline.offload.parts.traffic.here == pipeline.offload.layers.traffic.here == 0


@NO_CUDA
@pytest.mark.parametrize("way", WAYS)
def test_on_cuda_a_pass_is_the_same_as_without_offload(way):
    plain, moved = small_model(deep_config()).cuda(), small_model(deep_config())
    offload = Offload(moved, "cuda")
    for _ in range(20):  # a copy that overtakes what it must wait for shows in some rounds only
        with offload.using(moved):
            found = run(moved, way, "cuda")
        assert away(found, run(plain, way, "cuda")) <= ROUNDING
    assert {weight.device.type for weight in weights_of(moved)} == {"cpu"}
    if way == "joint":
        assert all(weight.is_pinned() for block in moved.video.blocks for weight in weights_of(block))


@NO_CUDA
def test_on_cuda_memory_is_that_of_few_layers():
    model = small_model(deep_config().replace(video={"dim": 1536, "ffn": 6144}))
    offload = Offload(model, "cuda")
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    with offload.using(model):
        run(model, "joint", "cuda")
    there = offload.layers.traffic.most_bytes_here + offload.parts.traffic.most_bytes_here
    grown = torch.cuda.max_memory_allocated() - before
    assert there <= grown <= there + 64 * 2**20
    assert grown < size(model)

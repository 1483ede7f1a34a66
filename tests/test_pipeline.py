"""Whole runs on a tiny model: the tasks, SyncCFG, the driver cache, batches, precision, cancelling."""

import gc
import weakref

import pytest
import torch
from rounding import CHANGED, ROUNDING, away
from small import small_clip, small_conditioning, small_config, small_latents, small_model

from harmony_core import denoiser as denoiser_module
from harmony_core.canvas import Canvas
from harmony_core.conditioning import Conditioning
from harmony_core.denoiser import Denoiser, Setting
from harmony_core.drivers import DriverCache, MemoryBudget
from harmony_core.guidance import Evaluation, Guidance, Guide, modality_guidance, sync_guidance, text_guidance
from harmony_core.models.alignment import align
from harmony_core.models.branch import Layout, Stream
from harmony_core.models.harmony import Harmony
from harmony_core.models.interaction import Exchange
from harmony_core.models.sound_map import SoundMapRecorder
from harmony_core.progress import Cancelled
from harmony_core.runtime import Runtime
from harmony_core.sample import Schedule, sample
from harmony_core.types import AV, Modality

SHORT = Schedule(steps=3, sampler="euler")
SYNC = sync_guidance(AV(3.0, 2.0))


def task(name: str, batch: int = 1, seed: int = 50) -> Canvas:
    canvas, given = Canvas.blank(small_clip(), batch=batch), small_latents(batch, seed=seed)
    if name == "audio-driven":
        return canvas.with_given(Modality.AUDIO, given.audio)
    if name == "video-driven":
        return canvas.with_given(Modality.VIDEO, given.video)
    if name == "first frame":
        return canvas.with_first_frame(given.video[:, :, :1])
    if name == "kept seconds":
        return canvas.with_given(Modality.AUDIO, given.audio, small_clip().timeline.audio_in_span(0.0, 0.2))
    return canvas


TASKS = ["joint", "audio-driven", "video-driven", "first frame", "kept seconds"]


def setting(name: str = "joint", batch: int = 1, guidance: Guidance = SYNC, **more) -> Setting:
    base = {"told": small_conditioning(batch), "anchors": small_latents(seed=90), "guidance": guidance}
    return Setting(canvas=task(name, batch), **{**base, **more})


def distance(a: AV[torch.Tensor], b: AV[torch.Tensor]) -> float:
    return max((x - y).abs().max().item() for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.bitwise("locked")
def test_what_is_given_comes_back_bit_for_bit(name, model):
    canvas = task(name)
    out = sample(model, setting(name), seeds=[1], schedule=SHORT).latents
    kept = canvas.compose(out)
    assert torch.equal(kept.video, out.video)
    assert torch.equal(kept.audio, out.audio)
    assert all(torch.isfinite(x).all() for x in out)


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("frame_wise", "same"),
        ("frame_wise", "null"),
        ("frame_wise", "additive"),
        *((k, "null") for k in ("global", "cmc_pe", "fused")),
    ],
)
def test_cached_equals_uncached(kind, name, text):
    model = small_model(small_config(kind=kind))
    more = {"text_scale": AV(4.0, 4.0)} if text == "additive" else {}
    guidance = sync_guidance(AV(3.0, 2.0), text=text, **more)
    cached = sample(model, setting(name, guidance=guidance), seeds=[1], schedule=SHORT)
    plain = sample(model, setting(name, guidance=guidance, use_cache=False), seeds=[1], schedule=SHORT)
    assert away(cached.latents, plain.latents) <= ROUNDING
    assert sum(sum(p) for p in cached.passes) < sum(sum(p) for p in plain.passes)


def test_a_driven_step_is_the_driven_branch_alone():
    model = small_model()
    for name, towers in (("audio-driven", AV(1, 0)), ("video-driven", AV(0, 1))):
        passes = sample(model, setting(name, guidance=Guidance()), seeds=[1], schedule=SHORT).passes
        assert passes == (AV(1, 1), towers, towers)


def test_a_sync_cfg_step_is_one_joint_pass_and_one_of_each_branch():
    passes = sample(small_model(), setting(), seeds=[1], schedule=SHORT).passes
    assert passes == (AV(3, 3), AV(2, 2), AV(2, 2))
    uncached = sample(small_model(), setting(use_cache=False), seeds=[1], schedule=SHORT).passes
    assert uncached == (AV(3, 3),) * 3


def test_without_isolation_every_pass_is_a_full_one_and_the_driver_reads():
    open_model = small_model(small_config(driver_isolation=False))
    assert sample(open_model, setting(), seeds=[1], schedule=SHORT).passes == (AV(3, 3),) * 3
    isolated = sample(small_model(), setting("audio-driven"), seeds=[1], schedule=SHORT).latents
    reading = sample(open_model, setting("audio-driven"), seeds=[1], schedule=SHORT).latents
    assert distance(isolated, reading) > 1e-4


def test_an_isolated_driver_reads_nothing_of_what_it_drives(model):
    context = model.prepare(small_conditioning(), 1)
    x, other = small_latents(), small_latents(seed=5)
    for driver in Modality:
        times = AV.both(torch.full((1, 1), 0.5)).replace(driver, torch.zeros(1, 1))
        a = model(x, times, context, driver=driver)
        b = model(x.replace(driver.other, other[driver.other]), times, context, driver=driver)
        assert away(a[driver], b[driver]) <= ROUNDING
        assert away(a[driver.other], b[driver.other]) > CHANGED


def test_sync_cfg_at_scale_one_is_the_model(model):
    guided = sample(model, setting(guidance=sync_guidance(AV(1.0, 1.0))), seeds=[1], schedule=SHORT)
    plain = sample(model, setting(guidance=Guidance()), seeds=[1], schedule=SHORT)
    assert away(guided.latents, plain.latents) <= ROUNDING
    assert guided.passes == (AV(1, 1),) * 3


def test_modality_guidance_cuts_the_interaction(model):
    x, sigma = small_latents(seed=3), AV(0.5, 0.5)
    velocity = Denoiser(model, setting(guidance=modality_guidance(AV(3.0, 3.0))))(x, sigma)
    context, times = model.prepare(small_conditioning(), 1), AV(torch.full((1, 1), 0.5), torch.full((1, 1), 0.5))
    joint, cut = model(x, times, context), model(x, times, context, interact=False)
    assert away(velocity, joint.map(lambda a, b: b + 3 * (a - b), cut)) <= ROUNDING


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.bitwise("draw")
def test_a_batch_of_three_equals_three_singles(name, model):
    told, given = small_conditioning(3), small_latents(3, seed=50)
    together = sample(model, setting(name, batch=3), seeds=[1, 2, 3], schedule=SHORT).latents
    for i in range(3):
        one = small_conditioning(1, seed=i)
        assert torch.equal(one.video_caption, told.video_caption[i : i + 1])
        alone = Setting(canvas=task(name, seed=50 + i), told=one, anchors=small_latents(seed=90), guidance=SYNC)
        assert torch.equal(small_latents(seed=50 + i).audio, given.audio[i : i + 1])
        out = sample(model, alone, seeds=[i + 1], schedule=SHORT).latents
        assert away(together.map(lambda x, i=i: x[i : i + 1]), out) <= ROUNDING


def test_bf16_agrees_with_fp32():
    x, sigma = small_latents(seed=3), AV(0.7, 0.7)
    exact = Denoiser(small_model(), setting())(x, sigma)
    rough = Denoiser(small_model().bfloat16(), setting())(x, sigma)
    for a, b in zip(exact, rough, strict=True):
        assert b.dtype == torch.float32
        assert (a - b).norm() / a.norm() < 2e-2


@pytest.mark.parametrize(
    "budget", [MemoryBudget(0, 0), MemoryBudget(20_000, 0), MemoryBudget(20_000, 10**9), MemoryBudget(10**9)]
)
@pytest.mark.parametrize("name", ["joint", "video-driven"])
def test_any_memory_budget_gives_the_same_clip(budget, name, model):
    expected = sample(model, setting(name, use_cache=False), seeds=[1], schedule=SHORT).latents
    assert away(sample(model, setting(name, budget=budget), seeds=[1], schedule=SHORT).latents, expected) <= ROUNDING


@pytest.mark.bitwise("copy")
def test_a_driver_that_does_not_fit_gives_its_budget_back():
    cache = DriverCache(torch.device("cpu"), MemoryBudget(100))

    def read(keep):
        keep(0, "main", (torch.zeros(10),))
        keep(1, "main", (torch.zeros(100),))

    assert cache.get("large", read) is None
    assert cache.bytes_left == MemoryBudget(100)
    small = cache.get("small", lambda keep: keep(0, "main", (torch.ones(10),)))
    assert torch.equal(small.recall(0, "main")[0], torch.ones(10))
    assert cache.bytes_left == MemoryBudget(60)
    with pytest.raises(ValueError, match="not negative"):
        MemoryBudget(-1)


@pytest.mark.parametrize("at", [0, 1, 2])
@pytest.mark.bitwise("program")
def test_a_cancelled_run_leaves_nothing_and_the_next_is_identical(at, model, monkeypatch):
    expected = sample(model, setting(), seeds=[1], schedule=SHORT).latents
    caches = []

    class Watched(DriverCache):
        def __init__(self, *args):
            super().__init__(*args)
            caches.append(weakref.ref(self))

    monkeypatch.setattr(denoiser_module, "DriverCache", Watched)

    def stop(step):
        if step.index == at:
            raise Cancelled

    before = set(vars(model)) | {name for name, _ in model.named_buffers()}
    try:
        sample(model, setting(), seeds=[1], schedule=SHORT, on_step=stop)
    except Cancelled:
        pass
    else:
        pytest.fail("the run was not cancelled")
    gc.collect()
    assert len(caches) == 1
    assert caches[0]() is None
    assert set(vars(model)) | {name for name, _ in model.named_buffers()} == before
    assert distance(sample(model, setting(), seeds=[1], schedule=SHORT).latents, expected) == 0


def test_timestep_adjustment_gives_each_stream_its_own_time(model):
    seen = []
    sample(model, setting(), seeds=[1], schedule=Schedule(steps=3, sampler="euler", gamma=1.5), on_step=seen.append)
    assert seen[1].sigma.video < seen[1].sigma.audio


def test_a_reference_voice_changes_the_sound_and_has_time_zero(model):
    base = sample(model, setting(), seeds=[1], schedule=SHORT).latents
    other = setting(told=small_conditioning(1, reference=5))
    assert distance(base, sample(model, other, seeds=[1], schedule=SHORT).latents) > 1e-4


def test_a_negative_prompt_takes_the_texts_place(model):
    guidance = text_guidance(AV(4.0, 4.0))
    nothing = sample(model, setting(guidance=guidance), seeds=[1], schedule=SHORT).latents
    negative = sample(model, setting(guidance=guidance, untold=small_conditioning(seed=7)), seeds=[1], schedule=SHORT).latents
    assert distance(nothing, negative) > 1e-4
    assert torch.isfinite(negative.video).all()


def test_layers_are_skipped_in_the_pass_without_text_alone(model):
    x, sigma = small_latents(seed=3), AV(0.5, 0.5)
    velocity = Denoiser(model, setting(guidance=text_guidance(AV(4.0, 3.0), skip_layers=(1,))))(x, sigma)
    told, times = small_conditioning(), AV(torch.full((1, 1), 0.5), torch.full((1, 1), 0.5))
    full = model(x, times, model.prepare(told, 1))
    less = model(x, times, model.prepare(told.without_text(), 1), skip_layers=(1,))
    assert away(velocity, full.map(lambda v, w, s: w + s * (v - w), less, AV(4.0, 3.0))) <= ROUNDING


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("text", ["null", "additive"])
def test_skipped_layers_are_skipped_in_every_way_the_model_is_run(text, name, model):
    more = {"text_scale": AV(4.0, 4.0)} if text == "additive" else {}
    runs = {}
    for skip in ((), (1,)):
        guidance = sync_guidance(AV(3.0, 2.0), text=text, skip_layers=skip, **more)
        cached = sample(model, setting(name, guidance=guidance), seeds=[1], schedule=SHORT).latents
        plain = sample(model, setting(name, guidance=guidance, use_cache=False), seeds=[1], schedule=SHORT).latents
        assert away(cached, plain) <= ROUNDING
        runs[skip] = cached
    assert distance(runs[()], runs[1,]) > 1e-4


def test_a_driver_is_kept_apart_for_a_pass_that_skips_layers(model):
    """The same driver, with the same text, read through all layers and through some."""
    anchors = Evaluation(company="mute"), Evaluation(company="mute", skip_layers=(0,))
    both = Guidance(guides=tuple(Guide(anchor=anchor, scale=AV(2.0, 2.0)) for anchor in anchors))
    cached = sample(model, setting(guidance=both), seeds=[1], schedule=SHORT).latents
    plain = sample(model, setting(guidance=both, use_cache=False), seeds=[1], schedule=SHORT).latents
    assert away(cached, plain) <= ROUNDING


@pytest.mark.parametrize("name", ["joint", "audio-driven", "video-driven"])
def test_sound_maps_are_pictures_and_watching_changes_nothing(name, model):
    recorder = SoundMapRecorder(layers={1}, end=0.9)
    watched = sample(model, setting(name, recorder=recorder), seeds=[1], schedule=SHORT).latents
    maps = recorder.maps()
    assert maps.shape == (1, 3, 2, 3)
    assert maps.min() >= 0
    assert maps.max() == 1
    assert away(watched, sample(model, setting(name), seeds=[1], schedule=SHORT).latents) <= ROUNDING
    never = SoundMapRecorder(start=0.1)
    sample(model, setting(name, recorder=never), seeds=[1], schedule=SHORT)
    with pytest.raises(ValueError, match="no sound-source map was recorded"):
        never.maps()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"anchors": None}, "SyncCFG needs its anchors"),
        ({"anchors": small_latents(spec=small_clip(frames=13))}, "anchor is of shape"),
        ({"told": small_conditioning(2)}, "has a batch of 2, the clip has 1"),
    ],
)
def test_settings_that_do_not_fit_are_refused(change, message, model):
    with pytest.raises(ValueError, match=message):
        sample(model, setting(**change), seeds=[1], schedule=SHORT)


def test_a_seed_a_clip_and_a_known_sampler(model):
    with pytest.raises(ValueError, match="2 seeds for batches"):
        sample(model, setting(), seeds=[1, 2], schedule=SHORT)
    with pytest.raises(ValueError, match="no sampler"):
        sample(model, setting(), seeds=[1], schedule=Schedule(sampler="magic"))


class CastingLayers:
    """Layers that keep their weights in one dtype and compute in their input's, as ComfyUI's do."""

    @staticmethod
    def _casting(base):
        class Casting(base):
            def forward(self, x):
                own = {name: p.data for name, p in self.named_parameters(recurse=False)}
                for p in self.parameters(recurse=False):
                    p.data = p.data.to(x.dtype)
                out = super().forward(x)
                for name, p in self.named_parameters(recurse=False):
                    p.data = own[name]
                return out

        return Casting

    def __getattr__(self, name):
        base = getattr(torch.nn, name)
        return base if name == "Embedding" else self._casting(base)


@pytest.mark.parametrize("stored", [torch.float8_e4m3fn, torch.float32, torch.float16])
@pytest.mark.parametrize("told", [True, False])
def test_weights_may_be_stored_in_another_dtype_than_is_computed_in(stored, told):
    model = Harmony(small_config(), Runtime(layers=CastingLayers()))
    model.load_state_dict(small_model().state_dict())
    model.requires_grad_(False).to(stored)
    conditions = small_conditioning() if told else Conditioning()
    x, sigma = small_latents(seed=3), AV(0.7, 0.7)
    out = Denoiser(model, setting(told=conditions), dtype=torch.bfloat16)(x, sigma)
    exact = Denoiser(small_model(), setting(told=conditions))(x, sigma)
    for a, b in zip(exact, out, strict=True):
        assert (a - b).norm() / a.norm() < (0.25 if stored is torch.float8_e4m3fn else 2e-2)


def test_a_sound_map_points_at_the_patch_that_sounds():
    """Attention is made to look for one feature, which one patch of one frame has."""
    model = small_model(small_config(positions="index", style=False, style_tokens=0))
    link = model.interaction.layers[0].links(Modality.AUDIO)["main"]
    for m in (link.attn.q, link.attn.k):
        torch.nn.init.zeros_(m.weight)
        torch.nn.init.zeros_(m.bias)
    mark = torch.randn(48, generator=torch.Generator().manual_seed(4))
    torch.nn.init.ones_(link.attn.q.bias)
    link.attn.k.weight.copy_(torch.outer(torch.ones(48), mark))
    frames, where = 3, 8
    video = torch.zeros(1, frames * 6, 48)
    video[:, where] = mark
    nothing = torch.empty(0)
    source = Stream(video, Layout(frames, 2, 3), nothing, nothing, nothing, ())
    target = Stream(torch.randn(1, 12, 48), Layout(12), nothing, nothing, nothing, ())
    recorder = SoundMapRecorder()
    recorder.set_size(2, 3)
    exchange = Exchange(align(model.config, frames, 12, 24.0).audio, recorder)
    link.write(target, link.read(source, exchange), exchange)
    assert recorder.maps().flatten().argmax() == where


@pytest.mark.bitwise("mask")
def test_frames_that_hear_nothing_have_an_empty_map():
    model = small_model(small_config(window=0))
    spec = small_clip(frames=33, fps=240.0)
    canvas = Canvas.blank(spec).with_given(Modality.AUDIO, small_latents(spec=spec).audio)
    recorder = SoundMapRecorder()
    sample(model, Setting(canvas=canvas, recorder=recorder), seeds=[1], schedule=SHORT)
    heard = align(model.config, spec.latent_frames, spec.audio_latents, 240.0).video.heard
    assert not heard.all()
    assert torch.equal(recorder.maps()[0].amax((1, 2)) > 0, heard)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"guidance": text_guidance(AV(4.0, 3.0), skip_layers=(7,))}, r"layers to skip are 0 to 1, got \[7\]"),
        ({"anchors": small_latents().map(lambda x: x * float("nan"))}, "anchor has values that are not finite"),
        ({"told": Conditioning(reference=torch.zeros(1, 20, 0))}, "have no length"),
        ({"told": Conditioning(transcript=torch.zeros(1, 5))}, "symbols are .* int64"),
    ],
)
def test_more_that_does_not_fit(change, message, model):
    with pytest.raises(ValueError, match=message):
        sample(model, setting(**change), seeds=[1], schedule=SHORT)


def test_a_clip_and_its_conditions_are_of_one_batch_and_a_real_frame_rate(model):
    context = model.prepare(small_conditioning(2), 2)
    times = AV(torch.full((1, 1), 0.5), torch.full((1, 1), 0.5))
    with pytest.raises(ValueError, match="batch of 1, the conditions were prepared for 2"):
        model(small_latents(1), times, context)
    for fps in (0, -24, float("nan")):
        with pytest.raises(ValueError, match="fps is a positive number"):
            model(small_latents(2), times, context, fps=fps)


@pytest.mark.bitwise("draw")
def test_the_same_seed_draws_the_same_weights_in_every_dtype():
    exact, rough = (Harmony(small_config(), Runtime(dtype=d)) for d in (torch.float32, torch.bfloat16))
    exact.initialize(3)
    rough.initialize(3)
    for a, b in zip(exact.parameters(), rough.parameters(), strict=True):
        assert torch.equal(a.bfloat16(), b)

"""How fast the large models are on a GPU, what they take, and what of it was foretold; weights are random, time is not.

Rates count matrix products and attention as :mod:`...plan.operations` does, beside the rate the same GPU reaches on a large
product of bfloat16. A rehearsal takes the small preset; its figures say that the items run.
"""

from __future__ import annotations

import contextlib
import gc
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import lru_cache, partial

import torch

from ...canvas import Canvas
from ...codecs.video_vae import PRESETS as VIDEO_PRESETS
from ...codecs.video_vae import VideoVAE
from ...conditioning import Conditioning
from ...config import HarmonyConfig, preset
from ...denoiser import Denoiser, Setting
from ...flow import draw_noise
from ...geometry import ClipSpec
from ...guidance import Guidance, sync_guidance, text_guidance
from ...models.harmony import Harmony
from ...offload import Offload
from ...plan.fit import Job, Way
from ...plan.model import codecs_for
from ...plan.operations import operations_of
from ...plan.rate import measure_rate
from ...runtime import Runtime
from ...timing import synchronize
from ...types import AV, Modality
from ...weights.checkpoint import CodecConfigs
from .stages import Figures, Place

SYNC = sync_guidance(AV(3.0, 2.0))
ROUNDS = 3
OVI_STEPS, OVI_GUIDANCE = 50, text_guidance(AV(4.0, 3.0), skip_layers=(11,))
SIGMAS = AV(0.5, 0.5)


def items() -> dict[str, Callable[[Place], Figures]]:
    """What is measured, in order of worth; items of one model stand together, as making it takes a while."""
    return {
        "matrix rate": _matrix_rate,
        "5b, joint": partial(_step, "5b", Guidance(), None),
        "5b, SyncCFG": partial(_step, "5b", SYNC, None),
        "5b, video-driven, kept": partial(_step, "5b", Guidance(), Modality.VIDEO),
        "5b, video-driven, literal": partial(_step, "5b", Guidance(), Modality.VIDEO, use_cache=False),
        "5b, audio-driven, kept": partial(_step, "5b", Guidance(), Modality.AUDIO),
        "5b, attention kernels": partial(_kernels, "5b"),
        "5b, compiled": partial(_compiled, "5b"),
        "ovi-720, a step of its authors' guidance": partial(_step, "ovi-720", OVI_GUIDANCE, None),
        "video VAE, bfloat16": partial(_decode, torch.bfloat16),
        "video VAE, float32": partial(_decode, torch.float32),
        **{f"5b, offload in {size} GiB": partial(_offloaded, "5b", size) for size in (24, 16, 12, 8)},
    }


def clip_of(name: str, place: Place) -> tuple[HarmonyConfig, ClipSpec]:
    """A model's config and the clip it is measured on: 121 frames at 704 x 1280, of Ovi at 720 x 720."""
    if place.small:
        config = preset("tiny")
        return config, ClipSpec(frames=17, height=64, width=64, grid=config.grid)
    config = preset(name)
    height, width = (720, 720) if name.startswith("ovi") else (704, 1280)
    return config, ClipSpec(frames=121, height=height, width=width, grid=config.grid)


@lru_cache(maxsize=1)
def _model(name: str, place: Place) -> Harmony:
    """A model with random weights on the device, made there; the one before it is let go first."""
    config, _ = clip_of(name, place)
    return _random(config, place.device, _dtype(place))


def _random(config: HarmonyConfig, device: torch.device, dtype: torch.dtype) -> Harmony:
    torch.manual_seed(0)
    model = Harmony(config, Runtime(device=device, dtype=dtype))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    return model.requires_grad_(False).eval()


def _dtype(place: Place) -> torch.dtype:
    return torch.bfloat16 if place.device.type == "cuda" else torch.float32


def _setting(spec: ClipSpec, guidance: Guidance, driver: Modality | None, *, use_cache: bool = True) -> Setting:
    latents = draw_noise(AV(spec.video_shape(), spec.audio_shape()), [1])
    canvas = Canvas.blank(spec)
    if driver is not None:
        canvas = canvas.with_given(driver, latents[driver])
    return Setting(canvas=canvas, guidance=guidance, anchors=latents, use_cache=use_cache)


def _told(model: Harmony, setting: Setting) -> Setting:
    """With captions: a model of one prompt has no missing ones."""
    branch = model.config.video
    caption = torch.randn(1, branch.text_len, branch.text_dim)
    told = Conditioning(video_caption=caption, audio_caption=caption)
    return replace(setting, told=told, untold=told if model.config.one_prompt else None)


@contextlib.contextmanager
def _peak(place: Place) -> Iterator[Callable[[], float]]:
    """GiB a GPU has had in use at the highest since; 0 elsewhere."""
    cuda = place.device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats(place.device)
    yield lambda: torch.cuda.max_memory_allocated(place.device) / 2**30 if cuda else 0.0


def _seconds(work: Callable[[], object], place: Place) -> float:
    """Median of some rounds after a first one, which is not counted."""
    found = []
    for _ in range(1 + ROUNDS):
        synchronize(place.device)
        begun = time.perf_counter()
        work()
        synchronize(place.device)
        found.append(time.perf_counter() - begun)
    return statistics.median(found[1:])


def _job(name: str, place: Place, guidance: Guidance, driver: Modality | None) -> Job:
    config, spec = clip_of(name, place)
    video, audio = codecs_for(config, CodecConfigs())
    return Job(config=config, spec=spec, video_codec=video, audio_codec=audio, guidance=guidance, driver=driver)


def _step(name: str, guidance: Guidance, driver: Modality | None, place: Place, *, use_cache: bool = True) -> Figures:
    """An evaluation after the first: seconds, rate, memory beside what the plan says."""
    model, (_, spec) = _model(name, place), clip_of(name, place)
    guidance = _fitting(guidance, model.config)
    job = _job(name, place, guidance, driver)
    noise = draw_noise(AV(spec.video_shape(), spec.audio_shape()), [0]).map(lambda x: x.to(place.device))
    with _peak(place) as peak:
        denoiser = Denoiser(model, _told(model, _setting(spec, guidance, driver, use_cache=use_cache)))
        seconds = _seconds(lambda: denoiser(noise, SIGMAS), place)
        denoiser.close()
        highest = peak()
    figures = {"seconds a step": seconds, "branches a step": f"{denoiser.passes.video} + {denoiser.passes.audio}"}
    if use_cache or driver is None:
        work = sum(job_work(job), 0.0)
        figures |= {"TFLOP a step": work / 1e12, "TFLOP/s": work / seconds / 1e12}
    sampling = next(stage for stage in job.stages(Way(dtype="bfloat16")) if stage.name == "sample")
    codecs = sum(size.bytes(4) for size in job.codec_sizes)
    figures |= {"peak GiB": highest, "planned GiB": (sampling.device - codecs) / 2**30}
    if name.startswith("ovi"):
        figures["seconds for 50 steps"] = OVI_STEPS * seconds
    return figures


def _fitting(guidance: Guidance, config: HarmonyConfig) -> Guidance:
    """The guidance for a rehearsal's model, which has fewer layers to skip."""
    last = config.video.layers - 1
    fitting = [
        replace(one, anchor=replace(one.anchor, skip_layers=tuple(min(last, layer) for layer in one.anchor.skip_layers)))
        for one in guidance.guides
    ]
    return replace(guidance, guides=tuple(fitting))


def job_work(job: Job) -> list[float]:
    """Operations of the passes of an evaluation after the first."""
    return [operations_of(job.config, job.spec, [one], prefix=job.prefix).total for one in job.run.step]


def _matrix_rate(place: Place) -> Figures:
    rate = measure_rate(place.device, _dtype(place))
    figures = {"TFLOP/s of products": rate.products / 1e12, "TFLOP/s of attention": rate.attention / 1e12}
    return figures if rate.copies is None else {**figures, "GB/s from pinned memory": rate.copies / 1e9}


def _kernels(name: str, place: Place) -> Figures:
    """The attention kernels of a SyncCFG step, by the names the profiler gives them, and their share of the time."""
    model, (_, spec) = _model(name, place), clip_of(name, place)
    noise = draw_noise(AV(spec.video_shape(), spec.audio_shape()), [0]).map(lambda x: x.to(place.device))
    denoiser = Denoiser(model, _told(model, _setting(spec, SYNC, None)))
    denoiser(noise, SIGMAS)
    cuda = place.device.type == "cuda"
    kinds = [torch.profiler.ProfilerActivity.CPU] + ([torch.profiler.ProfilerActivity.CUDA] if cuda else [])
    with torch.profiler.profile(activities=kinds) as profile:
        denoiser(noise, SIGMAS)
        synchronize(place.device)
    denoiser.close()
    rows = profile.key_averages()
    cost = {row.key: float(row.self_device_time_total if cuda else row.self_cpu_time_total) for row in rows}
    whole = sum(cost.values()) or 1.0
    wanted = ("flash", "fmha", "attention", "efficient", "cudnn")
    found = sorted((key for key in cost if any(word in key.lower() for word in wanted)), key=lambda key: -cost[key])
    calls = {row.key: int(row.count) for row in rows}
    figures: dict[str, object] = {key[:90]: f"{cost[key] / whole:.1%} of the time, {calls[key]} calls" for key in found[:8]}
    most = sorted(cost, key=lambda key: -cost[key])[:8]
    return {**figures, "most of the time": "; ".join(f"{key[:60]} {cost[key] / whole:.1%}" for key in most)}


def _compiled(name: str, place: Place) -> Figures:
    """The blocks of both branches compiled one by one (they are alike, so that one compilation serves all)."""
    model, (_, spec) = _model(name, place), clip_of(name, place)
    noise = draw_noise(AV(spec.video_shape(), spec.audio_shape()), [0]).map(lambda x: x.to(place.device))
    denoiser = Denoiser(model, _told(model, _setting(spec, Guidance(), None)))
    eager = _seconds(lambda: denoiser(noise, SIGMAS), place)
    methods = ("attend_self", "attend_text", "feed_forward")
    blocks = [*model.video.blocks, *model.audio.blocks]
    begun = time.perf_counter()
    try:
        for block in blocks:
            for method in methods:
                setattr(block, method, torch.compile(getattr(block, method), dynamic=False))
        denoiser(noise, SIGMAS)
        synchronize(place.device)
        first = time.perf_counter() - begun
        compiled = _seconds(lambda: denoiser(noise, SIGMAS), place)
    finally:
        for block in blocks:
            for method in methods:
                block.__dict__.pop(method, None)
        denoiser.close()
    return {"seconds eager": eager, "seconds compiled": compiled, "eager over compiled": eager / compiled, "first pass": first}


def _decode(dtype: torch.dtype, place: Place) -> Figures:
    _model.cache_clear()
    gc.collect()
    spec = clip_of("5b", place)[1]
    config = VIDEO_PRESETS["tiny" if place.small else "wan2.2"]
    torch.manual_seed(0)
    codec = VideoVAE(config, Runtime(device=place.device, dtype=dtype))
    for parameter in codec.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    codec.requires_grad_(False).eval()
    latents = torch.randn(spec.video_shape(), device=place.device, dtype=dtype)
    with _peak(place) as peak:
        begun = time.perf_counter()
        codec.decode(latents)
        synchronize(place.device)
        first = time.perf_counter() - begun
        begun = time.perf_counter()
        codec.decode(latents)
        synchronize(place.device)
        return {"seconds": time.perf_counter() - begun, "first": first, "peak GiB": peak()}


def _offloaded(name: str, size: int, place: Place) -> Figures:
    """A SyncCFG step with layers that come one by one, in an allocator of so many GiB; the best way the plan finds."""
    job = _job(name, place, SYNC, None)
    way = job.way_within(size << 30, offload=True, tiled=True)
    if way is None and not place.small:
        return {"planned": "no way fits"}
    _model.cache_clear()
    gc.collect()
    config, spec = clip_of(name, place)
    cuda = place.device.type == "cuda"
    model = _random(config, torch.device("cpu"), _dtype(place)) if not cuda else _on_host(config, place)
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction(min(1.0, (size << 30) / torch.cuda.mem_get_info(place.device)[1]))
    offload = Offload(model, place.device)
    noise = draw_noise(AV(spec.video_shape(), spec.audio_shape()), [0]).map(lambda x: x.to(place.device))
    try:
        with offload.using(model), _peak(place) as peak:
            denoiser = Denoiser(model, _told(model, _setting(spec, SYNC, None)), device=place.device, dtype=_dtype(place))
            seconds = _seconds(lambda: denoiser(noise, SIGMAS), place)
            denoiser.close()
            highest = peak()
    finally:
        offload.close()
        if cuda:
            torch.cuda.set_per_process_memory_fraction(1.0)
    return {"seconds a step": seconds, "peak GiB": highest, "kept drivers": "" if way is None else way.cache}


def _on_host(config: HarmonyConfig, place: Place) -> Harmony:
    """Random weights in host memory; drawn on the GPU layer by layer, which is quicker than on the host."""
    model = Harmony(config, Runtime(device="cpu", dtype=_dtype(place)))
    torch.manual_seed(0)
    for parameter in model.parameters():
        drawn = torch.empty_like(parameter, device=place.device).normal_(std=0.02)
        parameter.data.copy_(drawn)
    return model.requires_grad_(False).eval()

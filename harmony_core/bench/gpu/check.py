"""Whether a device computes what the CPU does: everything that runs while a clip is made or a model is trained, in small.

Each item is computed on the CPU in float32, then on the device in float32 and in bfloat16, and the relative distances
``|a - b| / |b|`` are held against bounds. On the device convolutions keep float32 (no TF32), as the rounding of TF32 is what a
wrong kernel might hide behind.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ...canvas import Canvas
from ...codecs.audio import AudioCodec
from ...codecs.video_tiling import Tiling
from ...codecs.video_vae import VideoVAE
from ...conditioning import Conditioning
from ...config import HarmonyConfig, preset
from ...denoiser import Denoiser, Setting
from ...drivers import MemoryBudget
from ...flow import draw_noise
from ...geometry import ClipSpec
from ...guidance import Evaluation, Guidance, Guide, sync_guidance, text_guidance
from ...models.harmony import Harmony
from ...offload import Offload
from ...pipeline import Pipeline, Request, generate
from ...runtime import Runtime
from ...sample import Schedule, sample
from ...sampling import SAMPLERS
from ...types import AV, Audio, Modality
from ...weights.builtin import resolve
from .stages import Figures, Place

CPU = torch.device("cpu")
SPEC = ClipSpec(frames=17, height=64, width=64, grid=preset("tiny").grid)
BOUNDS = {torch.float32: 2e-4, torch.bfloat16: 0.05}
"""Relative, for one evaluation of a model or a codec of a few layers: some hundred roundings of float32, of which a sum over
other lengths in another order makes more; some of bfloat16's 2^-8. A wrong mask, position or scale moves velocities by more
than a tenth (tests/models)."""
STEPS = 4
OVER_STEPS = 4.0
"""What a bound is multiplied by where a sampler goes several steps."""

Outcome = Mapping[str, Tensor]
Compute = Callable[[torch.device, torch.dtype], Outcome]


def items() -> dict[str, Callable[[Place], Figures]]:
    """All checks, the ones a clip needs first."""
    computes: dict[str, tuple[Compute, float]] = {"harmony-tiny makes a clip": (_clip, OVER_STEPS)}
    for name, guidance in GUIDANCES.items():
        for driver in (None, *Modality):
            task = "joint" if driver is None else f"{driver.value}-driven"
            computes[f"{task}, {name}"] = (partial(_velocity, guidance, driver), 1.0)
    computes |= {
        "SyncCFG, drivers not kept": (partial(_velocity, GUIDANCES["SyncCFG"], None, use_cache=False), 1.0),
        "SyncCFG, drivers in host memory": (
            partial(_velocity, GUIDANCES["SyncCFG"], None, budget=MemoryBudget(0, 1 << 30)),
            1.0,
        ),
        "SyncCFG, drivers fit nowhere": (partial(_velocity, GUIDANCES["SyncCFG"], None, budget=MemoryBudget(0, 0)), 1.0),
        "first frame given": (partial(_velocity, GUIDANCES["SyncCFG"], None, first=True), 1.0),
        "offload, layer by layer": (partial(_velocity, GUIDANCES["SyncCFG"], None, offload=True), 1.0),
    }
    for kind in ("global", "cmc_pe", "fused"):
        computes[f"interaction {kind}"] = (partial(_velocity, GUIDANCES["none"], None, kind=kind), 1.0)
    computes |= {f"sampler {name}": (partial(_sampled, name), OVER_STEPS) for name in SAMPLERS}
    computes |= {
        "video VAE": (_video_codec, 1.0),
        "video VAE in tiles": (partial(_video_codec, tiling=Tiling(size=192, overlap=96)), 1.0),
        "audio VAE and vocoder": (_audio_codec, 1.0),
        "training: losses and gradients": (_gradients, 1.0),
        "training: gradients with checkpointing": (partial(_gradients, checkpointing=True), 1.0),
    }
    return {name: partial(_compared, compute, times) for name, (compute, times) in computes.items()} | {
        "layers of a device model are on it": _no_layer_left_behind,
    }


GUIDANCES: Mapping[str, Guidance] = {
    "none": Guidance(),
    "SyncCFG": sync_guidance(AV(3.0, 2.0)),
    "SyncCFG, anchors without text": sync_guidance(AV(3.0, 2.0), text="null"),
    "SyncCFG and text": sync_guidance(AV(3.0, 2.0), text="additive", text_scale=AV(4.0, 3.0)),
    "text, a layer skipped, rescaled": replace(text_guidance(AV(4.0, 3.0), skip_layers=(1,)), rescale=AV(0.7, 0.7)),
    "modality": Guidance(guides=(Guide(anchor=Evaluation(company="cut"), scale=AV(2.0, 2.0)),)),
}


def distance(a: Tensor, b: Tensor) -> float:
    """Relative distance of a result from the right one; infinite where it is not finite."""
    a, b = a.detach().double().cpu(), b.detach().double().cpu()
    if not a.isfinite().all():
        return float("inf")
    return float((a - b).norm() / b.norm().clamp(min=1e-12))


def _compared(compute: Compute, times: float, place: Place) -> Figures:
    right = compute(CPU, torch.float32)
    figures: dict[str, Any] = {}
    for dtype, bound in BOUNDS.items():
        with _exact_convolutions():
            made = compute(place.device, dtype)
        worst = max(right, key=lambda name: distance(made[name], right[name]))
        error = distance(made[worst], right[worst])
        figures[str(dtype).removeprefix("torch.")] = error
        if not error <= times * bound:
            return {**figures, "error": f"{worst} is {error:.2g} from the CPU's float32, the bound is {times * bound:.2g}"}
    return figures


@contextlib.contextmanager
def _exact_convolutions() -> Iterator[None]:
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def _model(kind: str = "frame_wise") -> Harmony:
    """A small model with random weights, the same every time, in float32 on the CPU."""
    config = _config(kind)
    model = Harmony(config)
    model.initialize(0)
    source = torch.Generator().manual_seed(1)
    for parameter in model.parameters():  # the interaction and the heads start silent
        if parameter.ndim > 1 and not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1, generator=source)
    return model.requires_grad_(False).eval()


def _config(kind: str) -> HarmonyConfig:
    base = preset("tiny")
    small = {"dim": 96, "heads": 2, "layers": 3, "ffn": 192}
    return base.replace(
        video={**small, "rope_axes": (16, 16, 16)},
        audio={**small, "rope_axes": (48,)},
        interaction={"kind": kind, "style": kind == "frame_wise", "style_tokens": 4 if kind == "frame_wise" else 0},
    )


def _setting(model: Harmony, guidance: Guidance, driver: Modality | None, *, first: bool = False, **how: Any) -> Setting:
    source = torch.Generator().manual_seed(2)
    latents = draw_noise(AV(SPEC.video_shape(), SPEC.audio_shape()), [5])
    canvas = Canvas.blank(SPEC)
    if driver is not None:
        canvas = canvas.with_given(driver, latents[driver])
    elif first:
        canvas = canvas.with_first_frame(latents.video[:, :, :1])
    width, speech = model.config.video.text_dim, model.config.speech
    assert speech is not None
    told = Conditioning(
        video_caption=torch.randn(1, 8, width, generator=source),
        audio_caption=torch.randn(1, 8, width, generator=source),
        transcript=torch.randint(1, len(speech.symbols), (1, speech.length), generator=source),
        reference=torch.randn(1, 20, 9, generator=source) if model.config.interaction.style else None,
    )
    anchors = draw_noise(AV(SPEC.video_shape(), SPEC.audio_shape()), [6])
    return Setting(canvas=canvas, told=told, guidance=guidance, anchors=anchors, **how)


def _velocity(
    guidance: Guidance,
    driver: Modality | None,
    device: torch.device,
    dtype: torch.dtype,
    *,
    kind: str = "frame_wise",
    offload: bool = False,
    **how: Any,
) -> Outcome:
    """The guided velocity at one sigma, twice: what is kept of drivers is used the second time."""
    model = _model(kind).to(dtype)
    helper = Offload(model, device) if offload else None
    if helper is None:
        model.to(device)
    noise = draw_noise(AV(SPEC.video_shape(), SPEC.audio_shape()), [0])
    with contextlib.nullcontext() if helper is None else helper.using(model):
        denoiser = Denoiser(model, _setting(model, guidance, driver, **how), device=device, dtype=dtype)
        found = [denoiser(noise.map(lambda x: x.to(device)), AV(sigma, sigma)) for sigma in (0.8, 0.5)]
        denoiser.close()
    wanted = [m for m in Modality if m is not driver]
    return {f"{m.value} at step {n}": one[m] for n, one in enumerate(found) for m in wanted}


def _sampled(name: str, device: torch.device, dtype: torch.dtype) -> Outcome:
    model = _model().to(device, dtype)
    setting = _setting(model, GUIDANCES["SyncCFG"], None)
    latents = sample(model, setting, seeds=[0], schedule=Schedule(steps=STEPS, sampler=name)).latents
    return {m.value: latents[m] for m in Modality}


def _clip(device: torch.device, dtype: torch.dtype) -> Outcome:
    """The whole path with the built-in checkpoint."""
    pipeline = Pipeline.load(resolve("harmony-tiny"), runtime=Runtime(device=device, dtype=dtype))
    spec = ClipSpec(frames=49, height=64, width=64, grid=pipeline.model.config.grid)
    told = Request(spec=spec, video_caption="a blue ball bouncing in a room", audio_caption="low knocks of wood")
    clip = generate(pipeline, told, seeds=[0], schedule=Schedule(steps=STEPS), guidance=GUIDANCES["SyncCFG"])
    # Not the waveform: its phases may differ where the latents hardly do.
    return {m.value: clip.latents[m] for m in Modality} | {"frames": clip.video.frames}


def _tiny() -> tuple[VideoVAE, AudioCodec]:
    pipeline = Pipeline.load(resolve("harmony-tiny"))
    return pipeline.video_vae, pipeline.audio_codec


def _video_codec(device: torch.device, dtype: torch.dtype, *, tiling: Tiling | None = None) -> Outcome:
    codec = _tiny()[0].to(device, dtype)
    source = torch.Generator().manual_seed(3)
    height, width = (64, 96) if tiling is None else (64, 2 * tiling.size)
    frames = torch.rand(1, 3, 17, height, width, generator=source).mul(2).sub(1)
    latents = codec.encode(frames.to(device, dtype), tiling=tiling)
    return {"latents": latents, "frames": codec.decode(latents, tiling=tiling)}


def _audio_codec(device: torch.device, dtype: torch.dtype) -> Outcome:
    codec = _tiny()[1].to(device, dtype)
    # Noise: of a pure tone the logarithm of the empty bands would be that of bfloat16's own rounding.
    wave = 0.1 * torch.randn(1, 1, 16_384, generator=torch.Generator().manual_seed(4))
    latents = codec.encode(Audio(wave.to(device, dtype), 16_000))
    return {"latents": latents, "mel": codec.audio_vae.decode(latents)}


def _gradients(device: torch.device, dtype: torch.dtype, *, checkpointing: bool = False) -> Outcome:
    """Velocities' squared error and what it says of every weight; bfloat16 is autocast, as in training."""
    model = _model().to(device).requires_grad_(True)
    model.gradient_checkpointing = checkpointing
    setting = _setting(model, Guidance(), None)
    noise = draw_noise(AV(SPEC.video_shape(), SPEC.audio_shape()), [0]).map(lambda x: x.to(device))
    with torch.autocast(device.type, torch.bfloat16, enabled=dtype is torch.bfloat16):
        context = model.prepare(setting.told, 1, device=device)
        times = AV.both(torch.full((1, 1), 0.6, device=device))
        velocity = model(noise, times, context)
        loss = velocity.video.float().square().mean() + velocity.audio.float().square().mean()
    loss.backward()
    grads = [p.grad.float().flatten() for p in model.parameters() if p.grad is not None]
    return {"loss": loss.detach()[None], "gradients": torch.cat(grads)}


def _no_layer_left_behind(place: Place) -> Figures:
    model = _model().to(place.device)
    kinds = {x.device.type for x in (*model.parameters(), *model.buffers())}
    return {"weights on": " ".join(sorted(kinds))} | ({} if kinds == {place.device.type} else {"error": "weights elsewhere"})

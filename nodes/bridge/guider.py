"""Harmony's guidance as a GUIDER, and a run with it.

The model is asked through ComfyUI's own evaluation of conditions, so hooks, LoRAs and areas work; the algebra is
``harmony_core.guidance``, the same as standalone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import comfy.model_management
import comfy.samplers
import comfy.utils
import latent_preview
import torch
from comfy.model_patcher import create_model_options_clone
from comfy.nested_tensor import NestedTensor
from torch import Tensor

from ...harmony_core.flow import draw_noise, shifted_schedule
from ...harmony_core.geometry import ClipSpec
from ...harmony_core.guidance import Evaluation, Guidance, SyncText, guide, sync_guidance, text_guidance
from ...harmony_core.types import AV, Modality
from .codec import check_vae
from .latent import FPS, STILL, Latent, clip_of
from .model import FPS_OPTION, QUESTION_OPTION, HarmonyModel, harmony_model
from .run import Question
from .told import without_text

Conditions = list[list[Any]]
MakeAnchors = Callable[[ClipSpec], AV[Tensor]]


class HarmonyGuider(comfy.samplers.CFGGuider):
    """Guides both streams by text and by each other."""

    def __init__(self, patcher: Any, guidance: Guidance, make_anchors: MakeAnchors) -> None:
        """Set up.

        Args:
            patcher: a MODEL of Harmony.
            guidance: the guides.
            make_anchors: makes SyncCFG's still and silence, raw latents, for a clip.
        """
        super().__init__(patcher)
        harmony_model(patcher)
        self.guidance = guidance
        self.anchors: AV[Tensor] | None = None
        self._make_anchors = make_anchors

    def sample(self, noise: Any, latent_image: Any, *args: Any, **kwargs: Any) -> Any:
        """Sample; the anchors are made first, while the model needs no memory."""
        model = harmony_model(self.model_patcher)
        mute = any(one.anchor.company == "mute" and any(s != 1 for s in one.scale) for one in self.guidance.guides)
        if mute and isinstance(latent_image, NestedTensor):
            fps = self.model_options.get("transformer_options", {}).get(FPS_OPTION) or model.config.fps
            video, audio = latent_image.unbind()
            raw = self._make_anchors(ClipSpec.of_latents(video, audio, fps=fps, grid=model.config.grid))
            self.anchors = AV(model.normalise(raw.video), raw.audio)
        try:
            return super().sample(noise, latent_image, *args, **kwargs)
        finally:
            self.anchors = None

    def predict_noise(
        self, x: Tensor, timestep: Tensor, model_options: dict[str, Any] | None = None, seed: int | None = None
    ) -> Tensor:
        """The guided estimate of the data at ``x``, both streams flat."""
        del seed
        options = model_options or {}
        model: HarmonyModel = self.inner_model
        run, shapes = model.run, model.latent_shapes
        assert run is not None
        sigma = float(timestep.flatten()[0])

        def streams(flat: Tensor) -> AV[Tensor]:
            return AV(*comfy.utils.unpack_latents(flat, shapes))

        def evaluate(what: Evaluation, wanted: AV[bool]) -> AV[Tensor | None]:
            asked = _asking(options, Question(evaluation=what, wanted=wanted, anchors=self.anchors))
            conditions = self.conds["positive" if what.text else "negative"]
            data = comfy.samplers.calc_cond_batch(model, [conditions], x, timestep, asked)[0]
            return streams((x - data) / sigma).map(lambda v, want: v if want else None, wanted)

        both = streams(x)
        answer = guide(evaluate, self.guidance, AV.both(sigma), run.generated, run.free_latents(both))
        velocity = both.map(lambda latent, v: torch.zeros_like(latent) if v is None else v, answer)
        data = x - sigma * comfy.utils.pack_latents(list(velocity))[0]
        # At scale 1 this changes nothing but runs what other nodes attached to the end of a step.
        conditions = {"cond": self.conds["positive"], "uncond": self.conds["negative"]}
        return comfy.samplers.cfg_function(model, data, data, 1.0, x, timestep, model_options=options, **conditions)


def guided(
    patcher: Any,
    positive: Conditions,
    negative: Conditions | None,
    *,
    sync: tuple[float, float],
    text_mode: str,
    text: tuple[float, float],
    vaes: tuple[Any, Any],
    still: Tensor | None,
    fps: float | None = None,
) -> HarmonyGuider:
    """A guider.

    Args:
        patcher: a MODEL of Harmony.
        positive: what is told.
        negative: what text guidance goes away from; None for nothing, with the same reference.
        sync: scales of SyncCFG for picture and sound; 1 is off.
        text_mode: what SyncCFG's anchors are told.
        text: scales of text guidance; 1 is off.
        vaes: of video and sound, to make the anchors; needed where a sync scale is not 1.
        still: the picture to hold, (1, H, W, 3) in [0, 1]; an even grey where None.
        fps: of the clip; the model's where None.

    Raises:
        ValueError: SyncCFG without VAEs, or scales that do not fit the text mode.
    """
    guidance = Guidance()
    if any(s != 1 for s in sync):
        if any(vae is None for vae in vaes):
            raise ValueError("video_vae, audio_vae: SyncCFG needs both; connect them, or set sync_video and sync_audio to 1")
        for modality, vae in zip(Modality, vaes, strict=True):
            check_vae(vae, modality)
        if any(s != 1 for s in text) and text_mode != "additive":
            raise ValueError("sync_text: text_video and text_audio beside SyncCFG need additive; choose it, or set them to 1")
        guidance = sync_guidance(AV(*sync), text=cast("SyncText", text_mode), text_scale=AV(*text))
    elif any(s != 1 for s in text):
        guidance = text_guidance(AV(*text))

    def anchors(spec: ClipSpec) -> AV[Tensor]:
        return make_anchors(AV(*vaes), spec, still)

    patcher = patcher.clone()
    if fps is not None:
        patcher.model_options.setdefault("transformer_options", {})[FPS_OPTION] = fps
    guider = HarmonyGuider(patcher, guidance, anchors)
    guider.set_conds(positive, without_text(positive) if negative is None else negative)
    return guider


def make_anchors(vaes: AV[Any], spec: ClipSpec, still: Tensor | None) -> AV[Tensor]:
    """SyncCFG's drivers as raw latents: a picture held for the whole clip, and silence."""
    picture = torch.full((1, spec.height, spec.width, 3), 0.5) if still is None else still[:1, ..., :3]
    if tuple(picture.shape[1:3]) != (spec.height, spec.width):
        raise ValueError(
            f"still: it is {picture.shape[2]} x {picture.shape[1]}, the clip {spec.width} x {spec.height}; resize it"
        )
    held = vaes.video.encode(picture.expand(spec.frames, -1, -1, -1))
    return AV(held, vaes.audio.encode(torch.zeros(1, spec.samples, 1)))


def sample(guider: HarmonyGuider, latent: Latent, *, seed: int, steps: int, sampler_name: str) -> Latent:
    """Sample a latent.

    Args:
        guider: made by :func:`guided`.
        latent: what is given and what is generated.
        seed: of the first clip; following ones have following seeds.
        steps: of the schedule; its shift is the model's.
        sampler_name: one of ComfyUI's samplers.
    """
    clip_of(latent)
    patcher, samples = guider.model_patcher, latent["samples"]
    batch = samples.unbind()[0].shape[0]
    shift = getattr(patcher.get_model_object("model_sampling"), "shift", 1.0)
    sigmas = torch.tensor(shifted_schedule(steps, shift=shift))
    noise = draw_noise(AV(*(tuple(x.shape) for x in samples.unbind())), range(seed, seed + batch))
    done = guider.sample(
        NestedTensor(list(noise)),
        samples,
        comfy.samplers.sampler_object(sampler_name),
        sigmas,
        denoise_mask=latent.get("noise_mask"),
        callback=latent_preview.prepare_callback(patcher, steps),
        disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
        seed=seed,
    )
    return {**latent, "samples": done.to(comfy.model_management.intermediate_device())}


def still_of(latent: Latent) -> Tensor | None:
    """The picture a latent's SyncCFG holds, if it knows one."""
    return latent.get(STILL)


def fps_of(latent: Latent) -> float | None:
    """The rate of a latent's pictures, if it knows it."""
    return latent.get(FPS)


def _asking(options: dict[str, Any], question: Question) -> dict[str, Any]:
    asked = create_model_options_clone(options)
    asked.setdefault("transformer_options", {})[QUESTION_OPTION] = question
    return asked

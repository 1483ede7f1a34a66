"""A whole run in one node: Harmony's guides as a GUIDER, its schedule, and sampling with them."""

from __future__ import annotations

from typing import Any

import comfy.model_base
import comfy.model_management
import comfy.samplers
import comfy.utils
import latent_preview
import torch
from comfy.nested_tensor import NestedTensor
from torch import Tensor

from ...harmony_core.flow import draw_noise, shifted_schedule
from ...harmony_core.types import AV
from .latent import FPS, STILL, Latent, clip_of
from .model import harmony_model
from .rate import with_rate
from .sync import NEEDS_NEGATIVE, Guides, is_patched, patched
from .told import without_text
from .walk import HarmonyWalk

Conditions = list[list[Any]]


def guided(
    patcher: Any,
    positive: Conditions,
    negative: Conditions | None,
    guides: Guides,
    *,
    vaes: tuple[Any, Any],
    still: Tensor | None,
    fps: float | None = None,
    shift: float = 0.0,
) -> comfy.samplers.CFGGuider:
    """A guider.

    Args:
        patcher: a MODEL of Harmony.
        positive: what is told.
        negative: what text guidance goes away from; None for nothing, with the same reference.
        guides: the guides.
        vaes: of video and sound, to make the anchors; needed where a sync scale is not 1.
        still: the picture to hold, (1, H, W, 3) in [0, 1]; an even grey where None.
        fps: of the clip; what the conditions tell, else the model's, where None.
        shift: of the schedule; the MODEL's own where 0.

    Raises:
        ValueError: SyncCFG without VAEs, or in the MODEL already; or guidance away from the text for a model that has no
            "nothing" to tell instead.
    """
    config = harmony_model(patcher).config
    if negative is None and config.one_prompt and guides.untells:
        raise ValueError(NEEDS_NEGATIVE)
    if is_patched(patcher) and guides.guidance().guides:
        raise ValueError(
            "model: it is guided already; connect the MODEL before Harmony SyncCFG, or set all scales of this node to 1"
        )
    if guides.guidance().guides:
        patcher = patched(patcher, guides, vaes, still)
    patcher = with_rate(patcher, fps)
    if shift:
        patcher.add_object_patch("model_sampling", shifted(patcher, shift))
    guider = comfy.samplers.CFGGuider(patcher)
    guider.set_conds(positive, without_text(positive) if negative is None else negative)
    return guider


def shifted(patcher: Any, shift: float) -> Any:
    """The model's sampling with another shift of the schedule."""
    sampling = comfy.model_base.model_sampling(patcher.model.model_config, comfy.model_base.ModelType.FLOW)
    sampling.set_parameters(shift=shift, multiplier=1.0)
    return sampling


def sample(
    guider: comfy.samplers.CFGGuider,
    latent: Latent,
    *,
    seed: int,
    steps: int,
    sampler_name: str,
    denoise: float = 1.0,
    gamma: float = 1.0,
) -> Latent:
    """Sample a latent.

    Args:
        guider: made by :func:`guided`.
        latent: what is given and what is generated.
        seed: of the first clip; following ones have following seeds.
        steps: to take; the schedule's shift is the model's.
        sampler_name: one of ComfyUI's samplers.
        denoise: how much of the latent is made anew: the steps are the last ones of a schedule of ``steps / denoise``. At 0 it
            comes back as it is.
        gamma: timestep adjustment; other than 1 it takes one of the core's samplers.

    Raises:
        ValueError: a latent of another node, or timestep adjustment with a sampler that cannot walk so.
    """
    clip_of(latent)
    walk = comfy.samplers.sampler_object(sampler_name) if gamma == 1 else HarmonyWalk(sampler_name, gamma=gamma)
    if denoise <= 0:
        return latent
    patcher, samples = guider.model_patcher, latent["samples"]
    batch = samples.unbind()[0].shape[0]
    shift = getattr(patcher.get_model_object("model_sampling"), "shift", 1.0)
    sigmas = torch.tensor(_schedule(sampler_name if gamma == 1 else "", steps, shift, denoise))
    noise = draw_noise(AV(*(tuple(x.shape) for x in samples.unbind())), range(seed, seed + batch))
    done = guider.sample(
        NestedTensor(list(noise)),
        samples,
        walk,
        sigmas,
        denoise_mask=latent.get("noise_mask"),
        callback=latent_preview.prepare_callback(patcher, steps),
        disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
        seed=seed,
    )
    return {**latent, "samples": done.to(comfy.model_management.intermediate_device())}


def _schedule(sampler_name: str, steps: int, shift: float, denoise: float) -> list[float]:
    """The sigmas of the steps taken; some of ComfyUI's samplers go without the last but one of a step more, as in KSampler."""
    discards = sampler_name in comfy.samplers.KSampler.DISCARD_PENULTIMATE_SIGMA_SAMPLERS
    sigmas = shifted_schedule(int(steps / denoise) + discards, shift=shift)
    return ([*sigmas[:-2], sigmas[-1]] if discards else sigmas)[-(steps + 1) :]


def about(latent: Latent | None, still: Tensor | None = None) -> tuple[Tensor | None, float | None]:
    """What a latent knows of its clip, where there is one.

    Returns:
        The picture SyncCFG holds, ``still`` where given, and the rate of the pictures; None for what nobody knows.
    """
    known = latent or {}
    return known.get(STILL) if still is None else still, known.get(FPS)

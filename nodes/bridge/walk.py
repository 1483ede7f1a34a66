"""The core's samplers as ComfyUI's SAMPLER: they walk each stream on times of its own."""

from __future__ import annotations

from typing import Any

import comfy.samplers
import comfy.utils
import torch
from comfy.model_patcher import create_model_options_clone
from torch import Tensor
from tqdm.auto import tqdm  # type: ignore[import-untyped]

from ...harmony_core.flow import adjust_times
from ...harmony_core.sampling import SAMPLERS, Step, sampler
from ...harmony_core.types import AV
from .model import HarmonyModel

NAMES_IN_COMFY = {"uni_pc": "unipc"}
"""ComfyUI's names of samplers that the core calls otherwise."""


class HarmonyWalk(comfy.samplers.Sampler):
    """A sampler with timestep adjustment."""

    def __init__(self, name: str, *, gamma: float = 1.0) -> None:
        """Choose it.

        Args:
            name: one of the core's samplers, by its name or ComfyUI's.
            gamma: timestep adjustment; see :func:`harmony_core.flow.adjust_times`.

        Raises:
            ValueError: the core has no such sampler, or gamma is not positive.
        """
        name = NAMES_IN_COMFY.get(name, name)
        if name not in SAMPLERS:
            theirs = [next((c for c, ours in NAMES_IN_COMFY.items() if ours == one), one) for one in SAMPLERS]
            raise ValueError(
                f"sampler_name: timestep adjustment has no {name}; choose one of {', '.join(theirs)}, or set gamma to 1"
            )
        adjust_times([1.0], gamma=gamma)
        self._walk, self._gamma = sampler(name), gamma

    def sample(
        self,
        model_wrap: Any,
        sigmas: Tensor,
        extra_args: dict[str, Any],
        callback: Any,
        noise: Tensor,
        latent_image: Tensor | None = None,
        denoise_mask: Tensor | None = None,
        disable_pbar: bool = False,
    ) -> Tensor:
        """Walk both streams, flat as ComfyUI has them, along the schedule ``sigmas``."""
        model: HarmonyModel = model_wrap.inner_model
        assert model.run is not None
        shapes, sampling = model.latent_shapes, model.model_sampling
        model.run.gamma = self._gamma
        schedule = sigmas.tolist()
        times = adjust_times(schedule, gamma=self._gamma)
        at = dict(zip(times.video, schedule, strict=True))
        masked = comfy.samplers.KSamplerX0Inpaint(model_wrap, sigmas)
        masked.latent_image, masked.noise = latent_image, noise
        given = torch.zeros_like(noise) if latent_image is None else latent_image

        def streams(flat: Tensor) -> AV[Tensor]:
            return AV(*comfy.utils.unpack_latents(flat, shapes))

        def flat(pair: AV[Tensor]) -> Tensor:
            return comfy.utils.pack_latents(list(pair))[0]

        def velocity(x: AV[Tensor], sigma: AV[float]) -> AV[Tensor]:
            options = create_model_options_clone(extra_args.get("model_options", {}))
            now = sigmas.new_full((noise.shape[0],), at[sigma.video])
            data = masked(flat(x), now, denoise_mask, model_options=options, seed=extra_args.get("seed"))
            return x.map(lambda latent, x0, s: (latent - x0) / s, streams(data), sigma)

        with tqdm(total=len(schedule) - 1, disable=disable_pbar) as bar:

            def on_step(step: Step) -> None:
                bar.update()
                if callback is not None:
                    callback(step.index, flat(step.x0), flat(step.x), step.steps)

            first, last = times.map(lambda s: sigmas.new_tensor(s[0])), times.map(lambda s: sigmas.new_tensor(s[-1]))
            start = first.map(sampling.noise_scaling, streams(noise), streams(given))
            end = self._walk(velocity, start, times, on_step)
            return flat(last.map(sampling.inverse_noise_scaling, end))

"""Harmony as a genuine MODEL: its modules in a BaseModel, sampled by whatever samples others.

The latent is the core's nested pair of video and sound; the model is given both and returns both velocities. Every mask of
the latent becomes the times of its tokens, so a stream whose mask is 0 drives the other. Raw video latents, as a VAE gives
them, are normalised here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import comfy.conds
import comfy.latent_formats
import comfy.model_base
import comfy.patcher_extension
import comfy.supported_models_base
import comfy.utils
import torch
from comfy.nested_tensor import NestedTensor
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...harmony_core.codecs.video_vae import WAN_MEAN, WAN_STD, VideoVAEConfig
from ...harmony_core.config import HarmonyConfig
from ...harmony_core.geometry import ClipSpec
from ...harmony_core.models.harmony import Harmony
from ...harmony_core.types import AV
from ...harmony_core.weights.checkpoint import CodecConfigs
from .run import Question, Run
from .runtime import HostAttention, host_runtime
from .saved import described
from .told import told

FPS_OPTION = "harmony_fps"
QUESTION_OPTION = "harmony_question"
WRAPPER = "harmony"
WAN_FACTOR = 2222
"""ComfyUI estimates Wan's memory by its width over this, for every latent position."""


class HarmonyDiffusion(Harmony):
    """The joint model with the interface of ComfyUI's diffusion models; its keys are the checkpoint's."""

    def __init__(
        self,
        *,
        harmony: HarmonyConfig,
        operations: Any,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        attention = HostAttention()
        super().__init__(harmony, host_runtime(operations, attention, device=device, dtype=dtype))
        self.host_attention = attention
        self.dtype = dtype

    def forward(  # type: ignore[override]
        self,
        x: Sequence[Tensor],
        timesteps: AV[Tensor],
        context: Tensor | None = None,
        control: Any = None,
        transformer_options: dict[str, Any] | None = None,
        **conditions: Any,
    ) -> list[Tensor]:
        """Both velocities, video first.

        Args:
            x: latents of video and sound.
            timesteps: the time of every latent.
            context: not used; what is told is in ``conditions``.
            control: not used.
            transformer_options: of the step; holds the guider's question, if there is one.
            conditions: ``run`` and ``told``.
        """
        options = transformer_options or {}
        wrappers = comfy.patcher_extension.get_all_wrappers(WrappersMP.DIFFUSION_MODEL, options)
        executor = comfy.patcher_extension.WrapperExecutor.new_class_executor(self._answer, self, wrappers)
        return executor.execute(x, timesteps, context, control, options, **conditions)

    def _answer(
        self,
        x: Sequence[Tensor],
        timesteps: AV[Tensor],
        _context: Tensor | None,
        _control: Any,
        transformer_options: dict[str, Any],
        *,
        run: Run,
        told: Any,
        **_others: Any,
    ) -> list[Tensor]:
        self.host_attention.options = transformer_options
        question = transformer_options.get(QUESTION_OPTION) or Question(wanted=run.generated)
        return list(run.velocity(self, AV(*x), timesteps, told, question))


class _Whole(comfy.conds.CONDConstant):
    """A condition that is one object for the whole batch and never joined with another's."""

    def can_concat(self, other: Any) -> bool:
        return self.cond is other.cond


class HarmonyModel(comfy.model_base.BaseModel):
    """A joint model as ComfyUI samples it.

    Attributes:
        run: the sampling run under way; set and cleared by :func:`during_run`.
    """

    def __init__(self, model_config: HarmonySupport, device: torch.device | None = None) -> None:
        flow = comfy.model_base.ModelType.FLOW
        super().__init__(model_config, flow, device=device, unet_model=HarmonyDiffusion)
        self.config: HarmonyConfig = model_config.unet_config["harmony"]
        self.mean, self.std = (torch.tensor(values).view(1, -1, 1, 1, 1) for values in model_config.statistics)
        self.run: Run | None = None

    def normalise(self, video: Tensor) -> Tensor:
        """Raw video latents to unit variance."""
        return (video - self.mean.to(video)) / self.std.to(video)

    def denormalise(self, video: Tensor) -> Tensor:
        """Undo :meth:`normalise`."""
        return video * self.std.to(video) + self.mean.to(video)

    def process_latent_in(self, latent: Any) -> Any:
        """Raw latents to the model's: a pair, both streams in one flat tensor, or video alone."""
        return self._on_video(latent, self.normalise)

    def process_latent_out(self, latent: Any) -> Any:
        """The model's latents to raw ones; see :meth:`process_latent_in`."""
        return self._on_video(latent, self.denormalise)

    def _on_video(self, latent: Any, change: Callable[[Tensor], Tensor]) -> Any:
        if isinstance(latent, NestedTensor):
            video, *others = latent.unbind()
            return NestedTensor([change(video), *others])
        if latent.ndim == 5:
            return change(latent)
        video, *others = comfy.utils.unpack_latents(latent, self.latent_shapes)
        return comfy.utils.pack_latents([change(video), *others])[0]

    def state_dict_for_saving(self, unet_state_dict: dict[str, Tensor], *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """The weights and what they are; see :mod:`.saved`."""
        codecs = CodecConfigs(video=self.model_config.codec)
        weights = super().state_dict_for_saving(unet_state_dict, *args, **kwargs)
        return {**weights, **described({**self.config.to_metadata(), **codecs.to_metadata()})}

    def extra_conds(self, **kwargs: Any) -> dict[str, Any]:
        """What a step hands to the model: what is told, the run, and how the streams lie in the flat latent."""
        shapes = kwargs.get("latent_shapes")
        noise, device = kwargs["noise"], kwargs["device"]
        run = self.run or new_run(self.config, shapes, kwargs.get("denoise_mask"), device)
        return {
            "told": _Whole(told(kwargs, noise.shape[0])),
            "run": _Whole(run),
            "latent_shapes": comfy.conds.CONDConstant(shapes),
        }

    def process_timestep(self, timestep: Tensor, *, run: Run, **_others: Any) -> AV[Tensor]:
        """The time of every latent in [0, 1]."""
        # ModelSamplingSD3 replaces the sampling's own scale of 1 by 1000.
        return run.times(timestep / getattr(self.model_sampling, "multiplier", 1.0))

    def scale_latent_inpaint(self, sigma: Tensor, noise: Tensor, latent_image: Tensor, **_others: Any) -> Tensor:
        """Given latents are clean at every step."""
        return latent_image


class HarmonySupport(comfy.supported_models_base.BASE):
    """How ComfyUI is to treat such a model."""

    unet_extra_config: dict[str, Any] = {}  # noqa: RUF012 - read by the base class
    sampling_settings = {"shift": 5.0, "multiplier": 1.0}  # noqa: RUF012
    # Wan's blocks overflow in float16.
    supported_inference_dtypes = [torch.bfloat16, torch.float32]  # noqa: RUF012

    def __init__(self, config: HarmonyConfig, codec: VideoVAEConfig | None = None) -> None:
        """Describe a model.

        Args:
            config: the checkpoint's.
            codec: whose raw latents it is given; Wan2.2's by default.
        """
        super().__init__({"harmony": config})
        self.codec = codec
        self.statistics = (WAN_MEAN, WAN_STD) if codec is None else (codec.mean, codec.std)
        self.latent_format = comfy.latent_formats.Wan22()
        if self.statistics[0] != WAN_MEAN:
            # Another codec's latents have other colours; a preview of them would be noise.
            self.latent_format.latent_rgb_factors = None
            self.latent_format.taesd_decoder_name = None
        # The estimate counts elements of the flat latent, channels with them, where Wan's counts positions.
        dims = config.video.dim + config.audio.dim
        self.memory_usage_factor = dims / WAN_FACTOR / config.grid.video_channels

    def get_model(self, state_dict: Any, prefix: str = "", device: torch.device | None = None) -> HarmonyModel:
        """The model, its weights not yet set."""
        return HarmonyModel(self, device=device)


def new_run(
    config: HarmonyConfig, shapes: Sequence[Any] | None, mask: Tensor | None, device: torch.device, fps: float | None = None
) -> Run:
    """The run that latents and their mask describe.

    Args:
        config: of the model.
        shapes: of the streams' latents.
        mask: flat noise mask of both streams; None for nothing given.
        device: where it is sampled.
        fps: pictures per second; the model's where not known.

    Raises:
        ValueError: the latent is not of both streams, or they do not fit each other at this rate.
    """
    if shapes is None or len(shapes) != 2:
        raise ValueError("latent: a Harmony model samples picture and sound together; use Empty Harmony Latent")
    video, audio = (torch.empty(tuple(shape), device="meta") for shape in shapes)
    spec = ClipSpec.of_latents(video, audio, fps=fps or config.fps, grid=config.grid)
    masks = None if mask is None else comfy.utils.unpack_latents(mask, shapes)
    return Run.of_masks(spec, masks, video.shape[0], device)


def during_run(
    executor: Any,
    noise: Tensor,
    latent_image: Tensor,
    sampler: Any,
    sigmas: Tensor,
    denoise_mask: Tensor | None = None,
    *args: Any,
    latent_shapes: Sequence[Any] | None = None,
    **kwargs: Any,
) -> Tensor:
    """Wraps a whole sampling run: opens its :class:`Run`, closes it, and returns what was given bit for bit."""
    guider = executor.class_obj
    patcher = guider.model_patcher
    model: HarmonyModel = patcher.model
    options = guider.model_options.get("transformer_options", {})
    run = new_run(model.config, latent_shapes, denoise_mask, patcher.load_device, options.get(FPS_OPTION))
    model.run = run
    try:
        output = executor(noise, latent_image, sampler, sigmas, denoise_mask, *args, latent_shapes=latent_shapes, **kwargs)
    finally:
        model.run = None
        run.close()
    if denoise_mask is None:
        return output
    # Samplers reach a given latent only up to rounding, and so does undoing its normalisation.
    return torch.where(denoise_mask.to(output.device) == 0, latent_image.to(output), output)


def harmony_model(patcher: Any, where: str = "model") -> HarmonyModel:
    """The Harmony model in a MODEL.

    Raises:
        ValueError: it is another kind of model.
    """
    if not isinstance(patcher.model, HarmonyModel):
        raise ValueError(f"{where}: this is no Harmony model; connect the MODEL of Load Harmony Checkpoint")
    return patcher.model

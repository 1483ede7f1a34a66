"""Harmony as a genuine MODEL: its modules in a BaseModel, sampled by whatever samples others.

The latent is the core's nested pair of video and sound; the model is given both and returns both velocities. Every mask of
the latent becomes the times of its tokens, so a stream whose mask is 0 drives the other. Raw video latents, as a VAE gives
them, are normalised here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import prod
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
from comfy_api.torch_helpers.torch_compile import TORCH_COMPILE_KWARGS
from torch import Tensor

from ...harmony_core.codecs.video_vae import WAN_MEAN, WAN_STD, VideoVAEConfig
from ...harmony_core.config import HarmonyConfig
from ...harmony_core.models.harmony import Harmony
from ...harmony_core.types import AV
from ...harmony_core.weights.checkpoint import CodecConfigs
from .files import Mapped
from .layers import WEIGHTS_OPTION, Compiled, Streams, ToldApart, is_plain, replaced_layers, through_layer, weights_of
from .memory import step_bytes
from .passes import tell_passes
from .preview import Likeness
from .rate import clip_at, rate_of_run
from .run import Question, Run
from .runtime import HostAttention, host_runtime
from .saved import described
from .stored import EIGHT_BITS, SUPPORTED, EightBitMatrices
from .told import check_told, told

QUESTION_OPTION = "harmony_question"
WRAPPER = "harmony"


class HarmonyDiffusion(Harmony):
    """The joint model with the interface of ComfyUI's diffusion models; its keys are the checkpoint's."""

    def __init__(
        self,
        *,
        harmony: HarmonyConfig,
        operations: Any,
        dtype: torch.dtype | None = None,
        compute_dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        """Build it, its weights not yet set.

        Args:
            harmony: the checkpoint's config.
            operations: ComfyUI's layers.
            dtype: to store weights in.
            compute_dtype: to compute in; what is not stored in eight bits is stored in it.
            device: where the weights are.
        """
        attention = HostAttention()
        if dtype in EIGHT_BITS:
            operations = EightBitMatrices(operations, dtype)
        stored = compute_dtype if dtype in EIGHT_BITS else dtype
        super().__init__(harmony, host_runtime(operations, attention, device=device, dtype=stored))
        self.host_attention = attention
        self.dtype = dtype
        self._told_apart = ToldApart()
        self._compiled: Compiled | None = None

    def compile_layers(self, options: dict[str, Any] | None) -> None:
        """Compile the run through the layers from now on.

        Args:
            options: of torch.compile; None runs them as they are.
        """
        if options is None:
            self._compiled = None
        elif self._compiled is None or self._compiled.options != options:
            self._compiled = Compiled(Harmony._run, options)  # noqa: SLF001

    # The rest of a step keeps book of the run: a compiler that traced it would do so again at every step.
    @torch.compiler.disable
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
        if wrappers:  # some, as EasyCache, write into what they are handed, which may be the sampler's own
            x = [latent.clone() for latent in x]
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
        told = self._told_apart(run, told, transformer_options)
        question = transformer_options.get(QUESTION_OPTION) or Question(wanted=run.generated)
        velocity = run.velocity(self, AV(*x), timesteps, told, question)
        return list(run.on_schedule(velocity, transformer_options.get("sigmas")))

    def _run(self, streams: Streams, work: Any) -> Streams:
        options = self.host_attention.options
        recorded = work.exchanges is not None and any(one.recorder is not None for one in work.exchanges)
        if self._compiled is None or work.keep is not None or recorded or not is_plain(options):
            return super()._run(streams, work)
        self.host_attention.options = {}
        try:
            return self._compiled(self, streams, work)
        finally:
            self.host_attention.options = options

    def _layer(self, index: int, streams: Streams, work: Any) -> Streams:
        if torch.compiler.is_compiling():
            return super()._layer(index, streams, work)
        options = self.host_attention.options
        if work.keep is not None and index in replaced_layers(options):
            # What the other stream may read is kept, whatever a patch leaves out.
            super()._layer(index, streams, work)
            work = replace(work, keep=None)
        layer = super()._layer
        return through_layer(index, self.config.video.layers, streams, lambda s: layer(index, s, work), options)


class _Whole(comfy.conds.CONDConstant):
    """A condition that is one object for the whole batch and never joined with another's."""

    def can_concat(self, other: Any) -> bool:
        return self.cond is other.cond


class HarmonyModel(comfy.model_base.BaseModel):
    """A joint model as ComfyUI samples it.

    Attributes:
        run: the sampling run under way; set and cleared by :func:`during_run`.
        likeness: how its latents are shown while it samples; None where that is not known.
        mapped: the files it is from; None where it is from none.
    """

    def __init__(self, model_config: HarmonySupport, device: torch.device | None = None) -> None:
        flow = comfy.model_base.ModelType.FLOW
        super().__init__(model_config, flow, device=device, unet_model=HarmonyDiffusion)
        self.config: HarmonyConfig = model_config.unet_config["harmony"]
        self.mean, self.std = (torch.tensor(values).view(1, -1, 1, 1, 1) for values in model_config.statistics)
        self.run: Run | None = None
        self.likeness: Likeness | None = None
        self.mapped: Mapped | None = None

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
        # The codecs it was found out from are not saved with a model.
        likeness = self.likeness.to_metadata() if self.likeness is not None else {}
        return {**weights, **described({**self.config.to_metadata(), **codecs.to_metadata(), **likeness})}

    def memory_required(self, input_shape: Sequence[int], cond_shapes: dict[str, Any] | None = None) -> int:
        """Bytes a step takes beside the weights, for a flat latent of this shape; see :mod:`.memory`."""
        del cond_shapes
        shapes = self._shapes_of(input_shape)
        size = comfy.model_management.dtype_size(self.get_dtype_inference())
        # Weights that are stored in another dtype are cast one layer at a time.
        cast = 0 if self.manual_cast_dtype is None else max(p.numel() for p in self.diffusion_model.parameters())
        return step_bytes(self.config, shapes, size) + cast * size

    def _shapes_of(self, flat: Sequence[int]) -> AV[Sequence[int]]:
        """The streams' shapes; where no run has said them, as if the picture were all."""
        batch, size = flat[0], prod(flat[1:])
        shapes = [(batch, *shape[1:]) for shape in self.latent_shapes or ()]
        if len(shapes) == 2 and sum(prod(shape) for shape in shapes) == batch * size:
            return AV(*shapes)
        channels = self.config.video.channels
        return AV((batch, channels, 1, 1, -(-size // channels)), (batch, self.config.audio.channels, 0))

    def extra_conds(self, **kwargs: Any) -> dict[str, Any]:
        """What a step hands to the model: what is told, the run, and how the streams lie in the flat latent."""
        shapes = kwargs.get("latent_shapes")
        noise, device = kwargs["noise"], kwargs["device"]
        run = self.run or new_run(self.config, shapes, kwargs.get("denoise_mask"), device)
        return {
            "told": _Whole(told(kwargs, noise.shape[0], one_prompt=self.config.one_prompt)),
            "run": _Whole(run),
            "latent_shapes": comfy.conds.CONDConstant(shapes),
        }

    def apply_model(
        self,
        x: Tensor,
        t: Tensor,
        c_concat: Tensor | None = None,
        c_crossattn: Tensor | None = None,
        control: Any = None,
        transformer_options: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """One call of the model; its layers are told which weights they have, as hooks change them from step to step."""
        options = {**(transformer_options or {}), WEIGHTS_OPTION: weights_of(self.current_patcher)}
        return super().apply_model(x, t, c_concat, c_crossattn, control, options, **kwargs)

    def process_timestep(self, timestep: Tensor, *, run: Run, **_others: Any) -> AV[Tensor]:
        """The time of every latent in [0, 1]."""
        # ModelSamplingSD3 replaces the sampling's own scale of 1 by 1000.
        return run.times(timestep / getattr(self.model_sampling, "multiplier", 1.0))

    def scale_latent_inpaint(
        self, sigma: Tensor, noise: Tensor, latent_image: Tensor, denoise_mask: Tensor | None = None, **_others: Any
    ) -> Tensor:
        """Given latents as they are where nothing beside them in a latent in time is made; see :meth:`.run.Run.beside`."""
        run = self.run
        assert run is not None and self.latent_shapes is not None

        def streams(flat: Tensor) -> AV[Tensor]:
            return AV(*comfy.utils.unpack_latents(flat, self.latent_shapes))

        # Masks change from step to step where a node says so; which they are is told from 0.33 on.
        masks = run.masks if denoise_mask is None else streams(denoise_mask)
        return comfy.utils.pack_latents(list(run.beside(sigma, streams(noise), streams(latent_image), masks)))[0]


class HarmonySupport(comfy.supported_models_base.BASE):
    """How ComfyUI is to treat such a model."""

    unet_extra_config: dict[str, Any] = {}  # noqa: RUF012 - read by the base class
    sampling_settings = {"shift": 5.0, "multiplier": 1.0}  # noqa: RUF012
    supported_inference_dtypes = SUPPORTED

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

    def set_inference_dtype(
        self, dtype: torch.dtype, manual_cast_dtype: torch.dtype | None, device: torch.device | None = None
    ) -> None:
        """Store weights in ``dtype``, compute in the other where one is given."""
        super().set_inference_dtype(dtype, manual_cast_dtype, device=device)
        self.unet_config["compute_dtype"] = manual_cast_dtype or dtype

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
    spec = clip_at(fps, config, video, audio)
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
    if model.mapped is not None:
        model.mapped.check()
    run = new_run(model.config, latent_shapes, denoise_mask, patcher.load_device, rate_of_run(guider))
    for name, entries in guider.conds.items():
        check_told(entries, name, model.config)
    try:
        # ComfyUI knows the shapes of a model's latents by itself from 0.31 on.
        model.run, model.latent_shapes = run, latent_shapes
        model.diffusion_model.compile_layers(guider.model_options.get(TORCH_COMPILE_KWARGS))
        output = executor(noise, latent_image, sampler, sigmas, denoise_mask, *args, latent_shapes=latent_shapes, **kwargs)
    finally:
        model.run = None
        model.diffusion_model.host_attention.options = {}
        run.close()
    tell_passes(run, len(sigmas) - 1)
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

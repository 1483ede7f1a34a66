"""Where the sound of a finished latent comes from in its pictures.

The model is asked twice more about the finished clip, and its attention between sound and pictures is recorded: once with the
sound nearly noise, which shows where the pictures let a sound be expected, and once with the pictures a little noisy, which
shows what in them listens to this very sound. So it works whatever sampled the latent, keeps nothing of the sampling run, and
works on clips that were never sampled, as long as both streams are encoded.
"""

from __future__ import annotations

from typing import Any

import comfy.samplers
import comfy.utils
import torch
from comfy.model_patcher import create_model_options_clone
from comfy.nested_tensor import NestedTensor
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...harmony_core.flow import draw_noise
from ...harmony_core.measure.sound_source import LISTENING, agreement, overlay, source_masks
from ...harmony_core.models.sound_map import SoundMapRecorder
from ...harmony_core.types import AV, Modality
from .latent import FPS, Latent, clip_of
from .model import QUESTION_OPTION, harmony_model
from .rate import with_rate
from .run import Question
from .sync import PATCH


def sound_source_map(
    patcher: Any,
    positive: list[list[Any]],
    latent: Latent,
    images: Tensor,
    *,
    floor: float,
    seconds: float,
    spread: float,
    strength: float,
) -> tuple[Tensor, Tensor]:
    """Masks of where the sound comes from, and the pictures with them.

    Args:
        patcher: a MODEL of Harmony.
        positive: what the clip was told.
        latent: finished, of picture and sound.
        images: (B F, H, W, 3) in [0, 1], the clips' pictures, of any size.
        floor: see :func:`harmony_core.measure.sound_source.source_masks`.
        seconds: likewise.
        spread: likewise.
        strength: of the overlay, 0 to 1.

    Returns:
        MASK (B F, H, W) in [0, 1] and IMAGE (B F, H, W, 3).

    Raises:
        ValueError: no Harmony model or one without frame-wise attention, a latent of another node, or other pictures.
    """
    model = harmony_model(patcher)
    if model.config.interaction.kind != "frame_wise":
        raise ValueError("model: it has no frame-wise attention between sound and picture, of which the map is made")
    spec = clip_of(latent)
    batch = latent["samples"].unbind()[0].shape[0]
    if len(images) != batch * spec.frames:
        clips = f"{batch} clips have {spec.frames} each" if batch > 1 else f"clip has {spec.frames}"
        raise ValueError(f"images: there are {len(images)} pictures, the latent's {clips}; connect those of Harmony Decode")
    bar = comfy.utils.ProgressBar(len(Modality))
    recorded = []
    for asking in Modality:
        recorded.append(_listen(patcher, positive, latent, asking))
        bar.update(1)
    maps = agreement(*recorded)
    size = (images.shape[1], images.shape[2])
    stride = spec.grid.frame_stride
    masks = source_masks(maps, size, fps=spec.fps, frame_stride=stride, floor=floor, seconds=seconds, spread=spread)
    masks = masks.flatten(0, 1).to(images.device)
    return masks, overlay(images[..., :3], masks, strength)


def _listen(patcher: Any, positive: list[list[Any]], latent: Latent, asking: Modality) -> Tensor:
    """Record how one stream, mixed with noise, reads the other: (B, T, rows, columns)."""
    model, spec = harmony_model(patcher), clip_of(latent)
    recorder = SoundMapRecorder()
    _, rows, columns = model.config.video.patch
    height, width = spec.latent_size
    recorder.set_size(height // rows, width // columns)
    patcher = with_rate(patcher, latent[FPS])
    # A guide would ask more questions than the one that is recorded.
    for kind in (WrappersMP.OUTER_SAMPLE, WrappersMP.PREDICT_NOISE):
        patcher.remove_wrappers_with_key(kind, PATCH)
    streams = AV(*latent["samples"].unbind())
    free = streams.map(lambda x: torch.zeros_like(x[:, :1]))
    free = free.replace(asking, torch.ones_like(free[asking]))
    guider = _Listener(patcher, asking, recorder)
    guider.set_conds(positive, positive)
    guider.sample(
        NestedTensor(list(draw_noise(streams.map(lambda x: tuple(x.shape)), range(streams.video.shape[0])))),
        latent["samples"],
        comfy.samplers.KSAMPLER(_where_it_is),
        torch.tensor([LISTENING[asking], 0.0]),
        denoise_mask=NestedTensor(list(free)),
        disable_pbar=True,
        seed=0,
    )
    return recorder.maps()


class _Listener(comfy.samplers.CFGGuider):
    """Asks for the velocity of one stream beside the other, which is given, and has the attention recorded."""

    def __init__(self, patcher: Any, asking: Modality, recorder: SoundMapRecorder) -> None:
        super().__init__(patcher)
        self._question = Question(wanted=AV.of(lambda m: m is asking), recorder=recorder)

    def predict_noise(
        self, x: Tensor, timestep: Tensor, model_options: dict[str, Any] | None = None, seed: int | None = None
    ) -> Tensor:
        """The estimate of the data at ``x``, both streams flat."""
        del seed
        options = create_model_options_clone(model_options or {})
        options.setdefault("transformer_options", {})[QUESTION_OPTION] = self._question
        return comfy.samplers.calc_cond_batch(self.inner_model, [self.conds["positive"]], x, timestep, options)[0]


def _where_it_is(
    model: Any, x: Tensor, sigmas: Tensor, extra_args: dict[str, Any], callback: Any = None, disable: bool | None = None
) -> Tensor:
    """A sampler that goes nowhere: the finished latent, mixed with as much noise as the first sigma says, is asked about."""
    del callback, disable
    mixed = (1 - sigmas[0]) * model.latent_image + sigmas[0] * model.noise
    model(mixed, sigmas[0].expand(x.shape[0]), **extra_args)
    return model.latent_image

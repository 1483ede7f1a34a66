"""From a Harmony checkpoint to MODEL, CLIP and VAEs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.utils
import torch
from comfy.patcher_extension import WrappersMP

from ...harmony_core.runtime import Runtime
from ...harmony_core.weights.checkpoint import Checkpoint
from . import preview
from .clip import caption_clip
from .codec import HarmonyAudioVAE, HarmonyVideoVAE
from .model import WRAPPER, HarmonySupport, during_run
from .saved import read, with_codecs_it_holds
from .stored import DTYPES, model_weights, with_notes


def load_model(path: str, options: dict[str, Any], *, disable_dynamic: bool = False) -> Any:
    """A MODEL from a file; ComfyUI calls this again where it needs a second, untouched copy.

    Args:
        path: the file of a checkpoint.
        options: ``dtype`` of the weights, ``load_device``, ``offload_device``; each optional.
        disable_dynamic: make it without dynamic VRAM.

    Raises:
        ValueError: the file is no Harmony checkpoint, or its weights do not fit its config.
    """
    return model_of(with_notes(read(path)), path, options, disable_dynamic=disable_dynamic)


def load_all(path: Path, weight_dtype: str = "default") -> tuple[Any, Any, HarmonyVideoVAE | None, HarmonyAudioVAE | None]:
    """MODEL, CLIP and the VAEs of video and sound; None for what the file does not hold.

    Args:
        path: the file of a checkpoint.
        weight_dtype: a key of :data:`.stored.DTYPES`.

    Raises:
        ValueError: as for :func:`load_model`.
    """
    try:
        return _load_all(path, DTYPES[weight_dtype])
    except ValueError as error:
        raise ValueError(f"checkpoint: {error}; choose a whole Harmony checkpoint, as it was saved or downloaded") from error


def _load_all(path: Path, dtype: torch.dtype | None) -> tuple[Any, Any, HarmonyVideoVAE | None, HarmonyAudioVAE | None]:
    checkpoint = with_notes(read(path))
    held = with_codecs_it_holds(checkpoint)
    # Codecs are small and compute in float32, whatever they are stored in.
    exact = Runtime(dtype=torch.float32)
    video = held.video_vae(exact) if held.codecs.video is not None else None
    audio = held.audio_codec(exact) if held.codecs.audio is not None else None
    patcher = model_of(checkpoint, str(path), {} if dtype is None else {"dtype": dtype})
    patcher.set_attachments(preview.KEY, preview.Likeness.of(video, audio, patcher.model.latent_format))
    return (
        patcher,
        caption_clip(checkpoint) if checkpoint.config.caption is not None else None,
        HarmonyVideoVAE(video) if video is not None else None,
        HarmonyAudioVAE(audio) if audio is not None else None,
    )


def model_of(checkpoint: Checkpoint, path: str, options: dict[str, Any], *, disable_dynamic: bool = False) -> Any:
    """The MODEL of a checkpoint in memory; see :func:`load_model`."""
    management = comfy.model_management
    weights = model_weights(checkpoint)
    support = HarmonySupport(checkpoint.config, checkpoint.codecs.video)
    load_device = options.get("load_device", management.get_torch_device())
    offload_device = options.get("offload_device", management.unet_offload_device())
    # As ComfyUI loads its own: quantised layers say themselves how they are stored, and nobody else does.
    support.quant_config = comfy.utils.detect_layer_quantization(weights, "")
    free = not support.quant_config
    dtype = (options.get("dtype") if free else None) or management.unet_dtype(
        model_params=comfy.utils.calculate_parameters(weights),
        supported_dtypes=support.supported_inference_dtypes,
        weight_dtype=comfy.utils.weight_dtype(weights) if free else None,
    )
    cast = management.unet_manual_cast(dtype if free else None, load_device, support.supported_inference_dtypes)
    support.set_inference_dtype(dtype, cast, device=load_device)
    model = support.get_model(weights)
    patcher_class = comfy.model_patcher.ModelPatcher if disable_dynamic else comfy.model_patcher.CoreModelPatcher
    patcher = patcher_class(model, load_device=load_device, offload_device=offload_device)
    if not management.is_device_cpu(offload_device):
        model.to(offload_device)
    model.load_model_weights(weights, "", assign=patcher.is_dynamic())
    patcher.cached_patcher_init = (load_model, (path, options))
    patcher.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, WRAPPER, during_run)
    patcher.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, preview.KEY, preview.with_preview)
    return patcher

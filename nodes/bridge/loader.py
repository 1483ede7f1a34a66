"""From a Harmony checkpoint, or Ovi's files, to MODEL, CLIP and VAEs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.utils
import torch
from comfy.patcher_extension import WrappersMP

from ...harmony_core.codecs.audio import AudioCodec
from ...harmony_core.codecs.video_vae import VideoVAE
from ...harmony_core.config import FORMAT_KEY
from ...harmony_core.runtime import Runtime
from ...harmony_core.weights.checkpoint import Checkpoint
from ...harmony_core.weights.files import read_header
from ...harmony_core.weights.inspect import inspect
from ...harmony_core.weights.ovi import holds_ovi
from . import preview
from .clip import caption_clip
from .codec import HarmonyAudioVAE, HarmonyVideoVAE
from .files import Mapped
from .latent import named
from .model import WRAPPER, HarmonySupport, during_run
from .ovi import BY_NAME, read_ovi
from .saved import KEY, read, with_codecs_it_holds
from .stored import DTYPES, dtypes_of, model_weights, with_notes

ADVICE = "; choose a whole Harmony checkpoint, or Ovi's, as it was saved or downloaded"


def load_model(path: str, options: dict[str, Any], *, disable_dynamic: bool = False) -> Any:
    """A MODEL from a file; ComfyUI calls this again where it needs a second, untouched copy.

    Args:
        path: the file of a checkpoint.
        options: ``dtype`` of the weights, ``load_device``, ``offload_device``, ``likeness`` of its latents; of Ovi ``ovi_size``
            and ``other_half``, the path of its second file; each optional.
        disable_dynamic: make it without dynamic VRAM.

    Raises:
        ValueError: the file is neither a Harmony checkpoint nor Ovi's, or its weights do not fit its config.
    """
    checkpoint = _read(path, options)
    patcher = model_of(checkpoint, path, options, disable_dynamic=disable_dynamic)
    patcher.model.likeness = options.get("likeness") or preview.Likeness.from_metadata(checkpoint.metadata)
    return patcher


def load_all(
    path: Path, weight_dtype: str = "default", *, other_half: Path | None = None, ovi_size: str = BY_NAME
) -> tuple[Any, Any, HarmonyVideoVAE | None, HarmonyAudioVAE | None]:
    """MODEL, CLIP and the VAEs of video and sound; None for what the file does not hold.

    Args:
        path: the file of a checkpoint.
        weight_dtype: a key of :data:`.stored.DTYPES`.
        other_half: the second file of Ovi in two files, in either order.
        ovi_size: which of Ovi's models it is; by the file's name by default.

    Raises:
        ValueError: as for :func:`load_model`.
    """
    options: dict[str, Any] = {} if DTYPES[weight_dtype] is None else {"dtype": DTYPES[weight_dtype]}
    with named("checkpoint", ADVICE):
        of_ovi = holds_ovi(path)
        if not of_ovi and other_half is None:
            _refuse_others(path)
            return _load_all(path, options)
    if not of_ovi:
        raise ValueError(f"other_half: {path.name} is not Ovi's, and nothing else comes in halves; set it to none")
    options["ovi_size"] = ovi_size
    if other_half is not None:
        options["other_half"] = str(other_half)
    return _load_all(path, options)


def _refuse_others(path: Path) -> None:
    """Say what a file is that is no checkpoint."""
    keys, metadata = read_header(path)
    if KEY not in keys and FORMAT_KEY not in metadata:
        raise ValueError(f"this is no Harmony checkpoint, {path.name} is {inspect(path).what}")


def _read(path: str, options: dict[str, Any]) -> Checkpoint:
    if "ovi_size" in options:
        half = options.get("other_half")
        return read_ovi(Path(path), None if half is None else Path(half), options["ovi_size"])
    return with_notes(read(path))


def _load_all(path: Path, options: dict[str, Any]) -> tuple[Any, Any, HarmonyVideoVAE | None, HarmonyAudioVAE | None]:
    checkpoint = _read(str(path), options)
    held = with_codecs_it_holds(checkpoint)
    # Codecs are small and compute in float32, whatever they are stored in.
    exact = Runtime(dtype=torch.float32)
    video = held.video_vae(exact) if held.codecs.video is not None else None
    audio = held.audio_codec(exact) if held.codecs.audio is not None else None
    patcher = model_of(checkpoint, str(path), options)
    # A copy that is loaded again is shown alike, without its codecs.
    options["likeness"] = _likeness(checkpoint, patcher, video, audio)
    patcher.model.likeness = options["likeness"]
    return (
        patcher,
        caption_clip(checkpoint) if checkpoint.config.caption is not None else None,
        HarmonyVideoVAE(video) if video is not None else None,
        HarmonyAudioVAE(audio) if audio is not None else None,
    )


def _likeness(checkpoint: Checkpoint, patcher: Any, video: VideoVAE | None, audio: AudioCodec | None) -> preview.Likeness:
    """Found out from the codecs that are there; a model that was saved without them has it noted."""
    saved = preview.Likeness.from_metadata(checkpoint.metadata)
    if saved is not None and video is None and audio is None:
        return saved
    return preview.Likeness.of(video, audio, patcher.model.latent_format)


def model_of(checkpoint: Checkpoint, path: str, options: dict[str, Any], *, disable_dynamic: bool = False) -> Any:
    """The MODEL of a checkpoint in memory; see :func:`load_model`."""
    management = comfy.model_management
    weights = model_weights(checkpoint)
    support = HarmonySupport(checkpoint.config, checkpoint.codecs.video)
    load_device = options.get("load_device", management.get_torch_device())
    offload_device = options.get("offload_device", management.unet_offload_device())
    # As ComfyUI loads its own: quantised layers say themselves how they are stored, and nobody else does.
    support.quant_config = comfy.utils.detect_layer_quantization(weights, "")
    dtype, cast = dtypes_of(weights, options.get("dtype"), quantised=bool(support.quant_config), device=load_device)
    support.set_inference_dtype(dtype, cast, device=load_device)
    model = support.get_model(weights)
    patcher_class = comfy.model_patcher.ModelPatcher if disable_dynamic else comfy.model_patcher.CoreModelPatcher
    patcher = patcher_class(model, load_device=load_device, offload_device=offload_device)
    if not management.is_device_cpu(offload_device):
        model.to(offload_device)
    model.load_model_weights(weights, "", assign=patcher.is_dynamic())
    patcher.cached_patcher_init = (load_model, (path, options))
    model.mapped = Mapped(*(Path(file) for file in (path, options.get("other_half")) if file))
    patcher.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, WRAPPER, during_run)
    patcher.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, preview.KEY, preview.with_preview)
    return patcher

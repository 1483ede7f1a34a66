"""What ComfyUI's own ModelSave and CheckpointSave wrote, read again.

They write weights under prefixes of their own and no metadata of ours, so the model adds one tensor to them, its metadata as
bytes, and so does a codec of ours, whose weights CheckpointSave puts beside the model's. A text encoder or a VAE that is not
the checkpoint's own is left in the file, and the log says with what to load it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from ...harmony_core.codecs.video_vae import WAN_MEAN, WAN_STD, VideoVAEConfig
from ...harmony_core.config import HarmonyConfig
from ...harmony_core.weights.checkpoint import VIDEO_VAE_PART, Checkpoint, CodecConfigs, load_checkpoint
from ...harmony_core.weights.files import read_header, read_tensors

KEY = "harmony.metadata"
PREFIX = "model.diffusion_model."
TEXT = "cond_stage_model."
VAE = "first_stage_model."
CAPTION = "caption."
ENCODER = "encoder."
"""What the names in our text encoder begin with; see :class:`.clip.CaptionModel`."""
CODEC = "codec."
"""And those in our VAEs; see :mod:`.codec`."""

_log = logging.getLogger(__name__)


def described(metadata: Mapping[str, str]) -> dict[str, Tensor]:
    """The tensor to be saved beside weights."""
    return {KEY: torch.tensor(list(json.dumps(dict(metadata)).encode()), dtype=torch.uint8)}


def read(path: str | Path) -> Checkpoint:
    """A Harmony checkpoint, whoever wrote it.

    Raises:
        ValueError: the file is missing, broken or no Harmony checkpoint.
    """
    if Path(path).suffix != ".safetensors" or not Path(path).is_file() or KEY not in read_header(path)[0]:
        return load_checkpoint(path)
    tensors, rest = read_tensors(path)
    metadata = _metadata(tensors.pop(KEY))
    text, vae = _taken(tensors, TEXT), _taken(tensors, VAE)
    weights = {key.removeprefix(PREFIX): value for key, value in tensors.items()}
    config, codecs = HarmonyConfig.from_metadata(metadata), CodecConfigs.from_metadata(metadata)
    found = Checkpoint(config=config, codecs=codecs, tensors=weights, metadata={**rest, **metadata})
    if text:
        found = _with_text_encoder(found, text, Path(path).name)
    return _with_codec(found, vae, Path(path).name) if vae else found


def of_model(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Of the tensors of such a file those of the model."""
    return {key: value for key, value in tensors.items() if key != KEY and not key.startswith((TEXT, VAE))}


def with_codecs_it_holds(checkpoint: Checkpoint) -> Checkpoint:
    """Without the configs of codecs whose weights are elsewhere: they were saved for their statistics."""
    holds_video = any(key.startswith("video_vae.") for key in checkpoint.tensors)
    holds_audio = any(key.startswith("audio_vae.") for key in checkpoint.tensors)
    codecs = checkpoint.codecs
    kept = CodecConfigs(video=codecs.video if holds_video else None, audio=codecs.audio if holds_audio else None)
    return replace(checkpoint, codecs=kept)


def _metadata(described: Tensor) -> dict[str, str]:
    read: dict[str, str] = json.loads(bytes(described.tolist()))
    return read


def _taken(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors under a prefix, without it, and out of the others."""
    return {key.removeprefix(prefix): tensors.pop(key) for key in list(tensors) if key.startswith(prefix)}


def _with_text_encoder(checkpoint: Checkpoint, given: Mapping[str, Tensor], name: str) -> Checkpoint:
    """With the weights of the text encoder that was connected, perhaps with LoRAs in them, if it is the checkpoint's own."""
    caption = {CAPTION + key.removeprefix(ENCODER): value for key, value in given.items()}
    own = {key: value.shape for key, value in checkpoint.tensors.items() if key.startswith(CAPTION)}
    if {key: value.shape for key, value in caption.items()} != own:
        _log.warning("checkpoint: the text encoder in %s is not this model's own and is left there; use Load CLIP", name)
        return checkpoint
    return replace(checkpoint, tensors={**checkpoint.tensors, **caption})


def _with_codec(checkpoint: Checkpoint, given: dict[str, Tensor], name: str) -> Checkpoint:
    """With the codec that was connected, if it is one of ours, and makes latents as this model has them."""
    described = given.pop(KEY, None)
    codecs = CodecConfigs() if described is None else CodecConfigs.from_metadata(_metadata(described))
    video, audio = codecs.video, codecs.audio
    fits = video is None or _statistics(video) == _statistics(checkpoint.codecs.video)
    if described is None or not fits:
        _log.warning("checkpoint: the VAE in %s is not this model's own and is left there; use Load VAE", name)
        return checkpoint
    part = VIDEO_VAE_PART if video is not None else ""
    tensors = {part + key.removeprefix(CODEC): value for key, value in given.items()}
    kept = CodecConfigs(video=video or checkpoint.codecs.video, audio=audio or checkpoint.codecs.audio)
    return replace(checkpoint, codecs=kept, tensors={**checkpoint.tensors, **tensors})


def _statistics(codec: VideoVAEConfig | None) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Of its raw latents; a model that says nothing of its codec is given Wan2.2's."""
    return (WAN_MEAN, WAN_STD) if codec is None else (codec.mean, codec.std)

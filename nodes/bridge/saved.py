"""Models that ComfyUI's own ModelSave wrote, read again.

It writes weights under its own prefix and no metadata of ours, so the model adds one tensor to them: its metadata as bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from ...harmony_core.config import HarmonyConfig
from ...harmony_core.weights.checkpoint import Checkpoint, CodecConfigs, load_checkpoint
from ...harmony_core.weights.files import read_header, read_tensors

KEY = "harmony.metadata"
PREFIX = "model.diffusion_model."


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
    metadata = json.loads(bytes(tensors.pop(KEY).tolist()))
    return Checkpoint(
        config=HarmonyConfig.from_metadata(metadata),
        codecs=CodecConfigs.from_metadata(metadata),
        tensors={key.removeprefix(PREFIX): value for key, value in tensors.items()},
        metadata={**rest, **metadata},
    )


def with_codecs_it_holds(checkpoint: Checkpoint) -> Checkpoint:
    """Without the configs of codecs whose weights are elsewhere: they were saved for their statistics."""
    holds_video = any(key.startswith("video_vae.") for key in checkpoint.tensors)
    holds_audio = any(key.startswith("audio_vae.") for key in checkpoint.tensors)
    codecs = checkpoint.codecs
    kept = CodecConfigs(video=codecs.video if holds_video else None, audio=codecs.audio if holds_audio else None)
    return replace(checkpoint, codecs=kept)

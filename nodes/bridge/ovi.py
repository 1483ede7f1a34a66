"""Ovi in ComfyUI: its files as a checkpoint of ours, and what a model of one prompt is told.

A file is read once and its tensors keep their precision. Matrices in scaled eight bits become ComfyUI's quantised layers, which
its own operations compute with; what they do not know, such as quanto's whole numbers, is made plain.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from ...harmony_core.encoders.prompts import PromptFormat, ovi_prompt
from ...harmony_core.weights.checkpoint import Checkpoint, CodecConfigs
from ...harmony_core.weights.files import read_tensors
from ...harmony_core.weights.ovi import NOT_DREAMID, OviFiles, OviSize, to_harmony
from ...harmony_core.weights.quantise import EIGHT_BITS, FORMAT, SCALE, Stored, find_weights, is_matrix, plain_pieces
from ...harmony_core.weights.stream import Entry
from . import told
from .encode import Spoken, caption_of
from .latent import named
from .model import harmony_model
from .stored import NOTE

log = logging.getLogger(__name__)

BY_NAME = "by file name"
"""The widget's choice that leaves a size to the file's name."""
_FULL_PRECISION = {"format": FORMAT, "full_precision_matrix_mult": True}


def read_ovi(path: Path, other_half: Path | None, size: str = BY_NAME) -> Checkpoint:
    """Ovi's weights by our keys, with the config they say.

    Args:
        path: of both towers, or of one of them.
        other_half: of the other one.
        size: which of the published models it is, or :data:`BY_NAME`.

    Raises:
        ValueError: a file is broken or not Ovi's, a tower is missing or given twice, or nothing says the size.
    """
    with named("checkpoint, other_half", "; both are files of Ovi, or other_half is none"):
        files = OviFiles(path, other_half)
    given = None if size == BY_NAME else cast("OviSize", size)
    with named("ovi_size"):
        config = files.config(given)
    where = " and ".join(file.name for file in files.paths)
    if files.dreamid:
        log.warning("Harmony: %s: %s; it runs as Ovi does", where, NOT_DREAMID)
    elif given is None:
        log.info("Harmony: %s is taken for Ovi's %s, by its name", where, files.size)
    weights: dict[str, Tensor] = {}
    for file in files.paths:
        weights |= _weights(file)
    return Checkpoint(config=config, codecs=CodecConfigs(), tensors=weights, metadata={})


def _weights(path: Path) -> dict[str, Tensor]:
    tensors, metadata = read_tensors(path)
    entries = {key: Entry(tuple(value.shape), value.dtype) for key, value in tensors.items()}
    found = to_harmony(find_weights(entries, metadata, tensors.__getitem__, str(path)))
    dtype = _dtype_of_plain(found)
    weights: dict[str, Tensor] = {}
    for key, stored in found.items():
        value = tensors[stored.key]
        scale = None if stored.scale is None else tensors[stored.scale]
        if scale is not None and _stays(key, stored.entry, scale):
            layer = key.removesuffix(".weight")
            weights[layer + SCALE] = scale.float().reshape(())
            weights[layer + NOTE] = torch.tensor(list(json.dumps(_FULL_PRECISION).encode()), dtype=torch.uint8)
        elif scale is not None:
            (value,) = plain_pieces([value], scale)
            value = value.to(dtype)
        weights[key] = value
    return weights


def _stays(key: str, entry: Entry, scale: Tensor) -> bool:
    """Whether ComfyUI's operations compute with it as it is."""
    return entry.dtype == EIGHT_BITS and scale.numel() == 1 and key.endswith(".weight") and is_matrix(key, entry)


def _dtype_of_plain(weights: Mapping[str, Stored]) -> torch.dtype:
    """Of most values that are not in eight bits; bfloat16 where all are."""
    counts: dict[torch.dtype, int] = {}
    for stored in weights.values():
        if stored.entry.dtype.is_floating_point and stored.entry.dtype.itemsize > 1:
            counts[stored.entry.dtype] = counts.get(stored.entry.dtype, 0) + prod(stored.entry.shape)
    return max(counts, key=lambda dtype: counts[dtype], default=torch.bfloat16)


def has_one_prompt(patcher: Any) -> bool:
    """Whether both streams of a MODEL are told one prompt with everything in it.

    Raises:
        ValueError: it is another kind of model.
    """
    return harmony_model(patcher).config.one_prompt


def encode_prompt(
    patcher: Any, clip: Any, *, picture: str, sound: str, transcript: str, voice: Any, apart: bool
) -> tuple[list[list[Any]], Spoken]:
    """What a model of one prompt is told about a clip, and that prompt.

    Args:
        patcher: a MODEL for which :func:`has_one_prompt`.
        clip: umT5.
        picture: what is seen; it may hold speech and a sound by itself.
        sound: what is heard.
        transcript: what is said.
        voice: nothing, for such a model has no place for it.
        apart: tell picture and sound each their own text instead.

    Raises:
        ValueError: a voice is given, the texts make no prompt, it is too long, or what encodes it is another model's.
    """
    config = harmony_model(patcher).config
    if voice is not None:
        raise ValueError("voice: this model takes no reference voice; disconnect it, and describe the voice in words")
    if apart:
        if transcript.strip():
            raise ValueError("transcript: with apart there is no prompt it could stand in; leave it empty, or switch apart off")
        seen = caption_of(clip, picture, config.video, "picture")
        heard = caption_of(clip, sound, config.audio, "sound")
        shown = Spoken(report=f"picture: {picture.strip()}\nsound: {sound.strip()}")
    else:
        with named("picture, sound, transcript"):
            prompt = ovi_prompt(picture, sound, transcript, cast("PromptFormat", config.prompt))
        seen = heard = caption_of(clip, prompt, config.video, "picture, sound, transcript")
        shown = Spoken(symbols=prompt, report=prompt)
    # Such a model has no "nothing": an empty text is encoded and told.
    return told.entry(seen, untold=False, sound=heard, transcript=None, reference=None), shown

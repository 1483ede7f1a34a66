"""Ovi in ComfyUI: its files as a checkpoint of ours, and what a model of one prompt is told.

A file is read once and its tensors keep their precision. Matrices in scaled eight bits become ComfyUI's quantised layers, which
its own operations compute with; what they do not know, such as quanto's whole numbers, is made plain.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from ...harmony_core.encoders.prompts import PromptFormat, ovi_prompt
from ...harmony_core.models.harmony import Harmony
from ...harmony_core.runtime import Runtime
from ...harmony_core.weights.checkpoint import Checkpoint, CodecConfigs
from ...harmony_core.weights.files import check_keys, read_tensors
from ...harmony_core.weights.ovi import NOT_DREAMID, SIZES, OviFiles, OviSize, to_harmony, to_ovi, towers_of
from ...harmony_core.weights.quantise import EIGHT_BITS, FORMAT, SCALE, Stored, find_weights, is_matrix, plain_pieces
from ...harmony_core.weights.stream import Entry, open_tensors
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
    where = "checkpoint" if other_half is None else "checkpoint, other_half"
    _refuse_alone(path, other_half)
    with named(where):
        files = OviFiles(path, other_half)
    given = None if size == BY_NAME else cast("OviSize", size)
    with named("ovi_size"):
        given = files.which(given)
    with named(where):
        config = files.config(given)
        wanted = {key: tuple(value.shape) for key, value in Harmony(config, Runtime(device="meta")).state_dict().items()}
        check_keys(to_ovi(wanted), to_ovi(files.shapes), what="Ovi's model")
    names = " and ".join(file.name for file in files.paths)
    if files.dreamid:
        log.warning("Harmony: %s: %s; it runs as Ovi does", names, NOT_DREAMID)
    elif size == BY_NAME:
        log.info("Harmony: %s is taken for Ovi's %s, by its name", names, given)
    weights: dict[str, Tensor] = {}
    for file in files.paths:
        tensors, _ = read_tensors(file)
        weights |= _weights(file, tensors.__getitem__)
    return Checkpoint(config=config, codecs=CodecConfigs(), tensors=weights, metadata={})


def _refuse_alone(path: Path, other_half: Path | None) -> None:
    """Ask for the other half where there is one tower."""
    towers = towers_of(open_tensors(path).entries)
    if other_half is None and len(towers) == 1:
        (tower,) = towers
        raise ValueError(
            f"other_half: {path.name} holds Ovi's {tower.value} tower alone; choose the file of its {tower.other.value} tower, "
            "published beside it"
        )


def header_of_ovi(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Ovi's weights as :func:`read_ovi` gives them, without their values, and its config as metadata.

    Raises:
        ValueError: the file is broken or a half.
    """
    files = OviFiles(path)
    source = open_tensors(path)

    def empty(key: str) -> Tensor:
        return torch.empty(source.entries[key].shape, dtype=source.entries[key].dtype, device="meta")

    # Nothing that is asked of a header depends on the size, which decides the format of prompts.
    return _weights(path, empty), files.config(files.size or SIZES[0]).to_metadata()


def _weights(path: Path, tensor: Callable[[str], Tensor]) -> dict[str, Tensor]:
    """The weights of a file by our keys; ``tensor`` gives a tensor of it by its own."""
    source = open_tensors(path)
    found = to_harmony(find_weights(source.entries, source.metadata, source.read, str(path)))
    dtype = _dtype_of_plain(found)
    weights: dict[str, Tensor] = {}
    for key, stored in found.items():
        value = tensor(stored.key)
        scale = None if stored.scale is None else tensor(stored.scale)
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
        shown = Spoken(report="picture and sound are told apart")
    else:
        with named("picture, sound, transcript"):
            prompt = ovi_prompt(picture, sound, transcript, cast("PromptFormat", config.prompt))
        seen = heard = caption_of(clip, prompt, config.video, "picture, sound, transcript")
        shown = Spoken(symbols=prompt, report=prompt)
    # Such a model has no "nothing": an empty text is encoded and told.
    return told.entry(seen, untold=False, sound=heard, transcript=None, reference=None), shown

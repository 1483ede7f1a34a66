"""Ovi's weights: every published form of them to our joint model, and back to their names.

=====================================  ================================================================================
form                                   keys
=====================================  ================================================================================
one file, Ovi's own                    ``video_model.*``, ``audio_model.*``; a pickle may hold them under ``module`` or ``app``
two files                              video without a prefix; audio likewise or under ``audio_model.``
modulation of a block                  ``blocks.N.modulation.modulation``, in some two-file forms ``blocks.N.modulation``
8 bits as they are                     float8 weights, no scales
8 bits scaled                          float8 weights, each with ``scale_weight`` or ``weight_scale``; a marker ``scaled_fp8``
8 bits of quanto                       int8 (or float8) ``weight._data`` with ``weight._scale``
=====================================  ================================================================================

A file is looked at by its header, then read a piece of a tensor at a time, each made plain at once: nothing is held twice.

The three published models have the same keys and shapes, and prompts of two formats. Which one a file is can only be told by
the user or by the file's name; it is never guessed. DreamID-Omni has Ovi's keys and shapes too, and is known by name alone.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Literal, TypeVar, get_args

import torch
from torch import Tensor

from ..config import FORMAT_KEY, BranchConfig, HarmonyConfig, InteractionConfig
from ..geometry import ClipSpec, Grid
from ..inputs import named
from ..layers.rope import split_channels
from ..models.harmony import Harmony
from ..runtime import Runtime
from ..types import Modality
from .files import check_keys
from .quantise import Stored, find_weights, plain_pieces
from .stream import TensorSource, open_tensors

T = TypeVar("T")

logger = logging.getLogger(__name__)

OviSize = Literal["720x720_5s", "960x960_5s", "960x960_10s"]
"""The published models, by the pictures and the length they were trained for."""
SIZES: tuple[OviSize, ...] = get_args(OviSize)
ROPE_SCALE = 0.19676
"""Of the sound's rotary frequencies: about video latents per audio latent, 6 / 31.25 a second."""
HEAD_DIM = 128
TEXT_LEN = 512

_PREFIX = {Modality.VIDEO: "video_model.", Modality.AUDIO: "audio_model."}
_CONTAINERS = ("model.diffusion_model.", "diffusion_model.")
_FUSION = {
    "pre_attn_norm_fusion": "norm_source",
    "k_fusion": "attn.k",
    "v_fusion": "attn.v",
    "norm_k_fusion": "attn.norm_k",
}
_OURS = {ours: theirs for theirs, ours in _FUSION.items()}
_FUSED = re.compile(rf"blocks\.(\d+)\.cross_attn\.({'|'.join(_FUSION)})\.(.+)")
_LINK = re.compile(rf"interaction\.layers\.(\d+)\.to_(video|audio)\.main\.({'|'.join(map(re.escape, _OURS))})\.(.+)")
_DOUBLED = re.compile(r"(blocks\.\d+\.modulation)\.modulation\b")
_SINGLE = re.compile(r"(blocks\.\d+\.modulation)\b")
_BLOCK = re.compile(r"blocks\.(\d+)\.")
_MARKER = "scaled_fp8"
_NAMES: tuple[tuple[str, OviSize], ...] = (
    (r"960x960.?10s", "960x960_10s"),
    (r"960x960(?!.?10s)", "960x960_5s"),
    (r"720x720", "720x720_5s"),
    (r"^model(_fp8_e4m3fn)?\.safetensors$", "720x720_5s"),
    (r"^wan_?2.[12]_ovi_video_model(?!.*960)", "720x720_5s"),
    (r"^wan2\.2_ovi_video_10b", "720x720_5s"),
)
_DREAMID = re.compile(r"dreamid", re.IGNORECASE)


# ---- names


def is_ovi(keys: Collection[str]) -> bool:
    """Whether these are keys of Ovi, whole or a half: a tower's prefix, or attention to the other tower."""
    return any(key.startswith(tuple(_PREFIX.values())) or ".cross_attn.k_fusion." in key for key in map(_bare, keys))


def towers_of(keys: Iterable[str]) -> frozenset[Modality]:
    """Whose keys these are: those under a prefix say so, others are the sound's if its embedding is a row of layers."""
    bare = [_bare(key) for key in keys]
    found = {m for m, prefix in _PREFIX.items() if any(key.startswith(prefix) for key in bare)}
    if any(_BLOCK.match(key) for key in bare):
        found.add(_prefix_free(bare))
    return frozenset(found)


def to_harmony(tensors: Mapping[str, T]) -> dict[str, T]:
    """Rename one file's tensors to our names; what is stored beside a weight (its scale) stays beside it.

    Args:
        tensors: by Ovi's key, in any of the published forms; values are not looked at.

    Returns:
        By our key: ``video.*``, ``audio.*``, ``interaction.*``. A marker ``scaled_fp8`` keeps that name.
    """
    rest = _prefix_free([_bare(key) for key in tensors])
    renamed: dict[str, T] = {}
    for key, value in tensors.items():
        bare = _bare(key)
        tower = next((m for m, prefix in _PREFIX.items() if bare.startswith(prefix)), rest)
        bare = bare.removeprefix(_PREFIX[tower])
        renamed[_MARKER if bare == _MARKER else _to_ours(bare, tower)] = value
    return renamed


def to_ovi(tensors: Mapping[str, T], *, split: bool = False) -> dict[str, T]:
    """Rename from our names to Ovi's; :func:`to_harmony` undoes it.

    Args:
        tensors: by our key.
        split: the names of the two-file form: video without a prefix, modulations not doubled.

    Raises:
        ValueError: a key is of something that Ovi does not have.
    """
    return {_to_theirs(key, split=split): value for key, value in tensors.items()}


def _bare(key: str) -> str:
    for container in _CONTAINERS:
        if key.startswith(container):
            return key.removeprefix(container)
    return key


def _prefix_free(bare: Iterable[str]) -> Modality:
    """The tower of keys without a prefix."""
    return Modality.AUDIO if any(key.startswith("patch_embedding.0.") for key in bare) else Modality.VIDEO


def _to_ours(key: str, tower: Modality) -> str:
    fused = _FUSED.fullmatch(key)
    if fused:
        return f"interaction.layers.{fused[1]}.to_{tower.value}.main.{_FUSION[fused[2]]}.{fused[3]}"
    return f"{tower.value}." + _DOUBLED.sub(r"\1", key)


def _to_theirs(key: str, *, split: bool) -> str:
    link = _LINK.fullmatch(key)
    if link:
        tower, rest = Modality(link[2]), f"blocks.{link[1]}.cross_attn.{_OURS[link[3]]}.{link[4]}"
    elif key == _MARKER:
        return key
    else:
        part, _, rest = key.partition(".")
        if part not in {m.value for m in Modality}:
            raise ValueError(f"Ovi has nothing like {key}")
        tower = Modality(part)
    if not split:
        rest = _SINGLE.sub(r"\1.modulation", rest)
    return rest if split and tower is Modality.VIDEO else _PREFIX[tower] + rest


# ---- which of the published models


def size_of(names: Iterable[str]) -> OviSize | None:
    """The published model whose files have such names, if these are known; None where they say nothing or disagree."""
    found = {size for name in names for pattern, size in _NAMES if re.search(pattern, name, re.IGNORECASE)}
    return found.pop() if len(found) == 1 else None


def is_dreamid(names: Iterable[str]) -> bool:
    """Whether these names are DreamID-Omni's: its keys and shapes are Ovi's, only names tell them apart."""
    return any(_DREAMID.search(name) for name in names)


def trained_on(size: OviSize, config: HarmonyConfig) -> ClipSpec:
    """The clip a published model was trained for: a square of its area, on the codecs' grid."""
    side = int(size.partition("x")[0]) // config.grid.size_multiple * config.grid.size_multiple
    return ClipSpec(frames=241 if size.endswith("10s") else 121, height=side, width=side, fps=config.fps, grid=config.grid)


def config_of(shapes: Mapping[str, tuple[int, ...]], size: OviSize) -> HarmonyConfig:
    """The config whose model has tensors of these shapes.

    The width of a head, 128, and the length of a text, 512, show in no shape; they are as published.

    Args:
        shapes: by our key.
        size: which of the published models, for the format of its prompts.

    Raises:
        ValueError: a tensor that says a size is missing, or they fit no model.
    """
    try:
        video, audio = (_branch(shapes, m) for m in Modality)
    except (KeyError, IndexError, ZeroDivisionError) as error:
        raise ValueError(f"these shapes are no Ovi model's: {error}") from error
    return HarmonyConfig(
        video=video,
        audio=audio,
        interaction=InteractionConfig(kind="fused", style=False),
        grid=Grid(video_channels=video.channels, audio_channels=audio.channels, patch=video.patch[1]),
        driver_isolation=False,
        prompt="ovi-720" if size.startswith("720") else "ovi-960",
    )


def _branch(shapes: Mapping[str, tuple[int, ...]], m: Modality) -> BranchConfig:
    part, video = m.value, m is Modality.VIDEO
    embedding = shapes[f"{part}.patch_embedding.weight" if video else f"{part}.patch_embedding.0.weight"]
    dim = embedding[0]
    if dim % HEAD_DIM:
        raise ValueError(f"these shapes are no Ovi model's: its {part} tower is {dim} wide, which {HEAD_DIM} does not divide")
    return BranchConfig(
        channels=embedding[1],
        patch=(1, *embedding[3:5]) if video else (1,),
        dim=dim,
        heads=dim // HEAD_DIM,
        layers=1 + max(int(n[1]) for key in shapes if key.startswith(f"{part}.") and (n := _BLOCK.search(key))),
        ffn=shapes[f"{part}.blocks.0.ffn.0.weight"][0],
        text_dim=shapes[f"{part}.text_embedding.0.weight"][1],
        text_len=TEXT_LEN,
        freq_dim=shapes[f"{part}.time_embedding.0.weight"][1],
        rope_axes=split_channels(HEAD_DIM) if video else split_channels(HEAD_DIM)[:1],
        rope_scale=1.0 if video else ROPE_SCALE,
        embedding="conv" if video else "conv_mlp",
    )


# ---- files


@dataclass(frozen=True)
class _Weight:
    """A weight in an open file."""

    source: TensorSource
    stored: Stored

    def read(self, dtype: torch.dtype, device: torch.device | str | None) -> Tensor:
        """All of it, plain, a piece at a time: no second copy is made on the way."""
        scale = None if self.stored.scale is None else self.source.read(self.stored.scale)
        value: Tensor | None = None
        row = 0
        for piece in plain_pieces(self.source.pieces(self.stored.key), scale):
            if piece.shape == self.stored.entry.shape:
                return piece.to(device, dtype)  # as it was read: a copy would leave holes in the memory
            if value is None:
                value = torch.empty(self.stored.entry.shape, dtype=dtype, device=device)
            value[row : row + piece.shape[0]].copy_(piece)
            row += piece.shape[0]
        assert value is not None, self.stored
        return value


class OviFiles:
    """Ovi's weights in a file or two, opened by their headers.

    Attributes:
        paths: of the files.
        size: which of the published models they are, by their names; None where those say nothing.
        dreamid: whether they are DreamID-Omni's, by their names.
    """

    def __init__(self, path: str | Path, audio_path: str | Path | None = None) -> None:
        """Open them.

        Args:
            path: a file with both towers, or with one of them; a ``.safetensors`` file, an index beside its shards, or a
                pickle of tensors.
            audio_path: the file of the other tower, in either order.

        Raises:
            ValueError: a file is missing, broken or not Ovi's, is in eight bits of a form that is not read, or a tower is
                missing or given twice.
        """
        self.paths = tuple(Path(p) for p in (path, audio_path) if p is not None)
        self._weights: dict[str, _Weight] = {}
        owners: dict[Modality, Path] = {}
        names = [path.name for path in self.paths]
        for given in self.paths:
            source = open_tensors(given)
            if not is_ovi(source.entries):
                raise ValueError(f"{given} holds no weights of Ovi: no tower under a prefix and no attention between towers")
            for tower in towers_of(source.entries):
                if tower in owners:
                    raise ValueError(f"both {owners[tower]} and {given} hold Ovi's {tower.value} tower: give one of them")
                owners[tower] = given
            self._weights |= _weights(source, given)
            names += [source.metadata[key] for key in ("modelspec.title", "modelspec.resolution") if key in source.metadata]
        for tower in Modality:
            if tower not in owners:
                raise ValueError(
                    f"{self.paths[0]} holds Ovi's {tower.other.value} tower alone: give the file of its {tower.value} tower too"
                )
        self.dreamid = is_dreamid(names)
        self.size = None if self.dreamid else size_of(names)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the weights by our key."""
        return {key: weight.stored.entry.shape for key, weight in self._weights.items()}

    def config(self, size: OviSize | None = None) -> HarmonyConfig:
        """The model's config.

        Args:
            size: which of the published models; by the files' names where not given.

        Raises:
            ValueError: it is given nowhere, or the shapes are no model's.
        """
        return config_of(self.shapes, self.which(size))

    def which(self, size: OviSize | None = None) -> OviSize:
        """Which of the published models it is, as given or by the files' names.

        Raises:
            ValueError: neither says it.
        """
        if size is not None and size not in SIZES:
            raise ValueError(f"Ovi's models are {', '.join(SIZES)}, got {size!r}")
        if size is None and self.dreamid:
            raise ValueError(f"{self._where} is DreamID-Omni's, by its name: {NOT_DREAMID}; name an Ovi size to run it as Ovi")
        size = size or self.size
        if size is None:
            raise ValueError(
                f"the name of {self._where} does not say which of Ovi's models it is, and its prompts depend on it: "
                f"say {', '.join(SIZES[:-1])} or {SIZES[-1]}"
            )
        return size

    def load(self, size: OviSize | None = None, *, runtime: Runtime | None = None) -> Harmony:
        """Build the model, tensor by tensor; see :func:`load_ovi`."""
        runtime = runtime or Runtime()
        model = Harmony(self.config(size), replace(runtime, device="meta", dtype=None))
        wanted = {key: tuple(value.shape) for key, value in model.state_dict().items()}
        check_keys(to_ovi(wanted), to_ovi(self.shapes), what=f"Ovi's model ({self._where})")
        if self.dreamid:
            logger.warning("%s: %s; it runs as Ovi does", self._where, NOT_DREAMID)
        dtype = runtime.dtype or self._dtype()
        state = {key: self._weights[key].read(dtype, runtime.device) for key in wanted}
        model.load_state_dict(state, strict=True, assign=True)
        return model.requires_grad_(False).eval()

    def _dtype(self) -> torch.dtype:
        """Of most values; bfloat16 where those are in eight bits."""
        counts: Counter[torch.dtype] = Counter()
        for weight in self._weights.values():
            counts[weight.stored.entry.dtype] += prod(weight.stored.entry.shape)
        most = counts.most_common(1)[0][0]
        dtype = most if most in {torch.float32, torch.float16, torch.bfloat16} else torch.bfloat16
        if len(counts) > 1:
            logger.info("%s has weights of several dtypes; the model is built in %s", self._where, dtype)
        return dtype

    @property
    def _where(self) -> str:
        return " and ".join(map(str, self.paths))


def _weights(source: TensorSource, path: Path) -> dict[str, _Weight]:
    """The weights of a file by our key."""
    found = find_weights(source.entries, source.metadata, source.read, str(path))
    for stored in found.values():
        if stored.scale is None and not stored.entry.dtype.is_floating_point:
            raise ValueError(
                f"{named(path)}: {stored.key} holds whole numbers, which no weight of Ovi is; give the file in bf16"
            )
    return {key: _Weight(source, stored) for key, stored in to_harmony(found).items()}


def holds_ovi(path: str | Path) -> bool:
    """Whether a file is Ovi's or a half of it, by its header; a checkpoint of ours is not.

    Raises:
        ValueError: the file is missing or broken.
    """
    source = open_tensors(path)
    return FORMAT_KEY not in source.metadata and is_ovi(source.entries)


NOT_DREAMID = "its reference pictures and voices, latents at the end of each stream, are not supported here"


def load_ovi(
    path: str | Path,
    audio_path: str | Path | None = None,
    *,
    size: OviSize | None = None,
    runtime: Runtime | None = None,
) -> Harmony:
    """Load Ovi for use, without gradients, from any of its published forms.

    Weights in eight bits are made plain as they are read. Memory is that of the finished model and of a piece of a tensor.

    Args:
        path: a file with both towers, or with the video tower.
        audio_path: the file of the audio tower, in the two-file form.
        size: which of the three published models it is, which decides the format of prompts; by the file's name where that
            is one of the published names.
        runtime: layers, device and dtype; without a dtype, that of most of the file's values, bfloat16 for eight bits.

    Raises:
        ValueError: a file cannot be read, is not Ovi's, or is in eight bits of a form that is not known; a tower is missing;
            weights are missing, left over or of another shape; or the size is given nowhere.
    """
    files = OviFiles(path, audio_path)
    if size is None and files.size is not None:
        logger.info("%s is taken for Ovi's %s, by its name", path, files.size)
    return files.load(size, runtime=runtime)

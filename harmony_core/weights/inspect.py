"""What a weights file is, from its header alone: no tensor of a ``.safetensors`` file is read.

A file that says what it is in its metadata is believed; any other is known by the names and shapes of its tensors, and what
is not known is said to be so.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import safe_open

from ..codecs.video_vae import PRESETS as VIDEO_PRESETS
from ..config import CONFIG_KEY, FORMAT_KEY, HarmonyConfig
from ..geometry import ClipSpec
from .checkpoint import AUDIO_CODEC_KEY, CODEC_PARTS, MODEL_PARTS, VIDEO_VAE_KEY, CodecConfigs
from .files import read_header, read_tensors, shard_names
from .keymap import WanLayout, detect_layout, to_original
from .latents import LATENTS_KEY
from .trained import trained_clip
from .video_vae import config_of

_CONFIG_KEYS = {FORMAT_KEY, CONFIG_KEY, VIDEO_VAE_KEY, AUDIO_CODEC_KEY}
_INDEX = ".safetensors.index.json"
_DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3", "F8_E5M2": "float8_e5m2",
    "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip
_SHOWN, _LONGEST_NAME = 8, 40
_WAN_5B = (3072, 48, 30)
_LORA = re.compile(r"\.(lora_[ABab]|lora_up|lora_down|lora\.up|lora\.down)\b")
_LORA_DOWN = re.compile(r"\.(lora_[Aa]|lora_down|lora\.down)\b")
_BLOCK = re.compile(r"blocks\.(\d+)\.")
_SCALES = (".scale_weight", ".weight_scale", "scaled_fp8")


class Entry(NamedTuple):
    """A tensor as a header lists it."""

    shape: tuple[int, ...]
    dtype: str


Header = Mapping[str, Entry]


@dataclass(frozen=True, kw_only=True)
class Part:
    """Tensors whose keys begin alike.

    Attributes:
        name: what they begin with.
        tensors: number of them.
        parameters: number of values in them.
        dtypes: of those values, most frequent first.
    """

    name: str
    tensors: int
    parameters: int
    dtypes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Description:
    """What is known of a weights file.

    Attributes:
        path: of the file, or of the index of its shards.
        kind: ``harmony``, ``codec``, ``video-vae``, ``audio-codec``, ``wan``, ``ovi``, ``lora``, ``latents``, ``judges`` or
            ``unknown``.
        what: the same in words, with what was recognised.
        files: number of files.
        size: bytes of all of them.
        tensors: number of them.
        parameters: number of values in them.
        dtypes: of those values, most frequent first.
        parts: the tensors by their keys' beginnings.
        metadata: the file's, without the configs.
        config: of a Harmony model; None for anything else.
        codecs: configs of the codecs in the file.
        clip: the clip it was trained on, where the file says so.
    """

    path: Path
    kind: str
    what: str
    files: int
    size: int
    tensors: int
    parameters: int
    dtypes: tuple[str, ...]
    parts: tuple[Part, ...]
    metadata: Mapping[str, str]
    config: HarmonyConfig | None = None
    codecs: CodecConfigs = CodecConfigs()  # noqa: RUF009 - an immutable value
    clip: ClipSpec | None = None


def inspect(path: str | Path) -> Description:
    """Say what a weights file is.

    Args:
        path: a ``.safetensors`` file, an index beside its shards, or a pickle of tensors.

    Raises:
        ValueError: the file is missing, empty, truncated or no weights file, or is a Harmony checkpoint whose metadata this
            version of the software does not read.
    """
    path = Path(path)
    _check_file(path)
    files = [path.parent / name for name in shard_names(path)] if path.name.endswith(_INDEX) else [path]
    header: dict[str, Entry] = {}
    metadata: dict[str, str] = {}
    for file in files:
        if not file.is_file():
            raise ValueError(f"{path} lists the shard {file.name}, which is not beside it")
        entries, texts = _read(file)
        header |= entries
        metadata |= texts
    config, codecs, clip = _configs(path, metadata)
    kind, what = _recognise(header, metadata, config, codecs)
    total = _part("", header)
    return Description(
        path=path,
        kind=kind,
        what=what,
        files=len(files),
        size=sum(file.stat().st_size for file in files),
        tensors=total.tensors,
        parameters=total.parameters,
        dtypes=total.dtypes,
        parts=_parts(header),
        metadata={key: text for key, text in metadata.items() if key not in _CONFIG_KEYS},
        config=config,
        codecs=codecs,
        clip=clip,
    )


def _check_file(path: Path) -> None:
    if path.is_dir():
        raise ValueError(f"{path} is a folder; name the file in it")
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty")


def _read(path: Path) -> tuple[Header, dict[str, str]]:
    """Names, shapes, dtypes and metadata."""
    if path.suffix != ".safetensors":
        tensors, metadata = read_tensors(path, mapped=True)
        return {key: Entry(tuple(t.shape), str(t.dtype).removeprefix("torch.")) for key, t in tensors.items()}, metadata
    shapes, metadata = read_header(path)  # which refuses a broken file
    with safe_open(str(path), framework="pt") as file:
        codes = {key: str(file.get_slice(key).get_dtype()) for key in shapes}
    return {key: Entry(shape, _DTYPES.get(codes[key], codes[key])) for key, shape in shapes.items()}, metadata


def _configs(path: Path, metadata: dict[str, str]) -> tuple[HarmonyConfig | None, CodecConfigs, ClipSpec | None]:
    try:
        codecs = CodecConfigs.from_metadata(metadata)
        if FORMAT_KEY not in metadata and CONFIG_KEY not in metadata:
            return None, codecs, None
        config = HarmonyConfig.from_metadata(metadata)
        return config, codecs, trained_clip(config, metadata)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _recognise(
    header: Header, metadata: Mapping[str, str], config: HarmonyConfig | None, codecs: CodecConfigs
) -> tuple[str, str]:
    """The kind of a file, and its name in words."""
    carried = [name for name, codec in (("video", codecs.video), ("audio", codecs.audio)) if codec is not None]
    if config is not None:
        with_codecs = f"with its {' and '.join(carried)} codec{'s' * (len(carried) > 1)}" if carried else "without codecs"
        return "harmony", f"a Harmony checkpoint of format {metadata[FORMAT_KEY]}, {with_codecs}"
    if carried:
        return "codec", f"a Harmony {' and '.join(carried)} codec"
    if LATENTS_KEY in metadata:
        return "latents", "latents of a clip generated by Harmony"
    for kind, rule in _RULES:
        what = rule(header)
        if what is not None:
            return kind, what
    return "unknown", "nothing known here; its keys begin with " + _beginnings(header)


def _lora(header: Header) -> str | None:
    if not any(_LORA.search(key) for key in header):
        return None
    down = {key: entry for key, entry in header.items() if _LORA_DOWN.search(key) and entry.shape}
    ranks = sorted({min(entry.shape[:2]) for entry in down.values()})
    rank = f" of rank {ranks[0]}" if len(ranks) == 1 else f" of ranks {ranks[0]} to {ranks[-1]}" if ranks else ""
    return f"a LoRA{rank} for {len(down)} layers, not a model by itself; its keys begin with {_beginnings(header)}"


def _ovi(header: Header) -> str | None:
    towers = [tower for tower in ("video", "audio") if any(key.startswith(f"{tower}_model.") for key in header)]
    fused = any(".k_fusion." in key for key in header)
    if not towers and not fused:
        return None
    of = f"its {' and '.join(towers)} tower{'s' * (len(towers) > 1)}" if towers else "its video tower alone"
    return f"weights in Ovi's names, {of}{'' if fused else ', without fusion'}{_quantised(header)}"


def _wan(header: Header) -> str | None:
    try:
        layout = detect_layout(header)
    except ValueError:
        return None
    keys = to_original(header, layout)
    embedding = keys.get("patch_embedding.weight", Entry((), "")).shape
    layers = 1 + max((int(m[1]) for key in keys if (m := _BLOCK.match(key))), default=-1)
    names = {WanLayout.ORIGINAL: "its original", WanLayout.DIFFUSERS: "diffusers'"}.get(layout, f"{layout.value}*")
    if len(embedding) > 1 and (*embedding[:2], layers) == _WAN_5B:
        return f"Wan2.2-TI2V-5B's video transformer, in {names} names{_quantised(header)}"
    size = f"dim {embedding[0]}, {embedding[1]} channels, " if len(embedding) > 1 else ""
    return f"a transformer of Wan's design but not TI2V-5B: {size}{layers} layers, in {names} names{_quantised(header)}"


def _video_vae(header: Header) -> str | None:
    marks = {"encoder.conv1.weight": "its original", "encoder.conv_in.weight": "diffusers'"}
    names = next((names for key, names in marks.items() if key in header and len(header[key].shape) == 5), None)
    if names is None:
        return None
    norms = {key: torch.empty(e.shape, device="meta") for key, e in header.items() if key.endswith("gamma")}
    try:
        found = config_of(norms)
    except ValueError as error:
        return f"a video VAE of Wan's design but not Wan2.2's: {str(error).partition(': ')[2]}"
    name = next(name for name, config in VIDEO_PRESETS.items() if config == found)
    size = "Wan2.2's video VAE" if name == "wan2.2" else f"a video VAE of Wan2.2's design in the {name} size"
    return f"{size}, in {names} names"


def _audio_codec(header: Header) -> str | None:
    vae = header.get("decoder.conv_in.weight")
    if vae is not None and len(vae.shape) == 3:
        return f"an audio VAE in MMAudio's names, of {vae.shape[1]} latent channels (16 kHz: 20), without a vocoder"
    if any(key.startswith("conv_pre.") for key in header) and any(key.startswith("ups.") for key in header):
        return "a BigVGAN vocoder, without a VAE"
    for vae_prefix, whose in (("vae.", "ComfyUI's"), ("audio_vae.", "Harmony's")):
        if all(any(key.startswith(prefix) for key in header) for prefix in (vae_prefix, "vocoder.")):
            return f"an audio VAE with its vocoder, in {whose} names"
    return None


def _judges(header: Header) -> str | None:
    return "the small world's judges" if {key.partition(".")[0] for key in header} == {"listener", "syncnet"} else None


def _nameless(header: Header) -> str | None:
    if header and all(key.startswith((*MODEL_PARTS, *CODEC_PARTS)) for key in header):
        return f"tensors in Harmony's names ({_beginnings(header)}) whose metadata lacks the config: no checkpoint by itself"
    return None


_RULES: tuple[tuple[str, Callable[[Header], str | None]], ...] = (
    ("lora", _lora),
    ("ovi", _ovi),
    ("wan", _wan),
    ("video-vae", _video_vae),
    ("audio-codec", _audio_codec),
    ("judges", _judges),
    ("unknown", _nameless),
)
"""In the order they are asked: a LoRA's keys also look like those of what it is for."""


def _quantised(header: Header) -> str:
    return ", quantised with scales beside the weights" if any(key.endswith(_SCALES) for key in header) else ""


def _beginnings(header: Header) -> str:
    counts = sorted(Counter(map(_beginning, header)).items(), key=lambda item: (-item[1], item[0]))
    more = f" and {len(counts) - _SHOWN} others" if len(counts) > _SHOWN else ""
    return (", ".join(f"{name} ({count})" for name, count in counts[:_SHOWN]) or "nothing, there is no tensor") + more


def _beginning(key: str) -> str:
    return key.partition(".")[0][:_LONGEST_NAME]


def _parts(header: Header) -> tuple[Part, ...]:
    groups: dict[str, dict[str, Entry]] = {}
    for key, entry in header.items():
        groups.setdefault(_beginning(key), {})[key] = entry
    return tuple(_part(name, group) for name, group in groups.items())


def _part(name: str, header: Header) -> Part:
    counts: Counter[str] = Counter()
    for entry in header.values():
        counts[entry.dtype] += prod(entry.shape)
    dtypes = tuple(dtype for dtype, _ in counts.most_common())
    return Part(name=name, tensors=len(header), parameters=counts.total(), dtypes=dtypes)

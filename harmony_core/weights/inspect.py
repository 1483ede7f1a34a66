"""What a weights file is, from its header alone: no tensor of a ``.safetensors`` file is read.

A file that says what it is in its metadata is believed; any other is known by the names and shapes of its tensors, and what
is not known is said to be so.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

from ..config import CONFIG_KEY, FORMAT_KEY, HarmonyConfig
from ..geometry import ClipSpec
from ..inputs import is_dir, is_file, named
from ..shown import shown
from . import published
from .checkpoint import AUDIO_CODEC_KEY, VIDEO_VAE_KEY, CodecConfigs
from .files import read_places, read_tensors, shard_names
from .finding import Finding
from .header import Entry, Header, begins, stored
from .latents import LATENTS_KEY
from .published import Piece
from .recognise import recognise
from .trained import trained_clip

_CONFIG_KEYS = {FORMAT_KEY, CONFIG_KEY, VIDEO_VAE_KEY, AUDIO_CODEC_KEY}
_LICENCE_KEY = "modelspec.license"
_INDEX = ".safetensors.index.json"
_SHARD = re.compile(r"(.+)-\d{5}-of-\d{5}\.safetensors")
_DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
    "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip
_FOREIGN = (
    (
        b"GGUF",
        "is GGUF, which is not read here: take the .safetensors it was made from, or a published fp8 file of the same model",
    ),
    (b"version https://git-lfs", "is a pointer of Git LFS: the weights themselves were not downloaded"),
    (b"<!DOCTYPE", "is a web page: the download needed a login or another address"),
    (b"<html", "is a web page: the download needed a login or another address"),
)
"""How files begin that are given as weights and are none."""
_STARTS = 32


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
        kind: ``harmony``, ``codec``, ``video-vae``, ``audio-codec``, ``text-encoder``, ``wan``, ``ovi``, ``lora``,
            ``latents``, ``judges``, ``other`` for what is known and of no use here, or ``unknown``.
        what: the same in words, with what was recognised.
        purpose: what it is good for here; empty where for nothing.
        missing: what else it takes to make clips with it, and where that is published.
        licence: as its metadata says, or of the published weights it looks like; empty where that is not known.
        folder: below ComfyUI's ``models`` folder; empty where no loader there reads it.
        notes: sentences somebody who wants to use it should know.
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
    purpose: str
    missing: tuple[Piece, ...]
    licence: str
    folder: str
    notes: tuple[str, ...]
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
        if not is_file(file):
            raise ValueError(f"{named(path)} lists the shard {shown(file.name)}, which is not beside it")
        entries, texts = _read(file)
        header |= entries
        metadata |= texts
    config, codecs, clip = _configs(path, metadata)
    found = _found(header, path, metadata, config, codecs)
    total = _part("", header)
    return Description(
        path=path,
        kind=found.kind,
        what=found.what,
        purpose=found.purpose,
        missing=found.missing,
        licence=metadata.get(_LICENCE_KEY, found.licence),
        folder=found.folder,
        notes=(*found.notes, *_shard_note(path)),
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
    if is_dir(path):
        raise ValueError(f"{named(path)} is a folder; name the file in it")
    if not is_file(path):
        raise ValueError(f"there is no file {named(path)}")
    if path.stat().st_size == 0:
        raise ValueError(f"{named(path)} is empty")
    with path.open("rb") as file:
        start = file.read(_STARTS)
    for mark, sentence in _FOREIGN:
        if start.startswith(mark):
            raise ValueError(f"{named(path)} {sentence}")


def _shard_note(path: Path) -> tuple[str, ...]:
    shard = _SHARD.fullmatch(path.name)
    return (f"this is one of several shards: give {shard[1]}{_INDEX}, beside them",) if shard else ()


def _read(path: Path) -> tuple[Header, dict[str, str]]:
    """Names, shapes, dtypes and metadata."""
    if path.suffix != ".safetensors":
        tensors, metadata = read_tensors(path, device="meta")  # where torch leaves the values in the file
        return {key: Entry(tuple(t.shape), str(t.dtype).removeprefix("torch.")) for key, t in tensors.items()}, metadata
    places, metadata = read_places(path)  # which refuses a broken file
    return {key: Entry(place.shape, _DTYPES.get(place.code, place.code)) for key, place in places.items()}, metadata


def _configs(path: Path, metadata: dict[str, str]) -> tuple[HarmonyConfig | None, CodecConfigs, ClipSpec | None]:
    try:
        codecs = CodecConfigs.from_metadata(metadata)
        if FORMAT_KEY not in metadata and CONFIG_KEY not in metadata:
            return None, codecs, None
        config = HarmonyConfig.from_metadata(metadata)
        return config, codecs, trained_clip(config, metadata)
    except ValueError as error:
        raise ValueError(f"{named(path)}: {error}") from error


def _found(
    header: Header, path: Path, metadata: Mapping[str, str], config: HarmonyConfig | None, codecs: CodecConfigs
) -> Finding:
    """What the file says it is, or else what its tensors look like."""
    carried = [name for name, codec in (("video", codecs.video), ("audio", codecs.audio)) if codec is not None]
    if config is not None:
        return _checkpoint(header, metadata, config, codecs, carried)
    if carried:
        what = f"a Harmony {' and '.join(carried)} codec"
        missing = (published.MODEL, published.TEXT, *_codecs_missing(codecs))
        return Finding(kind="codec", what=what, purpose="latents to clips and back", missing=missing)
    if LATENTS_KEY in metadata:
        return Finding(kind="latents", what="latents of a clip generated by Harmony", purpose="decoded, or gone on from")
    return recognise(header, path.name)


def _checkpoint(
    header: Header, metadata: Mapping[str, str], config: HarmonyConfig, codecs: CodecConfigs, carried: list[str]
) -> Finding:
    with_codecs = f"with its {' and '.join(carried)} codec{'s' * (len(carried) > 1)}" if carried else "without codecs"
    return Finding(
        kind="harmony",
        what=f"a Harmony checkpoint of format {metadata[FORMAT_KEY]}, {with_codecs}{stored(header)}",
        purpose="makes video and sound together",
        missing=(*(() if config.caption else (published.TEXT,)), *_codecs_missing(codecs)),
        folder="checkpoints" if carried else "diffusion_models",
    )


def _codecs_missing(codecs: CodecConfigs) -> tuple[Piece, ...]:
    sound = () if codecs.audio else (published.AUDIO_VAE, published.VOCODER)
    return (*(() if codecs.video else (published.VIDEO_VAE,)), *sound)


def _parts(header: Header) -> tuple[Part, ...]:
    groups: dict[str, dict[str, Entry]] = {}
    for key, entry in header.items():
        groups.setdefault(begins(key), {})[key] = entry
    return tuple(_part(name, group) for name, group in groups.items())


def _part(name: str, header: Header) -> Part:
    counts: Counter[str] = Counter()
    for entry in header.values():
        counts[entry.dtype] += prod(entry.shape)
    dtypes = tuple(dtype for dtype, _ in counts.most_common())
    return Part(name=name, tensors=len(header), parameters=counts.total(), dtypes=dtypes)

"""Harmony checkpoints: one safetensors file, or shards with an index, that says in its metadata what it is.

Keys begin with the part they belong to: ``video.``, ``audio.``, ``interaction.``, ``speech.``, ``caption.`` and ``null.`` are
the model; ``video_vae.``, ``audio_vae.`` and ``vocoder.`` are codecs that an all-in-one file carries along, with their configs
beside the model's in the metadata.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from ..atomic import replacing
from ..codecs.audio import AudioCodec, AudioCodecConfig
from ..codecs.video_vae import VideoVAE, VideoVAEConfig
from ..config import HarmonyConfig
from ..inputs import is_file, named
from ..models.harmony import Harmony
from ..records import from_record, to_record
from ..runtime import Runtime
from ..shown import shown
from .files import Unchanged, files_of, load_into, read_tensors, shard_names
from .quantise import plain_tensors

MODEL_PARTS = ("video.", "audio.", "interaction.", "speech.", "caption.", "null.")
AUDIO_CODEC_PARTS = ("audio_vae.", "vocoder.")
VIDEO_VAE_PART = "video_vae."
CODEC_PARTS = (VIDEO_VAE_PART, *AUDIO_CODEC_PARTS)
VIDEO_VAE_KEY = "harmony.video_vae"
AUDIO_CODEC_KEY = "harmony.audio_codec"

T = TypeVar("T")
M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True, kw_only=True)
class CodecConfigs:
    """The configs of the codecs in a file.

    Attributes:
        video: of the video codec; None where the file has none.
        audio: of the audio codec; None where the file has none.
    """

    video: VideoVAEConfig | None = None
    audio: AudioCodecConfig | None = None

    def to_metadata(self) -> dict[str, str]:
        """As the metadata of a safetensors file."""
        given = {VIDEO_VAE_KEY: self.video, AUDIO_CODEC_KEY: self.audio}
        return {key: json.dumps(to_record(config), sort_keys=True) for key, config in given.items() if config is not None}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> CodecConfigs:
        """From the metadata of a safetensors file.

        Raises:
            ValueError: a config has an unknown, missing or wrong field, or is no JSON.
        """
        return cls(
            video=_codec_config(VideoVAEConfig, metadata, VIDEO_VAE_KEY),
            audio=_codec_config(AudioCodecConfig, metadata, AUDIO_CODEC_KEY),
        )


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A checkpoint in memory.

    Attributes:
        config: of the model.
        codecs: configs of the codecs it carries.
        tensors: all of them, by key.
        metadata: the file's, without the configs.
        unchanged: the files that tensors may still be in; looked at again before weights are taken from them.
    """

    config: HarmonyConfig
    codecs: CodecConfigs
    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]
    unchanged: Unchanged = field(default_factory=Unchanged)

    def model(self, runtime: Runtime | None = None) -> Harmony:
        """Build the model with these weights.

        Args:
            runtime: layer factory and attention; its dtype, if given, is what the weights are cast to. Those in eight bits
                are made plain, in that dtype or the one of most other weights.

        Raises:
            ValueError: weights are missing, left over, of another shape or quantised in a form not known here; they are named.
        """
        self.unchanged.check()
        runtime = runtime or Runtime()
        # What belongs to no part at all is left over too, and named.
        weights = {key: value for key, value in self.tensors.items() if not key.startswith(CODEC_PARTS)}
        weights = plain_tensors(weights, self.metadata, runtime.dtype)
        return _filled(Harmony(self.config, _on_meta(runtime)), weights, runtime, "this model")

    def video_vae(self, runtime: Runtime | None = None) -> VideoVAE:
        """Build the video codec; see :meth:`model`.

        Raises:
            ValueError: the file has none, or its weights do not fit its config.
        """
        if self.codecs.video is None:
            raise ValueError("this checkpoint has no video codec in it; give the file of a Wan2.2 video VAE")
        self.unchanged.check()
        runtime = runtime or Runtime()
        part = {k.removeprefix(VIDEO_VAE_PART): v for k, v in self.tensors.items() if k.startswith(VIDEO_VAE_PART)}
        return _filled(VideoVAE(self.codecs.video, _on_meta(runtime)), part, runtime, "this video codec")

    def audio_codec(self, runtime: Runtime | None = None) -> AudioCodec:
        """Build the audio codec; see :meth:`model`.

        Raises:
            ValueError: the file has none, or its weights do not fit its config.
        """
        if self.codecs.audio is None:
            raise ValueError("this checkpoint has no audio codec in it; give the files of MMAudio's VAE and vocoder")
        self.unchanged.check()
        runtime = runtime or Runtime()
        part = {k: v for k, v in self.tensors.items() if k.startswith(AUDIO_CODEC_PARTS)}
        return _filled(AudioCodec(self.codecs.audio, _on_meta(runtime)), part, runtime, "this audio codec")


def load_checkpoint(path: str | Path, *, device: str = "cpu") -> Checkpoint:
    """Read a Harmony checkpoint.

    Raises:
        ValueError: the file is missing, broken, no Harmony checkpoint, of another version, or a config has unknown fields.
    """
    unchanged = Unchanged(*files_of(path))
    tensors, metadata = read_tensors(path, device=device)
    try:
        config, codecs = HarmonyConfig.from_metadata(metadata), CodecConfigs.from_metadata(metadata)
    except ValueError as error:
        raise ValueError(f"{named(path)}: {error}") from error
    own = {**config.to_metadata(), **codecs.to_metadata()}
    rest = {key: value for key, value in metadata.items() if key not in own}
    return Checkpoint(config=config, codecs=codecs, tensors=tensors, metadata=rest, unchanged=unchanged)


def save_checkpoint(
    path: str | Path,
    config: HarmonyConfig,
    tensors: Mapping[str, Tensor],
    *,
    codecs: CodecConfigs | None = None,
    metadata: Mapping[str, str] | None = None,
    shard_bytes: int | None = None,
) -> None:
    """Write a Harmony checkpoint; an interrupted write leaves nothing, or what was there.

    Args:
        path: a ``.safetensors`` file; with ``shard_bytes`` the name from which ``name.safetensors.index.json`` and the names
            of its shards are made.
        config: of the model.
        tensors: by key, of the model and perhaps codecs.
        codecs: configs of the codecs among the tensors.
        metadata: more of it, such as ``modelspec.*``.
        shard_bytes: largest size of a shard; None writes one file.

    Raises:
        ValueError: the path is no ``.safetensors`` file or cannot be written to.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"a Harmony checkpoint is a .safetensors file, got {named(path)}")
    unknown = [key for key in tensors if not key.startswith(MODEL_PARTS + CODEC_PARTS)]
    if unknown:
        raise ValueError(f"keys of no known part: {', '.join(map(shown, unknown[:3]))}")
    meta = checkpoint_metadata(config, codecs=codecs, metadata=metadata)
    plain = _unshared(tensors)
    if shard_bytes is None:
        _write(path, plain, meta)
        return
    if shard_bytes < 1:
        raise ValueError(f"a shard holds at least a byte, got {shard_bytes}")
    _write_shards(path, plain, meta, shard_bytes)


def checkpoint_metadata(
    config: HarmonyConfig, *, codecs: CodecConfigs | None = None, metadata: Mapping[str, str] | None = None
) -> dict[str, str]:
    """The metadata of a Harmony checkpoint; see :func:`save_checkpoint`."""
    return {**(metadata or {}), **config.to_metadata(), **(codecs or CodecConfigs()).to_metadata()}


def _codec_config(cls: type[T], metadata: Mapping[str, str], key: str) -> T | None:
    if key not in metadata:
        return None
    try:
        record = json.loads(metadata[key])
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{key} in the metadata is no JSON: {error}") from error
    return from_record(cls, record, key)


def _on_meta(runtime: Runtime) -> Runtime:
    return replace(runtime, device="meta", dtype=None)


def _filled(module: M, weights: Mapping[str, Tensor], runtime: Runtime, what: str) -> M:
    """Put weights into a module on the meta device; buffers, which are statistics, keep their own precision."""
    load_into(module, weights, what=what)
    for parameter in module.parameters():
        parameter.data = parameter.data.to(runtime.device, runtime.dtype)
    return module.to(runtime.device).requires_grad_(False).eval()


def _write_shards(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str], shard_bytes: int) -> None:
    """Write shards under names of their own, then the index that lists them: until then the old index lists the old ones."""
    index = Path(os.path.realpath(path.with_name(f"{path.name}.index.json")))  # shards lie beside it, where a link leads
    path = index.with_name(path.name)
    before = shard_names(index) if is_file(index) else []
    shards, token = _split(tensors, shard_bytes), uuid.uuid4().hex[:8]
    names = [f"{path.stem}-{token}-{i:05d}-of-{len(shards):05d}.safetensors" for i in range(1, len(shards) + 1)]
    table = {
        "metadata": {"total_size": sum(t.numel() * t.element_size() for t in tensors.values())},
        "weight_map": {key: name for name, shard in zip(names, shards, strict=True) for key in shard},
    }
    try:
        for name, shard in zip(names, shards, strict=True):
            _write(path.with_name(name), shard, metadata)
        with replacing(index) as temporary:
            temporary.write_text(json.dumps(table, indent=2))
    except BaseException:
        _remove(path, names)
        raise
    _remove(path, before)


def _remove(path: Path, names: list[str]) -> None:
    for name in names:
        path.with_name(name).unlink(missing_ok=True)


def _unshared(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """On the CPU, each with memory of its own, as the format wants it."""
    plain: dict[str, Tensor] = {}
    seen: set[int] = set()
    for key, value in tensors.items():
        tensor = value.detach().cpu().contiguous()
        place = tensor.untyped_storage().data_ptr()
        plain[key] = tensor.clone() if place in seen else tensor
        seen.add(place)
    return plain


def _write(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    with replacing(path) as temporary:
        try:
            save_file(tensors, str(temporary), metadata=metadata)
        except SafetensorError as error:
            raise ValueError(f"cannot write {named(path)}: {error}") from error


def _split(tensors: dict[str, Tensor], limit: int) -> list[dict[str, Tensor]]:
    shards: list[dict[str, Tensor]] = [{}]
    size = 0
    for key, value in tensors.items():
        bytes_here = value.numel() * value.element_size()
        if shards[-1] and size + bytes_here > limit:
            shards.append({})
            size = 0
        shards[-1][key] = value
        size += bytes_here
    return shards

"""Harmony checkpoints: one safetensors file, or shards with an index, that says in its metadata what it is.

Keys begin with the part they belong to: ``video.``, ``audio.``, ``interaction.``, ``speech.``, ``caption.`` and ``null.`` are
the model; ``video_vae.``, ``audio_vae.`` and ``vocoder.`` are codecs that an all-in-one file carries along.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from ..atomic import replacing
from ..config import HarmonyConfig
from ..models.harmony import Harmony
from ..runtime import Runtime
from .files import load_into, read_tensors, shard_names

MODEL_PARTS = ("video.", "audio.", "interaction.", "speech.", "caption.", "null.")
CODEC_PARTS = ("video_vae.", "audio_vae.", "vocoder.")


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A checkpoint in memory.

    Attributes:
        config: of the model.
        tensors: all of them, by key.
        metadata: the file's, without the config.
    """

    config: HarmonyConfig
    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The tensors of one part, without its prefix."""
        return {key.removeprefix(prefix): value for key, value in self.tensors.items() if key.startswith(prefix)}

    def model(self, runtime: Runtime | None = None) -> Harmony:
        """Build the model with these weights.

        Args:
            runtime: layer factory and attention; its dtype, if given, is what the weights are cast to.

        Raises:
            ValueError: weights are missing, left over or of another shape; they are named.
        """
        runtime = runtime or Runtime()
        weights = {key: value for key, value in self.tensors.items() if key.startswith(MODEL_PARTS)}
        strays = [key for key in self.tensors if not key.startswith(MODEL_PARTS + CODEC_PARTS)]
        if strays:
            weights |= {key: self.tensors[key] for key in strays}
        with torch.device("meta"):
            model = Harmony(self.config, Runtime(layers=runtime.layers, attention=runtime.attention, device="meta"))
        load_into(model, {key: value.to(runtime.device, runtime.dtype) for key, value in weights.items()}, what="this model")
        return model.requires_grad_(False).eval()


def load_checkpoint(path: str | Path, *, device: str = "cpu") -> Checkpoint:
    """Read a Harmony checkpoint.

    Raises:
        ValueError: the file is missing, broken, no Harmony checkpoint, of another version, or its config has unknown fields.
    """
    tensors, metadata = read_tensors(path, device=device)
    try:
        config = HarmonyConfig.from_metadata(metadata)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return Checkpoint(
        config=config, tensors=tensors, metadata={k: v for k, v in metadata.items() if k not in config.to_metadata()}
    )


def save_checkpoint(
    path: str | Path,
    config: HarmonyConfig,
    tensors: Mapping[str, Tensor],
    *,
    metadata: Mapping[str, str] | None = None,
    shard_bytes: int | None = None,
) -> None:
    """Write a Harmony checkpoint; an interrupted write leaves nothing, or what was there.

    Args:
        path: a ``.safetensors`` file; with ``shard_bytes`` the name from which ``name.safetensors.index.json`` and the names
            of its shards are made.
        config: of the model.
        tensors: by key, of the model and perhaps codecs.
        metadata: more of it, such as ``modelspec.*``.
        shard_bytes: largest size of a shard; None writes one file.

    Raises:
        ValueError: the path is no ``.safetensors`` file or cannot be written to.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"a Harmony checkpoint is a .safetensors file, got {path}")
    unknown = [key for key in tensors if not key.startswith(MODEL_PARTS + CODEC_PARTS)]
    if unknown:
        raise ValueError(f"keys of no known part: {', '.join(unknown[:10])}")
    meta = {**(metadata or {}), **config.to_metadata()}
    plain = _unshared(tensors)
    if shard_bytes is None:
        _write(path, plain, meta)
        return
    if shard_bytes < 1:
        raise ValueError(f"a shard holds at least a byte, got {shard_bytes}")
    _write_shards(path, plain, meta, shard_bytes)


def _write_shards(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str], shard_bytes: int) -> None:
    """Write shards under names of their own, then the index that lists them: until then the old index lists the old ones."""
    index = path.with_name(f"{path.name}.index.json")
    before = shard_names(index) if index.is_file() else []
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
            raise ValueError(f"cannot write {path}: {error}") from error


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

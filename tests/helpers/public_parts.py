"""Files in the layouts of the public parts a Harmony is assembled of: small ones with values, full-size ones without."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import ovi_files
import torch
from safetensors.torch import save_file
from torch import Tensor

from harmony_core.weights.stream import Entry, writing

FULL = {"width": 3072, "layers": 30, "ffn": 14336, "text": 4096, "freq": 256}
"""The published sizes, for :func:`ovi_files.shapes`."""


def video_tower(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Ovi's video tower in Wan2.2's own names, without what it has of the audio tower."""
    tower = {
        k.removeprefix("video_model."): v for k, v in tensors.items() if k.startswith("video_model.") and "fusion" not in k
    }
    return {k.replace(".modulation.modulation", ".modulation"): v for k, v in tower.items()}


def small_wan(**sizes: int) -> dict[str, Tensor]:
    """A small transformer in Wan2.2-TI2V-5B's own names, its values others than those of the small Ovi."""
    return {key: 0.9 * value for key, value in video_tower(ovi_files.weights(**sizes)).items()}


def save(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> Path:
    save_file({key: value.contiguous() for key, value in tensors.items()}, str(path), metadata=metadata)
    return path


def save_shards(folder: Path, tensors: Mapping[str, Tensor], name: str = "m") -> Path:
    """Two shards and their index."""
    folder.mkdir(exist_ok=True)
    keys = sorted(tensors)
    parts = {f"{name}-1-of-2.safetensors": keys[::2], f"{name}-2-of-2.safetensors": keys[1::2]}
    for file, its in parts.items():
        save(folder / file, {key: tensors[key] for key in its})
    index = folder / f"{name}.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": {key: file for file, its in parts.items() for key in its}}))
    return index


def hollow(path: Path, shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype = torch.bfloat16) -> Path:
    """A file whose header is whole and whose values are a hole: it takes no room and reads as zeros."""
    codes = {torch.bfloat16: "BF16", torch.float32: "F32"}
    header, end = {}, 0
    for key, shape in shapes.items():
        begin, end = end, end + Entry(tuple(shape), dtype).nbytes
        header[key] = {"dtype": codes[dtype], "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    return path


def noise(entry: Entry, block: Tensor) -> Iterator[Tensor]:
    """Pieces of a weight, the same random values over and over: quickly made, whatever the size."""
    left = entry.count
    while left:
        yield block[:left]
        left -= min(left, len(block))


def save_large_ovi(path: Path, **sizes: int) -> Path:
    """A random bfloat16 file in Ovi's layout, of any size, without holding it in memory."""
    entries = {key: Entry(tuple(shape), torch.bfloat16) for key, shape in ovi_files.shapes(**sizes).items()}
    block = (0.02 * torch.randn(1 << 22, generator=torch.Generator().manual_seed(0))).to(torch.bfloat16)
    with writing(path, entries, {}) as writer:
        for key, entry in entries.items():
            writer.write(key, noise(entry, block))
    return path

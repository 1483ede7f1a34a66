"""Small Ovi models: weights by a formula, so that a fixture need not hold them, under Ovi's own names."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

WIDTH, HEADS, LAYERS, FFN, TEXT, FREQ = 256, 2, 3, 320, 32, 64
CHANNELS = {"video": 48, "audio": 20}
PATCH = {"video": (1, 2, 2), "audio": (1,)}
ROPE_SCALE = 0.19676


def numbers(name: str, *shape: int) -> Tensor:
    """Values in [-1, 1) that depend on a name and their place alone: the same on every machine and version of torch."""
    x = np.arange(int(np.prod(shape)), dtype=np.uint32) * np.uint32(2654435761) + np.uint32(zlib.crc32(name.encode()))
    for _ in range(2):
        x ^= x >> np.uint32(16)
        x *= np.uint32(0x45D9F3B)
    x ^= x >> np.uint32(16)
    return torch.from_numpy((x >> np.uint32(8)).astype(np.float32) / 2**23 - 1).reshape(shape)


def shapes(*, width: int = WIDTH, layers: int = LAYERS, ffn: int = FFN, text: int = TEXT, freq: int = FREQ) -> dict[str, tuple]:
    """Keys and shapes of Ovi in one file, as it is published where the sizes are the published ones."""
    found: dict[str, tuple[int, ...]] = {}

    def linear(name: str, inputs: int, outputs: int) -> None:
        found[f"{name}.weight"], found[f"{name}.bias"] = (outputs, inputs), (outputs,)

    for tower in ("video", "audio"):
        top, channels, patch = f"{tower}_model", CHANNELS[tower], PATCH[tower]
        if tower == "video":
            found[f"{top}.patch_embedding.weight"] = (width, channels, *patch)
            found[f"{top}.patch_embedding.bias"] = (width,)
        else:
            hidden = -(-(2 * 4 * width // 3) // 256) * 256
            found[f"{top}.patch_embedding.0.weight"] = (width, channels, 7)
            found[f"{top}.patch_embedding.0.bias"] = (width,)
            for name, rows, columns in (("w1", hidden, width), ("w2", width, hidden), ("w3", hidden, width)):
                found[f"{top}.patch_embedding.2.{name}.weight"] = (rows, columns, 7)
        linear(f"{top}.text_embedding.0", text, width)
        linear(f"{top}.text_embedding.2", width, width)
        linear(f"{top}.time_embedding.0", freq, width)
        linear(f"{top}.time_embedding.2", width, width)
        linear(f"{top}.time_projection.1", width, 6 * width)
        for n in range(layers):
            block = f"{top}.blocks.{n}"
            for attention in ("self_attn", "cross_attn"):
                for projection in "qkvo":
                    linear(f"{block}.{attention}.{projection}", width, width)
                found[f"{block}.{attention}.norm_q.weight"] = found[f"{block}.{attention}.norm_k.weight"] = (width,)
            for projection in ("k_fusion", "v_fusion"):
                linear(f"{block}.cross_attn.{projection}", width, width)
            for norm in ("norm3", "cross_attn.pre_attn_norm_fusion"):
                found[f"{block}.{norm}.weight"] = found[f"{block}.{norm}.bias"] = (width,)
            found[f"{block}.cross_attn.norm_k_fusion.weight"] = (width,)
            linear(f"{block}.ffn.0", width, ffn)
            linear(f"{block}.ffn.2", ffn, width)
            found[f"{block}.modulation.modulation"] = (1, 6, width)
        linear(f"{top}.head.head", width, channels * int(np.prod(patch)))
        found[f"{top}.head.modulation"] = (1, 2, width)
    return found


def weights(**sizes: int) -> dict[str, Tensor]:
    """The tensors of a small Ovi, under the names of its single file."""
    return {key: _weight(key, shape) for key, shape in shapes(**sizes).items()}


def _weight(key: str, shape: tuple[int, ...]) -> Tensor:
    value = numbers(key, *shape)
    if key.endswith(".modulation"):
        return 0.3 * value
    if len(shape) == 1:
        return 1 + 0.3 * value if "norm" in key and key.endswith("weight") else 0.2 * value
    return value * (3 / np.prod(shape[1:])) ** 0.5


def save_ovi(path: Path, tensors: Mapping[str, Tensor] | None = None, **metadata: str) -> Path:
    """Write a small Ovi as one file."""
    save_file({key: value.contiguous() for key, value in (tensors or weights()).items()}, str(path), metadata=metadata)
    return path


def split(tensors: Mapping[str, Tensor], *, prefix: str = "audio_model.", doubled: bool = False) -> tuple[dict, dict]:
    """The same as two files: video without a prefix, audio under ``prefix``; modulations doubled or not."""

    def named(tower: str, prefix: str) -> dict[str, Tensor]:
        part = {k.removeprefix(f"{tower}_model."): v for k, v in tensors.items() if k.startswith(f"{tower}_model.")}
        if not doubled:
            part = {k.replace(".modulation.modulation", ".modulation"): v for k, v in part.items()}
        return {prefix + k: v for k, v in part.items()}

    return named("video", ""), named("audio", prefix)


# ---- what is asked of it in the fixture

FRAMES, ROWS, COLUMNS, LENGTH = 3, 4, 6, 12
CASES = {
    "plain": {"t": 700.0},
    "early": {"t": 1000.0},
    "first frame": {"t": 437.5, "first_frame": True},
    "a layer skipped": {"t": 700.0, "skip": 1},
    "first frame, a layer skipped": {"t": 437.5, "first_frame": True, "skip": 2},
}


def inputs(name: str) -> dict[str, Tensor]:
    """Latents and texts of a case: video (48, F, H, W), audio (L, 20), one text for each tower, of other lengths."""
    return {
        "video": 1.7 * numbers(f"{name} video", 48, FRAMES, ROWS, COLUMNS),
        "audio": 1.7 * numbers(f"{name} audio", LENGTH, 20),
        "video_text": 1.7 * numbers(f"{name} video text", 9, TEXT),
        "audio_text": 1.7 * numbers(f"{name} audio text", 5, TEXT),
    }


# ---- a whole run

STEPS, SHIFT, SCALES, SKIP = 6, 5.0, {"video": 4.0, "audio": 3.0}, 1


def run_inputs() -> dict[str, Tensor]:
    """Noise, a first frame, the prompt and two negative ones, as :func:`inputs` has them."""
    return {
        "video": 1.7 * numbers("run video", 48, FRAMES, ROWS, COLUMNS),
        "audio": 1.7 * numbers("run audio", LENGTH, 20),
        "first": numbers("run first", 48, 1, ROWS, COLUMNS),
        "text": 1.7 * numbers("run text", 9, TEXT),
        "video_negative": 1.7 * numbers("run video negative", 4, TEXT),
        "audio_negative": 1.7 * numbers("run audio negative", 6, TEXT),
    }

"""The video codec's weights in files: Wan2.2's own names, which are ours too, and those of diffusers."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..codecs.video_vae import PRESETS, VideoVAE, VideoVAEConfig
from ..inputs import named
from ..runtime import Runtime
from .files import load_into, read_tensors

# Ours (the published file's) to diffusers'. Applied in order, each to the result of those before.
_RENAMES = tuple(
    (re.compile(pattern), name)
    for pattern, name in (
        (r"^conv1\.", "quant_conv."),
        (r"^conv2\.", "post_quant_conv."),
        (r"^(encoder|decoder)\.conv1\.", r"\1.conv_in."),
        (r"^(encoder|decoder)\.head\.0\.", r"\1.norm_out."),
        (r"^(encoder|decoder)\.head\.2\.", r"\1.conv_out."),
        (r"^(encoder|decoder)\.middle\.0\.", r"\1.mid_block.resnets.0."),
        (r"^(encoder|decoder)\.middle\.1\.", r"\1.mid_block.attentions.0."),
        (r"^(encoder|decoder)\.middle\.2\.", r"\1.mid_block.resnets.1."),
        (r"\.downsamples\.(\d+)\.downsamples\.\d+\.(resample|time_conv)\.", r".down_blocks.\1.downsampler.\2."),
        (r"\.upsamples\.(\d+)\.upsamples\.\d+\.(resample|time_conv)\.", r".up_blocks.\1.upsampler.\2."),
        (r"\.downsamples\.(\d+)\.downsamples\.(\d+)\.", r".down_blocks.\1.resnets.\2."),
        (r"\.upsamples\.(\d+)\.upsamples\.(\d+)\.", r".up_blocks.\1.resnets.\2."),
        (r"\.residual\.0\.", ".norm1."),
        (r"\.residual\.2\.", ".conv1."),
        (r"\.residual\.3\.", ".norm2."),
        (r"\.residual\.6\.", ".conv2."),
        (r"\.shortcut\.", ".conv_shortcut."),
    )
)


def diffusers_name(key: str) -> str:
    """The name diffusers has for one of our parameters."""
    for pattern, name in _RENAMES:
        key = pattern.sub(name, key)
    return key


def to_diffusers(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors under the names of diffusers' ``AutoencoderKLWan``."""
    return {diffusers_name(key): tensor for key, tensor in tensors.items()}


def from_diffusers(tensors: Mapping[str, Tensor], keys: Iterable[str]) -> dict[str, Tensor]:
    """Undo :func:`to_diffusers`.

    Args:
        tensors: under the names of diffusers.
        keys: all names of ours that may occur, those of a codec of the same config.

    Returns:
        The tensors under our names; a name that no key of ours maps to is left as it is.
    """
    ours = {diffusers_name(key): key for key in keys}
    return {ours.get(key, key): tensor for key, tensor in tensors.items()}


def config_of(tensors: Mapping[str, Tensor]) -> VideoVAEConfig:
    """The preset whose widths a file has, whichever layout it is in.

    Raises:
        ValueError: there is none; the message says what was found.
    """
    widths = []
    for tower in ("encoder", "decoder"):
        found = (tensors.get(f"{tower}.{name}.gamma") for name in ("head.0", "norm_out"))
        widths.append(next((gamma.shape[0] for gamma in found if gamma is not None), None))
    for config in PRESETS.values():
        if widths == [config.encoder_width * config.multipliers[-1], config.decoder_width]:
            return config
    raise ValueError(
        "these weights are no Wan2.2 video codec: "
        + (
            f"{len(tensors)} tensors without an encoder's and a decoder's last norm"
            if None in widths
            else f"its towers end on {widths[0]} and {widths[1]} channels, Wan2.2's on 640 and 256"
        )
    )


def load_video_vae(path: str | Path, runtime: Runtime | None = None, config: VideoVAEConfig | None = None) -> VideoVAE:
    """Load the codec for use, without gradients.

    Args:
        path: ``Wan2.2_VAE.pth``, ``wan2.2_vae.safetensors`` or the file of a diffusers ``vae`` folder.
        runtime: layers, device and dtype; without a dtype, that of the file.
        config: shape and latent statistics; without one, the preset that has the file's widths.

    Raises:
        ValueError: the file cannot be read, holds more than tensors, or is not this codec's.
    """
    runtime = runtime or Runtime()
    tensors, _ = read_tensors(path, device=str(runtime.device or "cpu"))
    vae = VideoVAE(config or config_of(tensors), dataclasses.replace(runtime, device="meta"))
    if "encoder.conv_in.weight" in tensors:
        tensors = from_diffusers(tensors, vae.state_dict())
    load_into(vae, tensors, what=f"the video codec ({named(path)})")
    return vae.to(runtime.dtype or _dtype(tensors)).eval().requires_grad_(False)


def _dtype(tensors: Mapping[str, Tensor]) -> torch.dtype:
    """The one dtype of a file; of several, that of most values."""
    counts: dict[torch.dtype, int] = {}
    for tensor in tensors.values():
        counts[tensor.dtype] = counts.get(tensor.dtype, 0) + tensor.numel()
    return max(counts, key=lambda dtype: counts[dtype])

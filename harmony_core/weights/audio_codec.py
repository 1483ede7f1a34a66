"""The public layouts of the audio codec's weights, to ours and back, and a codec read from files.

========================================  =====================================  ===============================================
layout                                    keys                                   weights
========================================  =====================================  ===============================================
ours, ``harmony``                         ``audio_vae.*``, ``vocoder.*``         plain
MMAudio's files ``v1-16.pth`` and         bare, in two tables (the vocoder's     VAE: rows to be normalised; vocoder: length and
``best_netG.pt``, also as safetensors     under ``generator`` in the pickle)     direction apart, in torch's old or new naming
ComfyUI's single file                     ``vae.*``, ``vocoder.*``,              plain
                                          ``mel_converter.*``
========================================  =====================================  ===============================================

Both public layouts also hold constants: two filters for every activation, and ComfyUI's the mel bands and window. Ours does
not; they are checked on reading and made again on writing. Ours alone holds a normalisation of the latents.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from ..codecs.audio import PRESETS, AudioCodec, AudioCodecConfig
from ..codecs.audio_vae import NORM_EPS
from ..codecs.mel import MelConfig, hann_window, mel_basis
from ..codecs.vocoder import low_pass
from ..inputs import named
from ..runtime import Runtime
from .files import load_into, read_tensors

logger = logging.getLogger(__name__)

VAE = "audio_vae."
VOCODER = "vocoder."
FILTERS = (".upsample.filter", ".downsample.lowpass.filter")
WEIGHT_NORMS = (
    (".parametrizations.weight.original0", ".parametrizations.weight.original1"),
    (".weight_g", ".weight_v"),
)
MEL_CONSTANTS = ("mel_converter.mel_basis", "mel_converter.hann_window")
STORED_ERROR = 1e-2  # of a constant's largest value: what bfloat16 storage may do to it
UNIT_ERROR = 1e-2  # of a row's length 1, likewise; the epsilon in the norm takes another 0.7 % at most
LONGEST_ROW = 1 - 1e-6  # the norm's epsilon keeps rows below 1


def load_audio_codec(
    path: str | Path,
    vocoder_path: str | Path | None = None,
    *,
    config: AudioCodecConfig | None = None,
    runtime: Runtime | None = None,
) -> AudioCodec:
    """Build the codec and read its weights.

    Args:
        path: one file with both parts, ours or ComfyUI's; or MMAudio's VAE, with ``vocoder_path``.
        vocoder_path: MMAudio's vocoder.
        config: the shape; default MMAudio's at 16 kHz.
        runtime: what it is built with; its dtype, where given, is the weights', else they keep the file's.

    Returns:
        The codec, in evaluation mode.

    Raises:
        ValueError: a file cannot be read, is of no known layout, or has other keys or shapes than the config.
    """
    config, runtime = config or PRESETS["mmaudio-16k"], runtime or Runtime()
    tensors, _ = read_tensors(path)
    public = True
    if vocoder_path is not None:
        state = from_mmaudio(tensors, read_tensors(vocoder_path)[0])
    elif any(key.startswith(VAE) for key in tensors):
        state = {key: value for key, value in tensors.items() if key.startswith((VAE, VOCODER))}
        public = False
    elif any(key.startswith("vae.") for key in tensors):
        state = from_comfyui(tensors, config.mel)
    else:
        raise ValueError(
            f"{named(path)} holds no complete audio codec: expected keys audio_vae.* or vae.*, "
            "or MMAudio's two files, VAE and vocoder"
        )
    codec = AudioCodec(config, Runtime(layers=runtime.layers, attention=runtime.attention, device="meta"))
    load_into(codec, state, what="the audio codec")
    if public:
        _say_licence()
    dtype = runtime.dtype or codec.dtype
    for name, parameter in codec.named_parameters():  # the statistics, which are buffers, stay as exact as they were
        if parameter.dtype != dtype:
            logger.debug("%s: %s to %s", name, parameter.dtype, dtype)
            parameter.data = parameter.data.to(dtype)
    return codec.to(runtime.device).eval()


def from_mmaudio(vae: Mapping[str, Tensor], vocoder: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our keys and plain weights of MMAudio's two tables.

    A VAE whose rows are all of unit length is one that somebody has folded already; it is left as it is.

    Raises:
        ValueError: a weight norm is incomplete, or a filter is not the one this vocoder is made with.
    """
    state = _with_latent_statistics({VAE + key: value for key, value in _fold_rows(vae).items()})
    return state | {VOCODER + key: value for key, value in _fold_weight_norms(_without_filters(vocoder)).items()}


def to_mmaudio(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """MMAudio's tables, VAE and vocoder, of our state; reading them again gives the same weights.

    Raises:
        ValueError: the state has what that layout cannot hold: normalised latents, or rows longer than 1 in the VAE.
    """
    vae = {key: _unfolded_row(key, value) if _is_conv(key, value) else value for key, value in _raw_vae(state).items()}
    vocoder: dict[str, Tensor] = {}
    for key, value in _part(state, VOCODER).items():
        if _is_conv(key, value):
            length, direction = (key.removesuffix(".weight") + suffix for suffix in WEIGHT_NORMS[0])
            vocoder |= {length: _lengths(value).to(value.dtype), direction: value}
        else:
            vocoder[key] = value
    return vae, _with_filters(vocoder)


def from_comfyui(tensors: Mapping[str, Tensor], mel: MelConfig | None = None) -> dict[str, Tensor]:
    """Our keys of ComfyUI's single table.

    Raises:
        ValueError: a constant is not the one this codec is made with, or there are keys of something else.
    """
    mel = mel or MelConfig()
    strangers = [key for key in tensors if not key.startswith(("vae.", VOCODER)) and key not in MEL_CONSTANTS]
    if strangers:
        raise ValueError(f"{len(strangers)} key(s) are no audio codec's: {', '.join(sorted(strangers)[:10])}")
    for key, constant in zip(MEL_CONSTANTS, (mel_basis(mel), hann_window(mel)), strict=True):
        if key in tensors:
            _check_constant(key, tensors[key], constant)
    state = _with_latent_statistics({VAE + key: value for key, value in _part(tensors, "vae.").items()})
    vocoder = _fold_weight_norms(_without_filters(_part(tensors, VOCODER)))
    return state | {VOCODER + key: value for key, value in vocoder.items()}


def to_comfyui(state: Mapping[str, Tensor], mel: MelConfig | None = None) -> dict[str, Tensor]:
    """ComfyUI's single table of our state.

    Raises:
        ValueError: the latents are normalised, which that layout cannot hold.
    """
    mel = mel or MelConfig()
    table = {"vae." + key: value for key, value in _raw_vae(state).items()}
    table |= {VOCODER + key: value for key, value in _with_filters(_part(state, VOCODER)).items()}
    return table | dict(zip(MEL_CONSTANTS, (mel_basis(mel), hann_window(mel)), strict=True))


def _part(table: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in table.items() if key.startswith(prefix)}


def _is_conv(key: str, value: Tensor) -> bool:
    return key.endswith(".weight") and value.ndim == 3


def _lengths(weight: Tensor) -> Tensor:
    """Length of every row, (rows, 1, 1), exactly enough to be inverted."""
    return torch.linalg.vector_norm(weight, dim=(1, 2), keepdim=True, dtype=torch.float64)


def _fold_rows(vae: Mapping[str, Tensor]) -> dict[str, Tensor]:
    convs = {key: value for key, value in vae.items() if _is_conv(key, value)}
    if all(bool(((_lengths(value) - 1).abs() < UNIT_ERROR).all()) for value in convs.values()):
        return dict(vae)
    return dict(vae) | {key: _folded_row(value) for key, value in convs.items()}


def _folded_row(weight: Tensor) -> Tensor:
    """Scale every row by 1 / (length + eps sqrt(n)): to a length just below 1."""
    scale = 1 / (_lengths(weight) + NORM_EPS * math.sqrt(weight[0].numel()))
    return (weight * scale).to(weight.dtype)


def _unfolded_row(key: str, weight: Tensor) -> Tensor:
    """The row of which :func:`_folded_row` makes this one."""
    lengths = _lengths(weight)
    if bool((lengths > 1 + UNIT_ERROR).any()):
        raise ValueError(f"MMAudio's layout holds rows of length 1 at most, {key} has one of {lengths.max().item():.3f}")
    lengths = lengths.clamp(max=LONGEST_ROW)
    return (weight * (NORM_EPS * math.sqrt(weight[0].numel()) / (1 - lengths))).to(weight.dtype)


def _fold_weight_norms(vocoder: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights whose length and direction are stored apart, put together; others as they are."""
    state = dict(vocoder)
    for length_suffix, direction_suffix in WEIGHT_NORMS:
        for key in [key for key in state if key.endswith(direction_suffix)]:
            name = key.removesuffix(direction_suffix)
            if name + length_suffix not in state:
                raise ValueError(f"the vocoder's weights are incomplete: {key} without {name + length_suffix}")
            direction, length = state.pop(key), state.pop(name + length_suffix)
            unit = direction / _lengths(direction).clamp(min=torch.finfo(torch.float32).tiny)
            state[name + ".weight"] = (unit * length).to(direction.dtype)
    return state


def _without_filters(vocoder: Mapping[str, Tensor]) -> dict[str, Tensor]:
    taps = low_pass(torch.device("cpu"), torch.float32)
    for key, value in vocoder.items():
        if key.endswith(FILTERS):
            _check_constant(VOCODER + key, value, taps)
    return {key: value for key, value in vocoder.items() if not key.endswith(FILTERS)}


def _with_filters(vocoder: Mapping[str, Tensor]) -> dict[str, Tensor]:
    taps = low_pass(torch.device("cpu"), torch.float32)
    activations = [key.removesuffix(".act.alpha") for key in vocoder if key.endswith(".act.alpha")]
    # a copy each: safetensors refuses tensors that share memory
    return dict(vocoder) | {name + suffix: taps.clone() for name in activations for suffix in FILTERS}


def _check_constant(key: str, value: Tensor, constant: Tensor) -> None:
    if value.shape != constant.shape:
        raise ValueError(f"{key} has shape {tuple(value.shape)}, this codec's has {tuple(constant.shape)}")
    error = (value.to("cpu", torch.float32) - constant).abs().max() / constant.abs().max()
    if not bool(error < STORED_ERROR):
        raise ValueError(f"{key} differs from this codec's constant by {error.item():.2g} of its size")


def _with_latent_statistics(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Raw latents, which the public layouts have: mean 0, deviation 1."""
    key = VAE + "decoder.conv_in.weight"
    if key not in state:
        raise ValueError("these weights are no audio VAE's: there is no decoder.conv_in.weight")
    shape = (1, state[key].shape[1], 1)
    return state | {VAE + "latent_mean": torch.zeros(shape), VAE + "latent_std": torch.ones(shape)}


def _raw_vae(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The VAE's table without the latents' normalisation, refused where that is not the identity."""
    vae = _part(state, VAE)
    if "latent_mean" not in vae or "latent_std" not in vae:
        raise ValueError("this is no state of an audio codec: there is no audio_vae.latent_mean or no audio_vae.latent_std")
    mean, std = vae.pop("latent_mean"), vae.pop("latent_std")
    if bool((mean != 0).any() or (std != 1).any()):
        raise ValueError("the public layouts hold no normalisation of the latents, and this VAE has one")
    return vae


@cache
def _say_licence() -> None:
    logger.warning("the public weights of MMAudio's VAE and vocoder are licensed CC-BY-NC 4.0: not for commercial use")

"""Our codecs as VAEs: stock nodes decode and encode with them, and ComfyUI decides where they are.

Latents at ComfyUI's border are raw, as other Wan2.2 VAEs give them; the model normalises. Both codecs are held whole on
their device while they work: they decode piece by piece, and their weights are the least of it.
"""

from __future__ import annotations

import math
from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.sd
import torch
from torch import Tensor, nn

from ...harmony_core.codecs.audio import AudioCodec
from ...harmony_core.codecs.video_vae import VideoVAE
from ...harmony_core.types import Audio, Modality
from ...harmony_core.weights.checkpoint import CodecConfigs
from .memory import audio_codec_bytes, video_codec_bytes
from .saved import described

VIDEO_DIMENSIONS = 3
"""Axes of a video latent besides batch and channels, by which ComfyUI's VAEs tell what they are for."""


class RawVideo(nn.Module):
    """The video codec between pictures and raw latents."""

    def __init__(self, codec: VideoVAE) -> None:
        super().__init__()
        self.codec = codec

    def encode(self, frames: Tensor) -> Tensor:
        """(B, 3, F, H, W) in [-1, 1] to raw latents."""
        return self.codec.denormalise(self.codec.encode(frames))

    def decode(self, latents: Tensor) -> Tensor:
        """Raw latents to (B, 3, F, H, W) in [-1, 1]."""
        return self.codec.decode(self.codec.normalise(latents), progress=_interruptible)


class RawAudio(nn.Module):
    """The audio codec between waveforms and latents."""

    def __init__(self, codec: AudioCodec) -> None:
        super().__init__()
        self.codec = codec

    def encode(self, wave: Tensor) -> Tensor:
        """(B, channels, samples) in [-1, 1] at the codec's rate to latents."""
        return self.codec.encode(Audio(wave, self.codec.config.mel.sample_rate))

    @property
    def output_sample_rate(self) -> int:
        """Samples a second, by the name under which LTXV Audio VAE Decode asks for it."""
        return self.codec.config.mel.sample_rate

    @property
    def latent_frequency_bins(self) -> int:
        """What LTXV Empty Latent Audio asks for, and these latents (B, channels, time) do not have."""
        raise ValueError("audio_vae: its latents have no bins of frequency; take Empty Harmony Latent for this model")

    def decode(self, latents: Tensor) -> Tensor:
        """Latents to (B, 1, samples)."""
        return self.codec.decode(latents, progress=_interruptible).waveform


class _CodecVAE(comfy.sd.VAE):
    """What both have in common; the base class finds these out by looking at weights, so its constructor is not run."""

    def __init__(self, module: nn.Module, configs: CodecConfigs) -> None:
        management = comfy.model_management
        self.configs = configs
        self.first_stage_model = module.eval().requires_grad_(False)
        self.working_dtypes = [torch.float32]
        self.vae_dtype = torch.float32
        self.device = management.vae_device()
        self.output_device = management.intermediate_device()
        self.disable_offload = True
        self.size = None
        self.not_video = False
        self.crop_input = False
        self.handles_tiling = False
        self.pad_channel_value = None
        self.extra_1d_channel = None
        self.format_encoded = None
        self.audio_sample_rate = 44_100  # what every VAE has, and one of video does not use
        self.downscale_index_formula: Any = None
        self.upscale_index_formula: Any = None
        management.archive_model_dtypes(module)
        offload = management.vae_offload_device()
        self.patcher = comfy.model_patcher.ModelPatcher(module, load_device=self.device, offload_device=offload)
        self.model_size()

    def get_sd(self) -> dict[str, Tensor]:
        """The weights and what they are, as CheckpointSave and Save VAE write them; see :mod:`.saved`."""
        return {**super().get_sd(), **described(self.configs.to_metadata())}


class HarmonyVideoVAE(_CodecVAE):
    """Pictures and raw video latents."""

    def __init__(self, codec: VideoVAE) -> None:
        super().__init__(RawVideo(codec), CodecConfigs(video=codec.config))
        config = codec.config
        stride, pixels = config.frame_stride, config.pixel_stride
        self.latent_channels, self.latent_dim, self.output_channels = config.channels, 3, 3
        self.downscale_ratio = (lambda n: max(0, math.floor((n + stride - 1) / stride)), pixels, pixels)
        self.upscale_ratio = (lambda n: max(0, n * stride - stride + 1), pixels, pixels)
        self.downscale_index_formula = self.upscale_index_formula = (stride, pixels, pixels)
        self.process_input = lambda image: image * 2 - 1
        self.process_output = lambda image: image.add_(1).div_(2).clamp_(0, 1)
        self.memory_used_decode = lambda shape, _dtype: video_codec_bytes(config, shape[2:], decode=True)
        self.memory_used_encode = lambda shape, _dtype: video_codec_bytes(
            config, (self.downscale_ratio[0](shape[2]), shape[3] // pixels, shape[4] // pixels), decode=False
        )


class HarmonyAudioVAE(_CodecVAE):
    """Waveforms and audio latents."""

    def __init__(self, codec: AudioCodec) -> None:
        super().__init__(RawAudio(codec), CodecConfigs(audio=codec.config))
        config = codec.config
        self.latent_channels, self.latent_dim, self.output_channels = config.vae.latent_channels, 1, 1
        self.downscale_ratio = self.upscale_ratio = config.hop
        self.audio_sample_rate = config.mel.sample_rate
        self.process_input = self.process_output = lambda wave: wave
        self.memory_used_decode = lambda shape, _dtype: audio_codec_bytes(config, shape[2], decode=True)
        self.memory_used_encode = lambda shape, _dtype: audio_codec_bytes(
            config, -(-shape[2] // config.hop), decode=False, channels=shape[1]
        )

    def vae_encode_crop_pixels(self, pixels: Tensor) -> Tensor:
        """All channels as they are: the codec hears their mean, not the left one alone."""
        return pixels


def check_vae(vae: Any, modality: Modality) -> None:
    """Refuse a missing VAE, or that of the other stream, under the name of a node's input.

    Raises:
        ValueError: it is not one of this stream.
    """
    where = f"{modality.value}_vae: "
    connect = f"connect the {modality.value} VAE of Load Harmony Checkpoint, or load one with Load VAE"
    if vae is None:
        raise ValueError(f"{where}there is none in this checkpoint; {connect}")
    if (vae.latent_dim == VIDEO_DIMENSIONS) != (modality is Modality.VIDEO):
        raise ValueError(f"{where}this VAE is not one of {modality.value}; {connect}")


def _interruptible(_done: int, _total: int) -> None:
    """Lets the user's cancel through between the pieces of a decoding."""
    comfy.model_management.throw_exception_if_processing_interrupted()

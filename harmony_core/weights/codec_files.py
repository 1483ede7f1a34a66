"""Files of trained codecs: one safetensors file each, with its config, latent statistics included, in the metadata.

Keys and metadata are those of an all-in-one checkpoint, ``video_vae.*`` or ``audio_vae.*`` and ``vocoder.*``. Public files are
read too.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from ..atomic import replacing
from ..codecs.audio import AudioCodec, audio_codec_preset
from ..codecs.video_vae import VideoVAE
from ..runtime import Runtime
from .audio_codec import load_audio_codec
from .checkpoint import AUDIO_CODEC_KEY, VIDEO_VAE_KEY, VIDEO_VAE_PART, CodecConfigs
from .files import load_into, read_header, read_tensors
from .video_vae import load_video_vae


def codec_tensors(*codecs: VideoVAE | AudioCodec, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """The weights of codecs under the keys of an all-in-one checkpoint.

    Args:
        codecs: whose.
        dtype: to store the weights in, but not the statistics; as they are by default.
    """
    tensors: dict[str, Tensor] = {}
    for codec in codecs:
        prefix = VIDEO_VAE_PART if isinstance(codec, VideoVAE) else ""
        weights = {name for name, _ in codec.named_parameters()}
        for key, value in codec.state_dict().items():
            tensors[f"{prefix}{key}"] = value.detach().to("cpu", dtype if key in weights else None)
    return tensors


def save_codec(path: Path, codec: VideoVAE | AudioCodec) -> None:
    """Write a codec's file; an interrupted write leaves nothing, or what was there.

    Raises:
        ValueError: it cannot be written.
    """
    configs = CodecConfigs(video=codec.config) if isinstance(codec, VideoVAE) else CodecConfigs(audio=codec.config)
    with replacing(path) as temporary:
        try:
            tensors = {key: value.contiguous() for key, value in codec_tensors(codec).items()}
            save_file(tensors, str(temporary), metadata=configs.to_metadata())
        except SafetensorError as error:
            raise ValueError(f"cannot write {path}: {error}") from error


def load_video_codec(path: str | Path, runtime: Runtime | None = None) -> VideoVAE:
    """Read a video codec: a file written here, an all-in-one checkpoint, or Wan2.2's.

    Raises:
        ValueError: the file is missing, broken, or has no video codec.
    """
    configs = _configs(path, VIDEO_VAE_KEY)
    if configs is None or configs.video is None:
        return load_video_vae(path, runtime)
    tensors, _ = read_tensors(path)
    part = {k.removeprefix(VIDEO_VAE_PART): v for k, v in tensors.items() if k.startswith(VIDEO_VAE_PART)}
    codec = VideoVAE(configs.video, Runtime(device="meta"))
    load_into(codec, part, what=f"the video codec ({path})")
    runtime = runtime or Runtime()
    return codec.to(runtime.device, runtime.dtype or torch.float32).eval().requires_grad_(False)


def load_sound_codec(
    path: str | Path, runtime: Runtime | None = None, *, vocoder: str | Path | None = None, preset: str | None = None
) -> AudioCodec:
    """Read an audio codec: a file written here, an all-in-one checkpoint, ComfyUI's single file, or MMAudio's two.

    Args:
        path: of the file; of MMAudio's two, the VAE.
        runtime: what it is built with; default float32.
        vocoder: MMAudio's other file.
        preset: size of a codec whose file does not say it; MMAudio's at 16 kHz by default.

    Raises:
        ValueError: a file is missing, broken, or has no audio codec.
    """
    runtime = runtime or Runtime(dtype=torch.float32)
    size = None if preset is None else audio_codec_preset(preset)
    if vocoder is not None:
        return load_audio_codec(path, vocoder, config=size, runtime=runtime).requires_grad_(False)
    configs = _configs(path, AUDIO_CODEC_KEY)
    config = size if configs is None or configs.audio is None else configs.audio
    return load_audio_codec(path, config=config, runtime=runtime).requires_grad_(False)


def _configs(path: str | Path, key: str) -> CodecConfigs | None:
    """The codecs' configs in a file; None for a file of another origin."""
    if Path(path).suffix != ".safetensors":
        return None
    metadata: Mapping[str, str] = read_header(path)[1]
    return CodecConfigs.from_metadata(metadata) if key in metadata else None

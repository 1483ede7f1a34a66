"""Where the public parts of a joint model are published, under which licence, and where ComfyUI looks for them.

Names of repositories and files, not links: those are found by any search, and stay right where a page moves.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Source:
    """A repository on Hugging Face.

    Attributes:
        repository: owner and name.
        files: in it; any one of them will do.
    """

    repository: str
    files: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Something a joint model needs before it makes a clip.

    Attributes:
        name: what it is.
        sources: where it is published; empty for what nobody has published.
        licence: of the published weights.
        folder: below ComfyUI's ``models`` folder.
    """

    name: str
    sources: tuple[Source, ...] = ()
    licence: str = ""
    folder: str = ""


APACHE = "Apache-2.0"
NO_COMMERCE = "CC-BY-NC-4.0: not for commercial use"

_COMFY = "Comfy-Org/Wan_2.2_ComfyUI_Repackaged"
_WAN = "Wan-AI/Wan2.2-TI2V-5B"
_MMAUDIO = "hkchengrex/MMAudio"
_KIJAI = "Kijai/WanVideo_comfy"
_OVI = "chetwinlow1/Ovi"

_OVI_WHOLE = Source(repository=_OVI, files=("model.safetensors", "model_960x960.safetensors", "model_960x960_10s.safetensors"))

MODEL = Piece(name="joint model", sources=(_OVI_WHOLE,), licence=APACHE, folder="diffusion_models")
VIDEO = Piece(
    name="video branch",
    sources=(
        Source(repository=_COMFY, files=("wan2.2_ti2v_5B_fp16.safetensors",)),
        Source(repository=_WAN, files=("diffusion_pytorch_model.safetensors.index.json and its shards",)),
    ),
    licence=APACHE,
    folder="diffusion_models",
)
AUDIO = Piece(
    name="audio branch",
    sources=(
        _OVI_WHOLE,
        Source(repository=_KIJAI, files=("Ovi/Wan_2_2_Ovi_audio_model_bf16.safetensors",)),
    ),
    licence=APACHE,
    folder="diffusion_models",
)
OVI_VIDEO = Piece(
    name="Ovi's video tower",
    sources=(Source(repository=_KIJAI, files=("Ovi/Wan_2_2_Ovi_video_model_bf16.safetensors",)),),
    licence=APACHE,
    folder="diffusion_models",
)
OVI_AUDIO = Piece(
    name="Ovi's audio tower",
    sources=(Source(repository=_KIJAI, files=("Ovi/Wan_2_2_Ovi_audio_model_bf16.safetensors",)),),
    licence=APACHE,
    folder="diffusion_models",
)
TEXT = Piece(
    name="text encoder umT5-xxl",
    sources=(
        Source(repository=_COMFY, files=("umt5_xxl_fp8_e4m3fn_scaled.safetensors",)),
        Source(repository="google/umt5-xxl", files=("the whole folder",)),
    ),
    licence=APACHE,
    folder="text_encoders",
)
VIDEO_VAE = Piece(
    name="video VAE",
    sources=(
        Source(repository=_COMFY, files=("wan2.2_vae.safetensors",)),
        Source(repository=_WAN, files=("Wan2.2_VAE.pth",)),
    ),
    licence=APACHE,
    folder="vae",
)
AUDIO_VAE = Piece(
    name="audio VAE",
    sources=(
        Source(repository=_MMAUDIO, files=("ext_weights/v1-16.pth",)),
        Source(repository=_KIJAI, files=("Ovi/mmaudio_vae_16k_bf16.safetensors",)),
    ),
    licence=NO_COMMERCE,
    folder="vae",
)
VOCODER = Piece(
    name="vocoder",
    sources=(
        Source(repository=_MMAUDIO, files=("ext_weights/best_netG.pt",)),
        Source(repository=_KIJAI, files=("Ovi/mmaudio_vocoder_bigvgan_best_netG_bf16.safetensors",)),
    ),
    licence=NO_COMMERCE,
    folder="vae",
)

CODECS = (VIDEO_VAE, AUDIO_VAE, VOCODER)
RUNNING = (MODEL, TEXT, *CODECS)
"""All that makes a clip from a caption."""

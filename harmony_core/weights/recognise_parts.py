"""What else a clip takes beside a model, known by names and shapes: codecs and text encoders. See :mod:`.recognise`."""

from __future__ import annotations

import torch

from ..codecs.video_vae import PRESETS as VIDEO_PRESETS
from . import published
from .finding import Finding
from .header import Header, plain, shape, stored
from .published import Piece
from .video_vae import config_of

# ---- codecs

_WAN21 = ((384,), (96,))
_BANDS_16K, _BANDS_44K = 80, 128
_MMAUDIO_WIDTH = 1536
_LATENTS_16K, _LATENTS_44K = 20, 40


def video_vae(header: Header, _: str) -> Finding | None:
    """Codecs of pictures."""
    marks = {"encoder.conv1.weight": "its original", "encoder.conv_in.weight": "diffusers'"}
    names = next((names for key, names in marks.items() if len(shape(header, key)) == 5), None)
    if names is None:
        return None
    norms = {key: torch.empty(e.shape, device="meta") for key, e in header.items() if key.endswith("gamma")}
    try:
        found = config_of(norms)
    except ValueError as error:
        return _other_video_vae(header, names, str(error).partition(": ")[2])
    name = next(name for name, config in VIDEO_PRESETS.items() if config == found)
    if name != "wan2.2":
        return Finding(kind="video-vae", what=f"a video VAE of Wan2.2's design in the {name} size, in {names} names")
    return Finding(
        kind="video-vae",
        what=f"Wan2.2's video VAE, in {names} names",
        purpose="pictures to latents and back",
        missing=(published.MODEL, published.TEXT, published.AUDIO_VAE, published.VOCODER),
        licence=published.APACHE,
        folder=published.VIDEO_VAE.folder,
    )


def _other_video_vae(header: Header, names: str, towers: str) -> Finding:
    norm = "head.0" if names == "its original" else "norm_out"
    if tuple(shape(header, f"{tower}.{norm}.gamma")[:1] for tower in ("encoder", "decoder")) == _WAN21:
        note = "not usable here: its latents have 16 channels, the models' 48; take Wan2.2's"
        return Finding(kind="video-vae", what=f"Wan2.1's video VAE, in {names} names", folder="vae", notes=(note,))
    return Finding(kind="video-vae", what=f"a video VAE of Wan's design but not Wan2.2's: {towers}")


def audio_codec(header: Header, _: str) -> Finding | None:
    """Codecs of sound, whole or a half."""
    for prefix, vocoder, whose in (("vae.", "vocoder.", "ComfyUI's"), ("audio_vae.", "vocoder.", "Harmony's")):
        if any(key.startswith(prefix) for key in header) and any(key.startswith(vocoder) for key in header):
            return _whole_audio_codec(header, prefix, whose)
    latents = shape(header, "decoder.conv_in.weight")
    if len(latents) == 3:
        return _audio_vae(header, latents[1])
    if any(key.startswith("conv_pre.") for key in header) and any(key.startswith("ups.") for key in header):
        return _vocoder(header)
    return None


def _whole_audio_codec(header: Header, prefix: str, whose: str) -> Finding:
    latents = shape(header, f"{prefix}decoder.conv_in.weight")
    return _sound(
        f"an audio VAE with its vocoder, in {whose} names",
        _not_16k(latents),
        purpose="sound to latents and back",
        missing=(published.MODEL, published.TEXT, published.VIDEO_VAE),
        public=latents[:1] == (_MMAUDIO_WIDTH,),
        folder=published.AUDIO_VAE.folder if prefix == "vae." else "",
    )


def _audio_vae(header: Header, channels: int) -> Finding:
    latents = shape(header, "decoder.conv_in.weight")
    return _sound(
        f"an audio VAE in MMAudio's names, of {channels} latent channels (16 kHz: {_LATENTS_16K}), without a vocoder",
        _not_16k(latents),
        purpose="sound to latents and back, with a vocoder",
        missing=(published.VOCODER, published.MODEL, published.TEXT, published.VIDEO_VAE),
        public=latents[0] == _MMAUDIO_WIDTH,
        notes=(_STOCK_AUDIO,),
    )


def _vocoder(header: Header) -> Finding:
    keys = ("conv_pre.weight", "conv_pre.weight_v", "conv_pre.parametrizations.weight.original1")
    first = next((found for key in keys if len(found := shape(header, key)) == 3), (0, 0, 0))
    kind = "one for 44.1 kHz" if first[1] == _BANDS_44K else "one of another model"
    reason = f"it is {kind}, with {first[1]} mel bands, and MMAudio's for 16 kHz has {_BANDS_16K}"
    return _sound(
        "a BigVGAN vocoder, without a VAE",
        reason if first[1] not in {0, _BANDS_16K} else "",
        purpose="the sound that an audio VAE's spectrum stands for",
        missing=(published.AUDIO_VAE, published.MODEL, published.TEXT, published.VIDEO_VAE),
        public=first[0] == _MMAUDIO_WIDTH,
        notes=(_STOCK_AUDIO,),
    )


def _sound(
    what: str,
    reason: str,
    *,
    purpose: str,
    missing: tuple[Piece, ...],
    public: bool,
    folder: str = "",
    notes: tuple[str, ...] = (),
) -> Finding:
    """A codec of sound, or why it is none of these models'; the licence is that of the published size."""
    if reason:
        return Finding(kind="audio-codec", what=what, notes=(f"not usable here: {reason}",))
    licence = published.NO_COMMERCE if public else ""
    return Finding(kind="audio-codec", what=what, purpose=purpose, missing=missing, licence=licence, folder=folder, notes=notes)


_STOCK_AUDIO = "ComfyUI's own Load VAE reads VAE and vocoder from a single file only; here the two files are given as a pair"


def _not_16k(latents: tuple[int, ...]) -> str:
    """Why these latents are not the models'; empty where they are, or do not show."""
    if len(latents) != 3 or latents[1] == _LATENTS_16K:
        return ""
    kind = "MMAudio's for 44.1 kHz" if latents[1] == _LATENTS_44K else "another model's"
    return f"it is {kind} with {latents[1]} latent channels, these models' sound has {_LATENTS_16K} at 16 kHz"


# ---- text encoders

_UMT5 = (256_384, 4096)


def text_encoder(header: Header, _: str) -> Finding | None:
    """umT5 and its relatives."""
    tensors = plain(header)
    if "blocks.0.attn.q.weight" in tensors and "token_embedding.weight" in tensors:
        words, names = shape(tensors, "token_embedding.weight"), "its original"
    elif any(key.endswith("block.0.layer.0.SelfAttention.q.weight") for key in tensors):
        embeddings = (shape(tensors, key) for key in ("shared.weight", "encoder.embed_tokens.weight"))
        words = next((found for found in embeddings if found), ())
        names = "ComfyUI's" if "spiece_model" in header else "transformers'"
    else:
        return None
    if words != _UMT5:
        size = f"{words[0]} words, {words[1]} wide" if len(words) == 2 else "without its table of words"
        note = "not usable here: captions are encoded by umT5-xxl, which has 256384 words and is 4096 wide"
        return Finding(kind="text-encoder", what=f"a text encoder of T5's design but not umT5-xxl: {size}", notes=(note,))
    return _umt5(tensors, names, stored(header))


def _umt5(tensors: Header, names: str, ending: str) -> Finding:
    notes = []
    if names == "its original":
        notes.append("ComfyUI's own Load CLIP does not read these names; elsewhere its tokenizer is needed, google/umt5-xxl")
    if any(key.startswith("decoder.") for key in tensors):
        notes.append("its decoder is not used")
    return Finding(
        kind="text-encoder",
        what=f"the text encoder umT5-xxl, in {names} names{ending}",
        purpose="captions for the models that have no encoder of their own",
        missing=(published.MODEL, *published.CODECS),
        licence=published.APACHE,
        folder="" if names == "its original" else published.TEXT.folder,
        notes=tuple(notes),
    )

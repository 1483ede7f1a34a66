"""From words and a voice to CONDITIONING."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ...harmony_core.config import BranchConfig
from ...harmony_core.encoders.spelling import speaking_seconds, spell
from ...harmony_core.encoders.symbols import FILLER, to_symbols
from ...harmony_core.pipeline import check_voice
from ...harmony_core.types import Modality
from . import told
from .codec import check_vae
from .latent import audio_from, encode_sound, named
from .model import harmony_model

OTHER_T5 = "t5xxl"
"""ComfyUI's name for the tokens of the T5 that is as wide as umT5."""


@dataclass(frozen=True)
class Spoken:
    """A transcript as the model reads it.

    Attributes:
        symbols: as text; empty for no speech.
        numbers: (1, length) int64; None for no speech.
        report: what to show of it.
    """

    symbols: str = ""
    numbers: Tensor | None = None
    report: str = "no speech"


def encode(
    patcher: Any,
    clip: Any,
    *,
    picture: str,
    sound: str,
    one_caption: bool,
    spoken: Spoken,
    reference: Tensor | None,
) -> list[list[Any]]:
    """What is told about a clip.

    Args:
        patcher: a MODEL of Harmony.
        clip: the caption encoder.
        picture: what is seen; empty for anything.
        sound: what is heard; empty for anything.
        one_caption: whether an empty ``sound`` is the picture's caption instead.
        spoken: from :func:`speech`.
        reference: from :func:`reference_of`.

    Raises:
        ValueError: a caption is too long, or what encodes it is missing or another model's.
    """
    config = harmony_model(patcher).config
    seen = caption_of(clip, picture, config.video, "picture")
    heard = None
    if sound.strip():
        heard = caption_of(clip, sound, config.audio, "sound")
    elif one_caption and picture.strip():
        heard = seen
    return told.entry(seen, untold=not picture.strip(), sound=heard, transcript=spoken.numbers, reference=reference)


def speech(patcher: Any, transcript: str, language: str) -> Spoken:
    """A transcript in the model's symbols.

    Raises:
        ValueError: the model takes none, it is too long, or it has a symbol the model does not know.
    """
    if not transcript.strip():
        return Spoken()
    config = harmony_model(patcher).config.speech
    if config is None:
        raise ValueError("transcript: this checkpoint takes none; leave it empty")
    with named("transcript"):
        spelled = spell(transcript, language, config)
        numbers = to_symbols([spelled], config)
    count = int((numbers != FILLER).sum())
    report = f"{spelled}\n{count} of {config.length} symbols, about {speaking_seconds(spelled):.1f} s of speech"
    return Spoken(spelled, numbers, report)


def reference_of(vae: Any, voice: dict[str, Any] | None, start: float, seconds: float) -> Tensor | None:
    """Audio latents (1, channels, n) of a part of a voice; None for no voice.

    Raises:
        ValueError: no part of it is one: too short, silent, clipped or not finite; or the VAE is missing.
    """
    if voice is None:
        return None
    check_vae(vae, Modality.AUDIO)
    heard = audio_from(voice, start, seconds, where="voice")
    if heard.waveform.shape[0] > 1:
        raise ValueError(f"voice: there are {heard.waveform.shape[0]} sounds in it; give one")
    with named("voice"):
        check_voice(heard)
    return encode_sound(vae, heard).float()


def caption_of(clip: Any, text: str, config: BranchConfig, where: str) -> Tensor:
    """A text as caption encoders give it, (1, n, width).

    Args:
        clip: the caption encoder.
        text: to encode.
        config: of the branch that is told.
        where: the input it is from, for messages.

    Raises:
        ValueError: there is no encoder, or another model's, or the text is too long.
    """
    if clip is None:
        raise ValueError("clip: this checkpoint has no caption encoder of its own; connect Load CLIP with umT5, type wan")
    with named(where):
        words = clip.tokenize(text)
    if OTHER_T5 in words:
        raise ValueError(
            "clip: this is T5-XXL, as wide as umT5 but of other words; connect the CLIP of Load Harmony Checkpoint, or Load "
            "CLIP with umT5, type wan"
        )
    with named(where):
        tokens = clip.encode_from_tokens(words)
    if tokens.ndim != 3 or tokens.shape[-1] != config.text_dim:
        raise ValueError(
            f"clip: its captions are {tokens.shape[-1]} wide, this model reads {config.text_dim}; connect the CLIP of "
            "Load Harmony Checkpoint, or Load CLIP with umT5, type wan"
        )
    count = _without_padding(tokens)
    if count > config.text_len:
        raise ValueError(f"{where}: the caption has {count} tokens, at most {config.text_len} fit; shorten it")
    return tokens[:, : config.text_len]


def _without_padding(tokens: Tensor) -> int:
    """How many tokens there are before the zeros that an encoder pads a caption (1, n, width) with."""
    told = tokens[0].any(-1).nonzero()
    return int(told[-1]) + 1 if len(told) else 0

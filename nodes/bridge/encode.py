"""From words and a voice to CONDITIONING."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ...harmony_core.encoders.symbols import to_symbols
from ...harmony_core.pipeline import check_voice
from ...harmony_core.types import Modality
from . import told
from .codec import check_vae
from .latent import audio_from, encode_sound
from .model import harmony_model


def encode(
    patcher: Any,
    clip: Any,
    *,
    picture: str,
    sound: str,
    transcript: str,
    voice: dict[str, Any] | None,
    voice_vae: Any,
    voice_start: float,
    voice_seconds: float,
) -> list[list[Any]]:
    """What is told about a clip.

    Raises:
        ValueError: a text is too long or has a symbol the model does not know, the model takes no transcripts, the voice is
            none, or what encodes them is missing.
    """
    model = harmony_model(patcher)
    if clip is None:
        raise ValueError("clip: this checkpoint has no caption encoder of its own; connect Load CLIP with umT5, type wan")
    symbols: Tensor | None = None
    if transcript.strip():
        speech = model.config.speech
        if speech is None:
            raise ValueError("transcript: this checkpoint takes none; leave it empty")
        symbols = to_symbols([transcript], speech)
    reference: Tensor | None = None
    if voice is not None:
        check_vae(voice_vae, Modality.AUDIO)
        heard = audio_from(voice, voice_start, voice_seconds)
        check_voice(heard)
        reference = encode_sound(voice_vae, heard)[:1].float()
    return told.entry(
        _caption(clip, picture),
        untold=not picture.strip(),
        sound=_caption(clip, sound) if sound.strip() else None,
        transcript=symbols,
        reference=reference,
    )


def _caption(clip: Any, text: str) -> Tensor:
    return clip.encode_from_tokens(clip.tokenize(text))

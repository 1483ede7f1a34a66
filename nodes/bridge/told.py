"""What is told, as ComfyUI's CONDITIONING and back.

A CONDITIONING entry is the caption of the picture, where stock nodes look for it, and beside it in the entry's dict what only
Harmony knows. So an entry of a stock CLIPTextEncode tells the picture and leaves the sound untold, but tells a model of one
prompt both.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ...harmony_core.conditioning import Conditioning

UNTOLD = "harmony_untold"
SOUND = "harmony_audio_caption"
TRANSCRIPT = "harmony_transcript"
REFERENCE = "harmony_reference"


def entry(
    picture: Tensor, *, untold: bool, sound: Tensor | None, transcript: Tensor | None, reference: Tensor | None
) -> list[list[Any]]:
    """A CONDITIONING of one entry.

    Args:
        picture: caption tokens of the picture, (1, n, width).
        untold: whether these are of an empty caption.
        sound: caption tokens of the sound; None for nothing.
        transcript: symbol numbers, (1, length); None for no speech.
        reference: audio latents of a voice, (1, channels, n).
    """
    given = {SOUND: sound, TRANSCRIPT: transcript, REFERENCE: reference}
    extras = {key: value for key, value in given.items() if value is not None}
    return [[picture, {"pooled_output": None, UNTOLD: untold, **extras}]]


def without_text(conditioning: list[list[Any]]) -> list[list[Any]]:
    """The same without captions and transcript; a reference stays."""
    kept = [{k: v for k, v in extras.items() if k not in {SOUND, TRANSCRIPT}} | {UNTOLD: True} for _, extras in conditioning]
    return [[picture, extras] for (picture, _), extras in zip(conditioning, kept, strict=True)]


def told(values: Mapping[str, Any], batch: int, *, one_prompt: bool = False) -> Conditioning:
    """What an entry tells, for a batch.

    Args:
        values: the entry's dict, with its tensor as ``cross_attn``.
        batch: number of clips; an entry of one is told to all.
        one_prompt: what tells the sound nothing tells it what the picture is told.
    """

    def whole(value: Tensor | None) -> Tensor | None:
        return value.expand(batch, *value.shape[1:]) if value is not None and value.shape[0] == 1 else value

    picture = None if values.get(UNTOLD) else whole(values.get("cross_attn"))
    sound = whole(values.get(SOUND))
    return Conditioning(
        video_caption=picture,
        audio_caption=picture if sound is None and one_prompt else sound,
        transcript=whole(values.get(TRANSCRIPT)),
        reference=whole(values.get(REFERENCE)),
    )

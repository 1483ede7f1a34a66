"""What is told, as ComfyUI's CONDITIONING and back.

A CONDITIONING entry is the caption of the picture, where stock nodes look for it, and beside it in the entry's dict what only
Harmony knows. So an entry of a stock CLIPTextEncode tells the picture and leaves the sound untold, but tells a model of one
prompt both.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from ...harmony_core.conditioning import Conditioning
from ...harmony_core.config import HarmonyConfig

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
    sound, transcript = whole(values.get(SOUND)), whole(values.get(TRANSCRIPT))
    if picture is not None and not bool(picture.any()):
        # ConditioningZeroOut reaches the caption of the picture alone, and means all text; no encoder gives zeros.
        picture, sound, transcript = picture if one_prompt else None, None, None
    return Conditioning(
        video_caption=picture,
        audio_caption=picture if sound is None and one_prompt else sound,
        transcript=transcript,
        reference=whole(values.get(REFERENCE)),
    )


def check_told(entries: Iterable[Mapping[str, Any]], where: str, config: HarmonyConfig) -> None:
    """Refuse conditions that stock nodes have made impossible here.

    Args:
        entries: of a guider's conditions, their tensors as ``cross_attn``.
        where: the input they come from.
        config: of the model.

    Raises:
        ValueError: a part of the picture only, or a caption that is too long or of another encoder.
    """
    longest, width = config.video.text_len, config.video.text_dim
    for one in entries:
        area = one.get("area")
        # Of a share of the picture ComfyUI reads the height alone where latents are flat.
        if "mask" in one or (area is not None and (area[0] != "percentage" or area[1] < 1)):
            raise ValueError(
                f"{where}: it is for a part of the picture, by ConditioningSetMask, ConditioningSetArea or "
                "ConditioningSetAreaPercentage, and Harmony is told of picture and sound as a whole; leave that node out"
            )
        caption = one.get("cross_attn")
        if caption is None or one.get(UNTOLD):
            continue
        if caption.shape[-1] != width:
            raise ValueError(
                f"{where}: its captions are {caption.shape[-1]} wide, this model reads {width}; encode them with the CLIP of "
                "Load Harmony Checkpoint, or Load CLIP with umT5, type wan"
            )
        if caption.shape[1] > longest:
            raise ValueError(
                f"{where}: its caption has {caption.shape[1]} tokens, at most {longest} fit; shorten it, or leave "
                "ConditioningConcat out and write one caption"
            )

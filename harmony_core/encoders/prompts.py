"""Two captions and a transcript as one prompt, as Ovi's models were trained to be told.

Ovi reads one text for picture and sound. What is said stands in it between ``<S>`` and ``<E>``; what is heard besides stands at
its end, between ``<AUDCAP>`` and ``<ENDAUDCAP>`` for the model of 720 x 720 and after ``Audio:`` for those of 960 x 960. A
caption may hold its speech in place already ("he says, <S>Hello.<E>"), and a sound in either form, which becomes the model's.
"""

from __future__ import annotations

import re
from typing import Literal, Protocol

from ..config import HarmonyConfig
from ..types import AV

PromptFormat = Literal["ovi-720", "ovi-960"]

_SPEECH, _SPEECH_END = "<S>", "<E>"
_TAGGED = re.compile(r"<AUDCAP>(.*?)<ENDAUDCAP>", re.DOTALL)
_NAMED = re.compile(r"\bAudio:\s*(.*)", re.DOTALL)
_TAGS = re.compile(r"<(S|E|AUDCAP|ENDAUDCAP)>")


class Texts(Protocol):
    """What is said about a clip: one to make, or one to learn from."""

    @property
    def video_caption(self) -> str:
        """What is seen."""
        ...

    @property
    def audio_caption(self) -> str:
        """What is heard, speech aside."""
        ...

    @property
    def transcript(self) -> str:
        """What is said."""
        ...


def prompts_of(texts: Texts, config: HarmonyConfig) -> AV[str]:
    """What each branch is told: its caption, or the one prompt with everything in it.

    Raises:
        ValueError: the texts do not make a prompt.
    """
    if config.prompt == "separate":
        return AV(texts.video_caption, texts.audio_caption)
    return AV.both(ovi_prompt(texts.video_caption, texts.audio_caption, texts.transcript, config.prompt))


def ovi_prompt(video_caption: str, audio_caption: str, transcript: str, form: PromptFormat) -> str:
    """One prompt.

    Args:
        video_caption: what is seen; it may hold speech and a sound by itself.
        audio_caption: what is heard, speech aside.
        transcript: what is said; every line is spoken by itself.
        form: of the model.

    Returns:
        Caption, speech, sound, as far as they are there; empty for nothing at all.

    Raises:
        ValueError: a tag is open, stands where it does not belong, or there are two sounds.
    """
    seen, within = _apart(video_caption.strip())
    heard = audio_caption.strip()
    for what, text in (("transcript", transcript), ("audio caption", heard)):
        if _TAGS.search(text):
            raise ValueError(f"tags such as <S> belong in the video caption alone, the {what} is put between tags: {text!r}")
    if within and heard:
        raise ValueError(f"the video caption holds a sound already ({within!r}); leave it or the audio caption out")
    spoken = [_SPEECH + line.strip() + _SPEECH_END for line in transcript.splitlines() if line.strip()]
    return " ".join(filter(None, (seen, *spoken, _sound(within or heard, form))))


def _apart(caption: str) -> tuple[str, str]:
    """A caption without its sound, and that sound."""
    found = _TAGGED.search(caption) or _NAMED.search(caption)
    seen, heard = (caption, "") if found is None else (caption[: found.start()] + caption[found.end() :], found[1])
    # Speech opens and closes by turns; sound is out by now.
    turns = [tag[0] for tag in _TAGS.finditer(seen)]
    if turns != [_SPEECH, _SPEECH_END] * (len(turns) // 2) or _TAGS.search(heard):
        raise ValueError(
            f"speech stands between {_SPEECH} and {_SPEECH_END}, sound between <AUDCAP> and <ENDAUDCAP>: {caption!r}"
        )
    return seen.strip(), heard.strip()


def _sound(text: str, form: PromptFormat) -> str:
    if not text:
        return ""
    return f"<AUDCAP>{text}<ENDAUDCAP>" if form == "ovi-720" else f"Audio: {text}"

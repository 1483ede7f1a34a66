"""Words spoken by espeak-ng, with the time of every phoneme.

espeak-ng comes with the wheel ``espeakng-loader`` and is called through ctypes. It is licensed under the GPL and is used to
make data only: this module imports it when the first word is wanted, and nothing but the small world imports this module.

The synthesiser keeps state from word to word (the phase of its flutter, its noise), so the same word never sounds quite the
same twice. To have clips depend on nothing but their seed, the whole lexicon, every voice and every word, is spoken once per
process in one fixed order, which takes about a second, and clips are cut together from it.
"""

from __future__ import annotations

import ctypes
import importlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from .clip import SAMPLE_RATE, Phoneme, Wave

logger = logging.getLogger(__name__)

_ESPEAK_RATE = 22_050
_SYNCHRONOUS = 2
_PHONEME_EVENTS_IPA = 1 | 2
_DONT_EXIT = 0x8000
_RATE, _PITCH = 1, 3
_UTF8 = 1
_PHONEME = 7
_LOUDNESS = 0.11


@dataclass(frozen=True)
class Voice:
    """A speaker: espeak's variant, pitch 0 to 99 and words per minute."""

    variant: str
    pitch: int
    rate: int

    @property
    def name(self) -> str:
        """What clips call it."""
        return self.variant


VOICES = {
    "seen": (
        Voice("m1", 45, 150),
        Voice("m2", 30, 165),
        Voice("m3", 55, 145),
        Voice("m5", 40, 175),
        Voice("zac", 60, 155),
        Voice("f1", 55, 150),
        Voice("f2", 45, 165),
        Voice("f3", 65, 145),
        Voice("f5", 40, 175),
        Voice("linda", 50, 155),
    ),
    "unseen": (Voice("m7", 50, 155), Voice("Andy", 40, 160), Voice("f4", 55, 155), Voice("Annie", 60, 150)),
}
"""Voices for training and evaluation, and voices that no training clip has."""

# Spelling in transcripts -> what espeak is given. The words differ in what the mouth does: lips that close at the start, in
# the middle or at the end, or never; wide, open and round vowels.
WORDS = {
    "en-us": {
        word: word
        for word in (
            "mama", "papa", "baby", "boom", "pop", "map", "bob", "bee", "moon", "wow", "you", "shoe", "yes", "no", "hello",
            "apple", "open", "happy", "lemon", "maybe", "ball", "water",
        )
    },
    "cmn": {
        "ma1 ma5": "妈妈", "ba4 ba5": "爸爸", "ni3 hao3": "你好", "peng2 you3": "朋友", "wo3 men5": "我们", "bu4": "不",
    },
}  # fmt: skip
"""The vocabulary of each language, by espeak's name of the language."""

VOCABULARY = tuple(word for words in WORDS.values() for word in words)


@dataclass(frozen=True, eq=False)
class Utterance:
    """One word: sound at espeak's own rate, and its phonemes, seconds from its start."""

    wave: Wave
    phonemes: tuple[Phoneme, ...]

    @property
    def seconds(self) -> float:
        """Length."""
        return len(self.wave) / _ESPEAK_RATE

    def spoken(self, speed: float) -> Wave:
        """The word at 16 kHz, faster and higher by ``speed``."""
        return _resample(self.wave, round(len(self.wave) * SAMPLE_RATE / _ESPEAK_RATE / speed))


@cache
def lexicon() -> dict[tuple[str, str], Utterance]:
    """Every word of every voice, by the voice's name and the word's spelling.

    Raises:
        ValueError: espeak-ng is not there.
    """
    logger.debug("speaking the lexicon")
    speak = _espeak()
    spoken = {}
    for voice in (*VOICES["seen"], *VOICES["unseen"]):
        for language, words in WORDS.items():
            for word, text in words.items():
                spoken[voice.name, word] = _cut(*speak(f"{language}+{voice.variant}", text, voice.pitch, voice.rate))
    return spoken


def _cut(wave: Wave, marks: list[tuple[int, str]]) -> Utterance:
    """Phonemes from espeak's marks, and the word at one loudness."""
    ends = [sample for sample, _ in marks[1:]] + [len(wave)]
    phonemes = [
        Phoneme(name=name.strip("ˈˌ"), start=sample / _ESPEAK_RATE, end=end / _ESPEAK_RATE)
        for (sample, name), end in zip(marks, ends, strict=True)
        if name.strip("ˈˌ") and end > sample
    ]
    level = float(np.sqrt(np.mean(np.square(wave, dtype=np.float64))))
    return Utterance((wave * (_LOUDNESS / level)).astype(np.float32), tuple(phonemes))


def _resample(wave: Wave, length: int) -> Wave:
    """Band-limited: the spectrum, cut or filled up to the new length."""
    spectrum = np.fft.rfft(wave)
    bins = length // 2 + 1
    kept = np.zeros(bins, dtype=complex)
    kept[: min(bins, len(spectrum))] = spectrum[:bins]
    return (np.fft.irfft(kept, length) * (length / len(wave))).astype(np.float32)


class _Number(ctypes.Union):
    _fields_ = [("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8)]


class _Mark(ctypes.Structure):
    """espeak's event: what, where in the text, where in the sound."""

    _fields_ = [
        ("type", ctypes.c_int),
        ("identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("milliseconds", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _Number),
    ]


_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Mark))
_Speak = Callable[[str, str, int, int], "tuple[Wave, list[tuple[int, str]]]"]


def _espeak() -> _Speak:
    """A function of voice, text, pitch and rate that gives the sound and its phoneme marks.

    Raises:
        ValueError: espeak-ng is not installed or does not start.
    """
    library = _library()
    blocks: list[Wave] = []
    marks: list[tuple[int, str]] = []

    def receive(samples: Any, count: int, events: Any) -> int:
        if count:
            blocks.append(np.ctypeslib.as_array(samples, (count,)) / np.float32(32768))
        index = 0
        while samples and events[index].type:
            if events[index].type == _PHONEME:
                marks.append((events[index].sample, events[index].id.string.decode("utf-8", "ignore")))
            index += 1
        return 0

    callback = _Callback(receive)
    library.espeak_SetSynthCallback(callback)

    def speak(voice: str, text: str, pitch: int, rate: int) -> tuple[Wave, list[tuple[int, str]]]:
        blocks.clear()
        marks.clear()
        if library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise ValueError(f"this espeak-ng has no voice {voice}; install the wheel espeakng-loader anew")
        library.espeak_SetParameter(_RATE, rate, 0)
        library.espeak_SetParameter(_PITCH, pitch, 0)
        encoded = text.encode()
        status = library.espeak_Synth(encoded, len(encoded) + 1, 0, 1, 0, _UTF8, None, None)
        assert status == 0 and blocks and marks and callback, (voice, text)
        return np.concatenate(blocks), list(marks)

    return speak


def _library() -> Any:
    """espeak-ng, started."""
    try:
        espeakng_loader = importlib.import_module("espeakng_loader")
    except ImportError as error:
        raise ValueError("talking clips are spoken by espeak-ng: pip install espeakng-loader") from error
    try:
        library = ctypes.CDLL(espeakng_loader.get_library_path())
    except OSError as error:
        raise ValueError(f"espeak-ng cannot be loaded: {error}") from error
    data = Path(espeakng_loader.get_data_path()).parent
    rate = library.espeak_Initialize(_SYNCHRONOUS, 0, str(data).encode(), _PHONEME_EVENTS_IPA | _DONT_EXIT)
    if rate != _ESPEAK_RATE:
        raise ValueError(f"espeak-ng did not start: it says {rate} where {_ESPEAK_RATE} Hz is expected")
    library.espeak_ng_SetRandSeed(ctypes.c_long(1))
    return library

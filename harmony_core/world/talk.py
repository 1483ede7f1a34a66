"""What a face says: words of one voice with pauses between them, and other words of the same voice as its reference."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..geometry import ClipSpec
from .clip import REFERENCE_SAMPLES, SAMPLE_RATE, Event, Floats, Phoneme, Wave, Word, frame_times
from .face import Face
from .mouth import releases, shapes
from .speech import VOICES, WORDS, lexicon

_FINE = 500.0  # mouth shapes a second that openings are read from
_LAST_END = 0.05
_LONGEST_TRANSCRIPT = 60
_SHORT_CLIP = 3.0
_MANDARIN = 0.2


@dataclass(frozen=True, kw_only=True, eq=False)
class Talk:
    """Speech and the mouth that goes with it; see :class:`WorldClip` for the fields."""

    wave: Wave
    mouth: Floats
    events: tuple[Event, ...] = ()
    words: tuple[Word, ...] = ()
    phonemes: tuple[Phoneme, ...] = ()
    voice: str = ""
    reference: Wave | None = None


def no_talk(spec: ClipSpec, face: Face | None) -> Talk:
    """Nobody speaks: silence, and a mouth at rest where there is a face."""
    times = frame_times(spec)
    mouth = shapes((), times, spec.seconds) if face is not None else np.zeros((len(times), 3))
    return Talk(wave=np.zeros(spec.samples, np.float32), mouth=mouth)


def sample_talk(spec: ClipSpec, voices: str, face: Face | None, rng: np.random.Generator) -> Talk:
    """Some words at random times, by some voice of ``voices``.

    Raises:
        ValueError: espeak-ng is not installed.
    """
    assert face is not None
    voice = VOICES[voices][rng.integers(len(VOICES[voices]))].name
    language = "cmn" if rng.random() < _MANDARIN else "en-us"
    speed = float(rng.uniform(0.95, 1.06))
    vocabulary = list(WORDS[language])
    order = [vocabulary[i] for i in rng.permutation(len(vocabulary))]
    wave, words, phonemes = _say(spec, voice, order, speed, rng)
    others = [word for word in order if word not in {spoken.text for spoken in words}]
    grid = np.arange(0, spec.seconds, 1 / _FINE)
    x, y, reach = face.mouth_position()
    opened = releases(shapes(phonemes, grid, spec.seconds)[:, 0], _FINE)
    return Talk(
        wave=wave,
        mouth=shapes(phonemes, frame_times(spec), spec.seconds),
        events=tuple(Event(what="release", time=float(t), strength=1.0, x=x, y=y, radius=reach) for t in opened),
        words=tuple(words),
        phonemes=tuple(phonemes),
        voice=voice,
        reference=_reference(voice, others, speed),
    )


def _say(
    spec: ClipSpec, voice: str, order: list[str], speed: float, rng: np.random.Generator
) -> tuple[Wave, list[Word], list[Phoneme]]:
    """Words in this order, after a pause each, as many as there is time for."""
    wave = np.zeros(spec.samples, np.float32)
    words: list[Word] = []
    phonemes: list[Phoneme] = []
    most = int(rng.integers(1, 4)) if spec.seconds < _SHORT_CLIP else int(rng.integers(3, 8))
    most = min(most, len(order) - 2)  # the reference says others
    time = rng.uniform(0.06, 0.6)
    for text in order:
        utterance = lexicon()[voice, text]
        length = utterance.seconds / speed
        letters = sum(len(word.text) + 1 for word in words) + len(text)
        if len(words) == most or time + length > spec.seconds - _LAST_END or letters > _LONGEST_TRANSCRIPT:
            break
        sound = utterance.spoken(speed)
        first = round(time * SAMPLE_RATE)
        wave[first : first + len(sound)] += sound
        words.append(Word(text=text, start=time, end=time + length))
        phonemes += [Phoneme(name=p.name, start=time + p.start / speed, end=time + p.end / speed) for p in utterance.phonemes]
        time += length + rng.uniform(0.04, 0.4)
    return wave, words, phonemes


def _reference(voice: str, words: list[str], speed: float) -> Wave:
    """Words in a row until the reference is full; the list starts again where it is too short."""
    parts: list[Wave] = []
    while sum(map(len, parts)) < REFERENCE_SAMPLES:
        parts.append(lexicon()[voice, words[len(parts) % len(words)]].spoken(speed))
    return np.concatenate(parts)[:REFERENCE_SAMPLES]

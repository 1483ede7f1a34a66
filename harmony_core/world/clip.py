"""A clip of the small world: what is seen, what is heard, and the exact time of everything that happens in it.

Time is in seconds from the start of the clip. Picture ``i`` shows the instant in the middle of its display time,
``(i + 0.5) / fps``, so an event at time ``t`` happens while picture ``floor(t fps)`` is on the screen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..geometry import ClipSpec
from ..types import Audio, Video

Kind = Literal["impact", "talk", "complex", "still"]
Split = Literal["easy", "hard"]
KINDS: tuple[Kind, ...] = get_args(Kind)
SPLITS: tuple[Split, ...] = get_args(Split)

Floats = npt.NDArray[np.float64]
Wave = npt.NDArray[np.float32]
Pictures = npt.NDArray[np.uint8]

SAMPLE_RATE = 16_000
REFERENCE_SAMPLES = 24_576
"""Of a reference voice: 1.536 s, 48 latents of the audio codec."""

_FRAMES: dict[Split, int] = {"easy": 49, "hard": 109}


def clip_spec(split: Split) -> ClipSpec:
    """The shape of a split's clips: 64 x 64 at 24 fps, 49 pictures (easy) or 109 (hard).

    Raises:
        ValueError: there is no such split.
    """
    if split not in SPLITS:
        raise ValueError(f"the splits of the world are {' and '.join(SPLITS)}, got {split!r}")
    return ClipSpec(frames=_FRAMES[split], height=64, width=64)


def frame_times(spec: ClipSpec) -> Floats:
    """The instant each picture shows, (F,), seconds."""
    return (np.arange(spec.frames, dtype=np.float64) + 0.5) / float(spec.fps)


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something seen and heard at one moment.

    Attributes:
        what: ``impact``, a ball strikes; ``release``, a mouth that was closed opens.
        time: seconds, exact.
        strength: 0 to 1; the loudness of an impact follows it.
        material: of the ball that strikes; empty for a mouth.
        x: of the sounding thing, pixels from the left.
        y: pixels from the top.
        radius: of the sounding thing, pixels.
    """

    what: Literal["impact", "release"]
    time: float
    strength: float
    x: float
    y: float
    radius: float
    material: str = ""


@dataclass(frozen=True, kw_only=True)
class Phoneme:
    """One phoneme of the speech: espeak's IPA name, start and end in seconds."""

    name: str
    start: float
    end: float


@dataclass(frozen=True, kw_only=True)
class Word:
    """One spoken word: its place in the vocabulary's spelling, start and end in seconds."""

    text: str
    start: float
    end: float


@dataclass(frozen=True, kw_only=True, eq=False)
class WorldClip:
    """One clip with its truth.

    Attributes:
        kind: what it shows.
        split: easy or hard.
        seed: it was made from.
        spec: its shape.
        pictures: (F, H, W, 3), 0 to 255.
        wave: (samples,) in [-1, 1] at 16 kHz.
        events: in the order of time.
        video_caption: of what is seen.
        audio_caption: of what is heard.
        words: spoken, in order.
        phonemes: spoken, in order; silence is not listed.
        mouth: (F, 3): openness, width and roundness in each picture, 0 to 1; zeros where there is no face.
        voice: its name, empty where nobody speaks.
        reference: (24576,) the same voice saying other words; None where nobody speaks.
    """

    kind: Kind
    split: Split
    seed: int
    spec: ClipSpec
    pictures: Pictures
    wave: Wave
    events: tuple[Event, ...]
    video_caption: str
    audio_caption: str
    mouth: Floats
    words: tuple[Word, ...] = ()
    phonemes: tuple[Phoneme, ...] = ()
    voice: str = ""
    reference: Wave | None = None

    @property
    def frames(self) -> Tensor:
        """The pictures as (3, F, H, W) in [-1, 1]."""
        return torch.from_numpy(self.pictures).permute(3, 0, 1, 2).float().div(127.5).sub(1)

    @property
    def samples(self) -> Tensor:
        """The sound as (1, samples) in [-1, 1]."""
        return torch.from_numpy(self.wave)[None]

    @property
    def video(self) -> Video:
        """The pictures as the core's value."""
        return Video(self.frames[None], self.spec.fps)

    @property
    def audio(self) -> Audio:
        """The sound as the core's value."""
        return Audio(self.samples[None], SAMPLE_RATE)

    @property
    def reference_audio(self) -> Audio | None:
        """The reference voice as the core's value."""
        return None if self.reference is None else Audio(torch.from_numpy(self.reference)[None, None], SAMPLE_RATE)

    @property
    def first_frame(self) -> Tensor:
        """The first picture as (3, 1, H, W) in [-1, 1]."""
        return self.frames[:, :1]

    @property
    def transcript(self) -> str:
        """What is said, in the letters of the transcript encoder; Mandarin as pinyin with tone digits."""
        return " ".join(word.text for word in self.words)

    @property
    def sound_source(self) -> str:
        """The materials that are heard, in the order of the alphabet; empty where none is. It says nothing of when."""
        return ", ".join(sorted({event.material for event in self.events if event.material}))

    def times(self, what: str) -> Floats:
        """Times of the events of one sort, (n,), seconds."""
        return np.array([event.time for event in self.events if event.what == what], dtype=np.float64)

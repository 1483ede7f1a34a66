"""The values everything else is written in: one thing per modality, and media at the border of the core.

``AV`` is why the code has one line where a joint model would have two: whatever exists once for video and once for audio
(latents, times, velocities, configs, masks) is an ``AV`` of it, and is handled by ``map``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:  # the command line prints its help without torch
    from torch import Tensor

T = TypeVar("T")
R = TypeVar("R")


class Modality(Enum):
    """One of the two streams."""

    VIDEO = "video"
    AUDIO = "audio"

    @property
    def other(self) -> Modality:
        """The stream this one is generated together with."""
        return Modality.AUDIO if self is Modality.VIDEO else Modality.VIDEO


@dataclass(frozen=True)
class AV(Generic[T]):
    """One value for each modality, video first."""

    video: T
    audio: T

    @classmethod
    def both(cls, value: T) -> AV[T]:
        """The same value for both."""
        return cls(value, value)

    @classmethod
    def of(cls, make: Callable[[Modality], T]) -> AV[T]:
        """The value ``make`` gives for each modality."""
        return cls(make(Modality.VIDEO), make(Modality.AUDIO))

    def __getitem__(self, modality: Modality) -> T:
        return self.video if modality is Modality.VIDEO else self.audio

    def __iter__(self) -> Iterator[T]:
        yield self.video
        yield self.audio

    def map(self, fn: Callable[..., R], *others: AV[Any]) -> AV[R]:
        """Apply ``fn`` to each modality's value, together with the values of ``others`` for that modality."""
        return AV(fn(self.video, *(o.video for o in others)), fn(self.audio, *(o.audio for o in others)))

    def replace(self, modality: Modality, value: T) -> AV[T]:
        """The same pair with one modality's value exchanged."""
        return AV(value, self.audio) if modality is Modality.VIDEO else AV(self.video, value)


@dataclass(frozen=True)
class Audio:
    """Sound.

    Attributes:
        waveform: (B, C, samples), float, in [-1, 1].
        sample_rate: samples per second.
        layout: FFmpeg's name of where the channels are heard, such as ``quad`` or ``2.1``; None is the usual one of so many.
    """

    waveform: Tensor
    sample_rate: int
    layout: str | None = None

    def __post_init__(self) -> None:
        if self.waveform.ndim != 3:
            raise ValueError(f"audio is (batch, channels, samples), got shape {tuple(self.waveform.shape)}")
        if self.sample_rate <= 0:
            raise ValueError(f"a sample rate is positive, got {self.sample_rate}")

    @property
    def seconds(self) -> float:
        """Length in seconds."""
        return self.waveform.shape[-1] / self.sample_rate


@dataclass(frozen=True)
class Video:
    """Moving pictures.

    Attributes:
        frames: (B, 3, F, H, W), float, in [-1, 1].
        fps: frames per second.
    """

    frames: Tensor
    fps: float

    def __post_init__(self) -> None:
        if self.frames.ndim != 5 or self.frames.shape[1] != 3:
            raise ValueError(f"video is (batch, 3, frames, height, width), got shape {tuple(self.frames.shape)}")
        if not self.fps > 0:
            raise ValueError(f"a frame rate is positive, got {self.fps}")

    @property
    def seconds(self) -> float:
        """Length in seconds."""
        return self.frames.shape[2] / self.fps

"""Every length, rate and shape of a clip, derived in one place.

A clip is ``frames`` pictures at ``fps`` and exactly as much sound. Wan's causal video codec gives the first frame a latent
of its own and every later ``frame_stride`` frames one together, so frames come as ``1 + 4k``; the audio codec gives one
latent to every ``hop`` samples. The two token grids meet on the time axis, and :class:`Timeline` says where.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from .records import check_fields, check_most

TimeMap = Literal["exact", "centred", "paper"]

MOST_FRAMES, LONGEST_SIDE = 1_000_000, 1 << 17
"""Of a clip: far beyond what anybody makes, and near enough that every length computed of them is a number."""
FPS = 1e-3, 1e3
"""Lowest and highest frame rate."""


def check_fps(fps: float) -> None:
    """Refuse a frame rate of no clip.

    Raises:
        ValueError: it is not in :data:`FPS`.
    """
    low, high = FPS
    if not low <= fps <= high:  # a NaN is not
        raise ValueError(f"fps is a positive number from {low:g} to {high:g}, got {fps:g}")


@dataclass(frozen=True, kw_only=True)
class Grid:
    """What one latent and one token cover: the strides of the codecs and of the patch embedding.

    Attributes:
        video_channels: channels of a video latent.
        audio_channels: channels of an audio latent.
        frame_stride: frames a video latent covers, after the first, which covers one.
        pixel_stride: pixels a video latent covers, each way.
        patch: latents a video token covers, each way.
        sample_rate: of the audio codec, Hz.
        hop: samples an audio latent covers.
    """

    video_channels: int = 48
    audio_channels: int = 20
    frame_stride: int = 4
    pixel_stride: int = 16
    patch: int = 2
    sample_rate: int = 16_000
    hop: int = 512

    def __post_init__(self) -> None:
        check_fields(self, "grid")
        for name, value in vars(self).items():
            if value < 1:
                raise ValueError(f"grid.{name} is at least 1, got {value}")
        check_most(self, "grid", video_channels=4096, audio_channels=4096, frame_stride=64, pixel_stride=1024, patch=64)
        check_most(self, "grid", sample_rate=768_000, hop=1 << 20)

    @property
    def size_multiple(self) -> int:
        """Height and width of a clip are multiples of this many pixels."""
        return self.pixel_stride * self.patch

    @property
    def audio_rate(self) -> float:
        """Audio latents per second."""
        return self.sample_rate / self.hop

    def latent_frames(self, frames: int) -> int:
        """Video latents of ``frames`` frames."""
        return 1 + (frames - 1) // self.frame_stride

    def frames(self, latent_frames: int) -> int:
        """Frames of ``latent_frames`` video latents."""
        return 1 + (latent_frames - 1) * self.frame_stride


@dataclass(frozen=True, kw_only=True)
class ClipSpec:
    """The shape of a clip, refused where it does not fit the codecs.

    Attributes:
        frames: number of pictures, ``1 + frame_stride * k``.
        height: pixels, a multiple of ``grid.size_multiple``.
        width: pixels, likewise.
        fps: frames per second.
        grid: strides of the codecs the clip is made for.

    Raises:
        ValueError: a length or size is off the grid; the message names the nearest that fit.
    """

    frames: int
    height: int
    width: int
    fps: float = 24.0
    grid: Grid = field(default_factory=Grid)

    def __post_init__(self) -> None:
        check_fields(self, "clip")
        check_fps(self.fps)
        check_most(self, "clip", frames=MOST_FRAMES, height=LONGEST_SIDE, width=LONGEST_SIDE)
        stride = self.grid.frame_stride
        if self.frames < 1 or (self.frames - 1) % stride:
            raise ValueError(
                f"{self.frames} frames do not fit the video codec, which takes 1 + {stride}k; "
                f"nearest: {_choices(self.frames, stride, offset=1)}"
            )
        for name, size in (("height", self.height), ("width", self.width)):
            multiple = self.grid.size_multiple
            if size < 1 or size % multiple:
                raise ValueError(
                    f"{name} {size} is not a multiple of {multiple}; nearest: {_choices(size, multiple, offset=multiple)}"
                )

    @classmethod
    def from_seconds(cls, seconds: float, *, height: int, width: int, fps: float = 24.0, grid: Grid | None = None) -> ClipSpec:
        """The clip of exactly ``seconds``.

        Raises:
            ValueError: no frame count on the grid lasts that long; the message names the nearest durations.
        """
        spec = cls.nearest(seconds, height=height, width=width, fps=fps, grid=grid)
        if abs(spec.seconds - seconds) > 0.5e-3:
            stride = spec.grid.frame_stride
            near = sorted(
                {max(1, spec.frames - stride), spec.frames, spec.frames + stride}, key=lambda n: abs(n / fps - seconds)
            )
            names = " or ".join(f"{n / fps:.4f} s ({n} frames)" for n in sorted(near[:2]))
            raise ValueError(f"no clip lasts exactly {seconds} s at {fps:g} fps; nearest: {names}")
        return spec

    @classmethod
    def nearest(cls, seconds: float, *, height: int, width: int, fps: float = 24.0, grid: Grid | None = None) -> ClipSpec:
        """The clip whose duration is nearest to ``seconds``; the rounding is the caller's explicit wish."""
        grid = grid or Grid()
        if not (math.isfinite(seconds) and seconds > 0):
            raise ValueError(f"a duration is a positive number of seconds, got {seconds}")
        check_fps(fps)
        if seconds * fps > MOST_FRAMES:
            raise ValueError(f"a clip has at most {MOST_FRAMES:,} frames, got {seconds:g} s at {fps:g} fps")
        steps = max(0, round((seconds * fps - 1) / grid.frame_stride))
        return cls(frames=1 + steps * grid.frame_stride, height=height, width=width, fps=fps, grid=grid)

    @classmethod
    def of_latents(cls, video: Tensor, audio: Tensor, *, fps: float = 24.0, grid: Grid | None = None) -> ClipSpec:
        """The clip a pair of latents belongs to.

        Args:
            video: (B, video_channels, F, H, W).
            audio: (B, audio_channels, L).
            fps: frames per second of the clip.
            grid: strides of the codecs; the default is Wan2.2 and MMAudio at 16 kHz.

        Raises:
            ValueError: wrong rank or channels, different batches, or durations that differ.
        """
        grid = grid or Grid()
        if video.ndim != 5 or video.shape[1] != grid.video_channels:
            raise ValueError(
                f"video latents are (batch, {grid.video_channels}, frames, height, width), got {tuple(video.shape)}"
            )
        if audio.ndim != 3 or audio.shape[1] != grid.audio_channels:
            raise ValueError(f"audio latents are (batch, {grid.audio_channels}, length), got {tuple(audio.shape)}")
        if video.shape[0] != audio.shape[0]:
            raise ValueError(f"video has a batch of {video.shape[0]}, audio of {audio.shape[0]}; they are generated in pairs")
        spec = cls(
            frames=grid.frames(video.shape[2]),
            height=video.shape[3] * grid.pixel_stride,
            width=video.shape[4] * grid.pixel_stride,
            fps=fps,
            grid=grid,
        )
        if audio.shape[2] != spec.audio_latents:
            raise ValueError(
                f"the video lasts {spec.seconds:.3f} s and needs {spec.audio_latents} audio latents, "
                f"got {audio.shape[2]} ({audio.shape[2] / grid.audio_rate:.3f} s)"
            )
        return spec

    @property
    def seconds(self) -> float:
        """Duration of picture and sound."""
        return self.frames / self.fps

    @property
    def samples(self) -> int:
        """Samples of sound: as long as the pictures, to the nearest sample."""
        return round(self.frames * self.grid.sample_rate / self.fps)

    @property
    def latent_frames(self) -> int:
        """Video latents in time."""
        return self.grid.latent_frames(self.frames)

    @property
    def latent_size(self) -> tuple[int, int]:
        """Height and width of a video latent."""
        return self.height // self.grid.pixel_stride, self.width // self.grid.pixel_stride

    @property
    def audio_latents(self) -> int:
        """Audio latents: enough to cover the last sample."""
        return math.ceil(self.samples / self.grid.hop)

    @property
    def video_tokens(self) -> int:
        """Tokens of the video branch."""
        height, width = self.latent_size
        return self.latent_frames * (height // self.grid.patch) * (width // self.grid.patch)

    def video_shape(self, batch: int = 1) -> tuple[int, int, int, int, int]:
        """Shape of the video latents."""
        return (batch, self.grid.video_channels, self.latent_frames, *self.latent_size)

    def audio_shape(self, batch: int = 1) -> tuple[int, int, int]:
        """Shape of the audio latents."""
        return (batch, self.grid.audio_channels, self.audio_latents)

    @cached_property
    def timeline(self) -> Timeline:
        """Where the two token grids meet."""
        return Timeline(latent_frames=self.latent_frames, audio_latents=self.audio_latents, fps=self.fps, grid=self.grid)


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """The times of the video latents and the audio latents of one clip, on one axis.

    Attributes:
        latent_frames: video latents in time, T_v.
        audio_latents: audio latents, T_a.
        fps: frames per second.
        grid: strides of the codecs.
        time_map: ``exact`` knows that the first video latent ends with the first frame, but takes it for as long as the others;
            ``centred`` has it in the middle of that one frame; ``paper`` is the papers' j T_v / T_a.
    """

    latent_frames: int
    audio_latents: int
    fps: float
    grid: Grid = field(default_factory=Grid)
    time_map: TimeMap = "exact"

    def video_spans(self) -> Tensor:
        """Start and end of what each video latent shows, (T_v, 2), seconds."""
        last = torch.arange(self.latent_frames, dtype=torch.float64) * self.grid.frame_stride
        first = (last - (self.grid.frame_stride - 1)).clamp(min=0)
        return torch.stack([first, last + 1], dim=1) / self.fps

    def audio_spans(self) -> Tensor:
        """Start and end of what each audio latent sounds, (T_a, 2), seconds."""
        start = torch.arange(self.audio_latents, dtype=torch.float64)
        return torch.stack([start, start + 1], dim=1) / self.grid.audio_rate

    def audio_on_video_axis(self) -> Tensor:
        """Position of every audio latent counted in video latents, (T_a,).

        Exact map: video latent i ends with frame ``s i``, so it is centred at ``(s i + 1 - s / 2) / fps`` and the time t is at
        position ``(t fps + s / 2 - 1) / s``; an audio latent's time is its middle. Its edges are right everywhere, but latent 0
        shows one frame and is centred at ``1 / 2`` frame, not at ``1 - s / 2``: 1.95 audio latents later at 24 fps. The centred
        map goes from there to the middle of latent 1 in a straight line.
        """
        if self.time_map == "paper":
            return torch.arange(self.audio_latents, dtype=torch.float64) * self.latent_frames / self.audio_latents
        position = self._exact_position()
        if self.time_map == "exact":
            return position
        frame = position * self.grid.frame_stride + 1 - self.grid.frame_stride / 2
        first = (frame - 0.5) / (self._second_middle() - 0.5)
        return torch.where(position < 1, first, position)

    def _exact_position(self) -> Tensor:
        j, stride = torch.arange(self.audio_latents, dtype=torch.float64), self.grid.frame_stride
        return ((j + 0.5) / self.grid.audio_rate * self.fps + stride / 2 - 1) / stride

    def _second_middle(self) -> float:
        """The middle of video latent 1, in frames."""
        return 1 + self.grid.frame_stride / 2

    def video_on_audio_axis(self) -> Tensor:
        """Position of every video latent counted in audio latents, (T_v,); the inverse of the other map."""
        i = torch.arange(self.latent_frames, dtype=torch.float64)
        if self.time_map == "paper":
            return i * self.audio_latents / self.latent_frames
        stride = self.grid.frame_stride
        frame = i * stride + 1 - stride / 2
        if self.time_map == "centred":
            frame[0] = 0.5
        return frame / self.fps * self.grid.audio_rate - 0.5

    def nearest_video_latent(self) -> Tensor:
        """The video latent nearest to every audio latent, (T_a,) int64, not clamped: sound may outlast the picture.

        It is the one shown at the middle of the audio latent (the paper's map asks its own positions).
        """
        position = self.audio_on_video_axis() if self.time_map == "paper" else self._exact_position()
        return torch.floor(position + 0.5).long()

    def video_in_span(self, start: float, end: float) -> Tensor:
        """Which video latents lie wholly in ``start <= time <= end`` seconds, (T_v,) bool."""
        return _inside(self.video_spans(), start, end)

    def audio_in_span(self, start: float, end: float) -> Tensor:
        """Which audio latents lie wholly in ``start <= time <= end`` seconds, (T_a,) bool."""
        return _inside(self.audio_spans(), start, end)


def _inside(spans: Tensor, start: float, end: float) -> Tensor:
    if not start < end:
        raise ValueError(f"a span of time starts before it ends, got {start} s to {end} s")
    tolerance = 1e-6
    return (spans[:, 0] >= start - tolerance) & (spans[:, 1] <= end + tolerance)


def _choices(value: int, step: int, *, offset: int) -> str:
    below = (max(value, offset) - offset) // step * step + offset
    return str(below) if value < offset else f"{below} or {below + step}"

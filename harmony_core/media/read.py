"""Media files to the core's values, at a clip's rate and size."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor

from ..audio_ops import SAMPLE_RATES
from ..geometry import FPS, ClipSpec
from ..progress import Progress
from ..types import Audio, Video
from .frames import Short, read_pictures
from .pictures import Picture, Resize
from .sound import read_sound
from .source import DEFAULT_LIMITS, Limits, frame_rate, opened, probe

LONGEST_START = 1e6
"""Seconds into a file."""


def read_video(
    path: str | Path,
    *,
    fps: float | None = None,
    size: tuple[int, int] | None = None,
    start: float = 0.0,
    frames: int | None = None,
    resize: Resize = "cover",
    short: Short = "refuse",
    limits: Limits = DEFAULT_LIMITS,
    progress: Progress | None = None,
) -> Video:
    """Read the pictures of a file.

    Picture i is what the file shows in the middle of its time, ``start + (i + 1/2) / fps``: the same picture whatever the
    rounding of the file's timestamps, and right for a variable frame rate.

    Args:
        path: a video, an animation or a photograph.
        fps: pictures per second; the file's average where not given.
        size: height and width; as the file is shown where not given.
        start: seconds after the file's first picture.
        frames: number of pictures; all from ``start`` on where not given.
        resize: ``cover`` fills the size and crops evenly what is over, ``fit`` shows all and leaves black bars.
        short: where the file ends before ``frames``, ``refuse`` it or ``hold`` its last picture.
        limits: what is too large.
        progress: called after each picture; without ``frames``, the total is what has been read so far.

    Returns:
        The pictures, (1, 3, F, H, W) float32 in [-1, 1].

    Raises:
        ValueError: the file is no media, damaged, too large, too short or without pictures; the message names it.
    """
    _check_request(fps=fps, size=size, start=start, count=frames, short=short)
    with opened(path, limits) as source:
        if source.video is None:
            raise ValueError(f"{path} has no pictures")
        rate = fps or float(frame_rate(source.video))
        pictures: list[Picture] = []
        for picture in read_pictures(source, source.video, rate, size, start, frames, resize=resize, short=short):
            pictures.append(picture)
            if progress is not None:
                progress(len(pictures), frames or len(pictures))
    return Video(_to_tensor(pictures), rate)


def read_image(
    path: str | Path, *, size: tuple[int, int] | None = None, resize: Resize = "cover", limits: Limits = DEFAULT_LIMITS
) -> Tensor:
    """Read a photograph, or the first picture of a video.

    Args:
        path: the file; its EXIF orientation is applied, transparency is put over black.
        size: height and width; as the file is shown where not given.
        resize: as for :func:`read_video`.
        limits: what is too large.

    Returns:
        (1, 3, 1, H, W) float32 in [-1, 1]: a video of one picture.

    Raises:
        ValueError: the file is no media, damaged, too large or without pictures; the message names it.
    """
    return read_video(path, size=size, frames=1, resize=resize, short="hold", limits=limits).frames


def read_audio(
    path: str | Path,
    *,
    sample_rate: int | None = None,
    start: float = 0.0,
    seconds: float | None = None,
    short: Short = "refuse",
    limits: Limits = DEFAULT_LIMITS,
) -> Audio:
    """Read the sound of a file, all channels.

    Sound that starts after the pictures or has a gap is silent there; sound before the first picture is left out.

    Args:
        path: a sound file or a video.
        sample_rate: samples per second; the file's where not given.
        start: seconds after the file's first picture, or its first sound where it has no pictures.
        seconds: length, to the nearest sample; all from ``start`` on where not given.
        short: where the file's sound ends more than 20 ms before ``seconds``, ``refuse`` it or ``hold`` silence.
        limits: what is too large.

    Returns:
        The sound, (1, C, samples) float32 in [-1, 1]; channels in the order FL FR FC LFE BL BR.

    Raises:
        ValueError: the file is no media, damaged, too large, too short or without sound; the message names it.
    """
    if seconds is not None and not (math.isfinite(seconds) and seconds > 0):
        raise ValueError(f"a length is a positive number of seconds, got {seconds}")
    if sample_rate is not None and not SAMPLE_RATES[0] <= sample_rate <= SAMPLE_RATES[1]:
        raise ValueError(f"a sample rate is {SAMPLE_RATES[0]} to {SAMPLE_RATES[1]} Hz, got {sample_rate}")
    _check_request(start=start, short=short)
    with opened(path, limits) as source:
        if source.audio is None:
            raise ValueError(f"{path} has no sound")
        return read_sound(source, source.audio, sample_rate, start, seconds, pad=short == "hold")


def read_clip(
    path: str | Path,
    spec: ClipSpec,
    *,
    start: float = 0.0,
    resize: Resize = "cover",
    short: Short = "refuse",
    limits: Limits = DEFAULT_LIMITS,
    progress: Progress | None = None,
) -> tuple[Video | None, Audio | None]:
    """Read a file as the clip ``spec``: pictures at its rate, size and number, sound at its sample rate, to the sample.

    Args:
        path: a video, a sound file or a photograph.
        spec: the clip.
        start: seconds after the file's first picture, or its first sound where it has no pictures.
        resize: as for :func:`read_video`.
        short: where the file is shorter than the clip, ``refuse`` it, or ``hold`` the last picture and silence. Beside
            pictures that are long enough, sound may always be shorter: it is silent there.
        limits: what is too large.
        progress: called after each picture.

    Returns:
        Pictures and sound; None for what the file does not have.

    Raises:
        ValueError: the file is no media, damaged, too large or too short; the message names it.
    """
    info = probe(path, limits=limits)
    video = audio = None
    if info.video is not None:
        size = (spec.height, spec.width)
        video = read_video(
            path,
            fps=spec.fps,
            size=size,
            start=start,
            frames=spec.frames,
            resize=resize,
            short=short,
            limits=limits,
            progress=progress,
        )
    if info.audio is not None:
        audio = read_audio(
            path,
            sample_rate=spec.grid.sample_rate,
            start=start,
            seconds=spec.samples / spec.grid.sample_rate,
            short="hold" if info.video is not None else short,
            limits=limits,
        )
    return video, audio


def _check_request(
    *, start: float, short: Short, fps: float | None = None, size: tuple[int, int] | None = None, count: int | None = None
) -> None:
    if not 0 <= start <= LONGEST_START:
        raise ValueError(f"a start is a number of seconds from 0 to {LONGEST_START:g}, got {start}")
    if short not in ("refuse", "hold"):
        raise ValueError(f"short is 'refuse' or 'hold', got {short!r}")
    if fps is not None and not FPS[0] <= fps < math.inf:  # how many pictures that are is judged with the file
        raise ValueError(f"a frame rate is positive, from {FPS[0]:g} on, got {fps}")
    if size is not None and min(size) < 1:
        raise ValueError(f"a height and a width are at least 1, got {size[0]} and {size[1]}")
    if count is not None and count < 1:
        raise ValueError(f"a number of pictures is at least 1, got {count}")


def _to_tensor(pictures: list[Picture]) -> Tensor:
    """(H, W, 3) bytes each to (1, 3, F, H, W) in [-1, 1]."""
    height, width, _ = pictures[0].shape
    video = torch.empty(1, 3, len(pictures), height, width)
    for index, picture in enumerate(pictures):
        video[0, :, index] = torch.from_numpy(picture).permute(2, 0, 1)
    return video.mul_(2 / 255).sub_(1)

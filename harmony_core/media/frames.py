"""The pictures of an open file at a steady rate, whatever the rate they are stored at."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Literal

from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from .hdr import NAMES, transfer_of
from .pictures import Framer, Picture, Resize, shown_size
from .source import Source, frame_rate, stated_seconds
from .track import Track

log = logging.getLogger(__name__)

Short = Literal["refuse", "hold"]

_BYTES_A_PIXEL = 3 * 4


def read_pictures(
    source: Source,
    stream: VideoStream,
    fps: float,
    size: tuple[int, int] | None,
    start: float,
    count: int | None,
    *,
    resize: Resize,
    short: Short,
) -> Iterator[Picture]:
    """Give the picture shown in the middle of each frame's time; only those are converted.

    Args:
        source: the open file.
        stream: its pictures.
        fps: wanted pictures per second.
        size: wanted height and width, as the first picture is shown where None.
        start: seconds after the file's origin; a photograph has no time.
        count: wanted pictures, all where None.
        resize: how a picture fills the size.
        short: what to do where the file ends before ``count``.

    Yields:
        (H, W, 3) uint8.

    Raises:
        ValueError: the pictures are damaged, too many, too few or end before ``start``; the message names the file.
    """
    start = 0.0 if source.still else start
    framer: Framer | None = None
    done, most = 0, 0
    for frame, until in _shown(source, stream, start + 0.5 / fps):
        picture: Picture | None = None
        while done != count and start + (done + 0.5) / fps < until:
            if framer is None:
                framer = _framer(source, stream, frame, size, resize)
                most = _most(source, framer.size, fps)
                if (transfer := transfer_of(frame)) is not None:
                    log.warning("%s has high dynamic range (%s): it is tone-mapped to BT.709", source.path, NAMES[transfer])
                _check_count(source, most, count or _stated_count(source, stream, start, fps))
            if picture is None:
                picture = _convert(source, stream, framer, frame)
            done += 1
            _check_count(source, most, done)
            yield picture
        if done == count:
            return
    if start >= until:
        raise ValueError(f"{source.path} has no pictures at {start:.2f} s: they end at {until:.2f} s")
    missing = (count or 1) - done
    if missing > 0 and count is not None and short == "refuse":
        raise ValueError(
            f"{source.path} is too short: {count} pictures at {fps:g} per second from {start:.2f} s on are wanted, "
            f"there are {done}"
        )
    framer = framer or _framer(source, stream, frame, size, resize)
    _check_count(source, _most(source, framer.size, fps), done + missing)
    for _ in range(missing):
        picture = picture if picture is not None else _convert(source, stream, framer, frame)
        yield picture


def _shown(source: Source, stream: VideoStream, start: float) -> Iterator[tuple[VideoFrame, float]]:
    """Each frame, with the time at which the next one replaces it, or the file ends."""
    track: Track[VideoFrame] = Track(source, stream)
    last: VideoFrame | None = None
    last_time = 0.0
    for time, frame in track.frames(start):
        if last is not None:
            yield last, time
        last, last_time = frame, time
    assert last is not None  # a track without a frame is refused
    yield last, track.end if track.end > last_time else last_time + 1 / float(frame_rate(stream))


def _framer(source: Source, stream: VideoStream, frame: VideoFrame, size: tuple[int, int] | None, resize: Resize) -> Framer:
    size = size or shown_size(frame, stream.sample_aspect_ratio, source.orientation(frame))
    return Framer(size, resize=resize, pixels=source.limits.pixels, still=source.still)


def _convert(source: Source, stream: VideoStream, framer: Framer, frame: VideoFrame) -> Picture:
    try:
        return framer.picture(frame, stream.sample_aspect_ratio, source.orientation(frame))
    except ValueError as error:
        raise ValueError(f"cannot read the pictures of {source.path}: {error}") from error


def _most(source: Source, size: tuple[int, int], fps: float) -> int:
    return int(min(source.limits.seconds * fps, source.limits.output_bytes / (_BYTES_A_PIXEL * size[0] * size[1])))


def _stated_count(source: Source, stream: VideoStream, start: float, fps: float) -> int:
    seconds = None if source.still else stated_seconds(stream)
    return 1 if seconds is None else int((seconds - start) * fps)


def _check_count(source: Source, most: int, count: int) -> None:
    if count > most:
        raise ValueError(
            f"{count} or more pictures of {source.path} at this size are over the limit of {most}; read a part of it"
        )

"""Opening a media file: what may be opened at all, what is in it, and where its time starts."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import BinaryIO, TypeVar

import av
from av.audio.stream import AudioStream
from av.container.input import InputContainer
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from ..inputs import named
from .exif import read_orientation
from .pictures import Orientation, shown_size
from .stills import is_cut_gif

S = TypeVar("S", VideoStream, AudioStream)

# What FFmpeg may take a file for. Playlists and lists of files are left out: they are names of other files, not media.
_FORMATS = (
    "aac,ac3,aiff,amr,apng,asf,au,avi,bmp_pipe,caf,dv,eac3,flac,flv,gif,h264,hevc,ivf,jpeg_pipe,jpegxl_pipe,m4v,matroska,"
    "mjpeg,mov,mp3,mpeg,mpegts,mpegvideo,mxf,nut,ogg,png_pipe,tiff_pipe,tta,w64,wav,webp_pipe,wv,yuv4mpegpipe"
)
_STILL = "_pipe"
_CUT_UNSEEN = {"mjpeg"}
_TILED_BRANDS = {"heic", "heix", "heim", "heis", "mif1"}


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What is refused before it costs memory or hours.

    Attributes:
        file_bytes: size of a file.
        seconds: length of what is read.
        pixels: of one picture, as stored and on the way to the wanted size.
        channels: of sound.
        output_bytes: memory of what is read, as float32.
        sound_bytes: likewise of sound alone, at the file's own rate: silence is packed ten thousand times as small.
    """

    file_bytes: int = 64 << 30
    seconds: float = 600.0
    pixels: int = 1 << 26
    channels: int = 8
    output_bytes: int = 16 << 30
    sound_bytes: int = 1 << 30


DEFAULT_LIMITS = Limits()


@dataclass(frozen=True, kw_only=True)
class VideoInfo:
    """The pictures of a file.

    Attributes:
        codec: FFmpeg's name of it.
        height: pixels as shown: upright, with square pixels.
        width: likewise.
        fps: average pictures per second; of a still picture it means nothing.
        seconds: length; that of the whole file where only that is stated, None where nothing is.
    """

    codec: str
    height: int
    width: int
    fps: float
    seconds: float | None


@dataclass(frozen=True, kw_only=True)
class AudioInfo:
    """The sound of a file.

    Attributes:
        codec: FFmpeg's name of it.
        sample_rate: samples per second.
        channels: number of them.
        seconds: length; that of the whole file where only that is stated, None where nothing is.
    """

    codec: str
    sample_rate: int
    channels: int
    seconds: float | None


@dataclass(frozen=True, kw_only=True)
class MediaInfo:
    """What is in a file.

    Attributes:
        container: FFmpeg's name of the file format.
        still: the pictures are one photograph.
        video: the pictures, None without.
        audio: the sound, None without.
    """

    container: str
    still: bool
    video: VideoInfo | None
    audio: AudioInfo | None


@dataclass(frozen=True)
class Source:
    """An open media file."""

    path: Path
    container: InputContainer
    limits: Limits

    @property
    def still(self) -> bool:
        """Whether the file is one photograph."""
        return self.container.format.name.endswith(_STILL)

    @property
    def video(self) -> VideoStream | None:
        """The stream of pictures that players show, None without; a cover picture of a song is none."""
        covers = Disposition.attached_pic | Disposition.timed_thumbnails
        return _chosen([s for s in self.container.streams.video if not s.disposition & covers])

    @property
    def audio(self) -> AudioStream | None:
        """The stream of sound that players play, None without."""
        return _chosen(self.container.streams.audio)

    @cached_property
    def origin(self) -> float:
        """The file's timestamp that is time 0, in seconds: the first picture, or the first sound without pictures."""
        stream = self.video or self.audio
        assert stream is not None
        start = float((stream.start_time or 0) * _tick(stream))
        return start if self.video is not None else max(0.0, start)  # sound before 0 is an encoder's run-up, not heard

    @cached_property
    def exif_orientation(self) -> Orientation | None:
        """What a photograph's own tag says; None for video, whose frames say it."""
        return Orientation.from_exif(read_orientation(self.path)) if self.still else None

    def orientation(self, frame: VideoFrame) -> Orientation:
        """How ``frame`` is brought upright."""
        return self.exif_orientation or Orientation.from_frame(frame)

    @property
    def seconds(self) -> float | None:
        """Length of the whole file as it states it."""
        return None if self.container.duration is None else self.container.duration / av.time_base


@contextmanager
def opened(path: str | Path, limits: Limits) -> Iterator[Source]:
    """Open a file of pictures, sound or both.

    FFmpeg is given the bytes, not the name: a name can mean a network address, a device or a series of files to it.

    Raises:
        ValueError: there is no such file, it is no media or is damaged, or is larger than ``limits``; the message names it.
            FFmpeg's errors while the file is open come out so too.
    """
    path = Path(path)
    _check_file(path, limits)
    try:
        with path.open("rb") as file:
            if is_cut_gif(file):
                raise ValueError(f"{path} is cut short: it ends in the middle of a picture")
        with path.open("rb") as file, _open_container(file) as container:
            source = Source(path, container, limits)
            _check_content(source)
            yield source
    except (av.FFmpegError, OSError) as error:
        raise ValueError(f"cannot read {path}: {_reason(error)}") from error


def probe(path: str | Path, *, limits: Limits = DEFAULT_LIMITS) -> MediaInfo:
    """What is in a media file; its first picture is decoded, to know how it is shown.

    Raises:
        ValueError: the file is no media, damaged or larger than ``limits``; the message names it.
    """
    with opened(path, limits) as source:
        return MediaInfo(
            container=source.container.format.name,
            still=source.still,
            video=_video_info(source),
            audio=_audio_info(source),
        )


def stated_seconds(stream: VideoStream | AudioStream) -> float | None:
    """Length of a stream as its file states it."""
    return None if stream.duration is None else float(stream.duration * _tick(stream))


def frame_rate(stream: VideoStream) -> Fraction:
    """Average pictures per second of a stream."""
    return stream.average_rate or stream.guessed_rate or Fraction(25)


def _video_info(source: Source) -> VideoInfo | None:
    stream = source.video
    if stream is None:
        return None
    frame = next(source.container.decode(stream), None)
    if frame is None:
        raise ValueError(f"no picture in {source.path} could be decoded: it is damaged")
    height, width = shown_size(frame, stream.sample_aspect_ratio, source.orientation(frame))
    return VideoInfo(
        codec=stream.codec_context.name,
        height=height,
        width=width,
        fps=float(frame_rate(stream)),
        seconds=None if source.still else stated_seconds(stream) or source.seconds,
    )


def _audio_info(source: Source) -> AudioInfo | None:
    stream = source.audio
    if stream is None:
        return None
    return AudioInfo(
        codec=stream.codec_context.name,
        sample_rate=stream.codec_context.sample_rate,
        channels=stream.codec_context.layout.nb_channels,
        seconds=stated_seconds(stream) or source.seconds,
    )


def _check_file(path: Path, limits: Limits) -> None:
    try:
        status = path.stat()
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        raise ValueError(f"cannot read {named(path)}: {_reason(error)}") from error
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"cannot read {named(path)}: it is not a file")
    if status.st_size == 0:
        raise ValueError(f"{path} is empty")
    if status.st_size > limits.file_bytes:
        raise ValueError(f"{path} is {status.st_size} bytes large, more than the limit of {limits.file_bytes}")


class _Nameless:
    """A file without its name, by which FFmpeg would otherwise guess a format and read patterns such as ``%d``."""

    def __init__(self, file: BinaryIO) -> None:
        self.read, self.seek, self.tell = file.read, file.seek, file.tell


def _open_container(file: BinaryIO) -> InputContainer:
    options = {"protocol_whitelist": "pipe", "format_whitelist": _FORMATS}
    return av.open(_Nameless(file), "r", options=options, metadata_errors="replace")


def _check_content(source: Source) -> None:
    path, limits = source.path, source.limits
    if source.video is None and source.audio is None:
        raise ValueError(f"{path} has neither pictures nor sound of a known kind")
    if source.container.metadata.get("major_brand", "").strip() in _TILED_BRANDS:
        raise ValueError(f"{path} is a HEIC photograph, stored in tiles that are not put together here; convert it to JPEG")
    if (video := source.video) is not None:
        if video.width * video.height > limits.pixels:
            raise ValueError(
                f"the pictures of {path} are {video.width} x {video.height}, more than the limit of {limits.pixels} pixels"
            )
        # Some formats tell their size only with the first picture: the decoder watches too. Half a JPEG is an error to it only
        # if that is asked for; of video, a damaged frame is better than none.
        whole = {"err_detect": "explode"} if source.still and video.codec_context.name in _CUT_UNSEEN else {}
        video.codec_context.options = {"max_pixels": str(limits.pixels), **whole}
        video.thread_type = "AUTO"
    if source.audio is not None and source.audio.codec_context.layout.nb_channels > limits.channels:
        given = source.audio.codec_context.layout.nb_channels
        raise ValueError(f"{path} has {given} channels of sound, more than the limit of {limits.channels}")


def _chosen(streams: Iterable[S]) -> S | None:
    """The default one, else the first."""
    there = [s for s in streams if _decodable(s)]
    return next((s for s in there if s.disposition & Disposition.default), there[0] if there else None)


def _decodable(stream: VideoStream | AudioStream) -> bool:
    return stream.codec_context is not None  # PyAV leaves it out where FFmpeg has no decoder


def _tick(stream: VideoStream | AudioStream) -> Fraction:
    assert stream.time_base is not None
    return stream.time_base


def _reason(error: Exception) -> str:
    if isinstance(error, av.InvalidDataError):
        return "it is damaged, or not a media file that is read here (animated WebP, TGA and TIFF of floats are not)"
    if isinstance(error, av.FFmpegError | OSError) and error.errno is not None and 0 < error.errno < 256:
        return os.strerror(error.errno)
    return str(error)

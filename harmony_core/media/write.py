"""The core's values to media files, all or nothing.

Pictures are converted to BT.709 in limited range and tagged so: what every player assumes of high definition, stated for all
sizes. AAC is always written at 48 kHz (or 44.1, where the sound is): below that its blocks get so long that a sharp attack
smears over tens of milliseconds, and players disagree on whether such a stream carries a second, doubled rate.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, get_args

import av
import numpy as np
import torch
from av.audio.codeccontext import AudioCodecContext
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container.output import OutputContainer
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter
from av.video.stream import VideoStream
from torch import Tensor

from ..atomic import replacing
from ..audio_ops import SAMPLE_RATES, USUAL, layout_of, resample
from ..inputs import exists, is_dir, is_file, named
from ..progress import Progress
from ..types import Audio, Video
from .pictures import SCALING, Picture
from .sound import Samples

Preset = Literal["ultrafast", "veryfast", "fast", "medium", "slow", "veryslow"]

_LONGEST_SIDE = 16_384
_HIGHEST_FPS = 1000
_AAC_RATES = (44_100, 48_000)
_MOVIE_TICKS = 48_000  # a second; by default lengths are rounded to milliseconds, and cut the sound of some rates
_AAC_BITS_A_CHANNEL = 96_000
_BT709 = 1  # the number of matrix, primaries and transfer curve alike in ITU-T H.273
_LONGEST_WAV = (1 << 32) - (1 << 16)


def write_video(
    path: str | Path,
    video: Video,
    audio: Audio | None = None,
    *,
    crf: int = 18,
    preset: Preset = "medium",
    metadata: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> None:
    """Write an mp4: H.264, and AAC where there is sound, both from time 0 on.

    Args:
        path: the file, .mp4; replaced where it exists.
        video: one video of even height and width; H.264's usual colour format has no other.
        audio: its sound, up to 8 channels.
        crf: constant rate factor of H.264, 0 (best) to 51.
        preset: H.264's bargain of time for size.
        metadata: names and texts kept in the file.
        progress: called after each picture; where it raises, nothing is written.

    Raises:
        ValueError: the values do not fit the format or are not finite, or the file cannot be written.
    """
    _check_video(video)
    if audio is not None:
        _check_audio(audio)
        audio = audio if audio.sample_rate in _AAC_RATES else resample(audio, max(_AAC_RATES))
    if not 0 <= crf <= 51 or preset not in get_args(Preset):
        raise ValueError(f"crf is 0 to 51 and preset one of {', '.join(get_args(Preset))}, got {crf} and {preset!r}")
    if not all(isinstance(text, str) for pair in (metadata or {}).items() for text in pair):
        raise ValueError("metadata are names and texts; turn other values into text, such as JSON, first")
    with _replacing(path, ".mp4") as temporary:
        flags = "+faststart+use_metadata_tags" if metadata else "+faststart"
        options = {"movflags": flags, "movie_timescale": str(_MOVIE_TICKS)}
        with _container(temporary, "mp4", options) as container:
            container.metadata.update(metadata or {})
            pictures = _add_h264(container, video, crf, preset)
            sound = _add_aac(container, audio) if audio is not None else None
            _encode(container, pictures, video, sound, audio, progress)


def write_wav(path: str | Path, audio: Audio, *, sample_format: Literal["int16", "float32"] = "int16") -> None:
    """Write a wav.

    Args:
        path: the file, .wav; replaced where it exists.
        audio: one sound, up to 8 channels.
        sample_format: ``int16`` clips to [-1, 1] and rounds, ``float32`` keeps every value.

    Raises:
        ValueError: the values do not fit the format or are not finite, or the file cannot be written.
    """
    _check_audio(audio)
    if sample_format not in ("int16", "float32"):
        raise ValueError(f"sample_format is 'int16' or 'float32', got {sample_format!r}")
    if audio.sample_rate > SAMPLE_RATES[1]:
        raise ValueError(f"a wav has up to {SAMPLE_RATES[1]} samples per second, got {audio.sample_rate}")
    samples = _samples(audio)
    codec, packed = ("pcm_s16le", "s16") if sample_format == "int16" else ("pcm_f32le", "flt")
    data = np.clip(np.rint(samples * 32768), -32768, 32767).astype(np.int16) if packed == "s16" else samples
    if data.nbytes > _LONGEST_WAV:
        raise ValueError(f"a wav holds up to 4 GiB, got {data.nbytes} bytes of sound")
    with _replacing(path, ".wav") as temporary, _container(temporary, "wav", {}) as container:
        stream = container.add_stream(codec, rate=audio.sample_rate)
        assert isinstance(stream, AudioStream)
        stream.codec_context.layout = layout_of(audio)
        for start in range(0, data.shape[1], audio.sample_rate):
            block = data[:, start : start + audio.sample_rate].T.reshape(1, -1)
            container.mux(stream.encode(_audio_frame(block, packed, layout_of(audio), audio.sample_rate, start)))
        container.mux(stream.encode(None))


def write_image(path: str | Path, image: Tensor) -> None:
    """Write one picture as a png.

    Args:
        path: the file, .png; replaced where it exists.
        image: (1, 3, 1, H, W) in [-1, 1]: a video of one picture.

    Raises:
        ValueError: the tensor has another shape or is not finite, or the file cannot be written.
    """
    if image.ndim != 5 or image.shape[:3] != (1, 3, 1) or 0 in image.shape:
        raise ValueError(f"a picture is (1, 3, 1, height, width), got shape {tuple(image.shape)}")
    _check_single(image, "picture")
    frame = VideoFrame.from_ndarray(_picture(image, 0), format="rgb24")
    encoder = av.CodecContext.create("png", "w")
    assert isinstance(encoder, VideoCodecContext)
    encoder.width, encoder.height, encoder.pix_fmt, encoder.time_base = frame.width, frame.height, "rgb24", Fraction(1)
    with _replacing(path, ".png") as temporary:
        temporary.write_bytes(b"".join(bytes(packet) for packet in (*encoder.encode(frame), *encoder.encode(None))))


@contextmanager
def _replacing(path: str | Path, suffix: str) -> Iterator[Path]:
    """A name beside ``path`` to write under; it takes the place of ``path`` when all went well, and is gone when not."""
    path = Path(path)
    if path.suffix.lower() != suffix:
        raise ValueError(f"cannot write {named(path)}: the name of this kind of file ends in {suffix}")
    target = Path(os.path.realpath(path))  # a link stays a link
    try:
        if exists(target) and not is_file(target):
            raise ValueError(f"cannot write {named(path)}: it exists and is not a file")
        if not is_dir(target.parent):
            raise ValueError(f"cannot write {named(path)}: there is no such folder")
        with replacing(target) as temporary:
            yield temporary
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
    except (av.FFmpegError, OSError) as error:
        raise ValueError(f"cannot write {named(path)}: {error.strerror or error}") from error


@contextmanager
def _container(path: Path, kind: str, options: dict[str, str]) -> Iterator[OutputContainer]:
    """A file being written, closed in any case: an unfinished one as it is, for its folder is tidied up after it."""
    container = av.open(str(path), "w", format=kind, options=options)
    try:
        yield container
    except BaseException:
        with suppress(av.FFmpegError):
            container.close()
        raise
    container.close()


def _add_h264(container: OutputContainer, video: Video, crf: int, preset: str) -> VideoStream:
    rate = _exact_rate(video.fps)
    stream = container.add_stream("libx264", rate=rate, options={"crf": str(crf), "preset": preset})
    assert isinstance(stream, VideoStream)
    stream.height, stream.width = video.frames.shape[-2:]
    stream.pix_fmt = "yuv420p"
    context = stream.codec_context
    context.time_base = 1 / rate
    context.color_range = int(ColorRange.MPEG)
    context.colorspace = context.color_primaries = context.color_trc = _BT709
    return stream


def _add_aac(container: OutputContainer, audio: Audio) -> AudioStream:
    channels = audio.waveform.shape[1]
    stream = container.add_stream("aac", rate=audio.sample_rate)
    assert isinstance(stream, AudioStream)
    stream.codec_context.layout = _aac_layout(audio)
    stream.codec_context.bit_rate = _AAC_BITS_A_CHANNEL * channels
    return stream


def _encode(
    container: OutputContainer,
    pictures: VideoStream,
    video: Video,
    sound: AudioStream | None,
    audio: Audio | None,
    progress: Progress | None,
) -> None:
    """Encode both in step, so that the muxer need not hold one back for the other."""
    scaler = VideoReformatter()
    count = video.frames.shape[2]
    blocks = _blocks(audio, count, video.fps) if audio is not None else iter(())
    for index in range(count):
        container.mux(pictures.encode(_video_frame(scaler, video.frames, index, pictures)))
        if sound is not None and (block := next(blocks)) is not None:
            container.mux(sound.encode(block))
        if progress is not None:
            progress(index + 1, count)
    container.mux(pictures.encode(None))
    if sound is not None:
        container.mux(sound.encode(None))


def _video_frame(scaler: VideoReformatter, frames: Tensor, index: int, stream: VideoStream) -> VideoFrame:
    rgb = VideoFrame.from_ndarray(_picture(frames, index), format="rgb24")
    frame = scaler.reformat(
        rgb,
        format="yuv420p",
        src_colorspace=Colorspace.ITU709,
        dst_colorspace=Colorspace.ITU709,
        src_color_range=ColorRange.JPEG,
        dst_color_range=ColorRange.MPEG,
        interpolation=SCALING,
    )
    frame.pts, frame.time_base = index, stream.codec_context.time_base
    return frame


def _exact_rate(fps: float) -> Fraction:
    """The rate as a ratio; 23.976, 29.97 and 59.94 are names of 24000/1001, 30000/1001 and 60000/1001."""
    broadcast = Fraction(round(fps) * 1000, 1001)
    if abs(broadcast - Fraction(fps)) < Fraction(1, 1000):
        return broadcast
    return Fraction(fps).limit_denominator(_HIGHEST_FPS)


def _blocks(audio: Audio, count: int, fps: float) -> Iterator[AudioFrame | None]:
    """The sound in ``count`` pieces, one beside each picture; the last has all that is left."""
    samples = _samples(audio)
    length, rate = samples.shape[1], audio.sample_rate
    ends = [min(length, round((index + 1) * rate / fps)) for index in range(count - 1)] + [length]
    start, layout = 0, _aac_layout(audio)
    for end in ends:
        # Packed: PyAV does not see the last plane of eight.
        block = samples[:, start:end].T.reshape(1, -1)
        yield _audio_frame(block, "flt", layout, rate, start) if start < end else None
        start = end


def _aac_layout(audio: Audio) -> str:
    """The layout of a sound, or the usual one of so many channels where AAC has no place for it."""
    layout = layout_of(audio)
    return layout if _in_aac(layout) else layout_of(replace(audio, layout=None))


@lru_cache
def _in_aac(layout: str) -> bool:
    encoder = av.CodecContext.create("aac", "w")
    assert isinstance(encoder, AudioCodecContext)
    encoder.sample_rate, encoder.format, encoder.layout = max(_AAC_RATES), "fltp", layout
    try:
        encoder.open()
    except av.FFmpegError:
        return False
    return True


def _audio_frame(block: np.ndarray[Any, Any], sample_format: str, layout: str, rate: int, start: int) -> AudioFrame:
    frame = AudioFrame.from_ndarray(np.ascontiguousarray(block), format=sample_format, layout=layout)
    frame.sample_rate, frame.time_base, frame.pts = rate, Fraction(1, rate), start
    return frame


def _picture(frames: Tensor, index: int) -> Picture:
    """Picture ``index`` of (1, 3, F, H, W) as (H, W, 3) bytes."""
    picture = frames[0, :, index].detach().to("cpu", torch.float32)
    if not torch.isfinite(picture).all():
        raise ValueError(f"picture {index} has values that are not finite numbers")
    return ((picture.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()


def _samples(audio: Audio) -> Samples:
    """The sound as (C, samples) float32."""
    return audio.waveform[0].detach().to("cpu", torch.float32).numpy()


def _check_video(video: Video) -> None:
    _check_single(video.frames, "video")
    frames, height, width = video.frames.shape[-3:]
    if height % 2 or width % 2 or not frames * height * width:
        raise ValueError(
            f"an mp4 has one picture or more, of even width and height, got {frames} of {width} x {height}; crop or pad them"
        )
    if max(height, width) > _LONGEST_SIDE:
        raise ValueError(f"H.264 has sides of up to {_LONGEST_SIDE} pixels, got {width} x {height}")
    if not 1 / _HIGHEST_FPS <= video.fps <= _HIGHEST_FPS:
        raise ValueError(f"a video is written at 1/{_HIGHEST_FPS} to {_HIGHEST_FPS} pictures per second, got {video.fps:g}")


def _check_audio(audio: Audio) -> None:
    _check_single(audio.waveform, "sound")
    channels, samples = audio.waveform.shape[1:]
    if channels not in USUAL or not samples:
        raise ValueError(f"sound is 1 to {max(USUAL)} channels of at least one sample, got {channels} of {samples}")
    if not torch.isfinite(audio.waveform).all():
        raise ValueError("the sound has values that are not finite numbers")


def _check_single(tensor: Tensor, what: str) -> None:
    if not tensor.is_floating_point():
        raise ValueError(f"a {what} to write is floats in [-1, 1], got {tensor.dtype}")
    if tensor.shape[0] != 1:
        raise ValueError(f"one {what} is written to a file, got a batch of {tensor.shape[0]}; write them one by one")

"""Media files of every kind, made with PyAV for the tests that read them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest


@dataclass(kw_only=True)
class Pictures:
    """Frames to encode: arrays (or ready frames), each with its time in ``time_base``."""

    frames: Iterable[Any]
    codec: str = "ffv1"
    rate: Fraction = Fraction(24)
    times: list[int] | None = None
    time_base: Fraction | None = None
    pixel_format: str = "bgr0"
    options: dict[str, str] = field(default_factory=dict)
    tags: dict[str, Any] = field(default_factory=dict)


@dataclass(kw_only=True)
class Sound:
    """Samples to encode, (C, n) float32, the first at ``delay`` seconds."""

    samples: np.ndarray
    rate: int = 48_000
    codec: str = "pcm_s16le"
    layout: str = "mono"
    delay: float = 0.0


@pytest.fixture
def encode(tmp_path: Path) -> Callable[..., Path]:
    """Make a file: ``encode(name, fields of Pictures or None, fields of Sound or None, **options of the container)``."""

    def make(name: str, video: dict[str, Any] | None = None, audio: dict[str, Any] | None = None, **options: str) -> Path:
        pictures = Pictures(**video) if video else None
        sound = Sound(**audio) if audio else None
        path = tmp_path / name
        with av.open(str(path), "w", options=options) as container:
            packets = []
            if pictures is not None:
                video_stream = _video_stream(container, pictures)
            if sound is not None:
                audio_stream = container.add_stream(sound.codec, rate=sound.rate)
                audio_stream.codec_context.layout = sound.layout
            if pictures is not None:
                packets += _video_packets(video_stream, pictures)
            if sound is not None:
                packets += _audio_packets(audio_stream, sound)
            for packet in sorted(packets, key=lambda p: p.dts * p.time_base):
                container.mux(packet)
        return path

    return make


def _video_stream(container, pictures):
    stream = container.add_stream(pictures.codec, rate=pictures.rate, options=pictures.options)
    first = next(iter(pictures.frames))
    height, width = first.shape[:2] if isinstance(first, np.ndarray) else (first.height, first.width)
    stream.height, stream.width, stream.pix_fmt = height, width, pictures.pixel_format
    stream.codec_context.time_base = pictures.time_base or 1 / pictures.rate
    for name, value in pictures.tags.items():
        setattr(stream.codec_context, name, value)
    return stream


def _video_packets(stream, pictures):
    packets = []
    for index, given in enumerate(pictures.frames):
        frame = av.VideoFrame.from_ndarray(given, format="rgb24") if isinstance(given, np.ndarray) else given
        if frame.format.name != pictures.pixel_format:
            frame = frame.reformat(format=pictures.pixel_format)
        frame.pts = pictures.times[index] if pictures.times else index
        frame.time_base = stream.codec_context.time_base
        packets += stream.encode(frame)
    return packets + stream.encode(None)


def _audio_packets(stream, sound):
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(sound.samples), format="fltp", layout=sound.layout)
    frame.sample_rate, frame.time_base, frame.pts = sound.rate, Fraction(1, sound.rate), round(sound.delay * sound.rate)
    return [*stream.encode(frame), *stream.encode(None)]

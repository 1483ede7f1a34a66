"""The sound of an open file as one unbroken run of samples, placed by its timestamps."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from typing import Any

import av
import numpy as np
import torch
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from torch import Tensor

from ..audio_ops import SAMPLE_RATES, known_layout, resample
from ..types import Audio
from .source import Source, stated_seconds
from .track import Track

log = logging.getLogger(__name__)

Samples = np.ndarray[Any, np.dtype[np.float32]]

# Timestamps are coarse in some formats (1 ms): a smaller step than this is no gap in the sound, seconds.
_JITTER = 0.01
# Sound may end this much before the wanted length and still be long enough, seconds.
_SLACK = 0.02
_MOST_PLANES = 8
_FLOATS = ("pcm_f", "wavpack")
# Read beyond the wanted end, for the resampling filter, seconds.
_TAIL = 0.05


def read_sound(
    source: Source, stream: AudioStream, sample_rate: int | None, start: float, seconds: float | None, *, pad: bool
) -> Audio:
    """Decode from ``start`` on.

    Args:
        source: the open file.
        stream: its sound.
        sample_rate: wanted samples per second, the file's where None.
        start: seconds after the file's origin.
        seconds: wanted length, to the end where None.
        pad: whether silence may stand for more than a rounding at the end.

    Returns:
        (1, C, samples) in [-1, 1].

    Raises:
        ValueError: the sound is damaged, too long, too short or ends before ``start``; the message names the file.
    """
    run = _Run(source, stream, start, seconds, sample_rate)
    samples = run.joined()
    held = run.length()
    if held <= 0 and not pad:
        raise ValueError(f"{source.path} has no sound at {start:.2f} s: it ends at {run.track.end:.2f} s")
    if seconds is not None and held < (seconds - _SLACK) * run.rate and not pad:
        raise ValueError(
            f"the sound of {source.path} is too short: {seconds:.3f} s from {start:.2f} s on are wanted, "
            f"it lasts {held / run.rate:.3f} s from there"
        )
    samples = samples[:, : max(0, held)]
    waveform = torch.from_numpy(samples)[None]
    if samples.size:
        waveform = resample(Audio(waveform, run.rate), sample_rate or run.rate).waveform
    rate = sample_rate or run.rate
    if seconds is not None:
        missing = round(seconds * rate) - waveform.shape[2]
        waveform = torch.nn.functional.pad(waveform, (0, missing))  # a negative one cuts
    return Audio(_within_full_scale(waveform, source, stream), rate, run.layout)


def _within_full_scale(waveform: Tensor, source: Source, stream: AudioStream) -> Tensor:
    """In [-1, 1]: what lossy decoders overshoot by is cut, as players do; floats that were written so loud are made quieter."""
    peak = float(waveform.abs().max()) if waveform.numel() else 0.0
    if peak > 1 and stream.codec_context.name.startswith(_FLOATS):
        change = 20 * math.log10(peak)
        log.warning(
            "%s goes over full scale (%.2f): it is read %.1f dB quieter, so that nothing is cut", source.path, peak, change
        )
        return waveform / peak
    return waveform.clamp(-1, 1)


class _Run:
    """Blocks of samples without gaps or overlaps, from ``start`` to the end or a little beyond ``seconds``.

    Attributes:
        rate: samples per second of the file; certain once a block is decoded, as is ``channels``.
        channels: number of them.
        layout: where they are heard, if not as usual.
    """

    def __init__(
        self, source: Source, stream: AudioStream, start: float, seconds: float | None, sample_rate: int | None
    ) -> None:
        self.source = source
        self.track: Track[AudioFrame] = Track(source, stream)
        self.start = start
        self.seconds = seconds
        self.rate = self.channels = 0
        self.layout: str | None = None
        self._wanted_rate = sample_rate
        self._written = self._last_frame = 0

    def length(self) -> int:
        """Samples that the run lasts, without those an encoder added to fill its last packet."""
        excess = self._written - round((self.track.end - self.start) * self.rate)
        filling = self.track.tick * self.rate < excess < self._last_frame
        return self._written - excess if filling else self._written

    def joined(self) -> Samples:
        """All blocks, (C, n); see :meth:`__iter__`. What is reserved and not written to takes no memory."""
        samples, written = np.empty((0, 0), np.float32), 0
        for block in self:
            if not samples.size:
                samples = np.empty((self.channels, self._most()), np.float32)
            samples[:, written : written + block.shape[1]] = block
            written += block.shape[1]
        return samples[:, :written] if written else np.zeros((self.channels, 0), np.float32)

    def __iter__(self) -> Iterator[Samples]:
        """Yield (C, n) blocks.

        Raises:
            ValueError: the sound is longer than the limit, or changes its rate or channels midway.
        """
        for time, frame in self.track.frames(self.start):
            self._check_format(frame)
            most = self._most()
            if self.seconds is None and not self._written and self._stated() * self.rate > most:
                self._stop()
            at = round((time - self.start) * self.rate)
            if self._written and abs(at - self._written) < _JITTER * self.rate:
                at = self._written
            if at > self._written:
                silence = np.zeros((self.channels, min(at, most) - self._written), np.float32)
                self._written += silence.shape[1]
                yield silence
            block = _to_float(frame)[:, self._written - at :][:, : most - self._written]
            self._written += block.shape[1]
            self._last_frame = frame.samples
            if block.shape[1]:
                yield block
            if self._written == most:
                self._stop()
                return

    def _most(self) -> int:
        """Samples after which the run ends."""
        limits = self.source.limits
        bytes_a_second = 4 * self.channels * max(self.rate, self._wanted_rate or 0)
        ceiling = min(limits.seconds, min(limits.output_bytes, limits.sound_bytes) / bytes_a_second)
        if self.seconds is not None and self.seconds > ceiling:
            raise ValueError(f"{self.seconds:.2f} s of sound of {self.source.path} are over the limit of {ceiling:.2f} s")
        return round((ceiling if self.seconds is None else self.seconds + _TAIL) * self.rate)

    def _stated(self) -> float:
        """Seconds from ``start`` on that the file says it lasts; 0 where it says nothing."""
        stated = stated_seconds(self.track.stream)
        return 0.0 if stated is None else stated - self.start

    def _stop(self) -> None:
        if self.seconds is None:
            raise ValueError(
                f"the sound of {self.source.path} is over the limit of {self._most() / self.rate:.2f} s; read a part"
            )

    def _check_format(self, frame: AudioFrame) -> None:
        found = frame.sample_rate, frame.layout.nb_channels
        if not self.rate:
            self.rate, self.channels = found
            self.layout = known_layout(frame.layout.name, self.channels)
        if found != (self.rate, self.channels):
            raise ValueError(f"the sound of {self.source.path} changes its sample rate or channels midway")
        if not SAMPLE_RATES[0] <= self.rate <= SAMPLE_RATES[1]:
            raise ValueError(f"the sound of {self.source.path} has {self.rate} samples per second, which cannot be used")
        if self.channels > self.source.limits.channels:
            raise ValueError(f"{self.source.path} has {self.channels} channels of sound, over the limit")


def _packed(frame: AudioFrame) -> AudioFrame:
    """The same with its channels interleaved: PyAV looks for a plane behind the last of eight, and may find one."""
    if not frame.format.is_planar or frame.layout.nb_channels < _MOST_PLANES:
        return frame
    (packed,) = av.AudioResampler(format=frame.format.packed.name).resample(frame)
    return packed


def _to_float(frame: AudioFrame) -> Samples:
    """A frame of any sample format as (C, n) float32, full scale at 1."""
    frame = _packed(frame)
    array: np.ndarray[Any, Any] = frame.to_ndarray()
    if not frame.format.is_planar:
        array = array.reshape(-1, frame.layout.nb_channels).T
    samples: Samples = array.astype(np.float32)
    if array.dtype.kind in "iu":
        samples /= 1 << (8 * array.dtype.itemsize - 1)
    if array.dtype == np.uint8:  # the middle of its range is silence
        samples -= 1
    return samples

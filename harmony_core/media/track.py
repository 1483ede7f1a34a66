"""One stream of an open file, decoded in order, with times counted from the file's origin.

Tolerant as players are, and honest at the end: a few packets that do not decode are passed over, but a file most of which is
damaged, or that ends long before the end it states, is refused.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any, Generic, TypeVar

import av
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from .source import Source, frame_rate

_logger = logging.getLogger(__name__)

# Decoding after a jump starts this much earlier, seconds: sound codecs need a few packets to settle.
_RUN_UP = 0.5
# Bad packets passed over in any file, and the share of good ones above which more are.
_FEW_BAD = 3
_GOOD_FOR_A_BAD = 10
# A stream may end this much before the length its file states, seconds.
_EARLY_END = 0.25
# Formats that state a length of their own; elsewhere FFmpeg estimates one from the file's size.
_STATED_LENGTH = ("mov", "matroska", "flac")
# Of a RIFF file that was written to a pipe.
_UNKNOWN_SIZES = (0, 0xFFFFFFFF)

FrameT = TypeVar("FrameT", VideoFrame, AudioFrame)


class Track(Generic[FrameT]):
    """The frames of one stream.

    Attributes:
        end: where the stream ends, seconds after the origin, as far as it has been read.
    """

    def __init__(self, source: Source, stream: VideoStream | AudioStream) -> None:
        assert stream.time_base is not None
        self.source = source
        self.stream = stream
        self.tick = float(stream.time_base)
        self.end = 0.0
        self._good = self._bad = 0
        self._file_end = 0.0
        self._breaks_off = False

    def frames(self, start: float) -> Iterator[tuple[float, FrameT]]:
        """Decode, from the last frame at or before ``start`` at the latest.

        Args:
            start: seconds after the origin.

        Yields:
            Time of the frame, seconds after the origin, and the frame.

        Raises:
            ValueError: the stream is damaged, or cut short.
        """
        if start > _RUN_UP and self._seek(start - _RUN_UP):
            frames = self._decoded()
            first = next(frames, None)
            if first is not None and first[0] <= start:
                yield first
                yield from frames
                self._check_end()
                return
            self._seek(0.0)  # the jump went too far: beyond the end, or in a file without an index
        yield from self._decoded()
        self._check_end()

    def _seek(self, time: float) -> bool:
        """Jump to before ``time``; False where the format cannot, and the position is what it was."""
        try:
            self.source.container.seek(round((time + self.source.origin) / self.tick), stream=self.stream)
        except av.FFmpegError:
            return False
        return True

    def _seconds(self, frame: VideoFrame | AudioFrame) -> float:
        if isinstance(frame, AudioFrame):
            return frame.samples / frame.sample_rate
        assert isinstance(self.stream, VideoStream)
        return 1 / float(frame_rate(self.stream))

    def _decoded(self) -> Iterator[tuple[float, FrameT]]:
        expected = 0.0
        for packet in self.source.container.demux():
            self._note_end(packet)
            if packet.stream.index != self.stream.index:
                continue
            for frame in self._decode(packet):
                stamp = frame.pts  # some formats have none; their frames follow each other
                time = expected if stamp is None else float(stamp * frame.time_base) - self.source.origin
                expected = time + self._seconds(frame)
                self.end = max(self.end, time)
                yield time, frame

    def _note_end(self, packet: Packet) -> None:
        if packet.pts is None or packet.time_base is None:
            return
        end = float((packet.pts + (packet.duration or 0)) * packet.time_base)
        self._file_end = max(self._file_end, end)
        if packet.stream.index == self.stream.index:
            self.end = max(self.end, end - self.source.origin)

    def _decode(self, packet: Packet) -> list[Any]:
        if packet.size:
            self._breaks_off = packet.is_corrupt
        try:
            frames: list[Any] = packet.decode()
        except av.InvalidDataError as error:
            self._bad += 1
            _logger.warning("%s: a packet of %s was passed over: %s", self.source.path, self.stream.type, error.strerror)
            self._check_damage(_FEW_BAD)
            return []
        self._good += len(frames)
        self._bad += sum(frame.is_corrupt for frame in frames)
        return frames

    def _check_damage(self, allowed: int) -> None:
        if self._bad > allowed and self._bad * _GOOD_FOR_A_BAD > self._good:
            raise ValueError(f"{self.source.path} is damaged: {self._bad} packets of {self.stream.type} do not decode")

    def _check_end(self) -> None:
        path, kind = self.source.path, self.stream.type
        self._check_damage(0)
        if not self._good:
            raise ValueError(f"no {kind} of {path} could be decoded: it is damaged, or larger than the limit")
        if self._breaks_off and not self._written_to_a_pipe():
            raise ValueError(f"{path} is cut short: its {kind} breaks off after {self.end:.2f} s")
        if not self.source.container.format.name.startswith(_STATED_LENGTH):
            return
        stated, found = self.source.seconds, self._file_end
        if self.stream.duration is not None:
            stated = ((self.stream.start_time or 0) + self.stream.duration) * self.tick - self.source.origin
            found = self.end
        if stated is not None and found < stated - _EARLY_END:
            raise ValueError(f"{path} is cut short: it should last {stated:.2f} s and ends after {found:.2f} s")

    def _written_to_a_pipe(self) -> bool:
        with self.source.path.open("rb") as file:
            head = file.read(8)
        return head[:4] == b"RIFF" and int.from_bytes(head[4:], "little") in _UNKNOWN_SIZES

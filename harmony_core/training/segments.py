"""Which clips files are cut into, and what of them a clip is told as its reference."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count, takewhile
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from ..geometry import ClipSpec
from ..media import MediaInfo, probe, read_audio, to_mono
from .store import Entry, Skipped

LOOKERS = 8
"""Files that are looked at at once; it is mostly waiting for the disk."""
SLACK = 0.02
"""Seconds that sound may lack at its end; see :func:`..media.read_audio`."""
REFERENCE_SECONDS = 30.0
"""Most that is kept of a reference recording: references are cut from anywhere in it, a few seconds long."""
SHORTEST_REFERENCE = 0.5
"""Least that is taken of a clip's own file."""


class Cut(NamedTuple):
    """A clip of a file: what is said about it, and its shape."""

    entry: Entry
    spec: ClipSpec


def cut_files(
    folder: Path, lines: Sequence[Entry], specs: Sequence[ClipSpec], *, segments: bool, stride: float
) -> tuple[list[Cut], list[Skipped]]:
    """Look at every file of a manifest.

    Args:
        folder: of the manifest.
        lines: of it.
        specs: shapes of clips.
        segments: cut each file into clips one after the other.
        stride: seconds from the start of one to the next; 0 for their length.

    Returns:
        The clips, and lines of which there is none.
    """

    def look(line: Entry) -> list[Cut] | Skipped:
        try:
            return _cuts(probe(folder / line.file), folder / line.file, line, specs, segments=segments, stride=stride)
        except ValueError as error:
            return Skipped(file=line.file, start=line.start, reason=str(error))

    with ThreadPoolExecutor(LOOKERS) as pool:
        found = list(pool.map(look, lines))
    cuts = [cut for one in found if not isinstance(one, Skipped) for cut in one]
    return cuts, [one for one in found if isinstance(one, Skipped)]


def fits(spec: ClipSpec, seconds: float) -> bool:
    """Whether so many seconds are enough for a clip: its last picture is the one in the middle of its time."""
    return seconds >= spec.seconds - min(0.5 / spec.fps, SLACK)


def best_shape(specs: Sequence[ClipSpec], seconds: float, size: tuple[int, int] | None) -> ClipSpec | None:
    """The largest shape that a file fits.

    Of the shapes that are not longer than the file nor, where there is one, larger than its pictures, the one that shows most
    pixels of it: what is cropped to fill another format does not count.

    Args:
        specs: shapes.
        seconds: that the file has.
        size: height and width of its pictures; None of a sound file.

    Returns:
        None where the file is too short for all of them.
    """
    fitting = [spec for spec in specs if fits(spec, seconds)]
    if not fitting:
        return None
    if size is None:
        return max(fitting, key=lambda spec: spec.frames)
    height, width = size
    whole = [spec for spec in fitting if spec.height <= height and spec.width <= width]

    def shown(spec: ClipSpec) -> float:
        ratio = (spec.width / spec.height) / (width / height)
        return spec.frames * spec.height * spec.width * min(ratio, 1 / ratio)

    if whole:
        return max(whole, key=shown)
    # Every shape enlarges the pictures: the one that does so least, of those the longest.
    return max(fitting, key=lambda spec: (-max(spec.height / height, spec.width / width), spec.frames))


def samples_of(start: float, spec: ClipSpec) -> tuple[int, int]:
    """The first sample of a clip in its file, and the one after its last, at the clip's rate."""
    first = round(start * spec.grid.sample_rate)
    return first, first + spec.samples


def read_reference(folder: Path, entry: Entry, spec: ClipSpec) -> Tensor | None:
    """The sound of a clip's reference recording, (samples,) mono; None where it has none.

    Of its own file it is the longer of what comes before the clip and what comes after.

    Raises:
        ValueError: it cannot be read.
    """
    if entry.reference is None:
        return None
    path, rate = folder / entry.reference, spec.grid.sample_rate
    info = probe(path).audio
    if info is None:
        raise ValueError(f"the reference {path} has no sound")
    length = math.inf if info.seconds is None else info.seconds
    start, stop = 0.0, length
    if path.samefile(folder / entry.file):
        first, last = samples_of(entry.start, spec)
        before, after = (0.0, first / rate), (last / rate, length)
        start, stop = max(before, after, key=lambda part: part[1] - part[0])
        if math.isinf(stop) or stop - start < SHORTEST_REFERENCE:
            return None
    seconds = None if math.isinf(stop) else min(stop - start, REFERENCE_SECONDS)
    if start == 0 and stop == length and length <= REFERENCE_SECONDS:
        seconds = None  # to its very end, whatever its header says
    wave = to_mono(read_audio(path, sample_rate=rate, start=start, seconds=seconds)).waveform[0, 0]
    return wave[: round(REFERENCE_SECONDS * rate)]


def _cuts(info: MediaInfo, path: Path, line: Entry, specs: Sequence[ClipSpec], *, segments: bool, stride: float) -> list[Cut]:
    if info.still:
        raise ValueError(f"{path} is a photograph")
    stream = info.video or info.audio
    assert stream is not None
    stop = math.inf if stream.seconds is None else stream.seconds
    stop = min(stop, math.inf if line.end is None else line.end)
    size = None if info.video is None else (info.video.height, info.video.width)
    spec = best_shape(specs, stop - line.start, size)
    if spec is None:
        least = min(one.seconds for one in specs)
        raise ValueError(f"{path} is too short: it has {max(0.0, stop - line.start):.2f} s, a clip takes {least:.2f} s")
    if not segments or line.transcript or math.isinf(stop):
        return [Cut(line, spec)]
    rate = spec.grid.sample_rate
    # Whole samples, so that clips one after the other share none.
    step = math.ceil((stride or max(spec.seconds, spec.samples / rate)) * rate - 1e-6) / rate
    starts = takewhile(lambda start: fits(spec, stop - start), (line.start + n * step for n in count()))
    return [Cut(dataclasses.replace(line, start=start, end=start + spec.seconds), spec) for start in starts]

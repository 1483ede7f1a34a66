"""Data sets: any folder of videos with a manifest, or clips packed before; and the order in which a run sees them.

``manifest.jsonl`` has one object a line, the fields of :class:`.store.Entry`:

    {"file": "a.mp4", "video_caption": "a red ball bounces", "audio_caption": "a dull knock", "transcript": "",
     "reference": "voice.wav", "speaker": "anna"}

Only ``file`` is required. A further field ``meta`` may hold anything and is passed over.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ..geometry import ClipSpec
from ..inputs import is_file, named, read_text
from ..media import read_audio, read_clip, to_mono
from ..progress import Progress
from ..records import from_record
from ..shown import shown
from .store import INDEX, LARGEST_INDEX, Entry, Store, same_shape, writing

MANIFEST = "manifest.jsonl"
SHOWN = 3
MASK = (1 << 64) - 1
ORDER_STREAM = 0


class Clip(NamedTuple):
    """A clip as the codecs take it.

    Attributes:
        frames: (3, F, H, W) float in [-1, 1].
        wave: (samples,) float in [-1, 1], mono at the codec's rate.
        reference: likewise, of another recording, any length; None where there is none.
    """

    frames: Tensor
    wave: Tensor
    reference: Tensor | None = None


class Source(Protocol):
    """Where clips come from."""

    @property
    def spec(self) -> ClipSpec:
        """Shape of the clips."""
        ...

    @property
    def entries(self) -> Sequence[Entry]:
        """What is said about each."""
        ...

    def clip(self, index: int) -> Clip:
        """One of them."""
        ...


class MediaFolder:
    """Videos in a folder, with a manifest."""

    def __init__(self, folder: str | Path, spec: ClipSpec) -> None:
        """Read the manifest; the videos are read one by one as they are asked for.

        Raises:
            ValueError: the manifest is missing, empty or has a wrong line, or files it names are missing.
        """
        self.folder, self.spec = Path(folder), spec
        self.entries = read_manifest(self.folder / MANIFEST)
        wanted = [name for e in self.entries for name in (e.file, e.reference) if name is not None]
        missing = [name for name in dict.fromkeys(wanted) if not is_file(self.folder / name)]
        if missing:
            more = f" and {len(missing) - SHOWN} more" if len(missing) > SHOWN else ""
            listed = ", ".join(shown(name) for name in missing[:SHOWN])
            raise ValueError(f"{MANIFEST} names {len(missing)} missing file(s): {listed}{more}")

    def clip(self, index: int) -> Clip:
        """Read one video; a silent file gives silence.

        Raises:
            ValueError: it cannot be read as a clip of this shape; the message names it.
        """
        entry = self.entries[index]
        video, audio = read_clip(self.folder / entry.file, self.spec)
        if video is None:
            raise ValueError(f"{self.folder / entry.file} has no pictures")
        wave = torch.zeros(self.spec.samples) if audio is None else to_mono(audio).waveform[0, 0]
        reference = None
        if entry.reference is not None:
            sound = read_audio(self.folder / entry.reference, sample_rate=self.spec.grid.sample_rate)
            reference = to_mono(sound).waveform[0, 0]
        return Clip(video.frames[0], wave, reference)


class PackedClips(Store):
    """Clips packed by :func:`pack_clips`."""

    def __init__(self, folder: str | Path) -> None:
        super().__init__(folder, kind="clips")
        spec = self.spec
        self.check({"frames": (3, spec.frames, spec.height, spec.width), "wave": (spec.samples,)})

    def clip(self, index: int) -> Clip:
        """One of them."""
        reference = self.loose(index, "reference")
        return Clip(
            self.row(index, "frames").float() / 127.5 - 1,
            self.row(index, "wave").float() / 32767,
            None if reference is None else reference.float() / 32767,
        )


def open_source(folder: str | Path, spec: ClipSpec) -> Source:
    """The data set in a folder: packed clips, or videos with a manifest.

    Raises:
        ValueError: it is neither, or packed clips are of another shape.
    """
    folder = Path(folder)
    if not is_file(folder / INDEX):
        return MediaFolder(folder, spec)
    packed = PackedClips(folder)
    if not same_shape(packed.spec, spec):
        raise ValueError(f"the clips in {folder} are {_shape(packed.spec)}, the config wants {_shape(spec)}")
    return packed


def pack_clips(source: Source, folder: str | Path, *, shard_clips: int = 256, progress: Progress | None = None) -> PackedClips:
    """Keep a data set's clips as 8-bit pictures and 16-bit sound, for quick reading in any order; see :func:`pack`."""
    clips = ((entry, source.clip(index)) for index, entry in enumerate(source.entries))
    return pack(clips, source.spec, folder, total=len(source.entries), shard_clips=shard_clips, progress=progress)


def pack(
    clips: Iterable[tuple[Entry, Clip]],
    spec: ClipSpec,
    folder: str | Path,
    *,
    total: int,
    shard_clips: int = 256,
    progress: Progress | None = None,
) -> PackedClips:
    """Pack clips as they come.

    Args:
        clips: what is said about each, and it.
        spec: their shape.
        folder: to make.
        total: how many, for ``progress``.
        shard_clips: clips a shard holds.
        progress: called after each clip.

    Raises:
        ValueError: the folder is there already or cannot be written, or a clip cannot be read or is of another shape.
    """
    with writing(Path(folder), kind="clips", spec=spec, shard_clips=shard_clips) as writer:
        for done, (entry, clip) in enumerate(clips, 1):
            if clip.frames.shape != (3, spec.frames, spec.height, spec.width) or clip.wave.shape != (spec.samples,):
                found = f"{tuple(clip.frames.shape)} and {tuple(clip.wave.shape)}"
                raise ValueError(f"clip {entry.file} is not of the data set's shape, {_shape(spec)}: it has {found}")
            loose = {} if clip.reference is None else {"reference": _int16(clip.reference)}
            frames = ((clip.frames.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
            writer.add(entry, {"frames": frames, "wave": _int16(clip.wave)}, loose)
            if progress is not None:
                progress(done, total)
    return PackedClips(folder)


def read_manifest(path: Path) -> tuple[Entry, ...]:
    """Read a manifest.

    Raises:
        ValueError: it is missing or empty, or a line has an unknown or wrong field; the message has the line's number.
    """
    try:
        lines = read_text(path, most=LARGEST_INDEX).splitlines()
    except ValueError as error:
        raise ValueError(f"a data set has a {MANIFEST} in its folder: {error}") from error
    entries = tuple(_entry(line, f"{path.name}, line {n}") for n, line in enumerate(lines, 1) if line.strip())
    if not entries:
        raise ValueError(f"{named(path)} lists no clip")
    return entries


def order(count: int, step: int, batch: int, seed: int) -> list[int]:
    """The clips of a step: every clip once an epoch, each epoch in another order; a function of its arguments alone."""
    clips: list[int] = []
    for place in range(step * batch, (step + 1) * batch):
        epoch, within = divmod(place, count)
        clips.append(_permutation(count, seed, epoch)[within])
    return clips


def generator(seed: int, step: int, stream: int) -> torch.Generator:
    """The source of one step's random numbers for one purpose, on the CPU; independent for different arguments."""
    # A linear map of the arguments would give neighbouring steps related states; the mixing of SplitMix64 does not.
    state = 0
    for value in (seed, step, stream):
        state = (state + value + 0x9E3779B97F4A7C15) & MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & MASK
        state ^= state >> 31
    return torch.Generator("cpu").manual_seed(state)


@lru_cache(maxsize=4)
def _permutation(count: int, seed: int, epoch: int) -> list[int]:
    return torch.randperm(count, generator=generator(seed, epoch, ORDER_STREAM)).tolist()


def _entry(line: str, where: str) -> Entry:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} is no JSON: {shown(str(error))}") from error
    if isinstance(record, dict):
        record.pop("meta", None)
    return from_record(Entry, record, where)


def _int16(wave: Tensor) -> Tensor:
    return (wave.clamp(-1, 1) * 32767).round().to(torch.int16)


def _shape(spec: ClipSpec) -> str:
    return f"{spec.frames} frames of {spec.width} x {spec.height} at {spec.fps:g} fps"

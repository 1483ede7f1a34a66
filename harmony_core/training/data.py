"""Data sets: any folder of videos with a manifest, or clips packed before.

``manifest.jsonl`` has one object a line, the fields of :class:`.store.Entry`:

    {"file": "a.mp4", "video_caption": "a red ball bounces", "audio_caption": "a dull knock", "transcript": "",
     "reference": "voice.wav", "speaker": "anna"}

Only ``file`` is required; ``start`` and ``end``, in seconds, are for a part of it. A further field ``meta`` may hold anything
and is passed over.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ..geometry import ClipSpec
from ..inputs import is_file, named, read_text
from ..media import read_clip, to_mono
from ..progress import Progress
from ..records import from_record
from ..shown import shown
from .distributed import World
from .segments import Cut, cut_files, fits, read_reference
from .store import INDEX, LARGEST_INDEX, SKIPPED, Entry, Skipped, Store, same_shape, writing

log = logging.getLogger(__name__)

MANIFEST = "manifest.jsonl"
SHOWN = 3
FIRST_REASONS = 3
MANY = 0.5
"""Share of a data set that is skipped from which on something is likely to be wrong with all of it."""


class Clip(NamedTuple):
    """A clip as the codecs take it.

    Attributes:
        frames: (3, F, H, W) float in [-1, 1]; None of a sound file.
        wave: (samples,) float in [-1, 1], mono at the codec's rate.
        reference: likewise, of another recording, any length; None where there is none.
        spec: its shape; None for that of its source.
        mute: the file has no sound at all, and the wave is silence in its place.
    """

    frames: Tensor | None
    wave: Tensor
    reference: Tensor | None = None
    spec: ClipSpec | None = None
    mute: bool = False


class Source(Protocol):
    """Where clips come from; one that was left out before it was read is in ``skipped``, where a source has that."""

    @property
    def spec(self) -> ClipSpec:
        """Shape of the clips; of several, the first."""
        ...

    @property
    def entries(self) -> Sequence[Entry]:
        """What is said about each."""
        ...

    def clip(self, index: int) -> Clip:
        """One of them.

        Raises:
            ValueError: it cannot be used; the message says why.
        """
        ...


class MediaFolder:
    """Videos and sound files in a folder, with a manifest.

    Attributes:
        skipped: lines of the manifest of which no clip can be made, where that is known before they are read.
    """

    def __init__(
        self, folder: str | Path, spec: ClipSpec, *, specs: Sequence[ClipSpec] = (), segments: bool = False, stride: float = 0.0
    ) -> None:
        """Read the manifest; the files are read one by one as they are asked for.

        Args:
            folder: that holds them.
            spec: shape of the clips.
            specs: shapes in its place; every file is looked at, and goes into the largest it fits (:func:`.shapes.best_shape`).
            segments: cut every file into clips; every file is looked at.
            stride: seconds from the start of one to the next; 0 for their length.

        Raises:
            ValueError: the manifest is missing, empty or has a wrong line, or of every line a file is missing.
        """
        self.folder, self.spec = Path(folder), spec
        lines, self.skipped = self._present(read_manifest(self.folder / MANIFEST))
        specs = tuple(specs) or (spec,)
        cuts = [Cut(entry, spec) for entry in lines]
        if segments or len(specs) > 1:
            cuts, unfit = cut_files(self.folder, lines, specs, segments=segments, stride=stride)
            self.skipped += unfit
        self.entries: tuple[Entry, ...] = tuple(cut.entry for cut in cuts)
        self._specs = [cut.spec for cut in cuts]

    def _present(self, lines: Sequence[Entry]) -> tuple[list[Entry], list[Skipped]]:
        """Lines whose files are there, and those whose are not."""
        names = {name for line in lines for name in (line.file, line.reference) if name is not None}
        missing = {name for name in names if not is_file(self.folder / name)}
        kept, skipped, absent = [], [], dict[str, None]()
        for line in lines:
            lost = [name for name in (line.file, line.reference) if name in missing]
            if lost:
                absent |= dict.fromkeys(lost)
                reason = f"{' and '.join(map(shown, lost))} of {MANIFEST} is missing"
                skipped.append(Skipped(file=line.file, start=line.start, reason=reason))
            else:
                kept.append(line)
        if absent:
            more = f" and {len(absent) - SHOWN} more" if len(absent) > SHOWN else ""
            told = f"{MANIFEST} names {len(absent)} missing file(s): {', '.join(map(shown, list(absent)[:SHOWN]))}{more}"
            if not kept:
                raise ValueError(told)
            log.warning("%s; the %d line(s) with them are skipped", told, len(skipped))
        return kept, skipped

    def clip(self, index: int) -> Clip:
        """Read one clip; a video without sound gives silence.

        Raises:
            ValueError: it cannot be read as a clip of its shape; the message names it.
        """
        entry, spec = self.entries[index], self._specs[index]
        path = self.folder / entry.file
        if entry.end is not None and not fits(spec, entry.end - entry.start):
            raise ValueError(
                f"{path} from {entry.start:g} to {entry.end:g} s (its manifest's start and end) is too short: "
                f"a clip takes {spec.seconds:.2f} s"
            )
        video, audio = read_clip(path, spec, start=entry.start)
        wave = torch.zeros(spec.samples) if audio is None else to_mono(audio).waveform[0, 0]
        reference = read_reference(self.folder, entry, spec)
        return Clip(None if video is None else video.frames[0], wave, reference, spec, audio is None)


def _clip_shapes(spec: ClipSpec) -> dict[str, tuple[int, ...]]:
    return {"frames": (3, spec.frames, spec.height, spec.width), "wave": (spec.samples,)}


class PackedClips(Store):
    """Clips packed by :func:`pack_clips`."""

    def __init__(self, folder: str | Path) -> None:
        super().__init__(folder, kind="clips")
        self.check(_clip_shapes, optional={"frames", "wave"})  # of sound files, of silent ones
        self._having = {name: [n for n in range(len(self)) if self.has(n, name)] for name in ("frames", "wave")}

    def having(self, name: str) -> list[int]:
        """Numbers of the clips that have ``frames``, or ``wave``.

        Raises:
            ValueError: there is none.
        """
        if not self._having[name]:
            raise ValueError(f"no clip in {self.folder} has {'pictures' if name == 'frames' else 'sound'}")
        return self._having[name]

    def clip(self, index: int) -> Clip:
        """One of them."""
        reference = self.loose(index, "reference")
        return Clip(
            self.row(index, "frames").float() / 127.5 - 1 if self.has(index, "frames") else None,
            self.row(index, "wave").float() / 32767,
            None if reference is None else reference.float() / 32767,
        )


def open_source(
    folder: str | Path, spec: ClipSpec, *, specs: Sequence[ClipSpec] = (), segments: bool = False, stride: float = 0.0
) -> Source:
    """The data set in a folder: packed clips, or videos with a manifest; see :class:`MediaFolder` for the arguments.

    Raises:
        ValueError: it is neither, or packed clips are of another shape.
    """
    folder = Path(folder)
    if not is_file(folder / INDEX):
        return MediaFolder(folder, spec, specs=specs, segments=segments, stride=stride)
    packed = PackedClips(folder)
    if not any(same_shape(packed.spec, one) for one in specs or (spec,)):
        wanted = " or ".join(_shape(one) for one in specs or (spec,))
        raise ValueError(f"the clips in {folder} are {_shape(packed.spec)}, the config wants {wanted}")
    return packed


def pack_clips(
    source: Source,
    folder: str | Path,
    *,
    pictures: bool = True,
    shard_clips: int = 256,
    world: World | None = None,
    progress: Progress | None = None,
) -> PackedClips:
    """Keep a data set's clips as 8-bit pictures and 16-bit sound, for quick reading in any order; see :func:`pack`.

    Clips that cannot be read are left out and listed.

    Args:
        source: of the clips.
        folder: to make.
        pictures: leave sound files out.
        shard_clips: clips a shard holds.
        world: the processes, all of which call this, and each reads its part; this one alone by default.
        progress: called after each clip of this process's part.
    """
    world = world or World()
    skipped = list(getattr(source, "skipped", ())) if world.first else []  # every process found the same
    begin, end = world.rows(len(source.entries))

    def readable() -> Iterator[tuple[Entry, Clip]]:
        for index in range(begin, end):
            entry = source.entries[index]
            try:
                clip = source.clip(index)
                if clip.frames is None and pictures:
                    raise ValueError(f"{entry.file} has no pictures")  # noqa: TRY301 - one way for all reasons
            except ValueError as error:
                skipped.append(Skipped(file=entry.file, start=entry.start, reason=str(error)))
                continue
            yield entry, clip

    total = end - begin
    return pack(
        readable(), source.spec, folder, total=total, shard_clips=shard_clips, world=world, progress=progress, skipped=skipped
    )


def pack(
    clips: Iterable[tuple[Entry, Clip]],
    spec: ClipSpec,
    folder: str | Path,
    *,
    total: int,
    shard_clips: int = 256,
    world: World | None = None,
    progress: Progress | None = None,
    skipped: list[Skipped] | None = None,
) -> PackedClips:
    """Pack clips as they come.

    Args:
        clips: what is said about each, and it; of several processes each has a part of them.
        spec: their shape.
        folder: to make.
        total: how many, for ``progress``.
        shard_clips: clips a shard holds.
        world: the processes, all of which call this; this one alone by default.
        progress: called after each clip.
        skipped: what was left out, as it is when all clips have come.

    Raises:
        ValueError: the folder is there already or cannot be written, a clip is of another shape, or there is none.
    """
    skipped, world = skipped if skipped is not None else [], world or World()
    with writing(Path(folder), kind="clips", spec=spec, shard_clips=shard_clips, world=world) as writer:
        done = 0
        for done, (entry, clip) in enumerate(clips, 1):
            right = clip.frames is None or clip.frames.shape == (3, spec.frames, spec.height, spec.width)
            if not right or clip.wave.shape != (spec.samples,):
                found = f"{None if clip.frames is None else tuple(clip.frames.shape)} and {tuple(clip.wave.shape)}"
                raise ValueError(f"clip {entry.file} is not of the data set's shape, {_shape(spec)}: it has {found}")
            loose = {} if clip.reference is None else {"reference": _int16(clip.reference)}
            row = {"wave": _int16(clip.wave)}
            if clip.frames is not None:
                row["frames"] = ((clip.frames.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
            writer.add(entry, row, loose)
            if progress is not None:
                progress(done, total)
        writer.skipped = skipped
        report_skipped(skipped, done, Path(folder), world)
    return PackedClips(folder)


def report_skipped(mine: Sequence[Skipped], kept: int, folder: Path, world: World) -> None:
    """Say in the log what was left out of a data set, by all processes together; all of them call it.

    Raises:
        ValueError: nothing is left.
    """
    said = world.all((list(mine), kept))
    skipped, kept = [one for some, _ in said for one in some], sum(count for _, count in said)
    if not skipped or not (world.first or not kept):
        return
    reasons = "; ".join(one.reason for one in skipped[:FIRST_REASONS])
    more = f"; and {len(skipped) - FIRST_REASONS} more" if len(skipped) > FIRST_REASONS else ""
    total = kept + len(skipped)
    if not kept:
        raise ValueError(f"none of the data set's {total} clip(s) can be used: {reasons}{more}")
    log.warning("%d of %d clips are skipped, listed in %s: %s%s", len(skipped), total, folder / SKIPPED, reasons, more)
    if len(skipped) > MANY * total:
        log.warning("more than half of the data set is skipped: look at its files and at the config's data before training")


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

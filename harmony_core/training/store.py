"""Clips packed in a folder: tensors in safetensors shards, what is said about them in an index beside.

A folder appears complete or not at all. A shard holds clips that have the same tensors in one shape, stacked row by row; what
is of another length from clip to clip (a reference) is stored under the row's number. ``skipped.jsonl`` lists what was left
out.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..atomic import temporary_beside
from ..geometry import ClipSpec
from ..inputs import exists, named, read_text
from ..records import check_fields, from_record, to_record
from ..shown import shown
from ..weights.files import Unchanged, read_places
from .distributed import World

FORMAT = "1"
INDEX = "index.json"
LARGEST_INDEX = 1 << 30
"""Bytes: of some millions of clips."""
SKIPPED = "skipped.jsonl"
_EMPTY = "a data set has at least one clip, got none"
Kind = Literal["clips", "latents"]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What is said about one clip; a line of a manifest.

    Attributes:
        file: of the clip, relative to the manifest; a name where it comes from no file.
        video_caption: what is to be seen.
        audio_caption: what is to be heard.
        transcript: what is spoken.
        reference: sound file of the same speaker or source, relative to the manifest.
        speaker: name of the speaker, by which clips find references among each other.
        sound_source: likewise of sounds without a speaker: what makes them, such as rain or a violin.
        start: seconds of the file at which the clip, or what may be cut into clips, begins.
        end: likewise, where it ends; None for the file's end.
        null: a still with silence.
    """

    file: str
    video_caption: str = ""
    audio_caption: str = ""
    transcript: str = ""
    reference: str | None = None
    speaker: str | None = None
    sound_source: str | None = None
    start: float = 0.0
    end: float | None = None
    null: bool = False

    def __post_init__(self) -> None:
        check_fields(self, "clip")
        if self.start < 0 or (self.end is not None and self.end <= self.start):
            raise ValueError(f"the start and end of clip {self.file} are seconds from 0 on, got {self.start} and {self.end}")


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """A clip that was left out; a line of ``skipped.jsonl``.

    Attributes:
        file: of the clip.
        start: seconds at which the clip begins in it.
        reason: one sentence.
    """

    file: str
    start: float = 0.0
    reason: str


class UnusableText(ValueError):  # noqa: N818 - what is wrong, of one clip alone
    """A clip's captions cannot be told a model; others may."""


@dataclass(frozen=True, kw_only=True)
class Captions:
    """How the captions beside latents were encoded.

    Attributes:
        encoder: a short name for the exact text encoder.
        prompt: what was encoded: ``separate`` captions, or one prompt in Ovi's format; see :class:`..config.HarmonyConfig`.
    """

    encoder: str
    prompt: str


@dataclass(frozen=True, kw_only=True)
class _Index:
    """The file beside the shards.

    Attributes:
        format: version of this layout.
        kind: ``clips`` or ``latents``.
        made_with: what the tensors depend on besides the clips, such as the codecs' fingerprint.
        spec: shape of the clips.
        shards: names of the files.
        counts: clips in each.
        entries: of all clips, in order.
        captions: how captions beside the clips were encoded; None where there are none.
        specs: shapes of the clips in each shard; none where all are of ``spec``.
    """

    format: str
    kind: Kind
    made_with: str
    spec: ClipSpec
    shards: tuple[str, ...]
    counts: tuple[int, ...]
    entries: tuple[Entry, ...]
    captions: Captions | None = None
    specs: tuple[ClipSpec, ...] = ()


class _Group:
    """Clips that go into shards together."""

    def __init__(self, spec: ClipSpec) -> None:
        self.spec = spec
        self.entries: list[Entry] = []
        self.rows: list[dict[str, Tensor]] = []
        self.loose: dict[str, Tensor] = {}
        self.shards: list[str] = []
        self.counts: list[int] = []


class Writer:
    """Collects clips into shards; made by :func:`writing`.

    Attributes:
        skipped: what was left out, to be listed beside them.
    """

    def __init__(
        self, folder: Path, *, kind: Kind, spec: ClipSpec, made_with: str, captions: Captions | None, shard_clips: int
    ) -> None:
        self._folder, self._kind, self._spec, self._made_with = folder, kind, spec, made_with
        self._captions, self._shard_clips = captions, shard_clips
        self.skipped: list[Skipped] = []
        self._groups: dict[object, _Group] = {}
        self._shards = 0

    def add(
        self,
        entry: Entry,
        row: Mapping[str, Tensor],
        loose: Mapping[str, Tensor] | None = None,
        *,
        spec: ClipSpec | None = None,
    ) -> None:
        """Append a clip.

        Args:
            entry: what is said about it.
            row: tensors; clips that have the same, of one spec, lie together.
            loose: tensors of any shape.
            spec: shape of the clip; that of the folder where it is None.
        """
        spec = spec or self._spec
        group = self._groups.setdefault((spec, tuple(sorted(row))), _Group(spec))
        group.loose |= {f"{name}.{len(group.rows)}": value.contiguous() for name, value in (loose or {}).items()}
        group.entries.append(entry)
        group.rows.append(dict(row))
        if len(group.rows) == self._shard_clips:
            self._flush(group)

    def finish(self, *, part: bool = False) -> None:
        """Write what is left, the index, and the list of what was left out; an empty part of a data set has no index."""
        groups = list(self._groups.values())  # the first clip that was added stays the first
        for group in groups:
            self._flush(group)
        if self.skipped:
            lines = [json.dumps(to_record(one)) + "\n" for one in self.skipped]
            (self._folder / SKIPPED).write_text("".join(lines), encoding="utf-8")
        if not groups:
            if part:
                return
            raise ValueError(_EMPTY)
        specs = tuple(group.spec for group in groups for _ in group.shards)
        index = _Index(
            format=FORMAT,
            kind=self._kind,
            made_with=self._made_with,
            spec=self._spec,
            shards=tuple(name for group in groups for name in group.shards),
            counts=tuple(count for group in groups for count in group.counts),
            entries=tuple(entry for group in groups for entry in group.entries),
            captions=self._captions,
            specs=specs if any(spec != self._spec for spec in specs) else (),
        )
        (self._folder / INDEX).write_text(json.dumps(to_record(index)), encoding="utf-8")

    def _flush(self, group: _Group) -> None:
        if not group.rows:
            return
        tensors = {name: torch.stack([row[name] for row in group.rows]) for name in group.rows[0]}
        name = _shard(self._shards)
        try:
            save_file(tensors | group.loose, str(self._folder / name))
        except SafetensorError as error:
            raise ValueError(f"cannot write clips to {self._folder}: {error}") from error
        group.shards.append(name)
        group.counts.append(len(group.rows))
        group.rows, group.loose, self._shards = [], {}, self._shards + 1


@contextlib.contextmanager
def writing(
    folder: Path,
    *,
    kind: Kind,
    spec: ClipSpec,
    made_with: str = "",
    captions: Captions | None = None,
    shard_clips: int = 256,
    world: World | None = None,
) -> Iterator[Writer]:
    """Write a folder of clips, whole or not at all.

    Several processes each write the clips they have; the folder then holds those of the first one, those of the second, ...

    Args:
        folder: to make.
        kind: ``clips`` or ``latents``.
        spec: shape of the clips.
        made_with: what the tensors depend on besides the clips, such as the codecs' fingerprint.
        captions: how captions among the loose tensors were encoded.
        shard_clips: clips a shard holds.
        world: the processes, all of which call this; this one alone by default.

    Raises:
        ValueError: the folder is there already or cannot be written, or there was no clip.
    """
    world = world or World()
    if any(world.all(exists(folder))):
        raise ValueError(f"{named(folder)} is there already; remove it or name another folder")
    temporary = Path(world.all(str(temporary_beside(folder)))[0])
    parts = [temporary / f"part-{rank:05d}" for rank in range(world.size)]

    def finish() -> None:
        with _saying(folder):
            writer.finish(part=True)

    def join() -> None:
        if world.first:
            with _saying(folder):
                _join(parts, temporary / "whole", kind, folder)

    try:
        with _saying(folder):
            parts[world.rank].mkdir(parents=True)
            writer = Writer(
                parts[world.rank], kind=kind, spec=spec, made_with=made_with, captions=captions, shard_clips=shard_clips
            )
            yield writer
        world.attempt(finish)
        world.attempt(join)
    finally:
        if world.first:
            shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def _saying(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ValueError(f"cannot write {named(folder)}: {error.strerror or error}") from error


class _Joined(NamedTuple):
    """A shard of one of the parts: its file, the shape and the number of its clips, and what is said about them."""

    path: Path
    spec: ClipSpec
    clips: int
    entries: tuple[Entry, ...]


def _join(parts: Sequence[Path], whole: Path, kind: Kind, folder: Path) -> None:
    """Make one folder of those that several processes wrote: clips of one shape together, as one process has them."""
    whole.mkdir()
    lists = [path.read_text(encoding="utf-8") for part in parts if (path := part / SKIPPED).is_file()]
    if lists:
        (whole / SKIPPED).write_text("".join(lists), encoding="utf-8")
    groups: dict[object, list[_Joined]] = {}
    indices = [(part, _read_index(part, kind)) for part in parts if (part / INDEX).is_file()]
    for part, index in indices:
        first = 0
        for number, (name, count) in enumerate(zip(index.shards, index.counts, strict=True)):
            spec = index.specs[number] if index.specs else index.spec
            rows = tuple(sorted(key for key in _shapes(part / name) if "." not in key))
            shard = _Joined(part / name, spec, count, index.entries[first : first + count])
            groups.setdefault((spec, rows), []).append(shard)
            first += count
    shards = [shard for group in groups.values() for shard in group]
    if not shards:
        raise ValueError(_EMPTY)
    for number, shard in enumerate(shards):
        shard.path.rename(whole / _shard(number))
    specs = tuple(shard.spec for shard in shards)
    index = dataclasses.replace(
        indices[0][1],
        shards=tuple(_shard(number) for number in range(len(shards))),
        counts=tuple(shard.clips for shard in shards),
        entries=tuple(entry for shard in shards for entry in shard.entries),
        specs=specs if any(spec != indices[0][1].spec for spec in specs) else (),
    )
    (whole / INDEX).write_text(json.dumps(to_record(index)), encoding="utf-8")
    whole.rename(folder)


class Store:
    """A folder of clips, read as it is needed.

    Attributes:
        folder: where it is.
        spec: shape of the clips.
        entries: what is said about each.
        made_with: see :func:`writing`.
        captions: likewise.
    """

    def __init__(self, folder: str | Path, *, kind: Kind) -> None:
        """Open a folder.

        Raises:
            ValueError: it is missing, of another kind or version, or damaged.
        """
        self.folder = Path(folder)
        index = _read_index(self.folder, kind)
        self.spec, self.entries = index.spec, index.entries
        self.made_with, self.captions = index.made_with, index.captions
        self._places = [(shard, row) for shard, count in enumerate(index.counts) for row in range(count)]
        self._specs = index.specs
        shards = [self.folder / name for name in index.shards]
        self._unchanged = [Unchanged(path) for path in shards]
        self._shapes = [_shapes(path) for path in shards]
        try:
            self._files = [safe_open(str(path), framework="pt") for path in shards]
        except (SafetensorError, OSError) as error:
            raise ValueError(f"the clips in {named(self.folder)} are damaged: {shown(str(error))}; make them again") from error
        self._slices: dict[tuple[int, str], Any] = {}

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def specs(self) -> frozenset[ClipSpec]:
        """All shapes of clips."""
        return frozenset(self._specs or (self.spec,))

    def spec_of(self, clip: int) -> ClipSpec:
        """The shape of one clip."""
        return self._specs[self._places[clip][0]] if self._specs else self.spec

    def has(self, clip: int, name: str) -> bool:
        """Whether a clip has a tensor that others of its folder may lack."""
        return name in self._shapes[self._places[clip][0]]

    def loose_shape(self, clip: int, name: str) -> tuple[int, ...] | None:
        """The shape of a tensor only some clips have, without reading it."""
        shard, row = self._places[clip]
        key = f"{name}.{row}"
        return self._shapes[shard].get(key)

    def row(self, clip: int, name: str) -> Tensor:
        """One tensor of one clip."""
        shard, row = self._places[clip]
        self._unchanged[shard].check()
        if (shard, name) not in self._slices:
            self._slices[shard, name] = self._files[shard].get_slice(name)
        return self._slices[shard, name][row]

    def rows(self, clips: Sequence[int], name: str) -> Tensor:
        """One tensor of several clips, stacked."""
        return torch.stack([self.row(clip, name) for clip in clips])

    def loose(self, clip: int, name: str) -> Tensor | None:
        """A tensor only some clips have."""
        shard, row = self._places[clip]
        key = f"{name}.{row}"
        self._unchanged[shard].check()
        return self._files[shard].get_tensor(key) if key in self._shapes[shard] else None

    def check(self, rows_of: Callable[[ClipSpec], Mapping[str, tuple[int, ...]]], *, optional: Collection[str] = ()) -> None:
        """Refuse a folder whose shards do not hold what its index says.

        Args:
            rows_of: shapes of the tensors of a clip of some shape.
            optional: those that a shard may lack altogether.

        Raises:
            ValueError: a shard lacks one of them, or has it in another shape.
        """
        counts: dict[int, int] = {}
        for shard, _ in self._places:
            counts[shard] = counts.get(shard, 0) + 1
        for shard, count in counts.items():
            for name, shape in rows_of(self._specs[shard] if self._specs else self.spec).items():
                found = self._shapes[shard].get(name)
                if found != (count, *shape) and not (found is None and name in optional):
                    raise ValueError(
                        f"the clips in {named(self.folder)} are damaged: {name} of {_shard(shard)} is of shape {found}, "
                        f"its index wants {(count, *shape)}; make them again"
                    )


def same_shape(a: ClipSpec, b: ClipSpec) -> bool:
    """Whether clips, and their latents, are of one shape; how many latents a model's token covers does not matter."""
    return unpatched(a) == unpatched(b)


def unpatched(spec: ClipSpec) -> ClipSpec:
    """The shape of clips without regard to a model's tokens."""
    return dataclasses.replace(spec, grid=dataclasses.replace(spec.grid, patch=1))


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of a shard's tensors."""
    try:
        places, _ = read_places(path)
    except ValueError as error:
        raise ValueError(f"the clips in {named(path.parent)} are damaged: {error}; make them again") from error
    return {key: place.shape for key, place in places.items()}


def _shard(number: int) -> str:
    return f"clips-{number:05d}.safetensors"


def _read_index(folder: Path, kind: Kind) -> _Index:
    path = folder / INDEX
    if not exists(path):
        raise ValueError(f"{named(folder)} holds no packed clips: it has no {INDEX}")
    text = read_text(path, most=LARGEST_INDEX)
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{named(path)} cannot be read: {shown(str(error))}") from error
    index = from_record(_Index, record, named(path))
    if index.format != FORMAT:
        raise ValueError(f"{named(path)} is of format {shown(index.format)}, this version of the software reads {FORMAT!r}")
    if index.kind != kind:
        raise ValueError(f"{named(folder)} holds {index.kind}, {kind} are needed")
    whole = sum(index.counts) == len(index.entries) > 0 and len(index.counts) == len(index.shards)
    whole = whole and len(index.specs) in {0, len(index.shards)}
    if not whole or min(index.counts) < 1 or any(Path(name).name != name or "\0" in name for name in index.shards):
        raise ValueError(f"{named(path)} contradicts itself; make the clips again")
    return index

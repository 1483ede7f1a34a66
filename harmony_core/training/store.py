"""Clips packed in a folder: tensors in safetensors shards, what is said about them in an index beside.

A folder appears complete or not at all. Tensors that every clip has in one shape are stacked, row by row; what is of another
length from clip to clip (a reference) is stored under the row's number.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

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

FORMAT = "1"
INDEX = "index.json"
LARGEST_INDEX = 1 << 30
"""Bytes: of some millions of clips."""
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
        null: a still with silence.
    """

    file: str
    video_caption: str = ""
    audio_caption: str = ""
    transcript: str = ""
    reference: str | None = None
    speaker: str | None = None
    sound_source: str | None = None
    null: bool = False

    def __post_init__(self) -> None:
        check_fields(self, "clip")


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
    """

    format: str
    kind: Kind
    made_with: str
    spec: ClipSpec
    shards: tuple[str, ...]
    counts: tuple[int, ...]
    entries: tuple[Entry, ...]
    captions: Captions | None = None


class Writer:
    """Collects clips into shards; made by :func:`writing`."""

    def __init__(
        self, folder: Path, *, kind: Kind, spec: ClipSpec, made_with: str, captions: Captions | None, shard_clips: int
    ) -> None:
        self._folder, self._kind, self._spec, self._made_with = folder, kind, spec, made_with
        self._captions, self._shard_clips = captions, shard_clips
        self._entries: list[Entry] = []
        self._counts: list[int] = []
        self._rows: list[dict[str, Tensor]] = []
        self._loose: dict[str, Tensor] = {}

    def add(self, entry: Entry, row: Mapping[str, Tensor], loose: Mapping[str, Tensor] | None = None) -> None:
        """Append a clip.

        Args:
            entry: what is said about it.
            row: tensors of the same names and shapes for every clip.
            loose: tensors of any shape.
        """
        self._loose |= {f"{name}.{len(self._rows)}": value.contiguous() for name, value in (loose or {}).items()}
        self._entries.append(entry)
        self._rows.append(dict(row))
        if len(self._rows) == self._shard_clips:
            self._flush()

    def finish(self) -> None:
        """Write what is left, and the index."""
        self._flush()
        if not self._entries:
            raise ValueError("a data set has at least one clip, got none")
        index = _Index(
            format=FORMAT,
            kind=self._kind,
            made_with=self._made_with,
            spec=self._spec,
            shards=tuple(_shard(n) for n in range(len(self._counts))),
            counts=tuple(self._counts),
            entries=tuple(self._entries),
            captions=self._captions,
        )
        (self._folder / INDEX).write_text(json.dumps(to_record(index)), encoding="utf-8")

    def _flush(self) -> None:
        if not self._rows:
            return
        tensors = {name: torch.stack([row[name] for row in self._rows]) for name in self._rows[0]}
        try:
            save_file(tensors | self._loose, str(self._folder / _shard(len(self._counts))))
        except SafetensorError as error:
            raise ValueError(f"cannot write clips to {self._folder}: {error}") from error
        self._counts.append(len(self._rows))
        self._rows, self._loose = [], {}


@contextlib.contextmanager
def writing(
    folder: Path,
    *,
    kind: Kind,
    spec: ClipSpec,
    made_with: str = "",
    captions: Captions | None = None,
    shard_clips: int = 256,
) -> Iterator[Writer]:
    """Write a folder of clips, whole or not at all.

    Args:
        folder: to make.
        kind: ``clips`` or ``latents``.
        spec: shape of the clips.
        made_with: what the tensors depend on besides the clips, such as the codecs' fingerprint.
        captions: how captions among the loose tensors were encoded.
        shard_clips: clips a shard holds.

    Raises:
        ValueError: the folder is there already or cannot be written, or there was no clip.
    """
    if exists(folder):
        raise ValueError(f"{named(folder)} is there already; remove it or name another folder")
    temporary = temporary_beside(folder)
    try:
        temporary.mkdir(parents=True)
        writer = Writer(temporary, kind=kind, spec=spec, made_with=made_with, captions=captions, shard_clips=shard_clips)
        yield writer
        writer.finish()
        temporary.rename(folder)
    except OSError as error:
        raise ValueError(f"cannot write {named(folder)}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


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

    def check(self, rows: Mapping[str, tuple[int, ...]]) -> None:
        """Refuse a folder whose shards do not hold what its index says.

        Args:
            rows: shapes of the tensors that every clip has.

        Raises:
            ValueError: a shard lacks one of them, or has it in another shape.
        """
        counts: dict[int, int] = {}
        for shard, _ in self._places:
            counts[shard] = counts.get(shard, 0) + 1
        for shard, count in counts.items():
            for name, shape in rows.items():
                found = self._shapes[shard].get(name)
                if found != (count, *shape):
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
    whole = sum(index.counts) == len(index.entries) and len(index.counts) == len(index.shards) and index.entries
    if not whole or min(index.counts) < 1 or any(Path(name).name != name or "\0" in name for name in index.shards):
        raise ValueError(f"{named(path)} contradicts itself; make the clips again")
    return index

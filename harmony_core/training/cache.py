"""A data set encoded once: latents in shards, so that training never runs a codec."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import os
import posixpath
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from ..codecs.audio import AudioCodec
from ..codecs.video_vae import VideoVAE
from ..geometry import ClipSpec
from ..progress import Progress
from ..types import AV, Audio
from .data import Clip, Source, report_skipped
from .distributed import World
from .segments import samples_of
from .store import Entry, Skipped, Store, UnusableText, writing

if TYPE_CHECKING:
    from .captions import CaptionEncoder

log = logging.getLogger(__name__)

GREY_EVERY = 3
TRIES = 8
"""Clips in a row that are tried for a still."""
SILENT = 1e-4
"""Peak below which a wave is silence: less than two of the smallest steps of 16 bits."""
STORED = torch.float16  # latents have unit variance: 11 bits of them are far below the codecs' own error


class Reference(NamedTuple):
    """Where a reference lies: in which clip, under which name, and how many latents long it is."""

    clip: int
    name: str
    length: int


class Item(NamedTuple):
    """A piece of work: a clip of the source, or the ``still``-th still with silence, made of one."""

    clip: int
    still: int | None


class Encoded(NamedTuple):
    """What is stored of a clip."""

    entry: Entry
    spec: ClipSpec
    row: Mapping[str, Tensor]
    loose: Mapping[str, Tensor]


def _latent_shapes(spec: ClipSpec) -> dict[str, tuple[int, ...]]:
    return {"video": spec.video_shape()[1:], "audio": spec.audio_shape()[1:]}


class LatentCache:
    """Latents of one or more data sets, as :func:`build_cache` wrote them; their clips are numbered through.

    Attributes:
        folder: of the first.
        spec: shape of the clips; of several, the first.
        entries: what is said about each clip.
        made_with: of the codecs; see :func:`fingerprint`.
        captions: how captions beside the latents were encoded.
    """

    def __init__(self, *folders: str | Path) -> None:
        """Open them.

        Raises:
            ValueError: one is missing, of another kind or version, damaged, or made with other encoders than the first.
        """
        self._stores = [Store(folder, kind="latents") for folder in folders]
        for store in self._stores:
            store.check(_latent_shapes, optional={"video"})  # of sound files
        first = self._stores[0]
        self.folder, self.spec, self.made_with, self.captions = first.folder, first.spec, first.made_with, first.captions
        for other in self._stores[1:]:
            if (other.made_with, other.captions) != (self.made_with, self.captions):
                raise ValueError(
                    f"the latents in {other.folder} were made with other encoders than those in {first.folder}; "
                    "remove one folder to make it again"
                )
        self.entries: tuple[Entry, ...] = tuple(entry for store in self._stores for entry in store.entries)
        self._places = [(number, clip) for number, store in enumerate(self._stores) for clip in range(len(store))]
        self._files: dict[tuple[int, str], list[int]] = {}
        self._alike: dict[tuple[int, str, str], list[int]] = {}
        for clip, entry in enumerate(self.entries):
            if not entry.null:
                self._files.setdefault(self._file(clip), []).append(clip)
                if (key := self._heard(clip)) is not None:
                    self._alike.setdefault(key, []).append(clip)

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def sources(self) -> int:
        """How many data sets there are."""
        return len(self._stores)

    @property
    def specs(self) -> frozenset[ClipSpec]:
        """All shapes of clips."""
        return frozenset().union(*(store.specs for store in self._stores))

    def source_of(self, clip: int) -> int:
        """Number of the data set a clip is of."""
        return self._places[clip][0]

    def spec_of(self, clip: int) -> ClipSpec:
        """The shape of a clip."""
        return self._at(clip, Store.spec_of)

    def has_pictures(self, clip: int) -> bool:
        """Whether a clip is not of a sound file."""
        return self._at(clip, Store.has, "video")

    def row(self, clip: int, name: str) -> Tensor:
        """One tensor of one clip."""
        return self._at(clip, Store.row, name)

    def rows(self, clips: Sequence[int], name: str) -> Tensor:
        """One tensor of several clips, stacked."""
        return torch.stack([self.row(clip, name) for clip in clips])

    def loose(self, clip: int, name: str) -> Tensor | None:
        """A tensor only some clips have."""
        return self._at(clip, Store.loose, name)

    def latents(self, clips: Sequence[int]) -> AV[Tensor]:
        """Latents of some clips of one shape, float32: (B, C, F, h, w) and (B, C, L)."""
        return AV(self.rows(clips, "video").float(), self.rows(clips, "audio").float())

    def reference(self, clip: int, pick: int) -> Tensor | None:
        """Audio latents to be like, (C, n) float32, for a clip; they share no sample with it.

        Its reference recording where it has one; else another clip of its speaker or its source of sound, or, where neither is
        known, of its file, the ``pick``-th counted round and round; None where there is none. Of its own file it is a clip of
        another time.
        """
        found = self.reference_place(clip, pick)
        return None if found is None else self.at(found).float()

    def reference_place(self, clip: int, pick: int) -> Reference | None:
        """Where :meth:`reference` is, without reading it."""
        if (shape := self._at(clip, Store.loose_shape, "reference")) is not None:
            return Reference(clip, "reference", shape[-1])
        key = self._heard(clip)
        pool = self._files.get(self._file(clip), []) if key is None else self._alike.get(key, [])
        for n in range(len(pool)):
            other = pool[(pick + n) % len(pool)]
            if self._apart(clip, other):
                return Reference(other, "audio", self.spec_of(other).audio_latents)
        return None

    def at(self, place: Reference) -> Tensor:
        """What is at a place, (C, n)."""
        if place.name == "audio":
            return self.row(place.clip, "audio")
        found = self.loose(place.clip, place.name)
        assert found is not None
        return found

    def _apart(self, clip: int, other: int) -> bool:
        """Whether two clips share no sample."""
        if self._file(other) != self._file(clip):
            return True
        first, last = samples_of(self.entries[clip].start, self.spec_of(clip))
        begin, end = samples_of(self.entries[other].start, self.spec_of(other))
        return end <= first or last <= begin

    def _file(self, clip: int) -> tuple[int, str]:
        return self._places[clip][0], posixpath.normpath(self.entries[clip].file)

    def _heard(self, clip: int) -> tuple[int, str, str] | None:
        """What is heard in a clip, by which references are found; a speaker before anything else; of one data set."""
        entry, source = self.entries[clip], self._places[clip][0]
        if entry.speaker is not None:
            return source, "speaker", entry.speaker
        return None if entry.sound_source is None else (source, "sound_source", entry.sound_source)

    def _at(self, clip: int, read: Any, *arguments: Any) -> Any:
        number, place = self._places[clip]
        return read(self._stores[number], place, *arguments)


def fingerprint(*modules: nn.Module) -> str:
    """A short name for the exact weights and statistics of codecs."""
    digest = hashlib.sha256()
    for module in modules:
        digest.update(repr(getattr(module, "config", None)).encode())
        for key, value in sorted(module.state_dict().items()):
            digest.update(key.encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def build_cache(
    source: Source,
    folder: str | Path,
    video_codec: VideoVAE,
    audio_codec: AudioCodec,
    *,
    captions: CaptionEncoder | None = None,
    null_pairs: float = 0.0,
    sound_alone: bool = False,
    shard_clips: int = 256,
    world: World | None = None,
    progress: Progress | None = None,
) -> LatentCache:
    """Encode a data set; clips that cannot be used are left out and listed.

    Args:
        source: the clips.
        folder: to make.
        video_codec: for the pictures; latents are the posterior's mean.
        audio_codec: for the sound and the references.
        captions: encodes the clips' captions, for a model without a caption encoder of its own.
        null_pairs: how many stills with silence are added for each clip; they are first frames of clips, held, every third an
            even grey (SyncCFG's still where no picture is given), their captions and references kept, as in SyncCFG's anchors,
            their transcript left out.
        sound_alone: take sound files too, for stages that train the audio branch alone.
        shard_clips: clips a shard holds.
        world: the processes, all of which call this, and each encodes its part; this one alone by default.
        progress: called after each clip of this process's part.

    Raises:
        ValueError: the folder is there already or cannot be written, no clip can be used, or what a codec or the text encoder
            gives is not finite.
    """
    folder, world = Path(folder), world or World()
    skipped = list(getattr(source, "skipped", ())) if world.first else []  # every process found the same
    items = work_items(len(source.entries), null_pairs)
    begin, end = world.rows(len(items))
    mine = items[begin:end]
    made_with, told_by = fingerprint(video_codec, audio_codec), None if captions is None else captions.made

    def encoded(item: Item) -> Encoded | Skipped:
        try:
            clip, entry = read_item(source, item, sound_alone=sound_alone)
            if captions is not None:
                captions.check([entry])
        except ValueError as error:
            entry = source.entries[item.clip]
            return Skipped(file=entry.file, start=entry.start, reason=str(error))
        return Encoded(entry, clip.spec or source.spec, *_encode(clip, video_codec, audio_codec, source.spec.grid.sample_rate))

    kept = 0
    with (
        writing(
            folder,
            kind="latents",
            spec=source.spec,
            made_with=made_with,
            captions=told_by,
            shard_clips=shard_clips,
            world=world,
        ) as writer,
        ThreadPoolExecutor(_workers(video_codec, world.size)) as pool,
    ):
        try:
            for done, (item, found) in enumerate(zip(mine, pool.map(encoded, mine), strict=True), 1):
                # One after the other: a tokenizer is not for several threads.
                one = found if isinstance(found, Skipped) else _with_captions(found, captions, first=not kept)
                if not isinstance(one, Skipped):
                    _check_finite(one.entry, one.row)
                    writer.add(one.entry, one.row, one.loose, spec=one.spec)
                    kept += item.still is None
                elif item.still is None:  # a still that cannot be made is no further loss
                    skipped.append(one)
                if progress is not None:
                    progress(done, len(mine))
            writer.skipped = skipped
            report_skipped(skipped, kept, folder, world)
        except BaseException:  # or the pool would finish what nobody waits for
            pool.shutdown(cancel_futures=True)
            raise
    return LatentCache(folder)


def work_items(count: int, null_pairs: float) -> list[Item]:
    """What there is to encode: every clip, then stills, evenly over the data set, so that every kind of clip has its stills."""
    nulls = round(null_pairs * count)
    return [Item(index, None) for index in range(count)] + [Item(int(n * count / nulls), n) for n in range(nulls)]


def read_item(source: Source, item: Item, *, sound_alone: bool) -> tuple[Clip, Entry]:
    """A clip, or the still with silence that is made of it, and what is said about it.

    Raises:
        ValueError: it cannot be used; the message says why.
    """
    if item.still is not None:
        return _still(source, item.clip, grey=item.still % GREY_EVERY == GREY_EVERY - 1)
    clip, entry = source.clip(item.clip), source.entries[item.clip]
    if clip.frames is None and not sound_alone:
        raise ValueError(f"{entry.file} has no pictures, which every stage of this training needs")
    if clip.mute and not entry.null:
        raise ValueError(f'{entry.file} has no sound; a still that is meant to be silent says "null": true in the manifest')
    if entry.transcript and clip.wave.abs().max() < SILENT:
        raise ValueError(f"{entry.file} is silent, though its transcript says that somebody speaks")
    return clip, entry


def _still(source: Source, first: int, *, grey: bool) -> tuple[Clip, Entry]:
    """A still with silence of a clip, or of one of those after it where that has no pictures or cannot be read."""
    reason = ValueError("no clip near it has pictures")
    for n in range(TRIES):
        index = (first + n) % len(source.entries)
        try:
            clip = source.clip(index)
        except ValueError as error:
            reason = error
            continue
        if clip.frames is not None:
            held = torch.zeros_like(clip.frames[:, :1]) if grey else clip.frames[:, :1]
            clip = clip._replace(frames=held.expand_as(clip.frames).contiguous(), wave=torch.zeros_like(clip.wave))
            return clip, dataclasses.replace(source.entries[index], transcript="", null=True)
    raise reason


def _with_captions(found: Encoded, captions: CaptionEncoder | None, *, first: bool) -> Encoded | Skipped:
    if captions is None:
        return found
    try:
        return found._replace(loose={**found.loose, **captions.tokens(found.entry, first=first)})
    except UnusableText as error:
        return Skipped(file=found.entry.file, start=found.entry.start, reason=str(error))


def _check_finite(entry: Entry, row: Mapping[str, Tensor]) -> None:
    bad = [name for name, value in row.items() if not value.isfinite().all()]
    if bad:
        raise ValueError(f"the {bad[0]} latents of clip {entry.file} are not finite; look at the codec")


def _workers(codec: nn.Module, processes: int) -> int:
    """Clips encoded at once: on a CPU as many as there are cores for, since one clip alone seldom fills several."""
    if next(codec.parameters()).device.type != "cpu":
        return 1
    return max(1, (os.cpu_count() or 1) // (torch.get_num_threads() * processes))


@torch.no_grad()
def _encode(
    clip: Clip, video_codec: VideoVAE, audio_codec: AudioCodec, rate: int
) -> tuple[Mapping[str, Tensor], Mapping[str, Tensor]]:
    def sound(wave: Tensor) -> Tensor:
        return audio_codec.encode(Audio(wave[None, None], rate))[0].to("cpu", STORED)

    device = next(video_codec.parameters()).device
    row = {"audio": sound(clip.wave)}
    if clip.frames is not None:
        row["video"] = video_codec.encode(clip.frames[None], device=device)[0].to("cpu", STORED)
    return row, {} if clip.reference is None else {"reference": sound(clip.reference)}

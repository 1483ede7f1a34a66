"""Who makes the clips of a list: a checkpoint, or a folder of clips that any system made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ..encoders.symbols import to_symbols
from ..geometry import ClipSpec
from ..guidance import Guidance
from ..media import write_video
from ..pipeline import Pipeline, Request, generate
from ..sample import Schedule
from ..world.clip import Kind
from ..world.dataset import TEST_SEEDS, Recipe, make_clip
from .items import Item

ENDINGS = (".mp4", ".mkv", ".mov", ".webm", ".avi")
WORLD_KINDS: tuple[Kind, ...] = ("impact", "talk", "complex")
WORLD_FIRST = 5000
"""Number of the first test clip that the small world's list is made of; ``harmony evaluate`` takes those before."""


class Generator(Protocol):
    """Gives the clip of an item."""

    def clip(self, item: Item, target: Path, number: int) -> Path:
        """The clip's file.

        Args:
            item: what is asked for.
            target: where to write it, if it is made now.
            number: of the item in its list.

        Raises:
            ValueError: there is none, or it cannot be made; the message says why.
        """
        ...


@dataclass(frozen=True)
class ClipFolder:
    """Clips named by item."""

    folder: Path

    def clip(self, item: Item, target: Path, number: int) -> Path:
        """See :class:`Generator`."""
        del target, number
        found = [path for ending in ENDINGS if (path := self.folder / f"{item.id}{ending}").is_file()]
        if not found:
            raise ValueError(f"there is no clip {item.id}{ENDINGS[0]} in {self.folder}")
        return found[0]


@dataclass(frozen=True, kw_only=True)
class CheckpointGenerator:
    """A model makes them.

    Attributes:
        pipeline: with its codecs.
        spec: of all clips.
        schedule: steps and sampler.
        guidance: of all clips.
        seed: of the first item; the others follow.
    """

    pipeline: Pipeline
    spec: ClipSpec
    schedule: Schedule
    guidance: Guidance
    seed: int = 0

    def clip(self, item: Item, target: Path, number: int) -> Path:
        """See :class:`Generator`."""
        self._check(item)
        request = Request(
            spec=self.spec,
            video_caption=item.video_caption,
            audio_caption=item.audio_caption,
            transcript=item.transcript,
        )
        made = generate(self.pipeline, request, seeds=[self.seed + number], schedule=self.schedule, guidance=self.guidance)
        write_video(target, made.video, made.audio)
        return target

    def _check(self, item: Item) -> None:
        config = self.pipeline.model.config
        for text, encoder, what in (
            (item.video_caption, config.caption, "video caption"),
            (item.audio_caption, config.caption, "audio caption"),
            (item.transcript, config.speech, "transcript"),
        ):
            if encoder is not None and text:
                try:
                    to_symbols([text], encoder)
                except ValueError as error:
                    raise ValueError(f"this checkpoint cannot read the {what}: {error}") from error


def world_items(each: int = 50) -> tuple[Item, ...]:
    """The small world's list, for models that know no other: impacts, talking faces and both, ``each`` of them."""
    numbers = range(WORLD_FIRST, WORLD_FIRST + each)
    return tuple(_world_item(kind, TEST_SEEDS[number]) for kind in WORLD_KINDS for number in numbers)


def _world_item(kind: Kind, seed: int) -> Item:
    clip = make_clip(Recipe(kind=kind, seed=seed))
    return Item(
        id=f"{kind}-{seed}",
        set=kind,
        video_caption=clip.video_caption,
        audio_caption=clip.audio_caption,
        transcript=clip.transcript,
    )


def of_sets(items: Sequence[Item], sets: Sequence[str]) -> tuple[Item, ...]:
    """The items of some sets; all without any.

    Raises:
        ValueError: the list has no such set.
    """
    there = dict.fromkeys(item.set for item in items)
    unknown = [name for name in sets if name not in there]
    if unknown:
        raise ValueError(f"this list has no set {unknown[0][:80]!r}; it has {', '.join(there)[:200]}")
    return tuple(item for item in items if not sets or item.set in sets)

"""What is trained on: folders of clips, their shapes, and what is made of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..config import PRESETS as MODEL_PRESETS
from ..config import HarmonyConfig
from ..geometry import ClipSpec
from ..records import check_fields, check_most
from .limits import at_least, between

SHAPE = (49, 64, 64)
"""Frames, height and width of a clip where nothing is said: the small world's."""


@dataclass(frozen=True, kw_only=True)
class WorldConfig:
    """Clips of the small world.

    Attributes:
        clips: how many.
        first_seed: of the first clip.
        split: easy or hard.
        mix: shares of impact, talk, complex and still, which need not add up to 1.
    """

    clips: int
    first_seed: int = 0
    split: Literal["easy", "hard"] = "easy"
    mix: tuple[float, float, float, float] = (0.36, 0.36, 0.15, 0.13)

    def __post_init__(self) -> None:
        check_fields(self, "world")
        at_least(self.clips, 1, "world.clips")
        at_least(self.first_seed, 0, "world.first_seed")


@dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """One folder of a mixture.

    Attributes:
        folder: of videos with a ``manifest.jsonl``, or of packed clips.
        share: of the clips drawn; shares need not add up to 1.
    """

    folder: str
    share: float = 1.0

    def __post_init__(self) -> None:
        check_fields(self, "source")
        if not self.share > 0:
            raise ValueError(f"source.share is positive, got {self.share}; leave {self.folder} out of data.sources instead")


@dataclass(frozen=True, kw_only=True)
class BucketConfig:
    """One shape of clips.

    Attributes:
        frames: of a clip, 1 + 4 k.
        height: pixels.
        width: pixels.
        batch: clips of this shape a step, over all processes; None for ``run.batch``. A stage's own ``batch`` or ``tokens``
            goes before it.
    """

    frames: int
    height: int
    width: int
    batch: int | None = None

    def __post_init__(self) -> None:
        check_fields(self, "bucket")
        if self.batch is not None:
            at_least(self.batch, 1, "bucket.batch")
            check_most(self, "bucket", batch=1 << 16)


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where the clips are.

    Attributes:
        folder: of videos with a ``manifest.jsonl``, or of packed clips.
        sources: several such folders in place of one, with shares.
        world: clips of the small world that ``folder`` is made of if it is not there.
        cache: folder for what is made of them once (latents for a model, packed clips for a codec); made if it is not there. Of
            several sources, each has a folder of its own name in it.
        frames: of a clip, 1 + 4 k.
        height: pixels.
        width: pixels.
        fps: pictures per second.
        buckets: shapes of clips, in place of one shape, for training of a model. A file goes into the largest that it fits.
        segments: cut every file into clips one after the other; its beginning alone where false. A line of a manifest with a
            transcript is never cut, since nothing says which of its words are said in which clip; packed clips are as they are.
        stride: seconds from the start of one such clip to the next; 0 for the clip's length.
        null_pairs: of the cached clips, how many for each of the data set's own are stills with silence made from its first
            frames; 0 where the data set has its own.
        shard_clips: clips a shard holds.
    """

    folder: str | None = None
    sources: tuple[SourceConfig, ...] = ()
    world: WorldConfig | None = None
    cache: str
    frames: int = SHAPE[0]
    height: int = SHAPE[1]
    width: int = SHAPE[2]
    fps: float = 24.0
    buckets: tuple[BucketConfig, ...] = ()
    segments: bool = False
    stride: float = 0.0
    null_pairs: float = 0.0
    shard_clips: int = 256

    def __post_init__(self) -> None:
        check_fields(self, "data")
        between(self.null_pairs, 0, 1, "data.null_pairs")
        at_least(self.shard_clips, 1, "data.shard_clips")
        check_most(self, "data", shard_clips=1 << 16)
        at_least(self.stride, 0, "data.stride")
        if (self.folder is None) == (not self.sources):
            raise ValueError("data.folder or data.sources says where the clips are: give one of them")
        if self.world is not None and self.folder is None:
            raise ValueError("data.world is made into data.folder: give that in place of data.sources")
        names = [Path(source.folder).name for source in self.sources]
        if len(set(names)) < len(names):
            raise ValueError(f"data.sources are folders of different names, by which their caches are kept, got {names}")
        shape = (self.frames, self.height, self.width)
        if self.buckets and shape != SHAPE:
            raise ValueError("data.buckets are the shapes of the clips: leave data.frames, data.height and data.width out")
        shapes = [(b.frames, b.height, b.width) for b in self.buckets]
        if len(set(shapes)) < len(shapes):
            raise ValueError(f"data.buckets are different shapes, got {shapes}")

    def parts(self) -> tuple[tuple[SourceConfig, Path], ...]:
        """The folders of clips, and where what is made of each is kept."""
        if self.folder is not None:
            return ((SourceConfig(folder=self.folder), Path(self.cache)),)
        return tuple((source, Path(self.cache) / Path(source.folder).name) for source in self.sources)

    def spec(self, like: HarmonyConfig | None = None) -> ClipSpec:
        """The shape of the clips; of several, the first."""
        return self.specs(like)[0]

    def specs(self, like: HarmonyConfig | None = None) -> tuple[ClipSpec, ...]:
        """The shapes of the clips."""
        grid = like.grid if like else MODEL_PRESETS["tiny"].grid
        shapes = [(b.frames, b.height, b.width) for b in self.buckets] or [(self.frames, self.height, self.width)]
        return tuple(ClipSpec(frames=f, height=h, width=w, fps=self.fps, grid=grid) for f, h, w in shapes)

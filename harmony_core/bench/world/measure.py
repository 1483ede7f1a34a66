"""The whole measurement: true clips are made, generated again in every way, judged and let go of, batch by batch."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor

from ...pipeline import Pipeline
from ...progress import Progress
from ...types import Modality
from ...world.clip import Kind
from ...world.dataset import TEST_SEEDS, Recipe, Voices, make_clip
from ...world.evaluation import SHIFTS, Figures
from ...world.judges import Judges
from ...world.metrics import Fractions, delayed, intervals, listen, look
from .maps import Finder, map_figures, placed_by_sight, placed_by_sight_and_hearing, placed_truly
from .plan import TASKS, TRUTH, Plan
from .record import Record, figures_of, gather
from .runs import Batch, Made, Runner

STILLS = 64
"""True still clips whose motion and loudness stand beside the anchors'; at most as many as clips of a kind."""

OnMade = Callable[[Kind, str, Batch, Made], None]
"""Told a kind, a source, the true clips and what was made of them."""

_FINDERS: dict[Modality | None, Finder] = {
    Modality.VIDEO: placed_truly,
    Modality.AUDIO: placed_by_sight,
    None: placed_by_sight_and_hearing,
}
_ANCHORS: dict[str, tuple[str, ...]] = {
    "truth": ("motion", "loudness"),
    "silence": ("motion",),
    "audio_driven": ("motion",),
    "still": ("loudness",),
    "video_driven": ("loudness",),
}


class WorldBench:
    """Measures a checkpoint: :meth:`kind` for every kind of the plan, then :meth:`anchors`.

    Attributes:
        seconds: spent so far, by stage.
        values: what was measured so far of every clip, by kind (or ``anchors``) and row.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        judges: Judges,
        plan: Plan,
        *,
        progress: Progress | None = None,
        on_made: OnMade | None = None,
    ) -> None:
        """Get ready.

        Args:
            pipeline: a model with its codecs.
            judges: the trained networks.
            plan: what is measured.
            progress: called after every batch of every source; it cancels by raising.
            on_made: called with every batch of every source.

        Raises:
            ValueError: the checkpoint cannot make such clips, or espeak-ng, which clips that talk need, is not installed.
        """
        self.seconds: dict[str, float] = defaultdict(float)
        self.values: dict[str, dict[str, list[Fractions]]] = {}
        self._judges, self._plan = judges, plan
        self._progress, self._on_made = progress, on_made
        for kind in plan.kinds:
            make_clip(_recipe(kind, 0, plan, "seen"))
        with self._timed("encode"):
            self._runner = Runner(pipeline, plan)
        self._anchored: dict[str, list[Fractions]] = defaultdict(list)
        sources = sum(len(plan.sources_of(kind) & {*TASKS, *TRUTH.values(), "codec"}) for kind in plan.kinds)
        self._total = sources * plan.clips + (self._stills if self._has_anchors else 0)
        self._done = 0

    def kind(self, kind: Kind) -> dict[str, Figures]:
        """Measure one kind.

        Returns:
            Figures by row.

        Raises:
            ValueError: sampling diverged.
        """
        plan, record = self._plan, Record()
        rows, tasks = plan.rows_of(kind), plan.tasks_of(kind)
        voices: list[Voices] = ["seen", "unseen"] if TRUTH["unseen"] in plan.sources_of(kind) else ["seen"]
        for first in range(0, plan.clips, plan.batch):
            for voice in voices:
                batch = self._batch(kind, voice, range(first, min(first + plan.batch, plan.clips)))
                self._truth(record, batch, voice)
                if voice == "seen" and "codec" in plan.sources_of(kind):
                    with self._timed("codec"):
                        made = self._runner.codec(batch)
                    self._source(record, "codec", batch, made)
                for name, task in tasks.items():
                    if task.voices == voice:
                        with self._timed(name):
                            made = self._runner.run(batch, task)
                        self._source(record, name, batch, made)
        with self._timed("figures"):
            values = self.values[kind] = gather(rows, record, seed=plan.seed, cell=self._cell)
            found = figures_of(kind, values, seed=plan.seed)
        for name, figures in _ANCHORS.items():
            self._anchored[name] += [{f: clip[f] for f in figures} for clip in values.get(name, [])]
        return found

    def anchors(self) -> dict[str, Figures]:
        """SyncCFG's anchors over all kinds measured so far, beside what they are to be compared with.

        Given silence (``silence``) pictures should move no more than those of true still clips (``true_still``; through the
        codecs ``codec_still``); given a still (``still``) the sound should be as quiet as theirs.

        Returns:
            Figures by row; none where the plan has neither anchor.
        """
        if not self._has_anchors:
            return {}
        found = dict(self._anchored)
        still, codec = Record(), Record()
        for first in range(0, self._stills, self._plan.batch):
            batch = self._batch("still", "seen", range(first, min(first + self._plan.batch, self._stills)))
            with self._timed("codec"):
                made = self._runner.codec(batch)
            for record, frames, wave in ((still, batch.frames, batch.wave), (codec, made.frames, made.wave)):
                self._judge(record, "still", frames, wave)
            self._tell(len(batch.clips))
        for name, record in (("true_still", still), ("codec_still", codec)):
            pairs = zip(record.seen["still"], record.heard["still"], strict=True)
            found[name] = [{"motion": (seen.motion, 1.0), "loudness": (heard.loudness, 1.0)} for seen, heard in pairs]
        self.values["anchors"] = found
        return {name: intervals(clips, seed=self._plan.seed) for name, clips in found.items() if clips}

    # ---- one batch

    def _batch(self, kind: Kind, voices: Voices, numbers: Sequence[int]) -> Batch:
        with self._timed("clips"):
            clips = [make_clip(_recipe(kind, number, self._plan, voices)) for number in numbers]
        with self._timed("encode"):
            return self._runner.encode(clips)

    def _truth(self, record: Record, batch: Batch, voices: Voices) -> None:
        name = TRUTH[voices]
        for clip in batch.clips:
            record.add_truth(voices, clip)
        self._judge(record, name, batch.frames, batch.wave)
        if voices == "seen":
            late = [shift for shift in SHIFTS if f"late_{shift}" in self._plan.sources_of(batch.clips[0].kind)]
            for shift in late:
                wave = delayed(batch.wave, shift, self._runner.spec.fps)
                self._judge(record, f"late_{shift}", None, wave)
        self._tell(len(batch.clips))

    def _source(self, record: Record, name: str, batch: Batch, made: Made) -> None:
        """Judge what was made; a driver's own stream is the truth's, which has been judged."""
        task, spec = TASKS.get(name), self._runner.spec
        frames = None if task is not None and task.drive is Modality.VIDEO else made.frames
        wave = None if task is not None and task.drive is Modality.AUDIO else made.wave
        self._judge(record, name, frames, wave)
        if task is not None and made.maps is not None:
            heard = record.heard[TRUTH[task.voices] if wave is None else name][-len(batch.clips) :]
            for clip, pictures, one, sound in zip(batch.clips, made.frames, made.maps, heard, strict=True):
                targets = _FINDERS[task.drive](clip, pictures, sound, spec)
                record.maps.setdefault(name, []).append(one)
                record.targets.setdefault(name, []).append(targets)
                record.map_figures.setdefault(name, []).append(map_figures(one, targets, self._cell))
        if self._on_made is not None:
            self._on_made(batch.clips[0].kind, name, batch, made)
        self._tell(len(batch.clips))

    def _judge(self, record: Record, name: str, frames: Tensor | None, wave: Tensor | None) -> None:
        spec = self._runner.spec
        with self._timed("judge"):
            if frames is not None:
                record.seen.setdefault(name, []).extend(look(one, spec.fps, self._judges) for one in frames)
            if wave is not None:
                record.heard.setdefault(name, []).extend(listen(one, spec.frames, spec.fps, self._judges) for one in wave)

    # ---- the rest

    @property
    def _cell(self) -> int:
        return self._runner.spec.grid.size_multiple

    @property
    def _stills(self) -> int:
        return min(STILLS, self._plan.clips)

    @property
    def _has_anchors(self) -> bool:
        return any({"silence", "still"} & set(self._plan.rows_of(kind)) for kind in self._plan.kinds)

    def _tell(self, clips: int) -> None:
        self._done += clips
        if self._progress is not None:
            self._progress(self._done, self._total)

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        began = time.monotonic()
        try:
            yield
        finally:
            self.seconds[stage] += time.monotonic() - began


def _recipe(kind: Kind, number: int, plan: Plan, voices: Voices) -> Recipe:
    return Recipe(kind=kind, seed=TEST_SEEDS[plan.first + number], split=plan.split, voices=voices)

"""Clips from seeds: one at a time, as a stream, or many in several processes.

A clip depends on its kind, its split, its seed and the set of voices, and on nothing else. Seeds below ``TEST_SEEDS.start``
are for training; evaluation takes ``TEST_SEEDS``, and no clip of one range is ever a clip of the other.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from ..progress import Progress
from .captions import captions
from .clip import KINDS, Kind, Split, WorldClip, clip_spec, frame_times
from .drawing import Canvas
from .face import paint_face
from .scenes import Scene, paint_ball, paint_drifting, paint_room, sample_scene
from .sound import ring
from .talk import Talk, no_talk, sample_talk

Voices = Literal["seen", "unseen"]

TRAIN_SEEDS = range(1_000_000)
TEST_SEEDS = range(1_000_000, 2_000_000)

MIX: Mapping[Kind, float] = {"impact": 0.36, "talk": 0.36, "complex": 0.15, "still": 0.13}
"""Share of each kind in training, unless another is asked for."""

_SPLIT_NUMBERS = {"easy": 0, "hard": 1}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What a clip is made from.

    Raises:
        ValueError: an unknown kind, split or set of voices, or a negative seed.
    """

    kind: Kind
    seed: int
    split: Split = "easy"
    voices: Voices = "seen"

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"the kinds of clips are {', '.join(KINDS)}, got {self.kind!r}")
        if self.voices not in get_args(Voices):
            raise ValueError(f"voices are seen or unseen, got {self.voices!r}")
        clip_spec(self.split)
        if type(self.seed) is not int or not 0 <= self.seed < TEST_SEEDS.stop:
            raise ValueError(f"a seed is a whole number from 0 to {TEST_SEEDS.stop - 1}, got {self.seed!r}")

    def generator(self) -> np.random.Generator:
        """Random numbers of this clip and no other."""
        return np.random.default_rng([KINDS.index(self.kind), _SPLIT_NUMBERS[self.split], self.seed])


def make_clip(recipe: Recipe) -> WorldClip:
    """Make a clip.

    Raises:
        ValueError: the clip talks and espeak-ng is not installed.
    """
    rng = recipe.generator()
    spec = clip_spec(recipe.split)
    scene = sample_scene(recipe.kind, recipe.split, spec, rng)
    speaks = recipe.kind in {"talk", "complex"}
    talk = sample_talk(spec, recipe.voices, scene.face, rng) if speaks else no_talk(spec, scene.face)
    wave = talk.wave + ring(scene.events, spec.samples, rng)
    words = captions(recipe.kind, scene, talk, rng)
    return WorldClip(
        kind=recipe.kind,
        split=recipe.split,
        seed=recipe.seed,
        spec=spec,
        pictures=_paint(scene, talk, spec.frames, frame_times(spec)),
        wave=np.clip(wave, -1, 1).astype(np.float32),
        events=tuple(sorted([*scene.events, *talk.events], key=lambda event: event.time)),
        video_caption=words.video,
        audio_caption=words.audio,
        mouth=talk.mouth,
        words=talk.words,
        phonemes=talk.phonemes,
        voice=talk.voice,
        reference=talk.reference,
    )


def make_talk(recipe: Recipe) -> Talk:
    """What a talking clip says and how its mouth moves, without painting it: the same as in :func:`make_clip`, but quicker.

    Raises:
        ValueError: the clip does not talk, or espeak-ng is not installed.
    """
    if recipe.kind not in {"talk", "complex"}:
        raise ValueError(f"clips that talk are talk and complex, got {recipe.kind!r}")
    rng = recipe.generator()
    spec = clip_spec(recipe.split)
    return sample_talk(spec, recipe.voices, sample_scene(recipe.kind, recipe.split, spec, rng).face, rng)


def recipes(
    count: int, *, first_seed: int = 0, mix: Mapping[Kind, float] = MIX, split: Split = "easy", voices: Voices = "seen"
) -> list[Recipe]:
    """Recipes of ``count`` clips with the seeds from ``first_seed`` on.

    The kind of a seed does not depend on where the list starts, so that a longer list begins with a shorter one.

    Args:
        count: of clips.
        first_seed: a member of ``TRAIN_SEEDS`` or ``TEST_SEEDS``.
        mix: shares of the kinds; they need not add up to 1.
        split: easy or hard.
        voices: that speak.

    Raises:
        ValueError: the seeds run out of their range, or the mix has no share above 0.
    """
    seeds = range(first_seed, first_seed + count)
    if count < 1 or not any(seeds[0] in r and seeds[-1] in r for r in (TRAIN_SEEDS, TEST_SEEDS)):
        raise ValueError(
            f"{count} clips from seed {first_seed} on do not fit the training seeds 0 to {TRAIN_SEEDS[-1]} "
            f"or the test seeds {TEST_SEEDS[0]} to {TEST_SEEDS[-1]}"
        )
    unknown = sorted(set(mix) - set(KINDS))
    total = sum(mix.values())
    if unknown or not total > 0 or min(mix.values()) < 0:
        raise ValueError(f"a mix gives shares of at least 0 to the kinds {', '.join(KINDS)}, got {dict(mix)}")
    edges = np.cumsum([share / total for share in mix.values()])
    names = list(mix)
    draws = (np.random.default_rng([7, seed]).random() for seed in seeds)
    kinds = (names[min(int(np.searchsorted(edges, draw, side="right")), len(names) - 1)] for draw in draws)
    return [Recipe(kind=kind, seed=seed, split=split, voices=voices) for kind, seed in zip(kinds, seeds, strict=True)]


def dataset(wanted: Iterable[Recipe]) -> Iterator[WorldClip]:
    """Make clips one after the other."""
    return map(make_clip, wanted)


def make_clips(wanted: Iterable[Recipe], *, workers: int = 1, progress: Progress | None = None) -> list[WorldClip]:
    """Make clips in several processes, in the order of the recipes; their number changes nothing but the time.

    Args:
        wanted: recipes.
        workers: processes; 1 works in this one.
        progress: called after each clip.

    Raises:
        ValueError: fewer than one worker, or what :func:`make_clip` raises.
    """
    wanted = list(wanted)
    if workers < 1:
        raise ValueError(f"at least one process works, got {workers}")
    if workers == 1:
        return _collected(dataset(wanted), len(wanted), progress)
    pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))
    try:
        return _collected(pool.map(make_clip, wanted, chunksize=8), len(wanted), progress)
    finally:
        pool.shutdown(cancel_futures=True)


def _collected(clips: Iterable[WorldClip], total: int, progress: Progress | None) -> list[WorldClip]:
    made = []
    for clip in clips:
        made.append(clip)
        if progress is not None:
            progress(len(made), total)
    return made


def _paint(scene: Scene, talk: Talk, frames: int, times: np.ndarray) -> np.ndarray:
    background = Canvas(scene.background, 1)
    if scene.room is not None:
        paint_room(background, scene.room)
    canvas = Canvas(background.pictures()[0] / np.float32(255), frames)
    for square in scene.drifting:
        paint_drifting(canvas, square)
    if scene.face is not None:
        paint_face(canvas, scene.face, talk.mouth)
    for ball in scene.balls:
        paint_ball(canvas, ball, times)
    return canvas.pictures()

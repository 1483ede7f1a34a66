"""How far the sound-source map of a finished clip can be trusted: on true clips in which balls strike.

The map is made as for any finished clip: one stream is mixed with noise and the model is asked about it while the other is
given (``LISTENING`` of :mod:`harmony_core.measure.sound_source`). A map that listens points at the ball that strikes; given
another clip's sound it should not, as then nothing strikes there. To measure again::

    python -c "from harmony_core.bench.sound_map import *; print(table(point('harmony-tiny', range(128))))"
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from ..flow import draw_noise, mix
from ..geometry import ClipSpec
from ..measure.sound_source import LISTENING, agreement
from ..models.sound_map import SoundMapRecorder
from ..pipeline import Pipeline, Request
from ..types import AV, Audio, Modality
from ..weights.builtin import resolve
from ..world.clip import SAMPLE_RATE, WorldClip
from ..world.dataset import TEST_SEEDS, Recipe, make_clip
from .world.maps import Targets, fixed_figures, map_figures, true_targets

NOISES: Mapping[Modality, tuple[float, ...]] = {Modality.VIDEO: (LISTENING.video, 0.9), Modality.AUDIO: (0.1, LISTENING.audio)}
"""How much of a stream is noise where it is asked; what is used, and what is not."""
BOTH = "both"


@dataclass(frozen=True, kw_only=True)
class Pointing:
    """Share of the events whose strongest cell lies on the ball that strikes.

    Attributes:
        own: with the clip's own sound.
        other: with another clip's.
    """

    own: float
    other: float


@dataclass(frozen=True, kw_only=True)
class Found:
    """All maps of some clips.

    Attributes:
        events: how many there were.
        chance: mean share of the cells that touch the ball.
        fixed: share of the events that the best of all fixed cells would find.
        maps: by the stream asked and its noise, and ``both`` for what a finished clip's map is.
    """

    events: int
    chance: float
    fixed: float
    maps: Mapping[str, Pointing]


@torch.no_grad()
def point(checkpoint: str | Path, numbers: Sequence[int]) -> Found:
    """Make the maps of true clips and count where they point.

    Args:
        checkpoint: a built-in name or a file that carries its codecs; of frame-wise interaction.
        numbers: which of the test clips, two or more.

    Raises:
        ValueError: no such checkpoint, or of another kind.
    """
    pipeline = Pipeline.load(resolve(checkpoint))
    clips = [make_clip(Recipe(kind="impact", seed=TEST_SEEDS[number])) for number in numbers]
    spec = replace(clips[0].spec, grid=pipeline.model.config.grid)
    latents = [_latents(pipeline, clip) for clip in clips]
    sounds = [one.audio for one in latents]
    rows: dict[bool, list[Mapping[str, Tensor]]] = {}
    for own, heard in ((True, sounds), (False, sounds[1:] + sounds[:1])):
        rows[own] = [
            _maps(pipeline, spec, clip, AV(one.video, sound), number)
            for number, clip, one, sound in zip(numbers, clips, latents, heard, strict=True)
        ]
    targets = [true_targets(clip, spec) for clip in clips]
    cell = spec.grid.size_multiple
    size = rows[True][0][BOTH].shape[1:]
    hits = {
        own: {name: _share([one[name] for one in found], targets, cell) for name in found[0]} for own, found in rows.items()
    }
    fixed = [one["map_fixed"] for one in fixed_figures(targets, size[0], size[1], cell)]
    return Found(
        events=sum(len(one.placed) for one in targets),
        chance=_share([one[BOTH] for one in rows[True]], targets, cell, "map_chance"),
        fixed=sum(hit for hit, _ in fixed) / sum(count for _, count in fixed),
        maps={name: Pointing(own=hits[True][name], other=hits[False][name]) for name in hits[True]},
    )


def table(found: Found) -> str:
    """What was found as text."""
    lines = [f"{found.events} events; chance {found.chance:.2f}, best fixed cell {found.fixed:.2f}"]
    lines += ["map                own   other"]
    lines += [f"{name:18} {row.own:.2f}  {row.other:.2f}" for name, row in found.maps.items()]
    return "\n".join(lines)


def _latents(pipeline: Pipeline, clip: WorldClip) -> AV[Tensor]:
    return AV(pipeline.encode_pictures(clip.frames[None]), pipeline.encode_sound(Audio(clip.samples[None], SAMPLE_RATE)))


def _maps(pipeline: Pipeline, spec: ClipSpec, clip: WorldClip, latents: AV[Tensor], seed: int) -> dict[str, Tensor]:
    """All maps of a clip, each (T, rows, columns)."""
    told = Request(spec=spec, video_caption=clip.video_caption, audio_caption=clip.audio_caption)
    context = pipeline.model.prepare(pipeline.conditioning(told, 1), 1)
    noise = draw_noise(latents.map(lambda x: tuple(x.shape)), [seed])
    maps: dict[str, Tensor] = {}
    for asking, levels in NOISES.items():
        for level in levels:
            recorder = SoundMapRecorder()
            given = latents.replace(asking, mix(latents[asking], noise[asking], level))
            times = AV.both(torch.zeros(1, 1)).replace(asking, torch.full((1, 1), level))
            pipeline.model(given, times, context, driver=asking.other, fps=spec.fps, recorder=recorder)
            maps[_name(asking, level)] = recorder.maps()
    maps[BOTH] = agreement(*(maps[_name(m, LISTENING[m])] for m in Modality))
    return {name: one[0] for name, one in maps.items()}


def _name(asking: Modality, level: float) -> str:
    return f"{'pictures' if asking is Modality.VIDEO else 'sound'} {round(100 * level)} % noise"


def _share(maps: Sequence[Tensor], targets: Sequence[Targets], cell: int, figure: str = "map_hit") -> float:
    parts = [map_figures(one, own, cell)[figure] for one, own in zip(maps, targets, strict=True)]
    return sum(hits for hits, _ in parts) / sum(count for _, count in parts)

"""How far the sync measure of any clip can be trusted: on the small world, whose truth is known and which it knows nothing of.

True pairs against shuffled ones, and true pairs whose sound is late by known times. To measure again::

    python -c "from harmony_core.bench.sync import *; print(table(calibrations(range(64, 192))))"

On clips it was not tuned on, 128 of each kind, easy split: true pairs score 0.55 where balls strike and 0.45 where somebody
talks, shuffled ones 0.16 and 0.15; a true pair scores higher than a shuffled one with a probability of 0.82 and 0.83. An offset
said to be clear is right to a picture in 0.92 and 0.57 of the clips; clear are 0.59 and 0.45 of them. All of it is in
``docs/measuring.md``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..measure.sync import Sync, measure_sync
from ..types import Audio
from ..world.clip import SAMPLE_RATE, Kind
from ..world.dataset import TEST_SEEDS, Recipe, make_clip

LATE = (0.0, 0.1, 0.25, -0.2)
"""Seconds the sound is made late by; less than none is early."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What the measure says of pairs whose truth is known.

    Attributes:
        clips: how many.
        score: mean of true pairs.
        shuffled: mean of the same pictures with another clip's sound.
        told_apart: probability that a true pair scores higher than a shuffled one (area under the curve); 0.5 is chance.
        doubted: share of true pairs said to be no better than chance, or of too few events.
        doubted_shuffled: the same of shuffled pairs, which should all be.
        clear: share of true pairs whose offset is said to be clear.
        within: share of pairs whose offset is right to a picture (1/24 s), by how late the sound was.
        within_clear: the same among the clear ones.
    """

    clips: int
    score: float
    shuffled: float
    told_apart: float
    doubted: float
    doubted_shuffled: float
    clear: float
    within: Mapping[float, float]
    within_clear: Mapping[float, float]


def calibrate(kind: Kind, numbers: Sequence[int]) -> Calibration:
    """Measure true, shuffled and late pairs.

    Args:
        kind: of clips of the world.
        numbers: which of the test clips, two or more.
    """
    clips = [make_clip(Recipe(kind=kind, seed=TEST_SEEDS[number])) for number in numbers]
    fps = float(clips[0].spec.fps)
    pictures = [(clip.frames.transpose(0, 1) + 1) / 2 for clip in clips]
    waves = [clip.samples for clip in clips]

    def row(sounds: Sequence[Tensor]) -> list[Sync]:
        pairs = zip(pictures, sounds, strict=True)
        return [measure_sync(seen, Audio(wave[None], SAMPLE_RATE), fps) for seen, wave in pairs]

    late = {seconds: row([_late(wave, seconds) for wave in waves]) for seconds in LATE}
    true, shuffled = late[0.0], row(waves[1:] + waves[:1])
    right = {
        seconds: np.array([abs(one.offset - seconds) <= 1 / fps and one.enough for one in found])
        for seconds, found in late.items()
    }
    clear = {seconds: np.array([one.clear for one in found]) for seconds, found in late.items()}
    return Calibration(
        clips=len(clips),
        score=_mean(true),
        shuffled=_mean(shuffled),
        told_apart=_told_apart([one.score for one in true], [one.score for one in shuffled]),
        doubted=float(np.mean([one.by_chance for one in true])),
        doubted_shuffled=float(np.mean([one.by_chance for one in shuffled])),
        clear=float(clear[0.0].mean()),
        within={seconds: float(hits.mean()) for seconds, hits in right.items()},
        within_clear={seconds: float(hits[clear[seconds]].mean()) for seconds, hits in right.items()},
    )


def calibrations(numbers: Sequence[int]) -> dict[str, Calibration]:
    """:func:`calibrate` for clips in which balls strike and for clips in which somebody talks."""
    return {"impact": calibrate("impact", numbers), "talk": calibrate("talk", numbers)}


def table(rows: Mapping[str, Calibration]) -> str:
    """Calibrations as text."""
    lines = ["kind    score shuffled told-apart doubted (shuffled) clear  offset right to a picture, sound late by "]
    lines[0] += " ".join(f"{seconds:+.2f} s" for seconds in LATE) + " (clear ones)"
    for name, row in rows.items():
        offsets = "  ".join(f"{row.within[seconds]:.2f} ({row.within_clear[seconds]:.2f})" for seconds in LATE)
        lines.append(
            f"{name:7} {row.score:.2f}  {row.shuffled:.2f}     {row.told_apart:.2f}       {row.doubted:.2f}    "
            f"({row.doubted_shuffled:.2f})     {row.clear:.2f}   {offsets}"
        )
    return "\n".join(lines)


def _mean(found: Sequence[Sync]) -> float:
    return float(np.mean([one.score for one in found]))


def _told_apart(true: Sequence[float], shuffled: Sequence[float]) -> float:
    difference = np.array(true)[:, None] - np.array(shuffled)[None]
    return float((difference > 0).mean() + (difference == 0).mean() / 2)


def _late(wave: Tensor, seconds: float) -> Tensor:
    """(1, samples), moved later, silent where nothing is left; as long as before."""
    moved = round(seconds * SAMPLE_RATE)
    return torch.nn.functional.pad(wave, (moved, -moved))

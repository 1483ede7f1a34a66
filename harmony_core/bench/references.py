"""What a reference sound does to a clip of balls: its material should be followed, its times should not.

Clips are made jointly, without captions, each with the sound of another true clip as its reference. In what is generated the
material heard should be the reference's, and the times of its impacts should agree with the reference's no better than with the
sound of a clip that was not its reference (chance). To measure again::

    python -c "from harmony_core.bench.references import *; print(table(follow('harmony-tiny', range(256))))"
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from torch import Tensor

from ..conditioning import Conditioning
from ..measure.matching import match
from ..pipeline import Pipeline
from ..weights.builtin import resolve
from ..world.clip import WorldClip
from ..world.dataset import TEST_SEEDS, Recipe, make_clip
from ..world.metrics import Fractions, Interval, intervals
from ..world.trackers import Found, hear_impacts
from .world.plan import Plan, Task
from .world.runs import Runner

SECONDS = 1.5
"""Of a reference: the longest that the small world's models are trained with."""
BATCH = 16
PICTURES = 2
"""Within which two times are the same."""


@dataclass(frozen=True, kw_only=True)
class Followed:
    """Figures with 95 % bootstrap intervals over the clips.

    Attributes:
        material: share of the impacts heard that have a material of the reference.
        material_chance: likewise of the reference of another clip.
        times: event-F1 between the impacts heard in a clip and in its reference.
        times_chance: likewise with the reference of another clip.
    """

    material: Interval
    material_chance: Interval
    times: Interval
    times_chance: Interval


def follow(checkpoint: str | Path, numbers: Sequence[int]) -> Followed:
    """Make clips with references and compare them.

    Args:
        checkpoint: a built-in name or a file that carries its codecs.
        numbers: which of the test clips are the references, 4 or more.

    Raises:
        ValueError: no such checkpoint, it makes no clips of the world, or there are too few clips.
    """
    if len(numbers) < 4:
        raise ValueError(f"4 or more clips are compared, got {len(numbers)}")
    runner = Runner(Pipeline.load(resolve(checkpoint)), Plan(kinds=("impact",), rows=("joint",)))
    clips = [make_clip(Recipe(kind="impact", seed=TEST_SEEDS[number])) for number in numbers]
    length = round(SECONDS * runner.spec.grid.audio_rate)
    made: list[Found] = []
    for some in _batches(clips):
        batch = runner.encode(some)
        with_reference = Conditioning(transcript=batch.told.transcript, reference=batch.latents.audio[:, :, :length])
        made += [hear_impacts(wave) for wave in runner.run(replace(batch, told=with_reference), Task()).wave]
    heard = [hear_impacts(_beginning(clip)) for clip in clips]
    tolerance = PICTURES / runner.spec.fps
    own = [_agree(one, reference, tolerance) for one, reference in zip(made, heard, strict=True)]
    # A few clips on: neighbours in the list have nothing in common, as all clips have seeds of their own.
    other = [_agree(one, reference, tolerance) for one, reference in zip(made, heard[2:] + heard[:2], strict=True)]
    found, chance = intervals(own), intervals(other)
    return Followed(
        material=found["material"], material_chance=chance["material"], times=found["times"], times_chance=chance["times"]
    )


def table(followed: Followed) -> str:
    """What was found as text."""

    def figure(one: Interval) -> str:
        return f"{one.value:.2f} [{one.low:.2f}, {one.high:.2f}]"

    lines = ["           its reference      another clip's reference"]
    lines += [f"material   {figure(followed.material)}  {figure(followed.material_chance)}"]
    lines += [f"times      {figure(followed.times)}  {figure(followed.times_chance)}"]
    return "\n".join(lines)


def _agree(made: Found, reference: Found, tolerance: float) -> Fractions:
    """Numerators and denominators of one clip's figures."""
    alike = sum(material in reference.materials for material in made.materials)
    pairs = len(match(made.times, reference.times, tolerance).pairs)
    return {"material": (alike, len(made.materials)), "times": (2 * pairs, len(made.times) + len(reference.times))}


def _beginning(clip: WorldClip) -> Tensor:
    return clip.samples[:, : round(SECONDS * clip.spec.grid.sample_rate)]


def _batches(clips: Sequence[WorldClip]) -> Iterator[list[WorldClip]]:
    rest = iter(clips)
    while some := list(islice(rest, BATCH)):
        yield some

"""The numbers a checkpoint is sampled with, by name: its authors' schedule, guidance and negative texts."""

from __future__ import annotations

from dataclasses import dataclass

from .config import HarmonyConfig
from .types import AV


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a clip is sampled where the user says nothing else.

    Attributes:
        steps: sampling steps.
        shift: of the schedule towards noise.
        sampler: name of a sampler.
        sync: scales of SyncCFG; 1 is off.
        text: scales of the guidance by the text; 1 is off.
        skip_layers: left out of passes without text.
        negative: what guidance by the text goes away from; empty for nothing.
    """

    steps: int
    shift: float = 5.0
    sampler: str = "unipc"
    sync: AV[float] = AV(1.0, 1.0)  # noqa: RUF009 - an immutable value
    text: AV[float] = AV(1.0, 1.0)  # noqa: RUF009
    skip_layers: tuple[int, ...] = ()
    negative: AV[str] = AV("", "")  # noqa: RUF009


RECIPES: dict[str, Recipe] = {
    "harmony": Recipe(steps=24, sync=AV(3.0, 2.0)),
    "ovi": Recipe(
        steps=50,
        text=AV(4.0, 3.0),
        skip_layers=(11,),
        negative=AV("jitter, bad hands, blur, distortion", "robotic, muffled, echo, distorted"),
    ),
}
"""``harmony``: SyncCFG at the paper's scales. ``ovi``: what Ovi's own program has for its three models."""


def recipe_for(config: HarmonyConfig) -> str:
    """The name of the recipe a checkpoint is sampled with by default."""
    return "ovi" if config.one_prompt else "harmony"

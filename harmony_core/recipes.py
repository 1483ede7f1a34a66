"""The table of sampling defaults, by name: a checkpoint's authors' schedule, guidance and negative texts.

Command line, nodes, demo, evaluation, benchmark and training's samples take their defaults from here and nowhere else
(docs/decisions/0014-sampling-defaults.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .types import AV

if TYPE_CHECKING:  # the command line prints its help, with these numbers in it, without torch
    from .config import HarmonyConfig


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a clip is sampled where the user says nothing else.

    Attributes:
        steps: sampling steps.
        shift: of the schedule towards noise.
        sampler: name of a sampler.
        comfyui_sampler: likewise in ComfyUI, whose uni_pc is another solver and takes a step more.
        sync: scales of SyncCFG; 1 is off.
        text: scales of the guidance by the text; 1 is off.
        skip_layers: left out of passes without text.
        negative: what guidance by the text goes away from; empty for nothing.
    """

    steps: int
    shift: float = 5.0
    sampler: str = "unipc"
    comfyui_sampler: str = "euler"
    sync: AV[float] = AV(1.0, 1.0)  # noqa: RUF009 - an immutable value
    text: AV[float] = AV(1.0, 1.0)  # noqa: RUF009
    skip_layers: tuple[int, ...] = ()
    negative: AV[str] = AV("", "")  # noqa: RUF009


RECIPES: dict[str, Recipe] = {
    "harmony": Recipe(steps=24, sync=AV(3.0, 2.0)),
    "ovi": Recipe(
        steps=50,
        comfyui_sampler="uni_pc",
        text=AV(4.0, 3.0),
        skip_layers=(11,),
        negative=AV("jitter, bad hands, blur, distortion", "robotic, muffled, echo, distorted"),
    ),
}
"""``harmony``: SyncCFG at the paper's scales. ``ovi``: what Ovi's own program has for its three models."""
HARMONY, OVI = RECIPES["harmony"], RECIPES["ovi"]


def recipe_for(config: HarmonyConfig) -> str:
    """The name of the recipe a checkpoint is sampled with by default."""
    return "ovi" if config.one_prompt else "harmony"

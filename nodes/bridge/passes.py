"""What a run cost: said in the log, and under the node that sampled."""

from __future__ import annotations

import logging

from comfy_execution.utils import get_executing_context  # type: ignore[import-not-found]

from ...harmony_core.types import Modality
from .run import Run

log = logging.getLogger(__name__)


def tell_passes(run: Run, steps: int) -> None:
    """Say how often the branches were run, whichever node sampled."""
    text = described(run, steps)
    log.info("Harmony: %s", text)
    executing = get_executing_context()
    if executing is not None:
        from server import PromptServer  # type: ignore[import-not-found]

        PromptServer.instance.send_progress_text(text, executing.node_id)


def described(run: Run, steps: int) -> str:
    """One sentence: passes of a step on average, and what running drivers once has saved of all passes."""
    picture, sound = (run.passes[m] / max(steps, 1) for m in Modality)
    text = f"{steps} steps of {picture:.3g} picture and {sound:.3g} sound passes"
    if run.saved:
        share = run.saved / (run.saved + sum(run.passes.values()))
        text += f"; {run.saved} driver passes saved ({share:.0%})"
    return text

"""How many pictures a second a run's clip has.

The latents do not say it. Whoever knows the clip's LATENT puts it into the MODEL's options; else the conditions may tell it, as
ComfyUI's own LTXVConditioning does; else it is the model's.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ...harmony_core.config import HarmonyConfig
from ...harmony_core.geometry import ClipSpec

FPS_OPTION = "harmony_fps"
FRAME_RATE = "frame_rate"
"""What ComfyUI's nodes call it in CONDITIONING."""


def with_rate(patcher: Any, fps: float | None) -> Any:
    """A MODEL that is run at a rate; one of its own where None."""
    patcher = patcher.clone()
    if fps is not None:
        patcher.model_options.setdefault("transformer_options", {})[FPS_OPTION] = fps
    return patcher


def rate_of_run(guider: Any) -> float | None:
    """The rate a run's MODEL or conditions tell; None where neither does."""
    known = guider.model_options.get("transformer_options", {}).get(FPS_OPTION)
    if known is not None:
        return float(known)
    told = (entry.get(FRAME_RATE) for entries in guider.conds.values() for entry in entries)
    return next((float(rate) for rate in told if rate is not None), None)


def clip_at(fps: float | None, config: HarmonyConfig, video: Tensor, audio: Tensor) -> ClipSpec:
    """The clip of a pair of latents.

    Args:
        fps: pictures per second; the model's where not known.
        config: of the model.
        video: (B, channels, F, H, W).
        audio: (B, channels, L).

    Raises:
        ValueError: they are none of this model's, or do not fit each other at this rate.
    """
    try:
        return ClipSpec.of_latents(video, audio, fps=fps or config.fps, grid=config.grid)
    except ValueError as error:
        hint = f"; if it is not of {config.fps:g} fps, connect it to Harmony SyncCFG, or LTXVConditioning before the sampler"
        raise ValueError(f"latent: {error}{'' if fps else hint}") from error

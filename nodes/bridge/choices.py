"""What widgets offer of ComfyUI's own; read when ComfyUI starts, so it imports nothing that is not there already."""

from __future__ import annotations

import comfy.samplers


def sampler_names() -> list[str]:
    """What ComfyUI can sample with."""
    return list(comfy.samplers.SAMPLER_NAMES)

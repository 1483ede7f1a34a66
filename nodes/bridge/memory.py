"""How much memory a step, and a codec, takes beside its weights: ComfyUI makes room for it before it starts.

The counts are the core's, which plans with them too; see :mod:`harmony_core.plan.memory`.
"""

from __future__ import annotations

from ...harmony_core.plan.memory import audio_codec_bytes, step_bytes, video_codec_bytes

__all__ = ["audio_codec_bytes", "step_bytes", "video_codec_bytes"]

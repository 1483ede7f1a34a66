"""What training takes on each GPU, before it is tried: cross-task synergy in bfloat16 with gradient checkpointing.

Weights are counted on the meta device; what a step keeps for its gradient is counted in widths of its tokens, as measured
(``tests/plan/test_training.py``).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from ..config import HarmonyConfig
from ..geometry import ClipSpec
from ..models.harmony import Harmony
from ..types import AV
from .memory import context_values
from .parts import META

PROCESSES = (1, 2, 4, 8)
GATHERED = (nn.Linear, nn.Conv1d)
"""Layers whose weights are gathered one by one, as ``training/distributed.py`` has it."""
KEPT_BYTES = 20
"""Of a parameter, each process of its part: weight, average, two moments and gradient, float32."""
WHOLE_BYTES = 8
"""Of a parameter in no such layer, whole for a step: weight and gradient."""
IN_FLIGHT_BYTES = 24
"""Of the largest such layer's parameters: in float32 the weights of the layer that computes and of the one gathered meanwhile,
its gradient, that of the one before on its way to the others, in parts and in copies; in half precision what is multiplied."""
PASSES = 3
"""Of synergy: joint, audio-driven, video-driven."""
BETWEEN_BYTES = 2
"""Of a token's width between two layers, for each pass: the residual, bfloat16."""
INSIDE_BYTES, HIDDEN_BYTES = 114, 4.25
"""Of a token's width, and of the feed-forward's, inside of the layer that is computed again, one pass."""
OUTSIDE_BYTES = 36
"""Of a token's width outside of the layers, all passes."""
CONTEXT_BYTES = 4
"""Of keys and values of the text."""


@dataclass(frozen=True, kw_only=True)
class TrainingMemory:
    """Bytes on each GPU.

    Attributes:
        parts: this GPU's part of weights, averages, moments and gradients.
        gathered: what is whole for a step, and layers while they compute.
        activations: what a step keeps for its gradient.
    """

    parts: int
    gathered: int
    activations: int

    @property
    def together(self) -> int:
        """All of it."""
        return self.parts + self.gathered + self.activations


def training_memory(config: HarmonyConfig, spec: ClipSpec, processes: int, *, prefix: int = 0) -> TrainingMemory:
    """Count.

    Args:
        config: of the model.
        spec: of its clips, one a GPU.
        processes: GPUs, ``run.sharding: fsdp``.
        prefix: reference tokens of the sound.
    """
    model = Harmony(config, META)
    linear = [sum(p.numel() for p in layer.parameters()) for layer in model.modules() if isinstance(layer, GATHERED)]
    values = sum(p.numel() for p in model.parameters())
    gathered = (values - sum(linear)) * WHOLE_BYTES + max(linear) * IN_FLIGHT_BYTES
    return TrainingMemory(
        parts=-(-values * KEPT_BYTES // processes),
        gathered=gathered if processes > 1 else 0,
        activations=_activations(config, AV(spec.video_tokens, spec.audio_latents + prefix)),
    )


def _activations(config: HarmonyConfig, tokens: AV[int]) -> int:
    branches = AV(config.video, config.audio)
    widths = sum(branches.map(lambda branch, count: branch.dim * count, tokens))
    hidden = sum(branches.map(lambda branch, count: branch.ffn * count, tokens))
    between = PASSES * config.video.layers * BETWEEN_BYTES * widths
    inside = INSIDE_BYTES * widths + HIDDEN_BYTES * hidden
    return int(between + inside + OUTSIDE_BYTES * widths + CONTEXT_BYTES * context_values(config))

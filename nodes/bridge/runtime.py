"""The layers and the attention a model is built with inside ComfyUI."""

from __future__ import annotations

from typing import Any

import torch
from comfy.ldm.modules.attention import attention_pytorch, attention_sub_quad, optimized_attention
from torch import Tensor

from ...harmony_core.runtime import Runtime


class HostAttention:
    """ComfyUI's attention, with the options of the step it is called in.

    Attributes:
        options: ``transformer_options`` of the running step; patches of the attention are in them.
    """

    def __init__(self) -> None:
        self.options: dict[str, Any] = {}

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attend; see :class:`harmony_core.runtime.Attention`."""
        # Boolean masks of windows are what torch's own attention takes; not every optimized one does. And no compiler sees
        # through the one for CPUs, which asks the system for free memory.
        opaque = torch.compiler.is_compiling() and optimized_attention is attention_sub_quad
        attend = optimized_attention if mask is None and not opaque else attention_pytorch
        shapes = {"heads": q.shape[1], "skip_reshape": True, "skip_output_reshape": True}
        return attend(q, k, v, mask=mask, transformer_options=self.options, **shapes)


def host_runtime(
    operations: Any, attention: HostAttention, *, device: torch.device | str | None, dtype: torch.dtype | None
) -> Runtime:
    """ComfyUI's layers: they cast, stay offloaded and take LoRAs by themselves."""
    return Runtime(layers=operations, attention=attention, device=device, dtype=dtype)

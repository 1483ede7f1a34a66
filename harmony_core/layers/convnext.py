"""ConvNeXt-V2 blocks over a sequence, as F5-TTS uses them to encode a transcript."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..runtime import Runtime

# B batch, L symbols, C width


class GlobalResponseNorm(nn.Module):
    """Scale every channel by its share of the sequence's energy (ConvNeXt-V2)."""

    def __init__(self, width: int, runtime: Runtime) -> None:
        super().__init__()
        self.gamma = runtime.empty(1, 1, width)
        self.beta = runtime.empty(1, 1, width)

    def forward(self, x_BLC: Tensor) -> Tensor:
        """(B, L, C) to the same."""
        energy = torch.linalg.vector_norm(x_BLC.float(), dim=1, keepdim=True)
        share = (energy / (energy.mean(dim=-1, keepdim=True) + 1e-6)).to(x_BLC.dtype)
        return self.gamma.to(x_BLC) * (x_BLC * share) + self.beta.to(x_BLC) + x_BLC


class ConvNeXtBlock(nn.Module):
    """Depthwise convolution, normalisation, gated-by-energy feed-forward, residual."""

    def __init__(self, width: int, runtime: Runtime, *, kernel: int, expansion: int) -> None:
        super().__init__()
        self.dwconv = runtime.layers.Conv1d(
            width, width, kernel_size=kernel, padding=kernel // 2, groups=width, **runtime.factory
        )
        self.norm = runtime.layer_norm(width, affine=True, eps=1e-6)
        self.pwconv1 = runtime.linear(width, expansion * width)
        self.act = nn.GELU()
        self.grn = GlobalResponseNorm(expansion * width, runtime)
        self.pwconv2 = runtime.linear(expansion * width, width)

    def forward(self, x_BLC: Tensor) -> Tensor:
        """(B, L, C) to the same."""
        h = self.dwconv(x_BLC.transpose(1, 2)).transpose(1, 2)
        return x_BLC + self.pwconv2(self.grn(self.act(self.pwconv1(self.norm(h)))))

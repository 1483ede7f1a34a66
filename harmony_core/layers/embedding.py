"""Latents to tokens: patch embeddings under the names of the published weights."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn

from ..runtime import Runtime

# B batch, C latent channels, D token width, F frames, H height, W width, L audio length


def patch_embedding(kind: str, channels: int, patch: tuple[int, ...], dim: int, runtime: Runtime) -> nn.Module:
    """Latents (B, C, *axes) to features (B, D, *token axes).

    Args:
        kind: ``conv`` is one convolution with the patch as kernel and stride, Wan's own; ``conv_mlp`` is the audio tower's
            of Ovi: a convolution over seven latents, SiLU, a gated convolutional feed-forward.
        channels: of the latent.
        patch: latents a token covers along each axis; one or three axes.
        dim: width of a token.
        runtime: layer factory.
    """
    if kind == "conv":
        conv = runtime.layers.Conv3d if len(patch) == 3 else runtime.layers.Conv1d
        return conv(channels, dim, kernel_size=patch, stride=patch, **runtime.factory)
    assert kind == "conv_mlp" and patch == (1,), (kind, patch)
    first = runtime.layers.Conv1d(channels, dim, kernel_size=7, padding=3, **runtime.factory)
    return nn.Sequential(first, nn.SiLU(), ConvMLP(dim, runtime))


class ConvMLP(nn.Module):
    """``w2(silu(w1 x) w3 x)`` with convolutions over seven latents, no biases."""

    MULTIPLE = 256

    def __init__(self, dim: int, runtime: Runtime) -> None:
        super().__init__()
        hidden = self.MULTIPLE * math.ceil(8 * dim // 3 / self.MULTIPLE)

        def conv(inputs: int, outputs: int) -> nn.Module:
            return runtime.layers.Conv1d(inputs, outputs, kernel_size=7, padding=3, bias=False, **runtime.factory)

        self.w1 = conv(dim, hidden)
        self.w2 = conv(hidden, dim)
        self.w3 = conv(dim, hidden)

    def forward(self, x_BDL: Tensor) -> Tensor:
        """(B, D, L) to the same shape."""
        return self.w2(F.silu(self.w1(x_BDL)) * self.w3(x_BDL))

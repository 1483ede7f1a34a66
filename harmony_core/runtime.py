"""What a model is built with: layer classes, an attention function, a device and a dtype.

Standalone these are ``torch.nn`` and torch's scaled dot-product attention. Inside ComfyUI they are ``comfy.ops`` and its
optimized attention, and casting, fp8 storage, offload and weight patches then work by themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Layers(Protocol):
    """The layer classes used here; ``torch.nn`` and ``comfy.ops`` namespaces both have them, with the same arguments."""

    Linear: Callable[..., Any]
    Conv1d: Callable[..., Any]
    Conv2d: Callable[..., Any]
    Conv3d: Callable[..., Any]
    ConvTranspose1d: Callable[..., Any]
    LayerNorm: Callable[..., Any]
    RMSNorm: Callable[..., Any]
    Embedding: Callable[..., Any]


class Attention(Protocol):
    """Scaled dot-product attention over heads."""

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attend.

        Args:
            q: (B, N, Lq, D) queries of N heads.
            k: (B, N, Lk, D) keys.
            v: (B, N, Lk, D) values.
            mask: boolean, broadcastable to (B, N, Lq, Lk), True where a query may see a key; None for everywhere.

        Returns:
            (B, N, Lq, D).
        """
        ...


def sdpa(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Torch's own attention; see :class:`Attention`."""
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def usable_device(name: str, where: str = "--device") -> torch.device:
    """The device of a name, seen to work.

    Args:
        name: as torch has it, such as cpu or cuda:0.
        where: what the user gave it as, for the message.

    Raises:
        ValueError: there is no such device, or torch cannot use it here.
    """
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts
        raise ValueError(f"{where} {name} cannot be used: {str(error).splitlines()[0]}") from error


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """Everything a module needs to build itself that is not its shape."""

    layers: Layers = nn  # type: ignore[assignment]
    attention: Attention = sdpa
    device: torch.device | str | None = None
    dtype: torch.dtype | None = None

    @property
    def factory(self) -> dict[str, Any]:
        """Keyword arguments every layer takes."""
        return {"device": self.device, "dtype": self.dtype}

    def linear(self, inputs: int, outputs: int, *, bias: bool = True) -> Any:
        """A fully connected layer."""
        return self.layers.Linear(inputs, outputs, bias=bias, **self.factory)

    def layer_norm(self, width: int, *, affine: bool, eps: float) -> Any:
        """Layer normalisation, with or without scale and shift."""
        return self.layers.LayerNorm(width, eps=eps, elementwise_affine=affine, **self.factory)

    def rms_norm(self, width: int, *, eps: float) -> Any:
        """Root-mean-square normalisation with a scale."""
        return self.layers.RMSNorm(width, eps=eps, **self.factory)

    def empty(self, *shape: int) -> nn.Parameter:
        """A bare parameter of zeros."""
        return nn.Parameter(torch.zeros(*shape, **self.factory))

"""How fast a device is: products, attention and copies, measured on pieces of the sizes that matter."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from ..runtime import sdpa
from ..timing import interleaved
from .operations import Operations

ROUNDS = 5
TERA = 1e12


@dataclass(frozen=True)
class Rate:
    """Of a device.

    Attributes:
        products: operations a second of matrix products.
        attention: of attention.
        copies: bytes a second from locked host memory; None where it was not measured.
        measured: whether these are the device's, or the user's.
    """

    products: float
    attention: float
    copies: float | None = None
    measured: bool = True

    @classmethod
    def given(cls, tflops: float, copies: float | None = None) -> Rate:
        """What the user says.

        Args:
            tflops: of products and attention, 10^12 operations a second.
            copies: bytes a second.

        Raises:
            ValueError: it is not positive.
        """
        if not 1e-6 <= tflops <= 1e6:
            raise ValueError(f"--tflops is a positive number from 1e-06 to 1e+06, got {tflops:g}")
        return cls(tflops * TERA, tflops * TERA, copies, measured=False)

    def seconds(self, work: Operations, moved: float = 0.0) -> float:
        """Time of some work, beside which so many bytes are copied to the device."""
        computing = work.products / self.products + work.attention / self.attention
        return computing if self.copies is None else max(computing, moved / self.copies)


def measure_rate(device: torch.device, dtype: torch.dtype) -> Rate:
    """Measure a device in a second or so.

    Args:
        device: to measure.
        dtype: to compute in.
    """
    large = device.type == "cuda"
    side, tokens, heads = (8192, 16384, 24) if large else (768, 1024, 4)
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    q = torch.randn(1, heads, tokens, 128, device=device, dtype=dtype)
    copies = None
    if large:
        host = torch.empty(1 << 28, dtype=torch.uint8).pin_memory()
        copies = host.numel() / _seconds(lambda: host.to(device, non_blocking=True), device)
    return Rate(
        products=2.0 * side**3 / _seconds(partial(torch.matmul, a, b), device),
        attention=4.0 * heads * tokens**2 * 128 / _seconds(partial(sdpa, q, q, q), device),
        copies=copies,
    )


@torch.no_grad()
def _seconds(work: Callable[[], object], device: torch.device) -> float:
    return interleaved({"work": work}, rounds=ROUNDS, device=device)["work"]

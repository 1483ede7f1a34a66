"""Equal but for rounding, different beyond it, and a machine that rounds otherwise.

What a sum comes to depends on the order it is added in: on the processor, the libraries, the threads, and on how the numbers
lie in memory. The same bit for bit are copies, masks, locked streams, files, random draws, and one program run again on one
machine; their tests are marked ``bitwise`` (docs/decisions/0011-what-the-same-means.md). All other results are compared by
:func:`away`.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

ROUNDING = 1.0
CHANGED = 4.0
LAST_BITS = {torch.float64: 256, torch.float32: 256, torch.float16: 8, torch.bfloat16: 8}
"""How many eps of its dtype rounding may make of a result, of its largest value: 3.1e-5 in float32, 6e-2 in bfloat16."""


def away(found, wanted) -> float:
    """How far results are from those wanted: the largest error by the largest value wanted, 1 being the most rounding may do.

    Args:
        found: a tensor, or several: a list, a dict, an AV.
        wanted: likewise.

    Returns:
        The worst of the pairs; 0 for the same bits; infinite for another number, shape or dtype, or a value that is no number.
    """
    if isinstance(found, Mapping):
        if found.keys() != wanted.keys():
            return float("inf")
        found, wanted = ([one[key] for key in found] for one in (found, wanted))
    if not isinstance(found, torch.Tensor):
        return max(away(a, b) for a, b in zip(found, wanted, strict=True))
    if found.shape != wanted.shape or found.dtype is not wanted.dtype or not (found.isfinite() & wanted.isfinite()).all():
        return float("inf")
    if found.dtype not in LAST_BITS:
        return 0.0 if torch.equal(found, wanted) else float("inf")
    found, wanted, dtype = found.detach().double(), wanted.detach().double(), found.dtype
    error, size = (found - wanted).abs().max(), wanted.abs().max()
    return float(error / size) / (LAST_BITS[dtype] * torch.finfo(dtype).eps) if error else 0.0


class OtherRounding(TorchDispatchMode):
    """Every result of arithmetic in float32 and float64 is off by a last bit or two, each time otherwise.

    What adds nothing up is left alone (copies, masks, products of two numbers, comparisons), and so is every zero. It is more
    than a machine does, which rounds the same numbers in the same place alike: what fails under it is to be looked at.

    Attributes:
        changed: how many results were.
    """

    KERNELS = frozenset({
        "mm", "addmm", "bmm", "baddbmm", "mv", "addmv", "dot", "linear", "convolution", "convolution_backward",
        "_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_fused_attention_overrideable",
        "sum", "mean", "var", "std", "norm", "linalg_vector_norm", "cumsum", "logsumexp", "mse_loss",
        "_softmax", "_log_softmax", "native_layer_norm", "native_group_norm", "native_layer_norm_backward", "_fused_rms_norm",
        "_fft_r2c", "_fft_c2r", "_fft_c2c", "avg_pool1d", "avg_pool2d", "avg_pool3d", "upsample_linear1d",
        "upsample_bilinear2d",
        "exp", "expm1", "log10", "sin", "cos", "atan2", "tanh", "sigmoid", "gelu", "silu", "softplus",
        "erf", "rsqrt", "pow",
    })  # fmt: skip

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.source = torch.Generator().manual_seed(seed)
        self.changed = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name in self.KERNELS:
            return tree_map(self._off, out)
        if name.removesuffix("_") in self.KERNELS:  # in place
            out.copy_(self._off(out))
        return out

    def _off(self, x):
        if not isinstance(x, torch.Tensor) or x.dtype not in {torch.float32, torch.float64, torch.complex64, torch.complex128}:
            return x
        self.changed += 1
        real = torch.view_as_real(x) if x.is_complex() else x
        by = torch.randn(real.shape, generator=self.source, dtype=torch.float64).to(real.device)
        off = (real.double() * (1 + torch.finfo(real.dtype).eps * by)).to(real.dtype)
        return torch.view_as_complex(off) if x.is_complex() else off

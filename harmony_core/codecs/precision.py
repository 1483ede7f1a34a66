"""Half precision that cannot spoil a result: what overflows in float16 is computed again in float32, and said once."""

from __future__ import annotations

import logging
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

logger = logging.getLogger(__name__)


def half_safe(module: nn.Module, x: Tensor, *, what: str) -> Tensor:
    """Run a module; where float16 overflowed, run it again in float32.

    bfloat16 and float32 have the same range and need no second look. An infinity anywhere inside shows in the output: the
    next convolution, norm or filter makes it a NaN, and a NaN stays one.

    Args:
        module: takes one tensor and gives one.
        x: finite input.
        what: name of the module in the warning.

    Returns:
        The output, finite; float32 where float16 was not enough.
    """
    y: Any = module(x)
    if x.dtype != torch.float16 or bool(torch.isfinite(y).all()):
        return y
    _warn(what)
    single = {name: value.float() for name, value in module.state_dict(keep_vars=True).items()}
    return functional_call(module, single, (x.float(),))


@cache
def _warn(what: str) -> None:
    logger.warning("float16 overflows in the %s; such pieces are computed again in float32 (bfloat16 avoids this)", what)

"""The dtypes of tensors in files, and how long an axis of one may be."""

from __future__ import annotations

import torch

CODES: dict[str, torch.dtype] = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8,
    "U64": torch.uint64, "U32": torch.uint32, "U16": torch.uint16, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
"""Those that are read, by the names safetensors gives them."""
READ = frozenset(CODES.values())
LONGEST_AXIS = 1 << 40
"""Only a tensor without values could have a longer one, and nobody could walk along it."""

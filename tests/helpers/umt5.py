"""The text encoder umT5 in the layout of its published file in scaled eight bits, with random weights.

Needs only what ComfyUI's own interpreter has: it is run there, because the tokenizer is trained there.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

SENTENCES = (
    "a red ball falls on a wooden floor",
    "a woman speaks to the camera in a quiet room",
    "knocks on wood, then birds far away",
    "the sea at night, waves and wind",
    "blurred, silent, still pictures",
)
"""What the tokenizer is trained on."""
PAD, END, START, UNKNOWN = range(4)
_POOL = 1 << 24
_CHUNK = 1 << 22


@dataclass(frozen=True)
class Sizes:
    """Those of the published encoder, unless said otherwise."""

    width: int = 4096
    heads: int = 64
    hidden: int = 10_240
    layers: int = 24
    words: int = 256_384

    def options(self) -> dict[str, int]:
        """As ComfyUI's config of a text model names them."""
        return {
            "d_model": self.width,
            "num_heads": self.heads,
            "d_ff": self.hidden,
            "num_layers": self.layers,
            "vocab_size": self.words,
        }


SMALL = Sizes(heads=2, hidden=64, layers=2, words=512)
"""As wide as the published one, and else next to nothing."""


def tokenizer() -> bytes:
    """A sentencepiece model with umT5's special pieces."""
    import sentencepiece  # noqa: PLC0415 - ComfyUI has it, this project does not

    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES * 4),
        model_writer=written,
        vocab_size=80,
        hard_vocab_limit=False,
        pad_id=PAD,
        eos_id=END,
        bos_id=START,
        unk_id=UNKNOWN,
        minloglevel=2,
    )
    return written.getvalue()


def write_umt5(path: Path, sizes: Sizes) -> None:
    """Write the file, never more than a tensor's part in memory."""
    pool = torch.randn(_POOL, generator=torch.Generator().manual_seed(0))
    pools = {torch.float8_e4m3fn: pool.to(torch.float8_e4m3fn), torch.float16: pool.half()}
    header, at = {}, 0
    names = {torch.float8_e4m3fn: "F8_E4M3", torch.float16: "F16", torch.float32: "F32", torch.uint8: "U8"}
    tensors = list(_tensors(sizes))
    for key, shape, dtype, _ in tensors:
        size = math.prod(shape) * dtype.itemsize
        header[key] = {"dtype": names[dtype], "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    said = json.dumps(header).encode()
    said += b" " * (-len(said) % 8)
    with path.open("wb") as file:
        file.write(len(said).to_bytes(8, "little") + said)
        for number, (_, shape, dtype, value) in enumerate(tensors):
            if value is not None:
                file.write(_raw(value))
                continue
            # Every tensor is another part of the pool.
            left, start = math.prod(shape), 7919 * number % (_POOL - _CHUNK)
            while left:
                count = min(left, _CHUNK)
                file.write(_raw(pools[dtype][start : start + count]))
                left, start = left - count, (start + _CHUNK + 101) % (_POOL - _CHUNK)


def _raw(value: Tensor) -> bytes:
    return value.contiguous().view(torch.uint8).numpy().tobytes()


def _tensors(sizes: Sizes) -> Iterator[tuple[str, tuple[int, ...], torch.dtype, Tensor | None]]:
    """Key, shape, dtype and value; None for noise."""
    width, inner = sizes.width, 64 * sizes.heads

    def scale(value: float, count: int) -> Tensor:
        return torch.full((count,), value, dtype=torch.float16)

    def layer(key: str, outputs: int, inputs: int) -> Iterator[tuple[str, tuple[int, ...], torch.dtype, Tensor | None]]:
        yield f"{key}.weight", (outputs, inputs), torch.float8_e4m3fn, None
        yield f"{key}.scale_weight", (), torch.float32, torch.tensor([inputs**-0.5])

    yield "scaled_fp8", (2,), torch.float8_e4m3fn, torch.zeros(2).to(torch.float8_e4m3fn)
    yield "shared.weight", (sizes.words, width), torch.float16, None
    for index in range(sizes.layers):
        attention, feed = f"encoder.block.{index}.layer.0", f"encoder.block.{index}.layer.1"
        for name in "qkv":
            yield from layer(f"{attention}.SelfAttention.{name}", inner, width)
        yield from layer(f"{attention}.SelfAttention.o", width, inner)
        yield f"{attention}.SelfAttention.relative_attention_bias.weight", (32, sizes.heads), torch.float16, None
        yield f"{attention}.layer_norm.weight", (width,), torch.float16, scale(1.0, width)
        for name in ("wi_0", "wi_1"):
            yield from layer(f"{feed}.DenseReluDense.{name}", sizes.hidden, width)
        yield from layer(f"{feed}.DenseReluDense.wo", width, sizes.hidden)
        yield f"{feed}.layer_norm.weight", (width,), torch.float16, scale(1.0, width)
    yield "encoder.final_layer_norm.weight", (width,), torch.float16, scale(1.0, width)
    if sizes.layers < Sizes.layers:
        # By the size of this one ComfyUI tells which T5 it is.
        last = f"encoder.block.{Sizes.layers - 1}.layer.1.DenseReluDense.wi_1.weight"
        yield last, (Sizes.hidden, 1), torch.float16, scale(0.0, Sizes.hidden)
    model = torch.frombuffer(bytearray(tokenizer()), dtype=torch.uint8)
    yield "spiece_model", (len(model),), torch.uint8, model

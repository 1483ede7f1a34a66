"""Text to symbol numbers and symbol numbers to tokens: the transcript encoder, and the small models' caption encoder.

After F5-TTS: an embedding of each symbol, sinusoidal positions, ConvNeXt-V2 blocks, a projection. A sequence has a fixed
length; what is left of it is filler, symbol number 0, which is learned like any other. A sequence of filler alone is
therefore the learned "nothing", and no mask is needed anywhere: a batch of texts of any lengths is one tensor.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..config import SymbolEncoderConfig
from ..layers.convnext import ConvNeXtBlock
from ..layers.modulation import sinusoidal
from ..records import is_text
from ..runtime import Runtime
from ..shown import shown

FILLER = 0
_SHOWN = 3


def to_symbols(texts: Sequence[str], config: SymbolEncoderConfig) -> Tensor:
    """Number the symbols of texts.

    Args:
        texts: one a clip; an empty one is all filler, "nothing".
        config: of the encoder that will read them.

    Returns:
        (B, length) int64.

    Raises:
        ValueError: a text is too long, or has a symbol the encoder does not know; the message names it.
    """
    return torch.tensor([_number(text, config) for text in texts], dtype=torch.long)


def _number(text: str, config: SymbolEncoderConfig) -> list[int]:
    if not is_text(text):
        raise ValueError(f"a character is no text, but half of one: '{shown(text, 60)}'")
    if config.symbols:
        numbers = _look_up(" ".join(text.lower().split()), config)
    else:
        numbers = [1 + byte for byte in text.encode()]
    if len(numbers) > config.length:
        raise ValueError(f"the text has {len(numbers)} symbols, at most {config.length} fit: '{shown(text, 60)}'")
    return numbers + [FILLER] * (config.length - len(numbers))


def _look_up(text: str, config: SymbolEncoderConfig) -> list[int]:
    table = {symbol: number for number, symbol in enumerate(config.symbols, start=1)}
    unknown = sorted({symbol for symbol in text if symbol not in table})
    if unknown:
        names = ", ".join(f"{shown(repr(symbol))} ({unicodedata.name(symbol, 'unnamed')})" for symbol in unknown[:_SHOWN])
        names += f" and {len(unknown) - _SHOWN} more" if len(unknown) > _SHOWN else ""
        raise ValueError(f"the transcript encoder knows no {names}; it knows '{shown(config.symbols, 150)}'")
    return [table[symbol] for symbol in text]


class SymbolEncoder(nn.Module):
    """Symbol numbers to tokens."""

    def __init__(self, config: SymbolEncoderConfig, output_dim: int, runtime: Runtime) -> None:
        super().__init__()
        self.config = config
        self.embedding = runtime.layers.Embedding(config.vocabulary, config.dim, **runtime.factory)
        self.blocks = nn.ModuleList(
            ConvNeXtBlock(config.dim, runtime, kernel=config.kernel, expansion=config.expansion) for _ in range(config.blocks)
        )
        self.projection = runtime.linear(config.dim, output_dim)

    def forward(self, symbols: Tensor, dtype: torch.dtype) -> Tensor:
        """Encode.

        Args:
            symbols: (B, length) int64, from :func:`to_symbols`.
            dtype: to compute in; weights may be stored in another.

        Returns:
            (B, length, output_dim).

        Raises:
            ValueError: another length, or, in host memory, numbers outside the vocabulary. Those of a GPU would have to be
                waited for; the embedding refuses them there.
        """
        if symbols.dtype != torch.long or symbols.ndim != 2 or symbols.shape[1] != self.config.length:
            shape = tuple(symbols.shape)
            raise ValueError(f"symbols are (batch, {self.config.length}) int64, got {shape} {symbols.dtype}")
        if symbols.device.type == "cpu" and (symbols.min() < 0 or symbols.max() >= self.config.vocabulary):
            raise ValueError(f"symbol numbers are 0 to {self.config.vocabulary - 1}, got {symbols.min()} to {symbols.max()}")
        x = self.embedding(symbols).to(dtype)
        x = x + sinusoidal(torch.arange(symbols.shape[1], device=x.device), self.config.dim).to(dtype)
        for block in self.blocks:
            x = block(x)
        return self.projection(x)

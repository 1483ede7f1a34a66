"""Captions to tokens by umT5, outside of ComfyUI: the encoder of ``transformers``, held together with its tokenizer.

Nothing of it is written here again, and ``transformers`` is imported when an encoder is asked for. Texts are encoded one by
one: umT5's positions are relative, so that a text alone equals the same one padded and masked.
"""

from __future__ import annotations

import html
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

LONGEST = 512
"""Tokens of a text, its end among them; longer ones are cut, as Wan and Ovi do."""
INSTALL = (
    "captions for this checkpoint are encoded by umT5, which needs the packages of the extra: pip install 'harmony-av[text]'"
)

Tokenize = Callable[[str], list[int]]
"""A text to token numbers, the end among them."""

_QUOTES = str.maketrans({"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"'})


def clean(text: str) -> str:
    """A text as Wan's tokenizer is given it: composed letters, plain quotes, no HTML entities, single spaces."""
    text = unicodedata.normalize("NFC", text).translate(_QUOTES)
    return " ".join(html.unescape(html.unescape(text)).split())


@dataclass(frozen=True, kw_only=True)
class TextEncoder:
    """umT5 with its tokenizer.

    Attributes:
        model: ``transformers``' UMT5EncoderModel.
        tokenize: its tokenizer.
    """

    model: Any
    tokenize: Tokenize

    @property
    def width(self) -> int:
        """Of a token."""
        return int(self.model.config.d_model)

    @torch.no_grad()
    def __call__(self, text: str) -> Tensor:
        """Encode.

        Args:
            text: any; an empty one is its end alone.

        Returns:
            (1, n, width) float32 on the CPU, n at most 512: not padded.
        """
        numbers = self.tokenize(clean(text))
        numbers = numbers if len(numbers) <= LONGEST else [*numbers[: LONGEST - 1], numbers[-1]]
        ids = torch.tensor([numbers], dtype=torch.long, device=self.model.device)
        return self.model(input_ids=ids).last_hidden_state.float().cpu()

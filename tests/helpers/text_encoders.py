"""Small random umT5 encoders with a tokenizer, as transformers writes them and in other published forms."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
from torch import Tensor
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel
from transformers.utils import logging

PAD, END, UNKNOWN = 0, 1, 2


def encoder(width: int = 16, *, seed: int = 0) -> Any:
    """One with random weights."""
    logging.disable_progress_bar()
    config = UMT5Config(
        vocab_size=260,
        d_model=width,
        d_kv=8,
        d_ff=24,
        num_layers=2,
        num_heads=2,
        feed_forward_proj="gated-gelu",
        dropout_rate=0.0,
    )
    torch.manual_seed(seed)
    return UMT5EncoderModel(config).eval().requires_grad_(False)


def save_tokenizer(folder: Path) -> Path:
    """A tokenizer of single letters that ends a text as umT5's does."""
    names = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    special = dict(zip(names.values(), (PAD, END, UNKNOWN), strict=True))
    letters = {chr(code): 3 + place for place, code in enumerate(range(32, 127))}
    tokenizer = Tokenizer(models.WordLevel({**special, **letters}, unk_token=names["unk_token"]))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", END)])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)
    fast.save_pretrained(str(folder))
    return folder


def save_folder(folder: Path, width: int = 16, *, seed: int = 0) -> Path:
    """A folder as transformers writes it."""
    encoder(width, seed=seed).save_pretrained(str(folder))
    return save_tokenizer(folder)


def wan_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same weights under Wan's own names, written out here once more."""
    table = {
        r"shared\.(.*)": r"token_embedding.\1",
        r"encoder\.final_layer_norm\.(.*)": r"norm.\1",
        r"encoder\.block\.(\d+)\.layer\.0\.layer_norm\.(.*)": r"blocks.\1.norm1.\2",
        r"encoder\.block\.(\d+)\.layer\.1\.layer_norm\.(.*)": r"blocks.\1.norm2.\2",
        r"encoder\.block\.(\d+)\.layer\.0\.SelfAttention\.([qkvo])\.(.*)": r"blocks.\1.attn.\2.\3",
        r"encoder\.block\.(\d+)\.layer\.0\.SelfAttention\.relative_attention_bias\.(.*)": (
            r"blocks.\1.pos_embedding.embedding.\2"
        ),
        r"encoder\.block\.(\d+)\.layer\.1\.DenseReluDense\.wi_0\.(.*)": r"blocks.\1.ffn.gate.0.\2",
        r"encoder\.block\.(\d+)\.layer\.1\.DenseReluDense\.wi_1\.(.*)": r"blocks.\1.ffn.fc1.\2",
        r"encoder\.block\.(\d+)\.layer\.1\.DenseReluDense\.wo\.(.*)": r"blocks.\1.ffn.fc2.\2",
    }
    renamed = {}
    for key, value in state.items():
        for pattern, name in table.items():
            if re.fullmatch(pattern, key):
                renamed[re.sub(pattern, name, key)] = value
    return renamed

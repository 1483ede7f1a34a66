"""umT5 from files the user has: a folder of ``transformers`` or ``diffusers``, ComfyUI's single file, or Wan's own.

=============================  ==========================================  =============================================
form                           keys                                        tokenizer
=============================  ==========================================  =============================================
folder of transformers         read by transformers                        in it
folder of diffusers            the same, in ``text_encoder``               in its folder ``tokenizer``
ComfyUI's single file          ``shared``, ``encoder.block.N.layer.*``     in it, as the tensor ``spiece_model``
Wan's ``models_t5_umt5-*``     ``token_embedding``, ``blocks.N.attn.*``    beside it, in ``google/umt5-xxl`` or loose
=============================  ==========================================  =============================================

Nothing is downloaded. The sizes are those of the file's tensors, so that any umT5 is read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..encoders.umt5 import INSTALL, TextEncoder, Tokenize
from ..inputs import exists, is_dir, is_file, named
from .quantise import Stored, find_weights, plain_pieces
from .stream import TensorSource, open_tensors

_SPIECE = "spiece_model"
_TOKENIZER_FILES = ("tokenizer.json", "spiece.model", "tokenizer.model")
_BESIDE = (".", "google/umt5-xxl", "tokenizer", "umt5-xxl")
# Wan's names to transformers'.
_WAN = tuple(
    (re.compile(pattern), name)
    for pattern, name in (
        (r"^token_embedding\.", "shared."),
        (r"^norm\.", "encoder.final_layer_norm."),
        (r"^blocks\.(\d+)\.norm1\.", r"encoder.block.\1.layer.0.layer_norm."),
        (r"^blocks\.(\d+)\.norm2\.", r"encoder.block.\1.layer.1.layer_norm."),
        (r"^blocks\.(\d+)\.attn\.", r"encoder.block.\1.layer.0.SelfAttention."),
        (
            r"^blocks\.(\d+)\.pos_embedding\.embedding\.",
            r"encoder.block.\1.layer.0.SelfAttention.relative_attention_bias.",
        ),
        (r"^blocks\.(\d+)\.ffn\.gate\.0\.", r"encoder.block.\1.layer.1.DenseReluDense.wi_0."),
        (r"^blocks\.(\d+)\.ffn\.fc1\.", r"encoder.block.\1.layer.1.DenseReluDense.wi_1."),
        (r"^blocks\.(\d+)\.ffn\.fc2\.", r"encoder.block.\1.layer.1.DenseReluDense.wo."),
    )
)


def load_text_encoder(
    path: str | Path, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.bfloat16
) -> TextEncoder:
    """Load umT5 with its tokenizer.

    Args:
        path: a folder or a file, in one of the forms above.
        device: to compute on.
        dtype: to compute in.

    Raises:
        ValueError: there is nothing at that path, it is no umT5, its tokenizer is missing, or ``transformers`` is.
    """
    path = Path(path)
    if not exists(path):
        raise ValueError(f"there is no text encoder at {named(path)}")
    if is_dir(path):
        return _from_folder(path, device, dtype)
    source = open_tensors(path)
    weights = {_transformers_name(key): value for key, value in _weights_of(source, path).items()}
    # First what fails at once.
    tokenize = _piece_tokenizer(source.read(_SPIECE)) if _SPIECE in source.entries else _tokenizer_beside(path)
    return TextEncoder(model=_model(source, weights, path, device, dtype), tokenize=tokenize)


def encode_texts(
    path: str | Path, texts: Iterable[str], *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.bfloat16
) -> dict[str, Tensor]:
    """Encode texts and let go of the encoder, which is as large as a model.

    Args:
        path: of the encoder; see :func:`load_text_encoder`.
        texts: any.
        device: to compute on.
        dtype: to compute in.

    Returns:
        (1, n, width) float32 on the CPU by text.
    """
    encoder = load_text_encoder(path, device=device, dtype=dtype)
    return {text: encoder(text) for text in sorted(set(texts))}


def _transformers() -> Any:
    try:
        import transformers  # noqa: PLC0415 - an extra, and slow to import
    except ImportError as error:
        raise ValueError(INSTALL) from error
    return transformers


def _from_folder(path: Path, device: torch.device | str, dtype: torch.dtype) -> TextEncoder:
    transformers = _transformers()
    inner = path / "text_encoder" if is_dir(path / "text_encoder") else path
    if not is_file(inner / "config.json"):
        raise ValueError(f"{named(path)} is no folder of a text encoder: it has no config.json; give such a folder, or a file")
    tokenizer = next((p for p in (path / "tokenizer", inner, path) if _has_tokenizer(p)), None)
    if tokenizer is None:
        raise ValueError(f"{named(path)} has no tokenizer in it: one of {', '.join(_TOKENIZER_FILES)}")
    tokenize = _folder_tokenizer(tokenizer)
    try:
        config = transformers.AutoConfig.from_pretrained(str(inner), local_files_only=True)
        if config.model_type != "umt5":
            raise ValueError(f"{named(path)} holds a text encoder of the kind {config.model_type!r}; wanted is umt5")
        model = transformers.UMT5EncoderModel.from_pretrained(str(inner), local_files_only=True, torch_dtype=dtype)
    except OSError as error:
        raise ValueError(f"{named(path)} cannot be read as a text encoder: {str(error).splitlines()[0]}") from error
    return TextEncoder(model=model.to(device).requires_grad_(False).eval(), tokenize=tokenize)


# ---- tokenizers


def _has_tokenizer(folder: Path) -> bool:
    return any(is_file(folder / name) for name in _TOKENIZER_FILES)


def _tokenizer_beside(path: Path) -> Tokenize:
    folders = [path.parent / name for name in _BESIDE]
    found = next((folder for folder in folders if _has_tokenizer(folder)), None)
    if found is None:
        raise ValueError(
            f"{named(path)} holds no tokenizer, and none is beside it: put the folder google/umt5-xxl, "
            "which is published with Wan's weights, into the same folder"
        )
    return _folder_tokenizer(found)


def _folder_tokenizer(folder: Path) -> Tokenize:
    transformers = _transformers()
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError, ImportError) as error:
        raise ValueError(f"the tokenizer in {folder} cannot be read: {str(error).splitlines()[0]}") from error
    return lambda text: list(tokenizer(text, add_special_tokens=True)["input_ids"])


def _piece_tokenizer(pieces: Tensor) -> Tokenize:
    try:
        import sentencepiece  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise ValueError(INSTALL) from error
    try:
        processor = sentencepiece.SentencePieceProcessor(model_proto=pieces.numpy().tobytes())
    except RuntimeError as error:
        raise ValueError(f"the tokenizer in the text encoder's file cannot be read: {error}") from error
    return lambda text: [*processor.encode(text), processor.eos_id()]


# ---- weights


def _weights_of(source: TensorSource, path: Path) -> dict[str, Stored]:
    found = find_weights(source.entries, source.metadata, source.read, str(path))
    return {key: stored for key, stored in found.items() if key != _SPIECE}


def _transformers_name(key: str) -> str:
    for pattern, name in _WAN:
        renamed, changes = pattern.subn(name, key)
        if changes:
            return renamed
    return key


def _model(
    source: TensorSource, weights: Mapping[str, Stored], path: Path, device: torch.device | str, dtype: torch.dtype
) -> Any:
    transformers = _transformers()
    config = _config(transformers, {key: stored.entry.shape for key, stored in weights.items()}, path)
    with torch.device("meta"):
        model = transformers.UMT5EncoderModel(config)
    wanted = {key: tuple(value.shape) for key, value in model.state_dict().items() if key != "encoder.embed_tokens.weight"}
    wrong = sorted(key for key, shape in wanted.items() if key not in weights or weights[key].entry.shape != shape)
    if wrong:
        raise ValueError(
            f"{named(path)} is no whole umT5: {len(wrong)} tensors are missing or of another shape, such as {wrong[0]}"
        )
    state = {key: _read(source, weights[key]).to(device, dtype) for key in wanted}
    state["encoder.embed_tokens.weight"] = state["shared.weight"]
    model.load_state_dict(state, strict=True, assign=True)
    return model.requires_grad_(False).eval()


def _config(transformers: Any, shapes: Mapping[str, tuple[int, ...]], path: Path) -> Any:
    first = "encoder.block.0.layer."
    try:
        words, width = shapes["shared.weight"]
        buckets, heads = shapes[f"{first}0.SelfAttention.relative_attention_bias.weight"]
        inner, hidden = shapes[f"{first}0.SelfAttention.q.weight"][0], shapes[f"{first}1.DenseReluDense.wi_0.weight"][0]
    except (KeyError, ValueError) as error:
        raise ValueError(f"{named(path)} is no umT5: it lacks {error}") from error
    layers = 1 + max(int(n[1]) for key in shapes if (n := re.match(r"encoder\.block\.(\d+)\.layer\.0\.", key)))
    return transformers.UMT5Config(
        vocab_size=words,
        d_model=width,
        d_kv=inner // heads,
        d_ff=hidden,
        num_layers=layers,
        num_heads=heads,
        relative_attention_num_buckets=buckets,
        feed_forward_proj="gated-gelu",
        dropout_rate=0.0,
    )


def _read(source: TensorSource, stored: Stored) -> Tensor:
    scale = None if stored.scale is None else source.read(stored.scale)
    pieces = [piece.clone() for piece in plain_pieces(source.pieces(stored.key), scale)]
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces)

"""Captions as tokens of umT5, for models without a caption encoder of their own.

They are encoded once, when the latents are made, and kept beside them, not padded: umT5 is as large as a model, and is gone
before one is made. Padded they are where they always are, by :meth:`..models.branch.Branch.embed_text`.

An empty caption has no tokens; the model's own "nothing" stands for it, as in sampling. A model of one prompt has no such
token: for it the prompt of every clip is kept, and once the encoding of an empty one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ..config import HarmonyConfig
from ..encoders.prompts import prompts_of
from ..inputs import is_dir, is_file, named
from ..models.harmony import Harmony
from ..types import AV, Modality
from ..weights.files import shard_names
from ..weights.umt5 import load_text_encoder
from .cache import LatentCache
from .store import Captions, Entry, UnusableText

STORED = torch.bfloat16  # umT5 is computed in it
_PROMPT, _EMPTY_PROMPT = "prompt", "empty_prompt"
_FIRST = 0
"""The clip that the empty prompt is stored with."""
_INDEX = ".index.json"
_SUFFIXES = {".safetensors", ".bin", ".json", ".model"}
_SAMPLES, _SAMPLE_BYTES = 64, 64 << 10
_REMEMBERED = 64
"""Texts; clips in a row often have the same."""


@dataclass(frozen=True, kw_only=True)
class CaptionEncoder:
    """Gives the tokens that are kept beside a clip's latents.

    Attributes:
        encode: umT5: a text to (1, n, text_dim).
        config: of the model that is told.
        made: see :class:`.store.Captions`.
    """

    encode: Callable[[str], Tensor]
    config: HarmonyConfig
    made: Captions

    def check(self, entries: Sequence[Entry]) -> None:
        """Refuse texts that make no prompt, before anything is encoded.

        Raises:
            UnusableText: the message names the clip.
        """
        for entry in entries:
            try:
                prompts_of(entry, self.config)
            except ValueError as error:  # noqa: PERF203 - once a data set
                raise UnusableText(f"clip {entry.file}: {error}") from error

    def tokens(self, entry: Entry, *, first: bool) -> dict[str, Tensor]:
        """What is stored with a clip, (n, text_dim) each.

        Args:
            entry: what is said about the clip.
            first: whether it is the first of its store.

        Raises:
            UnusableText: a text is longer than the model reads; the message names the clip.
            ValueError: the encoder's values are not finite.
        """
        prompts = prompts_of(entry, self.config)
        if self.config.one_prompt:
            texts = {_PROMPT: prompts.video} | ({_EMPTY_PROMPT: ""} if first else {})
        else:
            texts = {_name(m): prompts[m] for m in Modality if prompts[m].strip()}
        found = {name: self.encode(text)[0].to("cpu", STORED) for name, text in texts.items()}
        longest = min(self.config.video.text_len, self.config.audio.text_len)
        for name, value in found.items():
            if len(value) > longest:
                what = name.replace("_", " ")
                raise UnusableText(f"clip {entry.file}: its {what} has {len(value)} tokens, the model reads {longest}")
            if not value.isfinite().all():
                raise ValueError(f"clip {entry.file}: the text encoder gives values that are not finite; look at its file")
        return found


def load_caption_encoder(path: str | Path, config: HarmonyConfig, device: torch.device | str = "cpu") -> CaptionEncoder:
    """Read umT5 for a model.

    Args:
        path: a file or a folder; see :mod:`..weights.umt5`.
        config: of the model.
        device: to compute on.

    Raises:
        ValueError: it cannot be read, or its tokens are not as wide as the model's.
    """
    made = Captions(encoder=encoder_fingerprint(path), prompt=config.prompt)
    encoder = load_text_encoder(path, device=device, dtype=STORED)
    for branch in (config.video, config.audio):
        if encoder.width != branch.text_dim:
            raise ValueError(
                f"the text encoder {named(path)} gives tokens {encoder.width} wide, the model reads {branch.text_dim}"
            )
    return CaptionEncoder(encode=lru_cache(_REMEMBERED)(encoder), config=config, made=made)


def encoder_fingerprint(path: str | Path) -> str:
    """A short name for the exact text encoder in a file or a folder.

    Of its files it takes names, sizes and, since they are large, 64 pieces of each, evenly from beginning to end.

    Raises:
        ValueError: there is nothing at that path, or it cannot be read.
    """
    path, digest = Path(path), hashlib.sha256()
    try:
        for file in _files(path):
            size = file.stat().st_size
            digest.update(f"{file.name}\n{size}\n".encode())
            with file.open("rb") as opened:
                for n in range(_SAMPLES):
                    opened.seek(n * max(0, size - _SAMPLE_BYTES) // (_SAMPLES - 1))
                    digest.update(opened.read(_SAMPLE_BYTES))
    except OSError as error:
        raise ValueError(f"cannot read the text encoder {named(path)}: {error.strerror}") from error
    return digest.hexdigest()[:16]


def check_captions(cache: LatentCache, config: HarmonyConfig, encoder: str | Path | None = None) -> None:
    """Refuse latents whose captions are not those a model is to be told.

    Args:
        cache: of the data set.
        config: of the model; one with a caption encoder of its own takes any cache.
        encoder: file or folder of the text encoder they were to be made with; None for any.

    Raises:
        ValueError: there are no captions, or they were encoded by another encoder or for another format of prompt.
    """
    if config.caption is not None:
        return
    again = "remove the folder to make them again"
    if cache.captions is None:
        raise ValueError(f"the latents in {cache.folder} were made without the captions this model is told; {again}")
    if cache.captions.prompt != config.prompt:
        form = f"{cache.captions.prompt}, this model's is {config.prompt}"
        raise ValueError(f"the captions in {cache.folder} were encoded for another format of prompt, {form}; {again}")
    if encoder is not None and cache.captions.encoder != encoder_fingerprint(encoder):
        raise ValueError(f"the captions in {cache.folder} were encoded by another text encoder than {encoder}; {again}")


def read_captions(
    cache: LatentCache, config: HarmonyConfig, clips: Sequence[int], left_out: AV[Sequence[bool]]
) -> tuple[AV[Tensor], AV[Tensor | None]]:
    """The captions of some clips.

    Args:
        cache: made with captions.
        config: of the model.
        clips: which.
        left_out: of each clip, whether the model is told nothing in place of this caption.

    Returns:
        Tokens (B, n, text_dim) of each branch, zeros at their ends where they are shorter than others; and which clips have
        none, (B,) bool, for which the model's "nothing" is to be put in; None for a model of one prompt.
    """

    def tokens(clip: int, m: Modality, out: bool) -> Tensor:
        if config.one_prompt:
            found = cache.loose(_FIRST, _EMPTY_PROMPT) if out else cache.loose(clip, _PROMPT)
            assert found is not None
            return found
        found = None if out else cache.loose(clip, _name(m))
        width = AV(config.video, config.audio)[m].text_dim
        return torch.zeros(0, width, dtype=STORED) if found is None else found

    rows = AV.of(lambda m: [tokens(clip, m, out) for clip, out in zip(clips, left_out[m], strict=True)])
    padded = rows.map(lambda some: pad_sequence(some, batch_first=True))
    return padded, rows.map(lambda some: None if config.one_prompt else torch.tensor([len(row) == 0 for row in some]))


def with_nothing(model: Harmony, modality: Modality, tokens: Tensor, without: Tensor | None) -> Tensor:
    """Tokens with the model's "nothing" for clips that have none; it is trained with them.

    Args:
        model: that is told.
        modality: whose caption.
        tokens: (B, n, text_dim).
        without: (B,) bool; see :func:`read_captions`.
    """
    if without is None:
        return tokens
    nothing = model.null[modality.value]
    tokens = F.pad(tokens, (0, 0, 0, max(0, nothing.shape[1] - tokens.shape[1])))
    nothing = F.pad(nothing, (0, 0, 0, tokens.shape[1] - nothing.shape[1]))
    return torch.where(without[:, None, None], nothing, tokens)


def _name(modality: Modality) -> str:
    return f"{modality.value}_caption"


def _files(path: Path) -> list[Path]:
    """All files of a text encoder."""
    if path.name.endswith(_INDEX):
        return [path, *(path.with_name(name) for name in sorted(shard_names(path)))]
    if not is_dir(path):
        return [path]
    return sorted(file for file in path.rglob("*") if file.suffix in _SUFFIXES and is_file(file))

"""A data set encoded once: latents in shards, so that training never runs a codec."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..codecs.audio import AudioCodec
from ..codecs.video_vae import VideoVAE
from ..progress import Progress
from ..types import AV, Audio
from .data import Clip, Source
from .store import Entry, Store, writing

if TYPE_CHECKING:
    from .captions import CaptionEncoder

log = logging.getLogger(__name__)

_Encoded = tuple[Entry, Mapping[str, Tensor], Mapping[str, Tensor]]

GREY_EVERY = 3
STORED = torch.float16  # latents have unit variance: 11 bits of them are far below the codecs' own error


class LatentCache(Store):
    """Latents of a data set, as :func:`build_cache` wrote them."""

    def __init__(self, folder: str | Path) -> None:
        super().__init__(folder, kind="latents")
        self.check({"video": self.spec.video_shape()[1:], "audio": self.spec.audio_shape()[1:]})
        self._alike: dict[tuple[str, str], list[int]] = {}
        for index, entry in enumerate(self.entries):
            if (key := _heard(entry)) is not None and not entry.null:
                self._alike.setdefault(key, []).append(index)

    def latents(self, clips: Sequence[int]) -> AV[Tensor]:
        """Latents of some clips, float32: (B, C, F, h, w) and (B, C, L)."""
        return AV(self.rows(clips, "video").float(), self.rows(clips, "audio").float())

    def reference(self, clip: int, pick: int) -> Tensor | None:
        """Audio latents to be like, (C, n) float32, for a clip; never of the recording it is a part of.

        Its reference recording where it has one; else another clip of its speaker or its source of sound, the ``pick``-th
        counted round and round; None where there is neither.
        """
        recorded = self.loose(clip, "reference")
        if recorded is not None:
            return recorded.float()
        entry = self.entries[clip]
        key = _heard(entry)
        others = [i for i in self._alike.get(key, []) if self.entries[i].file != entry.file] if key is not None else []
        return self.row(others[pick % len(others)], "audio").float() if others else None


def _heard(entry: Entry) -> tuple[str, str] | None:
    """What is heard in a clip, by which references are found; a speaker before anything else."""
    if entry.speaker is not None:
        return "speaker", entry.speaker
    return None if entry.sound_source is None else ("sound_source", entry.sound_source)


def fingerprint(*modules: nn.Module) -> str:
    """A short name for the exact weights and statistics of codecs."""
    digest = hashlib.sha256()
    for module in modules:
        digest.update(repr(getattr(module, "config", None)).encode())
        for key, value in sorted(module.state_dict().items()):
            digest.update(key.encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def build_cache(
    source: Source,
    folder: str | Path,
    video_codec: VideoVAE,
    audio_codec: AudioCodec,
    *,
    captions: CaptionEncoder | None = None,
    null_pairs: float = 0.0,
    shard_clips: int = 256,
    progress: Progress | None = None,
) -> LatentCache:
    """Encode a data set.

    Args:
        source: the clips.
        folder: to make.
        video_codec: for the pictures; latents are the posterior's mean.
        audio_codec: for the sound and the references.
        captions: encodes the clips' captions, for a model without a caption encoder of its own.
        null_pairs: how many stills with silence are added for each clip; they are first frames of clips, held, every third an
            even grey (SyncCFG's still where no picture is given), their captions and references kept, as in SyncCFG's anchors,
            their transcript left out.
        shard_clips: clips a shard holds.
        progress: called after each clip.

    Raises:
        ValueError: the folder is there already or cannot be written, or a clip cannot be read or its captions encoded.
    """
    folder, spec = Path(folder), source.spec
    entries = list(source.entries)
    if captions is not None:
        captions.check(entries)
    nulls = round(null_pairs * len(entries))
    # Evenly over the data set, so that every kind of clip has its stills.
    stills = [int(n * len(entries) / nulls) for n in range(nulls)]
    total = len(entries) + nulls

    def encoded(place: int) -> _Encoded:
        index = place if place < len(entries) else stills[place - len(entries)]
        clip, entry = source.clip(index), entries[index]
        if place >= len(entries):
            grey = (place - len(entries)) % GREY_EVERY == GREY_EVERY - 1
            held = torch.zeros_like(clip.frames[:, :1]) if grey else clip.frames[:, :1]
            clip = Clip(held.expand_as(clip.frames).contiguous(), torch.zeros_like(clip.wave), clip.reference)
            entry = dataclasses.replace(entry, transcript="", null=True)
        return entry, *_encode(clip, video_codec, audio_codec, spec.grid.sample_rate)

    made_with, told_by = fingerprint(video_codec, audio_codec), None if captions is None else captions.made
    with (
        writing(folder, kind="latents", spec=spec, made_with=made_with, captions=told_by, shard_clips=shard_clips) as writer,
        ThreadPoolExecutor(_workers(video_codec)) as pool,
    ):
        try:
            for done, (entry, row, loose) in enumerate(pool.map(encoded, range(total)), 1):
                _check_finite(entry, row)
                # One after the other: a tokenizer is not for several threads.
                told = {} if captions is None else captions.tokens(entry, first=done == 1)
                writer.add(entry, row, {**loose, **told})
                if progress is not None:
                    progress(done, total)
        except BaseException:  # or the pool would finish what nobody waits for
            pool.shutdown(cancel_futures=True)
            raise
    return LatentCache(folder)


def _check_finite(entry: Entry, row: Mapping[str, Tensor]) -> None:
    bad = [name for name, value in row.items() if not value.isfinite().all()]
    if bad:
        raise ValueError(f"the {bad[0]} latents of clip {entry.file} are not finite; look at the codec")


def _workers(codec: nn.Module) -> int:
    """Clips encoded at once: on a CPU as many as there are cores for, since one clip alone seldom fills several."""
    if next(codec.parameters()).device.type != "cpu":
        return 1
    return max(1, (os.cpu_count() or 1) // torch.get_num_threads())


@torch.no_grad()
def _encode(
    clip: Clip, video_codec: VideoVAE, audio_codec: AudioCodec, rate: int
) -> tuple[Mapping[str, Tensor], Mapping[str, Tensor]]:
    def sound(wave: Tensor) -> Tensor:
        return audio_codec.encode(Audio(wave[None, None], rate))[0].to("cpu", STORED)

    device = next(video_codec.parameters()).device
    row = {"video": video_codec.encode(clip.frames[None], device=device)[0].to("cpu", STORED), "audio": sound(clip.wave)}
    return row, {} if clip.reference is None else {"reference": sound(clip.reference)}

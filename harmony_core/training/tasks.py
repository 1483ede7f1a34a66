"""What a step asks of the model: which stream drives, at which times, with what left out; drawn once for the whole batch.

All of it is a function of seed and step (see :mod:`.draws`): a resumed run, or one of several processes, draws the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Generator, Tensor

from ..config import HarmonyConfig
from ..encoders.symbols import to_symbols
from ..flow import mix
from ..types import AV, Modality
from .cache import LatentCache, Reference
from .captions import read_captions
from .config import ObjectiveConfig, TimeConfig
from .draws import generator
from .order import order

# B batch, F video latents in time, L audio latents, C channels

DRAWS_STREAM = 1
NOISE_STREAM = 2
TASKS: tuple[Modality | None, ...] = (None, Modality.AUDIO, Modality.VIDEO)
"""Joint generation, audio-driven video, video-driven audio: a task is its driver."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Everything a loss is a function of, besides the weights.

    Attributes:
        names: of the clips.
        objective: of the batch's stage.
        driver: of this batch, where one task is drawn a batch.
        data: clean latents; no pictures, (B, 0), where the stage trains the audio branch alone.
        noise: of their shapes.
        times: of each clip's streams, (B,).
        first: (B,) bool, clips whose first video latent is given.
        captions: symbols of the captions, (B, length) int64, for a model with a caption encoder of its own; else umT5's
            tokens, (B, n, text_dim), zeros at their ends.
        untold: clips without such tokens, (B,) bool, for which the model has a "nothing"; None where it has none.
        transcript: symbols of the transcripts; None for a model without transcripts.
        dropped: (B,) bool, clips without text.
        reference: audio latents, (B, C, n); None where the stage has none.
        has_reference: (B,) bool, clips whose row of ``reference`` counts.
    """

    names: tuple[str, ...]
    objective: ObjectiveConfig
    driver: Modality | None
    data: AV[Tensor]
    noise: AV[Tensor]
    times: AV[Tensor]
    first: Tensor
    captions: AV[Tensor]
    untold: AV[Tensor | None]
    transcript: Tensor | None
    dropped: Tensor
    reference: Tensor | None
    has_reference: Tensor | None

    def __len__(self) -> int:
        return len(self.names)

    def part(self, index: int, parts: int) -> Batch:
        """One of ``parts`` equal parts."""
        size = len(self) // parts
        return self._map(lambda x: x[index * size : (index + 1) * size])

    def to(self, device: torch.device | str) -> Batch:
        """On a device; from pinned memory without waiting for the copy."""
        later = torch.device(device).type == "cuda"
        return self._map(lambda x: x.to(device, non_blocking=later) if isinstance(x, Tensor) else x)

    def pin_memory(self) -> Batch:
        """In memory a CUDA device copies from by itself."""
        return self._map(lambda x: x.pin_memory() if isinstance(x, Tensor) else x)

    def inputs(self) -> AV[Tensor]:
        """The noisy latents."""
        return self.data.map(lambda x, e, t: mix(x, e, t.reshape(-1, *[1] * (x.ndim - 1))), self.noise, self.times)

    def _map(self, fn: Any) -> Batch:
        def apply(value: Any) -> Any:
            if isinstance(value, AV):
                return value.map(apply)
            return fn(value) if isinstance(value, Tensor | tuple) else value

        return replace(self, **{f.name: apply(getattr(self, f.name)) for f in fields(self)})


def draw_batch(
    cache: LatentCache,
    model: HarmonyConfig,
    objective: ObjectiveConfig,
    *,
    step: int,
    batch: int,
    seed: int,
    clips: Sequence[int] | None = None,
    rank: int = 0,
    size: int = 1,
) -> Batch:
    """The batch of a step, or a process's part of it: what is drawn is that of the whole batch, what is read the part's.

    Args:
        cache: latents.
        model: what is trained.
        objective: of the stage.
        step: of the run.
        batch: clips, of all processes together.
        seed: of the run.
        clips: which they are; those of a run of one folder, see :func:`.order.order`, where it is None.
        rank: of the process.
        size: how many processes there are.
    """
    clips = order(len(cache), step, batch, seed) if clips is None else clips
    draws = generator(seed, step, DRAWS_STREAM)
    rows = range(rank * (batch // size), (rank + 1) * (batch // size))
    mine = [clips[row] for row in rows]

    def part(values: Tensor) -> Tensor:
        return values[rows.start : rows.stop]

    # Drawn in this order whatever the config asks for, so that changing one knob leaves the other draws as they were.
    driver = _draw_driver(objective, draws)
    times = _draw_times(objective, batch, draws)
    first, dropped = (_bernoulli(p, batch, draws) for p in (objective.first_frame, objective.text_drop))
    reference, has_reference = _draw_reference(cache, clips, rows, objective, draws)
    silent = AV.of(lambda _: part(_bernoulli(objective.caption_drop, batch, draws)))
    entries = [cache.entries[clip] for clip in mine]
    captions, untold = _captions(cache, model, mine, silent, part(dropped))
    data = AV.of(lambda m: _latents(cache, mine, m, seen=objective.streams == "both"))
    return Batch(
        names=tuple(e.file for e in entries),
        objective=objective,
        driver=driver,
        data=data,
        noise=AV.of(lambda m: _noise(data[m], rows, seed, step, m)),
        times=times.map(part),
        first=part(first),
        captions=captions,
        untold=untold,
        transcript=to_symbols([e.transcript for e in entries], model.speech) if model.speech else None,
        dropped=part(dropped),
        reference=reference,
        has_reference=has_reference,
    )


def draw_time(config: TimeConfig, count: int, source: Generator) -> Tensor:
    """Times in [0, 1], (count,)."""
    if config.distribution == "uniform":
        t = torch.rand(count, generator=source)
    else:
        t = torch.sigmoid(config.mean + config.std * torch.randn(count, generator=source))
    return config.shift * t / (1 + (config.shift - 1) * t)


def _latents(cache: LatentCache, clips: Sequence[int], modality: Modality, *, seen: bool) -> Tensor:
    """Of a stream, float32; nothing, (B, 0), of pictures that are not seen."""
    if modality is Modality.VIDEO and not seen:
        return torch.empty(len(clips), 0)
    return cache.rows(clips, modality.value).float()


def _noise(like: Tensor, rows: range, seed: int, step: int, modality: Modality) -> Tensor:
    """Noise for some rows of a batch; every row has a source of its own, so that nobody draws another's."""
    noise = torch.empty_like(like)
    for place, row in enumerate(rows if like.numel() else ()):
        noise[place].normal_(generator=generator(seed, step, NOISE_STREAM, row, tuple(Modality).index(modality)))
    return noise


def _captions(
    cache: LatentCache, model: HarmonyConfig, clips: Sequence[int], silent: AV[Tensor], dropped: Tensor
) -> tuple[AV[Tensor], AV[Tensor | None]]:
    """See :class:`Batch`."""
    if (encoder := model.caption) is None:
        # "Nothing" of a model of one prompt is a text as well.
        out = silent.map(lambda lost: ((lost | dropped) if model.one_prompt else lost).tolist())
        return read_captions(cache, model, clips, out)
    entries = [cache.entries[clip] for clip in clips]
    written = AV([e.video_caption for e in entries], [e.audio_caption for e in entries])
    kept = written.map(lambda texts, out: ["" if o else t for t, o in zip(texts, out.tolist(), strict=True)], silent)
    return kept.map(lambda texts: to_symbols(texts, encoder)), AV(None, None)


def _draw_driver(config: ObjectiveConfig, source: Generator) -> Modality | None:
    place = float(torch.rand((), generator=source))
    if config.mode != "mixed":
        return None
    joint, audio_driven, _ = config.shares
    return TASKS[(place >= joint) + (place >= joint + audio_driven)]


def _draw_times(config: ObjectiveConfig, batch: int, source: Generator) -> AV[Tensor]:
    video, own = (draw_time(config.times, batch, source) for _ in range(2))
    return AV(video, torch.where(_bernoulli(config.independent_times, batch, source), own, video))


def _draw_reference(
    cache: LatentCache, clips: Sequence[int], rows: range, config: ObjectiveConfig, source: Generator
) -> tuple[Tensor | None, Tensor | None]:
    """References of one length, cut anywhere from what each clip's reference is, and which clips have one; of some rows."""
    absent = _bernoulli(config.no_reference, len(clips), source).tolist()
    share = float(torch.rand((), generator=source))
    picks = torch.randint(0, 2**31, (len(clips),), generator=source).tolist()
    starts = torch.rand(len(clips), generator=source).tolist()
    if config.reference == "none":
        return None, None

    def place(clip: int, pick: int) -> Reference | None:
        if config.reference == "same_speaker":
            return cache.reference_place(clip, pick)
        return None if cache.entries[clip].null else Reference(clip, "audio", cache.spec_of(clip).audio_latents)

    found = [None if out else place(clip, pick) for clip, pick, out in zip(clips, picks, absent, strict=True)]
    spec = cache.spec_of(clips[0])
    shortest, longest = config.reference_seconds
    wanted = round((shortest + share * (longest - shortest)) * spec.grid.audio_rate)
    length = max(1, min(wanted, *(one.length for one in found if one is not None), spec.audio_latents))

    def cut(one: Reference | None, start: float) -> Tensor:
        if one is None:
            return torch.zeros(spec.grid.audio_channels, length)
        first = int(start * (one.length - length + 1))
        return cache.at(one)[:, first : first + length].float()

    kept = [(found[row], starts[row]) for row in rows]
    return torch.stack([cut(*one) for one in kept]), torch.tensor([one is not None for one, _ in kept])


def _bernoulli(p: float, count: int, source: Generator) -> Tensor:
    return torch.rand(count, generator=source) < p

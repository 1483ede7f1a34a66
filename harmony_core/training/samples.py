"""Clips generated after each checkpoint, written to the run's ``samples`` folder, and what is measured in them.

Losses say little of sync. In clips of the small world impacts are seen and heard, and how many of them are both is measured
along with how much moves and sounds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..canvas import Canvas
from ..codecs.audio import AudioCodec
from ..codecs.video_vae import VideoVAE
from ..conditioning import Conditioning
from ..denoiser import Setting
from ..encoders.symbols import to_symbols
from ..geometry import ClipSpec
from ..measure.matching import f1, match
from ..media import write_video
from ..models.harmony import Harmony
from ..sample import Schedule, sample
from ..types import AV, Audio, Video
from ..world.trackers import hear_impacts, track_impacts
from .cache import LatentCache
from .captions import read_captions, with_nothing
from .config import ModelRun
from .model import Measure
from .store import Entry

TOLERANCE = 2
"""Pictures between an impact seen and the same impact heard."""


def sampler(config: ModelRun, cache: LatentCache, video_codec: VideoVAE, audio_codec: AudioCodec) -> Measure:
    """Writes clips made with a model; gives their ``motion``, ``loudness`` and, of impacts of the small world, ``event_f1``.

    Args:
        config: of the run.
        cache: of the data set's clips, whose texts the samples are made with.
        video_codec: for the pictures.
        audio_codec: for the sound.
    """
    spec, wanted = config.data.spec(config.model), config.samples
    impacts = config.data.world is not None
    seen = [clip for clip in range(len(cache)) if cache.has_pictures(clip)] or list(range(len(cache)))
    picked = [seen[n] for n in pick([cache.entries[clip] for clip in seen], wanted.clips, impacts=impacts)]
    folder = Path(config.run.output) / "samples"

    @torch.no_grad()
    def measure(step: int, model: Harmony) -> dict[str, float]:
        setting = Setting(canvas=Canvas.blank(spec, batch=len(picked)), told=_told(model, cache, picked))
        schedule = Schedule(steps=wanted.steps, shift=wanted.shift)
        found = sample(model, setting, seeds=range(len(picked)), schedule=schedule).latents
        latents = found.map(lambda x: x.to(config.run.device))  # where the codecs are
        frames = video_codec.decode(latents.video).cpu()
        sound = audio_codec.decode(latents.audio, samples=spec.samples)
        sound = Audio(sound.waveform.cpu(), sound.sample_rate)
        _write(folder, step, frames, sound, spec)
        measured = {
            "motion": float(frames.diff(dim=2).abs().mean()) if spec.frames > 1 else 0.0,
            "loudness": float(sound.waveform.square().mean().sqrt()),
        }
        return measured | (event_f1(frames, sound.waveform, spec.fps) if impacts else {})

    return measure


def pick(entries: Sequence[Entry], count: int, *, impacts: bool) -> list[int]:
    """Numbers of the first ``count`` clips; of the small world those of impacts, where sync can be measured, if it has any."""
    found = (n for n, entry in enumerate(entries) if entry.file.startswith("impact") and not entry.null)
    chosen = list(found) if impacts else []
    return (chosen or list(range(len(entries))))[:count]


def event_f1(frames: Tensor, waves: Tensor, fps: float) -> dict[str, float]:
    """Of the impacts seen or heard in all clips together, how many are both; nothing where there is none.

    Args:
        frames: (B, 3, F, H, W) in [-1, 1].
        waves: (B, 1, samples) in [-1, 1], at 16 kHz.
        fps: pictures a second.

    Returns:
        ``event_f1``, 0 to 1.
    """
    matches = [
        match(track_impacts(pictures, fps).times, hear_impacts(wave).times, TOLERANCE / fps)
        for pictures, wave in zip(frames, waves, strict=True)
    ]
    seen, heard = sum(m.first for m in matches), sum(m.second for m in matches)
    return {"event_f1": f1(sum(len(m.pairs) for m in matches), seen, heard)} if seen + heard else {}


def _told(model: Harmony, cache: LatentCache, clips: Sequence[int]) -> Conditioning:
    """Captions, and transcripts if the model reads them."""
    entries, device = [cache.entries[clip] for clip in clips], next(model.parameters()).device
    if model.config.caption is not None:
        texts = [entry.video_caption for entry in entries], [entry.audio_caption for entry in entries]
        video, audio = (model.encode_captions(to_symbols(part, model.config.caption).to(device)) for part in texts)
    else:
        tokens, without = read_captions(cache, model.config, clips, AV.both([False] * len(clips)))
        there = without.map(lambda mask: None if mask is None else mask.to(device))
        video, audio = AV.of(lambda m: with_nothing(model, m, tokens[m].to(device), there[m]))
    told = Conditioning(video_caption=video, audio_caption=audio)
    if model.config.speech is not None:
        transcript = to_symbols([entry.transcript for entry in entries], model.config.speech)
        told = dataclasses.replace(told, transcript=transcript)
    return told


def _write(folder: Path, step: int, frames: Tensor, sound: Audio, spec: ClipSpec) -> None:
    folder.mkdir(exist_ok=True)
    for n, (pictures, wave) in enumerate(zip(frames.split(1), sound.waveform.split(1), strict=True)):
        write_video(folder / f"step-{step:08d}-{n}.mp4", Video(pictures, spec.fps), Audio(wave, sound.sample_rate))

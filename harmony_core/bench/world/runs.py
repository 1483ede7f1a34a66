"""Clips of the world through the model and its codecs, a batch of different clips at a time."""

# B batch, F pictures, S samples, T video latents in time

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ...canvas import Canvas
from ...conditioning import Conditioning
from ...denoiser import Setting
from ...encoders.symbols import to_symbols
from ...geometry import ClipSpec
from ...guidance import Guidance
from ...models.sound_map import SoundMapRecorder
from ...pipeline import Pipeline
from ...sample import sample
from ...types import AV, Audio, Modality
from ...world.clip import KINDS, SAMPLE_RATE, Split, WorldClip, clip_spec
from .plan import Plan, Task


@dataclass(frozen=True, kw_only=True)
class Batch:
    """True clips, ready for the model.

    Attributes:
        clips: of one kind and split.
        frames: (B, 3, F, H, W) in [-1, 1].
        wave: (B, 1, S) in [-1, 1].
        latents: of both, on the CPU.
        told: captions, transcripts and references, as far as the model takes them.
        seeds: of the noise, one a clip; the same in every task.
    """

    clips: tuple[WorldClip, ...]
    frames: Tensor
    wave: Tensor
    latents: AV[Tensor]
    told: Conditioning
    seeds: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Made:
    """A source's share of a batch, all on the CPU.

    Attributes:
        frames: (B, 3, F, H, W): generated, or the driver's own.
        wave: (B, 1, S), likewise.
        latents: before decoding; what was given is in them bit for bit.
        maps: sound-source maps (B, T, rows, columns); None where none are recorded.
    """

    frames: Tensor
    wave: Tensor
    latents: AV[Tensor]
    maps: Tensor | None = None


def world_spec(pipeline: Pipeline, split: Split) -> ClipSpec:
    """The shape of a split's clips on a checkpoint's grid.

    Raises:
        ValueError: the checkpoint cannot make such clips, or its codecs do not fit its model.
    """
    grid, plain = pipeline.model.config.grid, clip_spec(split)
    if grid.sample_rate != SAMPLE_RATE:
        raise ValueError(f"the world's sound has {SAMPLE_RATE} Hz, this checkpoint's {grid.sample_rate}")
    video, audio = pipeline.video_vae.config, pipeline.audio_codec.config
    have = (video.channels, video.frame_stride, video.pixel_stride, audio.vae.latent_channels, audio.hop)
    want = (grid.video_channels, grid.frame_stride, grid.pixel_stride, grid.audio_channels, grid.hop)
    if have != want:
        names = "video channels, frame stride, pixel stride, audio channels and hop"
        raise ValueError(f"this checkpoint's codecs do not fit its model: their {names} are {have}, the model's {want}")
    try:
        return replace(plain, grid=grid)
    except ValueError as error:
        raise ValueError(f"this checkpoint cannot make the world's clips of {plain.width} x {plain.height}: {error}") from error


class Runner:
    """A checkpoint bound to a plan."""

    def __init__(self, pipeline: Pipeline, plan: Plan) -> None:
        self.spec = world_spec(pipeline, plan.split)
        self._pipeline = pipeline
        self._plan = plan
        self._anchors = pipeline.anchors(self.spec).map(Tensor.cpu)
        self._quiet = torch.zeros(1, self.spec.samples)

    @property
    def draws_maps(self) -> bool:
        """Whether the model has the attention that sound-source maps are made of."""
        return self._pipeline.model.config.interaction.kind == "frame_wise"

    def encode(self, clips: Sequence[WorldClip]) -> Batch:
        """Make clips ready; those of a batch are of one kind, so that all or none have a reference."""
        frames, wave = torch.stack([clip.frames for clip in clips]), torch.stack([clip.samples for clip in clips])
        pipeline = self._pipeline
        latents = AV(pipeline.video_vae.encode(frames), pipeline.audio_codec.encode(Audio(wave, SAMPLE_RATE)))
        return Batch(
            clips=tuple(clips),
            frames=frames,
            wave=wave,
            latents=latents.map(lambda x: x.float().cpu()),
            told=self._told(clips),
            seeds=tuple(noise_seed(clip, self._plan.seed) for clip in clips),
        )

    def codec(self, batch: Batch) -> Made:
        """The truth through both codecs and the vocoder."""
        frames, wave = self._pictures(batch.latents.video), self._sound(batch.latents.audio)
        return Made(frames=frames, wave=wave, latents=batch.latents)

    def run(self, batch: Batch, task: Task) -> Made:
        """What the model makes of a batch.

        Args:
            batch: from :meth:`encode`.
            task: what is given and guided.

        Raises:
            ValueError: sampling diverged.
        """
        given = self._given(batch, task)
        canvas = Canvas.blank(self.spec, batch=len(batch.clips))
        if task.drive is not None:
            canvas = canvas.with_given(task.drive, given[task.drive])
        recorder = SoundMapRecorder() if self.draws_maps and not task.anchor else None
        setting = Setting(
            canvas=canvas,
            told=batch.told,
            guidance=self._plan.guidance if task.sync else Guidance(),
            anchors=self._guides(batch, task) if task.sync else None,
            recorder=recorder,
        )
        latents = sample(self._pipeline.model, setting, seeds=batch.seeds, schedule=self._plan.schedule).latents
        frames = self._shown(batch, task) if task.drive is Modality.VIDEO else self._pictures(latents.video)
        wave = self._played(batch, task) if task.drive is Modality.AUDIO else self._sound(latents.audio)
        return Made(frames=frames, wave=wave, latents=latents, maps=recorder.maps() if recorder else None)

    # ---- what drives

    def _given(self, batch: Batch, task: Task) -> AV[Tensor]:
        if not task.anchor:
            return batch.latents
        if task.drive is Modality.AUDIO:
            return AV(batch.latents.video, self._anchors.audio)
        return AV(self._held(batch), batch.latents.audio)

    def _shown(self, batch: Batch, task: Task) -> Tensor:
        return batch.frames[:, :, :1].expand_as(batch.frames) if task.anchor else batch.frames

    def _played(self, batch: Batch, task: Task) -> Tensor:
        return self._quiet.expand_as(batch.wave) if task.anchor else batch.wave

    def _guides(self, batch: Batch, task: Task) -> AV[Tensor]:
        """SyncCFG's anchors, as ``pipeline.generate`` has them: the first picture held where one is given, else even grey."""
        return AV(self._held(batch), self._anchors.audio) if task.drive is Modality.VIDEO else self._anchors

    def _held(self, batch: Batch) -> Tensor:
        """Latents of every clip's first picture, held for the whole clip."""
        still = batch.frames[:, :, :1].expand_as(batch.frames)
        return self._pipeline.video_vae.encode(still).float().cpu()

    # ---- conditions and decoding

    @torch.no_grad()
    def _told(self, clips: Sequence[WorldClip]) -> Conditioning:
        model, codec = self._pipeline.model, self._pipeline.audio_codec
        told = Conditioning()
        if model.caption is not None:
            parameter, config = next(model.parameters()), model.caption.config
            texts = AV([clip.video_caption for clip in clips], [clip.audio_caption for clip in clips])
            symbols = texts.map(lambda text: to_symbols(text, config).to(parameter.device))
            captions = symbols.map(lambda s: model.encode_captions(s, parameter.dtype).float())
            told = replace(told, video_caption=captions.video, audio_caption=captions.audio)
        if model.speech is not None:
            told = replace(told, transcript=to_symbols([clip.transcript for clip in clips], model.speech.config))
        voices = [torch.from_numpy(clip.reference)[None] for clip in clips if clip.reference is not None]
        if voices:
            assert len(voices) == len(clips), "clips of a batch are of one kind"
            told = replace(told, reference=codec.encode(Audio(torch.stack(voices), SAMPLE_RATE)).float())
        return told

    def _pictures(self, latents: Tensor) -> Tensor:
        return self._pipeline.video_vae.decode(latents).float().cpu()

    def _sound(self, latents: Tensor) -> Tensor:
        return self._pipeline.audio_codec.decode(latents, samples=self.spec.samples).waveform.float().cpu()


def noise_seed(clip: WorldClip, seed: int) -> int:
    """The seed of a clip's noise: its own, the same in every task and whatever it is generated beside.

    torch's generator on the CPU looks at 32 bits of a seed; these are mixed from all that the clip is.
    """
    return int(np.random.SeedSequence([seed, KINDS.index(clip.kind), clip.seed]).generate_state(1)[0])

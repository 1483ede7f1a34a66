"""From words, a voice, frames or audio to a clip, standalone: codecs, encoders, and :func:`.sample.sample` between them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from .audio_ops import resample, to_mono
from .canvas import Canvas
from .codecs.audio import AudioCodec
from .codecs.video_tiling import Tiling
from .codecs.video_vae import VideoVAE
from .conditioning import Conditioning
from .config import HarmonyConfig
from .denoiser import Setting
from .drivers import MemoryBudget
from .encoders.prompts import prompts_of
from .encoders.symbols import to_symbols
from .geometry import ClipSpec
from .guidance import Guidance
from .models.harmony import Harmony
from .models.sound_map import SoundMapRecorder
from .offload import Offload
from .progress import Progress
from .runtime import Runtime
from .sample import Schedule, sample
from .sampling import OnStep
from .types import AV, Audio, Modality, Video
from .weights.checkpoint import Checkpoint, load_checkpoint
from .weights.codec_files import load_sound_codec, load_video_codec
from .weights.ovi import OviSize, holds_ovi, load_ovi

SHORTEST_VOICE = 0.3
"""Seconds a reference voice needs to be one."""
SILENT = 1e-4
"""Root mean square below which a reference is silent; -80 dB."""
MOST_CLIPPED = 0.02
"""Share of samples at full scale from which a reference is clipped."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """One clip to make.

    Attributes:
        spec: its shape.
        video_caption: what is to be seen; empty for nothing in particular.
        audio_caption: what is to be heard, speech aside.
        transcript: what is said; empty for no speech.
        voice: a voice, or a sound, to be like.
        image: the first picture, (1, 3, 1, H, W) in [-1, 1], of the clip's size.
        drive: sound to make pictures for, or pictures to make sound for, at least as long as the clip.
        negative: captions for text guidance to go away from, video and audio; empty for nothing.

    Raises:
        ValueError: the parts do not fit each other or the clip, or the voice is none.
    """

    spec: ClipSpec
    video_caption: str = ""
    audio_caption: str = ""
    transcript: str = ""
    voice: Audio | None = None
    image: Tensor | None = None
    drive: Video | Audio | None = None
    negative: AV[str] = field(default_factory=lambda: AV("", ""))

    def __post_init__(self) -> None:
        size = (self.spec.height, self.spec.width)
        if self.image is not None and tuple(self.image.shape) != (1, 3, 1, *size):
            raise ValueError(f"a first picture of this clip is {(1, 3, 1, *size)}, got {tuple(self.image.shape)}")
        if self.image is not None and isinstance(self.drive, Video):
            raise ValueError("the pictures are given as a whole: leave the first picture out")
        if self.voice is not None:
            check_voice(self.voice)
        if isinstance(self.drive, Video):
            self._check_pictures(self.drive, size)
        if isinstance(self.drive, Audio) and self.drive.seconds < self.spec.seconds - 0.5 / self.spec.fps:
            raise ValueError(
                f"the sound lasts {self.drive.seconds:.2f} s, the clip {self.spec.seconds:.2f} s; make the clip shorter"
            )

    def _check_pictures(self, video: Video, size: tuple[int, int]) -> None:
        if tuple(video.frames.shape[3:]) != size or abs(video.fps - self.spec.fps) > 1e-3:
            given = f"{video.frames.shape[3]} x {video.frames.shape[4]} at {video.fps:g} fps"
            raise ValueError(f"pictures of this clip are {size[0]} x {size[1]} at {self.spec.fps:g} fps, got {given}")
        if video.frames.shape[2] < self.spec.frames:
            raise ValueError(f"there are {video.frames.shape[2]} pictures, the clip has {self.spec.frames}; make it shorter")


def texts_of(request: Request, config: HarmonyConfig) -> set[str]:
    """The texts a caption encoder outside of the model is asked for; without the empty ones if the model has a "nothing".

    Raises:
        ValueError: the texts do not make a prompt.
    """
    texts = {*prompts_of(request, config), *request.negative}
    return texts if config.one_prompt else {text for text in texts if text.strip()}


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a checkpoint does not carry itself, in files of their own.

    Attributes:
        audio_tower: the second file of Ovi in two files.
        ovi_size: which of Ovi's models it is; by the file's name where not given.
        video_vae: the video codec: Wan2.2's, or one of ours.
        audio_vae: the audio codec: MMAudio's VAE, or a file with both its parts.
        vocoder: the vocoder that belongs to MMAudio's VAE.
        text: umT5, for models without a caption encoder of their own: a text to tokens (1, n, text_dim); see
            :mod:`harmony_core.weights.umt5`.
    """

    audio_tower: Path | None = None
    ovi_size: OviSize | None = None
    video_vae: Path | None = None
    audio_vae: Path | None = None
    vocoder: Path | None = None
    text: Callable[[str], Tensor] | None = None


@dataclass(frozen=True, kw_only=True)
class Clip:
    """A finished clip.

    Attributes:
        video: its pictures; those given, untouched, where they drove.
        audio: its sound, exactly as long; the sound given, with its own rate and channels, where it drove.
        latents: before decoding.
        passes: how often each branch was run, evaluation by evaluation.
    """

    video: Video
    audio: Audio
    latents: AV[Tensor]
    passes: tuple[AV[int], ...]


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """A model with its codecs.

    Attributes:
        model: the joint model.
        video_vae: the codec of pictures.
        audio_codec: the codec of sound.
        offload: brings them to a device in turn; None where all of them are where they compute.
        tiling: how large pictures are cut in the video codec; None for not at all.
        text: encodes captions for models without a caption encoder of their own; see :class:`Parts`.
    """

    model: Harmony
    video_vae: VideoVAE
    audio_codec: AudioCodec
    offload: Offload | None = None
    tiling: Tiling | None = None
    text: Callable[[str], Tensor] | None = None

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        runtime: Runtime | None = None,
        offload: bool = False,
        tiling: Tiling | None = None,
        parts: Parts | None = None,
    ) -> Pipeline:
        """Read an all-in-one checkpoint, or a model with its codecs in files of their own.

        Args:
            path: a Harmony checkpoint, or Ovi's.
            runtime: device and dtype of the model; the codecs are computed in float32. Without a dtype the model is computed
                in the file's, but in float32 on a CPU, where half precision is slow.
            offload: keep the weights in host memory; the runtime's device then has those it computes with, for that long.
            tiling: how large pictures are cut in the video codec.
            parts: what the checkpoint does not carry itself.

        Raises:
            ValueError: a file is missing, broken or of another kind, or a codec is in none of them.
        """
        runtime, parts = runtime or Runtime(), parts or Parts()
        device = torch.device(runtime.device or "cpu")
        if offload:
            runtime = replace(runtime, device="cpu")
        exact = replace(runtime, dtype=torch.float32)
        if runtime.dtype is None and device.type == "cpu":
            runtime = exact
        checkpoint: Checkpoint | None = None
        if parts.audio_tower is not None or holds_ovi(path):
            model = load_ovi(path, parts.audio_tower, size=parts.ovi_size, runtime=runtime)
        else:
            checkpoint = load_checkpoint(path)
            model = checkpoint.model(runtime)
        video_vae, audio_codec = _video_codec(checkpoint, parts, exact), _audio_codec(checkpoint, parts, exact)
        del checkpoint  # offload moves weights within host memory: what they were is to be let go
        return cls(
            model=model,
            video_vae=video_vae,
            audio_codec=audio_codec,
            offload=Offload(model, device) if offload else None,
            tiling=tiling,
            text=parts.text,
        )

    def using(self, part: nn.Module) -> AbstractContextManager[None]:
        """Have the model or a codec where it computes, for as long as the context lasts."""
        return nullcontext() if self.offload is None else self.offload.using(part)

    def anchors(self, spec: ClipSpec, picture: Tensor | None = None) -> AV[Tensor]:
        """SyncCFG's drivers: a picture held for the whole clip, and silence.

        Both go through their codec: the first latent of a causal codec differs from later ones, and silence is not zeros.

        Args:
            spec: of the clip.
            picture: (1, 3, 1, H, W) in [-1, 1]; an even grey where not given.
        """
        picture = torch.zeros(1, 3, 1, spec.height, spec.width) if picture is None else picture
        still = self.encode_pictures(picture.expand(-1, -1, spec.frames, -1, -1))
        return AV(still, self.encode_sound(Audio(torch.zeros(1, 1, spec.samples), spec.grid.sample_rate)))

    def encode_pictures(self, frames: Tensor) -> Tensor:
        """Normalised latents of pictures, float32; see :meth:`.codecs.video_vae.VideoVAE.encode`."""
        with self.using(self.video_vae):
            return self.video_vae.encode(frames, tiling=self.tiling).float()

    def encode_sound(self, sound: Audio) -> Tensor:
        """Latents of sound, float32; see :meth:`.codecs.audio.AudioCodec.encode`."""
        with self.using(self.audio_codec):
            return self.audio_codec.encode(sound).float()

    def conditioning(self, request: Request, batch: int) -> Conditioning:
        """What the model is told.

        Raises:
            ValueError: a text is too long, has a symbol the model does not know, or the model takes none.
        """
        config, transcript = self.model.config, None
        if request.transcript.strip() and not config.one_prompt:
            if self.model.speech is None:
                raise ValueError("this checkpoint has no transcript encoder; leave the transcript out")
            transcript = to_symbols([request.transcript] * batch, self.model.speech.config)
        reference = None
        if request.voice is not None:
            reference = self.encode_sound(request.voice).expand(batch, -1, -1)
        prompts = prompts_of(request, config)
        return Conditioning(
            video_caption=self.encode_caption(prompts.video, batch),
            audio_caption=self.encode_caption(prompts.audio, batch),
            transcript=transcript,
            reference=reference,
        )

    def canvas(self, request: Request, batch: int) -> Canvas:
        """What is given and what is generated."""
        canvas, spec = Canvas.blank(request.spec, batch=batch), request.spec
        if isinstance(request.drive, Audio):
            heard = resample(to_mono(as_long_as(request.drive, spec)), spec.grid.sample_rate).waveform
            heard = torch.nn.functional.pad(heard, (0, spec.samples - heard.shape[-1]))  # a sample, where rates do not divide
            canvas = canvas.with_given(Modality.AUDIO, self.encode_sound(Audio(heard, spec.grid.sample_rate)))
        if isinstance(request.drive, Video):
            canvas = canvas.with_given(Modality.VIDEO, self.encode_pictures(request.drive.frames[:, :, : spec.frames]))
        if request.image is not None:
            canvas = canvas.with_first_frame(self.encode_pictures(request.image))
        return canvas

    def encode_caption(self, text: str, batch: int) -> Tensor | None:
        """Caption tokens (B, n, text_dim), the same for a whole batch.

        None for an empty caption where the model has a "nothing" of its own.

        Raises:
            ValueError: the caption is too long, or the model has no caption encoder of its own and there is no umT5.
        """
        if not text.strip() and not self.model.config.one_prompt:
            return None
        if self.model.caption is None:
            if self.text is None:
                raise ValueError("this checkpoint has no caption encoder of its own; encode captions with umT5")
            return self.text(text).float().expand(batch, -1, -1)
        with self.using(self.model):
            weight = next(self.model.parameters())
            numbers = to_symbols([text], self.model.caption.config).to(weight.device)
            return self.model.encode_captions(numbers, weight.dtype).float().expand(batch, -1, -1)


@torch.no_grad()
def generate(
    pipeline: Pipeline,
    request: Request,
    *,
    seeds: Sequence[int],
    guidance: Guidance | None = None,
    schedule: Schedule | None = None,
    budget: MemoryBudget | None = None,
    recorder: SoundMapRecorder | None = None,
    on_step: OnStep | None = None,
    on_decode: Progress | None = None,
) -> Clip:
    """Make clips.

    Args:
        pipeline: a model with its codecs.
        request: what to make.
        seeds: one a clip.
        guidance: none by default.
        schedule: steps and sampler.
        budget: memory for drivers.
        recorder: collects sound-source maps.
        on_step: called every sampling step; it cancels by raising.
        on_decode: called after every piece of the pictures' decoding; it cancels by raising.

    Returns:
        A batch of clips, picture and sound of one length.

    Raises:
        ValueError: the request does not fit the model or itself.
    """
    spec, batch = request.spec, len(seeds)
    if spec.grid != pipeline.model.config.grid:
        raise ValueError(f"the clip is made for {spec.grid}, the checkpoint for {pipeline.model.config.grid}")
    guidance = guidance or Guidance()
    anchors = None
    if any(one.anchor.company == "mute" for one in guidance.guides):
        first = request.drive.frames[:, :, :1] if isinstance(request.drive, Video) else request.image
        anchors = pipeline.anchors(spec, first)
    negative = request.negative.map(lambda text: pipeline.encode_caption(text, batch))
    setting = Setting(
        canvas=pipeline.canvas(request, batch),
        told=pipeline.conditioning(request, batch),
        untold=Conditioning(video_caption=negative.video, audio_caption=negative.audio),
        guidance=guidance,
        anchors=anchors,
        budget=budget,
        recorder=recorder,
    )
    with pipeline.using(pipeline.model):
        done = sample(pipeline.model, setting, seeds=seeds, schedule=schedule, on_step=on_step)
    return Clip(
        video=_pictures(pipeline, request, done.latents.video, on_decode),
        audio=_sound(pipeline, request, done.latents.audio),
        latents=done.latents,
        passes=done.passes,
    )


def as_long_as(audio: Audio, spec: ClipSpec) -> Audio:
    """The beginning of some sound, exactly as long as a clip, to the sample; silence where it is a little short."""
    samples = round(spec.seconds * audio.sample_rate)
    wave = audio.waveform[..., :samples]
    return replace(audio, waveform=torch.nn.functional.pad(wave, (0, samples - wave.shape[-1])))


def is_silent(sound: Audio) -> bool:
    """Whether nothing of it would be heard: its level is below -80 dB."""
    return bool(sound.waveform.float().square().mean().sqrt() < SILENT)


def check_voice(voice: Audio) -> None:
    """Refuse a reference nobody could take a voice from.

    Raises:
        ValueError: it is shorter than 0.3 s, silent, clipped or not finite.
    """
    wave = voice.waveform
    if voice.seconds < SHORTEST_VOICE:
        raise ValueError(f"a reference voice lasts at least {SHORTEST_VOICE} s, got {voice.seconds:.2f} s")
    if not torch.isfinite(wave).all():
        raise ValueError("the reference voice holds samples that are not finite")
    if is_silent(voice):
        raise ValueError("the reference voice is silent; give another part of it")
    clipped = (wave.abs() >= 1 - 1 / 32768).float().mean().item()
    if clipped > MOST_CLIPPED:
        raise ValueError(f"{clipped:.0%} of the reference voice is clipped; give it quieter, or another take")


def _video_codec(checkpoint: Checkpoint | None, parts: Parts, runtime: Runtime) -> VideoVAE:
    if parts.video_vae is not None:
        return load_video_codec(parts.video_vae, runtime)
    if checkpoint is None:
        raise ValueError("this checkpoint has no video codec in it; give the file of a Wan2.2 video VAE")
    return checkpoint.video_vae(runtime)


def _audio_codec(checkpoint: Checkpoint | None, parts: Parts, runtime: Runtime) -> AudioCodec:
    if parts.audio_vae is not None:
        return load_sound_codec(parts.audio_vae, runtime, vocoder=parts.vocoder)
    if checkpoint is None:
        raise ValueError("this checkpoint has no audio codec in it; give the files of MMAudio's VAE and vocoder")
    return checkpoint.audio_codec(runtime)


def _pictures(pipeline: Pipeline, request: Request, latents: Tensor, progress: Progress | None) -> Video:
    if isinstance(request.drive, Video):
        frames = request.drive.frames[:, :, : request.spec.frames]
        return Video(frames.expand(latents.shape[0], -1, -1, -1, -1), request.spec.fps)
    with pipeline.using(pipeline.video_vae):
        frames = pipeline.video_vae.decode(latents, tiling=pipeline.tiling, progress=progress)
    return Video(frames.float(), request.spec.fps)


def _sound(pipeline: Pipeline, request: Request, latents: Tensor) -> Audio:
    if isinstance(request.drive, Audio):
        sound = as_long_as(request.drive, request.spec)
        return replace(sound, waveform=sound.waveform.expand(latents.shape[0], -1, -1))
    with pipeline.using(pipeline.audio_codec):
        return pipeline.audio_codec.decode(latents, samples=request.spec.samples)

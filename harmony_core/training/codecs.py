"""Training of the small codecs: the video VAE, and the audio VAE with its vocoder.

    video   w |y - x| + squared w (y - x)^2 + motion w |dy - dx| + kl KL + linear (m - p)^2
            d: change from frame to frame, m: the latents' means, p: principal components of the pictures' blocks
    sound   |mel' - mel| + kl KL, and for a vocoder, on cut pieces, spectral distances at several windows + mel distance

There is no adversarial loss: on synthetic clips the regression losses suffice. ``w`` is larger where something moves, because
that is little of a picture and most of what matters. At the end the latents' means and deviations are measured and become part
of the codec, so that a model sees unit variance; where latents are drawn to components, whose scale to each other matters, one
deviation for all channels. Measured are draws from the posterior: a channel the codec does not use, whose
mean is next to nothing and whose variance is the prior's, stays next to nothing instead of being blown up into noise.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..codecs.audio import AudioCodec
from ..codecs.audio_vae import LOG_VARIANCE, Posterior
from ..codecs.mel import log_mel
from ..codecs.video_vae import VideoVAE
from ..codecs.vocoder import Vocoder
from ..progress import Progress
from ..weights.codec_files import load_video_codec, save_codec
from ..weights.files import load_into
from .components import Components, principal_components
from .config import AudioCodecRun, VideoCodecRun
from .data import PackedClips
from .distributed import Weights, World
from .draws import generator
from .loop import Hooks, Phase, train
from .objective import Losses
from .order import order
from .spectral import spectral_distance

# B batch, C channels, F frames, T latents in time, S samples, M mel bins, L mel frames

VIDEO_FILE, AUDIO_FILE = "video_codec.safetensors", "audio_codec.safetensors"
CROP_STREAM = 3
NOISE_STREAM = 4
MEASURED_AT_ONCE = 8
COMPONENT_CLIPS = 400
ALONE = World()
QUIET_MEL = -2.5
"""Log10 of mel magnitudes that the vocoder's loss takes for silence: 60 dB under a full-scale tone."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CodecBatch:
    """Clips for a codec.

    Attributes:
        names: of the clips.
        clips: (B, 3, F, H, W) or (B, S), in [-1, 1].
        noise: for the draw from the posterior, of the latents' shape.
        starts: (B,) where the vocoder's piece begins, mel frames; None for pictures.
        decoded: (B,) bool, clips whose piece is decoded from latents; None for pictures.
        weight: (B, 1, 1, H, W) of the errors, of mean 1 over the whole batch, not each part of it; None for sound.
    """

    names: tuple[str, ...]
    clips: Tensor
    noise: Tensor
    starts: Tensor | None = None
    decoded: Tensor | None = None
    weight: Tensor | None = None

    def part(self, index: int, parts: int) -> CodecBatch:
        """One of ``parts`` equal parts."""
        size = len(self.names) // parts
        return self._map(lambda x: x[index * size : (index + 1) * size])

    def to(self, device: torch.device | str) -> CodecBatch:
        """On a device; from pinned memory without waiting for the copy."""
        later = torch.device(device).type == "cuda"
        return self._map(lambda x: x.to(device, non_blocking=later) if isinstance(x, Tensor) else x)

    def pin_memory(self) -> CodecBatch:
        """In memory a CUDA device copies from by itself."""
        return self._map(lambda x: x.pin_memory() if isinstance(x, Tensor) else x)

    def _map(self, fn: Any) -> CodecBatch:
        values: dict[str, Any] = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return dataclasses.replace(self, **{name: fn(value) for name, value in values.items() if value is not None})


class VideoObjective(nn.Module):
    """The video VAE with its losses; with components where ``config.linear`` is not 0."""

    def __init__(self, vae: VideoVAE, config: VideoCodecRun, components: Components | None = None) -> None:
        super().__init__()
        self.vae, self.config, self.components = vae, config, components

    def forward(self, batch: CodecBatch) -> Losses:
        """Losses of a batch: ``loss``, ``absolute``, ``squared``, ``motion``, ``kl`` and, with components, ``linear``."""
        mean, log_variance = self.vae.posterior(batch.clips)
        posterior = Posterior(mean, log_variance.clamp(*LOG_VARIANCE))
        z = posterior.mean + (0.5 * posterior.log_variance).exp() * batch.noise
        error = self.vae.decode(self.vae.normalise(z), clamp=False) - batch.clips
        assert batch.weight is not None
        c, weight = self.config, batch.weight
        terms = {"absolute": (weight * error.abs()).mean(), "squared": (weight * error.square()).mean()}
        terms["motion"] = (weight * error.diff(dim=2).abs()).mean() if error.shape[2] > 1 else error.new_zeros(())
        terms["kl"] = posterior.kl().mean()
        loss = terms["absolute"] + c.squared * terms["squared"] + c.motion * terms["motion"] + c.kl * terms["kl"]
        if self.components is not None:
            terms["linear"] = (posterior.mean - self.components.of(batch.clips)).square().mean()
            loss = loss + c.linear * terms["linear"]
        return {"loss": loss, **{name: term.detach() for name, term in terms.items()}}


class AudioObjective(nn.Module):
    """The audio VAE and, if the codec has one to train, the vocoder with their losses; neither's gradient reaches the other."""

    def __init__(self, codec: AudioCodec, config: AudioCodecRun) -> None:
        super().__init__()
        self.codec, self.config = codec, config

    def forward(self, batch: CodecBatch) -> Losses:
        """Losses of a batch: ``loss``, ``vae``, ``kl`` and, of the vocoder, ``spectral`` and ``mel``."""
        assert batch.decoded is not None
        vae, c = self.codec.audio_vae, self.config
        mel_BML = log_mel(batch.clips, self.codec.config.mel)
        posterior = vae.posterior(mel_BML)
        decoded_BML = vae.decode(posterior.mean + (0.5 * posterior.log_variance).exp() * batch.noise)
        reconstruction = ((decoded_BML - mel_BML) / vae.data_std).abs().mean()
        kl = posterior.kl().mean()
        loss = reconstruction + c.kl * kl
        terms = {"vae": reconstruction, "kl": kl}
        if isinstance(self.codec.vocoder, Vocoder):
            source = torch.where(batch.decoded[:, None, None], decoded_BML.detach(), mel_BML)
            spectral, mel = self._vocoder(self.codec.vocoder, source, batch)
            loss = loss + spectral + c.mel * mel
            terms |= {"spectral": spectral, "mel": mel}
        return {"loss": loss, **{name: term.detach() for name, term in terms.items()}}

    def _vocoder(self, vocoder: Vocoder, mel_BML: Tensor, batch: CodecBatch) -> tuple[Tensor, Tensor]:
        """The vocoder's losses on a piece of each clip."""
        assert batch.starts is not None
        wave_BS, firsts = batch.clips, batch.starts.tolist()
        hop, length = self.codec.config.mel.hop, min(self.config.crop_frames, mel_BML.shape[2])
        pieces = torch.stack([mel[:, s : s + length] for mel, s in zip(mel_BML, firsts, strict=True)])
        truth = torch.stack([wave[s * hop : (s + length) * hop] for wave, s in zip(wave_BS, firsts, strict=True)])
        made = vocoder(pieces)[:, 0]
        spectral = torch.stack([spectral_distance(made, truth, window) for window in self.config.windows]).mean()
        # Added, not a bound: see spectral_distance.
        a, b = ((10 ** log_mel(wave, self.codec.config.mel) + 10**QUIET_MEL).log10() for wave in (made, truth))
        mel = (a - b).abs().mean()
        return spectral, mel


def train_video_codec(
    config: VideoCodecRun,
    clips: PackedClips,
    *,
    world: World | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Train a video codec.

    Returns:
        Its file, with averaged weights, written anew after each checkpoint.

    Raises:
        ValueError: see :func:`.loop.train`; or ``config.init`` is no video codec of this shape.
    """
    torch.manual_seed(config.run.seed)
    vae = VideoVAE(config.codec)
    if config.init is not None:
        load_into(vae, load_video_codec(config.init).state_dict(), what=f"the config's video codec ({config.init})")
    path = Path(config.run.output) / VIDEO_FILE

    def export(weights: Weights) -> None:
        measured = _copy(VideoVAE(config.codec), weights.whole())
        save_codec(path, with_video_statistics(measured, clips, config.statistics_clips, one_scale=config.linear > 0))

    draw = partial(_draw_video, config, clips, world=world or ALONE)
    phase = Phase(name="video codec", steps=config.steps, optimizer=config.optimizer, draw=draw)
    hooks = Hooks(export=export)
    objective = VideoObjective(vae, config, _components(config, clips) if config.linear else None)
    train(objective, vae, [phase], config, hooks, world=world, resume=resume, progress=progress)
    return path


def train_audio_codec(
    config: AudioCodecRun,
    clips: PackedClips,
    *,
    world: World | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Train an audio codec; as :func:`train_video_codec`."""
    codec = AudioCodec(config.codec)
    source = torch.Generator().manual_seed(config.run.seed)
    codec.audio_vae.init_weights(source)
    if isinstance(codec.vocoder, Vocoder):
        codec.vocoder.init_weights(source)
    mean, std = _moments(log_mel(_waves(clips, config.statistics_clips), config.codec.mel))
    codec.audio_vae.set_mel_statistics(mean, std.clamp(min=0.1))
    path = Path(config.run.output) / AUDIO_FILE

    def export(weights: Weights) -> None:
        measured = _copy(AudioCodec(config.codec), weights.whole())
        save_codec(path, with_audio_statistics(measured, clips, config.statistics_clips))

    draw = partial(_draw_audio, config, clips, world=world or ALONE)
    phase = Phase(name="audio codec", steps=config.steps, optimizer=config.optimizer, draw=draw)
    hooks = Hooks(export=export)
    train(AudioObjective(codec, config), codec, [phase], config, hooks, world=world, resume=resume, progress=progress)
    return path


@torch.no_grad()
def with_video_statistics(vae: VideoVAE, clips: PackedClips, count: int, *, one_scale: bool = False) -> VideoVAE:
    """The same codec, its latents of unit variance on these clips.

    Args:
        vae: the codec.
        clips: to measure on.
        count: of them.
        one_scale: the mean of the channels' variances is 1, instead of each; what scale they have to each other stays.
    """
    picked = _spread(clips.having("frames"), count)
    groups = [picked[n : n + MEASURED_AT_ONCE] for n in range(0, len(picked), MEASURED_AT_ONCE)]
    moments = [vae.posterior(_frames(clips, group, 0, clips.spec.frames)) for group in groups]
    raw, log_variance = (torch.cat(parts).flatten(2) for parts in zip(*moments, strict=True))
    mean, std = _moments_of_draws(Posterior(raw, log_variance.clamp(*LOG_VARIANCE)))
    if one_scale:
        std = std.square().mean().sqrt().expand_as(std)
    config = dataclasses.replace(vae.config, mean=tuple(mean.tolist()), std=tuple(std.tolist()))
    return _copy(VideoVAE(config), vae.state_dict())


@torch.no_grad()
def with_audio_statistics(codec: AudioCodec, clips: PackedClips, count: int) -> AudioCodec:
    """The same codec, its latents of unit variance on these clips."""
    vae = codec.audio_vae
    vae.set_latent_statistics(torch.zeros_like(vae.latent_mean), torch.ones_like(vae.latent_std))
    waves = _whole_latents(_waves(clips, count), codec.config.hop)
    vae.set_latent_statistics(*_moments_of_draws(vae.posterior(log_mel(waves, codec.config.mel))))
    return codec


def _components(config: VideoCodecRun, clips: PackedClips) -> Components:
    """Of some clips, what moves weighing more, as in the other losses."""
    picked = _spread(clips.having("frames"), COMPONENT_CLIPS)
    groups = (picked[n : n + MEASURED_AT_ONCE] for n in range(0, len(picked), MEASURED_AT_ONCE))
    frames = (_frames(clips, group, 0, clips.spec.frames) for group in groups)
    return principal_components(((x, _where_it_moves(x, config.focus)) for x in frames), config.codec.channels)


def _draw_video(config: VideoCodecRun, clips: PackedClips, step: int, *, world: World = ALONE) -> CodecBatch:
    seen = clips.having("frames")
    picked = [seen[n] for n in order(len(seen), step, config.run.batch, config.run.seed)]
    crops = generator(config.run.seed, step, CROP_STREAM)
    start = int(torch.randint(0, config.data.frames - config.crop_frames + 1, (), generator=crops))
    spec = clips.spec
    shape = (len(picked), config.codec.channels, (config.crop_frames + 3) // 4, spec.height // 16, spec.width // 16)
    frames = _frames(clips, picked, start, config.crop_frames)
    whole = CodecBatch(
        names=tuple(clips.entries[clip].file for clip in picked),
        clips=frames,
        noise=torch.randn(shape, generator=generator(config.run.seed, step, NOISE_STREAM)),
        weight=_where_it_moves(frames, config.focus),
    )
    return whole.part(world.rank, world.size)  # its weights are those of the whole batch


def _draw_audio(config: AudioCodecRun, clips: PackedClips, step: int, *, world: World = ALONE) -> CodecBatch:
    picked = order(len(clips), step, config.run.batch, config.run.seed)
    codec = config.codec
    waves = _whole_latents(clips.rows(picked, "wave").float() / 32767, codec.hop)
    batch = len(picked)
    crops = generator(config.run.seed, step, CROP_STREAM)
    shape = (batch, codec.vae.latent_channels, waves.shape[1] // codec.hop)
    whole = CodecBatch(
        names=tuple(clips.entries[clip].file for clip in picked),
        clips=waves,
        noise=torch.randn(shape, generator=generator(config.run.seed, step, NOISE_STREAM)),
        starts=_draw_starts(waves, config, crops),
        decoded=torch.rand(batch, generator=crops) < config.decoded,
    )
    return whole.part(world.rank, world.size)


def _draw_starts(waves_BS: Tensor, config: AudioCodecRun, source: torch.Generator) -> Tensor:
    """Where the vocoder's pieces begin, (B,): anywhere, but oftener where there is sound; silence teaches little."""
    power_BL = waves_BS.unflatten(1, (-1, config.codec.mel.hop)).square().mean(2)
    length = min(config.crop_frames, power_BL.shape[1])
    inside = power_BL.unfold(1, length, 1).mean(2)
    weight = inside.sqrt() + 0.1 * inside.amax(1, keepdim=True).sqrt() + 1e-6
    return torch.multinomial(weight, 1, generator=source)[:, 0]


def _frames(clips: PackedClips, picked: list[int], start: int, count: int) -> Tensor:
    """Frames of some clips, (B, 3, count, H, W) in [-1, 1]."""
    return torch.stack([clips.row(clip, "frames")[:, start : start + count] for clip in picked]).float() / 127.5 - 1


def _waves(clips: PackedClips, count: int) -> Tensor:
    return clips.rows(_spread(clips.having("wave"), count), "wave").float() / 32767


def _whole_latents(waves: Tensor, hop: int) -> Tensor:
    """Silence added up to whole latents, as the codec does."""
    return nn.functional.pad(waves, (0, -waves.shape[1] % hop))


def _spread(clips: Sequence[int], count: int) -> list[int]:
    """At most ``count`` of some clips, evenly."""
    count = min(len(clips), count)
    return [clips[n * len(clips) // count] for n in range(count)]


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each channel of (B, C, n)."""
    return x.mean((0, 2)), x.std((0, 2))


def _moments_of_draws(posterior: Posterior) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each channel of draws from posteriors (B, C, n); positive, as a posterior's variance is."""
    mean, std = _moments(posterior.mean)
    return mean, (std.square() + posterior.log_variance.exp().mean((0, 2))).sqrt()


def _where_it_moves(clips_BCFHW: Tensor, focus: float) -> Tensor:
    """Weights (B, 1, 1, H, W) of mean 1: ``1 + focus`` times how far a pixel goes up and down in the clip, before the mean."""
    swing = (clips_BCFHW.amax(2, keepdim=True) - clips_BCFHW.amin(2, keepdim=True)).amax(1, keepdim=True)
    weight = 1 + focus * swing
    return weight / weight.mean()


def _copy(module: Any, weights: Mapping[str, Tensor]) -> Any:
    module.load_state_dict({name: value.detach().cpu() for name, value in weights.items()})
    return module.requires_grad_(False).eval()

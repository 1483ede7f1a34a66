"""Sound to latents and back: mel spectrogram, VAE and vocoder behind two functions.

What makes lengths exact is here and explicit: a waveform is padded with silence to whole latents before encoding, and cut
to the wanted number of samples after decoding. The VAE runs on the whole clip, as its attention sees all of it and its input
is small (about 1.5 MB a second inside, at full size, float32); the vocoder, which costs nearly all time and memory, runs in
pieces with their whole context, so that the pieces equal the whole.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ..audio_ops import resample
from ..progress import Progress
from ..runtime import Runtime
from ..types import Audio
from .audio_vae import AudioVAE, AudioVAEConfig, Posterior
from .inversion import Inversion
from .mel import MelConfig, log_mel
from .vocoder import CHUNK_FRAMES, Vocoder, VocoderConfig

# B batch, S samples, C latent channels, L latents


@dataclass(frozen=True, kw_only=True)
class AudioCodecConfig:
    """The shapes of the three parts, refused where they do not fit together.

    Attributes:
        mel: the spectrogram.
        vae: the autoencoder of spectrograms.
        vocoder: a trained vocoder; None where the waveform is computed from the spectrogram (see :mod:`.inversion`).
    """

    mel: MelConfig = field(default_factory=MelConfig)
    vae: AudioVAEConfig = field(default_factory=AudioVAEConfig)
    vocoder: VocoderConfig | None = field(default_factory=VocoderConfig)

    def __post_init__(self) -> None:
        if self.mel.bins != self.vae.mel_bins:
            raise ValueError(f"mel and VAE have as many bins, got {self.mel.bins} and {self.vae.mel_bins}")
        if self.vocoder is None:
            return
        if self.mel.bins != self.vocoder.mel_bins:
            raise ValueError(f"mel and vocoder have as many bins, got {self.mel.bins} and {self.vocoder.mel_bins}")
        if self.mel.hop != self.vocoder.hop:
            raise ValueError(f"the vocoder's rates multiply to the mel hop {self.mel.hop}, got {self.vocoder.hop}")

    @property
    def hop(self) -> int:
        """Samples a latent covers."""
        return self.mel.hop * self.vae.stride


PRESETS = {
    "mmaudio-16k": AudioCodecConfig(),
    "tiny": AudioCodecConfig(
        vae=AudioVAEConfig(width=32),
        # Fewer, larger steps than the full size: halving 1536 channels six times leaves 24, halving 192 six times would leave
        # 3 at the rate where the waveform is made. Chosen for its speed: 0.13 s a second on one CPU core, against 0.28 s for
        # rates 8, 8, 2, 2 with all three block kernels at the same number of weights.
        vocoder=VocoderConfig(
            width=192,
            rates=(4, 4, 4, 4),
            rate_kernels=(8, 8, 8, 8),
            block_kernels=(3, 7),
            block_dilations=((1, 3, 5), (1, 3, 5)),
        ),
    ),
}


def audio_codec_preset(name: str) -> AudioCodecConfig:
    """The config of a named size: ``mmaudio-16k`` (the published weights') or ``tiny`` (trains on a CPU).

    Raises:
        ValueError: there is no such preset.
    """
    if name not in PRESETS:
        raise ValueError(f"no audio codec preset {name!r}; there are {', '.join(PRESETS)}")
    return PRESETS[name]


class AudioCodec(nn.Module):
    """Audio to latents of unit variance and back.

    Keys of its state are ``audio_vae.*`` and, where it is trained, ``vocoder.*``, as in all-in-one files. Training goes through
    :meth:`posterior`, ``audio_vae.decode`` and ``vocoder``, which are differentiable; :meth:`encode` and :meth:`decode` are
    for inference.
    """

    def __init__(self, config: AudioCodecConfig, runtime: Runtime | None = None) -> None:
        super().__init__()
        runtime = runtime or Runtime()
        self.config = config
        self.audio_vae = AudioVAE(config.vae, runtime)
        self.vocoder = Inversion(config.mel) if config.vocoder is None else Vocoder(config.vocoder, runtime)

    @property
    def device(self) -> torch.device:
        """Where the weights are, and where inputs are moved to."""
        return self.audio_vae.decoder.conv_in.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """What the weights are, and what is computed in; the mel spectrogram is made in float32 whatever this is."""
        return self.audio_vae.decoder.conv_in.weight.dtype

    def latents(self, samples: int) -> int:
        """Latents that cover ``samples`` samples at the codec's rate; ``ClipSpec.audio_latents`` of a clip's samples."""
        return math.ceil(samples / self.config.hop)

    def waveform(self, audio: Audio) -> Tensor:
        """Audio as the codec hears it: one channel, its own rate, silence added up to whole latents.

        Args:
            audio: any number of channels (they are averaged) at any rate from 1 to 768 kHz.

        Returns:
            (B, L * hop), float32, on the codec's device; differentiable where the audio has the codec's rate.

        Raises:
            ValueError: no sample, values that are not finite or not floats, or another rate.
        """
        wave = audio.waveform
        if not wave.is_floating_point():
            raise ValueError(f"audio to encode is floats in [-1, 1], got {wave.dtype}")
        if wave.numel() == 0:
            raise ValueError(f"there is no sound to encode, the waveform is {tuple(wave.shape)}")
        if not bool(torch.isfinite(wave).all()):
            raise ValueError("the audio to encode holds NaN or infinite samples")
        mono = Audio(wave.float().mean(dim=1, keepdim=True), audio.sample_rate)
        wave = resample(mono, self.config.mel.sample_rate).waveform[:, 0].to(self.device)
        missing = self.latents(wave.shape[1]) * self.config.hop - wave.shape[1]
        return torch.nn.functional.pad(wave, (0, missing))

    def posterior(self, audio: Audio) -> Posterior:
        """The latents sound may have come from; see :meth:`waveform` for what is accepted."""
        return self.audio_vae.posterior(log_mel(self.waveform(audio), self.config.mel).to(self.dtype))

    @torch.no_grad()
    def encode(self, audio: Audio, *, progress: Progress | None = None) -> Tensor:
        """Turn sound into latents: the posterior's mean.

        Args:
            audio: any number of channels (they are averaged) at any rate.
            progress: told after the spectrogram and after the VAE.

        Returns:
            (B, 20, L), unit variance; L covers the last sample, the rest of it is silence.

        Raises:
            ValueError: no sample, values that are not finite or not floats, or an impossible rate.
        """
        mel = log_mel(self.waveform(audio), self.config.mel)
        if progress:
            progress(1, 2)
        latents = self.audio_vae.encode(mel.to(self.dtype))
        if progress:
            progress(2, 2)
        return latents

    @torch.no_grad()
    def decode(
        self,
        latents: Tensor,
        *,
        samples: int | None = None,
        chunk: int = CHUNK_FRAMES,
        progress: Progress | None = None,
    ) -> Audio:
        """Turn latents into sound.

        Args:
            latents: (B, 20, L), unit variance, 31.25 Hz.
            samples: how many to keep, from the start (``ClipSpec.samples``); None for all L * hop.
            chunk: mel frames the vocoder turns into sound at once; bounds memory, does not change the result.
            progress: told after the VAE and after every piece of the vocoder.

        Returns:
            Waveform (B, 1, samples) in [-1, 1], float32, at 16 kHz.

        Raises:
            ValueError: another rank or channel count, latents that are not finite, or more samples than they hold.
        """
        if not latents.is_floating_point() or not bool(torch.isfinite(latents).all()):
            raise ValueError("the audio latents to decode are not finite floats: sampling diverged, or they were never set")
        mel = self.audio_vae.decode(latents.to(self.device, self.dtype)).to(self.dtype)
        whole = latents.shape[2] * self.config.hop
        if samples is not None and not 0 < samples <= whole:
            raise ValueError(f"{latents.shape[2]} audio latents hold {whole} samples, {samples} were asked for")
        pieces = math.ceil(mel.shape[2] / max(chunk, 1))
        if progress:
            progress(1, pieces + 1)
        told: Progress | None = (lambda done, total: progress(done + 1, total + 1)) if progress else None
        wave = self.vocoder.stream(mel, chunk=chunk, progress=told)
        return Audio(wave[:, :, :samples].float(), self.config.mel.sample_rate)

"""MMAudio's audio VAE: log-mel spectrogram to 20-channel latents at half its frame rate, and back.

A 1-D autoencoder after EDM2's magnitude-preserving design: convolutions have rows of unit length and no bias, sums keep the
variance, every residual block starts with a norm over channels, activations are clipped. One attention layer in the middle
sees the whole clip; everything else is local. The rows' normalisation is a training device: the modules here hold plain
weights, and reading a file folds it (see ``weights.audio_codec``). Attribute names are those of the published files.

Latents. MMAudio's own diffusion network carries a mean and a standard deviation and normalises the VAE's latents by them.
Ovi's audio tower, the start point here, does not: it denoises the raw latents of this VAE, noise of unit variance in, raw
latents out. So for the published weights ``latent_mean`` is 0 and ``latent_std`` 1, and these latents are Ovi's. A VAE trained
here has them set from its data, so that its latents have unit variance.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..records import check_most
from ..runtime import Runtime
from .precision import half_safe

# B batch, M mel bins, T mel frames, C latent channels, L latents, W channels inside

BRANCH_SHARE = 0.3  # of a residual branch in its sum
NORM_EPS = 1e-4
CLIP = 256.0
LOG_VARIANCE = (-30.0, 20.0)
SILU_GAIN = 1 / 0.596  # silu of a unit normal has this much less than unit variance
QUERY_BLOCK = 4096  # queries attended at once; bounds the attention of a long recording without changing it

# Statistics of the log-mel bins the published VAE was trained with.
MMAUDIO_MEL_MEAN = (
    *(-1.6058, -1.3676, -1.2520, -1.2453, -1.2078, -1.2224, -1.2419, -1.2439, -1.2922, -1.2927),
    *(-1.3170, -1.3543, -1.3401, -1.3836, -1.3907, -1.3912, -1.4313, -1.4152, -1.4527, -1.4728),
    *(-1.4568, -1.5101, -1.5051, -1.5172, -1.5623, -1.5373, -1.5746, -1.5687, -1.6032, -1.6131),
    *(-1.6081, -1.6331, -1.6489, -1.6489, -1.6700, -1.6738, -1.6953, -1.6969, -1.7048, -1.7280),
    *(-1.7361, -1.7495, -1.7658, -1.7814, -1.7889, -1.8064, -1.8221, -1.8377, -1.8417, -1.8643),
    *(-1.8857, -1.8929, -1.9173, -1.9379, -1.9531, -1.9673, -1.9824, -2.0042, -2.0215, -2.0436),
    *(-2.0766, -2.1064, -2.1418, -2.1855, -2.2319, -2.2767, -2.3161, -2.3572, -2.3954, -2.4282),
    *(-2.4659, -2.5072, -2.5552, -2.6074, -2.6584, -2.7107, -2.7634, -2.8266, -2.8981, -2.9673),
)
MMAUDIO_MEL_STD = (
    *(1.0291, 1.0411, 1.0043, 0.9820, 0.9677, 0.9543, 0.9450, 0.9392, 0.9343, 0.9297),
    *(0.9276, 0.9263, 0.9242, 0.9254, 0.9232, 0.9281, 0.9263, 0.9315, 0.9274, 0.9247),
    *(0.9277, 0.9199, 0.9188, 0.9194, 0.9160, 0.9161, 0.9146, 0.9161, 0.9100, 0.9095),
    *(0.9145, 0.9076, 0.9066, 0.9095, 0.9032, 0.9043, 0.9038, 0.9011, 0.9019, 0.9010),
    *(0.8984, 0.8983, 0.8986, 0.8961, 0.8962, 0.8978, 0.8962, 0.8973, 0.8993, 0.8976),
    *(0.8995, 0.9016, 0.8982, 0.8972, 0.8974, 0.8949, 0.8940, 0.8947, 0.8936, 0.8939),
    *(0.8951, 0.8956, 0.9017, 0.9167, 0.9436, 0.9690, 1.0003, 1.0225, 1.0381, 1.0491),
    *(1.0545, 1.0604, 1.0761, 1.0929, 1.1089, 1.1196, 1.1176, 1.1156, 1.1117, 1.1070),
)


@dataclass(frozen=True, kw_only=True)
class AudioVAEConfig:
    """The VAE's shape; the defaults are MMAudio's at 16 kHz.

    Attributes:
        mel_bins: of the spectrogram.
        latent_channels: of the latents.
        width: channels of the first level.
        multipliers: channels of each level, in widths.
        blocks: residual blocks a level of the encoder; the decoder has one more.
        halvings: levels after which the encoder halves the rate; the last level cannot.
    """

    mel_bins: int = 80
    latent_channels: int = 20
    width: int = 384
    multipliers: tuple[int, ...] = (1, 2, 4)
    blocks: int = 2
    halvings: tuple[int, ...] = (0,)

    def __post_init__(self) -> None:
        if min(self.mel_bins, self.latent_channels, self.width, self.blocks, *self.multipliers, len(self.multipliers)) < 1:
            raise ValueError(f"audio VAE sizes are at least 1, got {self}")
        check_most(
            self, "audio VAE", mel_bins=4096, latent_channels=4096, width=1 << 16, multipliers=1024, blocks=256, halvings=64
        )
        if len(set(self.halvings)) != len(self.halvings) or any(
            not 0 <= level < len(self.multipliers) - 1 for level in self.halvings
        ):
            raise ValueError(f"halvings are different levels of 0 .. {len(self.multipliers) - 2}, got {self.halvings}")

    @property
    def stride(self) -> int:
        """Mel frames a latent covers."""
        return int(2 ** len(self.halvings))

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level."""
        return tuple(self.width * multiplier for multiplier in self.multipliers)


@dataclass(frozen=True)
class Posterior:
    """A diagonal Gaussian over latents.

    Attributes:
        mean: (B, C, L).
        log_variance: (B, C, L).
    """

    mean: Tensor
    log_variance: Tensor

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """One draw, (B, C, L), differentiable in mean and variance."""
        noise = torch.randn(self.mean.shape, generator=generator, device=self.mean.device, dtype=self.mean.dtype)
        return self.mean + (0.5 * self.log_variance).exp() * noise

    def kl(self) -> Tensor:
        """Divergence from the unit Gaussian, (B, C, L), nats."""
        return 0.5 * (self.mean.square() + self.log_variance.exp() - 1 - self.log_variance)


class AudioVAE(nn.Module):
    """The autoencoder with its normalisations: of mel bins on one side, of latents on the other.

    Buffers (1, bins or channels, 1): ``data_mean``, ``data_std``, ``latent_mean``, ``latent_std``.
    """

    data_mean: Tensor
    data_std: Tensor
    latent_mean: Tensor
    latent_std: Tensor

    def __init__(self, config: AudioVAEConfig, runtime: Runtime | None = None) -> None:
        super().__init__()
        runtime = runtime or Runtime()
        self.config = config
        published = config.mel_bins == len(MMAUDIO_MEL_MEAN)
        mel_mean: Sequence[float] = MMAUDIO_MEL_MEAN if published else (0.0,) * config.mel_bins
        mel_std: Sequence[float] = MMAUDIO_MEL_STD if published else (1.0,) * config.mel_bins
        latents = config.latent_channels
        for name, values in (
            ("data_mean", mel_mean),
            ("data_std", mel_std),
            ("latent_mean", (0.0,) * latents),
            ("latent_std", (1.0,) * latents),
        ):
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32, device=runtime.device).reshape(1, -1, 1))
        self.encoder = Encoder(config, runtime)
        self.decoder = Decoder(config, runtime)

    def init_weights(self, generator: torch.Generator | None = None) -> None:
        """Fill every weight for training from scratch: rows of unit length, gains as published (0: a factor of 1)."""
        with torch.no_grad():
            for parameter in self.parameters():
                if parameter.ndim < 3:
                    parameter.zero_()
                    continue
                rows = parameter.normal_(generator=generator).flatten(1)
                rows /= rows.norm(dim=1, keepdim=True)

    def set_mel_statistics(self, mean: Tensor, std: Tensor) -> None:
        """Normalise the mel bins by these, each (mel_bins,), from now on."""
        _set_statistics(self.data_mean, self.data_std, mean, std)

    def set_latent_statistics(self, mean: Tensor, std: Tensor) -> None:
        """Normalise the latents by these, each (latent_channels,), measured while they were 0 and 1.

        Raises:
            ValueError: another length, or a std that is not positive.
        """
        _set_statistics(self.latent_mean, self.latent_std, mean, std)

    def posterior(self, mel: Tensor) -> Posterior:
        """The latents a spectrogram may have come from, normalised; differentiable.

        Args:
            mel: (B, mel_bins, T), log10 of magnitudes, T a multiple of ``config.stride``.

        Returns:
            Gaussian over (B, latent_channels, T / stride).

        Raises:
            ValueError: another rank, bin count or length.
        """
        stride = self.config.stride
        if mel.ndim != 3 or mel.shape[1] != self.config.mel_bins or mel.shape[2] < 1 or mel.shape[2] % stride:
            raise ValueError(
                f"the audio VAE takes (batch, {self.config.mel_bins}, a multiple of {stride} frames), "
                f"got shape {tuple(mel.shape)}"
            )
        normal = (mel - self.data_mean.to(mel)) / self.data_std.to(mel)
        mean, log_variance = half_safe(self.encoder, normal, what="audio VAE's encoder").chunk(2, dim=1)
        std = self.latent_std.to(mean)
        return Posterior((mean - self.latent_mean.to(mean)) / std, log_variance.clamp(*LOG_VARIANCE) - 2 * std.log())

    def encode(self, mel: Tensor) -> Tensor:
        """The posterior's mean, (B, latent_channels, T / stride); see :meth:`posterior`."""
        return self.posterior(mel).mean

    def decode(self, latents: Tensor) -> Tensor:
        """The spectrogram of latents; differentiable.

        Args:
            latents: (B, latent_channels, L), unit variance.

        Returns:
            (B, mel_bins, L * stride), log10 of magnitudes.

        Raises:
            ValueError: another rank or channel count, or no latent.
        """
        if latents.ndim != 3 or latents.shape[1] != self.config.latent_channels or latents.shape[2] < 1:
            raise ValueError(
                f"audio latents are (batch, {self.config.latent_channels}, length), got shape {tuple(latents.shape)}"
            )
        raw = latents * self.latent_std.to(latents) + self.latent_mean.to(latents)
        mel = half_safe(self.decoder, raw, what="audio VAE's decoder")
        return mel * self.data_std.to(mel) + self.data_mean.to(mel)


def _set_statistics(mean_buffer: Tensor, std_buffer: Tensor, mean: Tensor, std: Tensor) -> None:
    if mean.numel() != mean_buffer.numel() or std.numel() != std_buffer.numel():
        raise ValueError(f"statistics are {mean_buffer.numel()} means and stds, got {mean.numel()} and {std.numel()}")
    if not bool(torch.isfinite(mean).all() and torch.isfinite(std).all() and (std > 0).all()):
        raise ValueError("statistics are finite means and positive stds")
    with torch.no_grad():
        mean_buffer.copy_(mean.reshape(mean_buffer.shape))
        std_buffer.copy_(std.reshape(std_buffer.shape))


class Encoder(nn.Module):
    """Normalised mel (B, M, T) to moments (B, 2 C, L)."""

    def __init__(self, config: AudioVAEConfig, runtime: Runtime) -> None:
        super().__init__()
        self.conv_in = _conv(config.mel_bins, config.width, 3, runtime)
        self.down = nn.ModuleList()
        before = config.width
        for level, width in enumerate(config.widths):
            stage = Stage(before, width, config.blocks, runtime)
            if level in config.halvings:
                stage.downsample = Halve(width, runtime)
            self.down.append(stage)
            before = width
        self.mid = Middle(before, runtime)
        self.conv_out = _conv(before, 2 * config.latent_channels, 3, runtime)
        self.learnable_gain = _scalar(runtime)

    def forward(self, mel: Tensor) -> Tensor:
        """Encode; see the class."""
        h = self.conv_in(mel)
        for stage in self.down:
            h = stage(h)
        return self.conv_out(_silu(self.mid(h))) * (self.learnable_gain.to(h) + 1)


class Decoder(nn.Module):
    """Raw latents (B, C, L) to normalised mel (B, M, T); the levels run from the last to the first."""

    def __init__(self, config: AudioVAEConfig, runtime: Runtime) -> None:
        super().__init__()
        before = config.widths[-1]
        self.conv_in = _conv(config.latent_channels, before, 3, runtime)
        self.mid = Middle(before, runtime)
        stages = []
        for level in reversed(range(len(config.widths))):
            stage = Stage(before, config.widths[level], config.blocks + 1, runtime)
            if level - 1 in config.halvings:
                stage.upsample = Double(config.widths[level], runtime)
            stages.append(stage)
            before = config.widths[level]
        self.up = nn.ModuleList(reversed(stages))
        self.conv_out = _conv(before, config.mel_bins, 3, runtime)
        self.learnable_gain = _scalar(runtime)

    def forward(self, latents: Tensor) -> Tensor:
        """Decode; see the class."""
        h = self.mid(self.conv_in(latents))
        for stage in reversed(self.up):
            h = stage(h)
        return self.conv_out(_silu(h)) * (self.learnable_gain.to(h) + 1)


class Stage(nn.Module):
    """The residual blocks of one level, and its change of rate where it has one."""

    downsample: Halve | None
    upsample: Double | None

    def __init__(self, before: int, width: int, blocks: int, runtime: Runtime) -> None:
        super().__init__()
        self.block = nn.ModuleList([ResidualBlock(before if i == 0 else width, width, runtime) for i in range(blocks)])
        self.downsample = None
        self.upsample = None

    def forward(self, h: Tensor) -> Tensor:
        """(B, before, T) to (B, width, T, half or double)."""
        for block in self.block:
            h = block(h).clamp(-CLIP, CLIP)
        for resample in (self.downsample, self.upsample):
            if resample is not None:
                h = resample(h)
        return h


class Middle(nn.Module):
    """Block, attention over the whole clip, block."""

    def __init__(self, width: int, runtime: Runtime) -> None:
        super().__init__()
        self.block_1 = ResidualBlock(width, width, runtime)
        self.attn_1 = Attention(width, runtime)
        self.block_2 = ResidualBlock(width, width, runtime)

    def forward(self, h: Tensor) -> Tensor:
        """(B, W, L) to the same shape."""
        return self.block_2(self.attn_1(self.block_1(h))).clamp(-CLIP, CLIP)


class ResidualBlock(nn.Module):
    """Norm over channels, then two convolutions around a residual stream."""

    def __init__(self, before: int, width: int, runtime: Runtime) -> None:
        super().__init__()
        self.conv1 = _conv(before, width, 3, runtime)
        self.conv2 = _conv(width, width, 3, runtime)
        self.nin_shortcut = None if before == width else _conv(before, width, 1, runtime)

    def forward(self, x: Tensor) -> Tensor:
        """(B, before, T) to (B, width, T)."""
        x = _unit(x, dim=1)
        h = self.conv2(_silu(self.conv1(_silu(x))))
        return _blend(x if self.nin_shortcut is None else self.nin_shortcut(x), h)


class Attention(nn.Module):
    """One head over all latents; queries, keys and values are each of unit size, and interleaved in ``qkv``."""

    def __init__(self, width: int, runtime: Runtime) -> None:
        super().__init__()
        self.qkv = _conv(width, 3 * width, 1, runtime)
        self.proj_out = _conv(width, width, 1, runtime)
        self.attention = runtime.attention

    def forward(self, x: Tensor) -> Tensor:
        """(B, W, L) to the same shape."""
        qkv = _unit(self.qkv(x).unflatten(1, (-1, 3)), dim=1)
        q, k, v = (part.transpose(1, 2)[:, None].contiguous() for part in qkv.unbind(2))  # each (B, one head, L, W)
        h = torch.cat([self.attention(queries, k, v) for queries in q.split(QUERY_BLOCK, dim=2)], dim=2)
        return _blend(x, self.proj_out(h[:, 0].transpose(1, 2)))


class Halve(nn.Module):
    """Half the rate: pairs are averaged, between two pointwise convolutions."""

    def __init__(self, width: int, runtime: Runtime) -> None:
        super().__init__()
        self.conv1 = _conv(width, width, 1, runtime)
        self.conv2 = _conv(width, width, 1, runtime)

    def forward(self, x: Tensor) -> Tensor:
        """(B, W, T) to (B, W, T / 2)."""
        return self.conv2(F.avg_pool1d(self.conv1(x), 2))


class Double(nn.Module):
    """Double the rate: every frame twice, then a convolution."""

    def __init__(self, width: int, runtime: Runtime) -> None:
        super().__init__()
        self.conv = _conv(width, width, 3, runtime)

    def forward(self, x: Tensor) -> Tensor:
        """(B, W, T) to (B, W, 2 T)."""
        return self.conv(x.repeat_interleave(2, dim=2))


def _conv(inputs: int, outputs: int, kernel: int, runtime: Runtime) -> Any:
    return runtime.layers.Conv1d(inputs, outputs, kernel, padding=kernel // 2, bias=False, **runtime.factory)


def _scalar(runtime: Runtime) -> nn.Parameter:
    return nn.Parameter(torch.zeros((), **runtime.factory))


def _silu(x: Tensor) -> Tensor:
    return F.silu(x) * SILU_GAIN


def _unit(x: Tensor, dim: int) -> Tensor:
    """Scale to a root mean square of 1 along ``dim``; summed in float32, where float16 would overflow."""
    size = torch.linalg.vector_norm(x, dim=dim, keepdim=True, dtype=torch.promote_types(x.dtype, torch.float32))
    return x / (size * x.shape[dim] ** -0.5 + NORM_EPS).to(x.dtype)


def _blend(x: Tensor, h: Tensor) -> Tensor:
    """A weighted sum that keeps the variance of two independent terms."""
    return x.lerp(h, BRANCH_SHARE) / math.hypot(1 - BRANCH_SHARE, BRANCH_SHARE)

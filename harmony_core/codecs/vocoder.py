"""BigVGAN: log-mel spectrogram to waveform.

A stack of transposed convolutions raises 62.5 frames a second to 16 000 samples a second. After each, residual blocks with
different kernels run side by side and are averaged; their activation is periodic (snake) and is applied at twice the rate
between two low-pass filters, so that the harmonics it makes do not fold back.

Attribute names are those of the published files, which is why their key map is short. Weight normalisation is a training
device: the modules here hold plain weights, and reading a file folds it (see ``weights.audio_codec``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..progress import Progress
from ..records import LONGEST, check_most
from ..runtime import Runtime
from .precision import half_safe

# B batch, M mel bins, T mel frames, S samples, W channels

EDGE_KERNEL = 7  # of the first and the last convolution
FILTER_TAPS = 12
FILTER_HALF = FILTER_TAPS // 2
CUTOFF = 0.25  # of the doubled rate: what was Nyquist before doubling
TRANSITION = 0.3
ACTIVATION_REACH = 6  # samples an output sees each way: 3 by the raising filter, 3 by the lowering one
CHUNK_FRAMES = 512  # 8.2 s; the context adds 16 % of work at full size


@dataclass(frozen=True, kw_only=True)
class VocoderConfig:
    """The vocoder's shape; the defaults are MMAudio's at 16 kHz.

    Attributes:
        mel_bins: of the spectrogram.
        width: channels after the first convolution; every stage halves them.
        rates: by how much each stage multiplies the rate; their product is the mel hop.
        rate_kernels: kernel of each stage's transposed convolution.
        block_kernels: kernels of the residual blocks that run side by side.
        block_dilations: for each of those, the dilations of its layers.
    """

    mel_bins: int = 80
    width: int = 1536
    rates: tuple[int, ...] = (4, 4, 2, 2, 2, 2)
    rate_kernels: tuple[int, ...] = (8, 8, 4, 4, 4, 4)
    block_kernels: tuple[int, ...] = (3, 7, 11)
    block_dilations: tuple[tuple[int, ...], ...] = ((1, 3, 5), (1, 3, 5), (1, 3, 5))

    def __post_init__(self) -> None:
        check_most(self, "vocoder", mel_bins=4096, width=1 << 20, rates=4096, rate_kernels=1 << 14, block_kernels=1023)
        if any(len(dilations) > LONGEST or max(dilations, default=0) > 4096 for dilations in self.block_dilations):
            raise ValueError(f"vocoder.block_dilations are lists of at most {LONGEST} numbers, none above 4096")
        if not self.rates or len(self.rates) != len(self.rate_kernels):
            raise ValueError(f"vocoder.rates and rate_kernels are equally many, got {self.rates} and {self.rate_kernels}")
        if not self.block_kernels or len(self.block_kernels) != len(self.block_dilations):
            raise ValueError(
                f"vocoder.block_kernels and block_dilations are equally many, "
                f"got {self.block_kernels} and {self.block_dilations}"
            )
        if any(kernel < rate or (kernel - rate) % 2 for rate, kernel in zip(self.rates, self.rate_kernels, strict=True)):
            raise ValueError(f"each of vocoder.rate_kernels exceeds its rate by an even number, got {self.rate_kernels}")
        if any(kernel % 2 == 0 for kernel in self.block_kernels):
            raise ValueError(f"vocoder.block_kernels are odd, got {self.block_kernels}")
        if self.mel_bins < 1 or self.width < 1 or self.width % 2 ** len(self.rates):
            raise ValueError(
                f"vocoder.width is halved {len(self.rates)} times and so a multiple of {2 ** len(self.rates)}, got {self.width}"
            )

    @property
    def hop(self) -> int:
        """Samples a mel frame becomes."""
        return math.prod(self.rates)

    @property
    def context(self) -> int:
        """Mel frames each way that a frame's samples depend on: with so many around it, a piece is exact."""
        block = max(
            sum(2 * ACTIVATION_REACH + (kernel // 2) * (dilation + 1) for dilation in dilations)
            for kernel, dilations in zip(self.block_kernels, self.block_dilations, strict=True)
        )
        reach = EDGE_KERNEL // 2 + ACTIVATION_REACH
        for rate, kernel in zip(reversed(self.rates), reversed(self.rate_kernels), strict=True):
            after = kernel - 1 - (kernel - rate) // 2
            reach = math.ceil((reach + block + after) / rate)
        return reach + EDGE_KERNEL // 2


class Vocoder(nn.Module):
    """BigVGAN's generator."""

    def __init__(self, config: VocoderConfig, runtime: Runtime | None = None) -> None:
        super().__init__()
        runtime = runtime or Runtime()
        self.config = config
        layers, factory = runtime.layers, runtime.factory
        edge = EDGE_KERNEL // 2
        self.conv_pre = layers.Conv1d(config.mel_bins, config.width, EDGE_KERNEL, padding=edge, **factory)
        self.ups = nn.ModuleList()
        self.resblocks = nn.ModuleList()
        width = config.width
        for rate, kernel in zip(config.rates, config.rate_kernels, strict=True):
            padding = (kernel - rate) // 2
            up = layers.ConvTranspose1d(width, width // 2, kernel, rate, padding=padding, **factory)
            self.ups.append(nn.ModuleList([up]))  # a list of one: the published keys have a level for it
            width //= 2
            for block_kernel, dilations in zip(config.block_kernels, config.block_dilations, strict=True):
                self.resblocks.append(ResidualBlock(width, block_kernel, dilations, runtime))
        self.activation_post = SmoothSnake(width, runtime)
        self.conv_post = layers.Conv1d(width, 1, EDGE_KERNEL, padding=edge, **factory)

    def init_weights(self, generator: torch.Generator | None = None) -> None:
        """Fill every weight for training from scratch: a quiet, unclipped sound of any spectrogram; snakes at 1."""
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if parameter.ndim < 3:
                    parameter.zero_()
                    continue
                # a transposed convolution's weight is (in, out, kernel); each output meets kernel / rate = 2 of its taps
                fan_in = 2 * parameter.shape[0] if name.startswith("ups") else parameter[0].numel()
                # what ends a residual branch, or the whole network, starts small
                gain = 0.1 if "convs2" in name or name.startswith("conv_post") else 1.0
                parameter.normal_(std=gain * fan_in**-0.5, generator=generator)

    def forward(self, mel: Tensor) -> Tensor:
        """Sound of a spectrogram, whole; differentiable.

        Args:
            mel: (B, mel_bins, T), log10 of magnitudes.

        Returns:
            (B, 1, T * hop) in [-1, 1].

        Raises:
            ValueError: another rank or bin count, or no frame.
        """
        self._check(mel)
        x = self.conv_pre(mel)
        parallel = len(self.config.block_kernels)
        for stage in range(len(self.config.rates)):
            x = self.ups[stage][0](x)  # type: ignore[index]
            blocks = self.resblocks[stage * parallel : (stage + 1) * parallel]
            total = blocks[0](x)
            for block in blocks[1:]:
                total = total + block(x)
            x = total / parallel
        return self.conv_post(self.activation_post(x)).tanh()

    def stream(self, mel: Tensor, *, chunk: int = CHUNK_FRAMES, progress: Progress | None = None) -> Tensor:
        """Sound of a spectrogram in pieces of bounded memory; equal to the whole, as every piece has its whole context.

        Args:
            mel: (B, mel_bins, T), log10 of magnitudes.
            chunk: frames of a piece.
            progress: told after every piece.

        Returns:
            (B, 1, T * hop) in [-1, 1]; float32 where float16 was not enough.

        Raises:
            ValueError: as :meth:`forward`, or a chunk of no frames.
        """
        self._check(mel)
        if chunk < 1:
            raise ValueError(f"a chunk has at least 1 frame, got {chunk}")
        frames, hop, context = mel.shape[2], self.config.hop, self.config.context
        starts = range(0, frames, chunk)
        pieces = []
        for done, start in enumerate(starts, 1):
            stop = min(start + chunk, frames)
            first = max(start - context, 0)
            piece = half_safe(self, mel[:, :, first : stop + context], what="vocoder")
            pieces.append(piece[:, :, (start - first) * hop : (stop - first) * hop])
            if progress:
                progress(done, len(starts))
        dtype = torch.float32 if any(piece.dtype == torch.float32 for piece in pieces) else mel.dtype
        return torch.cat([piece.to(dtype) for piece in pieces], dim=2)

    def _check(self, mel: Tensor) -> None:
        if mel.ndim != 3 or mel.shape[1] != self.config.mel_bins or mel.shape[2] < 1:
            raise ValueError(f"the vocoder takes (batch, {self.config.mel_bins}, frames), got shape {tuple(mel.shape)}")


class ResidualBlock(nn.Module):
    """Layers of two convolutions, dilated and plain, each after its activation, around a residual stream."""

    def __init__(self, width: int, kernel: int, dilations: tuple[int, ...], runtime: Runtime) -> None:
        super().__init__()

        def conv(dilation: int) -> Any:
            padding = dilation * (kernel // 2)
            return runtime.layers.Conv1d(width, width, kernel, dilation=dilation, padding=padding, **runtime.factory)

        self.convs1 = nn.ModuleList([conv(dilation) for dilation in dilations])
        self.convs2 = nn.ModuleList([conv(1) for _ in dilations])
        self.activations = nn.ModuleList([SmoothSnake(width, runtime) for _ in range(2 * len(dilations))])

    def forward(self, x: Tensor) -> Tensor:
        """(B, W, T) to the same shape."""
        for i, (dilated, plain) in enumerate(zip(self.convs1, self.convs2, strict=True)):
            h = dilated(self.activations[2 * i](x))
            x = x + plain(self.activations[2 * i + 1](h))
        return x


class SmoothSnake(nn.Module):
    """Snake, applied at twice the rate: double, activate, low-pass, halve."""

    def __init__(self, width: int, runtime: Runtime) -> None:
        super().__init__()
        self.act = Snake(width, runtime)

    def forward(self, x: Tensor) -> Tensor:
        """(B, W, T) to the same shape."""
        taps = low_pass(x.device, x.dtype).expand(x.shape[1], 1, FILTER_TAPS)
        # Zeros between samples, then the filter: a transposed convolution. Its padding drops what the mirrored edge samples
        # (3 are seen, each way) make beyond the signal: 2 * 3 of them and the filter's own delay of 5.
        reach = FILTER_HALF // 2
        doubled = F.conv_transpose1d(
            F.pad(x, (reach, reach), mode="replicate"),
            2 * taps,
            stride=2,
            padding=2 * reach + FILTER_HALF - 1,
            groups=x.shape[1],
        )
        active = F.pad(self.act(doubled), (FILTER_HALF - 1, FILTER_HALF), mode="replicate")
        return F.conv1d(active, taps, stride=2, groups=x.shape[1])


class Snake(nn.Module):
    """x + sin^2(alpha x) / beta, both per channel and held as logarithms."""

    def __init__(self, width: int, runtime: Runtime) -> None:
        super().__init__()
        self.alpha = runtime.empty(width)
        self.beta = runtime.empty(width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, W, T) to the same shape; the parameters follow its device and dtype."""
        # exp in float32: in float16 it underflows to 0 below -17, and the quotient is then infinite
        alpha = self.alpha.to(x.device).float().exp()[:, None].to(x.dtype)
        scale = (-self.beta.to(x.device).float()).exp()[:, None].to(x.dtype)
        wave = (x * alpha).sin_().square_()
        return torch.addcmul(x, wave, scale)


@lru_cache(maxsize=8)
def low_pass(device: torch.device, dtype: torch.dtype) -> Tensor:
    """The half-band low-pass filter of every activation, (1, 1, 12).

    A sinc under a Kaiser window, whose shape follows from the filter's length and transition width by Kaiser's formula for
    an attenuation above 50 dB, scaled to sum 1. Kept, as a copy to the device for each of 73 activations is not free.
    """
    # Outside inference mode: a host that always runs in it would leave a tensor here that can never take part in training.
    with torch.inference_mode(False):
        attenuation = 2.285 * (FILTER_HALF - 1) * math.pi * 4 * TRANSITION + 7.95
        beta = 0.1102 * (attenuation - 8.7)
        window = torch.kaiser_window(FILTER_TAPS, periodic=False, beta=beta, dtype=torch.float64, device="cpu")
        time = torch.arange(-FILTER_HALF, FILTER_HALF, dtype=torch.float64, device="cpu") + 0.5
        taps = window * torch.sinc(2 * CUTOFF * time)
        return (taps / taps.sum()).to(device, dtype).reshape(1, 1, FILTER_TAPS)

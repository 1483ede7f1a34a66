"""Wan2.2's video codec: pictures to latents and back, chunk after chunk, in memory that does not grow with the clip.

A latent covers 16 x 16 pixels and four frames, the first latent one frame; nothing looks ahead in time. So a clip is a stream:
what the layers need of the past goes from chunk to chunk beside the data (:class:`.video_layers.Memory`), and whole clips,
streams and training run through the same lines. ``decode`` and ``encode`` without gradients hold one chunk's activations and
the result; with gradients, the whole clip's.
"""

# B batch, F frames, H height, W width in pixels; T latents in time, h and w in space

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..progress import Progress
from ..records import check_most
from ..runtime import Runtime
from .video_stream import Pass, moments, pictures, wrong_count
from .video_tiling import Tiling
from .video_towers import COARSE_CELL, Decoder, Encoder

CHUNK_CELLS = 512
"""Latent positions a chunk holds by default: beyond, chunks grow in memory and hardly in speed."""

WAN_MEAN = (
    -0.2289, -0.0052, -0.1323, -0.2339, -0.2799, 0.0174, 0.1838, 0.1557, -0.1382, 0.0542, 0.2813, 0.0891,
    0.1570, -0.0098, 0.0375, -0.1825, -0.2246, -0.1207, -0.0698, 0.5109, 0.2665, -0.2108, -0.2158, 0.2502,
    -0.2055, -0.0322, 0.1109, 0.1567, -0.0729, 0.0899, -0.2799, -0.1230, -0.0313, -0.1649, 0.0117, 0.0723,
    -0.2839, -0.2083, -0.0520, 0.3748, 0.0152, 0.1957, 0.1433, -0.2944, 0.3573, -0.0548, -0.1681, -0.0667,
)  # fmt: skip
WAN_STD = (
    0.4765, 1.0364, 0.4514, 1.1677, 0.5313, 0.4990, 0.4818, 0.5013, 0.8158, 1.0344, 0.5894, 1.0901,
    0.6885, 0.6165, 0.8454, 0.4978, 0.5759, 0.3523, 0.7135, 0.6804, 0.5833, 1.4146, 0.8986, 0.5659,
    0.7069, 0.5338, 0.4889, 0.4917, 0.4069, 0.4999, 0.6866, 0.4093, 0.5709, 0.6065, 0.6415, 0.4944,
    0.5726, 1.2042, 0.5458, 1.6887, 0.3971, 1.0600, 0.3943, 0.5537, 0.5444, 0.4089, 0.7468, 0.7744,
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class VideoVAEConfig:
    """The shape of the codec, and what its latents are normalised by.

    Means and deviations are part of the config because no published file has them: a codec trained here is saved with a config
    in which they have been replaced by those measured.

    Attributes:
        encoder_width: channels of the encoder's finest level.
        decoder_width: channels of the decoder's finest level.
        multipliers: width of each of the four levels, finest first, in multiples of those.
        blocks: residuals of an encoder level; a decoder level has one more.
        mean: of each latent channel before normalisation; its length is the number of channels.
        std: likewise, positive.
    """

    encoder_width: int
    decoder_width: int
    multipliers: tuple[int, int, int, int]
    blocks: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if min(self.encoder_width, self.decoder_width, self.blocks) < 1:
            raise ValueError("a video codec's encoder_width, decoder_width and blocks are at least 1")
        check_most(self, "video codec", encoder_width=1 << 14, decoder_width=1 << 14, blocks=256)
        steps = [after / before for before, after in itertools.pairwise(self.multipliers)]
        if self.multipliers[0] != 1 or not set(steps) <= {1, 2} or steps[-1] != 1:
            raise ValueError(
                f"a video codec's multipliers begin at 1, stay or double, and end on two equal ones, got {self.multipliers}"
            )
        if not self.mean or len(self.mean) != len(self.std) or not all(s > 0 for s in self.std):
            raise ValueError("a video codec has one mean and one positive std for each latent channel")

    @property
    def channels(self) -> int:
        """Channels of a latent."""
        return len(self.mean)

    @property
    def frame_stride(self) -> int:
        """Frames a latent covers, after the first."""
        return 4

    @property
    def pixel_stride(self) -> int:
        """Pixels a latent covers, each way."""
        return 16

    @property
    def decode_margin(self) -> int:
        """Pixels from the edge of a tile up to which its decoded frames depend on what lies beyond."""
        levels = [(COARSE_CELL // 2**level, 2 * (self.blocks + 1)) for level in range(3)]
        return sum(cell * convs for cell, convs in levels) + COARSE_CELL // 2 + COARSE_CELL // 4 + levels[-1][0]

    @property
    def encode_margin(self) -> int:
        """Pixels from the edge of a tile up to which its fine features depend on what lies beyond."""
        return 2 + 2 * (2 * self.blocks + 1) + 4 * (2 * self.blocks + 1)

    @property
    def least_overlap(self) -> int:
        """The overlap from which on tiles differ from the whole only where they are blended, and hardly there."""
        needed = max(self.decode_margin, 3 * _up(self.encode_margin, COARSE_CELL))
        return _up(needed, self.pixel_stride)


PRESETS = {
    "wan2.2": VideoVAEConfig(
        encoder_width=160, decoder_width=256, multipliers=(1, 2, 4, 4), blocks=2, mean=WAN_MEAN, std=WAN_STD
    ),
    "tiny": VideoVAEConfig(
        encoder_width=16, decoder_width=16, multipliers=(1, 2, 4, 4), blocks=1, mean=(0.0,) * 48, std=(1.0,) * 48
    ),
}


class VideoVAE(nn.Module):
    """The codec; parameters are named as in the published ``Wan2.2_VAE.pth``.

    Everything computes in the dtype of the weights and where they are, or on ``device`` if one is given (a host may keep
    weights elsewhere and bring them as they are used); results come back where the input was, in its dtype, piece by piece.
    Float16 that overflows is reported, and the rest of the clip computed in a wider dtype.
    """

    def __init__(self, config: VideoVAEConfig, runtime: Runtime | None = None) -> None:
        super().__init__()
        runtime = runtime or Runtime()
        self.config = config
        patch, channels = 3 * 2 * 2, config.channels
        fine = [config.encoder_width * m for m in config.multipliers]
        coarse = [config.decoder_width * m for m in reversed(config.multipliers)]
        self.encoder = Encoder(patch, 2 * channels, fine, config.blocks, (False, True, True), runtime)
        self.conv1 = runtime.layers.Conv3d(2 * channels, 2 * channels, 1, **runtime.factory)
        self.conv2 = runtime.layers.Conv3d(channels, channels, 1, **runtime.factory)
        self.decoder = Decoder(channels, patch, coarse, config.blocks + 1, (True, True, False), runtime)

    def normalise(self, latents: Tensor) -> Tensor:
        """Latents (B, C, T, h, w) of the posterior to unit variance, as the model sees them."""
        mean, std = self._statistics(latents)
        return (latents - mean) / std

    def denormalise(self, latents: Tensor) -> Tensor:
        """Undo :meth:`normalise`."""
        mean, std = self._statistics(latents)
        return latents * std + mean

    def posterior(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """The distribution of a clip's latents, for training; not normalised.

        Args:
            frames: (B, 3, F, H, W) in [-1, 1].

        Returns:
            Mean and logarithm of the variance, each (B, C, T, h, w); gradients flow through both.

        Raises:
            ValueError: see :meth:`encode`.
        """
        count = self._check_frames(frames)
        stream = moments(self, [frames], Pass(self, frames), size=frames.shape[3:], chunk=count)
        mean, logvar = torch.cat(list(stream), 2).chunk(2, 1)
        return mean, logvar

    def encode(
        self,
        frames: Tensor,
        *,
        chunk: int | None = None,
        tiling: Tiling | None = None,
        device: torch.device | str | None = None,
        progress: Progress | None = None,
    ) -> Tensor:
        """Turn pictures into normalised latents, the mean of the posterior.

        Args:
            frames: (B, 3, F, H, W) in [-1, 1], F = 1 + 4 k, H and W multiples of 16.
            chunk: latents computed at once; the default suits the size. With gradients, the whole clip.
            tiling: cut large pictures; the result is the same but for rounding.
            device: where to compute; by default, where the weights are.
            progress: called after each tile of each chunk.

        Returns:
            (B, C, T, h, w) with T = 1 + (F - 1) / 4.

        Raises:
            ValueError: the shape is off the grid, a value out of range, or the tiling does not fit the codec.
        """
        count = self._check_frames(frames)
        run = Pass(self, frames, device)
        B, _, _, H, W = frames.shape
        chunk = self._chunk(B, H // 16, W // 16, chunk=count if chunk is None and run.tracks else chunk)
        total = -(-count // chunk)
        stream = moments(self, [frames], run, size=(H, W), chunk=chunk, tiling=tiling, progress=progress, total=total)
        return run.collect(map(self._mean, stream), (B, self.config.channels, count, H // 16, W // 16))

    def encode_chunks(
        self,
        frames: Iterable[Tensor],
        *,
        chunk: int | None = None,
        tiling: Tiling | None = None,
        device: torch.device | str | None = None,
    ) -> Iterator[Tensor]:
        """Encode a stream of pictures, without gradients; see :meth:`encode`.

        Args:
            frames: pieces (B, 3, any number, H, W) of one clip, in order.
            chunk: latents computed at once.
            tiling: cut large pictures.
            device: where to compute; by default, where the weights are.

        Yields:
            Pieces (B, C, up to ``chunk``, h, w) of the latents.

        Raises:
            ValueError: as for :meth:`encode`; of the number of frames only at the end.
        """
        source = iter(frames)
        head = next(source, None)
        if head is None:
            raise ValueError("a clip has at least one frame, got none")
        self._check_pictures(head)
        run = Pass(self, head, device, tracks=False)
        B, _, _, H, W = head.shape
        chunk = self._chunk(B, H // 16, W // 16, chunk=chunk)
        pieces = itertools.chain([head], source)
        yield from map(self._mean, moments(self, pieces, run, size=(H, W), chunk=chunk, tiling=tiling))

    def decode(
        self,
        latents: Tensor,
        *,
        chunk: int | None = None,
        tiling: Tiling | None = None,
        device: torch.device | str | None = None,
        progress: Progress | None = None,
        clamp: bool = True,
    ) -> Tensor:
        """Turn normalised latents into pictures.

        Args:
            latents: (B, C, T, h, w), unit variance.
            chunk: latents computed at once; the default suits the size. With gradients, the whole clip.
            tiling: cut large pictures; the result differs only where tiles are blended.
            device: where to compute; by default, where the weights are.
            progress: called after each tile of each chunk.
            clamp: keep within [-1, 1]; training wants the gradient beyond.

        Returns:
            (B, 3, F, H, W) in [-1, 1] with F = 1 + 4 (T - 1).

        Raises:
            ValueError: wrong shape or channels, a value that is not finite, or the tiling does not fit the codec.
        """
        self._check_latents(latents)
        B, _, T, h, w = latents.shape
        run = Pass(self, latents, device)
        chunk = self._chunk(B, h, w, chunk=T if chunk is None and run.tracks else chunk)
        stream = pictures(self, latents, run, chunk=chunk, tiling=tiling, progress=progress, clamp=clamp)
        return run.collect(stream, (B, 3, 4 * T - 3, 16 * h, 16 * w))

    def decode_chunks(
        self,
        latents: Tensor,
        *,
        chunk: int | None = None,
        tiling: Tiling | None = None,
        device: torch.device | str | None = None,
        progress: Progress | None = None,
    ) -> Iterator[Tensor]:
        """Decode as a stream, without gradients; arguments and errors as for :meth:`decode`.

        Yields:
            Pieces (B, 3, 4 k - 3, H, W) and then (B, 3, 4 k, H, W) of the frames, k up to ``chunk``.
        """
        self._check_latents(latents)
        run = Pass(self, latents, device, tracks=False)
        chunk = self._chunk(latents.shape[0], *latents.shape[3:], chunk=chunk)
        return pictures(self, latents, run, chunk=chunk, tiling=tiling, progress=progress, clamp=True)

    def _mean(self, piece: Tensor) -> Tensor:
        return self.normalise(piece.chunk(2, 1)[0])

    def _statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = (like.new_tensor(values).view(1, -1, 1, 1, 1) for values in (self.config.mean, self.config.std))
        return mean, std

    def _chunk(self, batch: int, height: int, width: int, *, chunk: int | None) -> int:
        if chunk is None:
            return max(1, CHUNK_CELLS // (batch * height * width))
        if chunk < 1:
            raise ValueError(f"a chunk is at least one latent, got {chunk}")
        return chunk

    def _check_latents(self, latents: Tensor) -> None:
        if latents.ndim != 5 or latents.shape[1] != self.config.channels or not latents.numel():
            raise ValueError(
                f"video latents are (batch, {self.config.channels}, frames, height, width), got {tuple(latents.shape)}"
            )
        if not latents.is_floating_point():
            raise ValueError(f"video latents are floating-point numbers, got {latents.dtype}")
        if not latents.isfinite().all():
            raise ValueError("video latents hold values that are not finite numbers; sample again or look where they come from")

    def _check_pictures(self, frames: Tensor) -> None:
        if frames.ndim != 5 or frames.shape[1] != 3 or not frames.numel():
            raise ValueError(f"a clip is (batch, 3, frames, height, width), got {tuple(frames.shape)}")
        if not frames.is_floating_point():
            raise ValueError(f"the frames of a clip are floating-point numbers in [-1, 1], got {frames.dtype}")
        if frames.shape[3] % 16 or frames.shape[4] % 16:
            raise ValueError(
                f"pictures have sides of multiples of 16, got {frames.shape[3]} x {frames.shape[4]}; crop or resize"
            )

    def _check_frames(self, frames: Tensor) -> int:
        """Latents in time of a clip that fits."""
        self._check_pictures(frames)
        count = frames.shape[2]
        if count % 4 != 1:
            raise ValueError(wrong_count(count))
        return (count + 3) // 4


def _up(length: int, multiple: int) -> int:
    return -(-length // multiple) * multiple

"""Principal components of blocks of pictures: a linear code, which a codec's latents can be drawn to.

A latent that is any function of its block is hard to generate: two places of a ball lie as far apart as two balls. In a linear
code what looks alike lies near, so that a guess made in heavy noise is already near, and is refined as the noise goes. The
components are scaled to the square root of their deviation, half-way to unit variance: in noise the coarse is still seen before
the fine, but the fine is not lost in the codec's own errors.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import torch
from torch import Tensor

FRAMES, PIXELS = 4, 16
"""Extent of a block, that of one latent of the video VAE; the first latent's one frame counts as four equal ones."""

# B batch, C channels, F frames, T latents in time, D values of a block


@dataclasses.dataclass(frozen=True)
class Components:
    """Scaled principal components of blocks.

    Attributes:
        mean: (D,) of the blocks.
        basis: (D, C), orthonormal columns, the one of most variance first.
        gain: (C,) that each component is multiplied by; their variances then have a mean of 1.
    """

    mean: Tensor
    basis: Tensor
    gain: Tensor

    def of(self, clips_BCFHW: Tensor) -> Tensor:
        """Scaled components, (B, C, T, H / 16, W / 16), of clips (B, 3, 1 + 4k, H, W)."""
        blocks = blocks_of(clips_BCFHW)
        mean, basis, gain = (x.to(blocks) for x in (self.mean, self.basis, self.gain))
        return ((blocks - mean) @ basis * gain).permute(0, 4, 1, 2, 3)


def blocks_of(clips_BCFHW: Tensor) -> Tensor:
    """Blocks of clips (B, 3, 1 + 4k, H, W) as rows: (B, T, H / 16, W / 16, D)."""
    first = clips_BCFHW[:, :, :1].expand(-1, -1, FRAMES - 1, -1, -1)
    x = torch.cat([first, clips_BCFHW], dim=2)
    x = x.unflatten(4, (-1, PIXELS)).unflatten(3, (-1, PIXELS)).unflatten(2, (-1, FRAMES))
    return x.permute(0, 2, 4, 6, 1, 3, 5, 7).flatten(4)


@torch.no_grad()
def principal_components(weighted: Iterable[tuple[Tensor, Tensor]], count: int) -> Components:
    """The components of most variance.

    Args:
        weighted: clips (B, 3, 1 + 4k, H, W) and the weights of their pixels, (B, 1, 1, H, W), batch by batch.
        count: how many components, at most the values of a block.
    """
    values = 3 * FRAMES * PIXELS**2
    total, first, second = 0.0, torch.zeros(values), torch.zeros(values, values)
    for clips, weight in weighted:
        rows = blocks_of(clips).flatten(0, 3)
        each = blocks_of(weight.expand_as(clips)).mean(4).flatten()
        total += float(each.sum())
        first += each @ rows
        second += (rows * each[:, None]).T @ rows
    mean = first / total
    variances, vectors = torch.linalg.eigh((second / total - torch.outer(mean, mean)).double())
    basis = vectors.flip(1)[:, :count]
    # An eigenvector's sign is the library's whim: its largest value is positive here.
    basis = basis * basis.gather(0, basis.abs().argmax(0, keepdim=True)).sign()
    std = variances.flip(0)[:count].clamp(min=1e-12).sqrt()
    return Components(mean, basis.float(), (std * std.mean()).rsqrt().float())

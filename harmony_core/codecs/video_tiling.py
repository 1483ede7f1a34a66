"""Cutting frames into overlapping tiles and putting them together again."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Tiling:
    """How the large pictures inside the codec are cut for a small GPU.

    Attributes:
        size: height and width of a tile, pixels, a multiple of 16.
        overlap: pixels shared by neighbouring tiles, at least; a multiple of 16, at most half of ``size``.
    """

    size: int = 384
    overlap: int = 96

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 16 or value % 16:
                raise ValueError(f"a tile's {name} is a positive multiple of 16 pixels, got {value}")
        if 2 * self.overlap > self.size:
            raise ValueError(f"tiles of {self.size} pixels overlap by at most {self.size // 2}, got {self.overlap}")


@dataclass(frozen=True)
class Tile:
    """A rectangle of a picture with its share in the result; source and result may be of different resolution.

    Attributes:
        source: rows and columns it is made from.
        result: rows and columns it contributes to.
        row_share: (rows of the result,) in [0, 1]; the shares of all tiles add up to 1 everywhere.
        column_share: (columns of the result,).
    """

    source: tuple[slice, slice]
    result: tuple[slice, slice]
    row_share: Tensor
    column_share: Tensor

    def cut(self, x: Tensor) -> Tensor:
        """This tile of a source (..., H, W)."""
        rows, columns = self.source
        return x[..., rows, columns]

    def add(self, total: Tensor, part: Tensor) -> None:
        """Add the share of ``part`` to a result (..., H, W)."""
        rows, columns = self.result
        total[..., rows, columns] += part * (self.row_share[:, None] * self.column_share).to(part)


def tiles(height: int, width: int, *, size: int, overlap: int, margin: int, source: int, result: int) -> list[Tile]:
    """Cover a picture with tiles of the same size.

    Lengths are cells; the source has ``source`` pixels to a cell each way, the result ``result``.

    Args:
        height: of the picture.
        width: of the picture.
        size: of a tile, each way.
        overlap: what neighbours share, at least.
        margin: how far what lies beyond a tile's edge can be felt inside; where neighbours overlap, up to a third of the
            overlap on either side is left to the other for that.
        source: resolution of what is cut.
        result: resolution of what is put together.

    Returns:
        Tiles from top left to bottom right; one if the picture is no larger than a tile.
    """
    rows, columns = (_spans(length, size, overlap, margin, result) for length in (height, width))
    return [
        Tile(
            source=(_scaled(row, source), _scaled(column, source)),
            result=(_scaled(row, result), _scaled(column, result)),
            row_share=row_share,
            column_share=column_share,
        )
        for row, row_share in rows
        for column, column_share in columns
    ]


def _scaled(span: slice, factor: int) -> slice:
    return slice(span.start * factor, span.stop * factor)


def _spans(length: int, size: int, overlap: int, margin: int, result: int) -> list[tuple[slice, Tensor]]:
    """Evenly spread intervals over one axis, with their shares at the result's resolution."""
    if length <= size:
        return [(slice(0, length), torch.ones(length * result))]
    count = math.ceil((length - overlap) / (size - overlap))
    starts = [round(n * (length - size) / (count - 1)) for n in range(count)]
    shares = torch.zeros(count, length * result)
    for n, start in enumerate(starts):
        share = torch.ones(size * result)
        if n > 0:
            share *= _ramp(size * result, (starts[n - 1] + size - start) * result, margin * result)
        if n < count - 1:
            share *= _ramp(size * result, (start + size - starts[n + 1]) * result, margin * result).flip(0)
        shares[n, start * result : (start + size) * result] = share
    shares /= shares.sum(0)
    spans = [slice(start, start + size) for start in starts]
    return [(span, shares[n][_scaled(span, result)]) for n, span in enumerate(spans)]


def _ramp(length: int, overlap: int, margin: int) -> Tensor:
    """Shares along a tile that meets its neighbour over the first ``overlap`` positions."""
    trim = min(margin, overlap // 3)
    return ((torch.arange(length) - trim + 0.5) / (overlap - 2 * trim)).clamp(0, 1)

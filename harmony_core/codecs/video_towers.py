"""The two towers of the video codec, each in two halves that a small GPU treats differently.

The coarse half works on 16 or 8 pixels a cell, has the attention over whole frames, and needs little memory; the fine half has
the large pictures and sees no farther than a known margin, so it can be run tile by tile.
"""

# B batch, C channels, T frames, H height, W width

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from ..runtime import Runtime
from .video_layers import Double, Halve, Head, Memory, Middle, Residual, add_repeated, average_down, causal, conv3

Half = Literal["coarse", "fine"]
COARSE_CELL = 8
"""Pixels, each way, of a cell where the halves meet."""


class DownBlock(nn.Module):
    """Residuals and, but for the last block, half the size, beside a shortcut of averages."""

    def __init__(self, inputs: int, outputs: int, blocks: int, runtime: Runtime, *, halve: bool, time: bool) -> None:
        super().__init__()
        self.outputs, self.halves, self.time = outputs, halve, time
        steps: list[nn.Module] = [Residual(inputs if n == 0 else outputs, outputs, runtime) for n in range(blocks)]
        self.downsamples = nn.ModuleList([*steps, Halve(outputs, runtime, time=time)] if halve else steps)

    def forward(self, x: Tensor, memory: Memory) -> Tensor:
        """Pass a chunk (B, C, T, H, W) through."""
        y = x
        for step in self.downsamples:
            y = step(y, memory)
        return y.add_(average_down(x, self.outputs, time=self.time, first=memory.first) if self.halves else x)


class UpBlock(nn.Module):
    """Residuals and, but for the last block, twice the size, beside a shortcut of repeats."""

    def __init__(self, inputs: int, outputs: int, blocks: int, runtime: Runtime, *, double: bool, time: bool) -> None:
        super().__init__()
        self.doubles, self.time = double, time
        steps: list[nn.Module] = [Residual(inputs if n == 0 else outputs, outputs, runtime) for n in range(blocks)]
        self.upsamples = nn.ModuleList([*steps, Double(outputs, runtime, time=time)] if double else steps)

    def forward(self, x: Tensor, memory: Memory) -> Tensor:
        """Pass a chunk (B, C, T, H, W) through."""
        y = x
        for step in self.upsamples:
            y = step(y, memory)
        return add_repeated(y, x, time=self.time, first=memory.first) if self.doubles else y


class Encoder(nn.Module):
    """Patchified frames to moments.

    Args:
        inputs: channels of a patchified frame.
        outputs: channels of the moments.
        widths: channels of each level, finest first.
        blocks: residuals a level.
        time: for each level but the last, whether it halves the frames.
        runtime: layers, device and dtype.
    """

    def __init__(
        self, inputs: int, outputs: int, widths: Sequence[int], blocks: int, time: Sequence[bool], runtime: Runtime
    ) -> None:
        super().__init__()
        self.conv1 = conv3(inputs, widths[0], runtime)
        self.downsamples = nn.ModuleList(
            DownBlock(before, after, blocks, runtime, halve=level < len(time), time=level < len(time) and time[level])
            for level, (before, after) in enumerate(zip((widths[0], *widths), widths, strict=False))
        )
        self.middle = Middle(widths[-1], runtime)
        self.head = Head(widths[-1], outputs, runtime)

    def forward(self, x: Tensor, memory: Memory, half: Half) -> Tensor:
        """Run one half, the fine one first.

        Args:
            x: patchified frames (B, inputs, T, H, W) for the fine half, its result for the coarse one.
            memory: of this chunk and half.
            half: which.

        Returns:
            Features at 8 pixels a cell from the fine half, moments from the coarse one.
        """
        x = x.contiguous(memory_format=torch.channels_last_3d)
        if half == "fine":
            x = causal(self.conv1, x, memory)
            for block in self.downsamples[:2]:
                x = block(x, memory)
            return x
        for block in self.downsamples[2:]:
            x = block(x, memory)
        return self.head(self.middle(x, memory), memory)


class Decoder(nn.Module):
    """Latents to patchified frames; arguments as for :class:`Encoder`, with ``widths`` coarsest first."""

    def __init__(
        self, inputs: int, outputs: int, widths: Sequence[int], blocks: int, time: Sequence[bool], runtime: Runtime
    ) -> None:
        super().__init__()
        self.conv1 = conv3(inputs, widths[0], runtime)
        self.middle = Middle(widths[0], runtime)
        self.upsamples = nn.ModuleList(
            UpBlock(before, after, blocks, runtime, double=level < len(time), time=level < len(time) and time[level])
            for level, (before, after) in enumerate(zip((widths[0], *widths), widths, strict=False))
        )
        self.head = Head(widths[-1], outputs, runtime)

    def forward(self, x: Tensor, memory: Memory, half: Half) -> Tensor:
        """Run one half, the coarse one first.

        Args:
            x: latents (B, inputs, T, h, w) for the coarse half, its result for the fine one.
            memory: of this chunk and half.
            half: which.

        Returns:
            Features at 8 pixels a cell from the coarse half, patchified frames from the fine one.
        """
        x = x.contiguous(memory_format=torch.channels_last_3d)
        if half == "coarse":
            x = self.middle(causal(self.conv1, x, memory), memory)
            return self.upsamples[0](x, memory)
        for block in self.upsamples[1:]:
            x = block(x, memory)
        return self.head(x, memory)

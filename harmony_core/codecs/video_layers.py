"""The layers of the video codec: causal in time, carrying their past from chunk to chunk.

A layer with a kernel over time needs the last frames it saw. They live in no module: a chunk passes through the layers with
a :class:`Memory` that holds what the chunk before left and collects what the chunk after needs, so that streams cannot disturb
each other and a cancelled one leaves nothing.

Clips are kept channels-last throughout: norms run along memory, and convolutions need no reordering. Module and parameter
names are those of the published Wan2.2 file, which numbers the steps of a residual; hence the digits.
"""

# B batch, C channels, T frames, H height, W width

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..runtime import Runtime, sdpa
from .video_kernels import clip_of, convolve, empty_clip, frames_of, upsample

Past = Mapping[nn.Module, Tensor]
"""The last frames each causal layer saw; None at the start of a clip."""


class Memory:
    """What one chunk finds and what it leaves.

    Attributes:
        past: what the chunk before left; None for the first.
        kept: what this chunk leaves.
    """

    def __init__(self, past: Past | None = None) -> None:
        self.past = past
        self.kept: dict[nn.Module, Tensor] = {}

    @property
    def first(self) -> bool:
        """Whether the clip begins with this chunk."""
        return self.past is None

    def before(self, layer: nn.Module) -> Tensor | None:
        """The frames ``layer`` saw last, or None if it has seen none."""
        return None if self.past is None else self.past.get(layer)

    def keep(self, layer: nn.Module, frames: Tensor) -> None:
        """Leave ``frames`` for ``layer``'s next chunk; a copy, so that the chunk itself is not kept alive."""
        self.kept[layer] = frames.clone()


class Norm(nn.Module):
    """Root-mean-square normalisation over channels; the scale has the published shape (C, 1, 1[, 1])."""

    def __init__(self, channels: int, runtime: Runtime, *, ones: int = 3) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(channels, *(1,) * ones, **runtime.factory))
        # Published as x / max(|x|, 1e-12): the same bound, on the mean square.
        self.eps = 1e-24 / channels

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``x`` (B, C, ...)."""
        gamma = self.gamma.to(x).flatten()
        return F.rms_norm(x.movedim(1, -1), gamma.shape, gamma, self.eps).movedim(-1, 1)


def conv3(inputs: int, outputs: int, runtime: Runtime) -> Any:
    """A 3 x 3 x 3 layer; its past in time is put in front of its input by :func:`causal`."""
    return runtime.layers.Conv3d(inputs, outputs, 3, padding=(0, 1, 1), **runtime.factory)


def causal(conv: nn.Module, x: Tensor, memory: Memory, norm: Norm | None = None) -> Tensor:
    """Apply a kernel of three frames to a chunk and the two frames before it.

    Args:
        conv: a layer with a kernel of three frames that does not pad time.
        x: (B, C, T, H, W).
        memory: of this chunk.
        norm: if given, ``x`` is normalised and passed through SiLU first.

    Returns:
        (B, O, T, H, W).
    """
    past = memory.before(conv)
    activated = x if norm is None else norm(x)
    if torch.is_grad_enabled():
        activated = activated if norm is None else F.silu(activated)
        padded = torch.cat([torch.zeros_like(x[:, :, :1]).expand(-1, -1, 2, -1, -1) if past is None else past, activated], 2)
    else:
        padded = empty_clip(x, x.shape[1], 2 + x.shape[2])
        padded[:, :, :2] = 0 if past is None else past
        if norm is None:
            padded[:, :, 2:] = activated
        else:
            torch.ops.aten.silu.out(activated, out=padded[:, :, 2:])
    del activated
    memory.keep(conv, padded[:, :, -2:])
    return convolve(conv, padded, fresh=past is None)


class Residual(nn.Module):
    """Norm, SiLU, convolution, twice, beside a shortcut."""

    def __init__(self, inputs: int, outputs: int, runtime: Runtime) -> None:
        super().__init__()
        self.residual = nn.ModuleDict(
            {
                "0": Norm(inputs, runtime),
                "2": conv3(inputs, outputs, runtime),
                "3": Norm(outputs, runtime),
                "6": conv3(outputs, outputs, runtime),
            }
        )
        same = inputs == outputs
        self.shortcut = nn.Identity() if same else runtime.layers.Conv3d(inputs, outputs, 1, **runtime.factory)

    def forward(self, x: Tensor, memory: Memory) -> Tensor:
        """Pass a chunk (B, C, T, H, W) through."""
        steps: Any = self.residual
        y = causal(steps["2"], x, memory, steps["0"])
        y = causal(steps["6"], y, memory, steps["3"])
        return y.add_(self.shortcut(x))


class FrameAttention(nn.Module):
    """Self-attention within each frame, one head."""

    def __init__(self, channels: int, runtime: Runtime) -> None:
        super().__init__()
        self.norm = Norm(channels, runtime, ones=2)
        self.to_qkv = runtime.layers.Conv2d(channels, 3 * channels, 1, **runtime.factory)
        self.proj = runtime.layers.Conv2d(channels, channels, 1, **runtime.factory)

    def forward(self, x: Tensor) -> Tensor:
        """Pass a chunk (B, C, T, H, W) through."""
        pictures = frames_of(x)
        height = pictures.shape[2]
        tokens = self.to_qkv(self.norm(pictures)).movedim(1, -1).flatten(1, 2).unsqueeze(1)
        # A host's attention is made for heads of 64 to 256 channels; this one has as many as the tower is wide.
        seen = sdpa(*tokens.chunk(3, dim=-1)).squeeze(1)
        seen = self.proj(seen.unflatten(1, (height, -1)).movedim(-1, 1))
        return x + clip_of(seen, x.shape[0])


class Middle(nn.ModuleList):
    """The bottom of either tower: residual, attention, residual."""

    def __init__(self, channels: int, runtime: Runtime) -> None:
        super().__init__(
            [Residual(channels, channels, runtime), FrameAttention(channels, runtime), Residual(channels, channels, runtime)]
        )

    def forward(self, x: Tensor, memory: Memory) -> Tensor:
        """Pass a chunk (B, C, T, H, W) through."""
        before, attention, after = self
        return after(attention(before(x, memory)), memory)


class Head(nn.ModuleDict):
    """The top of either tower: norm, SiLU, convolution."""

    def __init__(self, inputs: int, outputs: int, runtime: Runtime) -> None:
        super().__init__({"0": Norm(inputs, runtime), "2": conv3(inputs, outputs, runtime)})

    def forward(self, x: Tensor, memory: Memory) -> Tensor:
        """Pass a chunk (B, C, T, H, W) through."""
        steps: Any = self
        return causal(steps["2"], x, memory, steps["0"])


class Halve(nn.Module):
    """Half the height and width, and half the frames if ``time``; a clip's first frame stays one."""

    def __init__(self, channels: int, runtime: Runtime, *, time: bool) -> None:
        super().__init__()
        self.resample = nn.ModuleDict({"1": runtime.layers.Conv2d(channels, channels, 3, stride=2, **runtime.factory)})
        self.time_conv = None
        if time:
            self.time_conv = runtime.layers.Conv3d(channels, channels, (3, 1, 1), stride=(2, 1, 1), **runtime.factory)

    def forward(self, x: Tensor, memory: Memory) -> Tensor:
        """(B, C, T, H, W) to (B, C, T / 2, H / 2, W / 2), where T is odd in the first chunk and even in the others."""
        smaller = clip_of(self.resample["1"](F.pad(frames_of(x), (0, 1, 0, 1))), x.shape[0])
        if self.time_conv is None:
            return smaller
        past = memory.before(self.time_conv)
        memory.keep(self.time_conv, smaller[:, :, -1:])
        if past is not None:
            return self.time_conv(torch.cat([past, smaller], 2))
        if smaller.shape[2] == 1:
            return smaller
        return torch.cat([smaller[:, :, :1], self.time_conv(smaller)], 2)


class Double(nn.Module):
    """Twice the height and width, and twice the frames if ``time``; a clip's first frame stays one."""

    def __init__(self, channels: int, runtime: Runtime, *, time: bool) -> None:
        super().__init__()
        self.resample = nn.ModuleDict({"1": runtime.layers.Conv2d(channels, channels, 3, padding=1, **runtime.factory)})
        self.time_conv = runtime.layers.Conv3d(channels, 2 * channels, (3, 1, 1), **runtime.factory) if time else None

    def forward(self, x: Tensor, memory: Memory) -> Tensor:
        """(B, C, T, H, W) to (B, C, 2 T, 2 H, 2 W); 2 T - 1 frames in the first chunk."""
        if self.time_conv is not None:
            x = self._more_frames(x, memory)
        return clip_of(upsample(self.resample["1"], frames_of(x)), x.shape[0])

    def _more_frames(self, x: Tensor, memory: Memory) -> Tensor:
        # The first frame passes by the time convolution on both ways: the second begins on an empty past.
        head, rest = (x[:, :, :1], x[:, :, 1:]) if memory.first else (None, x)
        if rest.shape[2] == 0:
            return x
        assert self.time_conv is not None
        pairs = causal(self.time_conv, rest, memory).movedim(1, -1).unflatten(-1, (2, -1))
        doubled = pairs.permute(0, 1, 4, 2, 3, 5).flatten(1, 2).movedim(-1, 1)
        return doubled if head is None else torch.cat([head, doubled], 2)


def average_down(x: Tensor, outputs: int, *, time: bool, first: bool) -> Tensor:
    """The shortcut of an encoder block: means over cells of 2 x 2 pixels, and of 2 frames if ``time``.

    Where there are more channels out than in, the frames of a cell become channels instead of being averaged.

    Args:
        x: (B, C, T, H, W).
        outputs: channels of the result, C or 2 C.
        time: whether two frames become one; a clip's first frame is paired with an empty one.
        first: whether the clip begins with this chunk.

    Returns:
        (B, outputs, T / 2 or T, H / 2, W / 2).
    """
    if time and first:
        x = torch.cat([torch.zeros_like(x[:, :, :1]), x], 2)
    B, C, T, H, W = x.shape
    step = 2 if time else 1
    cells = x.movedim(1, -1).reshape(B, T // step, step, H // 2, 2, W // 2, 2, C)
    if outputs == C:
        return cells.mean((2, 4, 6)).movedim(-1, 1)
    assert outputs == 2 * C
    # Of (frame, row, column) the outermost that is there goes to the channels.
    means = cells.mean((4, 6)).movedim(2, -1) if time else cells.mean(6).squeeze(2).movedim(3, -1)
    return means.flatten(-2).movedim(-1, 1)


def add_repeated(main: Tensor, x: Tensor, *, time: bool, first: bool) -> Tensor:
    """Add the shortcut of a decoder block: ``x`` repeated over cells of 2 x 2 pixels, and of 2 frames if ``time``.

    Where there are half as many channels out as in, two channels of ``x`` share a cell: along frames if ``time``, else along
    rows.

    Args:
        main: (B, O, 2 T or T, 2 H, 2 W), changed in place; of a clip's first frame only the second half of the cell is there.
        x: (B, C, T, H, W), C being O or 2 O.
        time: whether one frame becomes two.
        first: whether the clip begins with this chunk.

    Returns:
        ``main``.
    """
    if time and first:
        _add_cells(main[:, :, :1], x[:, :, :1], frames=slice(1, 2), of=2)
        if x.shape[2] > 1:
            _add_cells(main[:, :, 1:], x[:, :, 1:], frames=slice(0, 2), of=2)
    else:
        depth = 2 if time else 1
        _add_cells(main, x, frames=slice(0, depth), of=depth)
    return main


def _add_cells(main: Tensor, x: Tensor, *, frames: slice, of: int) -> None:
    """Add ``x`` to those ``frames`` of each cell that ``main`` has, where a whole cell is ``of`` frames deep."""
    outputs = main.shape[1]
    depth = frames.stop - frames.start
    cells = main.movedim(1, -1).unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).unflatten(1, (-1, depth))
    source = x.movedim(1, -1)
    if x.shape[1] == outputs:
        cells.add_(source[:, :, None, :, None, :, None])
    elif of == 2:
        cells.add_(source.unflatten(-1, (outputs, 2)).movedim(-1, 2)[:, :, frames, :, None, :, None])
    else:
        cells.add_(source.unflatten(-1, (outputs, 2)).movedim(-1, 3)[:, :, None, :, :, :, None])

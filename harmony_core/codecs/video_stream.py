"""One clip on its way through the video codec: chunks, tiles, precision, and nothing left behind.

All state of a stream is in the local variables of a generator here. Dropping the generator, by a cancelling progress function
or otherwise, drops it.
"""

# B batch, F frames, H height, W width in pixels; T latents in time, h and w in space

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ..progress import Progress
from .video_layers import Memory, Past
from .video_tiling import Tile, Tiling, tiles
from .video_towers import COARSE_CELL, Half

if TYPE_CHECKING:
    from .video_vae import VideoVAE

log = logging.getLogger(__name__)

OVERSHOOT = 1.5
"""How far frames may go beyond their range of [-1, 1]: resizing overshoots, another range is a mistake."""


class Pass:
    """How one stream computes: where, how precisely, and whether for gradients.

    Attributes:
        tracks: whether gradients are wanted.
        device: where to compute.
        dtype: what to compute in; that of the weights, until float16 overflows.
    """

    def __init__(
        self, vae: VideoVAE, like: Tensor, device: torch.device | str | None = None, *, tracks: bool | None = None
    ) -> None:
        if tracks is None:
            tracks = torch.is_grad_enabled() and (like.requires_grad or any(p.requires_grad for p in vae.parameters()))
        self.tracks = tracks
        self.device = vae.conv1.weight.device if device is None else torch.device(device)
        self._stored: torch.dtype = vae.conv1.weight.dtype
        self.dtype = self._stored
        self._home = like.device, like.dtype
        self._wide: dict[nn.Module, dict[str, Tensor]] = {}

    def mode(self) -> Any:
        """The context to compute in."""
        return torch.set_grad_enabled(self.tracks)

    def home(self, x: Tensor) -> Tensor:
        """A result as the caller gave its input."""
        return x.to(*self._home)

    def collect(self, pieces: Iterable[Tensor], shape: tuple[int, ...]) -> Tensor:
        """Put a stream together: into one buffer, or as gradients need it."""
        if self.tracks:
            return torch.cat(list(pieces), 2)
        device, dtype = self._home
        whole, at = torch.empty(shape, device=device, dtype=dtype), 0
        for piece in pieces:
            whole[:, :, at : at + piece.shape[2]] = piece
            at += piece.shape[2]
        assert at == shape[2]
        return whole

    def half(self, tower: nn.Module, x: Tensor, past: Past | None, half: Half) -> tuple[Tensor, Past]:
        """Run half a tower on a chunk.

        Args:
            tower: encoder or decoder.
            x: its input.
            past: what the chunk before left.
            half: of the tower.

        Returns:
            The result, finite, and what this chunk leaves.
        """
        while True:
            memory = Memory(None if past is None else {layer: self._here(frames) for layer, frames in past.items()})
            y = self._call(tower, self._here(x), memory, half)
            if self._accepts(y):
                return y, memory.kept

    def project(self, conv: nn.Module, x: Tensor) -> Tensor:
        """Apply the layer between a tower and the latents."""
        while True:
            y = self._call(conv, self._here(x))
            if self._accepts(y):
                return y

    def _here(self, x: Tensor) -> Tensor:
        return x.to(self.device, self.dtype)

    def _call(self, module: nn.Module, *arguments: Any) -> Tensor:
        if self.dtype is self._stored:
            return module(*arguments)
        if module not in self._wide:
            self._wide[module] = {name: weight.to(self.dtype) for name, weight in module.named_parameters()}
        return functional_call(module, self._wide[module], arguments)

    def _accepts(self, y: Tensor) -> bool:
        """Whether a result is finite; if not, the next attempt is wider.

        What a finite result was made from is finite too: every feature a layer keeps is on the way to it.
        """
        if y.isfinite().all():
            return True
        if self.dtype is not torch.float16:
            raise ValueError("the video codec gave values that are not finite; its weights are damaged or another codec's")
        bfloat16 = self.device.type == "cuda" and torch.cuda.is_bf16_supported()
        self.dtype = torch.bfloat16 if bfloat16 else torch.float32
        log.warning("the video codec overflows in float16; from here on this clip is computed in %s", self.dtype)
        return False


def pictures(
    vae: VideoVAE,
    latents: Tensor,
    run: Pass,
    *,
    chunk: int,
    tiling: Tiling | None,
    progress: Progress | None = None,
    clamp: bool,
) -> Iterator[Tensor]:
    """Decode checked latents (B, C, T, h, w), ``chunk`` at a time; see ``VideoVAE.decode``."""
    T, h, w = latents.shape[2:]
    cells = 16 // COARSE_CELL
    plan = _plan(vae, tiling, cells * h, cells * w, margin=vae.config.decode_margin, source=1, result=COARSE_CELL)
    report = _Report(progress, -(-T // chunk) * len(plan))

    def fine(x: Tensor, past: Past | None) -> tuple[Tensor, Past]:
        y, kept = run.half(vae.decoder, x, past, "fine")
        return unpatchify(y), kept

    coarse: Past | None = None
    pasts: list[Past | None] = [None] * len(plan)

    def decoded(part: Tensor) -> Tensor:
        nonlocal coarse
        with run.mode():
            z = run.project(vae.conv2, vae.denormalise(part))
            x, coarse = run.half(vae.decoder, z, coarse, "coarse")
            frames = _by_tiles(fine, x, plan, pasts, (16 * h, 16 * w), report)
            return run.home(frames.clamp(-1, 1) if clamp else frames)

    # A function call, so that nothing of a chunk is held while the caller works on it.
    for part in latents.split(chunk, dim=2):
        yield decoded(part)


def moments(
    vae: VideoVAE,
    pieces: Iterable[Tensor],
    run: Pass,
    *,
    size: Sequence[int],
    chunk: int,
    tiling: Tiling | None = None,
    progress: Progress | None = None,
    total: int = 0,
) -> Iterator[Tensor]:
    """Encode pieces of a clip of checked size to mean and log-variance; see ``VideoVAE.encode``.

    Args:
        vae: the codec.
        pieces: (B, 3, any number, height, width), together 1 + 4 k frames.
        run: how to compute.
        size: height and width.
        chunk: latents computed at once.
        tiling: cut large pictures.
        progress: called after each tile of each chunk.
        total: number of chunks, for ``progress``.

    Yields:
        (B, 2 C, up to ``chunk``, h, w).
    """
    height, width = (side // COARSE_CELL for side in size)
    plan = _plan(vae, tiling, height, width, margin=vae.config.encode_margin, source=COARSE_CELL, result=1)
    report = _Report(progress, total * len(plan))
    coarse: Past | None = None
    pasts: list[Past | None] = [None] * len(plan)

    def fine(x: Tensor, past: Past | None) -> tuple[Tensor, Past]:
        return run.half(vae.encoder, patchify(x), past, "fine")

    def encoded(frames: Tensor) -> Tensor:
        nonlocal coarse
        with run.mode():
            x = _by_tiles(fine, frames, plan, pasts, (height, width), report)
            x, coarse = run.half(vae.encoder, x, coarse, "coarse")
            return run.home(run.project(vae.conv1, x))

    for frames in _regroup(pieces, chunk):
        yield encoded(frames)


def patchify(frames: Tensor) -> Tensor:
    """Fold 2 x 2 pixels into channels, (colour, column, row): (B, 3, F, H, W) to (B, 12, F, H / 2, W / 2)."""
    cells = frames.unflatten(4, (-1, 2)).unflatten(3, (-1, 2))
    return cells.permute(0, 2, 3, 5, 1, 6, 4).flatten(4).movedim(-1, 1)


def unpatchify(cells: Tensor) -> Tensor:
    """Undo :func:`patchify`."""
    split = cells.unflatten(1, (3, 2, 2))
    return split.permute(0, 1, 4, 5, 3, 6, 2).flatten(5).flatten(3, 4)


def wrong_count(frames: int) -> str:
    """What to say of a clip whose length is off the grid."""
    return f"the video codec takes 1 + 4k frames, got {frames}; cut or extend the clip"


class _Report:
    """Counts pieces of work."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress, self._total, self._done = progress, total, 0

    def __call__(self) -> None:
        self._done += 1
        if self._progress is not None:
            self._progress(self._done, self._total)


def _plan(
    vae: VideoVAE, tiling: Tiling | None, height: int, width: int, *, margin: int, source: int, result: int
) -> list[Tile]:
    """The tiles of a picture of so many coarse cells."""
    if tiling is None:
        whole = max(height, width)
        return tiles(height, width, size=whole, overlap=0, margin=0, source=source, result=result)
    least = vae.config.least_overlap
    if tiling.overlap < least:
        raise ValueError(f"tiles of this video codec overlap by at least {least} pixels, got {tiling.overlap}")
    size, overlap = tiling.size // COARSE_CELL, tiling.overlap // COARSE_CELL
    margin = -(-margin // COARSE_CELL)
    return tiles(height, width, size=size, overlap=overlap, margin=margin, source=source, result=result)


def _by_tiles(
    fine: Callable[[Tensor, Past | None], tuple[Tensor, Past]],
    x: Tensor,
    plan: list[Tile],
    pasts: list[Past | None],
    size: tuple[int, int],
    report: _Report,
) -> Tensor:
    """Run the fine half tile by tile, replacing ``pasts``, and blend."""
    if len(plan) == 1:
        y, pasts[0] = fine(x, pasts[0])
        report()
        return y
    total: Tensor | None = None
    for n, tile in enumerate(plan):
        y, kept = fine(tile.cut(x), pasts[n])
        # A tile's past waits in main memory: together they are as large as that of the whole picture.
        pasts[n] = {layer: frames.cpu() for layer, frames in kept.items()}
        total = y.new_zeros(*y.shape[:3], *size) if total is None else total
        tile.add(total, y)
        report()
    assert total is not None
    return total


def _regroup(pieces: Iterable[Tensor], chunk: int) -> Iterator[Tensor]:
    """Pieces of any length as groups of ``4 chunk`` frames, the first 3 shorter, the last as long as it comes."""
    held: list[Tensor] = []
    wanted, seen = 4 * chunk - 3, 0
    for piece in pieces:
        low, high = (bound.item() for bound in piece.detach().aminmax())
        if not (low >= -OVERSHOOT and high <= OVERSHOOT):
            raise ValueError(f"the frames of a clip are finite numbers in [-1, 1], got {low:g} to {high:g}")
        if held and (piece.shape[:2] + piece.shape[3:]) != (held[0].shape[:2] + held[0].shape[3:]):
            raise ValueError(f"the pieces of a clip have one shape, got {tuple(held[0].shape)} and {tuple(piece.shape)}")
        held.append(piece)
        seen += piece.shape[2]
        if sum(p.shape[2] for p in held) < wanted:
            continue
        clip = held[0] if len(held) == 1 else torch.cat(held, 2)
        while clip.shape[2] >= wanted:
            yield clip[:, :, :wanted]
            clip, wanted = clip[:, :, wanted:], 4 * chunk
        held = [clip]
    if seen % 4 != 1:
        raise ValueError(wrong_count(seen))
    rest = torch.cat(held, 2)
    if rest.shape[2]:
        yield rest

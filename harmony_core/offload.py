"""A model larger than its GPU: weights wait in host memory and are on the device while they compute.

The layers of the joint model come one after another, a layer's weights being copied on a stream of their own while the layer
before it computes; a whole part (the model beside its layers, the video codec, the audio codec) comes for as long as it is
used and leaves before another one comes. Inside ComfyUI none of this is used: the core moves weights there.

A weight keeps its identity. What changes is what is behind it: the copy on the device while it is needed, and otherwise the
tensor in host memory, which is never written to. Weights that are patched in place or replaced between runs (a LoRA) are
therefore seen as they are, and a run that is cancelled leaves nothing behind.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from .models.harmony import Harmony

BLOCK = 1 << 28
"""Most bytes of a block of locked memory, but for a weight that is larger."""
ALIGNMENT = 512
"""Bytes between the beginnings of weights in a block, or a multiple."""


@dataclass
class Traffic:
    """What has moved, and how much was there at once.

    Attributes:
        visits: how often the weights of one piece of work came.
        moved: bytes copied to the device.
        here: pieces of work whose weights are there now.
        bytes_here: bytes of those.
        most_here: the largest ``here`` so far.
        most_bytes_here: the largest ``bytes_here`` so far.
    """

    visits: int = 0
    moved: int = 0
    here: int = 0
    bytes_here: int = 0
    most_here: int = 0
    most_bytes_here: int = 0

    def come(self, size: int) -> None:
        """Count weights that came."""
        self.visits += 1
        self.moved += size
        self.here += 1
        self.bytes_here += size
        self.most_here = max(self.most_here, self.here)
        self.most_bytes_here = max(self.most_bytes_here, self.bytes_here)

    def leave(self, size: int) -> None:
        """Count weights that left."""
        self.here -= 1
        self.bytes_here -= size


class _Lane:
    """Copies to a device, in the order of everything else."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def bring(self, weights: Sequence[Tensor]) -> list[Tensor]:
        """Copies of ``weights``, always apart from them, also where the device is the same."""
        return [torch.empty_like(w, device=self._device).copy_(w, non_blocking=True) for w in weights]

    def arrival(self) -> torch.cuda.Event | None:
        """What to wait for before the last copies are used."""
        return None

    def wait(self, arrival: torch.cuda.Event | None) -> None:
        """Let what is computed from here on wait for it."""
        del arrival

    def release(self) -> None:
        """Let later copies wait for what has been computed so far: they may take its weights' memory."""


class _CudaLane(_Lane):
    """Copies on a stream of their own, so that they go on while the device computes.

    Memory for copies comes from the pool of that stream, and is used by another stream. That is safe, and the memory is used
    again at once, because the copying stream waits in :meth:`release` for what was computed with it.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        self._stream = torch.cuda.Stream(device)

    def bring(self, weights: Sequence[Tensor]) -> list[Tensor]:
        with torch.cuda.stream(self._stream):
            return super().bring(weights)

    def arrival(self) -> torch.cuda.Event | None:
        return self._stream.record_event()

    def wait(self, arrival: torch.cuda.Event | None) -> None:
        if arrival is not None:
            torch.cuda.current_stream(self._device).wait_event(arrival)

    def release(self) -> None:
        self._stream.wait_stream(torch.cuda.current_stream(self._device))


@dataclass
class _Visit:
    """The weights of one piece of work on the device."""

    weights: list[Tensor]
    home: list[Tensor]
    copies: list[Tensor]
    arrival: torch.cuda.Event | None
    entered: bool = field(default=False)

    @property
    def size(self) -> int:
        return sum(_size(copy) for copy in self.copies)


class Porter:
    """Brings weights to a device and takes them away again.

    Attributes:
        device: where to.
        ahead: how many pieces of work are brought before their turn.
        traffic: what it has done.
    """

    def __init__(self, device: torch.device | str, *, ahead: int = 1) -> None:
        if ahead < 0:
            raise ValueError(f"layers fetched ahead are 0 or more, got {ahead}")
        self.device = torch.device(device)
        self.ahead = ahead
        self.traffic = Traffic()
        self._lane = _CudaLane(self.device) if self.device.type == "cuda" else _Lane(self.device)

    @contextmanager
    def in_turn(self, works: Sequence[Sequence[nn.Module]]) -> Iterator[Iterator[int]]:
        """See :class:`.models.harmony.Residency`: yields the numbers of ``works``, the weights of each being there.

        At most ``1 + ahead`` of them are there at once. However the context ends, all weights are back home.

        Raises:
            ValueError: gradients are wanted of a weight, which would be gone when they are computed.
        """
        visits: deque[_Visit] = deque()
        try:
            yield self._turns(works, visits)
        finally:
            while visits:
                self._leave(visits.pop())

    def _turns(self, works: Sequence[Sequence[nn.Module]], visits: deque[_Visit]) -> Iterator[int]:
        fetched = 0
        for n in range(len(works)):
            while fetched < min(len(works), n + 1 + self.ahead):
                visits.append(self._fetch(works[fetched], visits))
                fetched += 1
            self._enter(visits[0])
            yield n
            self._leave(visits.popleft())

    @contextmanager
    def staying(self, weights: Iterable[Tensor]) -> Iterator[None]:
        """Bring these weights for as long as the context lasts."""
        visit = self._bring(list({id(w): w for w in weights}.values()))
        try:
            self._enter(visit)
            yield
        finally:
            self._leave(visit)

    def _fetch(self, work: Sequence[nn.Module], others: Iterable[_Visit]) -> _Visit:
        weights = {id(w): w for module in work for w in weights_of(module)}
        if torch.is_grad_enabled() and any(w.requires_grad for w in weights.values()):
            raise ValueError("layers that are offloaded have no gradients: their weights are gone when those are computed")
        present = {id(w) for visit in others for w in visit.weights}
        assert not present & set(weights), "layers share a weight: it would come twice"
        if self.device.type == "cuda":
            pin(work)  # at its first turn: until then a LoRA may put another in its place
        return self._bring(list(weights.values()))

    def _bring(self, weights: list[Tensor]) -> _Visit:
        home = [w.data for w in weights]
        visit = _Visit(weights, home, self._lane.bring(home), self._lane.arrival())
        self.traffic.come(visit.size)
        return visit

    def _enter(self, visit: _Visit) -> None:
        self._lane.wait(visit.arrival)
        for weight, copy in zip(visit.weights, visit.copies, strict=True):
            weight.data = copy
        visit.entered = True

    def _leave(self, visit: _Visit) -> None:
        if visit.entered:
            for weight, home in zip(visit.weights, visit.home, strict=True):
                weight.data = home
        self.traffic.leave(visit.size)
        self._lane.release()
        visit.copies.clear()


class Offload:
    """A model and the codecs beside it that take turns on a device.

    Attributes:
        layers: brings the model's layers.
        parts: brings whole parts.
    """

    def __init__(self, model: Harmony, device: torch.device | str, *, ahead: int = 1) -> None:
        """Take charge of a model whose weights are in host memory.

        Args:
            model: the joint model; from here on its layers come to ``device`` by themselves, whichever way it is run.
            device: to compute on.
            ahead: layers brought before their turn; each takes memory.

        Raises:
            ValueError: ``ahead`` is negative.
        """
        self.layers = Porter(device, ahead=ahead)
        self.parts = Porter(device)
        self._model = model
        self._used: nn.Module | None = None
        model.residency = self.layers

    def using(self, part: nn.Module) -> AbstractContextManager[None]:
        """Have a part on the device: the model (its layers still come one by one) or a codec.

        One part at a time, so that their memory is not needed together; the part in use may be asked for again.
        """
        if part is self._used:
            return nullcontext()
        assert self._used is None, "a part comes to the device when the one before it has left"
        return self._using(part)

    @contextmanager
    def _using(self, part: nn.Module) -> Iterator[None]:
        layers = {id(w) for module in layers_of(self._model) for w in weights_of(module)}
        self._used = part
        try:
            with self.parts.staying(w for w in weights_of(part) if id(w) not in layers):
                yield
        finally:
            self._used = None

    def close(self) -> None:
        """Leave the model as it was: it computes where its weights are."""
        self._model.residency = None


def layers_of(model: Harmony) -> list[nn.Module]:
    """What comes and goes while the model runs: the blocks of both branches and what passes between them."""
    return [*model.video.blocks, *model.audio.blocks, *model.interaction.layers]


def weights_of(module: nn.Module) -> Iterator[Tensor]:
    """Parameters and buffers."""
    yield from module.parameters()
    yield from module.buffers()


def pin(modules: Iterable[nn.Module]) -> None:
    """Lock weights in host memory, from where a GPU copies them by itself while it computes; those that are locked stay.

    Raises:
        ValueError: the system does not lock as much.
    """
    weights = {id(w): w for module in modules for w in weights_of(module)}
    loose = [w for w in weights.values() if w.device.type == "cpu" and not w.is_pinned()]
    try:
        pack(loose, lambda size: torch.empty(size, dtype=torch.uint8, pin_memory=True))
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"the model's weights cannot be locked in host memory for offload: {reason}") from error


def pack(weights: Iterable[Tensor], allocate: Callable[[int], Tensor]) -> None:
    """Move what is behind weights into few large blocks, with their values.

    Torch rounds every locked block up to a power of two: a matrix by itself would take up to twice its size.

    Args:
        weights: of which each becomes a part of a block.
        allocate: makes a block of so many bytes.
    """
    blocks: list[tuple[Tensor, int]] = []
    ordered = sorted(weights, key=_size, reverse=True)
    usual = min(BLOCK, 1 << sum(_size(weight) + ALIGNMENT for weight in ordered).bit_length())
    for weight in ordered:
        size = _size(weight)
        fit = next((n for n, (block, at) in enumerate(blocks) if at + size <= block.numel()), len(blocks))
        if fit == len(blocks):
            blocks.append((allocate(max(usual, size)), 0))
        block, at = blocks[fit]
        place = block[at : at + size].view(weight.dtype).view(weight.shape)
        weight.data = place.copy_(weight.data)
        blocks[fit] = block, at + -(-size // ALIGNMENT) * ALIGNMENT


def _size(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()

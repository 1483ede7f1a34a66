"""One process or many: under ``torchrun`` every process takes its part of each batch, and together they do what one would.

``ddp`` keeps the weights whole on every process; ``fsdp`` (FSDP2, ``fully_shard``) keeps weights, averages, gradients and
optimizer state in parts and gathers the weights layer by layer, each for as long as it computes.

On GPUs processes talk in two ways: NCCL between the GPUs while they train, gloo between main memories for all else: waiting for
each other, agreeing, putting weights together on the first one.
"""

from __future__ import annotations

import contextlib
import gc
import os
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Shard
from torch.nn.parallel import DistributedDataParallel

from ..runtime import usable_device

TIMEOUT_MINUTES = 60.0
"""How long processes wait for each other: longer than anything the first one does alone."""
GATHERED = (nn.Linear, nn.Conv1d)
"""Layers whose weights ``fsdp`` gathers one by one: nearly all there are, and nothing but their own call uses them. Those of
other convolutions are used outside of them too, in :mod:`..codecs.video_kernels`."""


@dataclass(frozen=True)
class World:
    """The processes that train together.

    Attributes:
        rank: of this one.
        size: how many.
        mesh: all of them in a row, for ``fsdp``; None if there is one.
    """

    rank: int = 0
    size: int = 1
    mesh: DeviceMesh | None = None

    @property
    def first(self) -> bool:
        """Whether this is the process that writes logs and files."""
        return self.rank == 0

    def mean(self, values: Mapping[str, Tensor]) -> dict[str, float]:
        """Scalars averaged over the processes, in one message."""
        stacked = torch.stack([value.detach().float().reshape(()) for value in values.values()])
        if self.size > 1:
            dist.all_reduce(stacked)
            stacked = stacked / self.size
        return dict(zip(values, stacked.tolist(), strict=True))

    def barrier(self) -> None:
        """Wait for the others; in main memory, where no watchdog of NCCL ends a process that waits."""
        if self.size > 1:
            dist.all_reduce(torch.zeros(()))

    def all(self, value: Any) -> list[Any]:
        """What every process says, by rank; plain values."""
        said = [value] * self.size
        if self.size > 1:
            dist.all_gather_object(said, value)
        return said

    def attempt(self, work: Callable[[], None]) -> None:
        """Do a thing that may fail on any process; on all of them it is then known to have failed.

        Raises:
            ValueError: it failed here or elsewhere: what the first that failed says.
        """
        problem, cause = None, None
        try:
            work()
        except (OSError, ValueError) as error:
            problem, cause = str(error), error
        found = [one for one in self.all(problem) if one is not None]
        if found:
            raise ValueError(found[0]) from cause

    def rows(self, count: int, rank: int | None = None) -> tuple[int, int]:
        """The rows, from and to, that a process keeps of a tensor with ``count`` of them, as ``fsdp`` cuts it."""
        each = -(-count // self.size)
        rank = self.rank if rank is None else rank
        return min(rank * each, count), min((rank + 1) * each, count)

    def at_first(self, value: Tensor) -> Tensor | None:
        """A tensor, whole, in the first process's main memory; None elsewhere. All processes call it for the same tensor."""
        here = local(value).cpu().contiguous()
        if not isinstance(value, DTensor):
            return here if self.first else None
        if not self.first:
            if here.numel():
                dist.send(here, dst=0)
            return None
        whole = torch.empty(value.shape, dtype=value.dtype)
        whole[: len(here)] = here
        for rank in range(1, self.size):
            begin, end = self.rows(len(whole), rank)
            if whole[begin:end].numel():
                dist.recv(whole[begin:end], src=rank)
        return whole


@contextlib.contextmanager
def connected(device: str, *, timeout_minutes: float = TIMEOUT_MINUTES) -> Iterator[World]:
    """The world ``torchrun`` made, or this process alone.

    Nothing may have touched a GPU before: each process takes its own first, or all would hold memory on the first one.

    Args:
        device: what is computed on, which decides how processes talk.
        timeout_minutes: how long they wait for each other.

    Raises:
        ValueError: the device cannot be used, the processes cannot be connected, or another one has ended or is silent.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        usable_device(device, "the config's device")
        yield World()
        return
    cuda = device.startswith("cuda")
    if cuda:
        _take_gpu(device)
    usable_device(device, "the config's device")
    try:
        timeout = timedelta(minutes=timeout_minutes)
        dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", timeout=timeout)
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"the processes of this run cannot be connected; start them with torchrun: {error}") from error
    size = dist.get_world_size()
    mesh = init_device_mesh("cuda" if cuda else "cpu", (size,))
    world = World(dist.get_rank(), size, mesh)
    try:
        with warnings.catch_warnings():
            # Nothing here changes a layer's output in place.
            warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view")
            yield world
        world.barrier()
    except BaseException as error:
        traceback.clear_frames(error.__traceback__)  # what they hold refers to the group: see _leave
        if isinstance(error, RuntimeError) and _of_the_connection(error):
            raise ValueError(
                f"process {world.rank} of {size} cannot reach another one, which has ended or said nothing for "
                f"{timeout_minutes:g} minutes (run.timeout_minutes); see what that one says, then go on with --resume"
            ) from error
        raise
    finally:
        _leave(mesh)


def _take_gpu(device: str) -> None:
    if device != "cuda":
        raise ValueError(f"run.device: several processes take a GPU each, so leave its number out: cuda, got {device}")
    mine, there = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if mine >= there:
        raise ValueError(
            f"run.device: process {mine} of this machine has no GPU of its own, there are {there}; start that many processes "
            f"(torchrun --nproc-per-node) or set the device to cpu"
        )
    torch.cuda.set_device(mine)


def _of_the_connection(error: RuntimeError) -> bool:
    """Whether another process is the reason: torch has a class for that, but not for all that gloo says."""
    return isinstance(error, dist.DistError) or "gloo" in str(error).lower()


def _leave(mesh: DeviceMesh) -> None:
    """End the processes' group, and with it the threads that carry its messages, before Python is finalized.

    Such a thread takes Python's lock to let go of a message's tensors, and a message is let go some time after those who wait
    for it have gone on. If Python is being finalized by then, the process aborts: see docs/decisions/0005. A group waits for
    its threads when the last reference to it goes; that has to be here.
    """
    group = dist.group.WORLD
    dist.destroy_process_group()
    mesh._pg_registry.clear()  # noqa: SLF001 - DTensor's caches keep a mesh for good, and a mesh its groups
    gc.collect()  # wrapped modules and their optimizers are cycles
    del group  # the last one: a reference of Python's waits without Python's lock


def wrap(objective: nn.Module, world: World, sharding: Literal["ddp", "fsdp"], device: torch.device | str = "cpu") -> nn.Module:
    """Bring a module to its device and make its gradients those of all processes together; in place with ``fsdp``.

    Args:
        objective: returns losses that are means over its part of the batch.
        world: the processes.
        sharding: how weights are kept.
        device: to compute on. With ``fsdp`` it never holds more than its part and a layer.
    """
    if world.size == 1:
        return objective.to(device)
    if sharding == "ddp":
        # A driven task leaves the driver's head unused, a reference the style tokens.
        return DistributedDataParallel(objective.to(device), find_unused_parameters=True)
    # Layers and not blocks: a block is called by its steps, and some of its layers from outside of them. All processes come
    # to the layers in one order, or they would take each other's weights for their own: see docs/decisions/0004.
    for layer in [module for module in objective.modules() if isinstance(module, GATHERED)]:
        fully_shard(layer, mesh=world.mesh)
    fully_shard(objective, mesh=world.mesh)  # what is in no such layer: norms, modulations, tables
    return objective


class Weights:
    """Tensors of all processes, put together one at a time in the first one's main memory.

    Attributes:
        shapes: of the whole tensors, by name.
    """

    def __init__(self, tensors: Mapping[str, Tensor], world: World) -> None:
        self._tensors, self._world = tensors, world
        self.shapes = {name: tuple(value.shape) for name, value in tensors.items()}

    def items(self) -> Iterator[tuple[str, Tensor]]:
        """Names and tensors on the first process, which goes through all of them while the others hand theirs over."""
        for name, value in self._tensors.items():
            whole = self._world.at_first(value)
            if whole is not None:
                yield name, whole

    def whole(self) -> dict[str, Tensor]:
        """All of them at once."""
        return dict(self.items())

    def hand_over(self) -> None:
        """What the other processes do meanwhile."""
        assert not self.whole()


def local(value: Tensor) -> Tensor:
    """What this process keeps of a tensor: its rows, or all of it where it is not in parts."""
    if not isinstance(value, DTensor):
        return value.detach()
    assert value.placements == (Shard(0),), value.placements
    found: Tensor = value.detach().to_local()  # type: ignore[attr-defined]
    return found

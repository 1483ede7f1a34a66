"""One process or many: under ``torchrun`` every process takes its part of each batch, and together they do what one would.

``ddp`` keeps the weights whole on every process; ``fsdp`` (FSDP2, ``fully_shard``) keeps weights, averages and optimizer state
in parts and gathers the weights for the length of a step.
"""

from __future__ import annotations

import contextlib
import gc
import os
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel


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
        """Wait for the others."""
        if self.size > 1:
            dist.barrier()


@contextlib.contextmanager
def connected(device: str) -> Iterator[World]:
    """The world ``torchrun`` made, or this process alone.

    Args:
        device: what is computed on, which decides how processes talk.

    Raises:
        ValueError: the processes cannot be connected.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield World()
        return
    cuda = device.startswith("cuda")
    if cuda:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    try:
        dist.init_process_group("nccl" if cuda else "gloo")
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"the processes of this run cannot be connected; start them with torchrun: {error}") from error
    size = dist.get_world_size()
    mesh = init_device_mesh("cuda" if cuda else "cpu", (size,))
    world = World(dist.get_rank(), size, mesh)
    try:
        yield world
        world.barrier()
    except BaseException as error:
        traceback.clear_frames(error.__traceback__)  # what they hold refers to the group: see _leave
        raise
    finally:
        _leave(mesh)


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


def wrap(objective: nn.Module, world: World, sharding: Literal["ddp", "fsdp"]) -> nn.Module:
    """Make a module's gradients those of all processes together; in place with ``fsdp``.

    Args:
        objective: returns losses that are means over its part of the batch.
        world: the processes.
        sharding: how weights are kept.
    """
    if world.size == 1:
        return objective
    if sharding == "ddp":
        # A driven task leaves the driver's head unused, a reference the style tokens.
        return DistributedDataParallel(objective, find_unused_parameters=True)
    # One group for all weights. Gathered layer by layer, two processes trained other weights than one does (differences of
    # 3e-3 after four steps, against 1e-6 here), and not the same ones every time: see docs/decisions/0004.
    fully_shard(objective, mesh=world.mesh)
    return objective


def whole(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors put together from all processes' parts; every process has to call it."""
    return {name: value.full_tensor() if isinstance(value, DTensor) else value for name, value in tensors.items()}

"""Checkpoints of a run: everything the next step depends on, so that a resumed run goes on bit for bit.

``checkpoints/step-00000500`` holds weights, averages and optimizer state, and ``state.json``. A checkpoint is written under
another name and renamed when it is whole, and older ones go only then: whenever the disk is full or the process is killed, the
last good one is there. No random state is in it, as there is none: see :mod:`.data`.

Processes that keep their weights in parts write ``torch.distributed.checkpoint`` files, each its own part.
"""

from __future__ import annotations

import json
import re
import shutil
import uuid
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.tensor import DTensor

from ..inputs import MIB, exists, is_dir, named, read_text
from ..records import check_fields, from_record, to_record
from ..shown import shown
from ..weights.files import read_places
from .distributed import World

FORMAT = "1"
STATE = "state.json"
TENSORS = "state.safetensors"
NAME = re.compile(r"step-(\d{8,})")


@dataclass(frozen=True, kw_only=True)
class State:
    """What is not a tensor.

    Attributes:
        step: steps done.
        format: version of the layout.
        sharded: whether the tensors are files of ``torch.distributed.checkpoint``.
    """

    step: int
    format: str = FORMAT
    sharded: bool = False

    def __post_init__(self) -> None:
        check_fields(self, "checkpoint")


class Checkpoints:
    """The checkpoints of one run."""

    def __init__(self, folder: Path, world: World, *, keep: int) -> None:
        self.folder, self._world, self._keep = folder, world, keep

    def found(self) -> list[Path]:
        """Whole checkpoints, oldest first."""
        if not is_dir(self.folder):
            return []
        named = [(int(m[1]), path) for path in self.folder.iterdir() if (m := NAME.fullmatch(path.name))]
        return [path for _, path in sorted(named)]

    def save(self, step: int, tensors: Mapping[str, Tensor]) -> None:
        """Write a checkpoint; all processes call it.

        Raises:
            ValueError: it could not be written; those before are as they were.
        """
        sharded = any(isinstance(value, DTensor) for value in tensors.values())
        target = self.folder / f"step-{step:08d}"
        temporary = self.folder / f".{target.name}.{self._token()}"
        try:
            temporary.mkdir(parents=True, exist_ok=True)
            self._world.barrier()
            if sharded:
                save(dict(tensors), checkpoint_id=temporary)
            elif self._world.first:
                save_file(
                    {name: value.detach().cpu().contiguous() for name, value in tensors.items()}, str(temporary / TENSORS)
                )
            if self._world.first:
                (temporary / STATE).write_text(json.dumps(to_record(State(step=step, sharded=sharded))), encoding="utf-8")
                self._publish(temporary, target)
        except (OSError, SafetensorError, CheckpointException) as error:
            last = self.found()
            kept = f"; the last good one is {last[-1]}" if last else ""
            raise ValueError(f"cannot write the checkpoint of step {step}: {error}{kept}") from error
        finally:
            if self._world.first:
                shutil.rmtree(temporary, ignore_errors=True)
        self._world.barrier()

    def load(self, path: Path, tensors: Mapping[str, Tensor]) -> int:
        """Put a checkpoint's values into ``tensors``, in place.

        Returns:
            Steps done.

        Raises:
            ValueError: it is damaged, of another version, or of another network; the tensors may then be changed in part.
        """
        state = self.read_state(path)
        sharded = any(isinstance(value, DTensor) for value in tensors.values())
        if state.sharded:
            try:
                with warnings.catch_warnings():
                    warnings.filterwarnings("ignore", "torch.distributed is disabled")  # one process is meant to read them
                    load(dict(tensors), checkpoint_id=path, no_dist=self._world.size == 1)
            except (CheckpointException, OSError) as error:
                raise ValueError(f"the checkpoint {path} is damaged or of another network: {error}") from error
            return state.step
        if sharded:
            raise ValueError(f"{path} was written with whole weights (run.sharding ddp) and cannot be resumed in parts")
        try:
            read_places(path / TENSORS)  # which refuses what the format does not
            saved = load_file(str(path / TENSORS))
        except (SafetensorError, OSError, ValueError) as error:
            why = shown(str(error), 160)
            raise ValueError(
                f"the checkpoint {named(path)} is damaged: {why}; remove it to resume from the one before"
            ) from error
        if {k: v.shape for k, v in saved.items()} != {k: v.shape for k, v in tensors.items()}:
            raise ValueError(f"the checkpoint {path} is of another network than the config's")
        with torch.no_grad():
            for name, value in tensors.items():
                value.copy_(saved[name])
        return state.step

    def read_state(self, path: Path) -> State:
        """What is not a tensor."""
        try:
            record = json.loads(read_text(path / STATE, most=MIB))
        except (ValueError, RecursionError) as error:
            why = shown(str(error), 160)
            raise ValueError(
                f"the checkpoint {named(path)} is damaged: {why}; remove it to resume from the one before"
            ) from error
        state = from_record(State, record, named(path))
        if state.format != FORMAT:
            raise ValueError(f"{path} is of format {state.format!r}, this version of the software reads {FORMAT!r}")
        return state

    def clean(self) -> None:
        """Remove what killed runs left half-written."""
        if self._world.first and is_dir(self.folder):
            for path in self.folder.glob(".step-*"):
                shutil.rmtree(path, ignore_errors=True)
        self._world.barrier()

    def _publish(self, temporary: Path, target: Path) -> None:
        if exists(target):  # of a run that was told to go back
            shutil.rmtree(target)
        temporary.rename(target)
        for old in self.found()[: -self._keep]:
            shutil.rmtree(old)

    def _token(self) -> str:
        """A name all processes agree on."""
        token = [uuid.uuid4().hex[:8]]
        if self._world.size > 1:
            dist.broadcast_object_list(token)
        return token[0]

"""Checkpoints of a run: everything the next step depends on, so that a resumed run goes on bit for bit.

``checkpoints/step-00000500`` holds weights, averages and optimizer state, and ``state.json``. A checkpoint is written under
another name and renamed when it is whole, and older ones go only then: whenever the disk is full or the process is killed, the
last good one is there. No random state is in it, as there is none: see :mod:`.data`.

Tensors are in ``state.safetensors``, or where processes keep their weights in parts in a file of each: its rows of every tensor
that is in parts, in the first one's the others too. Any number of processes can read them, each the rows it keeps.

A run's folder may come from anywhere: there is nothing in it that runs code when it is read, the names of files follow from how
many they are, and what the files list is compared with what the run needs before a tensor is read.
"""

from __future__ import annotations

import json
import re
import shutil
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.distributed.tensor import DTensor

from ..inputs import exists, is_dir, named, read_text
from ..records import check_fields, from_record, to_record
from ..shown import shown
from ..weights.stream import Entry, open_tensors, writing
from .distributed import World, local

FORMAT = "2"
FORMER = "1"
"""With one process its layout was the same; processes that kept their weights in parts wrote files of torch's."""
STATE = "state.json"
TENSORS = "state.safetensors"
NAME = re.compile(r"step-(\d{8,})")
MOST_PARTS = 4096
_LONGEST_STATE = 10_000
"""Bytes of ``state.json``."""
_TORCHS = ".metadata"
"""A pickle, in what ``torch.distributed.checkpoint`` writes."""
_SHOWN = 3


@dataclass(frozen=True, kw_only=True)
class State:
    """What is not a tensor.

    Attributes:
        step: steps done.
        format: version of the layout.
        parts: files the tensors are in.
        sharded: in format 1, whether the tensors are files of ``torch.distributed.checkpoint``.
    """

    step: int
    format: str = FORMAT
    parts: int = 1
    sharded: bool = False

    def __post_init__(self) -> None:
        check_fields(self, "checkpoint")
        if self.step < 0 or not 1 <= self.parts <= MOST_PARTS:
            raise ValueError(f"checkpoint: of step {self.step} in {self.parts} parts; there are at most {MOST_PARTS}")


def _name(step: int) -> str:
    return f"step-{step:08d}"


def file_of(part: int, parts: int) -> str:
    """The name of one of the files the tensors are in."""
    return TENSORS if parts == 1 else f"state-{part:05d}-of-{parts:05d}.safetensors"


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
        parts = self._world.size if any(isinstance(value, DTensor) for value in tensors.values()) else 1
        target = self.folder / _name(step)
        temporary = self.folder / f".{target.name}.{self._token()}"

        def write() -> None:
            temporary.mkdir(parents=True, exist_ok=True)
            if self._world.rank < parts:
                self._write_part(temporary, step, parts, tensors)

        def publish() -> None:
            if self._world.first:
                (temporary / STATE).write_text(json.dumps(to_record(State(step=step, parts=parts))), encoding="utf-8")
                self._publish(temporary, target)

        try:
            self._world.attempt(write)
            self._world.attempt(publish)
        except ValueError as error:
            last = self.found()
            kept = f"; the last good one is {last[-1]}" if last else ""
            raise ValueError(f"cannot write the checkpoint of step {step}: {error}{kept}") from error
        finally:
            if self._world.first:
                shutil.rmtree(temporary, ignore_errors=True)

    def load(self, path: Path, tensors: Mapping[str, Tensor]) -> int:
        """Put a checkpoint's values into ``tensors``, in place.

        Returns:
            Steps done.

        Raises:
            ValueError: it is damaged, of another version, or of another network. Nothing is read of one whose files do not
                list exactly these tensors; where a file cannot be read, the tensors may be changed in part.
        """
        state = self.read_state(path)
        files = [path / file_of(part, state.parts) for part in range(state.parts)]
        listed = [_listed(file, state, part) for part, file in enumerate(files)]
        places = {name: _rows_of(name, value, listed, path) for name, value in tensors.items()}
        if unknown := sorted({name for entries in listed for name in entries} - set(tensors)):
            raise _of_another_network(path, f"it has no {', '.join(unknown[:_SHOWN])}")
        with torch.no_grad():
            for part, file in enumerate(files):
                self._read_part(file, part, {name: (tensors[name], rows) for name, rows in places.items()})
        return state.step

    def read_state(self, path: Path) -> State:
        """What is not a tensor.

        Raises:
            ValueError: it is damaged, of another version, or written in a form that can run code when it is read.
        """
        try:
            state = _state_in(path)
        except (OSError, ValueError, RecursionError) as error:
            why = shown(str(error), 160)
            raise ValueError(
                f"the checkpoint {named(path)} is damaged: {why}; remove it to resume from the one before"
            ) from error
        if state.sharded or (path / _TORCHS).exists():
            raise ValueError(
                f"the checkpoint {path} is in the format of torch.distributed, which can run code when it is read, and is not "
                f"opened; start a new run with config.init, from the model file beside the checkpoints"
            )
        if state.format not in {FORMAT, FORMER}:
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
        return str(self._world.all(uuid.uuid4().hex[:8])[0])

    def _write_part(self, folder: Path, step: int, parts: int, tensors: Mapping[str, Tensor]) -> None:
        """This process's file, a tensor at a time."""
        mine = {name: value for name, value in tensors.items() if self._world.first or isinstance(value, DTensor)}
        entries = {name: Entry(tuple(local(value).shape), value.dtype) for name, value in mine.items()}
        about = {"step": str(step), "part": str(self._world.rank), "parts": str(parts)}
        with writing(folder / file_of(self._world.rank, parts), entries, about) as writer:
            for name, value in mine.items():
                writer.write(name, [local(value).cpu()])

    def _read_part(self, file: Path, part: int, places: Mapping[str, tuple[Tensor, Sequence[int] | None]]) -> None:
        """Copy out of one file whatever of it this process keeps."""
        try:
            with safe_open(str(file), framework="pt") as opened:
                for name, (value, rows) in places.items():
                    if rows is None:
                        if part == 0:
                            value.copy_(opened.get_tensor(name))
                        continue
                    here = local(value)
                    begin, end = self._world.rows(value.shape[0]) if isinstance(value, DTensor) else (0, value.shape[0])
                    first = sum(rows[:part])
                    low, high = max(begin, first), min(end, first + rows[part])
                    if low < high:
                        here[low - begin : high - begin].copy_(opened.get_slice(name)[low - first : high - first])
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{file} cannot be read: {error}; remove the checkpoint to resume from the one before") from error


def _state_in(path: Path) -> State:
    state = from_record(State, json.loads(read_text(path / STATE, most=_LONGEST_STATE)), "checkpoint")
    if path.name != _name(state.step):
        raise ValueError(f"its {STATE} is of step {state.step}")
    return state


def _listed(file: Path, state: State, part: int) -> Mapping[str, Entry]:
    """What one of a checkpoint's files lists, seen to be as long as that and to belong to it."""
    try:
        source = open_tensors(file)
    except ValueError as error:
        raise ValueError(
            f"the checkpoint {file.parent} is damaged: {error}; remove it to resume from the one before"
        ) from error
    wanted = {"step": str(state.step), "part": str(part), "parts": str(state.parts)}
    if state.format == FORMAT and dict(source.metadata) != wanted:
        raise ValueError(f"the checkpoint {file.parent} is damaged: {file.name} is of another one; remove it")
    return source.entries


def _rows_of(name: str, value: Tensor, listed: Sequence[Mapping[str, Entry]], path: Path) -> list[int] | None:
    """How many rows of a tensor each file has, checked against the tensor; None for one without axes, in the first file."""
    shape, entries = tuple(value.shape), [one.get(name) for one in listed]
    given = [entry for entry in entries if entry is not None]
    if not given or any(entry.dtype is not value.dtype for entry in given):
        raise _of_another_network(path, f"{name} is missing or not {str(value.dtype).removeprefix('torch.')}")
    if not shape:
        if entries[0] is None or len(given) > 1 or given[0].shape:
            raise _of_another_network(path, f"{name} is a single number")
        return None
    if any(len(entry.shape) != len(shape) or entry.shape[1:] != shape[1:] for entry in given):
        raise _of_another_network(path, f"{name} is {shape}, there it is in parts such as {given[0].shape}")
    rows = [0 if entry is None else entry.shape[0] for entry in entries]
    if sum(rows) != shape[0]:
        raise _of_another_network(path, f"{name} has {shape[0]} rows, there {sum(rows)}")
    return rows


def _of_another_network(path: Path, what: str) -> ValueError:
    return ValueError(f"the checkpoint {path} is of another network than the config's: {what}")

"""Checkpoints of a run: parts of any number of processes, and folders from anywhere."""

import json
import os
import pickle
import resource
import time
from pathlib import Path

import pytest
import torch
from processes import together, written
from safetensors.torch import load_file, save_file

from harmony_core.training.checkpoint import STATE, TENSORS, Checkpoints, file_of
from harmony_core.training.config import OptimizerConfig
from harmony_core.training.distributed import World
from harmony_core.training.loop import make_optimizer

PARTS = """
    import sys, torch
    from pathlib import Path
    from torch import nn
    from torch.distributed.tensor import DTensor
    from safetensors.torch import save_file
    from harmony_core.training.checkpoint import Checkpoints
    from harmony_core.training.config import OptimizerConfig
    from harmony_core.training.distributed import Weights, connected, wrap
    from harmony_core.training.loop import make_optimizer
    torch.set_num_threads(1)

    class Small(nn.Module):  # of one row, of fewer rows than processes, of rows that do not divide
        def __init__(self):
            super().__init__()
            self.a, self.b, self.norm = nn.Linear(3, 7), nn.Linear(7, 1), nn.LayerNorm(2)
            self.register_buffer("scale", torch.tensor([1.0, 2.0]))

    def state(module):
        named = dict(module.named_parameters())
        optimizer = make_optimizer(named, OptimizerConfig(lr=1.0))
        tensors = {f"weights.{n}": v for n, v in module.state_dict().items()}
        return tensors | {f"optimizer.{n}.{k}": v for n, p in named.items() for k, v in optimizer.state[p].items()}

    folder, what = Path(sys.argv[1]), sys.argv[2]
    with connected("cpu") as world:
        module = Small()
        wrap(module, world, "fsdp")
        tensors = state(module)
        checkpoints = Checkpoints(folder / "checkpoints", world, keep=2)
        if what == "save":
            with torch.no_grad():
                for number, value in enumerate(tensors.values()):  # the same whatever the parts
                    whole = torch.arange(value.numel(), dtype=torch.float32).reshape(value.shape) + 100 * number
                    if isinstance(value, DTensor):
                        begin, end = world.rows(len(whole))
                        value.to_local().copy_(whole[begin:end])
                    else:
                        value.copy_(whole)
            checkpoints.save(4, tensors)
        else:
            assert checkpoints.load(checkpoints.found()[-1], tensors) == 4
        weights = Weights(tensors, world)
        if world.first:
            save_file({n: v.clone() for n, v in weights.items()}, folder / f"{what}.safetensors")
        else:
            weights.hand_over()
"""


@pytest.mark.bitwise("file")
def test_parts_of_any_number_of_processes_are_read_by_any_other(tmp_path):
    program = written(tmp_path, PARTS)
    for writers, readers in ((3, 2), (1, 2)):
        folder = tmp_path / f"{writers}-{readers}"
        folder.mkdir()
        together(program, [str(folder), "save"], hash_seeds=range(writers))
        files = sorted(path.name for path in (folder / "checkpoints" / "step-00000004").iterdir())
        assert files == sorted([STATE, *(file_of(part, writers) for part in range(writers))])
        together(program, [str(folder), "load"], hash_seeds=range(readers))
        saved, loaded = load_file(folder / "save.safetensors"), load_file(folder / "load.safetensors")
        assert saved.keys() == loaded.keys()
        assert all(torch.equal(saved[name], loaded[name]) for name in saved)
        assert len({float(value.max()) for value in saved.values()}) == len(saved)


# ---- folders from anywhere


class Touch:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def tensors() -> dict[str, torch.Tensor]:
    parameters = {"a": torch.nn.Parameter(torch.arange(12.0).reshape(4, 3)), "b": torch.nn.Parameter(torch.ones(5))}
    state = make_optimizer(parameters, OptimizerConfig(lr=1.0)).state
    made = {f"weights.{name}": parameter.detach() for name, parameter in parameters.items()}
    return made | {f"optimizer.{n}.{k}": v for n, p in parameters.items() for k, v in state[p].items()}


@pytest.fixture
def checkpoints(tmp_path) -> Checkpoints:
    found = Checkpoints(tmp_path / "checkpoints", World(), keep=2)
    found.save(3, tensors())
    return found


@pytest.fixture
def folder(checkpoints) -> Path:
    return checkpoints.found()[-1]


def rewritten(folder: Path, changes: dict, about: dict | None = None) -> None:
    held = {**load_file(folder / TENSORS), **changes}
    about = {"step": "3", "part": "0", "parts": "1"} if about is None else about
    save_file({name: value for name, value in held.items() if value is not None}, folder / TENSORS, metadata=about)


def say(folder: Path, **changes) -> None:
    (folder / STATE).write_text(json.dumps({**json.loads((folder / STATE).read_text()), **changes}))


def raw(folder: Path, header: dict, size: int = 0) -> None:
    """A file of tensors with any header, and so many bytes after it, none of them on the disk."""
    text = json.dumps({"__metadata__": {"step": "3", "part": "0", "parts": "1"}, **header}).encode()
    (folder / TENSORS).write_bytes(len(text).to_bytes(8, "little") + text)
    os.truncate(folder / TENSORS, 8 + len(text) + size)


def refused(checkpoints: Checkpoints, match: str) -> None:
    """It is refused, soon, without memory, and nothing is changed."""
    into = tensors()
    before = {name: value.clone() for name, value in into.items()}
    began, most = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match=match) as caught:
        checkpoints.load(checkpoints.found()[-1], into)
    assert time.monotonic() - began < 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - most < 100_000  # kB
    assert len(str(caught.value)) < 1000
    assert "\n" not in str(caught.value)
    assert all(torch.equal(before[name], into[name]) for name in into)


@pytest.mark.bitwise("file")
def test_what_is_saved_is_what_is_read(checkpoints, folder):
    into = {name: torch.full_like(value, -1) for name, value in tensors().items()}
    assert checkpoints.load(folder, into) == 3
    assert all(torch.equal(value, into[name]) for name, value in tensors().items())


@pytest.mark.bitwise("file")
@pytest.mark.parametrize("says", [{"format": "1", "sharded": True}, {"sharded": True}, {}])
def test_a_pickle_in_the_folder_is_refused_and_not_opened(checkpoints, folder, tmp_path, says):
    """The format that torch.distributed.checkpoint writes, which an earlier version read."""
    touched = tmp_path / "touched"
    (folder / ".metadata").write_bytes(pickle.dumps(Touch(touched)))
    (folder / "__0_0.distcp").write_bytes(pickle.dumps(Touch(touched)))
    say(folder, **says)
    refused(checkpoints, "can run code when it is read, and is not opened")
    assert not touched.exists()


def test_the_former_format_of_one_process_is_read(checkpoints, folder):
    held = load_file(folder / TENSORS)
    save_file(held, folder / TENSORS)
    (folder / STATE).write_text('{"step": 3, "format": "1", "sharded": false}')
    assert checkpoints.load(folder, tensors()) == 3


@pytest.mark.bitwise("file")
@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"weights.a": torch.zeros(4, 2)}, r"weights\.a is \(4, 3\)"),
        ({"weights.a": torch.zeros(3, 3)}, r"weights\.a has 4 rows, there 3"),
        ({"weights.a": torch.zeros(12)}, r"weights\.a is \(4, 3\)"),
        ({"weights.a": torch.zeros(4, 3, dtype=torch.float64)}, r"weights\.a is missing or not float32"),
        ({"weights.a": torch.zeros(())}, r"weights\.a"),
        ({"weights.a": None}, r"weights\.a is missing"),
        ({"optimizer.b.step": torch.zeros(1)}, r"optimizer\.b\.step is a single number"),
        ({"../../weights": torch.zeros(1)}, r"it has no \.\./\.\./weights"),
    ],
)
def test_tensors_that_are_not_the_networks_are_refused(checkpoints, folder, changes, match):
    rewritten(folder, changes)
    refused(checkpoints, f"is of another network than the config's: .*{match}")


@pytest.mark.bitwise("file")
def test_sizes_that_lie_are_refused(checkpoints, folder):
    whole = (folder / TENSORS).read_bytes()
    (folder / TENSORS).write_bytes(whole[:-4])
    refused(checkpoints, "is damaged")
    (folder / TENSORS).write_bytes(whole + b"1234")
    refused(checkpoints, "is damaged")
    raw(folder, {"weights.a": {"dtype": "F32", "shape": [2**62, 0], "data_offsets": [0, 0]}})
    refused(checkpoints, r"is damaged|another network")
    raw(folder, {"weights.a": {"dtype": "F32", "shape": [4, 3], "data_offsets": [0, 2**40]}}, 48)
    refused(checkpoints, "is damaged")
    # What is said is true, and far too much: 8 GB that are not on the disk.
    size = 2**33
    raw(
        folder, {"weights.a": {"dtype": "F32", "shape": [size // 12, 3], "data_offsets": [0, size // 12 * 12]}}, size // 12 * 12
    )
    refused(checkpoints, "another network")


@pytest.mark.bitwise("file")
@pytest.mark.parametrize(
    "text",
    [
        '{"step": 3, "format": "2", "parts": 1000000000}',
        '{"step": 3, "format": "2", "parts": 0}',
        '{"step": 3, "format": "2", "parts": 2}',
        '{"step": -3, "format": "2"}',
        '{"step": 4, "format": "2"}',
        '{"step": 3, "format": "2", "files": ["../../elsewhere.safetensors"]}',
        '{"step": 3, "format": "3"}',
        "[" * 5000,
        "3",
        "",
        " " * 1_000_000,
    ],
)
def test_what_is_said_of_a_checkpoint_is_read_strictly(checkpoints, folder, text):
    (folder / STATE).write_text(text)
    refused(checkpoints, "is damaged|is of format")


@pytest.mark.bitwise("file")
def test_a_pipe_in_place_of_a_file_is_refused(checkpoints, folder):
    for name in (TENSORS, STATE):
        (folder / name).unlink()
        os.mkfifo(folder / name)
        refused(checkpoints, "is damaged")


@pytest.mark.bitwise("file")
def test_files_of_two_checkpoints_are_not_mixed(checkpoints, folder):
    rewritten(folder, {}, {"step": "2", "part": "0", "parts": "1"})
    refused(checkpoints, "is of another one")

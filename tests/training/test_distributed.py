"""Two gloo processes on a CPU do what one does."""

import json
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from safetensors.torch import load_file

from harmony_core.progress import Cancelled
from harmony_core.records import to_record
from harmony_core.training.config import ObjectiveConfig, OptimizerConfig, StageConfig
from harmony_core.training.distributed import World
from harmony_core.training.loop import read_log
from harmony_core.training.model import train_model

PROGRAM = """
    import json, sys, torch
    from pathlib import Path
    torch.set_num_threads(1)
    from harmony_core.progress import Cancelled
    from harmony_core.records import from_record
    from harmony_core.training import distributed
    from harmony_core.training.cache import LatentCache
    from harmony_core.training.config import ModelRun
    from harmony_core.training.model import train_model
    config = from_record(ModelRun, json.load(open(sys.argv[1])), "config")
    def stop(done, total):
        if done == int(sys.argv[3]):
            raise Cancelled
    try:
        with distributed.connected("cpu") as world:
            assert world.size == 2
            train_model(config, LatentCache(sys.argv[2]), world=world, progress=stop, resume=sys.argv[4] == "resume")
    except Cancelled:
        pass
    # One that is there when Python ends can abort the process: docs/decisions/0005.
    threads = {path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")}
    assert not any("gloo" in name for name in threads), threads
"""


def together(config, cache, tmp_path, *, stop: int = -1, resume: bool = False) -> None:
    """Run a training in two processes."""
    program, record = tmp_path / "program.py", tmp_path / "config.json"
    program.write_text(textwrap.dedent(PROGRAM))
    record.write_text(json.dumps(to_record(config)))
    arguments = [str(record), str(cache.folder), str(stop), "resume" if resume else "start"]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone", str(program), *arguments]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]


def largest_difference(a: dict, b: dict) -> float:
    assert a.keys() == b.keys()
    return max(float((a[key] - b[key]).abs().max()) for key in a)


def same_log(one: Path, two: Path) -> None:
    logs = [read_log(folder / "log.jsonl") for folder in (one, two)]
    assert [a["step"] for a in logs[1]] == [1, 2, 3, 4]
    for a, b in zip(*logs, strict=True):
        assert abs(a["loss"] - b["loss"]) <= 1e-5 * a["loss"]


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_two_processes_with_whole_weights_equal_one(make_run, cache, tmp_path, kind):
    objective = ObjectiveConfig(mode="mixed", reference_seconds=(0.05, 0.2))
    optimizer = OptimizerConfig(kind=kind, lr=1e-3, warmup=2)
    stages = (StageConfig(name="joint", steps=4, optimizer=optimizer, objective=objective),)
    one, two = (make_run(output=str(tmp_path / name), stages=stages) for name in ("one", "two"))
    expected = load_file(train_model(one, cache))
    together(two, cache, tmp_path)
    assert largest_difference(expected, load_file(tmp_path / "two" / "model.safetensors")) <= 1e-5
    same_log(tmp_path / "one", tmp_path / "two")


@pytest.mark.parametrize("mode", ["synergy", "mixed"])
def test_two_processes_with_parts_of_the_weights_equal_one_and_resume_as_two_or_one(make_run, cache, tmp_path, mode):
    objective = ObjectiveConfig(mode=mode, reference_seconds=(0.05, 0.2))
    changes = {"sharding": "fsdp", "objective": objective, "steps": 4, "save_every": 2}
    one, two = (make_run(output=str(tmp_path / name), **changes) for name in ("one", "two"))
    expected = load_file(train_model(one, cache))
    together(two, cache, tmp_path, stop=2)
    together(two, cache, tmp_path, resume=True)
    file, last = tmp_path / "two" / "model.safetensors", tmp_path / "two" / "checkpoints" / "step-00000004"
    assert largest_difference(expected, load_file(file)) <= 1e-5
    same_log(tmp_path / "one", tmp_path / "two")
    assert len(list(last.glob("state-*-of-00002.safetensors"))) == 2
    shutil.rmtree(last)
    train_model(two, cache, resume=True)
    assert largest_difference(expected, load_file(file)) <= 1e-5


def test_a_run_of_one_process_goes_on_in_parts_of_two(make_run, cache, tmp_path):
    changes = {"objective": ObjectiveConfig(reference_seconds=(0.05, 0.2)), "steps": 4, "save_every": 2}
    expected = load_file(train_model(make_run(output=str(tmp_path / "one"), **changes), cache))

    def stop(done: int, total: int) -> None:
        if done == 2:
            raise Cancelled

    with pytest.raises(Cancelled):
        train_model(make_run(output=str(tmp_path / "two"), **changes), cache, progress=stop)
    together(make_run(output=str(tmp_path / "two"), sharding="fsdp", **changes), cache, tmp_path, resume=True)
    assert largest_difference(expected, load_file(tmp_path / "two" / "model.safetensors")) <= 1e-5
    same_log(tmp_path / "one", tmp_path / "two")


def test_a_batch_that_does_not_divide_is_refused(make_run, cache):
    with pytest.raises(ValueError, match="does not divide among 3 processes"):
        train_model(make_run(), cache, world=World(0, 3))
    assert not Path(make_run().run.output).exists()

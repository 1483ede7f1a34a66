"""One training at a time in a folder."""

import json
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from safetensors.torch import load_file

from harmony_core.records import to_record
from harmony_core.training.cache import LatentCache
from harmony_core.training.model import train_model


def training(config: object, cache: LatentCache, folder: Path) -> subprocess.Popen[str]:
    """A training in a process of its own that stops to wait for a line after its third step."""
    (folder / "config.json").write_text(json.dumps(to_record(config)))
    program = f"""
        import json, sys, torch
        torch.set_num_threads(1)
        from harmony_core.records import from_record
        from harmony_core.training.cache import LatentCache
        from harmony_core.training.config import ModelRun
        from harmony_core.training.model import train_model
        def waiting(done, total):
            if done == 3:
                print("third", flush=True)
                sys.stdin.readline()
        config = from_record(ModelRun, json.load(open({str(folder / "config.json")!r})), "config")
        train_model(config, LatentCache({str(cache.folder)!r}), progress=waiting)
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "third\n"
    return process


def files(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_second_training_is_refused_and_the_first_goes_on(make_run, cache, tmp_path):
    whole = train_model(make_run(output=str(tmp_path / "whole")), cache)
    config = make_run(output=str(tmp_path / "one"))
    with training(config, cache, tmp_path) as first:
        before = files(tmp_path / "one")
        for resume in (False, True):
            with pytest.raises(ValueError, match=r"another process trains in .*one: wait for it or stop it, or name another"):
                train_model(config, cache, resume=resume)
        assert files(tmp_path / "one") == before
        first.communicate("go on\n", timeout=60)
    assert first.returncode == 0
    same, other = load_file(whole), load_file(tmp_path / "one" / Path(whole).name)
    assert all((same[key] == other[key]).all() for key in same)


def test_a_killed_training_locks_nothing(make_run, cache, tmp_path):
    config = make_run(output=str(tmp_path / "one"))
    with training(config, cache, tmp_path) as first:
        first.send_signal(signal.SIGKILL)
        first.wait()
    train_model(config, cache, resume=True)


def test_a_run_that_is_refused_leaves_no_folder(make_run, cache, tmp_path):
    config = make_run(output=str(tmp_path / "deep" / "one"))
    with pytest.raises(ValueError, match="no run to resume"):
        train_model(config, cache, resume=True)
    assert not (tmp_path / "deep").exists()

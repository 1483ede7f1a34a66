"""The disk is full when the trained model is exported: the checkpoint and the model of before are whole, and it is said."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from harmony_core.progress import Cancelled
from harmony_core.records import to_record
from harmony_core.training.model import FILE, train_model
from harmony_core.weights.checkpoint import load_checkpoint

LIMIT = 4_000_000
"""Bytes a file may have in place of a full disk; the run's checkpoints have fewer, its model with its codecs more."""


@pytest.mark.bitwise("file")
def test_a_full_disk_at_the_export_leaves_the_checkpoint_and_the_model_of_before(make_run, cache, tmp_path):
    config = make_run(save_every=2)
    extras = {"video_vae.big": torch.arange(2_000_000.0)}
    folder = Path(config.run.output)

    def stop(done: int, total: int) -> None:
        if done == 3:
            raise Cancelled

    with pytest.raises(Cancelled):
        train_model(config, cache, extras=extras, progress=stop)
    before = (folder / FILE).read_bytes()
    assert len(before) > LIMIT > (folder / "checkpoints" / "step-00000002" / "state.safetensors").stat().st_size
    (tmp_path / "config.json").write_text(json.dumps(to_record(config)))
    program = f"""
        import json, resource, signal, torch
        torch.set_num_threads(1)
        from harmony_core.records import from_record
        from harmony_core.training.cache import LatentCache
        from harmony_core.training.config import ModelRun
        from harmony_core.training.model import train_model
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, ({LIMIT}, {LIMIT}))
        config = from_record(ModelRun, json.load(open({str(tmp_path / "config.json")!r})), "config")
        extras = {{"video_vae.big": torch.arange(2_000_000.0)}}
        try:
            train_model(config, LatentCache({str(cache.folder)!r}), extras=extras, resume=True)
        except ValueError as error:
            print(error)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True, capture_output=True, text=True)
    assert done.stdout.startswith(f"cannot write {folder / FILE}: ")
    assert done.stdout.count("\n") == 1
    assert (folder / FILE).read_bytes() == before
    assert not [path.name for path in folder.rglob(".*")]
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["step-00000002", "step-00000004"]
    path = train_model(config, cache, extras=extras, resume=True)
    assert torch.equal(load_checkpoint(path).tensors["video_vae.big"], extras["video_vae.big"])
    assert path.read_bytes() != before

"""Processes that end, or say nothing, while others wait; and the first thing a process with a GPU does."""

import signal
import time

import pytest
import torch
from processes import begin, results, together, written

from harmony_core.training.config import RunConfig
from harmony_core.training.distributed import connected

WAITING = """
    import os, signal, sys, time, torch
    from datetime import timedelta
    from harmony_core.training.distributed import connected
    torch.set_num_threads(1)
    what, minutes = sys.argv[1], float(sys.argv[2])
    try:
        with connected("cpu", timeout_minutes=minutes) as world:
            world.barrier()
            if world.rank == 1:
                if what == "killed":
                    os.kill(os.getpid(), signal.SIGKILL)
                if what == "stopped":
                    print("stopping", flush=True)
                    os.kill(os.getpid(), signal.SIGSTOP)
                if what == "failed":
                    raise ValueError("clip 7.mp4 is damaged")
                if what == "late":
                    time.sleep(3)
            world.barrier()
    except ValueError as error:
        print(f"harmony: {error}", file=sys.stderr)
        sys.exit(1)
"""


@pytest.mark.parametrize("what", ["killed", "stopped", "failed"])
def test_the_others_end_with_a_sentence_when_one_process_ends_or_is_silent(tmp_path, what):
    started = begin(written(tmp_path, WAITING), [what, "0.1" if what == "stopped" else "60"], [0, 1])
    began = time.monotonic()
    status, _, errors = results(started[:1], timeout=120)[0]
    assert time.monotonic() - began < 100
    if what == "stopped":
        started[1].send_signal(signal.SIGKILL)
    other, _, said = results(started[1:])[0]
    assert status == 1
    (sentence,) = [line for line in errors.splitlines() if line.startswith("harmony: ")]
    assert "process 0 of 2 cannot reach another one" in sentence and "--resume" in sentence
    assert "Traceback" not in errors
    assert (other, said.strip()) == {
        "killed": (-signal.SIGKILL, ""),
        "stopped": (-signal.SIGKILL, ""),
        "failed": (1, "harmony: clip 7.mp4 is damaged"),
    }[what]


def test_one_that_is_late_is_waited_for(tmp_path):
    together(written(tmp_path, WAITING), ["late", "1"])


def test_a_timeout_is_positive():
    with pytest.raises(ValueError, match=r"run\.timeout_minutes is positive, got 0"):
        RunConfig(output="x", batch=1, timeout_minutes=0.0)


FIRST_TOUCH = """
    import os, sys, torch
    did = []
    class Enough(Exception): ...
    torch.cuda._lazy_init = lambda: did.append("context")
    torch.cuda.device_count = lambda: 2
    def set_device(number):
        did.append(f"set_device {number}")
        raise Enough
    torch.cuda.set_device = set_device
    os.environ |= {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1"}
    from harmony_core.__main__ import main
    try:
        main(["train", sys.argv[1]])
    except Enough:
        pass
    print(did)
"""


def test_a_process_takes_its_own_gpu_before_anything_touches_one(tmp_path):
    """Without a GPU it is the order of calls that is seen."""
    config = tmp_path / "run.yaml"
    config.write_text(
        "{kind: codecs-video, steps: 1, codec: {preset: tiny}, optimizer: {lr: 0.001}, "
        f"run: {{output: {tmp_path / 'run'}, batch: 2, device: cuda}}, "
        f"data: {{folder: {tmp_path / 'none'}, cache: {tmp_path / 'cache'}}}}}"
    )
    program = written(tmp_path, FIRST_TOUCH)
    ((status, out, errors),) = results(begin(program, [str(config)], [0]))
    assert status == 0, errors
    assert out.splitlines() == ["['set_device 1']"]


def test_a_gpu_by_number_is_refused_for_several_processes(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="leave its number out: cuda, got cuda:0"), connected("cuda:0"):
        pass


def test_a_process_without_a_gpu_of_its_own_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ValueError, match=r"run\.device: process 1 of this machine has no GPU of its own"), connected("cuda"):
        pass

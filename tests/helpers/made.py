"""``make comfyui`` as a user runs it, on a checkout of the test's own."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from comfyui import ROOT, find_comfy, find_python

SECONDS = 600
KEPT_OUT = {"custom_nodes", "input", "models", "output", "temp", "user", ".git"}
"""Folders of a checkout that belong to whoever uses it."""


def checkout_like(root: Path, folder: Path) -> Path:
    """A checkout of its own, without the files of whoever uses that one: what a test puts there stays out of theirs."""

    def left_out(where: str, names: list[str]) -> set[str]:
        return KEPT_OUT & set(names) if Path(where) == root else set()

    return shutil.copytree(root, folder, copy_function=linked, ignore=left_out)


def linked(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # on another disk
        shutil.copy2(source, target)


def environment(**changes: object) -> dict[str, str]:
    names = {"COMFYUI_PATH", "COMFYUI_PYTHON", "PYTHONPATH"}
    kept = {name: value for name, value in os.environ.items() if name not in names}
    return kept | {"OMP_NUM_THREADS": "1"} | {name: str(value) for name, value in changes.items()}


class Made:
    """``make comfyui`` in a process of its own."""

    def __init__(self, checkout: Path, log: Path, *options: str) -> None:
        arguments = " ".join(["--database-url sqlite:///:memory:", "--disable-api-nodes", *options])
        command = ["make", "-s", "-C", str(ROOT), "comfyui", f"PYTHON={sys.executable}", f"ARGS={arguments}"]
        given = environment(COMFYUI_PATH=checkout, COMFYUI_PYTHON=find_python(find_comfy()))
        self.log = log
        with log.open("wb") as output:
            self.process = subprocess.Popen(command, stdout=output, stderr=output, env=given)

    def address(self) -> str:
        """What it prints when ComfyUI answers."""
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            said = self.log.read_text(errors="replace")
            for line in said.splitlines():
                if line.startswith("ComfyUI answers at "):
                    return line.split()[-1]
            assert self.process.poll() is None, said[-2000:]
            time.sleep(0.5)
        raise AssertionError(self.log.read_text(errors="replace")[-2000:])

    def stop(self) -> int:
        """End make, which ends what it started, and waits for it."""
        self.process.terminate()
        return self.process.wait(60)

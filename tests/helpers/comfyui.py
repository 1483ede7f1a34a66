"""Finds a ComfyUI checkout and an interpreter that can run it, and runs scripts beside it.

The checkout is ``COMFYUI_PATH``, else ``~/comfy/ComfyUI``; the interpreter ``COMFYUI_PYTHON``, else that of a virtual
environment in the checkout or beside it, else this one. ComfyUI is run in a process of its own: it changes torch's settings,
reads command lines and needs packages these tests do not.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def find_comfy() -> Path:
    """The checkout; skips the test where there is none."""
    root = Path(os.environ.get("COMFYUI_PATH", "~/comfy/ComfyUI")).expanduser()
    if not (root / "comfy").is_dir():
        pytest.skip(f"no ComfyUI checkout at {root}; set COMFYUI_PATH")
    return root


def find_python(root: Path) -> str:
    """The interpreter ComfyUI runs with."""
    given = os.environ.get("COMFYUI_PYTHON")
    places = [base / name / "bin" / "python" for base in (root, root.parent) for name in (".venv", "venv")]
    found = [given] if given else [str(place) for place in places if place.is_file()]
    return found[0] if found else sys.executable


def check_imports(root: Path, python: str) -> None:
    """Skips the test where ComfyUI, without this project, does not import: something it needs is not installed."""
    command = [python, "-c", "import comfy.cli_args; comfy.cli_args.args.cpu = True; import comfy.ops, einops"]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    probe = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if probe.returncode:
        pytest.skip(f"ComfyUI at {root} does not import under {python}: {probe.stderr.strip().splitlines()[-1]}")


def run_beside_comfy(script: Path, *args: str) -> dict:
    """Run a script with ComfyUI and this project importable; what it prints last is JSON.

    Skips the test where ComfyUI does not import; fails where the script does.
    """
    root = find_comfy()
    python = find_python(root)
    paths = os.pathsep.join([str(root), str(ROOT)])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}

    def start(*command: str) -> subprocess.CompletedProcess:
        return subprocess.run([python, *command], capture_output=True, text=True, env=environment, check=False)

    check_imports(root, python)
    done = start(str(script), *args)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])

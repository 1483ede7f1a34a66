"""ComfyUI with this pack in it: finds or installs ComfyUI, links the pack, starts it, and says where it answers.

``make comfyui``, or ``python scripts/comfyui.py`` where there is no make. It needs nothing but Python. Options that it does not
know are ComfyUI's: ``make comfyui ARGS="--preview-method auto"``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PACK = "harmony-av"
"""Of the project, and of its folder in custom_nodes."""
PLACE = "~/comfy/ComfyUI"
"""Where ComfyUI is installed, and looked for when COMFYUI_PATH is not set."""
COPY_MARK = ".copied-by-make-comfyui"
LEFT_OUT = (".*", "*.egg-info", "__pycache__", "build", "data", "out", "runs", "tests")
"""Of the project, where it is copied: no node needs it."""
NODE = "HarmonyLoadCheckpoint"
PORT, PORTS = 8188, 20
START_SECONDS, STOP_SECONDS, SITE_SECONDS = 600, 20, 10
SITE = "https://github.com"
NEEDED = ("torch", "aiohttp", "av", "einops", "numpy", "safetensors", "yaml")
"""Modules: what ComfyUI and the pack import first."""
PROBE = f"""
import importlib.util, json
missing = [name for name in {NEEDED!r} if importlib.util.find_spec(name) is None]
found = False
if not missing:
    import torch
    kinds = (torch.cuda, torch.backends.mps, getattr(torch, "xpu", None))
    found = any(kind is not None and kind.is_available() for kind in kinds)
print(json.dumps([missing, found]))
"""


class Problem(Exception):  # noqa: N818 - the user's to solve
    """What stands in the way, as one sentence that says what to do."""


def program(environment: Path, name: str = "python") -> Path:
    """A program of a virtual environment."""
    return environment / "Scripts" / f"{name}.exe" if os.name == "nt" else environment / "bin" / name


def is_checkout(folder: Path) -> bool:
    """Whether ComfyUI is in a folder."""
    return (folder / "main.py").is_file() and (folder / "comfy").is_dir()


def find_checkout() -> Path | None:
    """ComfyUI's folder: COMFYUI_PATH, else where comfy-cli puts it; None where it is not installed there yet.

    Raises:
        Problem: COMFYUI_PATH is no such folder.
    """
    given = os.environ.get("COMFYUI_PATH")
    folder = Path(given or PLACE).expanduser().absolute()
    if is_checkout(folder):
        return folder
    if given:
        raise Problem(f"COMFYUI_PATH: {given} holds no ComfyUI (main.py and the folder comfy); set it to the folder that does")
    return None


def check_version(checkout: Path) -> None:
    """Raises Problem where ComfyUI is older than the pack needs."""
    wanted = re.search(r'requires-comfyui = ">=([\d.]+)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    about = checkout / "comfyui_version.py"
    found = re.search(r'__version__ = "([\d.]+)"', about.read_text(encoding="utf-8")) if about.is_file() else None
    assert wanted
    if found is None or numbers(found[1]) < numbers(wanted[1]):
        told = f"is {found[1]}" if found else "says no version"
        raise Problem(f"ComfyUI: the one in {checkout} {told}, and the pack needs {wanted[1]} or newer; update it")


def numbers(version: str) -> tuple[int, ...]:
    """A version, to be compared."""
    return tuple(int(part) for part in version.split(".") if part)


def find_python(checkout: Path) -> Path | None:
    """The Python ComfyUI runs with: COMFYUI_PYTHON, else that of an environment in its folder or beside it.

    Raises:
        Problem: COMFYUI_PYTHON is no file.
    """
    given = os.environ.get("COMFYUI_PYTHON")
    if given:
        python = Path(given).expanduser().absolute()
        if not python.is_file():
            raise Problem(f"COMFYUI_PYTHON: {given} is no file; set it to the Python that ComfyUI runs with, or unset it")
        return python
    places = [program(base / name) for base in (checkout, checkout.parent) for name in (".venv", "venv")]
    places.append(checkout.parent / "python_embeded" / "python.exe")  # the portable ComfyUI for Windows spells it so
    return next((place for place in places if place.is_file()), None)


def run(*command: str | Path, environment: dict[str, str] | None = None) -> None:
    """Run a step whose output the user sees.

    Raises:
        Problem: it fails.
    """
    words = [str(word) for word in command]
    if subprocess.run(words, check=False, env=environment).returncode:
        raise Problem(f"This failed, and said why above: {' '.join(words)}")


def own_python(environment: Path, checkout: Path) -> Path:
    """This project's Python, with what ComfyUI requires; it is installed again only when that has changed."""
    python = program(environment)
    if not python.is_file():
        run(sys.executable, "-m", "venv", environment)
    required = checkout / "requirements.txt"
    stamp, now = environment / ".comfyui-requirements", hashlib.sha256(required.read_bytes()).hexdigest()
    if not stamp.is_file() or stamp.read_text() != now:
        print(f"Installing what ComfyUI requires into {environment}", flush=True)
        wanted = ("-c", ROOT / "constraints.txt", "-r", required, "-r", ROOT / "requirements.txt")
        run(python, "-m", "pip", "install", "-q", *wanted)
        stamp.write_text(now)
    return python


def probe(python: Path) -> bool:
    """Whether there is a device for ComfyUI other than the CPU.

    Raises:
        Problem: a package is missing, or that Python does not run.
    """
    done = subprocess.run([python, "-c", PROBE], capture_output=True, text=True, check=False)
    if done.returncode:
        raise Problem(f"{python} does not run: {(done.stderr.strip().splitlines() or ['it says nothing'])[-1]}")
    missing, found = json.loads(done.stdout.splitlines()[-1])
    if missing:
        raise Problem(
            f"{python}, which ComfyUI is to run with, lacks {', '.join(missing)}; install ComfyUI's requirements.txt there, "
            "or set COMFYUI_PYTHON to the Python that has them"
        )
    return bool(found)


def reachable() -> bool:
    """Whether ComfyUI can be fetched from here."""
    try:
        with urllib.request.urlopen(urllib.request.Request(SITE, method="HEAD"), timeout=SITE_SECONDS):
            return True
    except urllib.error.HTTPError:
        return True
    except (OSError, urllib.error.URLError):
        return False


def graphics() -> str:
    """comfy-cli's option for this machine's graphics card."""
    if platform.system() == "Darwin":
        return "--m-series" if platform.machine() == "arm64" else "--cpu"
    if shutil.which("nvidia-smi"):
        return "--nvidia"
    return "--amd" if shutil.which("rocminfo") else "--cpu"


def install() -> Path:
    """ComfyUI by comfy-cli, with a virtual environment of its own in its folder.

    Raises:
        Problem: it cannot be fetched, or a step fails.
    """
    folder = Path(PLACE).expanduser()
    if not reachable():
        raise Problem(
            f"ComfyUI is not at {PLACE}, and {SITE} cannot be reached to install it; set COMFYUI_PATH to a folder that holds "
            "ComfyUI, and run this again"
        )
    tool = ROOT / "build" / "comfy-cli"
    if not program(tool, "comfy").is_file():
        run(sys.executable, "-m", "venv", tool)
        run(program(tool), "-m", "pip", "install", "-q", "comfy-cli")
    print(f"Installing ComfyUI into {folder}; this fetches several gigabytes", flush=True)
    # With one of these set it would install into that environment instead of making one.
    environment = {name: value for name, value in os.environ.items() if name not in {"VIRTUAL_ENV", "CONDA_PREFIX"}}
    said = ("--skip-prompt", "--no-enable-telemetry", "--workspace", folder)
    run(program(tool, "comfy"), *said, "install", "--version", "latest", graphics(), environment=environment)
    return folder


def is_this_pack(folder: Path) -> bool:
    """Whether a folder is this project, of whatever version."""
    about = folder / "pyproject.toml"
    return about.is_file() and f'name = "{PACK}"' in about.read_text(encoding="utf-8", errors="replace").splitlines()


def put_into(custom_nodes: Path) -> str:
    """Link the pack into ComfyUI; where there are no links, copy it. What was put there before is brought up to date.

    Returns:
        What was done, to be told.

    Raises:
        Problem: another copy of the pack is there, or something else has its name.
    """
    custom_nodes.mkdir(exist_ok=True)
    place = custom_nodes / PACK
    others = [one for one in sorted(custom_nodes.iterdir()) if one != place and not one.name.endswith(".disabled")]
    copies = [one for one in others if is_this_pack(one) and one.resolve() != ROOT]
    if copies:
        raise Problem(f"{copies[0]} is another copy of this pack, and ComfyUI would load both; move it away")
    for one in (*others, place):
        if one.resolve() == ROOT:
            return f"{one} is the pack"
    ours = place.is_symlink() or (place / COPY_MARK).is_file()
    if place.exists() and not ours:
        raise Problem(f"{place} is there already and was not put there by this; move it away")
    if place.is_symlink():
        place.unlink()
    elif ours:
        shutil.rmtree(place)
    try:
        place.symlink_to(ROOT, target_is_directory=True)
    except OSError:  # Windows without the right to link, a disk without links
        shutil.copytree(ROOT, place, ignore=shutil.ignore_patterns(*LEFT_OUT))
        (place / COPY_MARK).touch()
        return f"copied the pack to {place}, as links are not to be had here; run this again after a change of the pack"
    return f"linked the pack to {place}"


def free_port(first: int) -> int:
    """The first port that nobody listens on.

    Raises:
        Problem: all that are tried are taken.
    """
    last = min(first + PORTS, 65536)
    for port in range(first, last):
        with socket.socket() as tried:
            if os.name == "posix":  # else a port that was given up a moment ago counts as taken
                tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                tried.bind(("127.0.0.1", port))
            except (OSError, OverflowError):
                continue
            return port
    raise Problem(f"Ports {first} to {last - 1} are in use; choose another by --port, as in: make comfyui ARGS='--port 9000'")


def ask(address: str) -> dict[str, Any]:
    """What ComfyUI answers."""
    with urllib.request.urlopen(address, timeout=30) as answer:
        return dict(json.load(answer))


def wait_for(process: subprocess.Popen[bytes], address: str) -> None:
    """Until ComfyUI answers.

    Raises:
        Problem: it ends instead, takes too long, or runs without the pack's nodes.
    """
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        if process.poll() is not None:
            raise Problem(f"ComfyUI ended instead of starting (exit status {process.returncode}); what it said is above")
        try:
            ask(f"{address}/system_stats")
        except (OSError, ValueError):
            time.sleep(0.5)
            continue
        if NODE not in ask(f"{address}/object_info/{NODE}"):
            raise Problem("ComfyUI runs, but the pack was not loaded; its words above say why, at the name of the pack")
        return
    raise Problem(f"ComfyUI did not answer at {address} in {START_SECONDS} s")


def stop(process: subprocess.Popen[bytes]) -> None:
    """End ComfyUI, if it has not ended yet; at once where somebody does not want to wait for it."""
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        process.kill()
        process.wait()


def start(command: list[str], checkout: Path, address: str) -> int:
    """Run ComfyUI until it ends or is stopped; its exit status."""
    process = subprocess.Popen(command, cwd=checkout)
    try:
        wait_for(process, address)
        print(
            f"\nComfyUI answers at {address}\n"
            f"Open it in a browser, then Templates, {PACK}, 'text to audio-video', Run. Ctrl+C here ends it.\n",
            flush=True,
        )
        return process.wait()
    finally:
        stop(process)


def interrupt(*_: object) -> None:
    """To be ended by somebody else is to be ended by Ctrl+C."""
    raise KeyboardInterrupt


def prepared(environment: Path) -> tuple[Path, Path]:
    """ComfyUI's folder and its Python, installed where they are not, and with the pack in it."""
    checkout = find_checkout() or install()
    check_version(checkout)
    python = find_python(checkout) or own_python(environment, checkout)
    print(f"ComfyUI is in {checkout} and runs with {python}; {put_into(checkout / 'custom_nodes')}", flush=True)
    return checkout, python


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="make comfyui", description=__doc__, allow_abbrev=False)
    parser.add_argument("--port", type=int, default=PORT, help="of its page; the next free one is taken (default: %(default)s)")
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv", help="used where ComfyUI has no environment of its own")
    options, others = parser.parse_known_args(arguments)
    signal.signal(signal.SIGTERM, interrupt)
    try:
        checkout, python = prepared(options.venv.absolute())
        port = free_port(options.port)
        if port != options.port:
            print(f"Port {options.port} is in use; {port} is taken instead", flush=True)
        command = [str(python), "main.py", "--port", str(port), "--disable-auto-launch", *others]
        if not probe(python) and not {"--cpu", "--directml"} & set(others):
            command.append("--cpu")
        return start(command, checkout, f"http://127.0.0.1:{port}")
    except Problem as problem:
        print(problem, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0


if __name__ == "__main__":
    sys.exit(main())

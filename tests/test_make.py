"""``make comfyui``: on a real ComfyUI checkout, and what it says where something stands in the way."""

import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import pytest
from comfyui import ROOT, check_imports, find_comfy, find_python
from made import SECONDS, Made, checkout_like, environment

SCRIPT = ROOT / "scripts" / "comfyui.py"
spec = importlib.util.spec_from_file_location("comfyui_script", SCRIPT)
script = importlib.util.module_from_spec(spec)
spec.loader.exec_module(script)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    root = find_comfy()
    check_imports(root, find_python(root))
    return checkout_like(root, tmp_path_factory.mktemp("make") / "ComfyUI")


@pytest.fixture
def bare(tmp_path):
    """A folder that looks like ComfyUI and has nothing in it."""
    folder = tmp_path / "ComfyUI"
    (folder / "comfy").mkdir(parents=True)
    (folder / "main.py").write_text("raise SystemExit(3)\n")
    (folder / "comfyui_version.py").write_text('__version__ = "0.33.0"\n')
    (folder / "requirements.txt").write_text("")
    return folder


def told(*options: str, **changes: object) -> tuple[int, str, str]:
    """What the script answers where it does not start ComfyUI."""
    command = [sys.executable, str(SCRIPT), *options]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(**changes), check=False, timeout=SECONDS)
    return done.returncode, done.stdout, done.stderr


def asked(address: str) -> dict:
    with urllib.request.urlopen(address, timeout=60) as answer:  # noqa: S310 - loopback
        return json.load(answer)


@pytest.mark.skipif(os.name != "posix", reason="make is not to be had here")
def test_it_starts_a_checkout_with_the_pack_and_ends_it_and_does_so_again(checkout, tmp_path):
    """First beside somebody who has the port, then alone."""
    link = checkout / "custom_nodes" / script.PACK
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        number = taken.getsockname()[1]
        first = started(checkout, tmp_path / "first", number)
    assert number < int(first.address.rsplit(":", 1)[1]) < number + script.PORTS
    assert f"Port {number} is in use" in first.said
    second = started(checkout, tmp_path / "second", number)
    assert second.address == f"http://127.0.0.1:{number}"
    assert [one.name for one in link.parent.iterdir() if one.is_symlink()] == [script.PACK]
    assert link.resolve() == ROOT


@dataclass(frozen=True)
class Start:
    """One ``make comfyui``: where it answered, and all it printed."""

    address: str
    said: str


def started(checkout: Path, log: Path, port: int) -> Start:
    """Start it, look whether the pack is there, end it, and see that nobody listens any more."""
    made = Made(checkout, log, f"--port {port}")
    try:
        address = made.address()
        assert "comfyui_version" in asked(f"{address}/system_stats")["system"]
        assert {"HarmonyLoadCheckpoint", "HarmonyKSampler"} <= asked(f"{address}/object_info").keys()
    finally:
        made.stop()
    with pytest.raises(urllib.error.URLError, match="refused"):
        asked(f"{address}/system_stats")
    return Start(address, log.read_text(errors="replace"))


def test_the_next_free_port_is_taken():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        number = taken.getsockname()[1]
        assert number < script.free_port(number) < number + script.PORTS
    assert script.free_port(number) == number
    with pytest.raises(script.Problem, match="choose another by --port"):
        script.free_port(65_536)


def test_without_a_checkout_and_without_a_network_it_says_what_to_set(tmp_path):
    gone = {"https_proxy": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9", "no_proxy": "", "NO_PROXY": ""}
    status, _, error = told(HOME=tmp_path, USERPROFILE=tmp_path, **gone)
    assert status == 1
    assert len(error.splitlines()) == 1
    assert "set COMFYUI_PATH" in error
    assert not list(tmp_path.iterdir())


def test_a_path_without_comfyui_is_refused(tmp_path):
    status, _, error = told(COMFYUI_PATH=tmp_path)
    assert (status, error.splitlines()[0][:14]) == (1, "COMFYUI_PATH: ")
    assert len(error.splitlines()) == 1


def test_an_older_comfyui_is_refused_before_anything_is_changed(bare):
    (bare / "comfyui_version.py").write_text('__version__ = "0.9.12"\n')
    status, _, error = told(COMFYUI_PATH=bare)
    assert status == 1
    assert "0.9.12" in error and "0.30.0 or newer" in error
    assert not (bare / "custom_nodes").exists()


def test_a_python_that_is_not_there_is_refused(bare):
    status, _, error = told(COMFYUI_PATH=bare, COMFYUI_PYTHON=bare / "none")
    assert (status, len(error.splitlines())) == (1, 1)
    assert error.startswith("COMFYUI_PYTHON: ")


def test_a_comfyui_that_ends_is_told_of(bare):
    status, _, error = told(COMFYUI_PATH=bare, COMFYUI_PYTHON=sys.executable, PYTHONPATH=stand_in(bare))
    assert status == 1
    assert "exit status 3" in error.splitlines()[-1]


def stand_in(bare: Path) -> Path:
    """Empty modules in the place of those that ComfyUI needs and these tests do not."""
    folder = bare.parent / "modules"
    folder.mkdir()
    for name in script.NEEDED:
        if importlib.util.find_spec(name) is None:
            (folder / f"{name}.py").write_text("")
    return folder


def test_the_python_beside_a_checkout_is_used_and_what_it_lacks_is_named(bare):
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(bare.parent / ".venv")], check=True)
    status, said, error = told(COMFYUI_PATH=bare)
    assert status == 1
    assert str(script.program(bare.parent / ".venv")) in said
    assert "lacks torch, " in error and "COMFYUI_PYTHON" in error
    assert (bare / "custom_nodes" / script.PACK).resolve() == ROOT


def test_without_an_environment_the_projects_own_gets_what_comfyui_requires_once(bare, monkeypatch):
    own, steps = bare.parent / "own", []
    monkeypatch.setattr(script, "run", lambda *command: steps.append([str(word) for word in command]))
    for text in ("one", "one", "two"):
        (bare / "requirements.txt").write_text(text)
        own.mkdir(exist_ok=True)
        assert script.own_python(own, bare) == script.program(own)
    installed = [step for step in steps if "pip" in step]
    assert len(installed) == 2
    assert str(bare / "requirements.txt") in installed[0]


# ---- the pack in custom_nodes


@pytest.fixture
def custom_nodes(tmp_path):
    (tmp_path / "custom_nodes").mkdir()
    return tmp_path / "custom_nodes"


def test_it_is_linked_once_under_whatever_name(custom_nodes):
    script.put_into(custom_nodes)
    script.put_into(custom_nodes)
    assert [one.resolve() for one in custom_nodes.iterdir()] == [ROOT]
    (custom_nodes / script.PACK).rename(custom_nodes / "another name")
    script.put_into(custom_nodes)
    assert [one.name for one in custom_nodes.iterdir()] == ["another name"]


def test_a_link_that_leads_nowhere_is_made_anew(custom_nodes):
    (custom_nodes / script.PACK).symlink_to(custom_nodes / "moved away")
    script.put_into(custom_nodes)
    assert (custom_nodes / script.PACK).resolve() == ROOT


def test_another_copy_and_another_thing_of_that_name_are_left_alone(custom_nodes):
    (custom_nodes / "mine").mkdir()
    shutil.copy(ROOT / "pyproject.toml", custom_nodes / "mine")
    with pytest.raises(script.Problem, match="another copy of this pack"):
        script.put_into(custom_nodes)
    (custom_nodes / "mine").rename(custom_nodes / "mine.disabled")
    (custom_nodes / script.PACK).mkdir()
    with pytest.raises(script.Problem, match="move it away"):
        script.put_into(custom_nodes)
    assert sorted(one.name for one in custom_nodes.iterdir()) == [script.PACK, "mine.disabled"]


def test_without_links_it_is_copied_and_the_copy_is_kept_up_to_date(custom_nodes, monkeypatch):
    def refuse(*_, **__):
        raise OSError("no links here")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    place = custom_nodes / script.PACK
    for _ in range(2):
        assert "copied" in script.put_into(custom_nodes)
        assert (place / "nodes" / "__init__.py").read_bytes() == (ROOT / "nodes" / "__init__.py").read_bytes()
        assert (place / "harmony_core" / "assets" / "harmony-tiny.safetensors").is_file()
        assert not {"tests", ".git", ".venv"} & {one.name for one in place.iterdir()}
        (place / "nodes" / "__init__.py").write_text("old")

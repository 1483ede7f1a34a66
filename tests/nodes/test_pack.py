"""The pack as an installed thing: what is published of it, copied into ComfyUI, and a core that it leaves as it is."""

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from comfy_server import Server, install
from comfyui import ROOT, find_comfy, run_beside_comfy
from graphs import clip_graph, node, sampled
from published import published

MEBIBYTE = 1 << 20
WORRYING = re.compile(r"warn|error|fail|cannot|unable|traceback|deprecat", re.IGNORECASE)
STOCK = {
    "image": node("EmptyImage", width=32, height=16, batch_size=1, color=0x336699),
    "inverted": node("ImageInvert", image=["image", 0]),
    "save": node("SaveImage", images=["inverted", 0], filename_prefix="stock"),
}


@dataclass(frozen=True)
class Seen:
    """What a ComfyUI with a copy of the pack did, and the same one with its custom nodes disabled."""

    told: str
    told_without: str
    clip: dict[str, Any]
    alive: dict[str, Any]
    stock: bytes
    stock_without: bytes
    categories_without: set[str]


def stock_picture(server: Server) -> bytes:
    (picture,) = server.run(STOCK)["save"]["images"]
    return (server.base / "output" / picture["filename"]).read_bytes()


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    find_comfy()
    server = Server(tmp_path_factory.mktemp("copied") / "base", copied=published())
    try:
        server.wait()
        graph = clip_graph(checkpoint="harmony-tiny (built in)")
        graph["latent"]["inputs"] |= {"width": 64, "height": 64}
        graph["told"]["inputs"] |= {"transcript": ""}
        graph = sampled(graph, "latents", steps=2)
        graph["clip"] = node("HarmonyDecode", latent=["sampled", 0], video_vae=["load", 2], audio_vae=["load", 3])
        graph["keep clip"] = node("ProbeKeep", name="clip", images=["clip", 0], audio=["clip", 1])
        graph["alive"] = node("ProbeAlive", name="alive", latent=["sampled", 0], images=["clip", 0], audio=["clip", 1])
        server.run(graph)
        told, clip = server.text(), server.kept("clip")
        alive = json.loads((server.base / "output" / "alive").read_text())
        stock = stock_picture(server)
        server.restart("--disable-all-custom-nodes")
        without = stock_picture(server)
        categories = {info["category"] for info in server.get("/object_info").values()}
        yield Seen(told, server.text(), clip, alive, stock, without, categories)
    finally:
        server.stop()


def worries(told: str) -> set[str]:
    """The lines of a log that report something wrong, without what differs from start to start."""
    return {re.sub(r"\d+", "#", line) for line in told.splitlines() if WORRYING.search(line)}


def test_what_is_published_is_what_runs_and_nothing_else():
    names = set(published())
    code = {str(path.relative_to(ROOT)) for folder in ("nodes", "harmony_core") for path in (ROOT / folder).rglob("*.py")}
    assert names >= code | {"__init__.py", "pyproject.toml", "requirements.txt", "README.md"}
    assert "harmony_core/assets/harmony-tiny.safetensors" in names
    assert not [name for name in names if name.startswith(("tests/", "."))]
    assert sum((ROOT / name).stat().st_size for name in names) < 24 * MEBIBYTE


def test_requirements_are_those_of_the_project_without_torch():
    tomllib = pytest.importorskip("tomllib")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert (ROOT / "requirements.txt").read_text().splitlines() == [
        line for line in project["dependencies"] if not line.startswith("torch")
    ]


def test_the_registrys_security_check_passes():
    if importlib.util.find_spec("ruff") is None:
        pytest.skip("ruff is not installed")
    command = [sys.executable, "-m", "ruff", "check", "--quiet", "--no-cache", "--select", "S102,S307,E702"]
    code = [name for name in published() if name.endswith(".py")]
    done = subprocess.run([*command, *code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_comfy_node_validate_passes(tmp_path):
    comfy = shutil.which("comfy")
    if comfy is None:
        pytest.skip("comfy-cli is not installed")
    install(tmp_path / "pack", published())
    command = [comfy, "--skip-prompt", "--no-enable-telemetry", "node", "validate"]
    done = subprocess.run(command, cwd=tmp_path / "pack", capture_output=True, text=True, check=False)
    said = done.stdout + done.stderr
    assert done.returncode == 0
    assert "All validation checks passed" in said
    assert "requires-comfyui" not in said


@pytest.fixture(scope="module")
def beside():
    return run_beside_comfy(Path(__file__).with_name("beside_pack.py"))


def test_making_a_clip_changes_nothing_of_the_core(beside):
    assert beside["changed"] == []
    assert beside["compared"] > 10_000


def test_comfyui_reads_what_the_registry_is_told(beside):
    assert beside["config"]["publisher"]
    assert beside["config"]["name"].startswith("Harmony")
    assert beside["config"]["comfyui"].startswith(">=")
    assert beside["config"]["systems"] == ["OS Independent"]


def test_a_copy_of_what_is_published_makes_a_clip(seen):
    assert tuple(seen.clip["images"].shape) == (13, 64, 64, 3)
    assert seen.clip["images"].isfinite().all()
    assert seen.clip["images"].std() > 0
    assert seen.clip["wave"].isfinite().all()
    assert seen.clip["wave"].std() > 0


def test_a_copy_uses_no_other_installation_of_the_project(seen):
    assert seen.alive["objects"]["HarmonyModel"] >= 1
    assert seen.alive["absolute"] == []


def test_comfyui_says_no_more_of_anything_wrong_with_the_pack_than_without(seen):
    assert "harmony" in seen.told.lower()
    assert worries(seen.told) - worries(seen.told_without) == set()


def test_disabled_it_is_absent_and_comfyui_works_as_before(seen):
    assert not {name for name in seen.categories_without if name.startswith("Harmony")}
    assert "harmony_core" not in seen.told_without
    assert seen.stock == seen.stock_without

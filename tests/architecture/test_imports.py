"""The direction of imports, read from the code itself."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CORE = ROOT / "harmony_core"
NODES = ROOT / "nodes"
COMFY = {
    "comfy",
    "comfy_api",
    "comfy_extras",
    "comfy_execution",
    "folder_paths",
    "server",
    "nodes",
    "node_helpers",
    "latent_preview",
}

# What a room may import: the first path component below harmony_core, or a module beside them. A room also imports itself.
BASE = {"types", "geometry", "config", "runtime", "records", "progress", "shown"}
FILES = {"inputs", "atomic"}
SAMPLING = {"flow", "guidance", "sampling", "canvas", "conditioning", "denoiser", "sample", "recipes"}
ALLOWED = {
    "__init__": set(),
    "__main__": {"cli", "inputs", "shown"},
    "types": set(),
    "progress": set(),
    "shown": set(),
    "timing": set(),
    "inputs": {"shown"},
    "records": {"shown"},
    "atomic": {"inputs", "shown"},
    "runtime": set(),
    "geometry": {"types", "records"},
    "config": {"geometry", "records", "layers", "shown"},
    "audio_ops": {"types"},
    "layers": BASE - {"config"},
    "conditioning": BASE,
    "models": BASE | {"layers", "encoders", "conditioning"},
    "codecs": BASE | {"layers", "audio_ops"},
    "encoders": BASE | {"layers"},
    "recipes": BASE,
    "flow": BASE,
    "guidance": BASE | {"flow"},
    "sampling": BASE | {"flow"},
    "canvas": BASE,
    "drivers": BASE | {"models"},
    "evaluator": BASE | {"models", "drivers", "guidance"},
    "denoiser": BASE | {"models", "drivers", "guidance", "evaluator", "canvas", "conditioning"},
    "sample": BASE | {"models", "flow", "sampling", "denoiser", "recipes"},
    "offload": BASE | {"models"},
    "weights": BASE | FILES | {"layers", "models", "codecs", "encoders"},
    "plan": BASE | {"layers", "models", "codecs", "drivers", "evaluator", "guidance", "weights", "timing"},
    "pipeline": BASE | SAMPLING | {"audio_ops", "models", "codecs", "encoders", "drivers", "offload", "weights"},
    "media": BASE | FILES | {"audio_ops"},
    "measure": BASE | {"audio_ops", "media"},
    "world": BASE | FILES | {"audio_ops", "codecs", "media", "measure"},
    "training": BASE | FILES | SAMPLING | {"models", "codecs", "encoders", "weights", "media", "measure", "world"},
    "evaluation": BASE | FILES | SAMPLING | {"audio_ops", "encoders", "pipeline", "media", "measure", "world"},
    "bench": BASE
    | FILES
    | SAMPLING
    | {
        "layers",
        "models",
        "codecs",
        "encoders",
        "drivers",
        "offload",
        "weights",
        "plan",
        "pipeline",
        "measure",
        "world",
        "timing",
    },
}
FREE = {"cli"}
"""The command line uses whatever there is; nothing uses it."""


def modules() -> list[Path]:
    return sorted(CORE.rglob("*.py"))


def imports(path: Path) -> list[tuple[int, str]]:
    """Pairs of relative level and module name."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [(0, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module] if node.module else [alias.name for alias in node.names]
            found += [(node.level, name) for name in names]
    return found


def target(path: Path, level: int, name: str) -> str:
    """The first component below harmony_core that an import reaches, or an empty string for one outside."""
    if level == 0:
        return name.split(".")[1] if name.startswith("harmony_core.") else ""
    package = path.relative_to(CORE).parts[:-1]
    return (*package[: len(package) - level + 1], *name.split("."))[0]


def wrong(own: str, reached: set[str]) -> set[str]:
    """What of these a room may not import."""
    return set() if own in FREE else reached - ALLOWED[own] - {own, ""}


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_a_module_imports_only_what_its_room_may(path):
    own = path.relative_to(CORE).parts[0].removesuffix(".py")
    for level, name in imports(path):
        assert name.split(".")[0] not in COMFY or level, f"{path.name} imports {name} of ComfyUI"
        assert not name.startswith("harmony_core"), f"{path.name} imports {name} by its absolute name"
    reached = {target(path, level, name) for level, name in imports(path)} - {"__version__"}
    assert not wrong(own, reached), f"{own} imports {sorted(wrong(own, reached))}"


def test_every_room_has_a_rule_and_none_reaches_back():
    rooms = {path.relative_to(CORE).parts[0].removesuffix(".py") for path in modules()}
    assert rooms == set(ALLOWED) | FREE
    below = set(FREE)
    while left := [room for room in ALLOWED if room not in below]:
        ready = {room for room in left if ALLOWED[room] - {room} <= below}
        assert ready, f"in a circle: {left}"
        below |= ready


@pytest.mark.parametrize(("own", "reached"), [("training", "pipeline"), ("measure", "world"), ("codecs", "media")])
def test_an_import_in_the_wrong_direction_is_seen(own, reached, tmp_path, monkeypatch):
    """Planted in a copy of the room."""
    monkeypatch.setattr(sys.modules[__name__], "CORE", tmp_path)
    (tmp_path / own).mkdir()
    (tmp_path / own / "planted.py").write_text(f"def late():\n    from ..{reached}.some import thing\n")
    with pytest.raises(AssertionError, match=f"{own} imports \\['{reached}'\\]"):
        test_a_module_imports_only_what_its_room_may(tmp_path / own / "planted.py")


@pytest.mark.parametrize("path", sorted(NODES.rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_nodes_reach_comfyui_only_through_the_bridge(path):
    bridge = path.parent.name == "bridge"
    for level, name in imports(path):
        first = name.split(".")[0]
        assert level or first not in {"harmony_core", "nodes"}, f"{path.name} imports {name} by its absolute name"
        if not bridge:
            assert level or first not in COMFY - {"comfy_api"}, f"{path.name} imports {name} beside the bridge"
            assert not (level and "harmony_core" in name), f"{path.name} imports {name} beside the bridge"


def test_starting_comfyui_imports_no_model_code():
    """What is imported at the top of the pack and of the nodes: nothing of the bridge, and nothing heavy."""
    for path in [ROOT / "__init__.py", *NODES.glob("*.py")]:
        for node in ast.parse(path.read_text()).body:
            assert not isinstance(node, ast.Import), path
            if isinstance(node, ast.ImportFrom):
                assert node.module and not node.module.startswith(("bridge", "torch", "comfy.")), path


def test_the_pack_does_no_work_at_import():
    code = "import sys, runpy; runpy.run_path(sys.argv[1]); sys.exit(bool({'torch', 'harmony_core'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code, str(ROOT / "__init__.py")], check=False).returncode == 0


def test_importing_the_package_imports_no_torch():
    code = "import sys, harmony_core, harmony_core.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_nothing_runs_code_from_strings_or_installs_packages():
    for path in modules():
        tree = ast.parse(path.read_text())
        called = {n.func.id for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}
        assert not called & {"eval", "exec", "compile", "__import__"}, path
        # A benchmark measures memory in a process of its own, the same program again.
        banned = {"pip"} if path.parent.name == "bench" else {"pip", "subprocess"}
        assert not {name.split(".")[0] for _, name in imports(path)} & banned, path


def test_a_model_is_sampled_and_measured_on_a_gpu_without_media():
    """A machine that only computes need not have PyAV."""
    names = "pipeline", "plan.fit", "bench.model", "bench.world.runs", "bench.gpu.check", "bench.gpu.speed"
    code = f"import sys; sys.modules['av'] = None; [__import__('harmony_core.' + name) for name in {names!r}]"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

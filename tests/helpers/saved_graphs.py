"""Graphs as a version of the pack saved them: where they lie, and one with each of its nodes in it."""

import json
import re
from pathlib import Path
from typing import Any

from comfyui import ROOT
from graphs import Graph, node
from workflow_files import Slot, slots
from workflow_graphs import CHECKPOINT, Group, Workflow

FOLDER = ROOT / "tests" / "nodes" / "fixtures" / "graphs"
SAVED_FILE = "saved.safetensors"
"""Of the nodes that read a file of the user."""
EVERY = "every-node"
COLUMN = 6
"""Nodes below each other there."""
SOURCES: dict[str, list[Any]] = {
    "MODEL": ["HarmonyLoadCheckpoint", 0],
    "CLIP": ["HarmonyLoadCheckpoint", 1],
    "VAE": ["HarmonyLoadCheckpoint", 2],
    "CONDITIONING": ["HarmonyEncode", 0],
    "LATENT": ["HarmonyEmptyLatent", 0],
    "IMAGE": ["HarmonyDemoMedia", 0],
    "AUDIO": ["HarmonyDemoMedia", 2],
}
"""Where what can only be connected comes from, by its type."""
FITTING = {"seconds": 1.0, "fps": 25.0, "width": 80, "height": 96}
"""Values that are refused, or corrected on ComfyUI's page, unless they fit together."""


def version() -> str:
    """Of the pack."""
    found = re.search(r'^version = "([\d.]+)"$', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    assert found
    return found[1]


def released() -> list[Path]:
    """Folders of the versions whose graphs are kept."""
    return sorted(path for path in FOLDER.glob("*") if path.is_dir())


def both(folder: Path) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """A version's graphs by name: for scripts, and for ComfyUI's page."""
    names = sorted(path.stem for path in (folder / "api").glob("*.json"))
    return {name: (_read(folder / "api" / f"{name}.json"), _read(folder / "ui" / f"{name}.json")) for name in names}


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def every_node(kinds: dict[str, Any]) -> Workflow:
    """One of each node of the pack, with all that can be connected connected, and no widget at its default.

    No two widgets of a node have the same number, so that a value that lands in another one is seen.

    Args:
        kinds: what ComfyUI says of its nodes.
    """
    ours = [kind for kind in kinds if kind.startswith("Harmony")]
    graph: Graph = {}
    for kind in ours:
        known = enumerate(slots(kind, kinds), start=1)
        given = {slot.name: _value(slot, place, _options(kinds[kind], slot.name)) for place, slot in known}
        graph[kind] = node(kind, **given)
    for kind in ours:
        if not kinds[kind]["output_node"]:
            graph[f"{kind} shown"] = node("PreviewAny", source=[kind, 0])
    names = list(graph)
    columns = [names[start : start + COLUMN] for start in range(0, len(names), COLUMN)]
    return Workflow(name=EVERY, graph=graph, bands=[[Group(title="Every node", kind="model", columns=columns)]])


def _options(about: dict[str, Any], name: str) -> dict[str, Any]:
    """What ComfyUI says of an input, a choice's values among it."""
    kind, *options = next(inputs[name] for inputs in about["input"].values() if name in inputs)
    found = options[0] if options else {}
    return {"options": kind, **found} if isinstance(kind, list) else found


def _value(slot: Slot, place: int, options: dict[str, Any]) -> Any:
    """What an input is given: a connection, or a value that is not its default."""
    if not slot.widget:
        return ["HarmonyLoadCheckpoint", 3] if slot.name == "audio_vae" else SOURCES[slot.kind]
    if slot.name in FITTING:
        return FITTING[slot.name]
    if slot.kind == "COMBO":
        choices = options["options"]
        others = [one for one in choices if one != slot.value]
        return next((one for one in (CHECKPOINT, SAVED_FILE) if one in choices), (others or choices)[-1])
    if slot.kind == "BOOLEAN":
        return not slot.value
    if slot.kind == "STRING":
        return f"saved {slot.name}"
    further = place * options.get("step", 1)
    value = slot.value + further
    return round(value if value <= options["max"] else slot.value - further, 6)

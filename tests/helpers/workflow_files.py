"""Workflows as files: in API format, and in the format of ComfyUI's frontend, arranged in groups.

How a node looks comes from what a running ComfyUI says of it (``/object_info``).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from workflow_graphs import COLOURS, Group, Workflow

FOLDER = Path(__file__).parents[2] / "workflows"
Kinds = dict[str, Any]
"""What ``/object_info`` says."""

WIDGETS = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", "COMFY_DYNAMICCOMBO_V3"}
WIDTH = 300
NOTE_WIDTH = 380
SIZES = {
    "HarmonyEncode": (380, 440),
    "HarmonyEmptyLatent": (300, 306),
    "HarmonyKSampler": (360, 850),
    "SaveVideo": (340, 440),
    "HarmonySyncReport": (440, 900),
    "PreviewAudio": (300, 110),
}
"""Of nodes that show more than their inputs; the least for others is what they need."""
MUTED = 2
TITLE, GAP, MARGIN = 40, 30, 30
NOTE = {"title": "Read me", "color": "#432", "bgcolor": "#653"}


@dataclass(frozen=True)
class Slot:
    """An input of a node.

    Attributes:
        name: of it.
        kind: its type.
        value: by default, of a widget.
        widget: whether a value can be set in the node.
        optional: whether it may be left out.
        more: widgets that the choice of this one brings.
    """

    name: str
    kind: str
    value: Any
    widget: bool
    optional: bool
    more: tuple[Slot, ...] = ()


@dataclass
class Placed:
    """A box on the canvas."""

    x: float
    y: float
    width: float
    height: float


@dataclass
class Files:
    """A workflow in both formats."""

    api: dict[str, Any] = field(default_factory=dict)
    ui: dict[str, Any] = field(default_factory=dict)


def slots(kind: str, kinds: Kinds) -> list[Slot]:
    """Inputs of a node as the frontend orders them: what can only be connected, then widgets."""
    found = list(_described(kinds[kind]["input"]))
    flat = [each for slot in found for each in (slot, *slot.more)]
    return [slot for slot in flat if not slot.widget] + [slot for slot in flat if slot.widget]


def _described(inputs: dict[str, Any], prefix: str = "") -> Iterator[Slot]:
    for section in ("required", "optional"):
        for name, (given, *options) in inputs.get(section, {}).items():
            about = options[0] if options else {}
            choices = given if isinstance(given, list) else about.get("options", [])
            kind = "COMBO" if isinstance(given, list) else given
            more: tuple[Slot, ...] = ()
            value = about.get("default")
            if kind == "COMFY_DYNAMICCOMBO_V3":
                value = value or choices[0]["key"]
                chosen = next(choice for choice in choices if choice["key"] == value)
                more = tuple(_described(chosen["inputs"], f"{prefix}{name}."))
            elif kind == "COMBO":
                value = value if value is not None else next(iter(choices), None)
            widget = kind in WIDGETS and not about.get("forceInput")
            yield Slot(prefix + name, kind, value, widget, section == "optional", more)


def files(workflow: Workflow, kinds: Kinds) -> Files:
    """Both formats of a workflow.

    Args:
        workflow: to be written.
        kinds: what ComfyUI says of its nodes.

    Raises:
        ValueError: a node or an input is unknown, or a node has no place.
    """
    numbers = {name: number for number, name in enumerate([*workflow.graph, *workflow.notes], start=1)}
    placed, groups = arranged(workflow, kinds)
    if set(placed) != set(numbers):
        raise ValueError(f"{workflow.name}: nodes and places differ: {sorted(set(placed) ^ set(numbers))}")
    made = Files()
    links: list[list[Any]] = []
    nodes = {}
    for name, one in workflow.graph.items():
        kind = one["class_type"]
        known = slots(kind, kinds)
        unknown = set(one["inputs"]) - {slot.name for slot in known}
        if unknown:
            raise ValueError(f"{workflow.name}: {kind} has no input {sorted(unknown)}")
        title = workflow.titles.get(name, kinds[kind]["display_name"])
        values = {
            slot.name: one["inputs"].get(slot.name, slot.value) for slot in known if slot.widget or slot.name in one["inputs"]
        }
        nodes[name] = _ui_node(numbers[name], kind, title, known, values, placed[name], kinds)
        if name in workflow.muted:
            nodes[name]["mode"] = MUTED
        else:
            linked = {
                key: [str(numbers[value[0]]), value[1]] if isinstance(value, list) else value for key, value in values.items()
            }
            made.api[str(numbers[name])] = {"inputs": linked, "class_type": kind, "_meta": {"title": title}}
        if name in workflow.models:
            nodes[name]["properties"]["models"] = workflow.models[name]
    for name, one in workflow.graph.items():
        for slot, entry in enumerate(nodes[name]["inputs"]):
            value = one["inputs"].get(entry["name"])
            if isinstance(value, list):
                links.append([len(links) + 1, numbers[value[0]], value[1], numbers[name], slot, entry["type"]])
                entry["link"] = len(links)
                nodes[value[0]]["outputs"][value[1]]["links"].append(len(links))
    notes = [_ui_note(numbers[name], text, placed[name]) for name, text in workflow.notes.items()]
    made.ui = {
        "revision": 0,
        "last_node_id": len(numbers),
        "last_link_id": len(links),
        "nodes": [*nodes.values(), *notes],
        "links": links,
        "groups": groups,
        "config": {},
        "extra": {},
        "version": 0.4,
    }
    return made


def _ui_node(
    number: int, kind: str, title: str, known: list[Slot], values: dict[str, Any], place: Placed, kinds: Kinds
) -> dict[str, Any]:
    about = kinds[kind]
    widgets: list[Any] = []
    for slot in known:
        if slot.widget:
            # A linked widget keeps its default, which is not used.
            value = values[slot.name]
            widgets.append(slot.value if isinstance(value, list) else value)
            if slot.name in {"seed", "noise_seed"}:
                widgets.append("fixed")
    node: dict[str, Any] = {
        "id": number,
        "type": kind,
        "pos": [place.x, place.y],
        "size": [place.width, place.height],
        "flags": {},
        "order": number - 1,
        "mode": 0,
        "inputs": [
            {
                "name": slot.name,
                "type": slot.kind,
                **({"shape": 7} if slot.optional else {}),
                **({"widget": {"name": slot.name}} if slot.widget else {}),
                "link": None,
            }
            for slot in known
        ],
        "outputs": [
            {"name": name, "type": kind_out, "links": []}
            for name, kind_out in zip(about["output_name"], about["output"], strict=True)
        ],
        "properties": {"Node name for S&R": kind},
        "widgets_values": widgets,
    }
    if title != about["display_name"]:
        node["title"] = title
    return node


def _ui_note(number: int, text: str, place: Placed) -> dict[str, Any]:
    return {
        "id": number,
        "type": "MarkdownNote",
        "pos": [place.x, place.y],
        "size": [place.width, place.height],
        "flags": {},
        "order": number - 1,
        "mode": 0,
        "inputs": [],
        "outputs": [],
        "properties": {},
        "widgets_values": [text],
        **NOTE,
    }


def size(workflow: Workflow, name: str, kinds: Kinds) -> tuple[float, float]:
    """Width and height of a node or a note, its title aside."""
    if name in workflow.notes:
        text = workflow.notes[name]
        lines = sum(1 + len(line) // 54 for line in text.splitlines())
        return NOTE_WIDTH, 40 + 18 * lines
    kind = workflow.graph[name]["class_type"]
    known = slots(kind, kinds)
    widgets = sum(slot.widget for slot in known) + sum(slot.name == "seed" for slot in known)
    rows = max(len(known) - sum(slot.widget for slot in known), len(kinds[kind]["output"]))
    least = 20 * rows + (24 * widgets + 14 if widgets else 6)
    width, height = SIZES.get(kind, (WIDTH, 0))
    return width, max(height, least)


def arranged(workflow: Workflow, kinds: Kinds) -> tuple[dict[str, Placed], list[dict[str, Any]]]:
    """Where nodes are, by name, and the groups round them."""
    placed: dict[str, Placed] = {}
    groups: list[dict[str, Any]] = []
    top = 0.0
    for band in workflow.bands:
        left = bottom = 0.0
        for group in band:
            box = _arrange(group, workflow, kinds, placed, left, top)
            bounding = [box.x, box.y, box.width, box.height]
            about = {"title": group.title, "bounding": bounding, "color": COLOURS[group.kind], "font_size": 24, "flags": {}}
            groups.append({"id": len(groups) + 1, **about})
            left += box.width + GAP
            bottom = max(bottom, box.y + box.height)
        top = bottom + 2 * GAP
    return placed, groups


def _arrange(group: Group, workflow: Workflow, kinds: Kinds, placed: dict[str, Placed], left: float, top: float) -> Placed:
    x, lowest = left + MARGIN, 0.0
    for column in group.columns:
        y, widest = top + TITLE + MARGIN, 0.0
        for name in column:
            width, height = size(workflow, name, kinds)
            placed[name] = Placed(x, y + TITLE, width, height)
            y += TITLE + height + GAP
            widest = max(widest, width)
        lowest = max(lowest, y)
        x += widest + MARGIN
    return Placed(left, top, x - left, lowest - top)


def text(values: dict[str, Any]) -> str:
    """A file's text."""
    return json.dumps(values, indent=1, ensure_ascii=False) + "\n"


def paths(workflow: Workflow) -> tuple[Path, Path]:
    """Files of both formats: for scripts, and for the frontend."""
    return FOLDER / "api" / f"{workflow.script_name}.json", FOLDER / f"{workflow.name}.json"

"""Run beside ComfyUI: what the pack's nodes show and take, as JSON.

``texts`` are in the layout of translations (locales/en/nodeDefs.json); ``inputs`` are the values each input takes, in words.
"""

import asyncio
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import comfy.cli_args

comfy.cli_args.args.cpu = True

import comfy.samplers  # noqa: E402 - after the device is chosen
import comfy_api.latest  # noqa: E402, F401

ROOT = Path(__file__).parents[2]
LISTED = 6
"""As many choices are named; more are ComfyUI's own."""
FILES = ("checkpoint", "other_half", "file", "lora_name")
"""Choices that are what is on the disk."""


def text(name: str, options: dict[str, Any]) -> dict[str, str]:
    """What an input shows."""
    shown = {"name": options.get("display_name") or name}
    return shown | ({"tooltip": options["tooltip"]} if options.get("tooltip") else {})


def value(name: str, kind: Any, options: dict[str, Any]) -> str:
    """What an input takes."""
    choices = kind if isinstance(kind, list) else options.get("options")
    if name in FILES:
        return "a file"
    if choices is not None:
        listed = " / ".join(choices) if len(choices) <= LISTED else f"a sampler, {options['default']}"
        return listed + (f" ({options['default']})" if len(choices) <= LISTED else "")
    if kind in {"INT", "FLOAT"}:
        return f"{options['min']:.12g} to {options['max']:.12g} ({options['default']:.12g})"
    return {"STRING": "text", "BOOLEAN": "on / off"}.get(kind, kind)


def schema(node: type) -> tuple[dict[str, Any], dict[str, str]]:
    """A node's texts and the values of its inputs."""
    info = node.GET_NODE_INFO_V1()
    inputs, values = {}, {}
    for group in ("required", "optional"):
        for name, (kind, *more) in info["input"].get(group, {}).items():
            options = more[0] if more else {}
            inputs[name] = text(name, options)
            socket = not isinstance(kind, list) and kind.isupper() and "default" not in options and "options" not in options
            values[name] = value(name, kind, options) + (", optional" if socket and group == "optional" else "")
            if options.get("control_after_generate"):
                inputs["control_after_generate"] = {"name": "control after generate"}
    tips = info["output_tooltips"] or [None] * len(info["output"])
    named = zip(info["output_name"], tips, strict=True)
    outputs = {str(place): {"name": name, "tooltip": tip} for place, (name, tip) in enumerate(named)}
    shown = {"display_name": info["display_name"], "description": info["description"], "inputs": inputs, "outputs": outputs}
    return shown, values


def main() -> dict[str, Any]:
    spec = importlib.util.spec_from_file_location("pack", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
    module = importlib.util.module_from_spec(spec)
    sys.modules["pack"] = module
    spec.loader.exec_module(module)
    nodes = asyncio.run(asyncio.run(module.comfy_entrypoint()).get_node_list())
    found = {node.GET_NODE_INFO_V1()["name"]: schema(node) for node in nodes}
    return {
        "texts": {name: texts for name, (texts, _) in found.items()},
        "inputs": {name: values for name, (_, values) in found.items()},
    }


if __name__ == "__main__":
    sys.stdout.write(f"\n{json.dumps(main())}\n")

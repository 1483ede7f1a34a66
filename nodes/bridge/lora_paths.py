"""Where LoRAs are found: ComfyUI's folder of them. Read when ComfyUI starts, so it imports no model code."""

from __future__ import annotations

from pathlib import Path

from . import files

FOLDER = "loras"
SUFFIXES = (".safetensors", ".pt", ".pth", ".ckpt", ".bin")
"""Of what can be read."""


def lora_names() -> list[str]:
    """What can be loaded."""
    return files.listed(FOLDER, SUFFIXES)


def lora_path(name: str) -> Path:
    """The file behind a name.

    Raises:
        ValueError: there is none.
    """
    return files.path_of(name, (FOLDER,), SUFFIXES, "lora_name")


def state_of(name: str | None) -> str:
    """Changes when the file does; of a name that another node gives, and is not known yet, when any LoRA does."""
    return "; ".join(_state(one) for one in (lora_names() if name is None else [name]))


def _state(name: str) -> str:
    try:
        return files.state_of(lora_path(name))
    except ValueError as error:
        return str(error)

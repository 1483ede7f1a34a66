"""Where LoRAs are found: ComfyUI's folder of them. Read when ComfyUI starts, so it imports no model code."""

from __future__ import annotations

from pathlib import Path

import folder_paths

FOLDER = "loras"
SUFFIXES = (".safetensors", ".pt", ".pth", ".ckpt", ".bin")
"""Of what can be read."""


def lora_names() -> list[str]:
    """What can be loaded."""
    return [name for name in folder_paths.get_filename_list(FOLDER) if name.endswith(SUFFIXES)]


def lora_path(name: str) -> Path:
    """The file behind a name.

    Raises:
        ValueError: there is none.
    """
    found = folder_paths.get_full_path(FOLDER, name)
    if found is None:
        raise ValueError(f"lora_name: there is no {name} in models/{FOLDER}; put it there or choose another")
    return Path(found)


def state_of(name: str) -> str:
    """Changes when the file does."""
    try:
        status = lora_path(name).stat()
    except (ValueError, OSError) as error:
        return str(error)
    return f"{status.st_ino} {status.st_mtime_ns} {status.st_size}"

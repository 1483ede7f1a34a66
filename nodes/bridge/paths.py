"""Where checkpoints are found: ComfyUI's folders, and what comes with the pack."""

from __future__ import annotations

from pathlib import Path

import folder_paths

from ...harmony_core.weights.builtin import CHECKPOINTS, resolve

FOLDERS = ("checkpoints", "diffusion_models")
SUFFIX = " (built in)"


def checkpoint_names() -> list[str]:
    """What a loader offers: the built-in checkpoints, then the files of ComfyUI's folders."""
    return [name + SUFFIX for name in CHECKPOINTS] + file_names()


def file_names() -> list[str]:
    """The files of ComfyUI's folders that may be one."""
    found = [name for folder in FOLDERS for name in folder_paths.get_filename_list(folder) if name.endswith(".safetensors")]
    return list(dict.fromkeys(found))


def checkpoint_path(name: str, where: str = "checkpoint") -> Path:
    """The file behind a name, chosen in the input ``where``.

    Raises:
        ValueError: there is none.
    """
    if name.endswith(SUFFIX):
        return resolve(name.removesuffix(SUFFIX))
    paths = (folder_paths.get_full_path(folder, name) for folder in FOLDERS)
    found = next((path for path in paths if path is not None), None)
    if found is None:
        raise ValueError(f"{where}: there is no {name} in models/{' or models/'.join(FOLDERS)}; put it there or choose another")
    return Path(found)

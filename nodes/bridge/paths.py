"""Where checkpoints are found: ComfyUI's folders, and what comes with the pack.

Names come from a graph or over HTTP. Only those that the loader offers are looked at: a name is never a path.
"""

from __future__ import annotations

from pathlib import Path

from ...harmony_core.weights.builtin import CHECKPOINTS, resolve
from . import files

FOLDERS = ("checkpoints", "diffusion_models")
SUFFIXES = (".safetensors",)
SUFFIX = " (built in)"
NONE = "none"
"""What the loader offers for no second file."""


def checkpoint_names() -> list[str]:
    """What a loader offers: the built-in checkpoints, then the files of ComfyUI's folders."""
    return [name + SUFFIX for name in CHECKPOINTS] + file_names()


def file_names() -> list[str]:
    """The files of ComfyUI's folders that may be one."""
    return list(dict.fromkeys(name for folder in FOLDERS for name in files.listed(folder, SUFFIXES)))


def checkpoint_path(name: str, where: str = "checkpoint") -> Path:
    """The file behind a name, chosen in the input ``where``.

    Raises:
        ValueError: there is none.
    """
    built_in = name.removesuffix(SUFFIX)
    if built_in in CHECKPOINTS and built_in != name:
        return resolve(built_in)
    return files.path_of(name, FOLDERS, SUFFIXES, where)


def state_of(*names: str | None) -> str:
    """Changes when one of these files does; of a name that another node gives, and is not known yet, when any file does."""
    known = [name for name in (checkpoint_names() if None in names else names) if name not in {NONE, None}]
    return "; ".join(_state(name) for name in known if name is not None)


def _state(name: str) -> str:
    try:
        return files.state_of(checkpoint_path(name))
    except ValueError as error:
        return str(error)

"""The weights that come with the package, by name."""

from __future__ import annotations

from pathlib import Path

from ..inputs import is_dir, is_file, named

ASSETS = Path(__file__).parents[1] / "assets"
CHECKPOINTS = {"harmony-tiny": "harmony-tiny.safetensors"}
"""Built-in checkpoints, each with its codecs: the files' names in :data:`ASSETS`."""
JUDGES = "world-judges.safetensors"


def resolve(name_or_path: str | Path) -> Path:
    """The file of a checkpoint.

    Args:
        name_or_path: the name of a built-in checkpoint, or a file; ``./harmony-tiny`` is a file of that name.

    Raises:
        ValueError: there is no such file, or this installation lacks the built-in one.
    """
    name = str(name_or_path)
    if name in CHECKPOINTS:
        return _installed(CHECKPOINTS[name], f"the built-in checkpoint {name}")
    path = Path(name_or_path)
    if is_dir(path):
        raise ValueError(f"{named(path)} is a folder; name the file in it")
    if not is_file(path):
        raise ValueError(
            f"there is no checkpoint {named(path)}; give a file, or the name of a built-in one: {', '.join(CHECKPOINTS)}"
        )
    return path


def judges() -> Path:
    """The file of the small world's judges.

    Raises:
        ValueError: this installation lacks it.
    """
    return _installed(JUDGES, "the file of the small world's judges")


def _installed(file: str, what: str) -> Path:
    path = ASSETS / file
    if not is_file(path):
        raise ValueError(f"{what} is missing from this installation: there is no {named(path)}")
    return path

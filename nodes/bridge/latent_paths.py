"""Where latents are found: ComfyUI's input and output folders. Read when ComfyUI starts, so it imports no model code."""

from __future__ import annotations

from pathlib import Path

import folder_paths

from ...harmony_core.shown import shown
from . import files

SUFFIX = ".safetensors"
OUTPUT = " [output]"


def names() -> list[str]:
    """What can be loaded: files of the input folder, then those of the output folder, marked as ComfyUI does."""
    inputs, outputs = _files(folder_paths.get_input_directory()), _files(folder_paths.get_output_directory())
    return inputs + [name + OUTPUT for name in outputs]


def path_of(name: str) -> Path:
    """The file behind a name.

    Raises:
        ValueError: there is none, or the name leads out of ComfyUI's folders.
    """
    try:
        path = Path(folder_paths.get_annotated_filepath(name))
    except ValueError as error:
        raise ValueError(f"file: '{shown(name)}' leads out of ComfyUI's folders; choose a file in input or output") from error
    if path.suffix != SUFFIX:
        raise ValueError(f"file: '{shown(name)}' is no {SUFFIX} file; choose one of Save Harmony Latent or harmony generate")
    if not path.is_file():
        raise ValueError(f"file: there is no {shown(name)}; put it into ComfyUI's input folder, or choose another")
    return path


def state_of(name: str) -> str:
    """Changes when the file does."""
    try:
        return files.state_of(path_of(name))
    except ValueError as error:
        return str(error)


def _files(folder: str) -> list[str]:
    root = Path(folder)
    return sorted(p.relative_to(root).as_posix() for p in root.rglob(f"*{SUFFIX}") if not p.name.startswith("."))

"""Files by the names a node offers: nothing else is looked at, and whether one has changed."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import folder_paths

from ...harmony_core.shown import shown


def listed(folder: str, suffixes: tuple[str, ...]) -> list[str]:
    """What a loader offers of one of ComfyUI's folders."""
    return [name for name in folder_paths.get_filename_list(folder) if name.endswith(suffixes)]


def path_of(name: str, folders: Iterable[str], suffixes: tuple[str, ...], where: str) -> Path:
    """The file behind a name that :func:`listed` gives; a name of anything else is none, whatever is there.

    Args:
        name: of the file.
        folders: where it may be, in this order.
        suffixes: of what a node offers.
        where: the input it was chosen in.

    Raises:
        ValueError: there is none.
    """
    folders = tuple(folders)
    for folder in folders:
        path = folder_paths.get_full_path(folder, name) if name in listed(folder, suffixes) else None
        if path is not None:
            return Path(path)
    places = " or ".join(f"models/{folder}" for folder in folders)
    raise ValueError(f"{where}: there is no {shown(name)} in {places}; put it there or choose another")


def state_of(path: Path) -> str:
    """Changes when a file does: another file of the name, another time, another size."""
    try:
        status = path.stat()
    except OSError as error:
        return str(error.strerror)
    return f"{status.st_ino} {status.st_mtime_ns} {status.st_size}"

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
    return " ".join(str(number) for number in _place(path) or ())


class Mapped:
    """Files whose values may be read only when they are used: one that is cut short in its place would end the process."""

    def __init__(self, *paths: Path) -> None:
        self._seen = {path: _place(path) for path in paths}

    def check(self) -> None:
        """Look again, before values are used.

        Raises:
            ValueError: one was written over in its place. One that another file took the place of is still there for us.
        """
        for path, seen in self._seen.items():
            now = _place(path)
            if seen is not None and now is not None and now != seen and now[0] == seen[0]:
                raise ValueError(
                    f"checkpoint: {shown(path.name)} was written over in use; queue the graph again, which loads it"
                )


def _place(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size

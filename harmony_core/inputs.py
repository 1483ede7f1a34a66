"""Files that somebody names: whether they are there, and their text, only of regular files and only up to a limit.

``pathlib`` raises where a name is too long for the disk or holds a null character, and waits forever for a pipe that nobody
writes to. Here a name that cannot be is that of no file, and pipes, devices and sockets are refused.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from .shown import shown

MIB = 1 << 20
LONGEST_NAME = 120
"""Characters of a path that are repeated in a message."""


def is_file(path: str | Path) -> bool:
    """Whether it is a regular file, or a link to one."""
    return os.path.isfile(path)  # noqa: PTH113 - see the module


def is_dir(path: str | Path) -> bool:
    """Whether it is a folder, or a link to one."""
    return os.path.isdir(path)  # noqa: PTH112


def exists(path: str | Path) -> bool:
    """Whether there is anything of that name."""
    return os.path.exists(path)  # noqa: PTH110


def named(path: str | Path) -> str:
    """A path for a message: printable, its end kept where it is long."""
    text = str(path)
    return shown(text if len(text) <= LONGEST_NAME else f"...{text[-LONGEST_NAME:]}", LONGEST_NAME + 8)


def check_file(path: str | Path, *, most: int) -> os.stat_result:
    """Refuse what is no regular file, or too large to be what it is read as.

    Args:
        path: a name that somebody gave.
        most: bytes.

    Raises:
        ValueError: there is nothing of that name, it cannot be looked at, it is no regular file, or it is larger.
    """
    try:
        status = Path(path).stat()
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        raise ValueError(f"cannot read {named(path)}: {reason(error)}") from error
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"cannot read {named(path)}: it is not a file")
    if status.st_size > most:
        raise ValueError(f"cannot read {named(path)}: it has {status.st_size:,} bytes, a file of its kind has at most {most:,}")
    return status


def read_text(path: str | Path, *, most: int) -> str:
    """The text of a UTF-8 file; see :func:`check_file`.

    Raises:
        ValueError: likewise, or it is no UTF-8 text.
    """
    check_file(path, most=most)
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(f"cannot read {named(path)}: {reason(error)}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{named(path)} is not UTF-8 text: {error}") from error


def reason(error: Exception) -> str:
    """Why the system refused, in words."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error)

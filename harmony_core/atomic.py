"""Files that are there whole or not at all."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file beside ``path`` that takes its place if all goes well, and is removed if not.

    It keeps the ending, by which many writers tell the format. A link stays a link: what it leads to is
    replaced, where that is.

    Raises:
        ValueError: the folder is missing or cannot be written to, or the disk is full.
    """
    path = Path(os.path.realpath(path))
    temporary = path.with_name(f".{path.stem}.{uuid.uuid4().hex}{path.suffix}")
    try:
        temporary.touch(exist_ok=False)
        mode = temporary.stat().st_mode
        yield temporary
        temporary.chmod(mode)  # some writers replace the file and keep it to themselves
        temporary.replace(path)
    except OSError as error:
        raise ValueError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):  # it may never have come into being
            temporary.unlink()

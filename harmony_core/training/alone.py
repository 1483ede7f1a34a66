"""One training at a time in a folder: the system's own lock, which goes with the process that held it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from ..inputs import is_dir, named

LOCK = "run.lock"
"""Of the folder; it stays there, empty, and says nothing by itself: what counts is who holds it."""


@contextlib.contextmanager
def alone(output: str | Path, *, first: bool, resume: bool) -> Iterator[None]:
    """Keep a run's folder for this process; within it, it may be asked for again.

    Args:
        output: the folder; made where it is missing, unless ``resume``, which finds then that there is no run. If nothing is
            in it at the end, it is gone again.
        first: whether this is the process that writes, of those that train together; the others have nothing to lock.
        resume: see ``output``.

    Raises:
        ValueError: another process trains there, which goes on undisturbed, or the folder cannot be made or written to.
    """
    folder = Path(output)
    if not first or (resume and not is_dir(folder)):
        yield
        return
    made = _missing(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK, blocking=False, is_singleton=True, thread_local=False)
        lock.acquire()
    except Timeout as error:
        raise ValueError(
            f"another process trains in {named(folder)}: wait for it or stop it, or name another run.output"
        ) from error
    except OSError as error:
        raise ValueError(f"cannot make the folder {named(folder)}: {error.strerror or error}") from error
    try:
        yield
    finally:
        if made and lock.lock_counter == 1 and [path.name for path in folder.iterdir()] == [LOCK]:
            (folder / LOCK).unlink()
        lock.release()
        for path in made:
            with contextlib.suppress(OSError):  # there is something in it
                path.rmdir()


def _missing(folder: Path) -> list[Path]:
    """The folder and those it is in, innermost first, that are not there yet."""
    return [path for path in (folder, *folder.parents) if not is_dir(path)]

"""Files and folders that are there whole or not at all.

What is being written lies in a hidden folder beside its target, ``.harmony-PLACE-PID-START-NUMBER``: the machine and container,
the process and when it began. A process that is killed cannot tidy up; whoever writes into the same folder next takes away what
processes of this place left that are no more. What a living process writes is never touched.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import socket
import stat
import uuid
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from .inputs import named, reason

_NAME = re.compile(r"\.harmony-([0-9a-f]{8})-(\d{1,10})-([0-9a-f]{8})-[0-9a-f]{8}")
_SUFFIX = re.compile(r"\.\w{1,16}")
_UNKNOWN = "0" * 8
_START_FIELD = 19
"""Of ``/proc/PID/stat``, behind the name in brackets: when the process began, in ticks after the boot."""


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file that takes the place of ``path`` if all goes well, and is removed if not.

    It keeps the ending, by which many writers tell the format. It lies in a folder of its own, where writers may put files of
    theirs; its name does not grow with that of ``path``, so that any name is written that the disk takes.

    Raises:
        ValueError: the folder is missing or cannot be written to, the name is none the disk takes, or the disk is full.
    """
    check_target(path)
    path = Path(os.path.realpath(path))  # a link stays a link: what it leads to is replaced, where that is
    folder = temporary_beside(path)
    temporary = folder / f"part{path.suffix if _SUFFIX.fullmatch(path.suffix) else ''}"
    try:
        folder.mkdir()
        temporary.touch()
        mode = temporary.stat().st_mode
        yield temporary
        temporary.chmod(mode)  # some writers replace the file and keep it to themselves
        temporary.replace(path)
    except OSError as error:
        raise ValueError(f"cannot write {named(path)}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # it may never have come into being


def check_target(path: Path) -> None:
    """Refuse a name that cannot be written to, before the work.

    Raises:
        ValueError: the disk does not take the name, or it is that of a folder.
    """
    try:
        folder = stat.S_ISDIR(path.stat().st_mode)
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        raise ValueError(f"cannot write {named(path)}: {reason(error)}") from error
    if folder:
        raise ValueError(f"cannot write {named(path)}: it is a folder")


def temporary_beside(path: Path) -> Path:
    """The name of a folder beside ``path`` to write in, and its surroundings without what the dead left in them."""
    for left in _left(path.parent):
        shutil.rmtree(left, ignore_errors=True)
    return path.with_name(f".harmony-{_place()}-{os.getpid()}-{_start(os.getpid()) or _UNKNOWN}-{uuid.uuid4().hex[:8]}")


def _left(folder: Path) -> list[str]:
    """What processes of this place that are no more left half-written in a folder."""
    try:
        with os.scandir(folder) as found:
            named_so = [(entry.path, match) for entry in found if (match := _NAME.fullmatch(entry.name))]
    except (OSError, ValueError):  # whatever is wrong with the folder is said when it is written to
        return []
    return [path for path, match in named_so if match[1] == _place() and _is_gone(int(match[2]), match[3])]


def _is_gone(pid: int, start: str) -> bool:
    """Whether there is no such process any more, or another one of its number."""
    if os.name != "posix":  # elsewhere Python cannot ask without ending the process
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:  # somebody else's
        pass
    now = _start(pid)
    return now is not None and start not in {now, _UNKNOWN}


def _start(pid: int) -> str | None:
    """When a process began, and on which start of the machine; None where the system does not say."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return _short(f"{boot} {fields[_START_FIELD]}")
    except (OSError, IndexError):
        return None


@lru_cache(maxsize=1)
def _place() -> str:
    """This machine and container, whose process numbers are of one kind: into a shared folder others write too."""
    space = ""
    with contextlib.suppress(OSError):
        space = str(Path("/proc/self/ns/pid").readlink())
    return _short(f"{socket.gethostname()} {space}")


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]

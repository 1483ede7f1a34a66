"""The command line: ``harmony COMMAND ...`` or ``python -m harmony_core COMMAND ...``."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from types import FrameType

from .cli.numbers import Parser
from .inputs import named, reason
from .shown import shown

COMMANDS = (
    "assemble",
    "bench",
    "benchmark",
    "convert",
    "demo",
    "evaluate",
    "generate",
    "inspect",
    "plan",
    "roundtrip",
    "train",
    "world",
)
INTERRUPTED = 130
"""Exit status of a command that was stopped by Ctrl-C, as shells have it."""
TERMINATED = 143
"""Likewise by SIGTERM, as ``kill`` and ``timeout`` send it."""
UNREAD = 141
"""Likewise of one whose output nobody reads any more, as in ``harmony inspect FILE | head -1``."""
LONGEST_SENTENCE = 1000
"""Characters of an error; whatever was given is cut short long before."""


class Terminated(KeyboardInterrupt):
    """SIGTERM; what is under way ends as by Ctrl-C."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the process's exit status."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # names of files may hold what is no text
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        with _stopped_by_sigterm():
            try:
                args = _parser().parse_args(argv)
            except SystemExit:  # of --help, whose text may not be written yet
                sys.stdout.flush()
                raise
            args.run(args)
            sys.stdout.flush()
    except BrokenPipeError:
        _leave_stdout()
        return UNREAD
    except Terminated:
        return _say("stopped", TERMINATED)
    except KeyboardInterrupt:
        return _say("stopped", INTERRUPTED)
    except ValueError as error:
        return _say(str(error), 1)
    except OSError as error:  # of a disk that is full, say; standard output can be on one too
        _leave_stdout()
        return _say(f"{named(error.filename) if error.filename else 'cannot write the output'}: {reason(error)}", 1)
    except (MemoryError, RuntimeError) as error:
        if not _of_memory(error):
            raise
        return _say("not enough memory for this; see what a clip takes with harmony plan", 1)
    return 0


def _parser() -> Parser:
    parser = Parser(prog="harmony", description="Video and sound, generated together.")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in COMMANDS:
        module = importlib.import_module(f".cli.{name}", package=__package__)
        sub = subparsers.add_parser(name, help=module.SUMMARY, description=module.__doc__)
        module.add_arguments(sub)
        sub.set_defaults(run=module.run)
    return parser


@contextlib.contextmanager
def _stopped_by_sigterm() -> Iterator[None]:
    """Raise :class:`Terminated` where SIGTERM arrives, once: a second one does not disturb the tidying up."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(_number: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise Terminated

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _say(text: str, status: int) -> int:
    with contextlib.suppress(OSError):  # there may be nowhere to say it
        print(f"harmony: {shown(' '.join(text.split()), LONGEST_SENTENCE)}", file=sys.stderr)
    return status


def _leave_stdout() -> None:
    """Let go of what was not written, or Python would try again at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _of_memory(error: Exception) -> bool:
    """Whether memory ran out; on a CPU torch has no exception of its own for this."""
    return isinstance(error, MemoryError) or "can't allocate memory" in str(error) or "out of memory" in str(error)


if __name__ == "__main__":
    sys.exit(main())

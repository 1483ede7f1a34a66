"""The line on the terminal that says how far something long has come; on stderr, so that stdout holds results alone."""

from __future__ import annotations

import sys
import time
from types import TracebackType

REDRAWN_EVERY = 0.2
"""Seconds from one drawing of the progress line to the next."""


class ProgressLine:
    """One line on the terminal, drawn over and over: what, how far, how long still.

    As a context manager it ends a line that was left unfinished, so that what is said next begins on one of its own.
    """

    def __init__(self, what: str, *, shown: bool = True) -> None:
        self._what, self._shown = what, shown
        self._began: float | None = None
        self._first = 0
        self._drawn = 0.0
        self._open = False

    def __enter__(self) -> ProgressLine:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._open:
            print(file=sys.stderr, flush=True)
            self._open = False

    def __call__(self, done: int, total: int) -> None:
        """See :data:`.progress.Progress`."""
        now = time.monotonic()
        if self._began is None:
            # A resumed run begins somewhere; what was done before says nothing about the speed now.
            self._began, self._first = now, done
        if not self._shown or (done < total and now - self._drawn < REDRAWN_EVERY):
            return
        self._drawn = now
        line = f"{self._what} {done}/{total}"
        if done > self._first:
            each = (now - self._began) / (done - self._first)
            line += f", {each:.2f} s each, {_clock(each * (total - done))} left"
        self._open = done < total
        end = "" if self._open else "\n"
        print(f"\r{line:<70}", end=end, file=sys.stderr, flush=True)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"

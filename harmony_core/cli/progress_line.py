"""How far something long has come, on stderr, so that stdout holds results alone.

On a terminal it is tqdm's bar. Elsewhere, in a log file or a CI, it is a line now and then and one at the end: a bar would be
written anew hundreds of times.
"""

from __future__ import annotations

import sys
import time
from types import TracebackType

from tqdm import tqdm

LOGGED_EVERY = 30.0
"""Seconds from line to line where there is no terminal."""


class ProgressLine:
    """A bar or lines: what, how far, how long still.

    As a context manager it ends a bar that was left unfinished, so that what is said next begins on a line of its own.
    """

    def __init__(self, what: str, *, shown: bool = True) -> None:
        self._what, self._shown = what, shown
        self._bar: tqdm[None] | None = None
        self._began: tuple[float, int] | None = None
        self._said = 0.0

    def __enter__(self) -> ProgressLine:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.close()

    def __call__(self, done: int, total: int) -> None:
        """See :data:`.progress.Progress`."""
        if not self._shown:
            return
        if sys.stderr.isatty():
            self._draw(done, total)
        else:
            self._say(done, total)

    def _draw(self, done: int, total: int) -> None:
        if self._bar is None:
            # A resumed run begins somewhere; what was done before says nothing about the speed now.
            self._bar = tqdm(desc=self._what, initial=max(0, done - 1), total=total, file=sys.stderr, dynamic_ncols=True)
        self._bar.total = total
        self._bar.update(done - self._bar.n)
        if done >= total:
            self._bar.close()

    def _say(self, done: int, total: int) -> None:
        now = time.monotonic()
        if self._began is None:
            self._began, self._said = (now, done), now
        if done < total and now - self._said < LOGGED_EVERY:
            return
        self._said = now
        began, first = self._began
        line = f"{self._what} {done}/{total}"
        if done > first:
            each = (now - began) / (done - first)
            line += f", {each:.2f} s each, {tqdm.format_interval(each * (total - done))} left"
        print(line, file=sys.stderr, flush=True)

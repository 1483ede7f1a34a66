"""Progress and cancellation, one mechanism for everything long."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int, int], None]
"""Called as ``progress(done, total)`` after each piece of work. To cancel, it raises :class:`Cancelled` (or any exception of
the host's): the work stops there and leaves nothing behind."""


class Cancelled(Exception):  # noqa: N818 - not an error, somebody's wish
    """Raised by a progress function or a step callback to stop the work."""

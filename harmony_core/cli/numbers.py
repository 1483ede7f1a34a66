"""Numbers as options: each has a lowest and a highest, and a message says both."""

from __future__ import annotations

import argparse
from typing import NoReturn

from ..shown import shown

LARGEST_SEED, MOST_THREADS = 1 << 62, 1024
LONGEST_START = 1e6
"""Seconds into a file: eleven days."""
SECONDS = 1e-3, 600.0
"""A clip's, as much as media reads."""
_LONGEST_USAGE = 300


class Parser(argparse.ArgumentParser):
    """Arguments whose errors do not repeat whatever was given at length."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong, and leave."""
        super().error(shown(message, _LONGEST_USAGE))


def check_whole(option: str, value: int | None, least: int, most: int) -> None:
    """Refuse a whole number out of its range; None is none given.

    Raises:
        ValueError: it is; the message names the option.
    """
    if value is not None and not least <= value <= most:
        raise ValueError(f"--{option} is a whole number from {least} to {most}, got {shown(value, 40)}")


def check_number(option: str, value: float | None, least: float, most: float) -> None:
    """Likewise of a number.

    Raises:
        ValueError: it is out of its range or none.
    """
    if value is not None and not least <= value <= most:
        raise ValueError(f"--{option} is a number from {least:g} to {most:g}, got {value:g}")


def check_threads(threads: int | None) -> None:
    """Likewise of the CPU's."""
    check_whole("threads", threads, 1, MOST_THREADS)


def check_length(seconds: float | None, fps: float | None) -> None:
    """Likewise of a clip's length and frame rate."""
    from ..geometry import FPS

    check_number("seconds", seconds, *SECONDS)
    check_number("fps", fps, *FPS)

"""The size of pictures as an option."""

from __future__ import annotations

import re

from ..shown import shown


def parse_size(text: str) -> tuple[int, int]:
    """``WIDTHxHEIGHT`` to height and width, pixels.

    Raises:
        ValueError: it is written in another way.
    """
    sides = re.fullmatch(r"(\d{1,5})x(\d{1,5})", text.strip().lower())
    if sides is None:
        raise ValueError(f"--size is WIDTHxHEIGHT in pixels, such as 64x64, got '{shown(text, 40)}'")
    return int(sides[2]), int(sides[1])

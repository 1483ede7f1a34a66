"""``--lora FILE[:STRENGTH]``: LoRAs for the model of a run, read and fitted before it is loaded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from ..config import HarmonyConfig
from ..inputs import is_file
from ..weights.lora import FittedLora, check_strength, load_lora, parameter_shapes

OPTION = "--lora"

Loras = tuple[tuple[FittedLora, float], ...]
"""Each with its strength."""


def parse_lora(text: str) -> tuple[Path, float]:
    """A file and a strength, 1 where none is given; a file whose name ends like one is a file.

    Raises:
        ValueError: the strength is out of range.
    """
    file, colon, number = text.rpartition(":")
    if not (colon and file) or is_file(Path(text)):
        return Path(text), 1.0
    try:
        strength = float(number)
    except ValueError:  # a drive's colon, say
        return Path(text), 1.0
    check_strength(strength, f"{OPTION} {text}: what follows the colon")
    return Path(file), strength


def read_loras(options: Sequence[str], config: HarmonyConfig, note: Callable[[str], None]) -> Loras:
    """Read and fit.

    Args:
        options: as they were given.
        config: of the model.
        note: told what of a file is not used.

    Raises:
        ValueError: a file is no LoRA for this model, or a strength is out of range.
    """
    parsed = [parse_lora(option) for option in options]
    shapes = parameter_shapes(config) if parsed else {}
    loras: list[tuple[FittedLora, float]] = []
    for path, strength in parsed:
        try:
            lora = load_lora(path, shapes)
        except ValueError as error:
            raise ValueError(f"{OPTION}: {error}") from error
        if lora.note:
            note(lora.note)
        loras.append((lora, strength))
    return tuple(loras)

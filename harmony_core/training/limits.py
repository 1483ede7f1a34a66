"""Checks of a config's numbers."""

from __future__ import annotations


def between(value: float, low: float, high: float, where: str) -> None:
    """Refuse a number outside of a range, by the name ``where``."""
    if not low <= value <= high:
        raise ValueError(f"{where} is {low:g} to {high:g}, got {value:g}")


def at_least(value: float, low: float, where: str) -> None:
    """Refuse a number below another."""
    if not value >= low:
        raise ValueError(f"{where} is at least {low:g}, got {value:g}")

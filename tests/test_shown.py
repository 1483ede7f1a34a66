"""What is put into a sentence is printable and short, whatever it is."""

import json
import logging
from pathlib import Path

import pytest

from harmony_core.shown import PATH_FACTOR, shown


def nested(depth: int) -> list:
    value: list = []
    for _ in range(depth):
        value = [value]
    return value


class Wild:
    def __repr__(self) -> str:
        raise RuntimeError("no repr")


HOSTILE = {
    "a lone surrogate": "a\ud800b",
    "a long text": "x" * 5000,
    "a long text of surrogates": "\udfff" * 5000,
    "line ends": "a\nb\r\n\u2028c",
    "control characters": "".join(map(chr, range(32))) + "\x7f\x9b",
    "direction marks": "\u202egnp.exe",
    "a huge number": 10**6000,
    "deep lists": nested(10_000),
    "a wide table": dict.fromkeys(range(1000), "x" * 1000),
    "an object without a repr": Wild(),
    "bytes": b"\x00" * 1000,
    "a path": Path("/a\ud800\n" + "x" * 5000),
    "an error": ValueError("a\nb\ud800" + "x" * 5000),
}


@pytest.mark.parametrize("value", HOSTILE.values(), ids=HOSTILE.keys())
def test_anything_is_printable_short_and_can_be_written(value: object) -> None:
    text = shown(value)
    assert text.isprintable()
    assert 0 < len(text) <= 80 * (PATH_FACTOR if isinstance(value, Path) else 1)
    text.encode()
    assert json.loads(json.dumps(text)) == text
    logging.getLogger(__name__).warning("%s", text)


@pytest.mark.parametrize("value", ["euler", "nǐ hǎo", "don't", 3, -1.5, float("nan"), None, [1, 2], True])
def test_what_is_short_and_printable_is_its_repr(value: object) -> None:
    assert shown(value) == repr(value)


def test_a_path_stands_as_it_reads() -> None:
    path = Path("/some/folder") / ("of a name " * 9) / "clip.safetensors"
    assert shown(path) == str(path)


def test_of_a_long_text_both_ends_are_left() -> None:
    text = shown("begin" + "x" * 5000 + "end")
    assert text.startswith("'begin")
    assert text.endswith("end'")
    assert "..." in text

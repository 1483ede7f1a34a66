"""What a benchmark asks for, item by item: three sets of our own, and readers for the public lists.

Ours (``harmony-bench.jsonl``) has the sets of Harmony-Bench: 50 *ambient* scenes (what is seen and what is heard), 50 of
*speech* (English and Chinese, a plain scene and a transcript) and 50 *complex* ones (both). They are written for this project.
Public lists are read from a path the user gives; none of them is part of this project.
"""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...records import check_fields, from_record

OWN = Path(__file__).parent / "harmony-bench.jsonl"
MOST_BYTES = 256 << 20
"""Of a list; the largest public one has some 10 MB."""

Record = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Item:
    """One clip that is asked for.

    Attributes:
        id: by which a clip belongs to it; a name of a file, without its ending.
        set: which part of the list it is in.
        video_caption: what is to be seen.
        audio_caption: what is to be heard, speech aside.
        transcript: what is to be said.
        language: of the transcript, as ``en`` or ``zh``; empty where nothing is said or the list does not tell.
        prompt: all of it as one text, where the list has one.
    """

    id: str
    set: str = ""
    video_caption: str = ""
    audio_caption: str = ""
    transcript: str = ""
    language: str = ""
    prompt: str = ""

    def __post_init__(self) -> None:
        check_fields(self, "item")
        if not self.id or Path(self.id).name != self.id:
            raise ValueError(f"an item's id is the name of a file, got {self.id[:80]!r}")


@dataclass(frozen=True)
class _Format:
    """How a public list writes an item.

    Attributes:
        name: of the list.
        keys: that each of its records has.
        items: of a record, its number in its file and the file's name.
    """

    name: str
    keys: frozenset[str]
    items: Callable[[Record, int, str], Iterator[Item]] = field(compare=False)


def read_items(path: str | Path) -> tuple[Item, ...]:
    """The items of a list.

    Args:
        path: our format, one JSON object a line; the JSON of T2AV-Compass, VABench, AVGen-Bench, Verse-Bench or PhyAVBench;
            the CSV of JavisBench; or a folder of such files.

    Raises:
        ValueError: it cannot be read, is of no known format, or two items have one id.
    """
    path = Path(path)
    files = sorted(p for p in path.iterdir() if p.suffix in {".json", ".jsonl", ".csv"}) if path.is_dir() else [path]
    if not files:
        raise ValueError(f"{path} holds no .json, .jsonl or .csv file")
    items = tuple(item for file in files for item in _read(file))
    twice = [name for name, count in Counter(item.id for item in items).items() if count > 1]
    if twice:
        raise ValueError(f"{path}: {len(twice)} ids stand there more than once, such as {twice[0][:80]!r}")
    return items


def _read(path: Path) -> list[Item]:
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ValueError(f"{path} is larger than {MOST_BYTES >> 20} MiB, no list of items")
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text") from error
    records = list(_records(path, text))
    if not records:
        raise ValueError(f"{path} lists no item")
    keys = frozenset(records[0][1])
    if path.suffix == ".jsonl" and keys <= set(Item.__dataclass_fields__):
        return [from_record(Item, dict(record), f"{path.name}, item {n}") for n, (_, record) in enumerate(records, 1)]
    known = next((form for form in FORMATS if form.keys <= keys), None)
    if known is None:
        raise ValueError(f"{path} is of no known format: its items have {', '.join(sorted(keys))[:120]}")
    found: list[Item] = []
    for n, (name, record) in enumerate(records):
        if not known.keys <= set(record):
            raise ValueError(f"{path}, item {n + 1} is not of {known.name}: it lacks {min(known.keys - set(record))}")
        found += known.items(record, n, name or path.stem)
    return found


def _records(path: Path, text: str) -> Iterator[tuple[str, Record]]:
    """All records with the name of the group they stand in, if any."""
    try:
        if path.suffix == ".csv":
            yield from (("", row) for row in csv.DictReader(io.StringIO(text)))
            return
        if path.suffix == ".jsonl":
            rows: Any = [json.loads(line) for line in text.splitlines() if line.strip()]
        else:
            rows = json.loads(text)
    except (ValueError, RecursionError, csv.Error) as error:
        raise ValueError(f"{path} cannot be read: {str(error)[:200]}") from error
    if isinstance(rows, dict):  # groups of items by name
        rows = [{**one, "_group": group, "_id": key} for group, part in _pairs(path, rows) for key, one in _pairs(path, part)]
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"{path} is no list of items")
    yield from ((str(row.pop("_group", "")), row) for row in rows)


def _pairs(path: Path, value: Any) -> Sequence[tuple[str, Any]]:
    if not isinstance(value, dict) or not all(isinstance(one, dict) for one in value.values()):
        raise ValueError(f"{path} is no list of items")
    return [(str(key), one) for key, one in value.items()]


def _spoken(value: Any) -> str:
    """A transcript: a text, a list of texts, or a list of speakers with theirs."""
    if isinstance(value, list):
        return " ".join(filter(None, map(_spoken, value)))
    if isinstance(value, dict):
        return str(value.get("text") or "")
    return "" if value is None else str(value)


def _by_three_prompts(record: Record, n: int, name: str) -> Iterator[Item]:
    """T2AV-Compass numbers its items, Verse-Bench names them within sets."""
    own = str(record.get("_id") or record.get("index") or n)
    yield Item(
        id=f"{name}-{own}",
        set=name,
        video_caption=_spoken(record["video_prompt"]),
        audio_caption=_spoken(record["audio_prompt"]),
        transcript=_spoken(record["speech_prompt"]),
        prompt=_spoken(record.get("prompt")),
    )


def _of_vabench(record: Record, n: int, name: str) -> Iterator[Item]:
    own = str(record.get("id") or n)
    seen, heard = _spoken(record["prompt_vision"]), _spoken(record["prompt_audio"])
    yield Item(id=f"{name}-{own}", set=name, video_caption=seen, audio_caption=heard, prompt=_spoken(record.get("prompt_en")))


def _of_avgen(record: Record, n: int, name: str) -> Iterator[Item]:
    yield Item(id=f"{name}-{n}", set=name, video_caption=_spoken(record["prompt"]), prompt=_spoken(record["prompt"]))


def _of_phyav(record: Record, n: int, name: str) -> Iterator[Item]:
    del n
    for side in ("a", "b"):
        text = _spoken(record[f"prompt_{side}"])
        yield Item(id=f"{record['id']}_{side}", set=name, video_caption=text, prompt=text)


def _of_javis(record: Record, n: int, name: str) -> Iterator[Item]:
    yield Item(id=f"sample_{n:04d}", set=name, video_caption=_spoken(record["text"]), prompt=_spoken(record["text"]))


FORMATS = (
    _Format("T2AV-Compass or Verse-Bench", frozenset({"video_prompt", "audio_prompt", "speech_prompt"}), _by_three_prompts),
    _Format("VABench", frozenset({"prompt_vision", "prompt_audio"}), _of_vabench),
    _Format("PhyAVBench", frozenset({"id", "prompt_a", "prompt_b"}), _of_phyav),
    _Format("AVGen-Bench", frozenset({"content", "prompt"}), _of_avgen),
    _Format("JavisBench", frozenset({"text"}), _of_javis),
)
"""The public lists, as they lay in their repositories in September 2026."""

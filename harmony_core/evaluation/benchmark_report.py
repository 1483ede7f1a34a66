"""Results as a table of text and as a page with players."""

from __future__ import annotations

import html
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..atomic import replacing
from .benchmark import Mean, Result, means

ALL = "all"
_STYLE = (
    "body{font:15px sans-serif;margin:2em}table{border-collapse:collapse}"
    "td{border:1px solid #ccc;padding:.3em .6em;vertical-align:top}video{width:16em}"
)


def by_set(results: Sequence[Result]) -> dict[str, dict[str, Mean]]:
    """Means of each set and of all items."""
    sets = dict.fromkeys(result.item.set for result in results)
    tables = {name: means([r for r in results if r.item.set == name]) for name in sets if len(sets) > 1}
    return {**tables, ALL: means(results)}


def table(tables: Mapping[str, Mapping[str, Mean]]) -> str:
    """Markdown: a row for each set, a column for each figure; half the width of the interval behind each."""
    names = list(dict.fromkeys(name for row in tables.values() for name in row))
    lines = ["| | n | " + " | ".join(names) + " |", "|" + "---|" * (len(names) + 2)]
    for label, row in tables.items():
        count = max((mean.count for mean in row.values()), default=0)
        lines.append(f"| {label} | {count} | " + " | ".join(_figure(row.get(name)) for name in names) + " |")
    return "\n".join(lines)


def write_page(path: Path, results: Sequence[Result], title: str) -> None:
    """A page with the table and every clip beside what was asked for.

    Raises:
        ValueError: it cannot be written.
    """
    rows = "".join(_row(result, path.parent) for result in results)
    name = html.escape(title)
    head = f"<!doctype html><meta charset=utf-8><title>{name}</title><style>{_STYLE}</style>"
    body = f"<h1>{name}</h1><table>{_html_table(by_set(results))}</table><h2>Clips</h2><table>{rows}</table>"
    with replacing(path) as temporary:
        temporary.write_text(head + body, encoding="utf-8")


def _figure(mean: Mean | None) -> str:
    return "" if mean is None else f"{mean.value:.3g} ± {(mean.high - mean.low) / 2:.2g}"


def _html_table(tables: Mapping[str, Mapping[str, Mean]]) -> str:
    lines = [line.strip("| ").split("|") for line in table(tables).splitlines()]
    del lines[1]
    cells = [[html.escape(cell.strip()) for cell in line] for line in lines]
    cells[0] = ["", *cells[0]]
    return "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in cells)


def _row(result: Result, folder: Path) -> str:
    asked = [result.item.video_caption, result.item.audio_caption, result.item.transcript]
    said = "<br>".join(html.escape(text) for text in asked if text)
    figures = "<br>".join(f"{html.escape(name)} {value:.3g}" for name, value in result.figures.items())
    shown = html.escape(result.error)
    if result.clip:
        source = html.escape(Path(os.path.relpath(result.clip, folder)).as_posix(), quote=True)
        shown = f'<video controls preload="none" src="{source}"></video>'
    return f"<tr><td>{html.escape(result.item.id)}</td><td>{shown}</td><td>{said}</td><td>{figures}</td></tr>"

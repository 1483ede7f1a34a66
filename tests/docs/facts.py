"""Brings what is told of the nodes up to date with their schemas, beside a ComfyUI checkout (COMFYUI_PATH).

``python tests/docs/facts.py`` rewrites ``locales/en/nodeDefs.json`` and, in every help page, the tables of inputs and outputs;
what people wrote in the pages stays. Translations are by hand: the tests name what they lack.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
HELP = ROOT / "js" / "docs"
LOCALES = ROOT / "locales"
INVISIBLE = "control_after_generate"
"""A widget that ComfyUI adds; it is translated but is no input."""


@dataclass(frozen=True, kw_only=True)
class Words:
    """What a help page says in its language.

    Attributes:
        sections: headings of inputs, outputs, example and mistakes.
        heads: of the tables: an input, its value, an output.
        none: where there are no inputs.
        values: words in the values of inputs, English to the language's.
    """

    sections: list[str]
    heads: list[str]
    none: str
    values: dict[str, str]


WORDS = {
    language: Words(**words)
    for language, words in json.loads(Path(__file__).with_name("words.json").read_text(encoding="utf-8")).items()
}
"""The languages help pages are in."""


def path_of(node: str, language: str) -> Path:
    """Where ComfyUI's page looks for a help page."""
    return HELP / f"{node}.md" if language == "en" else HELP / node / f"{language}.md"


def texts_of(language: str) -> dict[str, Any]:
    """What the nodes show in a language."""
    return json.loads((LOCALES / language / "nodeDefs.json").read_text(encoding="utf-8"))


def tables(texts: dict[str, Any], values: dict[str, str], words: Words) -> str:
    """A page's tables of inputs and outputs."""

    def said(value: str) -> str:
        for english, own in words.values.items():
            value = value.replace(english, own)
        return value

    rows = [f"| `{one}` | {said(values[one])} | {t['tooltip']} |" for one, t in texts["inputs"].items() if one != INVISIBLE]
    taken, value, given = words.heads
    told = [f"| {taken} | {value} | |", "|---|---|---|", *rows] if rows else [words.none]
    made = [f"| {one['name']} | {one['tooltip']} |" for one in texts["outputs"].values()]
    return "\n".join(["", *told, "", f"## {words.sections[1]}", "", f"| {given} | |", "|---|---|", *made, "", ""])


def page(old: str, texts: dict[str, Any], values: dict[str, str], words: Words) -> str:
    """A help page with its tables as the schema has them."""
    first, _, after, _ = (f"## {section}\n" for section in words.sections)
    before, rest = old.split(first)
    return before + first + tables(texts, values, words) + after + rest.split(after)[1]


def main() -> None:
    sys.path.insert(0, str(ROOT / "tests" / "helpers"))
    from comfyui import run_beside_comfy  # noqa: PLC0415 - from here on it is found

    found = run_beside_comfy(Path(__file__).with_name("beside_schemas.py"))
    english = json.dumps(found["texts"], ensure_ascii=False, indent=2) + "\n"
    (LOCALES / "en" / "nodeDefs.json").write_text(english, encoding="utf-8")
    for language, words in WORDS.items():
        texts = texts_of(language)
        for node, values in found["inputs"].items():
            path = path_of(node, language)
            if not path.is_file() or node not in texts or texts[node]["inputs"].keys() - {INVISIBLE} != values.keys():
                print(f"write first: {path.relative_to(ROOT)} and the node's texts in {language}")
                continue
            path.write_text(page(path.read_text(encoding="utf-8"), texts[node], values, words), encoding="utf-8")


if __name__ == "__main__":
    main()

"""Translations: each says all that English says, and nothing else."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from comfyui import run_beside_comfy

ROOT = Path(__file__).parents[2]
LOCALES = ROOT / "locales"
LANGUAGES = ("zh", "zh-TW", "ja", "ko", "ru", "fr", "es", "de")
FILES = ("nodeDefs.json", "settings.json", "commands.json")
NUMBER = re.compile(r"\d+(?:[.,]\d+)?")
VERBATIM = re.compile(r"harmony generate|--[a-z-]+|models/\w+|\((?:same|null|additive)\)|umT5|SyncCFG|harmony-tiny")
MARKUP = set("{}@|")
"""What ComfyUI's page reads as a place to fill in, a link to another text or a plural."""


def read(language: str, file: str) -> dict[str, Any]:
    return json.loads((LOCALES / language / file).read_text(encoding="utf-8"))


def flat(tree: dict[str, Any], path: tuple[str, ...] = ()) -> dict[tuple[str, ...], str]:
    """Every text by its place."""
    found = {}
    for key, value in tree.items():
        found |= flat(value, (*path, key)) if isinstance(value, dict) else {(*path, key): value}
    return found


def pairs(language: str, file: str) -> list[tuple[str, str]]:
    """English and translated texts."""
    english, translated = flat(read("en", file)), flat(read(language, file))
    return [(english[key], translated[key]) for key in english]


def numbers(text: str) -> set[float]:
    return {float(number.replace(",", ".")) for number in NUMBER.findall(text)}


def test_there_are_these_languages_and_no_others():
    assert {path.name for path in LOCALES.iterdir()} == {"en", *LANGUAGES}
    for language in ("en", *LANGUAGES):
        assert {path.name for path in (LOCALES / language).iterdir()} == set(FILES)


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("file", FILES)
def test_a_translation_has_every_text_and_no_other(language, file):
    assert flat(read(language, file)).keys() == flat(read("en", file)).keys()


@pytest.mark.parametrize("language", ["en", *LANGUAGES])
@pytest.mark.parametrize("file", FILES)
def test_texts_are_not_empty_and_hold_nothing_the_page_would_fill_in(language, file):
    for place, text in flat(read(language, file)).items():
        assert text.strip() == text != "", place
        assert not MARKUP & set(text), place


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("file", FILES)
def test_numbers_and_what_is_typed_stay_as_they_are(language, file):
    for english, translated in pairs(language, file):
        assert numbers(english) <= numbers(translated), (english, translated)
        said = {word.strip("()") for word in VERBATIM.findall(english)}
        assert {word for word in said if word not in translated} == set(), (english, translated)


@pytest.mark.parametrize("language", LANGUAGES)
def test_sentences_are_translated(language):
    sentences = [(e, t) for e, t in pairs(language, "nodeDefs.json") if e.endswith(".") and e != "For SamplerCustomAdvanced."]
    assert len(sentences) > 100
    assert [english for english, translated in sentences if english == translated] == []


@pytest.mark.parametrize("language", ["en", *LANGUAGES])
def test_nodes_have_names_of_their_own(language):
    names = [node["display_name"] for node in read(language, "nodeDefs.json").values()]
    assert len(set(names)) == len(names)
    assert all("Harmony" in name for name in names)


def test_english_settings_and_commands_are_those_of_the_page():
    page = (ROOT / "js" / "harmony.js").read_text(encoding="utf-8")
    ids = set(re.findall(r"^const \w+ = '(Harmony\.\w+)'", page, re.MULTILINE))
    settings, commands = read("en", "settings.json"), read("en", "commands.json")
    assert settings.keys() == {name.replace(".", "_") for name in ids}
    assert commands.keys() == {name.replace(".", "_") for name in re.findall(r"\{ id: '(Harmony\.\w+)', label", page)}
    for text in (flat(settings) | flat(commands)).values():
        assert f"'{text}'" in page, text


def test_english_is_what_the_schemas_say():
    found = run_beside_comfy(Path(__file__).with_name("beside_schemas.py"))
    assert found["texts"] == read("en", "nodeDefs.json"), "run python tests/docs/facts.py, then translate what is new"

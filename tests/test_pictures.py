"""The pictures of the documents and of ComfyUI's registry: whole, of the right sizes, and all of them used."""

import re
from pathlib import Path

import pytest
from comfyui import ROOT
from PIL import Image
from workflow_graphs import WORKFLOWS

FOLDER = ROOT / "docs" / "images"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LARGEST = 250_000
WIDGETS = {"player", "live-preview", "length", "transcript", "settings"}
REGISTRY = {"icon.png", "banner.png"}
"""Shown by ComfyUI's registry, by nothing here."""


def shots() -> list[Path]:
    return sorted(FOLDER.glob("*/*.webp"))


def test_the_registry_takes_the_icon_and_the_banner():
    with Image.open(FOLDER / "icon.png") as icon, Image.open(FOLDER / "banner.png") as banner:
        assert icon.format == banner.format == "PNG"
        assert icon.width == icon.height <= 400
        assert banner.width * 9 == banner.height * 21


def test_every_workflow_and_every_widget_has_its_picture():
    assert {path.stem for path in FOLDER.glob("workflows/*.webp")} == {one.script_name for one in WORKFLOWS}
    assert {path.stem for path in FOLDER.glob("widgets/*.webp")} == WIDGETS


@pytest.mark.parametrize("path", shots(), ids=lambda path: path.stem)
def test_a_picture_is_light_and_shows_something(path):
    assert path.stat().st_size < LARGEST
    with Image.open(path) as picture:
        assert picture.width <= 1400
        assert len(picture.convert("P", palette=Image.Palette.ADAPTIVE, colors=64).getcolors()) > 16


def test_every_picture_is_in_a_document_with_words_for_those_who_do_not_see_it():
    found = {}
    for page in PAGES:
        for words, target in re.findall(r"!\[([^\]]*)\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
            found[(page.parent / target).resolve()] = words
    assert all(len(words.split()) > 3 for words in found.values())
    files = {path for path in FOLDER.rglob("*") if path.is_file() and path.name not in REGISTRY}
    assert files == set(found)

"""Help pages: one a node, with the inputs and outputs it has, naming nothing that is not there."""

import importlib.util
import re
from pathlib import Path

import pytest
from comfyui import find_comfy, run_beside_comfy

spec = importlib.util.spec_from_file_location("facts", Path(__file__).with_name("facts.py"))
facts = importlib.util.module_from_spec(spec)
spec.loader.exec_module(facts)

NODES = facts.texts_of("en")
ROW = re.compile(r"^\| `(\w+)` \|", re.MULTILINE)
BOLD = re.compile(r"\*\*([^*]+)\*\*")
NAMED = re.compile(r"`([a-z]+(?:_[a-z]+)*)`")
TYPED = {"cfg", "wan", "additive", "keep", "free", "simple", "unipc", "uni_pc", "euler", "heun", "dpmpp_2m"}
TYPED |= {"sound", "speech", "face"}
"""Words in code that are values of inputs, or outputs of the demo media."""

every_page = pytest.mark.parametrize(("node", "language"), [(n, lang) for lang in facts.WORDS for n in NODES])


def written(node: str, language: str) -> str:
    return facts.path_of(node, language).read_text(encoding="utf-8")


def spoken(node: str, language: str) -> str:
    """The page without its tables, its lines joined."""
    return " ".join(line.strip() for line in written(node, language).splitlines() if not line.startswith("|"))


def names(language: str) -> set[str]:
    return {one["display_name"] for one in facts.texts_of(language).values()}


def test_every_node_has_its_pages_and_every_page_a_node():
    expected = {facts.path_of(node, language) for node in NODES for language in facts.WORDS}
    assert set(facts.HELP.rglob("*.md")) == expected


@every_page
def test_a_page_names_each_input_and_no_other(node, language):
    assert ROW.findall(written(node, language)) == [name for name in NODES[node]["inputs"] if name != facts.INVISIBLE]


@every_page
def test_a_page_has_its_title_and_every_section(node, language):
    text = written(node, language)
    assert text.startswith(f"# {facts.texts_of(language)[node]['display_name']}\n")
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == facts.WORDS[language].sections
    assert all(len(part.strip()) > 20 for part in text.split("\n## ")[-2:])


@every_page
def test_what_a_page_names_in_code_is_an_input_or_a_value(node, language):
    inputs = {name for one in NODES.values() for name in one["inputs"]}
    assert set(NAMED.findall(spoken(node, language))) - inputs - TYPED == set()


@every_page
def test_nodes_of_ours_that_a_page_names_exist(node, language):
    assert {name for name in BOLD.findall(spoken(node, language)) if "Harmony" in name} - names(language) == set()


def test_nodes_of_comfyui_that_pages_name_exist():
    root = find_comfy()
    code = "".join(path.read_text(encoding="utf-8") for path in [root / "nodes.py", *root.glob("comfy_extras/*.py")])
    named = {name for node in NODES for name in BOLD.findall(spoken(node, "en"))} - names("en")
    assert len(named) > 5
    assert {name for name in named if f'"{name}"' not in code} == set()


def test_tables_are_what_the_schemas_say():
    found = run_beside_comfy(Path(__file__).with_name("beside_schemas.py"))
    for language, words in facts.WORDS.items():
        for node, texts in facts.texts_of(language).items():
            text = written(node, language)
            assert facts.page(text, texts, found["inputs"][node], words) == text, f"{node}: run python tests/docs/facts.py"

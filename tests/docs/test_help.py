"""Help pages: one a node, with the inputs and outputs it has, naming nothing that is not there."""

import importlib.util
import json
import re
from pathlib import Path

import pytest
from browser import frontend
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

SHOWN = json.loads(Path(__file__).with_name("nodes.json").read_text(encoding="utf-8"))
"""What ComfyUI's page calls its own nodes, by language, as far as help pages name them."""
ENGLISH = {"the", "and", "of", "with", "from", "that", "this", "which", "what", "where", "it", "its", "for", "to"}
"""Words that English needs in every page and no other language here has."""
NUMBER = re.compile(r"\d+(?:[.,]\d+)?")
CODE = re.compile(r"`([^`]+)`")

every_page = pytest.mark.parametrize(("node", "language"), [(n, lang) for lang in facts.WORDS for n in NODES])
every_translation = pytest.mark.parametrize(
    ("node", "language"), [(n, lang) for lang in facts.WORDS if lang != "en" for n in NODES]
)
every_listed = pytest.mark.parametrize(("node", "language"), [(n, lang) for lang in SHOWN for n in NODES])


def written(node: str, language: str) -> str:
    return facts.path_of(node, language).read_text(encoding="utf-8")


def spoken(node: str, language: str) -> str:
    """The page without its tables, its lines joined."""
    return " ".join(line.strip() for line in written(node, language).splitlines() if not line.startswith("|"))


def prose(node: str, language: str) -> str:
    """What a page says in words of its language: without code and names of nodes."""
    return BOLD.sub(" ", CODE.sub(" ", spoken(node, language)))


def shape(text: str) -> list[tuple[str, int]]:
    """What a page is made of: headings, tables, lists of so many, paragraphs."""
    blocks = [block.strip() for block in text.split("\n\n")]
    return [(block[0], block.count("\n- ")) if block[0] in "#|-" else ("", 0) for block in blocks if block]


def numbers(text: str) -> set[float]:
    return {float(number.replace(",", ".")) for number in NUMBER.findall(text)}


def ours(node: str, language: str) -> set[str]:
    """The nodes of ours that a page names."""
    named = {one["display_name"]: other for other, one in facts.texts_of(language).items()}
    return {named[name] for name in BOLD.findall(spoken(node, language)) if name in named}


def theirs(node: str) -> set[str]:
    """The nodes of ComfyUI that the English page names."""
    return set(BOLD.findall(spoken(node, "en"))) - names("en")


def names(language: str) -> set[str]:
    return {one["display_name"] for one in facts.texts_of(language).values()}


def test_every_node_has_its_pages_and_every_page_a_node():
    expected = {facts.path_of(node, language) for node in NODES for language in facts.WORDS}
    assert set(facts.HELP.rglob("*.md")) == expected


def test_there_are_pages_in_every_language_of_the_nodes():
    assert set(facts.WORDS) == {path.name for path in facts.LOCALES.iterdir()}


@every_translation
def test_a_translated_page_is_not_left_in_english(node, language):
    words = set(re.findall(r"[^\W\d_]+", prose(node, language).lower()))
    assert words & ENGLISH == set()
    assert len(words - set(re.findall(r"[^\W\d_]+", prose(node, "en").lower()))) > 5


def test_english_pages_are_told_from_others():
    assert all(len(ENGLISH & set(prose(node, "en").lower().split())) > 4 for node in NODES)


@every_translation
def test_a_translated_page_says_what_english_says(node, language):
    given = {one["name"] for one in NODES[node]["outputs"].values()}
    assert set(CODE.findall(spoken(node, language))) - given == set(CODE.findall(spoken(node, "en"))) - given
    assert numbers(spoken(node, "en")) <= numbers(spoken(node, language))
    assert ours(node, language) == ours(node, "en")
    assert shape(written(node, language)) == shape(written(node, "en"))


@every_listed
def test_nodes_of_comfyui_have_the_names_its_page_shows(node, language):
    named = set(BOLD.findall(spoken(node, language))) - names(language)
    assert named == {SHOWN[language][name] for name in theirs(node)}


@pytest.mark.parametrize("language", SHOWN)
def test_names_of_comfyui_nodes_are_those_of_its_page(language):
    files = sorted((frontend() / "assets").glob("nodeDefs-*.js"))
    shown = [set(re.findall(r"display_name:[`\"']([^`\"']+)", file.read_text(encoding="utf-8"))) for file in files]
    assert len(shown) > 5
    assert any(set(SHOWN[language].values()) <= names for names in shown)


@every_listed
def test_names_are_shown_bold(node, language):
    text = spoken(node, language)
    for found in BOLD.finditer(text):
        before, after = text[: found.start()][-1:], text[found.end() :][:1]
        assert found[1][0].isalnum() or not before.isalnum(), found[0] + after
        assert found[1][-1].isalnum() or not after.isalnum(), found[0] + after


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

"""Documents: every command in them parses, every link and file in them is there, every node in them exists."""

import contextlib
import importlib
import io
import json
import re
import shlex
from pathlib import Path
from urllib.parse import unquote

import pytest
import yaml
from comfyui import find_comfy

from harmony_core.__main__ import COMMANDS, main
from harmony_core.cli.clip_request import check_options
from harmony_core.training.config import read_config

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("js/docs/**/*.md")])
LINK = re.compile(r"\]\(([^)\s]+)\)")
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"(?<!`)`([^`\n]+(?:\n[^`\n]+)?)`(?!`)")
OPTION = re.compile(r"--[a-z][a-z-]*")
NODE = re.compile(r"(?:Load |Save |Empty )?Harmony ")
OURS = re.compile(
    r"(?:harmony_core|nodes|tests|configs|docs|js|locales|workflows)/[\w./-]*\w|[A-Z]+\.md|LICENSE|(?:pyproject|Makefile)\w*"
)


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def arguments(line: str) -> list[str] | None:
    """What ``harmony`` is given in a line of a shell, None where the line is of something else."""
    words = shlex.split(line.replace("\\", "/"), comments=True)
    while words and "=" in words[0]:
        words = words[1:]
    if words and Path(words[0]).name == "harmony":
        return words[1:]
    if "harmony_core" in words[:5] and words[words.index("harmony_core") - 1] == "-m":
        return words[words.index("harmony_core") + 1 :]
    return None


def commands(text: str) -> list[list[str]]:
    """Those of a page's blocks of shell."""
    lines = [line for _, kind, block in FENCE.findall(text) if kind in {"sh", "bat"} for line in block.split("\n")]
    return [found for line in lines if (found := arguments(line)) is not None]


def mentions(text: str) -> list[str]:
    """Code inside the lines of a page."""
    return [" ".join(code.split()) for code in INLINE.findall(FENCE.sub("", text))]


def help_of(words: list[str]) -> str:
    """What ``--help`` of a command prints."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), pytest.raises(SystemExit) as stopped:
        main([*words, "--help"])
    assert stopped.value.code == 0, words
    return printed.getvalue()


@pytest.fixture
def parsed(monkeypatch):
    """Parses a command as the command line does, and does not run it."""
    seen = []
    for command in COMMANDS:
        monkeypatch.setattr(importlib.import_module(f"harmony_core.cli.{command}"), "run", seen.append)

    def parse(words):
        assert main(words) == 0, words
        return seen.pop()

    return parse


def test_there_are_commands_to_check():
    assert sum(len(commands(page.read_text(encoding="utf-8"))) for page in PAGES) > 30


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_in_blocks_parse(page, parsed):
    for words in commands(page.read_text(encoding="utf-8")):
        options = parsed(words)
        if words[0] == "generate":
            check_options(options)
        if words[0] == "train" and options.config.name != "CONFIG":
            read_config(ROOT / options.config)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_that_are_mentioned_have_the_options_named(page):
    for code in mentions(page.read_text(encoding="utf-8")):
        words = code.split()
        if words[0] != "harmony" or len(words) == 1 or words[1] in {"COMMAND", "--help"}:
            continue
        assert words[1] in COMMANDS, code
        sub = [words[2]] if words[1] == "bench" and len(words) > 2 else []
        options = set(OPTION.findall(help_of([words[1], *sub])))
        assert set(OPTION.findall(code)) <= options | {"--help"}, code


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page):
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        if not re.match(r"[a-z]+:", target):
            path = page.parent / unquote(target.split("#")[0]) if not target.startswith("#") else page
            assert path.exists(), target


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_files_that_are_named_are_there(page):
    for code in mentions(page.read_text(encoding="utf-8")):
        if OURS.fullmatch(code):
            assert (ROOT / code).exists(), code


@pytest.mark.parametrize("page", [page for page in PAGES if "js" not in page.parts], ids=name)
def test_nodes_that_are_named_exist(page):
    nodes = json.loads((ROOT / "locales" / "en" / "nodeDefs.json").read_text(encoding="utf-8"))
    names = {node["display_name"] for node in nodes.values()}
    bold = [" ".join(one.split()) for one in re.findall(r"\*\*([^*]+)\*\*", page.read_text(encoding="utf-8"))]
    assert {one for one in bold if NODE.match(one)} - names == set()


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_make_has_the_targets_named(page):
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    text = page.read_text(encoding="utf-8")
    named = {code.split()[1] for code in mentions(text) if re.fullmatch(r"make [a-z]+", code)}
    blocks = "\n".join(block for _, kind, block in FENCE.findall(text) if kind == "sh")
    assert named | set(re.findall(r"^ *make ([a-z]+)", blocks, re.MULTILINE)) <= targets


def test_every_page_of_docs_can_be_reached_from_the_readme():
    seen, ahead = set(), [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "docs" / "getting-started.md"]
    while ahead:
        page = ahead.pop().resolve()
        if page in seen or page.suffix != ".md":
            continue
        seen.add(page)
        targets = [target.split("#")[0] for target in LINK.findall(page.read_text(encoding="utf-8"))]
        ahead += [page.parent / unquote(target) for target in targets if target and not re.match(r"[a-z]+:", target)]
    pages = {page.resolve() for page in ROOT.glob("docs/*.md")}
    assert {name(page) for page in pages - seen} == set()


def test_workflows_of_the_forge_run_what_there_is():
    targets = (ROOT / "Makefile").read_text(encoding="utf-8")
    files = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
    assert [file.name for file in files] == ["publish.yml", "test.yml"]
    for file in files:
        jobs = yaml.safe_load(file.read_text(encoding="utf-8"))["jobs"]
        steps = [step for job in jobs.values() for step in job["steps"]]
        for run in [step["run"] for step in steps if "run" in step]:
            for target in re.findall(r"^make ([a-z ]+?)(?= [A-Z]|$)", run, re.MULTILINE):
                assert all(re.search(rf"^{one}:", targets, re.MULTILINE) for one in target.split()), target
            for path in re.findall(r"pytest [^\n]*?(tests/\S+)", run):
                assert (ROOT / path).exists(), path


def test_the_forge_tests_every_python_and_the_oldest_comfyui_that_is_claimed():
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text(encoding="utf-8"))["jobs"]
    pythons = jobs["core"]["strategy"]["matrix"]["python"]
    oldest = re.search(r'requires-python = ">=([\d.]+)"', project)
    assert pythons[0] == oldest[1] and "3.10 to 3.13" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert pythons == ["3.10", "3.11", "3.12", "3.13"]
    claimed = re.search(r'requires-comfyui = ">=([\d.]+)"', project)[1]
    assert f"v{claimed}" in jobs["comfyui"]["strategy"]["matrix"]["comfyui"]


def test_the_licence_is_the_same_everywhere():
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert re.search(r'^license = "Apache-2.0"$', project, re.MULTILINE)
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in text[:200] and "Version 2.0" in text[:200]
    assert "Apache-2.0" in (ROOT / "docs" / "getting-started.md").read_text(encoding="utf-8")


def test_what_the_pack_needs_comfyui_needs_too():
    def packages(file: Path) -> set[str]:
        return {re.match(r"[\w-]+", line)[0].lower() for line in file.read_text().splitlines() if line and line[0].isalnum()}

    assert packages(ROOT / "requirements.txt") <= packages(find_comfy() / "requirements.txt")

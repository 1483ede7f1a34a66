"""Keeps the graphs that this version of the pack saves, for the tests of all later ones: once before each release.

COMFYUI_PATH=... python tests/helpers/make_saved_graphs.py

It writes ``tests/nodes/fixtures/graphs/<version>``: every shipped workflow, and a graph with each node. The graphs of a version
that is in the CHANGELOG with its date are never written again.
"""

import argparse
import re
import shutil
import sys
import tempfile
from pathlib import Path

import pytest
from comfy_server import Server
from comfyui import ROOT
from saved_graphs import EVERY, FOLDER, SAVED_FILE, every_node, version
from workflow_files import files, paths, text
from workflow_graphs import WORKFLOWS


def user_files(base: Path) -> None:
    """What the nodes that read files of the user are to find; nothing reads what is in them."""
    for folder in ("input", "models/loras"):
        (base / folder).mkdir(parents=True, exist_ok=True)
        (base / folder / SAVED_FILE).touch()


def main() -> None:
    """The command line."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    folder = FOLDER / version()
    heading = rf"^## {re.escape(version())}(?!.*not released)"
    if folder.exists() and re.search(heading, (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE):
        sys.exit(f"{version()} is released, and its graphs stay as they are; raise the version in pyproject.toml first")
    with tempfile.TemporaryDirectory() as place:
        server = Server(Path(place) / "base")
        try:
            user_files(server.base)
            server.wait()
            kinds = server.get("/object_info")
        finally:
            server.stop()
    shutil.rmtree(folder, ignore_errors=True)
    for kind in ("api", "ui"):
        (folder / kind).mkdir(parents=True)
    for workflow in WORKFLOWS:
        for kind, path in zip(("api", "ui"), paths(workflow), strict=True):
            shutil.copyfile(path, folder / kind / f"{workflow.script_name}.json")
    made = files(every_node(kinds), kinds)
    for kind, values in (("api", made.api), ("ui", made.ui)):
        (folder / kind / f"{EVERY}.json").write_text(text(values), encoding="utf-8")
    print(f"{folder.relative_to(ROOT)}: {len(WORKFLOWS) + 1} graphs in two formats")


if __name__ == "__main__":
    try:
        main()
    except (pytest.skip.Exception, pytest.fail.Exception) as told:
        sys.exit(str(told))

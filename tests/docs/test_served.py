"""Help pages and translations as a real ComfyUI hands them to its page."""

import json
import urllib.request
from pathlib import Path

import pytest
from comfy_server import PACK, Server
from comfyui import find_comfy
from published import published

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    find_comfy()
    server = Server(tmp_path_factory.mktemp("served") / "base", copied=published())
    try:
        server.wait()
        yield server
    finally:
        server.stop()


def test_translations_arrive_whole(server):
    served = server.get("/i18n")
    for folder in sorted((ROOT / "locales").iterdir()):
        for file in folder.glob("*.json"):
            assert served[folder.name][file.stem] == json.loads(file.read_text(encoding="utf-8")), file


def test_help_pages_are_where_the_page_looks_for_them(server):
    folder = ROOT / "js" / "docs"
    pages = sorted(folder.rglob("*.md"))
    assert pages
    for path in pages:
        address = f"http://127.0.0.1:{server.port}/extensions/{PACK}/docs/{path.relative_to(folder).as_posix()}"
        with urllib.request.urlopen(address, timeout=60) as answer:
            assert "text/html" not in answer.headers["Content-Type"]  # which the page takes for no help
            assert answer.read().decode() == path.read_text(encoding="utf-8")

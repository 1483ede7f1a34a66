"""Graphs that earlier versions of the pack saved: they load as they were saved, by the API and on ComfyUI's page."""

import json

import pytest
from browser import browser, frontend, opened
from comfy_server import Server
from comfyui import find_comfy
from make_saved_graphs import user_files
from saved_graphs import EVERY, both, every_node, released, version
from workflow_files import WIDGETS, slots

# Playwright leaves its loop to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")

KEPT = {f"{folder.name}/{name}": graphs for folder in released() for name, graphs in both(folder).items()}
ONE = pytest.mark.parametrize("name", KEPT)
AGAIN = "run tests/helpers/make_saved_graphs.py"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    find_comfy()
    try:
        options = ("--front-end-root", str(frontend()))
    except pytest.skip.Exception:
        options = ()
    server = Server(tmp_path_factory.mktemp("saved") / "base", *options)
    try:
        user_files(server.base)
        server.wait()
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="module")
def kinds(server):
    return server.get("/object_info")


@pytest.fixture(scope="module")
def page(server):
    frontend()
    with browser() as running, opened(running, server) as page:
        yield page


def test_this_version_has_its_graphs():
    assert version() in {folder.name for folder in released()}, AGAIN
    assert f"{version()}/{EVERY}" in KEPT


def test_every_node_is_in_the_graphs_of_this_version(kinds):
    """Before a release, that is: afterwards a new node comes with a new version."""
    api, _ = KEPT[f"{version()}/{EVERY}"]
    ours = {kind for kind in kinds if kind.startswith("Harmony")}
    assert ours == {one["class_type"] for one in api.values() if one["class_type"].startswith("Harmony")}, AGAIN
    for kind in ours:
        known = {slot.name for slot in slots(kind, kinds)}
        saved = next(one["inputs"] for one in api.values() if one["class_type"] == kind)
        assert set(saved) == known, AGAIN


def test_no_widget_of_that_graph_could_be_taken_for_another(kinds):
    for kind, one in every_node(kinds).graph.items():
        numbers = [value for value in one["inputs"].values() if isinstance(value, int | float) and not isinstance(value, bool)]
        assert len(set(numbers)) == len(numbers), kind


@ONE
def test_a_saved_graph_has_what_its_nodes_need_and_nothing_they_do_not_know(kinds, name):
    api, _ = KEPT[name]
    for one in api.values():
        if not one["class_type"].startswith("Harmony"):
            continue
        known = {slot.name: slot for slot in slots(one["class_type"], kinds)}
        assert {slot.name for slot in known.values() if not slot.optional} <= set(one["inputs"]) <= set(known)
        for given, value in one["inputs"].items():
            if isinstance(value, list):
                source = kinds[api[value[0]]["class_type"]]
                assert source["output"][value[1]] == known[given].kind, given
            else:
                assert known[given].kind in WIDGETS, given


@ONE
def test_a_saved_graph_is_queued(server, name):
    api, _ = KEPT[name]
    answer = json.loads(server.post("/prompt", {"prompt": api}))
    server.post("/queue", {"clear": True})
    server.post("/interrupt", {})
    assert answer["prompt_id"]
    assert answer["node_errors"] == {}


@ONE
def test_a_saved_graph_opens_with_its_values_in_their_places(page, name):
    """What the page would queue is what was saved; only inputs that are new are added."""
    api, ui = KEPT[name]
    assert page.show(ui) == {"unknown": [], "red": [], "dialogs": []}
    queued = page.prompt()["output"]
    assert queued.keys() == api.keys()
    for key, one in api.items():
        assert queued[key]["class_type"] == one["class_type"]
        assert {given: queued[key]["inputs"].get(given) for given in one["inputs"]} == one["inputs"], one["class_type"]
    assert page.errors == []

"""A stranger's way from a checkout to the first clip: one command, then clicks alone, in a browser that has never been here.

``pytest -s tests/browser/test_first_clip.py`` prints how many clicks it takes, and how long each part of the way.
"""

import json
import os
import time
import urllib.request

import pytest
from browser import OPTIONS, START_MILLISECONDS, chromium, frontend, playwright
from comfyui import check_imports, find_comfy, find_python
from made import Made, checkout_like

# Playwright leaves its loop to the garbage collector.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.skipif(os.name != "posix", reason="make is not to be had here"),
]
WORKFLOW = "Harmony - text to audio-video"
PACK = "harmony-av"
CLICKS = 3
"""The pack among the templates, the workflow, Run."""
RUN_SECONDS = 900


class Stranger:
    """Somebody who sees a page and clicks on what it says.

    Attributes:
        clicks: so far.
    """

    def __init__(self, page) -> None:
        self.page, self.clicks = page, 0

    def click(self, what) -> None:
        """Click on something once it is there."""
        what.first.click(timeout=START_MILLISECONDS)
        self.clicks += 1


@pytest.fixture
def made(tmp_path):
    root = find_comfy()
    check_imports(root, find_python(root))
    chromium()
    made = Made(checkout_like(root, tmp_path / "ComfyUI"), tmp_path / "log", "--port 8288", f"--front-end-root {frontend()}")
    try:
        yield made
    finally:
        made.stop()


def finished(address: str) -> list[dict]:
    """What has been run, with what came out."""
    with urllib.request.urlopen(f"{address}/history", timeout=60) as answer:  # noqa: S310 - loopback
        return [one for one in json.load(answer).values() if one["status"]["completed"]]


def test_one_command_and_a_few_clicks_make_a_clip(made):
    began = time.monotonic()
    address = made.address()
    started = time.monotonic()
    with playwright().sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium(), args=OPTIONS)
        try:
            page = browser.new_context(viewport={"width": 1400, "height": 1000}).new_page()
            page.goto(address, timeout=START_MILLISECONDS)
            page.wait_for_function("window.app?.canvas?.graph", timeout=START_MILLISECONDS)
            opened = time.monotonic()
            stranger = Stranger(page)
            to_the_workflow(stranger)
            stranger.click(page.get_by_test_id("queue-button"))
            clicked = time.monotonic()
            while not (done := finished(address)):
                assert time.monotonic() - clicked < RUN_SECONDS
                time.sleep(0.2)
            ended = time.monotonic()
        finally:
            browser.close()
    (one,) = done
    files = [file["filename"] for output in one["outputs"].values() for file in output.get("images", [])]
    assert [name for name in files if name.endswith(".mp4")], one["outputs"]
    assert stranger.clicks == CLICKS
    parts = {"ComfyUI starts": started - began, "its page opens": opened - started, "clicks": clicked - opened}
    parts["the clip is made"] = ended - clicked
    print(f"\n{stranger.clicks} clicks")
    for name, seconds in parts.items():
        print(f"{name}: {seconds:.0f} s, {seconds / (ended - began):.0%}")


def to_the_workflow(stranger: Stranger) -> None:
    """From the first page, on which ComfyUI opens its templates by itself, to the workflow."""
    page = stranger.page
    stranger.click(page.get_by_role("dialog").get_by_text(PACK, exact=True))
    stranger.click(page.get_by_test_id(f"template-workflow-{WORKFLOW}"))
    page.wait_for_function("app.graph.nodes.some((one) => one.type === 'HarmonyKSampler')", timeout=START_MILLISECONDS)

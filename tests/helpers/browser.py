"""ComfyUI's page in a headless Chromium."""

import importlib.util
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from comfy_server import Server
from comfyui import find_comfy, find_python

OPTIONS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--autoplay-policy=no-user-gesture-required",
]
NEWCOMER = {"Comfy.TutorialCompleted": True, "Comfy.Workflow.Persist": False}
"""Settings of somebody who has seen the page before."""
START_MILLISECONDS = 600_000


def frontend() -> Path:
    """The page's files: of ComfyUI's environment, else of this one; skips the test where they are not installed."""
    asked = "import comfyui_frontend_package as p; print(p.__path__[0])"
    command = [find_python(find_comfy()), "-c", asked]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return Path(done.stdout.strip()) / "static"
    own = importlib.util.find_spec("comfyui_frontend_package")
    if own is None or own.origin is None:
        pytest.skip("comfyui-frontend-package is installed neither where ComfyUI runs nor here")
    return Path(own.origin).parent / "static"


def playwright() -> Any:
    """What drives the browser; skips the test where it is not installed."""
    return pytest.importorskip("playwright.sync_api", reason="playwright is not installed")


def chromium() -> str:
    """The browser; skips the test where there is none, or nothing to drive it with."""
    playwright()
    found = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if not found:
        pytest.skip("there is no chromium; install it, or name it by CHROMIUM")
    return found


_WRONG = """() => {
    const wrong = (one) => (one.widgets ?? []).filter((widget) => {
        const values = widget.options?.values
        return Array.isArray(values) && one.mode !== 2 && !values.includes(widget.value)
    })
    return {
        unknown: app.graph.nodes.filter((one) => !LiteGraph.registered_node_types[one.type]).map((one) => one.type),
        red: app.graph.nodes.filter((one) => one.has_errors || wrong(one).length).map((one) => one.type),
        dialogs: [...document.querySelectorAll('[role=dialog]')].map((one) => one.innerText),
    }
}"""


class Page:
    """The page, and what goes wrong in it.

    Attributes:
        page: Playwright's.
        errors: what the page's console called an error, since it was opened.
    """

    RED_SECONDS = 60

    def __init__(self, page: Any, port: int) -> None:
        self.page, self.errors = page, []
        self._asked: set[Any] = set()
        self._address = f"http://127.0.0.1:{port}/"
        page.set_default_timeout(60_000)
        page.on("console", self._on_console)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("request", self._on_question)
        for end in ("requestfinished", "requestfailed"):
            page.on(end, self._on_answer)

    def _on_console(self, message: Any) -> None:
        where = message.location.get("url", "")
        # The page asks for files of the user that a new user has not.
        missing = "/userdata" in where or where.endswith("/user.css")
        # It complains so of those who look whether it is there.
        early = "graph accessed before initialization" in message.text
        # It asks the publisher of the models of the graph it starts with, ComfyUI's own, about them.
        published = "missingModelMetadata" in where and "/z_image_turbo/" in message.text
        if message.type == "error" and not (missing or early or published) and where.startswith(self._address):
            self.errors.append(f"{message.text} ({where})")
        if message.text.startswith("Harmony:"):
            self.errors.append(message.text)

    def _on_question(self, asked: Any) -> None:
        self._asked.add(asked)

    def _on_answer(self, asked: Any) -> None:
        self._asked.discard(asked)

    def open(self) -> None:
        """Until there is a graph, and all is there that the page asks for when it starts."""
        self.page.goto(self._address, timeout=START_MILLISECONDS)
        self.page.wait_for_function("window.app?.canvas?.graph", timeout=START_MILLISECONDS)
        self.settle()

    def settle(self) -> None:
        """Wait until the page has drawn and been idle twice without waiting for an answer: however long that takes."""
        quiet, end = 0, time.monotonic() + START_MILLISECONDS / 1000
        while quiet < 2:
            self.page.evaluate(
                "() => new Promise((done) => requestAnimationFrame(() => requestIdleCallback(() => done(), {timeout: 5000})))"
            )
            # A player keeps its answer open for as long as it likes.
            quiet = 0 if any(one.resource_type != "media" for one in self._asked) else quiet + 1
            assert time.monotonic() < end, f"the page waits for {[one.url for one in self._asked]}"

    def show(self, graph: dict[str, Any]) -> dict[str, list[str]]:
        """Open a graph as it was saved, and wait until nothing of it is red any more, or is so for good.

        Returns:
            The nodes the page does not know, those it shows red, and what it complains of.
        """
        self.page.evaluate("(graph) => app.loadGraphData(graph, true, true, null)", graph)
        end = time.monotonic() + self.RED_SECONDS
        while True:
            self.settle()
            wrong = self.page.evaluate(_WRONG)
            if not wrong["unknown"] + wrong["red"] or time.monotonic() > end:
                return wrong

    def load(self, graph: dict[str, Any]) -> None:
        """A graph in API format, in the place of what is there; its nodes are known by their names there."""
        self.page.evaluate(
            """async (graph) => {
                app.graph.clear()
                await app.loadApiJson(graph, 'test')
            }""",
            graph,
        )
        self.settle()

    def prompt(self) -> dict[str, Any]:
        """What would be queued now, and what would be saved."""
        return self.page.evaluate("async () => JSON.parse(JSON.stringify(await app.graphToPrompt()))")

    def look_at(self, kind: str) -> None:
        """Put the node of a kind where the whole of it is seen."""
        self.page.evaluate(
            """(kind) => {
                const node = app.graph._nodes.find((one) => one.comfyClass === kind)
                app.canvas.ds.scale = 1
                app.canvas.ds.offset = [200 - node.pos[0], 120 - node.pos[1]]
                app.canvas.setDirty(true, true)
            }""",
            kind,
        )
        self.settle()

    def run(self) -> None:
        """Queue the graph and wait for its end."""
        self.page.evaluate(
            """async () => {
                const end = new Promise((done, fail) => {
                    app.api.addEventListener('execution_success', () => done(), {once: true})
                    const failed = ({detail}) => fail(Error(detail.exception_message))
                    app.api.addEventListener('execution_error', failed, {once: true})
                })
                const started = await app.queuePrompt(0, 1)
                if (!started) throw Error('the page did not queue the graph')
                await end
            }"""
        )
        self.settle()


@contextmanager
def browser() -> Iterator[Any]:
    """A browser; there is one at a time."""
    path = chromium()
    with playwright().sync_playwright() as play:
        running = play.chromium.launch(executable_path=path, args=OPTIONS)
        try:
            yield running
        finally:
            running.close()


@contextmanager
def opened(running: Any, server: Server, *, width: int = 1400, **settings: Any) -> Iterator[Page]:
    """The page of a server in a browser, with some of its settings changed."""
    for name, value in (NEWCOMER | settings).items():
        server.post(f"/settings/{name}", value)
    context = running.new_context(viewport={"width": width, "height": 1000})
    try:
        page = Page(context.new_page(), server.port)
        page.open()
        yield page
    finally:
        context.close()

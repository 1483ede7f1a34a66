"""Writes the pictures of ComfyUI's page that documents show: each shipped workflow after a run, and each widget of the pack.

COMFYUI_PATH=... python tests/helpers/make_screenshots.py [NAME ...]

Without names all of them are made. It starts a ComfyUI of its own and a headless Chromium.
"""

import argparse
import io
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from browser import Page, browser, frontend, opened
from comfy_server import PACK, Server
from comfyui import ROOT
from PIL import Image
from workflow_graphs import WORKFLOWS, Workflow

FOLDER = ROOT / "docs" / "images"
WIDTH = 1400
"""Of a workflow's picture, pixels."""
LARGEST = 250_000
"""Bytes of a picture."""
QUALITIES = (88, 80, 72, 64, 56)
ZOOM = 1.6
"""Of a widget's picture."""
MARGIN = 24
LEFT, TOP, BOTTOM = 80, 110, 90
"""Of the page's menus."""
ALL_SHOWN = """() => {
    const kinds = app.graph.nodes.filter((one) => one.mode !== 2).map((one) => one.type)
    const wanted = kinds.filter((kind) => kind === 'SaveVideo' || kind === 'HarmonySyncReport').length
    return [...document.querySelectorAll('video')].filter((video) => video.readyState >= 2).length >= wanted
}"""
"""Whether every video of the graph can be seen."""
SETTINGS = {"Comfy.Minimap.Visible": False}
RUN_MILLISECONDS, SHOWN_MILLISECONDS = 1_800_000, 5000
TRIES = 5
MOMENT = 0.9
"""Of the clips, seconds: the first picture is often a closed mouth."""
ORDER = ["text-to-audio-video", "upscale-and-interpolate", "new-sound-for-seconds-1-to-2", "synccfg-off-and-on"]
"""These share a clip, which ComfyUI keeps from one run to the next."""
TEXT = WORKFLOWS[0]


@dataclass(frozen=True)
class Box:
    """A part of the canvas, in its own units."""

    x: float
    y: float
    width: float
    height: float


def save(shot: bytes, path: Path, width: int | None = None) -> None:
    """Write a picture as WebP, as good as its largest size allows, and no wider than asked for."""
    picture = Image.open(io.BytesIO(shot)).convert("RGB")
    if width is not None and picture.width > width:
        picture = picture.resize((width, round(picture.height * width / picture.width)), Image.Resampling.LANCZOS)
    for quality in QUALITIES:
        made = io.BytesIO()
        picture.save(made, "WEBP", quality=quality, method=6)
        if len(made.getvalue()) < LARGEST:
            break
    else:
        raise SystemExit(f"{path.name} does not fit into {LARGEST} bytes")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(made.getvalue())
    print(f"{path.relative_to(ROOT)}: {picture.width} x {picture.height}, {len(made.getvalue()) // 1000} kB", flush=True)


def open_workflow(page: Page, workflow: Workflow) -> None:
    """As the template browser opens it."""
    page.page.evaluate(
        """async (place) => {
            const graph = await (await fetch(app.api.apiURL('/' + place))).json()
            await app.loadGraphData(graph, true, true, null)
            await new Promise((done) => setTimeout(done, 1500))
        }""",
        f"workflow_templates/{PACK}/{workflow.name}.json",
    )


def whole(page: Page) -> Box:
    """Around all groups."""
    x, y, right, bottom = page.page.evaluate(
        """() => {
            const boxes = app.graph.groups.map(({pos, size}) => [pos[0], pos[1], pos[0] + size[0], pos[1] + size[1]])
            const ends = (i, pick) => pick(...boxes.map((box) => box[i]))
            return [ends(0, Math.min), ends(1, Math.min), ends(2, Math.max), ends(3, Math.max)]
        }"""
    )
    return Box(x, y, right - x, bottom - y)


def around(page: Page, kind: str) -> Box:
    """Around the first node of a kind, its title with it."""
    box = page.page.evaluate(
        """(kind) => {
            const {pos, size} = app.graph.nodes.find((one) => one.type === kind)
            return [pos[0], pos[1] - 32, size[0], size[1] + 32]
        }""",
        kind,
    )
    return Box(*box)


def show(page: Page, box: Box, scale: float) -> dict[str, float]:
    """Put a part of the canvas into the window, clear of the page's own menus; where it is there."""
    width, height = box.width * scale + 2 * MARGIN, box.height * scale + 2 * MARGIN
    page.page.set_viewport_size({"width": round(width) + LEFT + MARGIN, "height": round(height) + TOP + BOTTOM})
    page.page.evaluate(
        """([x, y, scale]) => {
            app.canvas.ds.scale = scale
            app.canvas.ds.offset = [x, y]
            app.canvas.deselectAll?.()
            app.canvas.setDirty(true, true)
        }""",
        [(LEFT + MARGIN) / scale - box.x, (TOP + MARGIN) / scale - box.y, scale],
    )
    page.page.wait_for_timeout(1500)
    return {"x": LEFT, "y": TOP, "width": width, "height": height}


def shoot(page: Page, box: Box, scale: float) -> bytes:
    """A picture of a part of the canvas."""
    return page.page.screenshot(clip=show(page, box, scale))


def take_node(page: Page, kind: str, path: Path) -> None:
    """A picture of a node."""
    save(shoot(page, around(page, kind), ZOOM), path)


def take_workflow(page: Page, workflow: Workflow) -> None:
    """Open it, run it, and show all of it."""
    open_workflow(page, workflow)
    page.page.set_default_timeout(RUN_MILLISECONDS)
    box = whole(page)
    scale = min(2.0, max(0.7, 1.5 * WIDTH / box.width))
    for _ in range(TRIES):
        # The page gives a video up that does not load in time. ComfyUI has kept what it made: another run only shows it again.
        page.run()
        show(page, box, scale)
        page.page.wait_for_timeout(SHOWN_MILLISECONDS)
        if page.page.evaluate(ALL_SHOWN):
            break
    else:
        raise SystemExit(f"{workflow.name}: the page does not show every video")
    page.page.evaluate(f"document.querySelectorAll('video').forEach((video) => {{ video.currentTime = {MOMENT} }})")
    save(shoot(page, box, scale), FOLDER / "workflows" / f"{workflow.script_name}.webp", WIDTH)


def take_preview(page: Page) -> None:
    """The sampler while it samples: late enough for something to be seen."""
    open_workflow(page, TEXT)
    page.page.evaluate(
        """() => {
            app.graph.nodes.filter((one) => one.type === 'MarkdownNote').forEach((one) => app.graph.remove(one))
            window.late = 0
            app.api.addEventListener('harmony.preview', ({detail}) => { window.late = detail.step / detail.steps })
            const sampler = app.graph.nodes.find((one) => one.type === 'HarmonyKSampler')
            const seed = sampler.widgets.find((one) => one.name === 'seed')
            seed.value = 3  // what was sampled before would not be shown
            app.queuePrompt(0, 1)
        }"""
    )
    page.page.wait_for_function("window.late > 0.7", timeout=RUN_MILLISECONDS)
    take_node(page, "HarmonyKSampler", FOLDER / "widgets" / "live-preview.webp")
    page.page.evaluate("app.api.interrupt()")
    page.page.wait_for_timeout(5000)


def take_nodes(page: Page) -> None:
    """The widgets that stay on their nodes after a run of the first workflow."""
    open_workflow(page, TEXT)
    page.page.set_default_timeout(RUN_MILLISECONDS)
    page.run()
    page.page.wait_for_function("document.querySelector('.harmony-player video')?.readyState >= 2")
    page.page.evaluate(f"document.querySelector('.harmony-player video').currentTime = {MOMENT}")
    page.page.wait_for_timeout(1500)
    take_node(page, "HarmonySyncReport", FOLDER / "widgets" / "player.webp")
    take_node(page, "HarmonyEmptyLatent", FOLDER / "widgets" / "length.webp")
    take_node(page, "HarmonyEncode", FOLDER / "widgets" / "transcript.webp")


def take_settings(page: Page) -> None:
    """The pack's part of ComfyUI's settings."""
    page.page.set_viewport_size({"width": 1200, "height": 800})
    page.page.evaluate("app.extensionManager.command.execute('Comfy.ShowSettingsDialog')")
    page.page.set_default_timeout(60_000)
    dialog = page.page.get_by_role("dialog").first
    dialog.get_by_text("Harmony", exact=True).first.click()
    page.page.wait_for_timeout(1500)
    save(dialog.screenshot(), FOLDER / "widgets" / "settings.webp", 1200)
    page.page.keyboard.press("Escape")


def pictures() -> dict[str, Callable[[Page], None]]:
    """What can be made, by name."""
    names = [workflow.script_name for workflow in WORKFLOWS]
    ordered = sorted(WORKFLOWS, key=lambda one: (ORDER + names).index(one.script_name))
    made: dict[str, Callable[[Page], None]] = {
        one.script_name: (lambda page, one=one: take_workflow(page, one)) for one in ordered
    }
    return {"settings": take_settings, "widgets": take_nodes, **made, "live-preview": take_preview}


def main() -> None:
    """The command line."""
    known = pictures()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(known))
    wanted = parser.parse_args().names or list(known)
    if unknown := set(wanted) - set(known):
        parser.error(f"there is no {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder) / "base", "--front-end-root", str(frontend()))
        try:
            server.wait()
            with browser() as running, opened(running, server, width=WIDTH, **SETTINGS) as page:
                for name in [name for name in known if name in wanted]:
                    started = time.monotonic()
                    known[name](page)
                    print(f"  {name}: {time.monotonic() - started:.0f} s", flush=True)
                for error in page.errors:
                    print(f"the page said: {error}", flush=True)
        finally:
            server.stop()


if __name__ == "__main__":
    try:
        main()
    except (pytest.skip.Exception, pytest.fail.Exception) as told:
        sys.exit(str(told))

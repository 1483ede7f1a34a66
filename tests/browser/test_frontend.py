"""The pack's part of ComfyUI's page, in a real browser on a real ComfyUI."""

import json
import urllib.request
from pathlib import Path
from urllib.parse import urlencode

import pytest
from all_in_one import save_all_in_one
from bounces import FPS, bouncing, clicks
from browser import Page, browser, chromium, frontend, opened
from comfy_server import Server
from comfyui import find_comfy
from graphs import SAMPLING, node
from safetensors.torch import save_file

from harmony_core.geometry import ClipSpec, Grid
from harmony_core.measure.sync import measure_sync

# Playwright leaves its loop to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")

CHECKPOINT = "small.safetensors"
GRID = Grid(patch=1)
"""Of that checkpoint."""
LATE = 0.06
WIDGETS = {"harmony_player", "harmony_length", "harmony_transcript", "harmony_preview"}
STEPS = 6


@pytest.fixture(scope="module")
def clip():
    """Pictures (F, 3, H, W) and sound whose events are known."""
    return bouncing((90, 160)), clicks(rate=44_100, channels=2, late=LATE)


@pytest.fixture(scope="module")
def server(tmp_path_factory, clip):
    find_comfy()
    chromium()
    server = Server(tmp_path_factory.mktemp("page") / "base", "--front-end-root", str(frontend()))
    try:
        save_all_in_one(server.base / "models" / "checkpoints" / CHECKPOINT)
        pictures, sound = clip
        given = {"images": pictures.movedim(1, -1).contiguous(), "wave": sound.waveform.contiguous()}
        save_file(given, server.base / "input" / "clip.safetensors")
        server.wait()
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="module")
def running():
    with browser() as running:
        yield running


def graph(seed: int = 0) -> dict:
    told = {"picture": "a ball", "sound": "knock", "transcript": "abc", "language": "automatic", "one_caption": False}
    told |= {"voice_start": 0.0, "voice_seconds": 3.0}
    return {
        "1": node("HarmonyLoadCheckpoint", checkpoint=CHECKPOINT, weight_dtype="default"),
        "2": node("HarmonyEncode", model=["1", 0], clip=["1", 1], **told),
        "3": node("HarmonyEmptyLatent", model=["1", 0], seconds=0.5417, width=48, height=32, fps=24.0, batch=1),
        "4": node(
            "HarmonyKSampler",
            model=["1", 0],
            positive=["2", 0],
            latent=["3", 0],
            **SAMPLING | {"seed": seed, "steps": STEPS, "sync_video": 1.0, "sync_audio": 1.0},
        ),
        "5": node("ProbeInputs", file="clip.safetensors", frames=1000, rate=44_100),
        "6": node("HarmonySyncReport", images=["5", 0], audio=["5", 1], fps=FPS),
        "7": node("HarmonySaveLatent", latent=["4", 0], filename_prefix="latents/page"),
    }


@pytest.fixture(scope="module", params=["canvas", "dom"])
def page(request, running, server):
    """The page in both of its ways to draw nodes, with the graph in it; the report has run."""
    with opened(running, server, **{"Comfy.VueNodes.Enabled": request.param == "dom"}) as page:
        # What was sampled before is cached, and not shown.
        page.load(graph(seed=request.param_index))
        page.page.evaluate("window.steps = []; app.api.addEventListener('harmony.preview', (e) => steps.push(e.detail))")
        page.run()
        page.look_at("HarmonySyncReport")
        page.page.wait_for_selector(".harmony-player video")
        page.page.wait_for_function("document.querySelector('.harmony-player video').readyState >= 2")
        yield page


@pytest.fixture(autouse=True)
def _nothing_goes_wrong(request):
    yield
    if "page" in request.fixturenames:
        assert request.getfixturevalue("page").errors == []


def player(page: Page, script: str):
    """What a script says of the player; ``video`` and ``root`` are its elements."""
    elements = "const root = document.querySelector('.harmony-player'), video = root.querySelector('video')"
    return page.page.evaluate(f"async () => {{ {elements}; {script} }}")


def set_widget(page: Page, kind: str, name: str, value) -> None:
    """As a user does: the value, then its callback."""
    page.page.evaluate(
        """([kind, name, value]) => {
            const widget = app.graph._nodes.find((n) => n.comfyClass === kind).widgets.find((w) => w.name === name)
            widget.value = value
            widget.callback?.(value, app.canvas)
        }""",
        [kind, name, value],
    )


def shown(page: Page, kind: str, name: str):
    """What a helper found, once it is there."""
    script = """([kind, name]) => {
        const node = app.graph._nodes.find((n) => n.comfyClass === kind)
        return node.widgets.find((w) => w.name === name)?.harmony ?? null
    }"""
    return page.page.wait_for_function(script, arg=[kind, name]).json_value()


def widget(page: Page, kind: str, name: str):
    return page.page.evaluate(
        "([kind, name]) => app.graph._nodes.find((n) => n.comfyClass === kind).widgets.find((w) => w.name === name).value",
        [kind, name],
    )


# ---- the player


def test_it_plays_with_sound(page):
    player(page, "video.currentTime = 0; await video.play()")
    # A slow machine may have come round to the start again: what counts is how much of it was played.
    played = "(({played}) => [...Array(played.length).keys()].reduce((sum, i) => sum + played.end(i) - played.start(i), 0))"
    page.page.wait_for_function(f"{played}(document.querySelector('.harmony-player video')) > 0.3")
    asked = "video.pause(); return [video.webkitAudioDecodedByteCount, video.muted ? 0 : video.volume]"
    decoded, volume = player(page, asked)
    assert decoded > 0
    assert volume == 1


def test_it_is_as_long_as_the_clip(page, clip):
    pictures, _ = clip
    assert player(page, "return video.duration") == pytest.approx(len(pictures) / FPS, abs=0.05)


def test_marks_are_where_the_events_are(page, clip):
    pictures, sound = clip
    found = measure_sync(pictures, sound, FPS)
    assert len(found.seen) > 3
    for kind, events in (("seen", found.seen), ("heard", found.heard)):
        box, marks = player(
            page,
            f"""const box = root.querySelector('.harmony-line').getBoundingClientRect()
                const marks = [...root.querySelectorAll('.harmony-{kind} .harmony-mark')].map((mark) => {{
                    const {{left, width}} = mark.getBoundingClientRect()
                    return left + width / 2
                }})
                return [[box.left, box.width], marks]""",
        )
        left, width = box
        places = [(x - left) / width * found.seconds for x in marks]
        assert places == pytest.approx(events.times.tolist(), abs=1.5 * found.seconds / width)


def test_matched_events_are_drawn_so_and_joined(page, clip):
    found = measure_sync(*clip, FPS)
    pairs = found.events.pairs
    assert player(page, "return root.querySelectorAll('.harmony-joins line').length") == len(pairs)
    assert player(page, "return root.querySelectorAll('.harmony-seen .is-matched').length") == len(pairs)
    alone = len(found.seen) + len(found.heard) - 2 * len(pairs)
    assert player(page, "return root.querySelectorAll('.is-alone.harmony-mark').length") == alone


def test_the_line_is_scrubbed_by_the_mouse(page):
    box = page.page.evaluate("document.querySelector('.harmony-line').getBoundingClientRect().toJSON()")
    down = box["y"] + box["height"] / 2
    page.page.mouse.move(box["x"] + 0.2 * box["width"], down)
    page.page.mouse.down()
    page.page.mouse.move(box["x"] + 0.5 * box["width"], down, steps=4)
    page.page.mouse.up()
    time, length = player(page, "return [video.currentTime, video.duration]")
    assert time == pytest.approx(0.5 * length, abs=0.02 * length)
    cursor = page.page.evaluate("document.querySelector('.harmony-cursor').getBoundingClientRect().toJSON()")
    assert cursor["x"] + cursor["width"] / 2 == pytest.approx(box["x"] + 0.5 * box["width"], abs=2)


def test_keys_do_everything(page):
    nodes = page.page.evaluate("app.graph._nodes.length")
    page.page.evaluate("document.querySelector('.harmony-line').focus()")
    press, state = page.page.keyboard.press, lambda what: player(page, f"return {what}")
    press("Home")
    assert state("video.currentTime") == 0
    press("ArrowRight")
    assert state("video.currentTime") == pytest.approx(1 / FPS, abs=1e-3)
    press("n")
    first = state("video.currentTime")
    assert first > 1 / FPS
    press("n")
    assert state("video.currentTime") > first
    press("p")
    assert state("video.currentTime") == pytest.approx(first, abs=1e-3)
    looping = state("video.loop")
    press("l")
    assert state("video.loop") is not looping
    press("l")
    press("m")
    assert state("video.muted")
    press("m")
    press("Space")
    assert not state("video.paused")
    press("Space")
    assert state("video.paused")
    assert page.page.evaluate("app.graph._nodes.length") == nodes


def test_it_can_be_read_out(page, clip):
    found = measure_sync(*clip, FPS)
    assert player(page, "return root.querySelectorAll('ul li').length") == len(found.seen) + len(found.heard)
    names = player(page, "return [...root.querySelectorAll('button')].map((b) => b.getAttribute('aria-label'))")
    assert all(names)
    assert len(set(names)) == len(names)
    player(page, "video.currentTime = 1")
    page.page.wait_for_selector(".harmony-line[aria-valuetext='1.00 of 4.00 seconds']")


def test_a_preview_that_is_gone_is_told_of(page):
    player(page, "root.saved = video.src; video.src = video.src.replace(/harmony_/, 'gone_')")
    page.page.wait_for_selector(".harmony-message:not([hidden])")
    page.errors.clear()  # the browser says that the file is not there
    player(page, "video.src = root.saved; root.querySelector('.harmony-message').hidden = true")
    page.page.wait_for_function("document.querySelector('.harmony-player video').readyState >= 2")


# ---- previews


def test_every_step_is_shown_on_the_sampler(page):
    steps = page.page.evaluate("steps")
    numbers = [step["step"] for step in steps]
    assert numbers == sorted(numbers)
    assert numbers[-1] == STEPS
    assert {step["node"] for step in steps} == {"4"}
    assert max(len(json.dumps(step)) for step in steps) < 20_000
    assert len({step["spectrum"] for step in steps}) == len(steps)
    drawn = page.page.evaluate(
        """async () => {
            const root = document.querySelector('.harmony-preview')
            const canvas = root.querySelector('canvas'), strip = root.querySelector('img')
            await strip.decode()
            return [canvas.width, canvas.height, strip.naturalWidth, strip.naturalHeight, root.textContent]
        }"""
    )
    spec = ClipSpec(frames=13, height=32, width=48, grid=GRID)
    assert drawn[:4] == [*spec.latent_size[::-1], spec.audio_latents, 20]
    assert f"Step {STEPS} of {STEPS}" in drawn[4]


# ---- lengths


@pytest.mark.parametrize("entered", [0.0417, 0.3, 1.0, 2.0, 4.99, 17.3])
@pytest.mark.parametrize("fps", [24.0, 25.0, 23.98])
def test_a_length_snaps_to_one_that_the_node_takes(page, entered, fps):
    shown(page, "HarmonyEmptyLatent", "harmony_length")
    set_widget(page, "HarmonyEmptyLatent", "fps", fps)
    set_widget(page, "HarmonyEmptyLatent", "seconds", entered)
    seconds = widget(page, "HarmonyEmptyLatent", "seconds")
    spec = ClipSpec.from_seconds(seconds, height=32, width=48, fps=fps, grid=GRID)
    assert spec.frames == ClipSpec.nearest(entered, height=32, width=48, fps=fps, grid=GRID).frames
    seen = shown(page, "HarmonyEmptyLatent", "harmony_length")
    wanted = (spec.frames, spec.latent_frames, spec.audio_latents, spec.video_tokens)
    assert (seen["pictures"], seen["latents"], seen["audioTokens"], seen["videoTokens"]) == wanted
    assert seen["seconds"] == pytest.approx(spec.seconds)


def test_an_arrow_goes_to_the_next_length(page):
    set_widget(page, "HarmonyEmptyLatent", "fps", 24.0)
    set_widget(page, "HarmonyEmptyLatent", "seconds", 2.0417)
    set_widget(page, "HarmonyEmptyLatent", "seconds", 2.0418)
    assert widget(page, "HarmonyEmptyLatent", "seconds") == pytest.approx(53 / 24, abs=1e-4)
    set_widget(page, "HarmonyEmptyLatent", "seconds", 53 / 24 - 1e-4)
    assert widget(page, "HarmonyEmptyLatent", "seconds") == pytest.approx(49 / 24, abs=1e-4)


def test_a_size_snaps_to_the_checkpoints(page):
    set_widget(page, "HarmonyEmptyLatent", "width", 57)
    assert widget(page, "HarmonyEmptyLatent", "width") == 64
    set_widget(page, "HarmonyEmptyLatent", "width", 48)


def memory(page: Page, text: str, before: dict | None = None) -> tuple[dict, str]:
    """What was found of memory, once its line says so and it is not what was there ``before`` any more."""
    for _ in range(300):
        found = shown(page, "HarmonyEmptyLatent", "harmony_length")["memory"]
        if found is not None and found != before:
            break
        page.page.wait_for_timeout(100)
    said = page.page.wait_for_function(
        """(text) => [...document.querySelectorAll('.harmony-memory')]
            .find((one) => !one.hidden && one.textContent.includes(text))?.textContent""",
        arg=text,
    )
    return shown(page, "HarmonyEmptyLatent", "harmony_length")["memory"], said.json_value()


def test_memory_is_told_for_the_checkpoint_at_this_size(page, server):
    spec = ClipSpec.nearest(2.0, height=32, width=96, grid=GRID)
    before = memory(page, "About")[0]
    for name, value in {"fps": 24.0, "seconds": spec.seconds, "width": 96, "height": 32, "batch": 3}.items():
        set_widget(page, "HarmonyEmptyLatent", name, value)
    page.page.wait_for_timeout(1000)  # it asks when the values have come to rest
    found, said = memory(page, "About", before)
    asked = {"name": CHECKPOINT, "weight_dtype": "default", "pictures": spec.frames, "width": 96, "height": 32, "fps": 24}
    assert found == server.get(f"/harmony/memory?{urlencode(asked | {'batch': 3})}")
    assert "harmony-tiny" not in said
    set_widget(page, "HarmonyLoadCheckpoint", "weight_dtype", "fp8_e4m3fn")
    page.page.wait_for_timeout(1000)
    assert memory(page, "About", found)[0]["weights"] < found["weights"]
    for kind, name, value in (("HarmonyLoadCheckpoint", "weight_dtype", "default"), ("HarmonyEmptyLatent", "batch", 1)):
        set_widget(page, kind, name, value)
    set_widget(page, "HarmonyEmptyLatent", "width", 48)


def test_memory_is_told_for_the_built_in_checkpoint_where_none_is_connected(page):
    slot = """(connect) => {
        const [load, latent] = ['HarmonyLoadCheckpoint', 'HarmonyEmptyLatent'].map(
            (kind) => app.graph._nodes.find((n) => n.comfyClass === kind))
        const slot = latent.inputs.findIndex((input) => input.name === 'model')
        if (connect) load.connect(0, latent, slot)
        else latent.disconnectInput(slot)
    }"""
    page.page.evaluate(slot, False)
    found, said = memory(page, "with harmony-tiny")
    assert said.startswith("About ")
    assert found["weights"] > 1e6
    page.page.evaluate(slot, True)
    page.page.wait_for_function(
        "![...document.querySelectorAll('.harmony-memory')].some((one) => one.textContent.includes('tiny'))"
    )


# ---- transcripts


def test_a_transcript_is_counted_as_the_node_does(page):
    page.page.evaluate("app.graph._nodes.find((n) => n.comfyClass === 'HarmonyEncode').widgets.at(-1).harmony = null")
    set_widget(page, "HarmonyEncode", "transcript", "Cab a")
    read = shown(page, "HarmonyEncode", "harmony_transcript")
    assert (read["symbols"], read["count"], read["length"]) == ("cab a", 5, 6)
    assert read["clip"] == pytest.approx(shown(page, "HarmonyEmptyLatent", "harmony_length")["seconds"])


def test_a_transcript_that_is_refused_is_told_of_while_it_is_written(page):
    page.page.evaluate("app.graph._nodes.find((n) => n.comfyClass === 'HarmonyEncode').widgets.at(-1).harmony = null")
    set_widget(page, "HarmonyEncode", "transcript", "abcabcabc")
    assert "6" in shown(page, "HarmonyEncode", "harmony_transcript")["error"]
    set_widget(page, "HarmonyEncode", "transcript", "abc")


# ---- what is decoded, where that is wanted


def players_of(page: Page) -> dict:
    """Of each kind of node that has a player: its file, how many marks, and whether it tells of events."""
    return page.page.evaluate(
        """() => Object.fromEntries(app.graph._nodes.map((node) => {
            const root = node.widgets?.find((one) => one.name === 'harmony_player')?.element
            const events = root && !root.querySelector('.harmony-legend').hidden
            const marks = root?.querySelectorAll('.harmony-mark').length
            return [node.comfyClass, root && [root.querySelector('video').src, marks, events]]
        }).filter(([, found]) => found))"""
    )


def test_what_is_decoded_is_played_in_its_node_where_that_is_set(running, server):
    told = graph(seed=7)
    told["5"] = node("HarmonyDecode", latent=["4", 0], video_vae=["1", 2], audio_vae=["1", 3], clip=0)
    told["6"]["inputs"]["fps"] = ["5", 2]
    with opened(running, server) as page:
        page.load(told)
        page.run()
        assert set(players_of(page)) == {"HarmonySyncReport"}
    told["4"]["inputs"]["seed"] = 8
    with opened(running, server, **{"Harmony.PlayDecoded": True}) as page:
        page.load(told)
        page.run()
        page.look_at("HarmonyDecode")
        page.page.wait_for_function("document.querySelector('.harmony-player video')?.readyState >= 2")
        found = players_of(page)
        assert found["HarmonyDecode"][0] == found["HarmonySyncReport"][0]
        assert found["HarmonyDecode"][1:] == [0, False]
        assert found["HarmonySyncReport"][2]
        seconds = page.page.evaluate("document.querySelector('.harmony-player[aria-label=Clip] video').duration")
        assert seconds == pytest.approx(13 / 24, abs=0.05)
        assert "harmony_player" not in json.dumps(page.prompt())
        assert page.errors == []
    server.post("/settings/Harmony.PlayDecoded", False)


# ---- what is saved and queued


def test_the_widgets_are_neither_saved_nor_queued(page):
    prompt = page.prompt()
    assert page.page.evaluate("app.graph._nodes.flatMap((n) => n.widgets ?? []).map((w) => w.name)")
    for one in prompt["output"].values():
        assert not WIDGETS & set(one["inputs"])
        assert None not in one["inputs"].values()
    saved = {one["type"]: one.get("widgets_values") for one in prompt["workflow"]["nodes"]}
    assert len(saved["HarmonyEmptyLatent"]) == 5
    assert len(saved["HarmonyEncode"]) == 8
    assert saved["HarmonySyncReport"] == [FPS]
    assert all(None not in values for values in saved.values() if values)


def test_a_graph_is_the_same_without_the_frontend(page, running, server):
    before = page.prompt()
    with opened(running, server) as other:
        # As with a pack that has none.
        other.page.route("**/extensions/harmony_pack/**", lambda route: route.abort())
        other.open()
        other.page.evaluate("(workflow) => app.loadGraphData(workflow)", before["workflow"])
        other.page.wait_for_timeout(500)
        names = other.page.evaluate("app.graph._nodes.flatMap((n) => n.widgets ?? []).map((w) => w.name)")
        assert not WIDGETS & set(names)
        after = other.prompt()
    assert json.dumps(after["output"], sort_keys=True) == json.dumps(before["output"], sort_keys=True)
    values = [[(one["id"], one.get("widgets_values")) for one in done["workflow"]["nodes"]] for done in (before, after)]
    assert values[0] == values[1]


# ---- a server that knows less


def test_a_server_without_the_routes_only_tells_less(running, server):
    with opened(running, server) as page:
        page.page.route("**/harmony/**", lambda route: route.fulfill(status=200, body="{}"))
        page.page.route("**/api/harmony/**", lambda route: route.fulfill(status=404, body="none"))
        page.open()
        page.load(graph())
        page.page.wait_for_timeout(500)
        text = page.page.evaluate("[...document.querySelectorAll('.harmony-helper')].map((e) => e.textContent).join()")
        assert "usual grid" in text
        assert "when the graph has run" in text
        set_widget(page, "HarmonyEmptyLatent", "seconds", 1.0)
        assert widget(page, "HarmonyEmptyLatent", "seconds") == 1.0
        assert page.prompt()["output"]["3"]["inputs"]["seconds"] == 1.0


def test_helpers_can_be_turned_off(running, server):
    with opened(running, server, **{"Harmony.Helpers": False}) as page:
        page.load(graph())
        page.page.wait_for_timeout(500)
        assert not page.page.is_visible(".harmony-helper")
        set_widget(page, "HarmonyEmptyLatent", "seconds", 1.0)
        assert widget(page, "HarmonyEmptyLatent", "seconds") == 1.0
        assert page.errors == []
    server.post("/settings/Harmony.Helpers", True)


SUBGRAPHS = {
    "the latent is inside": [["HarmonyEmptyLatent"]],
    "the loader is inside": [["HarmonyLoadCheckpoint"]],
    "each is inside one": [["HarmonyEmptyLatent"], ["HarmonyLoadCheckpoint"]],
    "the latent is two deep": [["HarmonyEmptyLatent"], ["HarmonyEmptyLatent", "HarmonyKSampler"]],
    "the words are inside": [["HarmonyEncode"]],
}
"""Kinds of nodes that are put into a subgraph together, one subgraph after the other."""


@pytest.fixture(scope="module")
def bare_page(running, server):
    with opened(running, server) as page:
        yield page


def helper_in(page: Page, kind: str, name: str, wanted: str):
    """What a helper found, once ``wanted``, a condition on it, holds; its node is anywhere, in subgraphs too."""
    script = f"""([kind, name]) => {{
        const graphs = [app.rootGraph, ...app.rootGraph.subgraphs.values()]
        const node = graphs.flatMap((one) => one._nodes).find((one) => one.comfyClass === kind)
        const found = node?.widgets.find((one) => one.name === name)?.harmony
        return found && ({wanted}) ? found : null
    }}"""
    return page.page.wait_for_function(script, arg=[kind, name], timeout=20_000).json_value()


@pytest.mark.parametrize("case", SUBGRAPHS)
def test_helpers_know_what_reaches_them_through_a_subgraph(bare_page, case):
    page = bare_page
    page.load(graph())
    spec = ClipSpec.nearest(0.5417, height=32, width=48, grid=GRID)
    page.page.evaluate(
        """(groups) => {
            for (const kinds of groups) {
                const holds = (node, kind) => node.comfyClass === kind || node.subgraph?._nodes.some((one) => holds(one, kind))
                const nodes = app.graph._nodes.filter((node) => kinds.some((kind) => holds(node, kind)))
                app.graph.convertToSubgraph(new Set(nodes))
            }
        }""",
        SUBGRAPHS[case],
    )
    tokens = spec.video_shape(1)[2] * 2 * 3  # latents of 16 pixels, one a token
    length = helper_in(page, "HarmonyEmptyLatent", "harmony_length", f"found.videoTokens === {tokens}")
    assert length["seconds"] == pytest.approx(spec.seconds, abs=1e-3)
    spoken = helper_in(page, "HarmonyEncode", "harmony_transcript", "found.clip !== null")
    assert spoken["clip"] == pytest.approx(spec.seconds, abs=1e-3)
    assert spoken["count"] == 3
    assert page.errors == []


def test_a_helper_in_a_subgraph_sees_what_is_connected_to_it_later(bare_page):
    page = bare_page
    page.load(graph())
    change = """(connect) => {
        const [load] = app.graph._nodes.filter((one) => one.comfyClass === 'HarmonyLoadCheckpoint')
        const latents = app.graph._nodes.filter((one) => one.comfyClass === 'HarmonyEmptyLatent')
        const host = app.graph._nodes.find((one) => one.subgraph) ?? app.graph.convertToSubgraph(new Set(latents)).node
        const slot = host.inputs.findIndex((one) => one.type === 'MODEL')
        if (connect) load.connect(0, host, slot)
        else host.disconnectInput(slot)
    }"""
    for connect, patch in ((False, 2), (True, 1)):
        page.page.evaluate(change, connect)
        helper_in(page, "HarmonyEmptyLatent", "harmony_length", f"found.grid.patch === {patch}")


def test_the_help_page_lists_every_node(running, server):
    with opened(running, server) as page:
        page.page.goto(f"http://127.0.0.1:{server.port}/extensions/harmony_pack/help.html")
        page.page.wait_for_selector("#nodes section")
        listed = page.page.evaluate("[...document.querySelectorAll('#nodes section')].map((one) => one.id)")
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/object_info", timeout=60) as answer:
        assert set(listed) == {name for name in json.load(answer) if name.startswith("Harmony")}


def test_every_module_is_small_and_parses():
    modules = sorted((Path(__file__).parents[2] / "js").glob("*.js"))
    assert len(modules) > 5
    assert all(len(path.read_text().splitlines()) < 400 for path in modules)

"""The shipped workflows, on a real ComfyUI: by its HTTP API, and in its page in a real browser."""

import json
import os
import subprocess
import sys
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from browser import browser, frontend, opened
from comfy_server import PACK, Server
from comfyui import find_comfy
from workflow_files import FOLDER, MUTED, WIDGETS, files, paths, slots, text
from workflow_graphs import WORKFLOWS, Workflow

from harmony_core.audio_ops import resample
from harmony_core.measure.matching import match
from harmony_core.measure.sync import measure_sync
from harmony_core.media import read_audio, read_video
from harmony_core.types import Audio
from harmony_core.weights import builtin
from harmony_core.weights.builtin import ASSETS
from harmony_core.world.clip import SAMPLE_RATE
from harmony_core.world.judges import Judges
from harmony_core.world.metrics import Heard, Seen, listen, look

MADE_WITH = "0.33.0"
"""The ComfyUI whose nodes the files show; another one's may have other inputs, which its page adds."""
FRAMES, FPS = 49, 24
AAC_FRAME = 1024
VERSION = 0.4

ONE = pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda workflow: workflow.script_name)


@dataclass(frozen=True)
class Clip:
    """A saved video: pictures (F, H, W, 3) of 8 bits, samples, and their rates."""

    pictures: np.ndarray
    fps: float
    wave: np.ndarray
    rate: int

    @property
    def seconds(self) -> tuple[float, float]:
        return len(self.pictures) / self.fps, len(self.wave) / self.rate


class Studio:
    """A ComfyUI, and what it made of each workflow."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.kinds = server.get("/object_info")
        self._made: dict[str, dict[str, Clip]] = {}

    def clips(self, name: str) -> dict[str, Clip]:
        """The videos a workflow saves, by the prefix of their names; it is run once."""
        if name not in self._made:
            graph = json.loads((FOLDER / "api" / f"{name}.json").read_text())
            outputs = self.server.run(graph)
            saved = {key: one for key, one in graph.items() if one["class_type"] == "SaveVideo"}
            self._made[name] = {
                one["inputs"]["filename_prefix"]: read(self.server, outputs[key]["images"]) for key, one in saved.items()
            }
        return self._made[name]


def read(server: Server, images: list[dict[str, str]]) -> Clip:
    """Decode the one file of these, without the project's own reader."""
    (file,) = images
    path = server.base / file["type"] / file["subfolder"] / file["filename"]
    with av.open(str(path)) as container:
        fps = float(container.streams.video[0].average_rate)
        pictures = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    with av.open(str(path)) as container:
        rate = container.streams.audio[0].rate
        wave = np.concatenate([frame.to_ndarray() for frame in container.decode(audio=0)], axis=1).mean(0)
    return Clip(pictures, fps, wave, rate)


@pytest.fixture(scope="module")
def studio(tmp_path_factory):
    find_comfy()
    try:
        options = ("--front-end-root", str(frontend()))
    except pytest.skip.Exception:
        options = ()
    server = Server(tmp_path_factory.mktemp("workflows") / "base", *options)
    try:
        server.wait()
        yield Studio(server)
    finally:
        server.stop()


def api_of(workflow: Workflow) -> dict[str, Any]:
    return json.loads(paths(workflow)[0].read_text(encoding="utf-8"))


def ui_of(workflow: Workflow) -> dict[str, Any]:
    return json.loads(paths(workflow)[1].read_text(encoding="utf-8"))


# The files: no ComfyUI is needed.


def test_every_workflow_has_its_files_and_there_are_no_others():
    expected = {path for workflow in WORKFLOWS for path in paths(workflow)}
    expected |= {script.with_suffix(".jpg") for _, script in map(paths, WORKFLOWS)} | {FOLDER / "api" / "client.py"}
    assert {path for path in FOLDER.rglob("*") if path.is_file() and "__pycache__" not in path.parts} == expected


@ONE
def test_the_file_for_the_page_says_what_the_file_for_scripts_says(workflow):
    """Read from the page's file alone: its nodes, its links, and its widgets' values in their order."""
    api, ui = api_of(workflow), ui_of(workflow)
    assert ui["version"] == VERSION
    assert ui["last_link_id"] == len(ui["links"]) and ui["last_node_id"] == max(one["id"] for one in ui["nodes"])
    sources = {link[0]: [str(link[1]), link[2]] for link in ui["links"]}
    found = {}
    for one in ui["nodes"]:
        if one["mode"] == MUTED or one["type"] == "MarkdownNote":
            continue
        values = iter(one["widgets_values"])
        inputs = {}
        for entry in one["inputs"]:
            if "widget" in entry:
                inputs[entry["name"]] = next(values)
                if entry["name"] == "seed":
                    assert next(values) == "fixed"
            if entry["link"] is not None:
                inputs[entry["name"]] = sources[entry["link"]]
        assert next(values, None) is None
        found[str(one["id"])] = {"class_type": one["type"], "inputs": inputs}
    assert found == {key: {"class_type": one["class_type"], "inputs": one["inputs"]} for key, one in api.items()}


@ONE
def test_links_of_the_page_join_what_they_name(workflow):
    ui = ui_of(workflow)
    nodes = {one["id"]: one for one in ui["nodes"]}
    for number, source, output, target, slot, kind in ui["links"]:
        assert number in nodes[source]["outputs"][output]["links"]
        assert nodes[target]["inputs"][slot]["link"] == number
        assert nodes[source]["outputs"][output]["type"] == kind


@ONE
def test_nodes_do_not_overlap_and_lie_in_one_group(workflow):
    ui = ui_of(workflow)
    boxes = [(one["pos"][0], one["pos"][1] - 30, one["size"][0], one["size"][1] + 30) for one in ui["nodes"]]
    groups = [tuple(group["bounding"]) for group in ui["groups"]]
    for each in (boxes, groups):
        assert not [(a, b) for i, a in enumerate(each) for b in each[i + 1 :] if overlap(a, b)]
    for x, y, width, height in boxes:
        assert sum(gx <= x and gy <= y and x + width <= gx + gw and y + height <= gy + gh for gx, gy, gw, gh in groups) == 1


def overlap(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a[0] < b[0] + b[2] and b[0] < a[0] + a[2] and a[1] < b[1] + b[3] and b[1] < a[1] + a[3]


@ONE
def test_every_workflow_teaches_uses_what_is_built_in_and_has_a_picture(workflow):
    notes = [one["widgets_values"][0] for one in ui_of(workflow)["nodes"] if one["type"] == "MarkdownNote"]
    assert notes and notes[0].startswith("## ") and "bigger model" in notes[0]
    loaders = [one for one in api_of(workflow).values() if one["class_type"] == "HarmonyLoadCheckpoint"]
    assert [one["inputs"]["checkpoint"] for one in loaders] == ["harmony-tiny (built in)"]
    # A fresh ComfyUI has no file in its input folder.
    assert not {one["class_type"] for one in api_of(workflow).values()} & {"LoadImage", "LoadAudio", "LoadVideo"}
    jpg = paths(workflow)[1].with_suffix(".jpg").read_bytes()
    assert jpg[:3] == b"\xff\xd8\xff" and len(jpg) < 100_000


def test_what_needs_files_from_elsewhere_is_muted_and_says_where_from():
    for workflow in WORKFLOWS:
        for one in ui_of(workflow)["nodes"]:
            links = one["properties"].get("models", [])
            assert bool(links) == (one["type"] in {"UpscaleModelLoader", "FrameInterpolationModelLoader"})
            assert not links or one["mode"] == MUTED
            for link in links:
                assert link["name"] in one["widgets_values"] and link["url"].endswith("/" + link["name"]) and link["directory"]


# By the HTTP API of a real ComfyUI.


@ONE
def test_every_node_and_input_exists(studio, workflow):
    api = api_of(workflow)
    for key, one in api.items():
        known = {slot.name: slot for slot in slots(one["class_type"], studio.kinds)}
        needed = {name for name, slot in known.items() if not slot.optional and "." not in name}
        assert needed <= set(one["inputs"]), key
        for name, value in one["inputs"].items():
            slot = known.get(name) or known[name.split(".")[0]]
            if isinstance(value, list):
                assert studio.kinds[api[value[0]]["class_type"]]["output"][value[1]] == slot.kind, (key, name)
            else:
                assert slot.kind in WIDGETS, (key, name)


def test_the_files_are_what_the_script_writes(studio):
    version = studio.server.get("/system_stats")["system"]["comfyui_version"]
    if version != MADE_WITH:
        pytest.skip(f"the files were written with ComfyUI {MADE_WITH}, this is {version}")
    for workflow in WORKFLOWS:
        made = files(workflow, studio.kinds)
        for path, values in zip(paths(workflow), (made.api, made.ui), strict=True):
            assert path.read_text(encoding="utf-8") == text(values), f"{path.name}: run tests/helpers/make_workflows.py"


def test_the_template_browser_is_told_of_them(studio):
    assert set(studio.server.get("/workflow_templates")[PACK]) == {workflow.name for workflow in WORKFLOWS}
    for workflow in WORKFLOWS:
        place = f"/api/workflow_templates/{PACK}/{urllib.parse.quote(workflow.name)}"
        assert studio.server.get(f"{place}.json") == ui_of(workflow)
        with urllib.request.urlopen(f"http://127.0.0.1:{studio.server.port}{place}.jpg") as answer:
            assert answer.read() == paths(workflow)[1].with_suffix(".jpg").read_bytes()


@ONE
def test_every_workflow_runs_and_saves_clips_of_the_right_length(studio, workflow):
    clips = studio.clips(workflow.script_name)
    assert len(clips) == sum(one["class_type"] == "SaveVideo" for one in api_of(workflow).values()) > 0
    for name, clip in clips.items():
        assert len(clip.pictures) == FRAMES and clip.fps == FPS, name
        seen, heard = clip.seconds
        # AAC comes in whole frames of 1024 samples.
        assert -0.5 / FPS < heard - seen < AAC_FRAME / clip.rate, name
        assert clip.pictures.std() > 10 and np.abs(clip.wave).max() > 0.02, name


def test_a_given_sound_is_in_the_saved_video(studio):
    (clip,) = studio.clips("sound-to-video").values()
    given = read_audio(ASSETS / "demo" / "speech.wav").waveform[0, 0].numpy()
    length = min(len(given), len(clip.wave))
    assert np.corrcoef(given[:length], clip.wave[:length])[0, 1] > 0.95


def test_given_pictures_are_in_the_saved_video(studio):
    (clip,) = studio.clips("video-to-sound").values()
    given = (read_video(ASSETS / "demo" / "bouncing.mp4").frames[0].movedim(0, -1).numpy() + 1) * 127.5
    assert np.abs(given - clip.pictures).mean() < 4


def test_the_given_picture_is_the_first(studio):
    (clip,) = studio.clips("image-to-audio-video").values()
    given = (read_video(ASSETS / "demo" / "face.png").frames[0].movedim(0, -1).numpy() + 1) * 127.5
    difference = np.abs(given - clip.pictures).mean((1, 2, 3))
    assert difference[0] < min(12, difference.mean())


@pytest.mark.bitwise("locked")
def test_only_the_freed_seconds_sound_anew(studio):
    before, after = studio.clips("new-sound-for-seconds-1-to-2").values()
    np.testing.assert_array_equal(before.pictures, after.pictures)
    # Latents outside the span are the same bit for bit; the vocoder finds phases anew for the whole, so spectra are compared.
    kept, freed = (slice(int(start * after.rate), int(end * after.rate)) for start, end in ((0.0, 0.9), (1.1, 1.9)))
    assert changed(before.wave[kept], after.wave[kept]) < 0.4
    assert changed(before.wave[freed], after.wave[freed]) > 0.5


def changed(one: np.ndarray, two: np.ndarray) -> float:
    """Difference of two sounds' spectra, as a share of the first."""
    before, after = (
        np.abs(np.fft.rfft(np.lib.stride_tricks.sliding_window_view(wave, 512)[::128] * np.hanning(512))) for wave in (one, two)
    )
    return float(np.linalg.norm(before - after) / np.linalg.norm(before))


def test_sync_cfg_alone_is_the_difference_of_the_two_clips(studio):
    graph = json.loads((FOLDER / "api" / "synccfg-off-and-on.json").read_text())
    one, two = (node["inputs"] for node in graph.values() if node["class_type"] == "HarmonyKSampler")
    assert {name for name in one if one[name] != two[name]} == {"sync_video", "sync_audio"}
    off, on = studio.clips("synccfg-off-and-on").values()
    assert np.abs(off.pictures.astype(float) - on.pictures).mean() > 2


def test_the_upscaled_video_is_four_times_as_large(studio):
    (clip,) = studio.clips("upscale-and-interpolate").values()
    assert clip.pictures.shape[1:3] == (256, 256)


def score(pictures: Clip, sound: Clip) -> float:
    frames = np.moveaxis(pictures.pictures, -1, 1).astype(np.float32) / 255
    wave = Audio(tensor(sound.wave)[None, None], sound.rate)
    return measure_sync(tensor(frames), wave, pictures.fps).events.score


def tensor(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))


@pytest.mark.bitwise("program")
def test_picture_and_sound_go_together_better_than_those_of_two_clips(studio):
    """The floor: the same pictures beside the sounds of the other workflows, where those are others.

    Counted by the small world's own judges, over all clips of its size together: one short clip has few events. The clip that
    shows what happens without SyncCFG is left out. Workflows that make the same clip are true pairs.
    """
    judges = Judges.load(builtin.judges())
    found = {key: clip for one in WORKFLOWS for key, clip in studio.clips(one.script_name).items()}
    clips = [clip for key, clip in found.items() if key != "video/harmony_sync_off" and clip.pictures.shape[1:3] == (64, 64)]
    seen = [look(tensor(np.moveaxis(c.pictures, -1, 0).astype(np.float32) / 127.5 - 1), c.fps, judges) for c in clips]
    sounds = [resample(Audio(tensor(c.wave)[None, None], c.rate), SAMPLE_RATE).waveform[0] for c in clips]
    heard = [listen(wave, len(c.pictures), c.fps, judges) for wave, c in zip(sounds, clips, strict=True)]
    numbers = range(len(clips))
    own = event_f1([(seen[i], heard[i]) for i in numbers])
    others = [(i, j) for i in numbers for j in numbers if not np.array_equal(clips[i].wave, clips[j].wave)]
    floor = event_f1([(seen[i], heard[j]) for i, j in others])
    assert own > floor + 0.1, (own, floor)


def event_f1(pairs: list[tuple[Seen, Heard]]) -> float:
    """F1 of impacts and of openings of the mouth, seen and heard within two pictures of each other, of all pairs together."""
    matches = [match(s.impacts.times, h.impacts.times, 2 / 24) for s, h in pairs]
    matches += [match(s.releases, h.releases, 2 / 24) for s, h in pairs]
    return 2 * sum(len(m.pairs) for m in matches) / sum(m.first + m.second for m in matches)


def test_the_sound_made_for_a_video_goes_with_it(studio):
    (clip,) = studio.clips("video-to-sound").values()
    assert score(clip, clip) > 0.3


@pytest.mark.bitwise("program")
def test_the_client_queues_a_workflow_and_fetches_its_clip(studio, tmp_path):
    expected = studio.clips("text-to-audio-video")
    script, graph = FOLDER / "api" / "client.py", FOLDER / "api" / "text-to-audio-video.json"
    address = f"http://127.0.0.1:{studio.server.port}"
    asked = [sys.executable, "-I", str(script), str(graph), "--server", address, "--out", str(tmp_path / "clips")]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (fetched,) = (tmp_path / "clips").iterdir()
    assert str(fetched) in done.stdout
    with av.open(str(fetched)) as container:
        pictures = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    np.testing.assert_array_equal(pictures, expected["video/harmony_text"].pictures)
    refused = subprocess.run([*asked, "--transcript", "¿"], capture_output=True, text=True, check=False)
    assert refused.returncode == 1 and refused.stderr.startswith("HarmonyEncode: transcript: ")


# In a browser.


@pytest.fixture(scope="module")
def page(studio):
    frontend()
    with browser() as running, opened(running, studio.server) as page:
        yield page


@ONE
def test_every_workflow_opens_and_runs_in_a_browser(studio, page, workflow, tmp_path):
    """As a person opens it: from the template browser, nothing missing, nothing red, Run."""
    place = f"workflow_templates/{PACK}/{workflow.name}.json"
    graph = page.page.evaluate("async (place) => (await fetch(app.api.apiURL('/' + place))).json()", place)
    assert page.show(graph) == {"unknown": [], "red": [], "dialogs": []}
    boxes = page.page.evaluate("app.graph.nodes.map((one) => [one.pos[0], one.pos[1] - 30, one.size[0], one.size[1] + 30])")
    assert not [(a, b) for i, a in enumerate(boxes) for b in boxes[i + 1 :] if overlap(a, b)]
    assert page.prompt()["output"] == api_of(workflow)
    folder = Path(os.environ.get("HARMONY_SCREENSHOTS", tmp_path))
    page.page.keyboard.press(".")
    page.run()
    page.page.screenshot(path=str(folder / f"{workflow.script_name}.png"))
    played = page.page.evaluate(
        """() => app.graph.nodes.filter((one) => one.type === 'SaveVideo' && one.mode !== 2)
            .map((one) => app.nodeOutputs[one.id]?.images?.[0]?.filename ?? '')"""
    )
    assert len(played) == len(studio.clips(workflow.script_name)) and all(name.endswith(".mp4") for name in played)
    assert page.errors == []

"""Harmony Sync Report and Harmony Sound Source Map in a real ComfyUI."""

import pytest
import torch
from bounces import FPS, bouncing, clicks
from comfy_server import Failed
from graphs import FRAMES, HEIGHT, WIDTH, clip_graph, node, sampled_by_parts, sampled_by_stock
from rounding import CHANGED, away
from safetensors.torch import save_file

from harmony_core.canvas import Canvas
from harmony_core.denoiser import Denoiser, Setting
from harmony_core.flow import draw_noise
from harmony_core.geometry import ClipSpec
from harmony_core.measure.sound_source import source_masks
from harmony_core.measure.sync import measure_sync
from harmony_core.models.sound_map import SoundMapRecorder
from harmony_core.pipeline import Pipeline, Request
from harmony_core.types import AV, Modality

LEVELS = AV(0.3, 0.9)
MASK = {"floor": 0.1, "smooth_time": 0.1, "smooth_space": 0.05, "strength": 0.8}


@pytest.fixture(scope="module")
def bounce_files(server):
    """Files of tensors in the input folder, by name."""
    pictures = bouncing().movedim(1, -1).contiguous()
    sounds = {
        "in sync": clicks(rate=44_100, channels=2).waveform,
        "late": clicks(rate=44_100, channels=2, late=0.2).waveform,
        "silent": torch.zeros(1, 2, 44_100 * 4),
        "longer": clicks(rate=44_100, seconds=7.0).waveform,
        "shorter": clicks(rate=44_100, seconds=2.5).waveform,
        "two": torch.cat([clicks(rate=44_100).waveform, torch.zeros(1, 1, 44_100 * 4)]),
        "empty": torch.zeros(1, 1, 0),
        "broken": torch.full((1, 1, 44_100), float("nan")),
        "five": torch.zeros(5, 1, 44_100),
        "short": torch.zeros(1, 1, 4_000),
    }
    for name, wave in sounds.items():
        images = torch.cat([pictures, pictures]) if name == "two" else pictures
        save_file({"images": images, "wave": wave.contiguous()}, server.base / "input" / f"{name}.safetensors")
    return pictures


def report(name: str, *, frames: int = 1000) -> dict:
    return {
        "given": node("ProbeInputs", file=f"{name}.safetensors", frames=frames, rate=44_100),
        "report": node("HarmonySyncReport", images=["given", 0], audio=["given", 1], fps=FPS),
        "keep": node("ProbeKeep", name=f"sheet of {name}", images=["report", 3]),
    }


def said(server, name: str) -> str:
    (text,) = server.run(report(name))["report"]["text"]
    return text


def test_the_report_is_the_measure_shown_in_the_node(server, bounce_files):
    graph = report("in sync")
    outputs = server.run(graph)
    (shown,) = outputs["report"]["images"]
    assert shown["type"] == "temp"
    assert (server.base / "temp" / shown["filename"]).stat().st_size > 1000
    sheet = server.kept("sheet of in sync")["images"]
    assert sheet.shape[0] == 1
    assert sheet.shape[-1] == 3
    assert sheet.max() <= 1
    wanted = measure_sync(bounce_files.movedim(-1, 1), clicks(rate=44_100, channels=2), FPS)
    assert f"Score {wanted.score:.2f}" in outputs["report"]["text"][0]


def test_score_and_offset_are_numbers_for_other_nodes(server, bounce_files):
    graph = report("late")
    graph["offset"] = node("PreviewAny", source=["report", 1])
    graph["score"] = node("PreviewAny", source=["report", 0])
    outputs = server.run(graph)
    assert abs(float(outputs["offset"]["text"][0]) - 200) <= 1000 / FPS
    assert 0 <= float(outputs["score"]["text"][0]) < 0.6


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("silent", "the sound is silent"),
        ("longer", "The pictures last 4.00 s, the sound 7.00 s; the first 4.00 s were measured."),
        ("shorter", "the first 2.50 s were measured."),
        ("two", "Clip 2: Score 0: the sound is silent"),
    ],
)
def test_sound_that_does_not_fit_is_told_of(server, bounce_files, name, words):
    assert words in said(server, name)


@pytest.mark.parametrize(
    ("name", "frames", "message"),
    [
        ("in sync", 1, "images: one picture shows no motion"),
        ("empty", 96, "audio: it is empty"),
        ("broken", 96, "audio: it holds samples that are not finite"),
        ("five", 96, "audio: it is a batch of 5 sounds"),
        ("short", 96, "images, audio: 0.09 s have both picture and sound"),
    ],
)
def test_what_cannot_be_measured_is_one_sentence(server, bounce_files, name, frames, message):
    with pytest.raises(Failed, match=message) as failed:
        server.run(report(name, frames=frames))
    assert len(str(failed.value).splitlines()) == 1


# ---- where the sound comes from


@pytest.fixture(scope="module")
def pipeline(server):
    return Pipeline.load(server.base / "models" / "checkpoints" / "small.safetensors")


def mapped(graph: dict, name: str, **changes) -> dict:
    """A graph that samples, with its map kept."""
    graph["clip"] = node("HarmonyDecode", latent=["sampled", 0], video_vae=["load", 2], audio_vae=["load", 3])
    inputs = {"model": ["load", 0], "positive": ["told", 0], "latent": ["sampled", 0], "images": ["clip", 0], **MASK, **changes}
    graph["map"] = node("HarmonySoundSourceMap", **inputs)
    graph["as pictures"] = node("MaskToImage", mask=["map", 0])
    graph["keep mask"] = node("ProbeKeep", name=f"mask {name}", images=["as pictures", 0])
    graph["keep overlay"] = node("ProbeKeep", name=f"overlay {name}", images=["map", 1])
    return graph


def standalone_masks(pipeline: Pipeline, kept: dict) -> torch.Tensor:
    """The same by harmony_core: of the finished clip one stream is given, and the other, mixed with noise, reads it."""
    spec = ClipSpec(frames=FRAMES, height=HEIGHT, width=WIDTH, grid=pipeline.model.config.grid)
    clip = AV(pipeline.video_vae.normalise(kept["after.video"]), kept["after.audio"])
    told = pipeline.conditioning(Request(spec=spec, video_caption="a ball", audio_caption="knock", transcript="abc"), 1)
    noise = draw_noise(clip.map(lambda x: x.shape), [0])
    maps = []
    for asking in Modality:
        canvas = Canvas.blank(spec, batch=1).with_given(asking.other, clip[asking.other])
        recorder = SoundMapRecorder()
        level = LEVELS[asking]
        mixed = clip.map(lambda x, n, level=level: (1 - level) * x + level * n, noise)
        Denoiser(pipeline.model, Setting(canvas=canvas, told=told, recorder=recorder))(mixed, AV.both(level))
        maps.append(recorder.maps())
    shares = [one / one.sum((2, 3), keepdim=True) for one in maps]
    size = (HEIGHT, WIDTH)
    maps = ((shares[0] * shares[1]).sqrt() - 1 / shares[0][0, 0].numel()).clamp(min=0)
    return source_masks(maps, size, fps=24.0, frame_stride=4, seconds=0.1, spread=0.05)[0]


@pytest.mark.parametrize("task", ["joint", "audio", "video"])
def test_the_map_equals_harmony_cores_whatever_was_given(server, pipeline, task):
    server.run(mapped(sampled_by_stock(clip_graph(task), f"mapped {task}"), task))
    mask = server.kept(f"mask {task}")["images"][..., 0]
    assert mask.shape == (FRAMES, HEIGHT, WIDTH)
    assert (mask - standalone_masks(pipeline, server.kept(f"mapped {task}"))).abs().max() < 1e-3
    overlay = server.kept(f"overlay {task}")["images"]
    assert overlay.shape == (FRAMES, HEIGHT, WIDTH, 3)
    assert overlay.std() > 0


def test_the_map_works_after_samplercustomadvanced_and_on_larger_pictures(server):
    graph = mapped(sampled_by_parts(clip_graph(), "large"), "large")
    graph["larger"] = node("ImageScale", image=["clip", 0], upscale_method="bilinear", width=144, height=96, crop="disabled")
    graph["map"]["inputs"]["images"] = ["larger", 0]
    server.run(graph)
    mask = server.kept("mask large")["images"]
    assert tuple(mask.shape[:3]) == (FRAMES, 96, 144)
    assert 0 <= mask.min() < mask.max() <= 1


def test_a_batch_has_a_mask_for_each_picture_of_each_clip(server):
    graph = mapped(sampled_by_stock(clip_graph(), "batch"), "batch")
    graph["latent"]["inputs"]["batch"] = 2
    server.run(graph)
    mask = server.kept("mask batch")["images"]
    assert mask.shape[0] == 2 * FRAMES
    assert away(mask[:FRAMES], mask[FRAMES:]) > CHANGED


@pytest.mark.bitwise("program")
def test_mapping_leaves_the_next_run_as_it_was(server):
    server.run(sampled_by_stock(clip_graph(), "before mapping"))
    server.run(mapped(sampled_by_stock(clip_graph(), "while mapping"), "between", floor=0.5))
    server.run(sampled_by_stock(clip_graph(), "other", sampler_name="heun"))
    server.run(sampled_by_stock(clip_graph(), "after mapping"))
    before, after = server.kept("before mapping"), server.kept("after mapping")
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_pictures_of_another_clip_are_refused(server):
    graph = mapped(sampled_by_stock(clip_graph(), "wrong"), "wrong")
    graph["one"] = node("ImageFromBatch", image=["clip", 0], batch_index=0, length=3)
    graph["map"]["inputs"]["images"] = ["one", 0]
    with pytest.raises(Failed, match="images: there are 3 pictures, the latent's clip has 13") as failed:
        server.run(graph)
    assert len(str(failed.value).splitlines()) == 1

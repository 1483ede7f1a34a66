"""What of a clip is given, in a real ComfyUI: sizes, drivers, kept spans, and latents in files."""

import itertools
import json
from pathlib import Path

import pytest
import torch
from comfy_server import Failed
from graphs import FRAMES, HEIGHT, SEED, WIDTH, Graph, clip_graph, node, sampled, sampled_by_parts, sampled_by_stock
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from harmony_core.geometry import ClipSpec
from harmony_core.pipeline import Pipeline
from harmony_core.types import AV, Modality
from harmony_core.weights.builtin import resolve
from harmony_core.weights.checkpoint import load_checkpoint
from harmony_core.weights.latents import LATENTS_KEY, load_latents, save_latents

BUILT_IN = "harmony-tiny (built in)"
NUMBERS = itertools.count()
SECONDS = FRAMES / 24
STREAMS = ("video", "audio")
SAMPLERS = {"stock": sampled_by_stock, "harmony": sampled, "parts": sampled_by_parts}


@pytest.fixture(scope="module")
def pipeline(server):
    return Pipeline.load(server.base / "models" / "checkpoints" / "small.safetensors")


@pytest.fixture(scope="module")
def spec(pipeline):
    return ClipSpec(frames=FRAMES, height=HEIGHT, width=WIDTH, grid=pipeline.model.config.grid)


def given(server, *, images: torch.Tensor | None = None, wave: torch.Tensor | None = None, rate: int = 44_100) -> dict:
    """A node that gives these pictures and this sound."""
    file = f"given-{next(NUMBERS)}.safetensors"
    tensors = {
        "images": torch.zeros(1, HEIGHT, WIDTH, 3) if images is None else images,
        "wave": torch.zeros(1, 1, 0) if wave is None else wave,
    }
    save_file({key: value.contiguous() for key, value in tensors.items()}, server.base / "input" / file)
    return node("ProbeInputs", file=file, frames=10_000, rate=rate)


def draw(*shape: int, seed: int = 11) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def empty(**changes) -> Graph:
    """An empty latent under the name ``latent``, and the usual inputs."""
    graph = clip_graph()
    graph["latent"]["inputs"] |= changes
    graph["inputs"] = node("ProbeInputs", file="inputs.safetensors", frames=15, rate=44_100)
    return graph


def spanned(graph: Graph, *spans: dict) -> Graph:
    """With spans kept or freed, one after the other, before everything that takes ``latent``."""
    last = graph.pop("latent")
    for number, changes in enumerate(spans):
        graph[f"before {number}"] = last
        last = node("HarmonyKeepSpan", **{"latent": [f"before {number}", 0], **SPAN, **changes})
    graph["latent"] = last
    return graph


SPAN = {"action": "keep", "stream": "picture and sound", "start": 0.0, "end": 0.0}
CODECS = {"video_vae": ["load", 2], "audio_vae": ["load", 3]}
CONTENT = {"images": ["inputs", 0], "audio": ["inputs", 1], **CODECS}
PICTURES = {"stream": "picture", "images": ["inputs", 0], **CODECS}
SOUND = {"stream": "sound", "audio": ["inputs", 1], **CODECS}


def saved(server, graph: Graph, of: str = "latent") -> dict[str, torch.Tensor]:
    """What is in the file of a latent."""
    return load_file(written(server, graph, of))


def written(server, graph: Graph, of: str = "latent") -> Path:
    graph = {**graph, "save": node("HarmonySaveLatent", latent=[of, 0], filename_prefix=f"spans/{next(NUMBERS)}")}
    (place,) = server.run(graph)["save"]["latents"]
    return server.base / place["type"] / place["subfolder"] / place["filename"]


def refused(server, graph: Graph, message: str) -> None:
    """The graph is refused in one sentence, and the queue goes on."""
    with pytest.raises(Failed, match=message) as failed:
        server.run(graph)
    assert len(str(failed.value).splitlines()) == 1
    server.run({"load": clip_graph()["load"], "shown": node("PreviewAny", source=["load", 0])})


def in_span(spec: ClipSpec, modality: Modality, start: float, end: float) -> torch.Tensor:
    line = spec.timeline
    return line.video_in_span(start, end) if modality is Modality.VIDEO else line.audio_in_span(start, end)


def times(mask: torch.Tensor) -> torch.Tensor:
    """A mask (1, 1, T, ...) as one value for each latent in time."""
    flat = mask.flatten(3).transpose(1, 2).flatten(2) if mask.ndim > 3 else mask.transpose(1, 2)
    assert torch.equal(flat, flat[..., :1].expand_as(flat))
    return flat[0, :, 0]


# ---- sizes


def test_a_clip_takes_its_size_and_length_from_a_video(server):
    graph = empty(images=["inputs", 0], width=4096, height=4096, seconds=60.0)
    kept = saved(server, graph)
    assert kept["raw.video"].shape == (1, 48, 4, HEIGHT // 16, WIDTH // 16)


def test_a_clip_takes_its_length_from_a_sound(server):
    # 40,000 samples are 0.907 s, 21.8 pictures; 21 fit the grid.
    kept = saved(server, empty(audio=["inputs", 1]))
    assert kept["raw.video"].shape[2] == 6
    assert saved(server, empty(audio=["inputs", 1], images=["inputs", 0]))["raw.video"].shape[2] == 4


def test_one_picture_gives_the_size_alone(server):
    graph = empty(images=["one", 0], width=4096, height=4096)
    graph["one"] = given(server, images=draw(1, 64, 32, 3))
    assert saved(server, graph)["raw.video"].shape == (1, 48, 4, 4, 2)


def test_a_clip_as_long_as_its_driver_can_be_driven(server):
    graph = empty(audio=["inputs", 1])
    graph["empty"] = graph.pop("latent")
    graph["latent"] = node("HarmonyDriveWithAudio", latent=["empty", 0], audio_vae=["load", 3], audio=["inputs", 1], start=0.0)
    assert times(saved(server, graph)["mask.audio"]).sum() == 0


def test_a_clip_takes_size_length_and_rate_from_a_video_file(server):
    graph = empty()
    graph["made"] = node("CreateVideo", images=["inputs", 0], fps=12.0)
    graph["video"] = node("GetVideoComponents", video=["made", 0])
    graph["latent"]["inputs"] |= {"images": ["video", 0], "fps": ["video", 2]}
    graph["empty"] = graph.pop("latent")
    graph["latent"] = node("HarmonyDriveWithVideo", latent=["empty", 0], video_vae=["load", 2], images=["video", 0])
    _, spec = load_latents(written(server, graph))
    assert (spec.frames, spec.height, spec.width, spec.fps) == (13, HEIGHT, WIDTH, 12.0)
    graph["latent"] = node("HarmonyDriveWithAudio", latent=["empty", 0], audio_vae=["load", 3], audio=["video", 1], start=0.0)
    graph["keep"] = node("ProbeKeep", name="wrong", before=["latent", 0])
    refused(server, graph, "HarmonyDriveWithAudio: audio: there is no sound in it")


# ---- drivers


@pytest.mark.parametrize(("rate", "samples", "channels"), [(48_000, 96_000, 2), (44_100, 30_000, 1), (8_000, 9_000, 6)])
def test_a_sound_comes_back_exactly_as_long_as_the_clip_and_untouched(server, rate, samples, channels):
    wave = draw(1, channels, samples) - 0.5
    graph = empty()
    graph["empty"], graph["sound"] = graph.pop("latent"), given(server, wave=wave, rate=rate)
    inputs = {"latent": ["empty", 0], "audio_vae": ["load", 3], "audio": ["sound", 1], "start": 0.1}
    graph["latent"] = node("HarmonyDriveWithAudio", **inputs)
    graph["keep"] = node("ProbeKeep", name="own sound", audio=["latent", 1])
    server.run(graph)
    first = round(0.1 * rate)
    assert torch.equal(server.kept("own sound")["wave"], wave[..., first : first + round(SECONDS * rate)])


def test_a_sound_comes_back_for_every_clip_of_a_batch_and_drives_each_again(server):
    graph = empty(batch=2)
    graph["empty"] = graph.pop("latent")
    graph["latent"] = node("HarmonyDriveWithAudio", latent=["empty", 0], audio_vae=["load", 3], audio=["inputs", 1], start=0.0)
    graph["again"] = node("HarmonyDriveWithAudio", latent=["empty", 0], audio_vae=["load", 3], audio=["latent", 1], start=0.0)
    graph["keep"] = node("ProbeKeep", name="for both", audio=["latent", 1], after=["latent", 0])
    graph["keep again"] = node("ProbeKeep", name="for both again", after=["again", 0])
    server.run(graph)
    kept = server.kept("for both")
    first, second = kept["wave"].chunk(2, -1)
    assert len(kept["wave"]) == 1 and first.shape[-1] == round(SECONDS * 44_100)
    assert torch.equal(first, second)
    again = server.kept("for both again")["after.audio"]  # encoded as a batch: the same to rounding
    assert (kept["after.audio"] - again).abs().max() < 1e-3


@pytest.mark.parametrize("channels", [3, 4])
def test_pictures_come_back_exactly_as_many_as_the_clip_has_and_untouched(server, channels):
    images = draw(20, HEIGHT, WIDTH, 3)
    graph = empty()
    opaque = torch.cat([images, torch.ones(20, HEIGHT, WIDTH, channels - 3)], dim=-1)
    graph["empty"], graph["video"] = graph.pop("latent"), given(server, images=opaque)
    graph["latent"] = node("HarmonyDriveWithVideo", latent=["empty", 0], video_vae=["load", 2], images=["video", 0])
    graph["keep"] = node("ProbeKeep", name="own pictures", images=["latent", 1])
    server.run(graph)
    assert torch.equal(server.kept("own pictures")["images"], images[:FRAMES])


BROKEN = torch.full((20, HEIGHT, WIDTH, 3), float("nan"))
NO_DRIVER = {
    "no sound": ("audio", {}, "HarmonyDriveWithAudio: audio: there is no sound in it"),
    "late": ("audio", {"wave": draw(1, 2, 44_100), "start": 3.0}, "audio: nothing is left of it after 3 s, it lasts 1.00 s"),
    "short": ("audio", {"wave": draw(1, 2, 44_100), "start": 0.7}, "audio: from 0.7 s on it lasts 0.30 s, the clip 0.54 s"),
    "noise": ("audio", {"wave": draw(1, 2, 44_100) / 0}, "audio: it holds samples that are not finite"),
    "pair": ("audio", {"wave": draw(2, 2, 44_100)}, "audio: 2 were given for 1 clips"),
    "one": ("video", {"images": draw(1, HEIGHT, WIDTH, 3)}, "images: there is 1 picture, the clip has 13; connect a video"),
    "few": ("video", {"images": draw(9, HEIGHT, WIDTH, 3)}, "images: there are 9 pictures, the clip has 13"),
    "size": ("video", {"images": draw(20, 48, 32, 3)}, "images: they are 32 x 48, the clip is 48 x 32; resize them"),
    "alpha": ("video", {"images": draw(20, HEIGHT, WIDTH, 4)}, "images: parts of them are transparent"),
    "grey": ("video", {"images": draw(20, HEIGHT, WIDTH, 1)}, "images: their channels are 1, red, green and blue are 3"),
    "nothing": ("video", {"images": draw(0, HEIGHT, WIDTH, 3)}, "images: there is no picture in a shape of"),
    "broken": ("video", {"images": BROKEN}, "images: they hold values that are not finite"),
    "first size": ("first", {"images": draw(1, 48, 32, 3)}, "HarmonyFirstFrame: images: they are 32 x 48"),
    "first alpha": ("first", {"images": draw(1, HEIGHT, WIDTH, 4)}, "HarmonyFirstFrame: images: parts of them are transparent"),
    "clip size": ("empty", {"images": draw(20, 40, 32, 3)}, "images: height 40 is not a multiple of 16; .*; resize them"),
    "clip sound": ("empty", {}, "HarmonyEmptyLatent: audio: there is no sound in it"),
    "seconds": ("empty", {"seconds": 0.5}, "seconds: no clip lasts exactly 0.5 s at 24 fps; nearest: 0.3750 s .* or 0.5417 s"),
}


@pytest.mark.parametrize("case", NO_DRIVER)
def test_what_cannot_be_given_is_one_sentence(server, case):
    kind, content, message = NO_DRIVER[case]
    content = dict(content)
    changes = {key: content.pop(key) for key in ("start", "seconds") if key in content}
    graph = clip_graph("audio" if kind == "empty" else kind)
    graph["inputs"] = given(server, **content)
    if kind == "empty":
        graph["latent"] = graph.pop("empty")
        graph["latent"]["inputs"] |= {"images": ["inputs", 0]} if content else {} if changes else {"audio": ["inputs", 1]}
    graph["latent"]["inputs"] |= changes
    refused(server, sampled(graph, "wrong"), message)


@pytest.mark.parametrize("first", ["audio", "video"])
def test_both_streams_given_is_refused_before_sampling(server, first):
    graph = clip_graph(first)
    graph["driven"] = graph.pop("latent")
    other = {
        "audio": node("HarmonyDriveWithVideo", latent=["driven", 0], video_vae=["load", 2], images=["inputs", 0]),
        "video": node("HarmonyDriveWithAudio", latent=["driven", 0], audio_vae=["load", 3], audio=["inputs", 1], start=0.0),
    }
    graph["latent"] = other[first]
    refused(server, sampled(graph, "wrong"), "latent: the (sound is|pictures are) given as a whole already")


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_everything_kept_is_refused_at_the_sampler(server, sampler):
    graph = SAMPLERS[sampler](spanned(empty(), CONTENT), "wrong")
    refused(server, graph, "latent: both streams are given as a whole; leave one of them free")


@pytest.mark.parametrize(
    "kind", ["HarmonyFirstFrame", "HarmonyDriveWithVideo", "HarmonyDriveWithAudio", "HarmonyKeepSpan", "HarmonySaveLatent"]
)
@pytest.mark.parametrize("other", ["EmptyLatentImage", "EmptyHunyuanLatentVideo"])
def test_a_latent_of_another_kind_is_refused(server, kind, other):
    graph = empty()
    length = {} if other == "EmptyLatentImage" else {"length": 13}
    graph["latent"] = node(other, width=WIDTH, height=HEIGHT, batch_size=1, **length)
    inputs = {
        "HarmonyFirstFrame": {"images": ["inputs", 0], "video_vae": ["load", 2]},
        "HarmonyDriveWithVideo": {"images": ["inputs", 0], "video_vae": ["load", 2]},
        "HarmonyDriveWithAudio": {"audio": ["inputs", 1], "audio_vae": ["load", 3], "start": 0.0},
        "HarmonyKeepSpan": {**SPAN, **CONTENT},
        "HarmonySaveLatent": {"filename_prefix": "wrong"},
    }
    graph["wrong"] = node(kind, latent=["latent", 0], **inputs[kind])
    if kind != "HarmonySaveLatent":
        graph["keep"] = node("ProbeKeep", name="wrong", before=["wrong", 0])
    refused(server, graph, f"{kind}: latent: this is no latent of picture and sound; make it with Empty Harmony Latent")


# ---- kept spans


@pytest.mark.parametrize("stream", STREAMS)
def test_keeping_all_of_a_stream_is_driving_with_it(server, stream):
    driven = saved(server, clip_graph(stream))
    graph = spanned(empty(), PICTURES if stream == "video" else SOUND)
    kept = saved(server, graph)
    assert driven.keys() == kept.keys()
    assert all(torch.equal(driven[key], kept[key]) for key in driven)


@pytest.mark.parametrize(("start", "end"), [(0.0, 0.3), (0.1, 0.4), (0.05, 0.0), (0.2, 9.0)])
def test_a_span_keeps_the_latents_that_lie_wholly_in_it(server, spec, start, end):
    kept = saved(server, spanned(empty(), {**CONTENT, "start": start, "end": end, "content_start": start}))
    whole = saved(server, spanned(empty(), CONTENT))
    until = end if 0 < end < SECONDS else 10.0
    for modality, name in zip(Modality, STREAMS, strict=True):
        inside = in_span(spec, modality, start, until)
        assert inside.sum() > 0
        assert torch.equal(times(kept[f"mask.{name}"]), 1.0 - inside.float())
        key = "raw.video" if name == "video" else name
        assert torch.equal(kept[key][:, :, inside], whole[key][:, :, inside])
        assert not kept[key][:, :, ~inside].any()


@pytest.mark.parametrize(("start", "end"), [(0.1, 0.35), (0.21, 0.22)])
def test_freeing_leaves_what_keeping_both_sides_keeps(server, start, end):
    freed = saved(server, spanned(empty(), CONTENT, {"action": "free", "start": start, "end": end}))
    sides = [{**CONTENT, "end": start}, {**CONTENT, "start": end, "content_start": end}]
    kept = saved(server, spanned(empty(), *sides))
    for name in STREAMS:
        assert 0 < times(kept[f"mask.{name}"]).sum() < times(kept[f"mask.{name}"]).numel()
        assert torch.equal(freed[f"mask.{name}"], kept[f"mask.{name}"])


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_what_is_kept_comes_back_bit_for_bit_and_the_rest_is_made(server, spec, sampler):
    """A clip spoken anew from 0.15 to 0.35 s, its pictures made anew from 0.3 s on."""
    spans = [
        CONTENT,
        {"action": "free", "stream": "sound", "start": 0.15, "end": 0.35},
        {"action": "free", "stream": "picture", "start": 0.3},
    ]
    graph = SAMPLERS[sampler](spanned(empty(), *spans), f"spans-{sampler}")
    masks = saved(server, graph)
    kept = server.kept(f"spans-{sampler}")
    for name in STREAMS:
        free = times(masks[f"mask.{name}"]).bool()
        assert 0 < free.sum() < free.numel()
        before, after = kept[f"before.{name}"], kept[f"after.{name}"]
        assert torch.equal(before[:, :, ~free], after[:, :, ~free])
        changed = (before != after).transpose(1, 2).flatten(2).any(2)[0]
        assert torch.equal(changed, free)
        assert after.isfinite().all()


@pytest.mark.parametrize("sampler_name", ["dpmpp_2m", "uni_pc", "res_multistep", "heun"])
def test_spans_are_exact_with_any_sampler(server, sampler_name):
    spans = [CONTENT, {"action": "free", "start": 0.15, "end": 0.35}]
    graph = sampled_by_stock(spanned(empty(), *spans), f"spans-{sampler_name}", sampler_name=sampler_name, cfg=2.0)
    masks = saved(server, graph)
    kept = server.kept(f"spans-{sampler_name}")
    for name in STREAMS:
        free = times(masks[f"mask.{name}"]).bool()
        changed = (kept[f"before.{name}"] != kept[f"after.{name}"]).transpose(1, 2).flatten(2).any(2)[0]
        assert torch.equal(changed, free)


def test_what_was_sampled_is_kept_while_the_rest_is_sampled_again(server):
    graph = sampled(empty(), "unused")
    del graph["keep"]
    graph["again"] = node("HarmonyKeepSpan", latent=["sampled", 0], **{**SPAN, "stream": "sound"})
    graph["second"] = node("HarmonyKSampler", **graph["sampled"]["inputs"] | {"latent": ["again", 0], "seed": SEED + 1})
    graph["keep"] = node("ProbeKeep", name="again", before=["sampled", 0], after=["second", 0])
    server.run(graph)
    kept = server.kept("again")
    assert torch.equal(kept["before.audio"], kept["after.audio"])
    assert not torch.equal(kept["before.video"], kept["after.video"])


def test_a_clip_is_made_longer(server, spec):
    """Fifteen pictures and 0.9 s of sound in a clip of 25 pictures: 13 and 0.9 s are kept."""
    graph = sampled(spanned(empty(seconds=25 / 24), CONTENT), "longer")
    masks = saved(server, graph)
    assert times(masks["mask.video"]).tolist() == [0, 0, 0, 0, 1, 1, 1]
    assert times(masks["mask.audio"]).tolist() == [0] * 28 + [1] * 5
    kept = server.kept("longer")
    assert torch.equal(kept["before.video"][:, :, :4], kept["after.video"][:, :, :4])
    assert kept["after.video"][:, :, 4:].abs().max() > 0


@pytest.mark.parametrize(("end", "kept"), [(0.0, [0, 0, 1, 1]), (0.3, [0, 0, 1, 1]), (0.35, [0, 0, 1, 1]), (0.375, None)])
def test_an_end_that_is_named_has_to_be_reached(server, end, kept):
    """Eight pictures hold the first two latents; the third, until 0.375 s, needs a ninth."""
    graph = spanned(empty(), {**PICTURES, "images": ["eight", 0], "end": end})
    graph["eight"] = given(server, images=draw(8, HEIGHT, WIDTH, 3))
    if kept is None:
        refused(server, sampled(graph, "wrong"), "images: put at 0 s, it lasts until 0.33 s of the clip; end the span there")
    else:
        assert times(saved(server, graph)["mask.video"]).tolist() == kept


def test_a_beginning_is_made_for_a_clip(server):
    graph = spanned(empty(seconds=25 / 24), {**CONTENT, "start": 0.5})
    masks = saved(server, graph)
    assert times(masks["mask.video"]).tolist() == [1, 1, 1, 1, 0, 0, 0]
    assert times(masks["mask.audio"]).tolist() == [1] * 16 + [0] * 17


def test_synccfg_holds_the_first_picture_that_is_kept(server, inputs):
    kept = saved(server, spanned(empty(), {**PICTURES, "content_start": 0.25, "end": 0.1}))
    assert torch.equal(kept["still"], inputs["images"][6:7])
    later = saved(server, spanned(empty(), {**PICTURES, "start": 0.1}))
    freed = saved(server, spanned(empty(), PICTURES, {"action": "free", "stream": "picture", "end": 0.01}))
    assert "still" not in later and "still" not in freed


def test_content_in_a_free_span_is_where_sampling_starts(server):
    graph = sampled_by_stock(spanned(empty(), {**CONTENT, "action": "free"}), "from content")
    graph["sampled"]["inputs"]["denoise"] = 0.2
    server.run(graph)
    kept = server.kept("from content")
    for name in STREAMS:
        moved = (kept[f"after.{name}"] - kept[f"before.{name}"]).std()
        assert kept[f"before.{name}"].any() and moved > 0


NO_SPAN = {
    "after": ({**CONTENT, "start": 0.6}, "start: 0.6 s is after the end of the clip, which lasts 0.5417 s"),
    "backwards": ({**CONTENT, "start": 0.3, "end": 0.2}, "end: 0.2 s is not after the start at 0.3 s"),
    "narrow": (
        {**PICTURES, "start": 0.1, "end": 0.2},
        "end: no latent of picture lies wholly in 0.1 to 0.2 s, each lasts 0.167",
    ),
    "nothing": ({}, "images: the latent has no picture of its own in the span to keep; connect what to keep"),
    "half": ({**CONTENT, "audio": None}, "audio: the latent has no sound of its own"),
    "other": ({**CONTENT, "stream": "sound"}, "images: stream is sound; choose picture and sound there, or disconnect it"),
    "codec": ({**CONTENT, "video_vae": None}, "video_vae: there is none in this checkpoint"),
    "swapped": ({**CONTENT, "audio_vae": ["load", 2]}, "audio_vae: this VAE is not one of audio"),
    "ends": ({**CONTENT, "content_start": 0.5, "end": 0.5}, "images: put at 0 s, it lasts until 0.12 s of the clip"),
    "skipped": ({**CONTENT, "content_start": 1.0}, "content_start: 1 s is after the last of 15 pictures at 24 fps"),
    "silent": ({**SOUND, "content_start": 2.0}, "audio: nothing is left of it after 2 s"),
}


@pytest.mark.parametrize("case", NO_SPAN)
def test_a_span_that_cannot_be_kept_is_one_sentence(server, case):
    changes, message = NO_SPAN[case]
    graph = spanned(empty(), changes)
    graph["latent"]["inputs"] = {key: value for key, value in graph["latent"]["inputs"].items() if value is not None}
    refused(server, sampled(graph, "wrong"), f"HarmonyKeepSpan: {message}")


# ---- stock masks


def masked(graph: Graph, values: torch.Tensor, server) -> Graph:
    """With a stock mask of one picture (H, W) set on ``latent``."""
    graph["before mask"] = graph.pop("latent")
    graph["mask picture"] = given(server, images=values[None, ..., None].expand(-1, -1, -1, 3))
    graph["mask"] = node("ImageToMask", image=["mask picture", 0], channel="red")
    graph["latent"] = node("SetLatentNoiseMask", samples=["before mask", 0], mask=["mask", 0])
    return graph


def test_a_stock_mask_keeps_a_part_of_every_picture(server):
    half = torch.ones(HEIGHT, WIDTH)
    half[:, : WIDTH // 3] = 0
    graph = masked(spanned(empty(), CONTENT), half, server)
    masks = saved(server, sampled_by_stock(graph, "stock mask"))
    kept = server.kept("stock mask")
    free = masks["mask.video"].bool().expand_as(kept["before.video"])
    assert 0 < free.sum() < free.numel()
    assert torch.equal(kept["before.video"] != kept["after.video"], free)
    # It says nothing about the sound, which is made as a whole: a stock mask takes the place of the one there was.
    assert masks["mask.audio"].all()
    assert not torch.equal(kept["before.audio"], kept["after.audio"])


def test_a_stock_mask_stays_where_no_span_changes_it(server):
    half = torch.ones(HEIGHT, WIDTH)
    half[:16] = 0
    masks = saved(server, spanned(masked(empty(), half, server), {**SOUND, "end": 0.2}))
    assert torch.equal(masks["mask.video"][0, 0, :, 0], torch.zeros(4, 3)) and masks["mask.video"][0, 0, :, 1].all()
    assert 0 < masks["mask.audio"].sum() < masks["mask.audio"].numel()


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_soft_mask_lies_between_what_was_there_and_what_is_made(server, sampler):
    """The more of a picture is free, the farther it ends from what was given; 0 stays exactly."""
    far = []
    for free in (0.0, 0.25, 0.5, 1.0):
        graph = masked(spanned(empty(), CONTENT), torch.full((HEIGHT, WIDTH), free), server)
        name = f"soft-{sampler}-{free}"
        server.run(SAMPLERS[sampler](graph, name))
        kept = server.kept(name)
        assert kept["after.video"].isfinite().all() and kept["after.audio"].isfinite().all()
        far.append((kept["after.video"] - kept["before.video"]).abs().mean().item())
    assert far[0] == 0
    assert far == sorted(far) and len(set(far)) == 4


# ---- files


def loaded(name: str, *, model: bool = False) -> Graph:
    graph = {
        "load": node("HarmonyLoadCheckpoint", checkpoint="small.safetensors"),
        "latent": node("HarmonyLoadLatent", file=name, **({"model": ["load", 0]} if model else {})),
    }
    return graph if model else {"latent": graph["latent"]}


def output_name(server, path: Path) -> str:
    return f"{path.relative_to(server.base / 'output').as_posix()} [output]"


def test_a_latent_comes_back_from_a_file_bit_for_bit(server):
    graph = spanned(empty(batch=2), {**CONTENT, "end": 0.3}, {"action": "free", "stream": "sound", "start": 0.1, "end": 0.2})
    first = written(server, sampled(graph, "before saving"), "sampled")
    second = written(server, loaded(output_name(server, first)))
    one, other = load_file(first), load_file(second)
    assert {"video", "audio", "raw.video", "mask.video", "mask.audio", "still"} == set(one)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)
    assert torch.equal(one["raw.video"], server.kept("before saving")["after.video"])


def test_sampling_goes_on_from_a_file_as_without_it(server):
    graph = spanned(empty(), {**CONTENT, "end": 0.3})
    name = output_name(server, written(server, graph))
    server.run(sampled(graph, "without a file"))
    again = {**empty(), "latent": loaded(name)["latent"]}
    server.run(sampled(again, "from a file"))
    one, other = server.kept("without a file"), server.kept("from a file")
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_harmony_core_reads_what_comfyui_saved(server, pipeline, spec):
    path = written(server, sampled(empty(), "saved for core"), "sampled")
    latents, same = load_latents(path)
    kept = server.kept("saved for core")
    assert same == spec
    assert torch.equal(latents.audio, kept["after.audio"])
    assert torch.allclose(pipeline.video_vae.denormalise(latents.video), kept["after.video"], atol=1e-5)
    with safe_open(path, framework="pt") as file:
        assert json.loads(file.metadata()["prompt"])["sampled"]["class_type"] == "HarmonyKSampler"


@pytest.mark.parametrize("checkpoint", ["small.safetensors", BUILT_IN])
def test_comfyui_reads_what_harmony_generate_saves(server, spec, checkpoint):
    path = resolve("harmony-tiny") if checkpoint == BUILT_IN else server.base / "models" / "checkpoints" / checkpoint
    codec = load_checkpoint(path).codecs.video
    made = AV(torch.randn(spec.video_shape()), torch.randn(spec.audio_shape()))
    save_latents(server.base / "input" / "generated.safetensors", made, spec)
    alone = {**loaded("generated.safetensors"), "shown": node("PreviewAny", source=["latent", 0])}
    refused(server, alone, "model: harmony generate wrote this file")
    graph = loaded("generated.safetensors", model=True)
    graph["load"]["inputs"]["checkpoint"] = checkpoint
    graph["keep"] = node("ProbeKeep", name="generated", before=["latent", 0])
    graph["clip"] = node("HarmonyDecode", latent=["latent", 0], video_vae=["load", 2], audio_vae=["load", 3])
    graph["keep clip"] = node("ProbeKeep", name="generated clip", images=["clip", 0])
    server.run(graph)
    kept = server.kept("generated")
    mean, std = (torch.tensor(values).view(1, -1, 1, 1, 1) for values in (codec.mean, codec.std))
    assert torch.equal(kept["before.video"], made.video * std + mean)
    assert torch.equal(kept["before.audio"], made.audio)
    assert server.kept("generated clip")["images"].shape == (FRAMES, HEIGHT, WIDTH, 3)
    # What ComfyUI writes of it is again what the command line wrote.
    again, _ = load_latents(written(server, graph))
    assert torch.allclose(again.video, made.video, atol=1e-5) and torch.equal(again.audio, made.audio)


def test_another_models_latent_is_refused(server):
    name = output_name(server, written(server, empty()))
    graph = loaded(name, model=True)
    graph["load"]["inputs"]["checkpoint"] = BUILT_IN
    graph["shown"] = node("PreviewAny", source=["latent", 0])
    refused(server, graph, "model: the file's latents are those of another model or codec")


def test_a_changed_file_is_read_again_and_an_unchanged_one_is_not(server, spec):
    path = server.base / "input" / "changing.safetensors"

    def answer() -> torch.Tensor:
        graph = loaded("changing.safetensors", model=True)
        graph["keep"] = node("ProbeKeep", name="changing", before=["latent", 0])
        number = server.queue(graph)
        server.finish(number)
        messages = server.get(f"/history/{number}")[number]["status"]["messages"]
        cached = next(data["nodes"] for kind, data in messages if kind == "execution_cached")
        return server.kept("changing")["before.audio"], "latent" in cached

    made = AV(torch.randn(spec.video_shape()), torch.randn(spec.audio_shape()))
    save_latents(path, made, spec)
    first, _ = answer()
    second, was_cached = answer()
    assert was_cached and torch.equal(first, second)
    save_latents(path, made.map(lambda x: x + 1), spec)
    third, was_cached = answer()
    assert not was_cached
    assert torch.equal(third, first + 1)


def test_another_node_may_name_the_file(server):
    name = output_name(server, written(server, empty()))
    graph = loaded(name)
    graph["latent"]["inputs"]["file"] = ["choice", 0]
    graph["choice"] = node("ComfySwitchNode", switch=True, on_true=["name", 0], on_false=["name", 0])
    graph["name"] = node("PrimitiveString", value=name)
    assert saved(server, graph)["raw.video"].shape == (1, 48, 4, 2, 3)
    graph["name"]["inputs"]["value"] = "none.safetensors"
    refused(server, {**graph, "shown": node("PreviewAny", source=["latent", 0])}, "file: there is no none.safetensors")


def test_saving_never_replaces_a_file_and_leaves_no_other(server):
    folder = server.base / "output" / "never"
    folder.mkdir()
    mine = folder / "a_00001_.safetensors"
    mine.write_text("mine")
    for number in range(3):
        graph = empty(seconds=(13 + 4 * number) / 24)
        graph["save"] = node("HarmonySaveLatent", latent=["latent", 0], filename_prefix="never/a")
        server.run(graph)
    assert mine.read_text() == "mine"
    found = sorted(path.name for path in folder.iterdir())
    assert found == [f"a_0000{n}_.safetensors" for n in range(1, 5)]
    assert [load_file(folder / name)["video"].shape[2] for name in found[1:]] == [4, 5, 6]
    assert all((folder / name).stat().st_mode == mine.stat().st_mode for name in found[1:])


@pytest.mark.parametrize(
    ("prefix", "message"),
    [
        ("../outside", "filename_prefix: '../outside' leads out of ComfyUI's output folder"),
        ("", "filename_prefix: it names no file"),
        ("folder/", "filename_prefix: it names no file"),
        ("a file/latent", "filename_prefix: cannot make the folder of 'a file/latent'"),
    ],
)
def test_a_file_that_cannot_be_written_is_one_sentence(server, prefix, message):
    (server.base / "output" / "a file").write_text("")
    before = {path for path in server.base.rglob("*") if path.suffix == ".safetensors"}
    graph = empty()
    graph["save"] = node("HarmonySaveLatent", latent=["latent", 0], filename_prefix=prefix)
    refused(server, graph, f"HarmonySaveLatent: {message}")
    assert {path for path in server.base.rglob("*") if path.suffix == ".safetensors"} == before


def spoilt(path: Path, tensors: dict, metadata: dict) -> None:
    save_file({key: value.contiguous() for key, value in tensors.items()}, path, metadata=metadata)


SPOILT = {
    "values": lambda t, m: (t | {"raw.video": t["raw.video"] / 0}, m),
    "shape": lambda t, m: (t | {"raw.video": t["raw.video"][:, :, :2]}, m),
    "mask": lambda t, m: (t | {"mask.audio": t["mask.audio"] + 1}, m),
    "mask shape": lambda t, m: (t | {"mask.video": t["mask.video"][:, :, :1]}, m),
    "still": lambda t, m: (t | {"still": t["still"][:, :16]}, m),
    "stream": lambda t, m: ({key: value for key, value in t.items() if key != "audio"}, m),
    "clip": lambda t, m: (t, m | {LATENTS_KEY: m[LATENTS_KEY].replace('"width": 48', '"width": 64')}),
    "statistics": lambda t, m: (t, m | {"harmony.statistics": "[[1], [0]]"}),
    "no metadata": lambda t, m: (t, {}),
}


@pytest.mark.parametrize("case", SPOILT)
def test_a_file_of_something_else_is_one_sentence(server, case):
    good = written(server, clip_graph("first"))
    with safe_open(good, framework="pt") as file:
        metadata = file.metadata()
    spoilt(server.base / "input" / f"spoilt {case}.safetensors", *SPOILT[case](load_file(good), metadata))
    graph = {**loaded(f"spoilt {case}.safetensors"), "shown": node("PreviewAny", source=["latent", 0])}
    refused(server, graph, "HarmonyLoadLatent: file: ")


def test_half_a_file_is_one_sentence(server):
    good = written(server, empty()).read_bytes()
    (server.base / "input" / "half.safetensors").write_bytes(good[: len(good) // 2])
    refused(server, {**loaded("half.safetensors"), "shown": node("PreviewAny", source=["latent", 0])}, "file: ")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none.safetensors", "file: there is no none.safetensors; put it into ComfyUI's input folder"),
        ("../models/checkpoints/small.safetensors", "leads out of ComfyUI's folders"),
        ("/etc/hostname", "leads out of ComfyUI's folders"),
        ("text.txt", "file: 'text.txt' is no .safetensors file"),
    ],
)
def test_a_name_that_is_no_latent_is_refused_before_anything_runs(server, name, message):
    (server.base / "input" / "text.txt").write_text("")
    with pytest.raises(Failed, match=message):
        server.queue({**loaded(name), "shown": node("PreviewAny", source=["latent", 0])})


def test_latents_are_offered_for_loading(server):
    path = written(server, empty())
    (server.base / "input" / "offered.safetensors").write_bytes(path.read_bytes())
    kind, options = server.get("/object_info/HarmonyLoadLatent")["HarmonyLoadLatent"]["input"]["required"]["file"]
    offered = options["options"] if kind == "COMBO" else kind
    assert "offered.safetensors" in offered
    assert output_name(server, path) in offered

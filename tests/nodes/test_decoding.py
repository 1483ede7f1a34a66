"""Harmony Decode: in the memory there is, of batches, with other VAEs, and cancelled."""

import time
from pathlib import Path

import pytest
import torch
from all_in_one import save_all_in_one
from comfy_server import Failed
from comfyui import run_beside_comfy
from graphs import FRAMES, HEIGHT, WIDTH, clip_graph, node, sampled_by_stock

from harmony_core.media import read_audio

BLEND = 0.02
"""Tiles differ from the whole where they are blended, and hardly there: of pictures in [0, 1]."""


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    path = save_all_in_one(tmp_path_factory.mktemp("decode") / "small.safetensors")
    return run_beside_comfy(Path(__file__).with_name("beside_decode.py"), str(path))


def test_what_runs_out_of_memory_is_tried_in_fewer_latents_and_then_in_tiles(found):
    assert found["chunks_failed_before"] == 1
    assert found["chunks"] < 1e-4
    assert found["tiles_failed_before"] == 2
    assert found["tiles"] < BLEND


def test_sound_that_runs_out_of_memory_is_tried_in_shorter_pieces(found):
    assert found["sound"] < 1e-4


@pytest.mark.parametrize(
    ("case", "stream"), [("no_memory", "video"), ("no_memory_for_sound", "audio"), ("stock_no_memory", "video")]
)
def test_too_little_memory_for_the_smallest_pieces_is_one_sentence(found, case, stream):
    assert found[case].startswith(f"latent: memory does not suffice to decode its {stream}")
    assert "\n" not in found[case]


def test_a_codec_that_ran_out_of_memory_decodes_as_before(found):
    assert found["after_no_memory"] == 0


def test_our_vaes_have_all_that_every_vae_of_comfyui_has(found):
    assert found["vaes_lack"] == []


def test_comfyuis_own_wan_vae_decodes_the_same_and_falls_back_to_tiles(found):
    assert found["stock"] < 1e-4
    # ComfyUI's own tiles do not know how far this codec sees, so they are near and not equal.
    assert 0 < found["stock_tiles"] < 0.25 * found["mirrored"]


def test_the_progress_bar_rises_to_its_end(found):
    assert found["progress_rises"]
    assert found["progress_ends"]


@pytest.mark.parametrize("vae", ["ours", "stock"])
def test_cancelling_stops_at_once_and_leaves_the_next_decoding_identical(found, vae):
    assert found[f"{vae}_cancelled_after"] == 1
    assert found[f"{vae}_after_cancelling"] == found["after_no_memory" if vae == "ours" else "stock"]


def decoded(graph: dict, **inputs) -> dict:
    graph["clip"] = node("HarmonyDecode", latent=["sampled", 0], video_vae=["load", 2], audio_vae=["load", 3], **inputs)
    return graph


def test_a_batch_is_decoded_whole_or_one_clip_of_it(server):
    for clip, name in ((0, "all"), (1, "first"), (2, "second")):
        graph = decoded(sampled_by_stock(clip_graph(), "unused"), clip=clip)
        graph["latent"]["inputs"]["batch"] = 2
        graph["keep clip"] = node("ProbeKeep", name=name, images=["clip", 0], audio=["clip", 1])
        server.run(graph)
    whole, *parts = (server.kept(name) for name in ("all", "first", "second"))
    assert tuple(whole["images"].shape) == (2 * FRAMES, HEIGHT, WIDTH, 3)
    assert tuple(whole["wave"].shape) == (1, 1, 2 * round(FRAMES / 24 * 16_000))
    assert torch.equal(whole["images"], torch.cat([part["images"] for part in parts]))
    assert torch.equal(whole["wave"], torch.cat([part["wave"] for part in parts], -1))
    assert not torch.equal(parts[0]["images"], parts[1]["images"])


def test_one_clip_of_a_batch_becomes_a_video(server):
    graph = decoded(sampled_by_stock(clip_graph(), "unused"), clip=2)
    graph["latent"]["inputs"]["batch"] = 2
    graph["video"] = node("CreateVideo", images=["clip", 0], audio=["clip", 1], fps=["clip", 2])
    graph["parts"] = node("GetVideoComponents", video=["video", 0])
    graph["keep parts"] = node("ProbeKeep", name="parts of a video", images=["parts", 0], audio=["parts", 1])
    server.run(graph)
    kept = server.kept("parts of a video")
    assert kept["images"].shape[0] == FRAMES
    assert kept["wave"].shape == (1, 1, round(FRAMES / 24 * 16_000))


def test_a_batch_becomes_one_video_that_is_heard_to_its_end(server):
    graph = decoded(sampled_by_stock(clip_graph(), "unused"))
    graph["latent"]["inputs"]["batch"] = 3
    graph["video"] = node("CreateVideo", images=["clip", 0], audio=["clip", 1], fps=["clip", 2])
    graph["save"] = node("SaveVideo", video=["video", 0], filename_prefix="three", format="auto", codec="auto")
    graph["report"] = node("HarmonySyncReport", images=["clip", 0], audio=["clip", 1], fps=["clip", 2])
    graph["keep clip"] = node("ProbeKeep", name="three", audio=["clip", 1])
    told = server.run(graph)["report"]
    (written,) = (server.base / "output").glob("three*.mp4")
    sound = read_audio(written).waveform[0].mean(0)
    second = 16_000 * FRAMES / 24
    assert len(sound) == pytest.approx(3 * second, abs=1024)  # an AAC block
    made = server.kept("three")["wave"][0, 0]
    for part, given in zip(sound[: len(made)].chunk(3), made.chunk(3), strict=True):
        correlation = torch.corrcoef(torch.stack([part, given[: len(part)]]))[0, 1]
        assert correlation > 0.9  # each clip has its own sound, in its own time
    # Its clips are still measured and played one by one.
    assert len(told["harmony_clips"]) == 3
    assert told["text"][0].count("Clip ") == 3


def interrupted_node(server, number: str) -> str:
    """The kind of the node that was running when a prompt was interrupted."""
    messages = dict(server.get(f"/history/{number}")[number]["status"]["messages"])
    return messages["execution_interrupted"]["node_type"]


def test_cancelling_while_decoding_leaves_the_next_run_identical(server):
    def graph(name: str, seconds: float, size: int) -> dict:
        made = clip_graph()
        made["latent"]["inputs"] |= {"seconds": seconds, "width": size, "height": size}
        made["sampled"] = made.pop("latent")  # an empty one is as long to decode as any
        made = decoded(made)
        made["keep clip"] = node("ProbeKeep", name=name, images=["clip", 0], audio=["clip", 1])
        return made

    server.run(graph("before", 25 / 24, 64))
    number = server.queue(graph("never", 1001 / 24, 512))
    while "running" not in server.states(number):
        time.sleep(0.02)
    time.sleep(2)
    server.post("/interrupt", {})
    with pytest.raises(Failed, match="interrupted"):
        server.finish(number)
    assert interrupted_node(server, number) == "HarmonyDecode"
    again = graph("after", 25 / 24, 64)
    again["clip"]["inputs"]["clip"] = 1  # another value, so that it is decoded again
    server.run(again)
    before, after = server.kept("before"), server.kept("after")
    assert all(torch.equal(before[key], after[key]) for key in before)


WRONG = {
    "no such clip": ({"clip": 3}, "clip: number 3 is asked for, the latent holds 1"),
    "the other VAE": ({"video_vae": ["load", 3]}, "video_vae: this VAE is not one of video"),
    "the other VAE too": ({"audio_vae": ["load", 2]}, "audio_vae: this VAE is not one of audio"),
    "another latent": ({"latent": ["pixels", 0]}, "latent: this is no latent of picture and sound"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_graph_is_one_sentence(server, case):
    changes, message = WRONG[case]
    graph = clip_graph()
    graph["pixels"] = node("EmptyLatentImage", width=64, height=64, batch_size=1)
    graph["sampled"] = graph.pop("latent")
    graph = decoded(graph)
    graph["clip"]["inputs"] |= changes
    graph["keep clip"] = node("ProbeKeep", name="wrong", images=["clip", 0])
    with pytest.raises(Failed, match=message) as failed:
        server.run(graph)
    assert len(str(failed.value).splitlines()) == 1

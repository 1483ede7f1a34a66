"""The pack in a real ComfyUI, through its HTTP API.

What ComfyUI samples is compared with ``harmony_core``'s own pipeline, in this process, from the same file and the same inputs.
"""

import re
from pathlib import Path

import pytest
import torch
from comfy_server import Failed
from graphs import (
    FRAMES,
    HEIGHT,
    SEED,
    TASKS,
    WIDTH,
    clip_graph,
    node,
    sampled,
    sampled_by_parts,
    sampled_by_stock,
)
from safetensors.torch import save_file
from standalone import far, standalone

from harmony_core.guidance import Guidance, sync_guidance
from harmony_core.pipeline import Pipeline
from harmony_core.types import AV
from harmony_core.weights.inspect import inspect

NEAR = 1e-4
NODES = Path(__file__).parents[2] / "nodes"
SYNC = sync_guidance(AV(3.0, 2.0))


@pytest.fixture(scope="module")
def pipeline(server):
    return Pipeline.load(server.base / "models" / "checkpoints" / "small.safetensors")


def test_the_pack_loads_without_a_word(server):
    start = server.text().split("Starting server")[0]
    lines = [line for line in start.splitlines() if "harmony" in line.lower() or "pyproject" in line]
    assert not [line for line in lines if re.search("warn|error|fail|cannot|unable", line, re.IGNORECASE)]
    assert len(lines) >= 1


def test_every_node_is_there_and_every_input_explained(server):
    known = server.get("/object_info")
    ours = {name: info for name, info in known.items() if info["category"] == "Harmony"}
    assert set(ours) == {name for path in NODES.glob("*.py") for name in re.findall(r'node_id="(\w+)"', path.read_text())}
    for name, info in ours.items():
        for key, (_, options) in {**info["input"]["required"], **info["input"].get("optional", {})}.items():
            assert options["tooltip"].endswith("."), f"{name}.{key}"


@pytest.mark.parametrize("task", TASKS)
def test_harmony_ksampler_equals_the_pipeline(server, pipeline, inputs, task):
    server.run(sampled(clip_graph(task), f"ksampler-{task}"))
    assert far(server.kept(f"ksampler-{task}"), standalone(pipeline, inputs, task, SYNC)) <= NEAR


@pytest.mark.parametrize("task", ["joint", "audio", "video"])
def test_the_stock_ksampler_equals_the_pipeline(server, pipeline, inputs, task):
    server.run(sampled_by_stock(clip_graph(task), f"stock-{task}"))
    assert far(server.kept(f"stock-{task}"), standalone(pipeline, inputs, task, Guidance())) <= NEAR


def test_the_guider_under_samplercustomadvanced_equals_the_pipeline(server, pipeline, inputs):
    server.run(sampled_by_parts(clip_graph(), "parts"))
    assert far(server.kept("parts"), standalone(pipeline, inputs, "joint", SYNC)) <= NEAR


@pytest.mark.parametrize(("task", "stream"), [("audio", "audio"), ("video", "video")])
@pytest.mark.parametrize("sampler_name", ["euler", "dpmpp_2m", "uni_pc", "res_multistep"])
def test_a_driver_comes_back_bit_for_bit(server, task, stream, sampler_name):
    name = f"driven-{task}-{sampler_name}"
    server.run(sampled_by_stock(clip_graph(task), name, sampler_name=sampler_name, cfg=2.0))
    kept = server.kept(name)
    other = "video" if stream == "audio" else "audio"
    assert torch.equal(kept[f"before.{stream}"], kept[f"after.{stream}"])
    assert torch.isfinite(kept[f"after.{other}"]).all()
    assert not torch.equal(kept[f"before.{other}"], kept[f"after.{other}"])


def test_modelsamplingsd3_changes_the_schedule_and_not_the_times(server, pipeline, inputs):
    graph = sampled_by_stock(clip_graph("audio"), "shifted")
    graph["shifted"] = node("ModelSamplingSD3", model=["load", 0], shift=5.0)
    graph["sampled"]["inputs"]["model"] = ["shifted", 0]
    server.run(graph)
    assert far(server.kept("shifted"), standalone(pipeline, inputs, "audio", Guidance())) <= NEAR


def test_two_stages_of_split_sigmas_equal_one(server, pipeline, inputs):
    graph = sampled_by_parts(clip_graph("audio"), "stages")
    graph["split"] = node("SplitSigmas", sigmas=["sigmas", 0], step=2)
    graph["no noise"] = node("DisableNoise")
    first, second = dict(graph["sampled"]["inputs"]), dict(graph["sampled"]["inputs"])
    graph["first"] = node("SamplerCustomAdvanced", **first | {"sigmas": ["split", 0]})
    changes = {"sigmas": ["split", 1], "noise": ["no noise", 0], "latent_image": ["first", 0]}
    graph["sampled"] = node("SamplerCustomAdvanced", **second | changes)
    server.run(graph)
    assert far(server.kept("stages"), standalone(pipeline, inputs, "audio", SYNC)) <= NEAR


def test_a_lora_changes_the_clip_and_is_undone(server):
    key = "diffusion_model.video.blocks.0.ffn.0"
    generator = torch.Generator().manual_seed(3)
    down, up = torch.randn(4, 48, generator=generator), torch.randn(64, 4, generator=generator)
    loras = server.base / "models" / "loras"
    loras.mkdir(exist_ok=True)
    save_file({f"{key}.lora_A.weight": down, f"{key}.lora_B.weight": up}, loras / "four.safetensors")

    def ran(name: str, number: int, *, with_lora: bool) -> torch.Tensor:
        graph = sampled_by_stock(clip_graph(), name)
        # Another number, or ComfyUI would answer from what it remembers.
        graph["again"] = node("ProbeAgain", latent=["latent", 0], number=number)
        graph["sampled"]["inputs"]["latent_image"] = ["again", 0]
        if with_lora:
            graph["lora"] = node("LoraLoaderModelOnly", model=["load", 0], lora_name="four.safetensors", strength_model=1.0)
            graph["sampled"]["inputs"]["model"] = ["lora", 0]
        server.run(graph)
        return server.kept(name)["after.video"]

    plain = ran("plain", 1, with_lora=False)
    lora = ran("lora", 2, with_lora=True)
    again = ran("plain again", 3, with_lora=False)
    assert (plain - lora).abs().max() > 1e-3
    assert torch.equal(plain, again)


def test_eight_nodes_from_words_to_a_file(server):
    graph = sampled(clip_graph(), "unused")
    del graph["keep"]
    graph["clip"] = node("HarmonyDecode", latent=["sampled", 0], video_vae=["load", 2], audio_vae=["load", 3])
    graph["video"] = node("CreateVideo", images=["clip", 0], audio=["clip", 1], fps=["clip", 2])
    graph["save"] = node("SaveVideo", video=["video", 0], filename_prefix="clip", format="auto", codec="auto")
    server.run(graph)
    assert len(graph) <= 8
    (written,) = (server.base / "output").glob("clip*.mp4")
    assert written.stat().st_size > 1000


def test_a_model_saved_by_modelsave_gives_the_same(server):
    graph = sampled_by_stock(clip_graph(), "unsaved")
    graph["save"] = node("ModelSave", model=["load", 0], filename_prefix="diffusion_models/again")
    server.run(graph)
    (written,) = (server.base / "output" / "diffusion_models").glob("again*.safetensors")
    server.run(sampled_by_stock(clip_graph(checkpoint=written.name), "saved"))
    unsaved, saved = server.kept("unsaved"), server.kept("saved")
    assert all(torch.equal(unsaved[key], saved[key]) for key in unsaved)


def checkpoint_saved(server, graph: dict, name: str, **connected) -> str:
    """Run a graph with CheckpointSave; the name of its file."""
    save = node("CheckpointSave", model=["load", 0], filename_prefix=f"checkpoints/{name}", **connected)
    server.run({**graph, "save": save})
    (written,) = (server.base / "output" / "checkpoints").glob(f"{name}*.safetensors")
    assert inspect(written).folder == "checkpoints"
    return written.name


@pytest.mark.parametrize(
    ("stream", "codec", "kind", "decoder"), [("video", 2, "images", "VAEDecode"), ("audio", 3, "audio", "VAEDecodeAudio")]
)
def test_a_checkpoint_saved_by_checkpointsave_is_whole_again(server, stream, codec, kind, decoder):
    def graph(when: str, checkpoint: str = "small.safetensors") -> dict:
        made = sampled_by_stock(clip_graph(checkpoint=checkpoint), f"{stream} {when}")
        made["decoded"] = node(decoder, samples=["sampled", 0], vae=["load", codec])
        made["keep decoded"] = node("ProbeKeep", name=f"{stream} decoded {when}", **{kind: ["decoded", 0]})
        return made

    name = checkpoint_saved(server, graph("before"), stream, clip=["load", 1], vae=["load", codec])
    server.run(graph("after", name))
    for what in (stream, f"{stream} decoded"):
        before, after = server.kept(f"{what} before"), server.kept(f"{what} after")
        assert all(torch.equal(before[key], after[key]) for key in before)


def test_what_checkpointsave_took_from_elsewhere_is_left_in_its_file(server):
    graph = sampled_by_stock(clip_graph(), "with strangers")
    graph["other"] = node("HarmonyLoadCheckpoint", checkpoint="harmony-tiny (built in)")
    name = checkpoint_saved(server, graph, "strangers", clip=["other", 1], vae=["other", 2])
    graph = sampled_by_stock(clip_graph(checkpoint=name), "without strangers")
    server.run(graph)
    before, after = server.kept("with strangers"), server.kept("without strangers")
    assert all(torch.equal(before[key], after[key]) for key in before)
    graph["decoded"] = node("HarmonyDecode", latent=["sampled", 0], video_vae=["load", 2], audio_vae=["load", 3])
    graph["keep decoded"] = node("ProbeKeep", name="unseen", images=["decoded", 0])
    with pytest.raises(Failed, match="video_vae: there is none in this checkpoint"):
        server.run(graph)


def test_the_built_in_checkpoint(server):
    graph = clip_graph(checkpoint="harmony-tiny (built in)")
    graph["latent"]["inputs"] |= {"seconds": 1.0417, "width": 64, "height": 64}
    graph["told"]["inputs"] |= {"picture": "a blue ball bouncing in a room", "sound": "low knocks of wood", "transcript": ""}
    graph = sampled(graph, "tiny", steps=2)
    graph["clip"] = node("HarmonyDecode", latent=["sampled", 0], video_vae=["load", 2], audio_vae=["load", 3])
    graph["keep clip"] = node("ProbeKeep", name="tiny clip", images=["clip", 0], audio=["clip", 1])
    server.run(graph)
    kept = server.kept("tiny clip")
    assert tuple(kept["images"].shape) == (25, 64, 64, 3)
    assert kept["wave"].abs().max() > 0


def test_stock_nodes_decode_and_encode_too(server):
    graph = sampled_by_stock(clip_graph(), "unused")
    graph["ours"] = node("HarmonyDecode", latent=["sampled", 0], video_vae=["load", 2], audio_vae=["load", 3])
    graph["pictures"] = node("VAEDecode", samples=["sampled", 0], vae=["load", 2])
    graph["sound"] = node("VAEDecodeAudio", samples=["sampled", 0], vae=["load", 3])
    graph["sound too"] = node("LTXVAudioVAEDecode", samples=["sampled", 0], audio_vae=["load", 3])
    graph["heard again"] = node("LTXVAudioVAEEncode", audio=["sound too", 0], audio_vae=["load", 3])
    graph["fourth"] = node("VAEDecodeAudio", samples=["heard again", 0], vae=["load", 3])
    graph["again"] = node("VAEEncode", pixels=["pictures", 0], vae=["load", 2])
    graph["third"] = node("VAEDecode", samples=["again", 0], vae=["load", 2])
    graph["keep"] = node("ProbeKeep", name="ours", images=["ours", 0], audio=["ours", 1])
    graph["keep stock"] = node("ProbeKeep", name="stock", images=["pictures", 0], audio=["sound", 0])
    graph["keep third"] = node("ProbeKeep", name="third", images=["third", 0], audio=["sound too", 0])
    graph["keep fourth"] = node("ProbeKeep", name="fourth", audio=["fourth", 0])
    server.run(graph)
    ours, stock = server.kept("ours"), server.kept("stock")
    assert torch.equal(ours["images"], stock["images"])
    assert tuple(ours["images"].shape) == (FRAMES, HEIGHT, WIDTH, 3)
    assert ours["wave"].shape[-1] == round(FRAMES / 24 * 16_000)
    third = server.kept("third")
    assert third["images"].shape == ours["images"].shape
    assert torch.equal(third["wave"][..., : ours["wave"].shape[-1]], ours["wave"])
    assert server.kept("fourth")["wave"].shape == third["wave"].shape


def test_a_stock_node_for_another_kind_of_sound_latent_is_told_so(server):
    graph = clip_graph()
    graph["sound"] = node("LTXVEmptyLatentAudio", frames_number=13, frame_rate=24.0, batch_size=1, audio_vae=["load", 3])
    graph["keep"] = node("VAEDecodeAudio", samples=["sound", 0], vae=["load", 3])
    graph["save"] = node("PreviewAudio", audio=["keep", 0])
    with pytest.raises(Failed, match="audio_vae: its latents have no bins of frequency; take Empty Harmony Latent"):
        server.run(graph)


def test_a_batch_has_the_clips_of_following_seeds(server, pipeline, inputs):
    graph = sampled(clip_graph(), "batch", seed=SEED - 1)
    graph["latent"]["inputs"]["batch"] = 2
    server.run(graph)
    second = {key: value[1:] for key, value in server.kept("batch").items()}
    assert far(second, standalone(pipeline, inputs, "joint", SYNC)) <= NEAR


WRONG = {
    "size": ({"latent": {"width": 50}}, "width 50"),
    "length": ({"latent": {"seconds": 0.5}}, "no clip lasts exactly 0.5 s"),
    "letters": ({"told": {"transcript": "xyz"}}, "the transcript encoder knows no"),
    "codecs": ({"sampled": {"video_vae": None}}, "SyncCFG needs both"),
    "text": ({"sampled": {"text_video": 4.0}}, "need additive"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_graph_is_one_sentence_and_the_queue_goes_on(server, case):
    changes, message = WRONG[case]
    graph = sampled(clip_graph(), "wrong")
    for name, values in changes.items():
        graph[name]["inputs"] |= values
        graph[name]["inputs"] = {key: value for key, value in graph[name]["inputs"].items() if value is not None}
    with pytest.raises(Failed, match=message) as failed:
        server.run(graph)
    assert len(str(failed.value).splitlines()) == 1
    server.run(sampled(clip_graph(), f"after-{case}", steps=1))


@pytest.mark.parametrize(("given", "wanted"), [("audio_vae", 2), ("video_vae", 3)])
def test_the_other_streams_vae_is_refused(server, given, wanted):
    graph = sampled(clip_graph(), "wrong")
    graph["sampled"]["inputs"][given] = ["load", wanted]
    with pytest.raises(Failed, match=f"{given}: this VAE is not one of {given[:5]}"):
        server.run(graph)


def test_both_streams_given_is_refused(server):
    graph = clip_graph("audio")
    graph["sound"] = graph["latent"]
    graph["latent"] = node("HarmonyDriveWithVideo", latent=["sound", 0], video_vae=["load", 2], images=["inputs", 0])
    with pytest.raises(Failed, match="the sound is given as a whole already"):
        server.run(sampled(graph, "wrong"))


@pytest.mark.parametrize(("task", "message"), [("audio", "make the clip shorter"), ("video", "there are 15 pictures")])
def test_a_driver_that_is_too_short_is_refused(server, task, message):
    graph = clip_graph(task)
    graph["empty"]["inputs"]["seconds"] = 25 / 24
    with pytest.raises(Failed, match=message):
        server.run(sampled(graph, "wrong"))


def test_a_stock_latent_is_refused(server):
    graph = sampled_by_stock(clip_graph(), "wrong")
    graph["latent"] = node("EmptyLatentImage", width=64, height=64, batch_size=1)
    del graph["keep"]["inputs"]["before"]
    with pytest.raises(Failed, match="use Empty Harmony Latent"):
        server.run(graph)

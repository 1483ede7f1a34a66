"""Captions through ComfyUI's own CLIPLoader: umT5 for models that have no caption encoder of their own."""

import os
import subprocess
import time
from pathlib import Path

import pytest
import torch
from all_in_one import all_in_one_config
from comfy_server import Failed
from comfyui import find_comfy, find_python, run_beside_comfy
from graphs import HEIGHT, SEED, WIDTH, Graph, node
from rounding import CHANGED, ROUNDING, away
from safetensors.torch import save_file
from small import small_branch, small_model

from harmony_core.weights.checkpoint import save_checkpoint

WORDS = {"text_dim": 4096, "text_len": 512}
"""As umT5 gives captions, and models of the large layout read them."""
FULL_SECONDS = 3600
RED, SEA = "a red ball falls", "the sea at night, waves"


def save_reader(path: Path, **words: int) -> None:
    """A model alone that reads such captions, its streams deaf to each other."""
    branches = {
        name: small_branch(*of, **WORDS | words) for name, of in {"video": (48, (1, 1, 1)), "audio": (20, (1,))}.items()
    }
    config = all_in_one_config(caption=None, **branches)
    save_checkpoint(path, config, small_model(config, silent=True).state_dict())


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("umt5")
    save_reader(folder / "words.safetensors")
    save_reader(folder / "short.safetensors", text_len=24)
    return run_beside_comfy(Path(__file__).with_name("beside_text_encoder.py"), str(folder))


def test_the_file_is_recognised_and_gives_captions_as_wide_as_the_model_reads(found):
    assert found["recognised"] == "WanT5Tokenizer"
    assert found["padded"] == WORDS["text_len"]
    assert found["shape"] == [1, WORDS["text_len"], WORDS["text_dim"]]


def test_both_captions_are_those_of_the_stock_encoder_and_zero_after_their_words(found):
    assert found["picture_is_the_stock_caption"]
    assert found["sound_is_the_stock_caption"]
    assert found["captions_differ"]
    assert found["words_are_told"]
    assert found["rest_is_zero"]


def test_a_stock_conditioning_is_the_picture_s_caption(found):
    assert found["finite"]
    assert found["stock_conditioning_samples_the_same"] == [True, True]


@pytest.mark.parametrize(
    ("change", "streams"),
    [("another_picture", [False, True]), ("another_sound", [True, False]), ("no_sound", [True, False])],
)
def test_each_caption_goes_to_its_own_branch(found, change, streams):
    assert found[change] == streams


def test_a_negative_is_heard_and_an_empty_one_is_untold(found):
    assert found["a_negative"] == [False, False]
    assert found["another_negative"] == [False, False]
    assert found["untold"] == [True, False]


def test_padding_is_no_part_of_a_caption(found):
    assert found["short"] == [1, 24, WORDS["text_dim"]]
    assert found["short_is_the_whole_caption"]


def test_a_caption_too_long_is_counted_by_its_words(found):
    count = found["too_long_tokens"]
    assert count > WORDS["text_len"]
    assert found["too_long"] == f"picture: the caption has {count} tokens, at most 512 fit; shorten it"
    assert "at most 24 fit" in found["too_long_for_short"]
    assert "512" not in found["too_long_for_short"]


def test_no_encoder_or_the_wrong_t5_is_one_sentence(found):
    for said in (found["no_clip"], found["t5"]):
        assert said.startswith("clip: ")
        assert "Load CLIP with umT5, type wan" in said
        assert len(said.splitlines()) == 1
    assert "T5-XXL" in found["t5"]


def told(clip: list, picture: str, sound: str = "") -> dict:
    return node("HarmonyEncode", model=["load", 0], clip=clip, picture=picture, sound=sound, transcript="")


def graph(loader: dict, positive: dict, name: str) -> Graph:
    """One step of a model that has no encoder of its own."""
    return {
        "load": node("HarmonyLoadCheckpoint", checkpoint="words.safetensors"),
        "clip": loader,
        "told": positive,
        "nothing": told(["clip", 0], ""),
        "latent": node("HarmonyEmptyLatent", model=["load", 0], seconds=0.5417, width=WIDTH, height=HEIGHT, fps=24.0, batch=1),
        "sampled": node(
            "KSampler",
            model=["load", 0],
            seed=SEED,
            steps=1,
            cfg=1.0,
            sampler_name="euler",
            scheduler="simple",
            positive=["told", 0],
            negative=["nothing", 0],
            latent_image=["latent", 0],
            denoise=1.0,
        ),
        "keep": node("ProbeKeep", name=name, after=["sampled", 0]),
    }


@pytest.fixture(scope="module")
def words(server):
    """The server, with the model that reads umT5."""
    save_reader(server.base / "models" / "checkpoints" / "words.safetensors")
    (server.base / "models" / "text_encoders").mkdir(exist_ok=True)
    return server


def test_the_encoder_of_another_model_is_one_sentence(words):
    # What the stock loader knows CLIP-L by; nothing reads the other weights.
    known = {"text_model.encoder.layers.0.mlp.fc1.weight": torch.zeros(3072, 768)}
    save_file(known, words.base / "models" / "text_encoders" / "clip_l.safetensors")
    loader = node("CLIPLoader", clip_name="clip_l.safetensors", type="stable_diffusion")
    with pytest.raises(Failed, match="HarmonyEncode: clip: its captions are 768 wide, this model reads 4096") as failed:
        words.run(graph(loader, told(["clip", 0], RED), "other"))
    assert len(str(failed.value).splitlines()) == 1
    small = graph(node("HarmonyLoadCheckpoint", checkpoint="small.safetensors"), told(["clip", 1], RED), "small")
    small["nothing"]["inputs"]["clip"] = ["clip", 1]
    with pytest.raises(Failed, match="HarmonyEncode: clip: its captions are 16 wide, this model reads 4096"):
        words.run(small)


@pytest.mark.skipif(os.environ.get("HARMONY_FULL_UMT5") != "1", reason="set HARMONY_FULL_UMT5=1: writes and loads 6.7 GB")
def test_umt5_in_its_full_size_through_the_stock_cliploader(words):
    path = words.base / "models" / "text_encoders" / "umt5_xxl_fp8_e4m3fn_scaled.safetensors"
    write_whole(path)
    before = words.text().count("clip missing")
    try:
        loader = node("CLIPLoader", clip_name=path.name, type="wan")
        both = told(["clip", 0], RED)
        both["inputs"]["one_caption"] = True
        positives = {"both": both, "stock": node("CLIPTextEncode", clip=["clip", 0], text=RED)}
        kept = {}
        for name, positive in positives.items():
            # What is not guided against needs no caption: this one takes minutes on a CPU.
            one = graph(loader, positive, f"full-{name}")
            one["nothing"] = node("ConditioningZeroOut", conditioning=["told", 0])
            finish(words, words.queue(one))
            kept[name] = words.kept(f"full-{name}")
    finally:
        words.post("/free", {"unload_models": True, "free_memory": True})
        path.unlink()
    assert all(bool(x.isfinite().all()) for one in kept.values() for x in one.values())
    # The streams are deaf to each other: both captions of the picture are the same, and only one of the sounds is told.
    assert away(kept["both"]["after.video"], kept["stock"]["after.video"]) <= ROUNDING
    assert away(kept["both"]["after.audio"], kept["stock"]["after.audio"]) > CHANGED
    assert words.text().count("clip missing") == before


def finish(server, number: str) -> None:
    """Wait for a graph of many minutes."""
    end = time.monotonic() + FULL_SECONDS
    while server.states(number) and time.monotonic() < end:
        time.sleep(2)
    server.finish(number)


def write_whole(path: Path) -> None:
    """The file in its full size, written by the interpreter that has the tokenizer's package."""
    code = "import sys, pathlib, umt5; umt5.write_umt5(pathlib.Path(sys.argv[1]), umt5.Sizes())"
    helpers = Path(__file__).parents[1] / "helpers"
    environment = {**os.environ, "PYTHONPATH": str(helpers), "OMP_NUM_THREADS": "1"}
    subprocess.run([find_python(find_comfy()), "-c", code, str(path)], check=True, env=environment)

"""LoRAs on a real ComfyUI: every naming does the same, they add up, and nothing of them stays."""

from pathlib import Path

import pytest
import torch
from all_in_one import all_in_one_config, save_all_in_one
from comfy_server import Failed
from comfyui import run_beside_comfy
from graphs import STEPS, clip_graph, node, sampled_by_stock
from rounding import CHANGED, ROUNDING, away
from safetensors.torch import save_file
from standalone import far, standalone

from harmony_core.pipeline import Pipeline
from harmony_core.types import AV
from harmony_core.weights.keymap import WanLayout, from_original
from harmony_core.weights.lora import load_lora, merge_loras, parameter_shapes

NEAR = 1e-4
RANK = 4
LAYERS = [f"video.blocks.{n}.{part}" for n in range(2) for part in ("self_attn.q", "cross_attn.o", "ffn.0", "ffn.2")]
"""Of a LoRA of Wan's."""
SOUND = ["audio.blocks.0.ffn.2", "audio.blocks.1.self_attn.v", "interaction.layers.1.to_audio.main.attn.k"]


def wan(layer: str) -> str:
    return layer.removeprefix("video.")


def diffusers(layer: str) -> str:
    return next(iter(from_original({wan(layer): 0}, WanLayout.DIFFUSERS)))


NAMINGS = {
    "own": (lambda layer: f"diffusion_model.{layer}", ".lora_up.weight", ".lora_down.weight"),
    "comfyui": (lambda layer: f"diffusion_model.{wan(layer)}", ".lora_B.weight", ".lora_A.weight"),
    "kohya": (lambda layer: f"lora_unet_{wan(layer).replace('.', '_')}", ".lora_up.weight", ".lora_down.weight"),
    "diffusers": (lambda layer: f"transformer.{diffusers(layer)}", ".lora_B.weight", ".lora_A.weight"),
    "peft": (lambda layer: f"base_model.model.{wan(layer)}", ".lora_B.default.weight", ".lora_A.default.weight"),
    "ovi": (lambda layer: layer.replace("video.", "video_model."), ".lora_B.weight", ".lora_A.weight"),
}


@pytest.fixture(scope="module")
def loras(server):
    """LoRA files in ComfyUI's folder: one of the video branch in every naming, one of the sound, and bad ones."""
    folder = server.base / "models" / "loras"
    folder.mkdir(exist_ok=True)
    shapes, generator = parameter_shapes(all_in_one_config()), torch.Generator().manual_seed(5)

    def pairs(layers):
        for layer in layers:
            out, inner = shapes[f"{layer}.weight"]
            yield layer, torch.randn(out, RANK, generator=generator) * 0.2, torch.randn(RANK, inner, generator=generator) * 0.2

    def write(name, made, naming):
        rename, up, down = NAMINGS[naming]
        tensors = {}
        for layer, u, d in made:
            tensors |= {rename(layer) + up: u.clone(), rename(layer) + down: d.clone()}
            if naming in {"own", "kohya"}:
                tensors[f"{rename(layer)}.alpha"] = torch.tensor(float(RANK))
        save_file(tensors, folder / f"{name}.safetensors")
        return tensors

    made = list(pairs(LAYERS))
    for naming in NAMINGS:
        tensors = write(naming, made, naming)
    write("sound", pairs(SOUND), "own")
    strange = torch.ones(4, 4)
    save_file({f"lora_unet_double_blocks_{n}_x.diff": strange + n for n in range(3)}, folder / "foreign.safetensors")
    save_file({**tensors, "blocks.0.self_attn.q.dora_scale": strange}, folder / "dora.safetensors")
    save_file({**tensors, "blocks.99.self_attn.q.diff": strange}, folder / "part.safetensors")
    save_file({"diffusion_model.blocks.0.modulation.diff": torch.ones(1, 6, 48), "blocks.1.ffn.2.diff_b": torch.ones(48)},
              folder / "whole.safetensors")  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def made(server, loras):
    """Samples with LoRAs put on by our node, or by ComfyUI's; what was made."""

    def run(*put: tuple[str, float], kind: str = "HarmonyLoadLora", weight_dtype: str = "default"):
        graph = sampled_by_stock(clip_graph(), "made")
        graph["load"]["inputs"]["weight_dtype"] = weight_dtype
        last = ["load", 0]
        for n, (name, strength) in enumerate(put):
            by = "strength" if kind == "HarmonyLoadLora" else "strength_model"
            graph[f"lora {n}"] = node(kind, model=last, lora_name=f"{name}.safetensors", **{by: strength})
            last = [f"lora {n}", 0]
        graph["sampled"]["inputs"]["model"] = last
        # ComfyUI keeps what it made of a graph it knows.
        graph["latent"], graph["empty"] = node("ProbeAgain", latent=["empty", 0], number=run.number), graph["latent"]
        run.number += 1
        server.run(graph)
        return {key: value for key, value in server.kept("made").items() if key.startswith("after")}

    run.number = 0
    return run


@pytest.fixture(scope="module")
def plain(made):
    return made()


@pytest.fixture(scope="module")
def own(made):
    return made(("own", 0.8))


@pytest.mark.parametrize("naming", [name for name in NAMINGS if name != "own"])
def test_every_naming_changes_the_clip_alike_and_nothing_stays(made, plain, own, naming):
    assert away(plain, own) > CHANGED
    assert away(own, made((naming, 0.8))) <= ROUNDING
    assert away(plain, made()) <= ROUNDING


def test_names_of_ours_are_known_to_comfyuis_own_loader(made, own):
    assert away(own, made(("own", 0.8), kind="LoraLoaderModelOnly")) <= ROUNDING


def test_it_is_what_harmony_core_makes_of_it(server, made, own, inputs):
    shapes = parameter_shapes(all_in_one_config())
    several = (("kohya", 0.8), ("sound", -1.5), ("whole", 0.3), ("whole", 0.2))
    for put, kept in (((("own", 0.8),), own), (several, made(*several))):
        pipeline = Pipeline.load(server.base / "models" / "checkpoints" / "small.safetensors")
        files = [(load_lora(server.base / "models" / "loras" / f"{name}.safetensors", shapes), s) for name, s in put]
        merge_loras(pipeline.model, files)
        wanted = standalone(pipeline, inputs, steps=STEPS)
        assert far(kept, AV(wanted.video, wanted.audio)) < NEAR


def test_two_add_up(made, plain, own):
    sound, both = made(("sound", 1.0)), made(("kohya", 0.8), ("sound", 1.0))
    for one in (plain, own, sound):
        assert away(one, both) > CHANGED
    assert max((both[key] - made(("sound", 1.0), ("own", 0.8))[key]).abs().max().item() for key in both) < NEAR
    assert away(plain, made()) <= ROUNDING


def test_strength_0_is_none(made, plain):
    assert away(plain, made(("kohya", 0.0), ("sound", 0.0))) <= ROUNDING


def test_on_weights_in_8_bits(made):
    plain = made(weight_dtype="fp8_e4m3fn")
    changed = made(("kohya", 0.8), weight_dtype="fp8_e4m3fn")
    assert all(value.isfinite().all() for value in changed.values()) and away(plain, changed) > CHANGED
    assert away(plain, made(weight_dtype="fp8_e4m3fn")) <= ROUNDING


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "foreign",
            r"lora_name: .*foreign\.safetensors is a LoRA for another model: it matches 0 of 3 layers, such as lora_un",
        ),
        ("dora", r"lora_name: .*dora\.safetensors is a DoRA .* not supported"),
    ],
)
def test_what_is_wrong_is_one_sentence_on_the_node(made, name, message):
    with pytest.raises(Failed, match=f"HarmonyLoadLora: {message}.*choose a LoRA of Wan2.2-5B or of this model$"):
        made((name, 1.0))


def test_a_lora_that_fits_in_part_says_so_once(server, made, plain):
    before = server.text()
    assert away(plain, made(("part", 1.0))) > CHANGED
    said = server.text().removeprefix(before)
    assert said.count("1 of 9 layers have no place in this model: blocks.99.self_attn.q") == 1


@pytest.mark.bitwise("copy")
def test_it_is_exact_however_weights_are_loaded(tmp_path):
    """Whole, in part and streamed; what each found is in the script."""
    found = run_beside_comfy(Path(__file__).with_name("beside_lora.py"), save_all_in_one(tmp_path / "small.safetensors"))
    assert {name for name, well in found.items() if not well} == set()
    assert len(found) == 10

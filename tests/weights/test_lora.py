"""LoRA files in every naming: found, fitted, applied, stacked, taken away to the last bit; what is wrong is one sentence."""

import itertools
import json
import math
import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file
from small import small_config, small_model

from harmony_core.config import preset
from harmony_core.weights.keymap import WanLayout, from_original
from harmony_core.weights.lora import (
    Change,
    Lora,
    LoraStack,
    load_lora,
    merge_loras,
    parameter_shapes,
    read_lora,
    save_lora,
    shapes_of,
)
from harmony_core.weights.lora_names import Names

RANK, ALPHA = 3, 6.0
VIDEO = {
    f"video.blocks.{n}.{layer}"
    for n in range(2)
    for layer in (*(f"{a}.{p}" for a in ("self_attn", "cross_attn") for p in "qkvo"), "ffn.0", "ffn.2")
}
OTHERS = {"audio.blocks.1.self_attn.k", "interaction.layers.0.to_audio.style.attn.v", "speech.projection", "video.head.head"}


@pytest.fixture
def model():
    return small_model()


def pairs(shapes, layers, seed=0) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Random pairs (up, down), by our layer."""
    generator = torch.Generator().manual_seed(seed)
    made = {}
    for layer in sorted(layers):
        out, inner = shapes[f"{layer}.weight"][0], math.prod(shapes[f"{layer}.weight"][1:])
        made[layer] = (torch.randn(out, RANK, generator=generator), torch.randn(RANK, inner, generator=generator))
    return made


def diffusers_name(layer: str) -> str:
    return next(iter(from_original({layer.removeprefix("video."): 0}, WanLayout.DIFFUSERS)))


def kohya(layer: str) -> str:
    return layer.removeprefix("video.").replace(".", "_")


# Of each naming: the layer's name, what follows it, and whether alpha is a tensor or has gone into the pair.
NAMINGS = {
    "kohya": (lambda x: f"lora_unet_{kohya(x)}", ".lora_up.weight", ".lora_down.weight", True),
    "kohya, old": (lambda x: f"lora_unet__{kohya(x)}", ".lora_up.weight", ".lora_down.weight", True),
    "kohya of ours": (lambda x: f"lora_unet_{x.replace('.', '_')}", ".lora_up.weight", ".lora_down.weight", True),
    "ComfyUI": (lambda x: f"diffusion_model.{x.removeprefix('video.')}", ".lora_B.weight", ".lora_A.weight", False),
    "ComfyUI, kohya's pairs": (
        lambda x: f"diffusion_model.{x.removeprefix('video.')}",
        ".lora_up.weight",
        ".lora_down.weight",
        True,
    ),
    "ComfyUI of ours": (lambda x: f"diffusion_model.{x}", ".lora_up.weight", ".lora_down.weight", True),
    "original": (lambda x: x.removeprefix("video."), ".lora_B.weight", ".lora_A.weight", False),
    "DiffSynth": (lambda x: f"pipe.dit.{x.removeprefix('video.')}", ".lora_B.default.weight", ".lora_A.default.weight", False),
    "diffusers": (lambda x: f"transformer.{diffusers_name(x)}", ".lora_B.weight", ".lora_A.weight", False),
    "diffusers, old": (lambda x: f"transformer.{diffusers_name(x)}", ".lora.up.weight", ".lora.down.weight", False),
    "PEFT": (lambda x: f"base_model.model.{diffusers_name(x)}", ".lora_B.weight", ".lora_A.weight", False),
    "PEFT of the original": (lambda x: f"base_model.model.{x.removeprefix('video.')}", ".lora_B", ".lora_A", False),
    "OneTrainer": (
        lambda x: f"lora_transformer_{diffusers_name(x).replace('.', '_')}",
        ".lora_up.weight",
        ".lora_down.weight",
        True,
    ),
    "Ovi": (lambda x: x.replace("video.", "video_model.", 1), ".lora_B.weight", ".lora_A.weight", False),
}


def written(path, made, naming: str, alpha: float = ALPHA):
    """A file of pairs in one of the namings."""
    name, up, down, own_alpha = NAMINGS[naming]
    tensors = {}
    for layer, (u, d) in made.items():
        tensors |= {name(layer) + up: u if own_alpha else u * (alpha / RANK), name(layer) + down: d.clone()}
        if own_alpha:
            tensors[name(layer) + ".alpha"] = torch.tensor(alpha)
    save_file(tensors, path)
    return path


def weights(model) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in model.state_dict().items()}


def far(a, b) -> float:
    return max((a[key].float() - b[key].float()).abs().max().item() for key in a)


def expected(model, made, strength: float = 1.0) -> dict[str, torch.Tensor]:
    """Every weight as the formula has it, in double precision."""
    after = weights(model)
    for layer, (up, down) in made.items():
        delta = strength * ALPHA / RANK * (up.double() @ down.double())
        key = f"{layer}.weight"
        after[key] = (after[key].double() + delta.reshape(after[key].shape)).float()
    return after


@pytest.mark.parametrize("naming", NAMINGS)
def test_every_naming_of_a_wan_lora_changes_the_video_branch_alike(model, tmp_path, naming):
    made = pairs(shapes_of(model), VIDEO)
    lora = load_lora(written(tmp_path / "a.safetensors", made, naming), shapes_of(model))
    assert lora.changes.keys() == VIDEO and not lora.note
    wanted = expected(model, made, 0.5)
    merge_loras(model, [(lora, 0.5)])
    assert far(wanted, weights(model)) < 1e-4


def test_every_part_of_the_model_has_names_of_its_own(model, tmp_path):
    made = pairs(shapes_of(model), OTHERS | {"video.patch_embedding", "audio.patch_embedding"})
    path = written(tmp_path / "a.safetensors", made, "ComfyUI of ours")
    wanted = expected(model, made)
    merge_loras(model, [(load_lora(path, shapes_of(model)), 1.0)])
    assert far(wanted, weights(model)) < 1e-4


def test_ovi_names_reach_both_towers_and_what_is_between_them():
    shapes = parameter_shapes(small_config(kind="fused", style=False, style_tokens=0))
    names = Names(shapes)
    assert names.find("audio_model.blocks.1.ffn.0") == "audio.blocks.1.ffn.0"
    assert names.find("video_model.blocks.0.cross_attn.k_fusion") == "interaction.layers.0.to_video.main.attn.k"
    assert names.find("diffusion_model.audio_model.blocks.1.cross_attn.v_fusion") == "interaction.layers.1.to_audio.main.attn.v"
    assert names.find("audio_model.blocks.1.cross_attn.k_img") is None


def test_differences_of_weights_and_biases_are_added(model, tmp_path):
    before = weights(model)
    added = {
        "lora_unet_blocks_0_self_attn_q.diff_b": torch.full((48,), 0.25),
        "diffusion_model.blocks.1.self_attn.norm_q.diff": torch.full((48,), -0.5),
        "diffusion_model.blocks.1.norm3.w_norm": torch.full((48,), 0.5),
        "diffusion_model.blocks.1.norm3.b_norm": torch.full((48,), 2.0),
        "diffusion_model.head.head.diff": torch.ones(48 * 4, 48),
        "diffusion_model.blocks.0.modulation.diff": torch.ones(1, 6, 48),
        "transformer.blocks.1.ffn.net.2.lora_A.weight": torch.ones(2, 64),
        "transformer.blocks.1.ffn.net.2.lora_B.weight": torch.ones(48, 2),
        "transformer.blocks.1.ffn.net.2.lora_B.bias": torch.full((48,), 3.0),
    }
    save_file(added, tmp_path / "a.safetensors")
    merge_loras(model, [(load_lora(tmp_path / "a.safetensors", shapes_of(model)), 2.0)])
    moved = {key: (value - before[key]).unique().tolist() for key, value in weights(model).items()}
    assert {key: change for key, change in moved.items() if change != [0.0] and "ffn" not in key} == {
        "video.blocks.0.self_attn.q.bias": [0.5],
        "video.blocks.1.self_attn.norm_q.weight": [-1.0],
        "video.blocks.1.norm3.weight": [1.0],
        "video.blocks.1.norm3.bias": [4.0],
        "video.head.head.weight": pytest.approx([2.0] * len(moved["video.head.head.weight"]), abs=1e-5),
        "video.blocks.0.modulation": pytest.approx([2.0] * len(moved["video.blocks.0.modulation"]), abs=1e-5),
    }
    assert moved["video.blocks.1.ffn.2.bias"] == [6.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.bitwise("copy")
def test_loras_add_up_in_any_order_and_leave_no_bit_behind(model, tmp_path, dtype):
    model = model.to(dtype)
    before, shapes = weights(model), shapes_of(model)
    one, two = (
        load_lora(written(tmp_path / f"{n}.safetensors", pairs(shapes, layers, n), "ComfyUI of ours"), shapes)
        for n, layers in ((1, VIDEO | OTHERS), (2, VIDEO))
    )
    stack = LoraStack(model)
    stack.set([(one, 1.0), (two, -0.7)])
    both = weights(model)
    stack.set([(two, -0.7), (one, 1.0)])
    assert far(both, weights(model)) <= (1e-4 if dtype is torch.float32 else 0.07)
    stack.set([(one, 1.0)])
    alone = weights(model)
    assert far(both, alone) > 0.1 and far(before, alone) > 0.1
    stack.set([(one, 0.5), (one, 0.5)])
    assert far(alone, weights(model)) <= (1e-4 if dtype is torch.float32 else 0.07)
    for loras in ([(one, 0.0), (two, 0.0)], []):
        stack.set([(one, 1.0)])
        stack.set(loras)
        assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    stack.set([(one, 1.0), (two, 1.0)])
    stack.clear()
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_the_sum_is_rounded_once(tmp_path):
    """Two changes, each too small for bfloat16 to see, that are seen together."""
    model = small_model().to(torch.bfloat16)
    key = "video.blocks.0.ffn.0.weight"
    model.get_parameter(key).data.fill_(1.0)
    save_file({"blocks.0.ffn.0.diff": torch.full((64, 48), 2**-8 * 0.9)}, tmp_path / "a.safetensors")
    lora = load_lora(tmp_path / "a.safetensors", shapes_of(model))
    stack = LoraStack(model)
    stack.set([(lora, 1.0)])
    assert model.get_parameter(key).unique().tolist() == [1.0]
    stack.set([(lora, 1.0), (lora, 1.0)])
    assert model.get_parameter(key).unique().tolist() == [1.0 + 2**-7]


def test_weights_that_models_share_are_changed_in_one_of_them(model, tmp_path):
    other = small_model()
    other.load_state_dict(model.state_dict(), assign=True)
    before = weights(model)
    made = pairs(shapes_of(model), VIDEO)
    merge_loras(other, [(load_lora(written(tmp_path / "a.safetensors", made, "kohya"), shapes_of(model)), 1.0)])
    assert far(before, weights(model)) == 0 < far(before, weights(other))


@pytest.mark.parametrize("place", ["metadata", "beside"])
@pytest.mark.parametrize(("by_root", "scale"), [(False, ALPHA / RANK), (True, ALPHA / RANK**0.5)])
def test_alpha_kept_beside_the_tensors_counts(model, tmp_path, place, by_root, scale):
    made = pairs(shapes_of(model), {"video.blocks.0.ffn.0", "video.blocks.1.ffn.0"})
    tensors = {}
    for layer, (up, down) in made.items():
        name = f"transformer.{diffusers_name(layer)}"
        tensors |= {f"{name}.lora_B.weight": up, f"{name}.lora_A.weight": down}
    said = {"r": RANK, "lora_alpha": ALPHA, "use_rslora": by_root, "alpha_pattern": {"1.ffn.net.0.proj": 3 * ALPHA}}
    path = tmp_path / "adapter_model.safetensors"
    if place == "metadata":
        flat = {f"transformer.{key}": value for key, value in said.items()}
        save_file(tensors, path, metadata={"lora_adapter_metadata": json.dumps(flat)})
    else:
        save_file(tensors, path)
        (tmp_path / "adapter_config.json").write_text(json.dumps(said))
    lora = load_lora(path, shapes_of(model))
    assert lora.changes["video.blocks.0.ffn.0"].scale == pytest.approx(scale)
    assert lora.changes["video.blocks.1.ffn.0"].scale == pytest.approx(3 * scale)


@pytest.mark.bitwise("file")
def test_a_file_that_is_written_is_read_as_it_was(model, tmp_path):
    shapes = shapes_of(model)
    made = pairs(shapes, VIDEO | OTHERS)
    changes = {layer: Change(up=up, down=down, alpha=ALPHA) for layer, (up, down) in made.items()}
    changes["audio.head.head"] = Change(weight=torch.ones(20, 48), bias=torch.ones(20))
    save_lora(tmp_path / "a.safetensors", changes, {"modelspec.title": "mine"})
    lora = read_lora(tmp_path / "a.safetensors")
    assert lora.metadata == {"modelspec.title": "mine"}
    fitted = lora.fit(shapes)
    assert fitted.changes.keys() == changes.keys() and not fitted.note
    file = load_file(tmp_path / "a.safetensors")
    assert all(key.startswith("diffusion_model.") for key in file)
    again = fitted.to_comfyui()
    assert again.keys() == file.keys() and all(torch.equal(again[key], file[key]) for key in file)


@pytest.mark.parametrize("ending", ["", "_musubi"])
def test_names_agree_with_diffusers(tmp_path, ending):
    """The same file, renamed by diffusers' own code for Wan's original and for kohya's names."""
    utils = pytest.importorskip("diffusers.loaders.lora_conversion_utils")
    convert = utils._convert_musubi_wan_lora_to_diffusers if ending else utils._convert_non_diffusers_wan_lora_to_diffusers
    model = small_model()
    shapes = shapes_of(model)
    layers = set(VIDEO)
    if not ending:
        layers |= {f"video.{name}" for name in ("text_embedding.0", "text_embedding.2", "time_embedding.0", "head.head")}
        layers |= {"video.time_embedding.2", "video.time_projection.1"}
    # Its alphas go into the pairs; by 1 where it looks for none.
    path = written(tmp_path / "a.safetensors", pairs(shapes, layers), "kohya" if ending else "ComfyUI, kohya's pairs", RANK)
    tensors = load_file(path)
    renamed = convert({key: value.clone() for key, value in tensors.items() if ending or not key.endswith("alpha")})
    save_file({key: value.contiguous() for key, value in renamed.items()}, tmp_path / "b.safetensors")
    ours, theirs = (load_lora(tmp_path / f"{n}.safetensors", shapes) for n in "ab")
    assert ours.changes.keys() == theirs.changes.keys() == layers
    for layer in layers:
        like = model.get_parameter(f"{layer}.weight")
        a, b = (lora.changes[layer].of_weight(1.0, like) for lora in (ours, theirs))
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def on_meta(dim: int, ffn: int, blocks: int, name: str) -> Lora:
    """A LoRA of rank 16 of every matrix of a Wan model's blocks, shapes alone."""

    def pair(inner: int, out: int) -> Change:
        return Change(down=torch.empty(16, inner, device="meta"), up=torch.empty(out, 16, device="meta"), alpha=16.0)

    changes = {}
    for n, attention, part in itertools.product(range(blocks), ("self_attn", "cross_attn"), "qkvo"):
        changes[f"lora_unet_blocks_{n}_{attention}_{part}"] = pair(dim, dim)
    for n in range(blocks):
        changes[f"lora_unet_blocks_{n}_ffn_0"], changes[f"lora_unet_blocks_{n}_ffn_2"] = pair(dim, ffn), pair(ffn, dim)
    return Lora(name=name, changes=changes, metadata={})


def test_loras_of_wan_models_fit_the_5b_model_and_no_other():
    shapes = parameter_shapes(preset("5b"))
    fitted = on_meta(3072, 14336, 30, "5b.safetensors").fit(shapes)
    assert len(fitted.changes) == 300 and not fitted.note
    with pytest.raises(ValueError, match=r"14b\.safetensors is a LoRA for another model: of 300 layers whose names match, 300"):
        on_meta(5120, 13824, 40, "14b.safetensors").fit(shapes)
    with pytest.raises(ValueError, match=r"lora_unet_blocks_0_self_attn_q, for 1536 x 1536 instead of 3072 x 3072$"):
        on_meta(1536, 8960, 30, "1.3b.safetensors").fit(shapes)


def wan_pair(name: str, out: int = 48, inner: int = 48) -> dict[str, torch.Tensor]:
    return {f"{name}.lora_up.weight": torch.ones(out, 2), f"{name}.lora_down.weight": torch.ones(2, inner)}


def many(name: str, count: int) -> dict[str, torch.Tensor]:
    return {key: value for n in range(count) for key, value in wan_pair(name.format(n)).items()}


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (
            many("lora_unet_double_blocks_{}_img_attn_proj", 4),
            r"for another model: it matches 0 of 4 layers, such as lora_un",
        ),
        (
            wan_pair("blocks.0.self_attn.q") | many("blocks.{}.attn.to_v", 3),
            r"matches 1 of 4 layers; 50% is the least, such as blocks\.0\.attn\.to_v, blocks\.1\.attn\.to_v, blocks\.2",
        ),
        (wan_pair("lora_te1_text_model_q"), r"matches 0 of 0 layers: it is for a text encoder"),
        (
            wan_pair("blocks.0.self_attn.q", 64),
            r"of 1 layers whose names match, 1 are of another shape, .* 64 x 48 instead",
        ),
        ({"blocks.0.self_attn.q.diff_b": torch.ones(9)}, r"such as blocks\.0\.self_attn\.q, in its bias"),
        ({"blocks.0.self_attn.q.diff": torch.ones(9, 9)}, r"for 9 x 9 instead of 48 x 48"),
        (wan_pair("blocks.0.self_attn.q") | {"blocks.0.self_attn.q.dora_scale": torch.ones(48, 1)}, r"is a DoRA \(.*not supp"),
        ({"blocks.0.self_attn.q.hada_w1_a": torch.ones(4, 4)}, r"is a LoHa"),
        ({"lycoris_blocks_0_self_attn_q.lokr_w1": torch.ones(4, 4)}, r"is a LoKr"),
        ({"blocks.0.self_attn.q.lora_up.weight": torch.ones(48, 2)}, r"damaged: blocks\.0\.self_attn\.q has no lora_down"),
        ({"blocks.0.self_attn.q.lora_A.weight": torch.ones(2, 48)}, r"damaged: blocks\.0\.self_attn\.q has no lora_up"),
        (
            {"blocks.0.ffn.0.lora_up.weight": torch.ones(64, 3), "blocks.0.ffn.0.lora_down.weight": torch.ones(2, 48)},
            r"the two matrices of blocks\.0\.ffn\.0 are of 64 x 3 and 2 x 48",
        ),
        (
            wan_pair("blocks.0.ffn.0", 64) | {"blocks.0.ffn.0.alpha": torch.ones(2)},
            r"the alpha of blocks\.0\.ffn\.0 is 2 numbers instead of one",
        ),
        ({"blocks.0.self_attn.q.diff": torch.full((48, 48), math.nan)}, r"q\.diff holds values that are not finite numbers"),
        (
            wan_pair("blocks.0.ffn.0", 64) | {"blocks.0.ffn.0.alpha": torch.tensor(math.inf)},
            r"0\.alpha holds values that are",
        ),
        ({"blocks.0.self_attn.q.diff": torch.ones(48, 48, dtype=torch.int32)}, r"q\.diff holds values that are not finite"),
        ({"first_stage_model.x": torch.ones(2)}, r"is no LoRA, it is nothing known here"),
        (
            wan_pair("blocks.0.self_attn.q") | wan_pair("lora_unet_blocks_0_self_attn_q"),
            "names a layer twice, under different names",
        ),
    ],
)
def test_what_is_wrong_is_one_sentence(model, tmp_path, tensors, message):
    path = tmp_path / "bad.safetensors"
    save_file(tensors, path)
    with pytest.raises(ValueError, match=message) as caught:
        load_lora(path, shapes_of(model))
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


def test_a_lora_that_fits_in_part_says_so(model, tmp_path):
    tensors = [wan_pair(name) for name in ("blocks.0.self_attn.q", "blocks.7.self_attn.q", "lora_te_q")]
    save_file({key: value for part in tensors for key, value in part.items()}, tmp_path / "a.safetensors")
    lora = load_lora(tmp_path / "a.safetensors", shapes_of(model))
    assert lora.changes.keys() == {"video.blocks.0.self_attn.q"}
    assert "1 of 2 layers have no place in this model: blocks.7.self_attn.q; those of a text encoder (1) are" in lora.note


class Payload:
    def __reduce__(self):
        return (print, ("run",))


def test_pickles_of_tensors_are_read_and_those_with_code_are_not(model, tmp_path, capsys):
    torch.save(wan_pair("blocks.0.self_attn.q"), tmp_path / "good.pt")
    assert load_lora(tmp_path / "good.pt", shapes_of(model)).changes
    (tmp_path / "bad.pt").write_bytes(pickle.dumps(Payload()))
    with pytest.raises(ValueError, match="holds more than tensors and is not opened"):
        read_lora(tmp_path / "bad.pt")
    assert "run" not in capsys.readouterr().out
    with pytest.raises(ValueError, match="there is no LoRA file"):
        read_lora(tmp_path / "none.safetensors")
    (tmp_path / "adapter_config.json").write_text("[1]")
    save_file(wan_pair("blocks.0.self_attn.q"), tmp_path / "adapter_model.safetensors")
    with pytest.raises(ValueError, match=r"adapter_config\.json is no adapter's configuration"):
        read_lora(tmp_path / "adapter_model.safetensors")


@pytest.mark.parametrize("strength", [math.nan, math.inf, 20.5])
def test_a_strength_out_of_range_is_refused(model, tmp_path, strength):
    save_file(wan_pair("blocks.0.self_attn.q"), tmp_path / "a.safetensors")
    lora = load_lora(tmp_path / "a.safetensors", shapes_of(model))
    with pytest.raises(ValueError, match="the strength of .* is a number from -20 to 20, got"):
        LoraStack(model).set([(lora, strength)])


def test_weights_that_would_overflow_are_refused_and_the_model_is_as_it_was(tmp_path):
    model = small_model().half()
    before = weights(model)
    save_file(wan_pair("blocks.0.self_attn.k") | {"blocks.1.ffn.0.diff": torch.full((64, 48), 6e4)}, tmp_path / "a.safetensors")
    lora = load_lora(tmp_path / "a.safetensors", shapes_of(model))
    with pytest.raises(ValueError, match=r"video\.blocks\.1\.ffn\.0\.weight does not fit torch\.float16; lower"):
        LoraStack(model).set([(lora, 2.0)])
    assert far(before, weights(model)) == 0

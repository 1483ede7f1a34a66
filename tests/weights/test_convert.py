"""Weights in another precision: there and back, in every form they are found in, and nothing half-written."""

import json
import signal

import ovi_files
import pytest
import torch
from all_in_one import save_all_in_one
from public_parts import save, save_shards, small_wan
from rounding import CHANGED, ROUNDING, away
from safetensors import safe_open
from safetensors.torch import load_file
from small import small_conditioning, small_latents, small_model

from harmony_core.runtime import Runtime
from harmony_core.types import AV
from harmony_core.weights.builtin import resolve
from harmony_core.weights.checkpoint import CODEC_PARTS, load_checkpoint, save_checkpoint
from harmony_core.weights.convert import convert
from harmony_core.weights.quantise import METADATA_KEY

EIGHT = torch.float8_e4m3fn
HALF_STEP = 1 / 16
"""Largest relative error of rounding to four bits of mantissa, the hidden one with them."""


def metadata(path) -> dict[str, str]:
    with safe_open(path, "pt") as file:
        return file.metadata() or {}


@pytest.fixture
def wan(tmp_path):
    return save(tmp_path / "wan.safetensors", small_wan(), {"who": "me"})


@pytest.mark.parametrize(("to", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16), ("fp32", torch.float32)])
@pytest.mark.parametrize("form", ["file", "shards", "pickle"])
@pytest.mark.bitwise("file")
def test_plain_precisions_are_what_torch_makes_of_them(tmp_path, to, dtype, form):
    tensors = {**small_wan(), "counts": torch.arange(3)}
    if form == "pickle":
        path = tmp_path / "m.pt"
        torch.save(tensors, path)
    else:
        path = save_shards(tmp_path / "in", tensors) if form == "shards" else save(tmp_path / "m.safetensors", tensors)
    done = convert(path, tmp_path / "out.safetensors", to)
    found = load_file(tmp_path / "out.safetensors")
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[k], v.to(dtype) if v.is_floating_point() else v) for k, v in tensors.items())
    assert (done.weights, done.quantised, done.kept) == (len(tensors), 0, 1)


@pytest.mark.bitwise("file")
def test_in_eight_bits_the_matrices_of_the_layers_are_scaled_and_the_rest_is_as_it_was(wan, tmp_path):
    out, before = tmp_path / "out.safetensors", small_wan()
    done = convert(wan, out, "fp8")
    found, layers = load_file(out), json.loads(metadata(out)[METADATA_KEY])["layers"]
    assert metadata(out)["who"] == "me"
    assert done.quantised == len(layers) == 3 * 10
    assert all(note == {"format": "float8_e4m3fn", "full_precision_matrix_mult": True} for note in layers.values())
    for key, value in before.items():
        layer = key.removesuffix(".weight")
        if layer not in layers:
            assert torch.equal(found[key], value), key
            continue
        scale = found[f"{layer}.weight_scale"]
        assert (scale.shape, scale.dtype, found[key].dtype) == ((), torch.float32, EIGHT)
        assert found[key].float().abs().max() == 448  # the whole range is used
        off = (found[key].float() * scale - value).abs()
        assert (off <= HALF_STEP * value.abs() + 2**-10 * scale).all()
    assert found.keys() == before.keys() | {f"{layer}.weight_scale" for layer in layers}
    untouched = ("head", "text_embedding", "time_", "patch_embedding", "norm", "modulation", "bias")
    assert not any(word in layer for layer in layers for word in untouched)


def test_eight_bits_twice_are_eight_bits_once(wan, tmp_path):
    once, twice = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    convert(wan, once, "fp8")
    convert(once, twice, "fp8")
    assert once.read_bytes() == twice.read_bytes()


@pytest.mark.parametrize(("to", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16), ("fp32", torch.float32)])
@pytest.mark.bitwise("file")
def test_and_back(wan, tmp_path, to, dtype):
    small, back = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    convert(wan, small, "fp8")
    done = convert(small, back, to)
    eight, found, before = load_file(small), load_file(back), small_wan()
    assert found.keys() == before.keys()
    assert metadata(back) == {"who": "me"}
    assert done.quantised == 0
    for key, value in found.items():
        scale = eight.get(key.removesuffix(".weight") + ".weight_scale")
        wanted = eight[key] if scale is None else eight[key].float() * scale
        assert torch.equal(value, wanted.to(dtype)), key


def stored_as(form: str, tensors: dict) -> tuple[dict, dict]:
    """The small Wan in eight bits, as others write it; beside it what it stands for."""
    stored, plain = dict(tensors), dict(tensors)
    for key, value in tensors.items():
        if value.ndim != 2 or "blocks." not in key or key.endswith("modulation"):
            continue
        layer = key.removesuffix(".weight")
        scale = value.abs().amax(1, keepdim=True) / 127 if form == "rows" else value.abs().max() / 127
        kind = torch.int8 if form in {"rows", "quanto"} else EIGHT
        small = (value / scale).round().to(kind)
        plain[key] = small.float() * scale
        if form == "quanto":
            del stored[key]
            stored |= {f"{key}._data": small, f"{key}._scale": scale.reshape(1, 1), f"{layer}.input_scale": torch.ones(())}
            continue
        name = "scale_weight" if form == "old" else "weight_scale"
        stored |= {key: small, f"{layer}.{name}": scale}
        if form == "old":
            stored[f"{layer}.scale_input"] = torch.ones(())
        if form in {"notes", "rows"}:
            note = {"format": "int8_tensorwise" if form == "rows" else "float8_e4m3fn"}
            stored[f"{layer}.comfy_quant"] = torch.tensor(list(json.dumps(note).encode()), dtype=torch.uint8)
    if form == "old":
        stored["scaled_fp8"] = torch.empty(2, dtype=EIGHT)
    return stored, plain


@pytest.mark.parametrize("form", ["old", "notes", "bare", "rows", "quanto"])
@pytest.mark.bitwise("file")
def test_every_form_of_scaled_weights_is_read(tmp_path, form):
    stored, plain = stored_as(form, small_wan())
    path = save(tmp_path / "m.safetensors", stored)
    convert(path, tmp_path / "out.safetensors", "fp32")
    found = load_file(tmp_path / "out.safetensors")
    assert found.keys() == plain.keys()
    assert all(torch.equal(found[key], value) for key, value in plain.items())
    convert(path, tmp_path / "eight.safetensors", "fp8")
    assert METADATA_KEY in metadata(tmp_path / "eight.safetensors")
    if form in {"old", "notes", "bare"}:  # the same values: only what is said of them is new
        eight = load_file(tmp_path / "eight.safetensors")
        assert all(same_bits(eight[key], stored[key]) for key in plain)


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.dtype is b.dtype and torch.equal(a.reshape(-1).view(torch.uint8), b.reshape(-1).view(torch.uint8))


def test_a_file_may_be_converted_in_its_place(wan):
    convert(wan, wan, "bf16")
    assert {value.dtype for value in load_file(wan).values()} == {torch.bfloat16}


# ---- a Harmony checkpoint


def run(model, dtype=torch.float32) -> AV[torch.Tensor]:
    context = model.prepare(small_conditioning(), 1, dtype=dtype)
    with torch.no_grad():
        return model(small_latents().map(lambda x: x.to(dtype)), AV(torch.full((1, 1), 0.5), torch.full((1, 1), 0.5)), context)


def test_a_checkpoint_in_eight_bits_is_loaded_as_what_it_stands_for(tmp_path):
    model, path = small_model(), tmp_path / "m.safetensors"
    save_checkpoint(path, model.config, model.state_dict(), metadata={"modelspec.title": "small"})
    convert(path, tmp_path / "eight.safetensors", "fp8")
    convert(tmp_path / "eight.safetensors", tmp_path / "back.safetensors", "fp32")
    loaded = load_checkpoint(tmp_path / "eight.safetensors")
    assert loaded.config == model.config
    assert loaded.metadata["modelspec.title"] == "small"
    expected, eight, back = run(model), run(loaded.model()), run(load_checkpoint(tmp_path / "back.safetensors").model())
    for m in ("video", "audio"):
        assert away(getattr(eight, m), getattr(back, m)) <= ROUNDING
        assert away(getattr(eight, m), getattr(expected, m)) > CHANGED
        assert (getattr(eight, m) - getattr(expected, m)).norm() / getattr(expected, m).norm() < 0.1
    half = loaded.model(Runtime(dtype=torch.bfloat16))
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}


def test_the_dtype_of_weights_made_plain_is_that_of_the_others(tmp_path):
    convert(resolve("harmony-tiny"), tmp_path / "eight.safetensors", "fp8")
    assert {p.dtype for p in load_checkpoint(tmp_path / "eight.safetensors").model().parameters()} == {torch.float16}


@pytest.mark.parametrize("to", ["fp8", "bf16", "fp32"])
@pytest.mark.bitwise("file")
def test_codecs_keep_their_precision(tmp_path, to):
    path = save_all_in_one(tmp_path / "all.safetensors")
    before = load_file(path)
    convert(path, tmp_path / "out.safetensors", to)
    found = load_file(tmp_path / "out.safetensors")
    codecs = [key for key in before if key.startswith(CODEC_PARTS)]
    assert codecs
    assert all(same_bits(found[key], before[key]) for key in codecs)
    loaded = load_checkpoint(tmp_path / "out.safetensors")
    loaded.video_vae()
    loaded.audio_codec()
    loaded.model()


# ---- bad input


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"blocks.0.ffn.0.weight": torch.zeros(320, 256, dtype=torch.int8)}, "whole numbers without a scale; give the file in"),
        (
            {"blocks.0.ffn.0.weight_scale": torch.ones(20, 8)},
            r"has a scale of shape \(20, 8\); one for the whole matrix or one a row",
        ),
        ({"blocks.9.ffn.0.weight_scale": torch.ones(())}, "blocks.9.ffn.0.weight_scale is the scale of no weight"),
        ({"blocks.0.ffn.0.comfy_quant": b'{"format": "nvfp4"}'}, "blocks.0.ffn.0 is stored as nvfp4, which is not read here"),
        ({"blocks.0.ffn.0.comfy_quant": b'{"format": "int8_tensorwise", "convrot": true}'}, "rotated, which is not read"),
        ({"blocks.0.ffn.0.comfy_quant": b"{"}, "blocks.0.ffn.0.comfy_quant cannot be read"),
    ],
)
def test_what_is_stored_in_a_way_not_known_is_refused_by_name(tmp_path, change, words):
    change = {k: torch.tensor(list(v), dtype=torch.uint8) if isinstance(v, bytes) else v for k, v in change.items()}
    path = save(tmp_path / "m.safetensors", {**small_wan(), **change})
    with pytest.raises(ValueError, match=words) as raised:
        convert(path, tmp_path / "out.safetensors", "bf16")
    assert "m.safetensors" in str(raised.value)
    assert "\n" not in str(raised.value)
    assert [p.name for p in tmp_path.iterdir()] == ["m.safetensors"]


def test_metadata_that_cannot_be_read_are_refused(tmp_path):
    for text in ("{", "[]", '{"layers": 3}'):
        path = save(tmp_path / "m.safetensors", small_wan(), {METADATA_KEY: text})
        with pytest.raises(ValueError, match="m.safetensors: what its metadata says of quantised layers cannot be read"):
            convert(path, tmp_path / "out.safetensors", "bf16")


def test_values_that_do_not_fit_are_named(tmp_path):
    tensors = small_wan()
    key = "blocks.1.ffn.0.weight"
    tensors[key][3, 4] = 70_000
    path = save(tmp_path / "m.safetensors", tensors)
    with pytest.raises(ValueError, match=rf"{key} holds 70000, and fp16 ends at 65504; choose bf16"):
        convert(path, tmp_path / "out.safetensors", "fp16")
    tensors[key][3, 4] = float("nan")
    with pytest.raises(ValueError, match=rf"{key} holds values that are not finite"):
        convert(save(path, tensors), tmp_path / "out.safetensors", "fp8")
    assert [p.name for p in tmp_path.iterdir()] == ["m.safetensors"]


def test_a_file_without_layers_has_nothing_to_store_in_eight_bits(tmp_path):
    path = save(tmp_path / "m.safetensors", {"encoder.weight": torch.zeros(32, 32)})
    lora = save(tmp_path / "l.safetensors", {"blocks.0.self_attn.q.lora_A.weight": torch.zeros(16, 256)})
    for source in (path, lora):
        with pytest.raises(ValueError, match="no attention or feed-forward matrices"):
            convert(source, tmp_path / "out.safetensors", "fp8")
    assert not (tmp_path / "out.safetensors").exists()


def test_gguf_is_out_of_scope(wan, tmp_path):
    for source, target in ((wan, tmp_path / "m.gguf"), (tmp_path / "m.gguf", wan)):
        with pytest.raises(ValueError, match="GGUF is neither read nor written here"):
            convert(source, target, "bf16")


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize("to", ["bf16", "fp8"])
def test_ctrl_c_leaves_what_was_there(wan, tmp_path, to):
    before = wan.read_bytes()
    target = tmp_path / "out.safetensors"
    for path in (wan, target):
        with pytest.raises(KeyboardInterrupt):
            convert(wan, path, to, lambda done, _: signal.raise_signal(signal.SIGINT) if done == 9 else None)
    assert wan.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["wan.safetensors"]


def test_a_matrix_of_zeros_stays_one(tmp_path):
    tensors = {**small_wan(), "blocks.0.self_attn.q.weight": torch.zeros(256, 256)}
    convert(save(tmp_path / "m.safetensors", tensors), tmp_path / "out.safetensors", "fp8")
    found = load_file(tmp_path / "out.safetensors")
    assert not found["blocks.0.self_attn.q.weight"].float().any()
    assert found["blocks.0.self_attn.q.weight_scale"] == 1


def test_ovis_attention_between_towers_is_in_eight_bits_too(tmp_path):
    convert(ovi_files.save_ovi(tmp_path / "o.safetensors"), tmp_path / "out.safetensors", "fp8")
    found = load_file(tmp_path / "out.safetensors")
    assert found["audio_model.blocks.2.cross_attn.k_fusion.weight"].dtype is EIGHT
    assert found["audio_model.patch_embedding.2.w1.weight"].dtype is torch.float32

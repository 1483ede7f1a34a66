"""Every published form of Ovi's files loads to the same model; what is no Ovi, or a half of it, is refused in a sentence."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import ovi_files as ovi
import pytest
import torch
from safetensors.torch import save_file

from harmony_core.conditioning import Conditioning
from harmony_core.config import HarmonyConfig, preset
from harmony_core.models.harmony import Harmony
from harmony_core.runtime import Runtime
from harmony_core.types import Modality
from harmony_core.weights.ovi import (
    SIZES,
    config_of,
    is_dreamid,
    is_ovi,
    load_ovi,
    size_of,
    to_harmony,
    to_ovi,
    towers_of,
    trained_on,
)

SMALL = {"width": 128, "layers": 2, "ffn": 64, "text": 16, "freq": 16}
SIZE = "720x720_5s"


@pytest.fixture(scope="module")
def plain() -> dict[str, torch.Tensor]:
    return ovi.weights(**SMALL)


@pytest.fixture(scope="module")
def whole(plain) -> dict[str, torch.Tensor]:
    """Under our names."""
    return to_harmony(plain)


def loaded(path: Path, audio: Path | None = None, **more) -> dict[str, torch.Tensor]:
    return dict(load_ovi(path, audio, size=SIZE, **more).state_dict())


def same(one: dict, other: dict, error: float = 0.0) -> bool:
    return one.keys() == other.keys() and all((one[k].float() - other[k].float()).abs().max() <= error for k in one)


# ---- names


def test_the_key_map_is_undone_by_its_inverse_in_both_forms(plain, whole):
    assert set(whole) == set(Harmony(config_of({k: tuple(v.shape) for k, v in whole.items()}, SIZE)).state_dict())
    assert to_ovi(whole).keys() == plain.keys()
    assert all(to_ovi(whole)[key] is value for key, value in plain.items())
    both = to_ovi(whole, split=True)
    halves = [{k: v for k, v in both.items() if k.startswith("audio_model.") is sound} for sound in (False, True)]
    assert to_harmony(halves[0]) | to_harmony(halves[1]) == whole
    assert not any(".modulation.modulation" in key for key in both)


def test_what_is_stored_beside_a_weight_is_renamed_with_it():
    keys = (
        "video_model.blocks.7.cross_attn.k_fusion.scale_weight",
        "diffusion_model.audio_model.blocks.7.ffn.0.weight._scale",
        "model.diffusion_model.video_model.blocks.0.modulation.modulation",
        "scaled_fp8",
    )
    assert list(to_harmony(dict.fromkeys(keys))) == [
        "interaction.layers.7.to_video.main.attn.k.scale_weight",
        "audio.blocks.7.ffn.0.weight._scale",
        "video.blocks.0.modulation",
        "scaled_fp8",
    ]
    with pytest.raises(ValueError, match="Ovi has nothing like speech.table.weight"):
        to_ovi({"speech.table.weight": None})


def test_towers_are_told_by_their_keys_alone(plain):
    video, audio = ovi.split(plain)
    assert towers_of(plain) == set(Modality)
    assert towers_of(video) == {Modality.VIDEO}
    assert towers_of(audio) == towers_of(ovi.split(plain, prefix="")[1]) == {Modality.AUDIO}
    assert all(map(is_ovi, (plain, video, audio)))
    assert not is_ovi([key for key in video if "fusion" not in key])  # Wan's own transformer


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("model.safetensors", "720x720_5s"),
        ("model_fp8_e4m3fn.safetensors", "720x720_5s"),
        ("model_960x960.safetensors", "960x960_5s"),
        ("model_960x960_10s.safetensors", "960x960_10s"),
        ("Wan_2_1_Ovi_video_model_bf16.safetensors", "720x720_5s"),
        ("Wan_2_2_Ovi_video_model_bf16.safetensors", "720x720_5s"),
        ("Wan2_2-5B-Ovi_960x960_10s_video_model_bf16.safetensors", "960x960_10s"),
        ("Wan2_2_Ovi_video_model_960x960_fp8.safetensors", "960x960_5s"),
        ("wan2.2_ovi_video_10B_quanto_bf16_int8.safetensors", "720x720_5s"),
        ("wan2.2_ovi1_1_video_10B_bf16.safetensors", None),
        ("my-ovi.safetensors", None),
    ],
)
def test_published_names_say_which_model_it_is_and_others_do_not(name, size):
    assert size_of([name]) == size


def test_names_that_disagree_say_nothing():
    assert size_of(["model_960x960.safetensors", "model_960x960_10s.safetensors"]) is None
    assert size_of(["model_960x960_10s.safetensors", "audio.safetensors"]) == "960x960_10s"


def test_the_config_of_the_published_shapes_is_the_preset():
    shapes = to_harmony(ovi.shapes(width=3072, layers=30, ffn=14336, text=4096, freq=256))
    assert config_of(shapes, "720x720_5s") == preset("ovi-720")
    assert config_of(shapes, "960x960_5s") == config_of(shapes, "960x960_10s") == preset("ovi-960")


@pytest.mark.parametrize(("size", "frames", "side"), list(zip(SIZES, (121, 121, 241), (704, 960, 960), strict=True)))
def test_each_size_has_the_clip_it_was_trained_for(size, frames, side):
    spec = trained_on(size, preset("ovi-720"))
    assert (spec.frames, spec.height, spec.width, spec.fps) == (frames, side, side, 24)
    assert spec.latent_frames == (61 if frames == 241 else 31)


# ---- forms


def test_one_file_under_any_prefix(plain, whole, tmp_path):
    for prefix in ("", "diffusion_model.", "model.diffusion_model."):
        path = ovi.save_ovi(tmp_path / "ovi.safetensors", {prefix + k: v for k, v in plain.items()})
        assert same(loaded(path), whole)


@pytest.mark.parametrize("doubled", [False, True])
@pytest.mark.parametrize("prefix", ["audio_model.", ""])
def test_two_files_in_either_order(prefix, doubled, plain, whole, tmp_path):
    halves = ovi.split(plain, prefix=prefix, doubled=doubled)
    paths = [ovi.save_ovi(tmp_path / f"{n}.safetensors", half) for n, half in enumerate(halves)]
    assert same(loaded(*paths), whole)
    assert same(loaded(*reversed(paths)), whole)


@pytest.mark.parametrize("wrap", [lambda t: t, lambda t: {"module": t, "step": 3}, lambda t: {"app": {"model": t}}])
def test_pickles_bare_and_nested(wrap, plain, whole, tmp_path):
    torch.save(wrap(plain), tmp_path / "model.pt")
    assert same(loaded(tmp_path / "model.pt"), whole)


@pytest.mark.parametrize("name", ["model.safetensors", "model.pt"])
def test_a_loaded_model_has_nothing_more_to_do_with_its_file(name, plain, whole, tmp_path):
    path = tmp_path / name
    torch.save(plain, path) if path.suffix == ".pt" else ovi.save_ovi(path, plain)
    found = loaded(path)
    with path.open("r+b") as file:
        file.write(bytes(path.stat().st_size))
    assert same(found, whole)


def test_shards_beside_their_index(plain, whole, tmp_path):
    keys = list(plain)
    shards = {f"part-{n}.safetensors": keys[n::3] for n in range(3)}
    for name, part in shards.items():
        ovi.save_ovi(tmp_path / name, {key: plain[key] for key in part})
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {key: name for name, part in shards.items() for key in part}}))
    assert same(loaded(index), whole)
    (tmp_path / "part-1.safetensors").unlink()
    with pytest.raises(ValueError, match=r"lists the shard part-1\.safetensors, which is not beside it"):
        load_ovi(index, size=SIZE)


def is_matrix(key: str, value: torch.Tensor) -> bool:
    return value.ndim == 2 and key.endswith(".weight") and "blocks." in key


def test_float8_as_it_is(plain, whole, tmp_path):
    path = ovi.save_ovi(tmp_path / "m.safetensors", {k: v.to(torch.float8_e4m3fn) for k, v in plain.items()})
    found = loaded(path)
    assert {v.dtype for v in found.values()} == {torch.bfloat16}
    assert same(found, {k: v.to(torch.float8_e4m3fn) for k, v in whole.items()})


@pytest.mark.parametrize("name", ["scale_weight", "weight_scale"])
@pytest.mark.parametrize("rows", [False, True])
def test_scaled_float8_is_made_plain(rows, name, plain, whole, tmp_path):
    stored: dict[str, torch.Tensor] = {"scaled_fp8": torch.zeros(2).to(torch.float8_e4m3fn)}
    for key, value in plain.items():
        if not is_matrix(key, value):
            stored[key] = value
            continue
        scale = value.abs().amax(1) / 448 if rows else value.abs().max() / 448
        stored[key] = (value / (scale[:, None] if rows else scale)).to(torch.float8_e4m3fn)
        layer = key.removesuffix(".weight")
        stored[f"{layer}.{name}"] = scale
        stored[f"{layer}.scale_input"] = torch.ones(())
        if name == "weight_scale":
            said = json.dumps({"format": "float8_e4m3fn"}).encode()
            stored[f"{layer}.comfy_quant"] = torch.frombuffer(bytearray(said), dtype=torch.uint8)
    found = loaded(ovi.save_ovi(tmp_path / "m.safetensors", stored), runtime=Runtime(dtype=torch.float32))
    for key, value in whole.items():
        # Three bits behind the leading one: half a step is a sixteenth, of what is not next to nothing.
        assert ((found[key] - value).abs() <= value.abs() / 16 + value.abs().max() / 4000).all(), key
    assert not same(found, whole)


def quanto(plain: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    stored: dict[str, torch.Tensor] = {}
    for key, value in plain.items():
        if not is_matrix(key, value):
            stored[key] = value
            continue
        scale = value.abs().amax(1, keepdim=True) / 127
        stored[f"{key}._data"], stored[f"{key}._scale"] = (value / scale).round().to(torch.int8), scale
        stored[f"{key.removesuffix('.weight')}.input_scale"] = torch.ones(())
        stored[f"{key.removesuffix('.weight')}.output_scale"] = torch.ones(())
    return stored


def test_quantos_int8_is_made_plain(plain, whole, tmp_path):
    halves = ovi.split(quanto(plain), prefix="", doubled=True)
    paths = [ovi.save_ovi(tmp_path / f"{n}.safetensors", half) for n, half in enumerate(halves)]
    found = loaded(*paths, runtime=Runtime(dtype=torch.float32))
    for key, value in whole.items():
        assert (found[key] - value).abs().max() <= value.abs().max() / 127, key
    assert not same(found, whole)


def test_the_dtype_is_the_files_or_what_is_asked_for(plain, tmp_path):
    path = ovi.save_ovi(tmp_path / "m.safetensors", {k: v.half() for k, v in plain.items()})
    assert {v.dtype for v in loaded(path).values()} == {torch.float16}
    assert {v.dtype for v in loaded(path, runtime=Runtime(dtype=torch.bfloat16)).values()} == {torch.bfloat16}
    mixed = ovi.save_ovi(tmp_path / "x.safetensors", {k: v if v.ndim == 1 else v.bfloat16() for k, v in plain.items()})
    assert {v.dtype for v in loaded(mixed).values()} == {torch.bfloat16}


def test_which_model_it_is_comes_from_the_name_or_the_user_and_is_never_guessed(plain, tmp_path, caplog):
    named = ovi.save_ovi(tmp_path / "model_960x960_10s.safetensors", plain)
    with caplog.at_level(logging.INFO):
        assert load_ovi(named).config.prompt == "ovi-960"
    assert "is taken for Ovi's 960x960_10s, by its name" in caplog.text
    assert load_ovi(named, size="720x720_5s").config.prompt == "ovi-720"
    unnamed = ovi.save_ovi(tmp_path / "mine.safetensors", plain)
    with pytest.raises(ValueError, match=r"mine\.safetensors does not say which .* say 720x720_5s, 960x960_5s or 960x960_10s"):
        load_ovi(unnamed)
    said = ovi.save_ovi(tmp_path / "said.safetensors", plain, **{"modelspec.resolution": "720x720"})
    assert load_ovi(said).config.prompt == "ovi-720"
    with pytest.raises(ValueError, match=r"Ovi's models are .*, got '512x512'"):
        load_ovi(unnamed, size="512x512")


def test_dreamid_is_known_by_its_name_and_runs_as_ovi_only_if_asked_to(plain, tmp_path, caplog):
    path = ovi.save_ovi(tmp_path / "dreamid_omni.safetensors", plain)
    assert is_dreamid([path.name])
    with pytest.raises(ValueError, match="is DreamID-Omni's, by its name: its reference pictures and voices.*not supported"):
        load_ovi(path)
    with caplog.at_level(logging.WARNING):
        assert load_ovi(path, size="960x960_5s").config.one_prompt
    assert "not supported here; it runs as Ovi does" in caplog.text


# ---- what is refused


def save(path: Path, tensors: dict[str, torch.Tensor]) -> Path:
    save_file({k: v.contiguous() for k, v in tensors.items()}, str(path))
    return path


def test_a_missing_half_is_named(plain, tmp_path):
    video, audio = (save(tmp_path / f"{n}.safetensors", half) for n, half in enumerate(ovi.split(plain)))
    with pytest.raises(ValueError, match="holds Ovi's video tower alone: give the file of its audio tower too"):
        load_ovi(video, size=SIZE)
    with pytest.raises(ValueError, match="holds Ovi's audio tower alone: give the file of its video tower too"):
        load_ovi(audio, size=SIZE)
    with pytest.raises(ValueError, match=r"both .*0\.safetensors and .*0\.safetensors hold Ovi's video tower"):
        load_ovi(video, video, size=SIZE)


def broken(plain: dict, change: str) -> dict[str, torch.Tensor]:
    tensors = dict(plain)
    key = "video_model.blocks.0.ffn.0.weight"
    if change == "wan":
        return {k: v for k, v in ovi.split(plain)[0].items() if "fusion" not in k}
    if change == "image":
        return {"double_blocks.0.img_attn.qkv.weight": torch.zeros(3, 3)}
    if change == "missing":
        del tensors["audio_model.blocks.1.cross_attn.v_fusion.bias"]
    if change == "extra":
        tensors["video_model.img_emb.proj.0.weight"] = torch.zeros(4)
    if change == "shape":
        tensors["audio_model.head.head.bias"] = torch.zeros(21)
    if change == "int8":
        tensors[key] = torch.zeros(64, 128, dtype=torch.int8)
    if change == "int32":
        tensors[key] = torch.zeros(64, 128, dtype=torch.int32)
    if change == "rotated":
        said = bytearray(json.dumps({"format": "int8_tensorwise", "convrot": True}).encode())
        tensors["video_model.blocks.0.ffn.0.comfy_quant"] = torch.frombuffer(said, dtype=torch.uint8)
    if change == "unscaled":
        del tensors[key]
        tensors[f"{key}._data"] = torch.zeros(64, 128, dtype=torch.int8)
    if change == "narrow":
        return ovi.weights(**{**SMALL, "width": 96})
    return tensors


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("wan", "holds no weights of Ovi"),
        ("image", "holds no weights of Ovi"),
        ("missing", "1 missing: audio_model.blocks.1.cross_attn.v_fusion.bias"),
        ("extra", "1 unexpected: video_model.img_emb.proj.0.weight"),
        ("shape", r"1 of another shape: audio_model.head.head.bias \(21,\) instead of \(20,\)"),
        ("int8", "video_model.blocks.0.ffn.0.weight is stored as whole numbers without a scale"),
        ("int32", "video_model.blocks.0.ffn.0.weight holds whole numbers, which no weight of Ovi is"),
        ("rotated", "video_model.blocks.0.ffn.0 is stored as int8_tensorwise, rotated, which is not read here"),
        ("unscaled", "ffn.0.weight._data is stored as whole numbers without a scale"),
        ("narrow", "its video tower is 96 wide, which 128 does not divide"),
    ],
)
def test_what_is_no_ovi_is_refused_in_a_sentence(change, message, plain, tmp_path):
    path = save(tmp_path / "m.safetensors", broken(plain, change))
    with pytest.raises(ValueError, match=message):
        load_ovi(path, size=SIZE)


def test_files_that_cannot_be_read(plain, tmp_path):
    path = save(tmp_path / "m.safetensors", plain)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ValueError, match="is truncated or of another format"):
        load_ovi(path, size=SIZE)
    with pytest.raises(ValueError, match="no weights file at"):
        load_ovi(tmp_path / "none.safetensors", size=SIZE)
    with pytest.raises(ValueError, match="no weights file at"):
        load_ovi(tmp_path / "none.safetensors.index.json", size=SIZE)
    torch.save({"module": {"video_model.x": Path("x")}}, tmp_path / "code.pt")
    with pytest.raises(ValueError, match="holds more than tensors"):
        load_ovi(tmp_path / "code.pt", size=SIZE)


def test_a_model_of_one_prompt_is_told_it_every_time_and_takes_no_voice(plain, tmp_path):
    model = load_ovi(ovi.save_ovi(tmp_path / "m.safetensors", plain), size=SIZE)
    tokens = torch.zeros(1, 3, 16)
    told = Conditioning(video_caption=tokens, audio_caption=tokens)
    assert len(model.prepare(told, 1).text.video) == 2
    with pytest.raises(ValueError, match="knows no missing audio caption; give umT5's encoding of an empty text"):
        model.prepare(Conditioning(video_caption=tokens), 1)
    with pytest.raises(ValueError, match="takes no reference voice"):
        model.prepare(Conditioning(video_caption=tokens, audio_caption=tokens, reference=torch.zeros(1, 20, 4)), 1)
    with pytest.raises(ValueError, match="has no transcript encoder"):
        model.prepare(Conditioning(video_caption=tokens, audio_caption=tokens, transcript=torch.zeros(1, 4).long()), 1)


def test_a_config_of_one_prompt_has_no_second_way_to_be_told(plain):
    config = preset("ovi-720")
    assert config.one_prompt
    assert not preset("5b").one_prompt
    with pytest.raises(ValueError, match="is encoded by umT5 alone"):
        config.replace(speech=preset("5b").speech)
    assert HarmonyConfig.from_metadata(config.to_metadata()) == config

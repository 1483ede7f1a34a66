"""Files that ``harmony convert`` wrote in 8 bits, read by ComfyUI: a Harmony by the nodes, a Wan2.2 by the stock loader."""

from pathlib import Path

import pytest
from comfyui import run_beside_comfy
from public_parts import save, small_wan

from harmony_core.weights.builtin import resolve
from harmony_core.weights.convert import convert

CLOSE = 0.13
"""Largest relative error of what a model makes; see test_model_storage.py for the same weights scaled by others."""


@pytest.fixture(scope="module")
def harmony(tmp_path_factory):
    folder = tmp_path_factory.mktemp("harmony")
    convert(resolve("harmony-tiny"), folder / "eight.safetensors", "fp8")
    convert(folder / "eight.safetensors", folder / "back.safetensors", "bf16")
    return run_beside_comfy(Path(__file__).with_name("beside_model_storage.py"), str(resolve("harmony-tiny")), str(folder))


def test_a_harmony_in_eight_bits_is_loaded_by_comfyuis_own_operations(harmony):
    assert harmony["eight"]["mixed"]
    assert 0 < harmony["eight"]["away"] <= CLOSE


def test_a_harmony_that_went_there_and_back_is_a_plain_one(harmony):
    assert not harmony["back"]["mixed"]
    assert 0 < harmony["back"]["away"] <= CLOSE


def test_the_stock_loader_reads_a_wan_in_eight_bits(tmp_path):
    plain = save(tmp_path / "wan.safetensors", small_wan(text=4096, freq=256))
    prefixed = save(
        tmp_path / "p.safetensors", {f"model.diffusion_model.{k}": v for k, v in small_wan(text=4096, freq=256).items()}
    )
    paths = tmp_path / "eight.safetensors", tmp_path / "eight-prefixed.safetensors"
    for source, target in zip((plain, prefixed), paths, strict=True):
        convert(source, target, "fp8")
    found = run_beside_comfy(Path(__file__).with_name("beside_converted.py"), str(plain), *map(str, paths))
    assert not found[str(plain)]["mixed"]
    for path in paths:
        assert found[str(path)]["mixed"]
        assert found[str(path)]["kind"] == found[str(plain)]["kind"]
        assert 0 < found[str(path)]["away"] <= CLOSE

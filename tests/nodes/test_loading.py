"""Starting, and loading again as dynamic VRAM does it for torch.compile: a CPU run never comes there by itself."""

from pathlib import Path

import pytest
from all_in_one import save_all_in_one
from comfyui import run_beside_comfy


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    path = save_all_in_one(tmp_path_factory.mktemp("loading") / "small.safetensors")
    return run_beside_comfy(Path(__file__).with_name("beside_nodes.py"), str(path))


@pytest.mark.parametrize("what", ["starts_at_once", "starts_without_model_code"])
def test_the_pack_starts_light(found, what):
    assert found[what]


@pytest.mark.parametrize(
    "what",
    ["is_plain", "shares_nothing", "is_shown_alike", "delegate_equals", "fresh_equals", "bfloat16_finite", "run_is_closed"],
)
def test_a_model_made_again(found, what):
    assert found[what]


@pytest.mark.parametrize("what", ["saved_text_encoder_is_the_changed_one", "saved_codec_is_the_connected_one"])
def test_a_checkpoint_that_comfyui_saved(found, what):
    assert found[what]


@pytest.mark.parametrize(
    "what",
    ["partial_is_partial", "partial_equals", "partial_equals_with_a_lora", "the_lora_changes", "partial_is_undone"],
)
def test_a_model_of_which_half_is_loaded(found, what):
    assert found[what]


@pytest.mark.parametrize(
    "what",
    [
        "dynamic_is_dynamic",
        "delegate_is_plain",
        "dynamic_delegate_equals",
        "dynamic_equals",
        "dynamic_fp8_is_for_matrices",
    ],
)
def test_a_model_made_for_dynamic_vram(found, what):
    assert found[what]


@pytest.mark.parametrize("what", ["weights", "step"])
@pytest.mark.parametrize("dtype", ["default", "fp8_e4m3fn", "fp8_e5m2"])
def test_what_is_told_of_memory_before_it_is_loaded_is_what_it_takes(found, dtype, what):
    told, taken = found["estimated"][f"{dtype}_{what}"]
    assert told == taken
    if dtype != "default" and what == "weights":
        assert told < found["estimated"]["default_weights"][0]

"""Layers replaced by other nodes, as skip-layer guidance replaces them."""

from pathlib import Path

import pytest
from all_in_one import save_all_in_one
from comfyui import run_beside_comfy

NEAR = 1e-4
TASKS = ["joint", "driven"]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    path = save_all_in_one(tmp_path_factory.mktemp("layers") / "small.safetensors")
    return run_beside_comfy(Path(__file__).with_name("beside_model_layers.py"), str(path))


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("what", ["itself_changes_nothing", "without_one_is_another", "undone"])
def test_a_replaced_layer(found, task, what):
    assert found[task][what]


@pytest.mark.parametrize("task", TASKS)
def test_a_patch_is_told_which_layer_it_stands_for(found, task):
    assert found[task]["numbers"] == [[0, 2], [1, 2]]


def test_a_patch_is_given_video_and_sound(found):
    assert found["joint"]["streams"] == [[True, True]]
    assert found["driven"]["streams"] == [[False, True], [True, False]]


@pytest.mark.parametrize("task", TASKS)
def test_skip_layer_guidance_works_and_never_reads_a_driver_of_other_layers(found, task):
    assert found[task]["guidance_changes"]
    assert found[task]["away_without_a_kept_driver"] <= NEAR

"""Weight hooks in a real ComfyUI: what a run prepares once follows the weights of each step."""

from pathlib import Path

import pytest
from all_in_one import save_all_in_one
from comfyui import run_beside_comfy

NEAR = 1e-4
WAYS = ["joint cfg", "joint sync", "audio cfg", "audio sync"]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    path = save_all_in_one(tmp_path_factory.mktemp("hooks") / "small.safetensors")
    return run_beside_comfy(Path(__file__).with_name("beside_hooks.py"), str(path))


@pytest.mark.parametrize("weight", ["text", "driver", "step"])
@pytest.mark.parametrize("way", WAYS)
def test_a_hook_that_begins_within_a_run_equals_two_stages(found, weight, way):
    assert found[f"{weight} {way}"]["error"] < NEAR


@pytest.mark.parametrize("weight", ["text", "driver", "step"])
def test_a_hook_of_one_condition_leaves_the_other(found, weight):
    assert found[f"{weight} one condition"]["error"] < NEAR


def test_the_hooks_do_something(found):
    assert (
        min(found[f"{weight} {way}"]["effect"] for weight in ("text", "step") for way in ("joint cfg", "audio cfg"))
        > 100 * NEAR
    )

"""What ComfyUI is told that a step needs, against what it took: never less, and not half as much again."""

from pathlib import Path

import pytest
from comfyui import run_beside_comfy

SIZES = 5
MOST = 1.5


@pytest.fixture(scope="module")
def found():
    return run_beside_comfy(Path(__file__).with_name("beside_model_memory.py"))


@pytest.mark.parametrize("size", range(SIZES))
@pytest.mark.parametrize("model", ["wan", "tiny", "narrow sound", "cast"])
def test_the_estimate_of_a_run_holds(found, model, size):
    estimate, measured = found[model][size]
    assert measured <= estimate <= MOST * measured


@pytest.mark.parametrize("what", ["decode video", "encode video", "decode audio", "encode audio"])
@pytest.mark.parametrize("size", range(3))
def test_the_estimate_of_a_codec_holds(found, what, size):
    estimate, measured = found[what][size]
    assert measured <= estimate <= MOST * measured

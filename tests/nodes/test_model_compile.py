"""The stock TorchCompileModel on our MODEL, really compiled; without a C++ compiler it is skipped."""

from pathlib import Path

import pytest
from all_in_one import save_all_in_one
from comfyui import run_beside_comfy
from small import small_branch

NEAR = 1e-4


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    # One layer: compiling takes longer than all the rest.
    video, audio = (small_branch(c, p, text_len=24, layers=1) for c, p in ((48, (1, 1, 1)), (20, (1,))))
    path = save_all_in_one(tmp_path_factory.mktemp("compile") / "small.safetensors", codecs=False, video=video, audio=audio)
    found = run_beside_comfy(Path(__file__).with_name("beside_model_compile.py"), str(path))
    if not found["compiler"]:
        pytest.skip("torch.compile on a CPU needs a C++ compiler, and there is none")
    return found


def test_the_same_latents(found):
    assert found["away"] <= NEAR


def test_compiled_once_and_as_one_graph(found):
    assert found["graphs"] == [1, 1, 1]


def test_the_model_it_was_made_from_is_not_compiled(found):
    assert found["plain_again"]
    assert found["graphs_after"] == 1


def test_without_a_compiler_one_sentence_says_so(found):
    assert found["said"].startswith("model: torch.compile cannot compile it here")
    assert len(found["said"].splitlines()) == 1

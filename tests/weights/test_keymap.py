import pytest
import torch
from small import small_branch

from harmony_core.models.branch import Branch
from harmony_core.runtime import Runtime
from harmony_core.weights.keymap import WanLayout, detect_layout, from_original, to_original


def keys() -> dict[str, int]:
    return {key: n for n, key in enumerate(Branch(small_branch(48, (1, 2, 2)), Runtime()).state_dict())}


@pytest.mark.parametrize("layout", list(WanLayout))
def test_names_go_there_and_back_and_are_recognised(layout):
    renamed = from_original(keys(), layout)
    assert detect_layout(renamed) is layout
    assert to_original(renamed) == keys()
    assert len(renamed) == len(keys())


def test_what_stands_beside_a_prefixed_transformer_is_left_out():
    renamed = from_original(keys(), WanLayout.PREFIXED) | {"first_stage_model.x": -1}
    assert to_original(renamed) == keys()


def test_other_models_are_refused():
    with pytest.raises(ValueError, match="no weights of a Wan transformer"):
        to_original({"transformer.x": torch.zeros(1)})

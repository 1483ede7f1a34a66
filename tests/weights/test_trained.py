import pytest
from all_in_one import all_in_one_config
from small import small_config

from harmony_core.config import PRESETS
from harmony_core.geometry import ClipSpec
from harmony_core.weights.trained import CLIP_KEY, clip_metadata, trained_clip, usual_clip


def test_the_clip_goes_to_metadata_and_back():
    config = all_in_one_config(fps=12.0)
    spec = ClipSpec(frames=25, height=48, width=80, fps=12.0, grid=config.grid)
    assert trained_clip(config, clip_metadata(spec)) == spec
    assert trained_clip(config, {}) is None


@pytest.mark.parametrize("text", ["{", "[]", '{"frames": 49}', '{"frames": 50, "height": 64, "width": 64}'])
def test_what_is_no_clip_is_refused(text):
    with pytest.raises(ValueError, match="harmony.clip|frames"):
        trained_clip(all_in_one_config(), {CLIP_KEY: text})


def test_a_checkpoint_that_says_nothing_is_taken_for_one_of_its_kind():
    assert usual_clip(PRESETS["tiny"]) == ClipSpec(frames=49, height=64, width=64, grid=PRESETS["tiny"].grid)
    assert usual_clip(PRESETS["5b"]) == ClipSpec(frames=121, height=704, width=1280)
    assert usual_clip(small_config()).frames == 121

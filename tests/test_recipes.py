"""One table of sampling defaults: whoever has a default has this one."""

import argparse
import dataclasses

from harmony_core.bench.world.plan import Plan
from harmony_core.cli import demo, evaluate, generate
from harmony_core.config import preset
from harmony_core.recipes import HARMONY, RECIPES, recipe_for
from harmony_core.sample import Schedule
from harmony_core.training.config import SamplesConfig


def defaults(command) -> dict:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return {action.dest: action.default for action in parser._actions}


def test_the_command_line_evaluation_demo_and_training_sample_as_the_table_says():
    schedule = Schedule(steps=HARMONY.steps, shift=HARMONY.shift, sampler=HARMONY.sampler)
    assert Schedule() == Plan().schedule == schedule
    assert Plan().sync_scale == HARMONY.sync
    asked = defaults(evaluate)
    assert Schedule(steps=asked["steps"], shift=asked["shift"], sampler=asked["sampler"], gamma=asked["gamma"]) == schedule
    assert (asked["sync_video"], asked["sync_audio"]) == tuple(HARMONY.sync)
    assert defaults(demo)["steps"] == HARMONY.steps
    samples = SamplesConfig()
    assert (samples.steps, samples.shift) == (HARMONY.steps, HARMONY.shift)
    # Generate asks the table once it knows the checkpoint.
    own = defaults(generate)
    assert {own[name] for name in ("steps", "shift", "sampler", "sync_video", "sync_audio", "text_video", "text_audio")} == {
        None
    }


def test_every_preset_has_an_entry_whose_layers_it_has():
    for name in ("5b", "tiny", "ovi-720", "ovi-960"):
        config = preset(name)
        recipe = RECIPES[recipe_for(config)]
        assert all(layer < config.video.layers for layer in recipe.skip_layers)
        assert dataclasses.replace(recipe, steps=1).shift == recipe.shift > 0

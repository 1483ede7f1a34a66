"""Conditions of a batch: every clip is as it is alone."""

import dataclasses

import pytest
import torch
from small import small_conditioning, small_config, small_latents, small_model

from harmony_core.types import AV, Modality

CLOSE = 1e-5
"""Largest difference in velocities of order 1: float32 sums over other lengths."""


@pytest.mark.parametrize("style_tokens", [0, 2, 5])
@pytest.mark.parametrize("driver", [None, *Modality])
def test_a_clip_without_a_reference_is_as_without_one_beside_clips_that_have_one(style_tokens, driver):
    model, x = small_model(small_config(style_tokens=style_tokens)), small_latents(3)
    told = small_conditioning(3)
    times = AV.of(lambda m: torch.full((3, 1), 0.0 if m is driver else 0.6))
    has = torch.tensor([True, False, True])
    mixed = model(x, times, model.prepare(dataclasses.replace(told, has_reference=has), 3), driver=driver)
    every = model(x, times, model.prepare(told, 3), driver=driver)
    none = model(x, times, model.prepare(dataclasses.replace(told, reference=None), 3), driver=driver)
    for m in Modality:
        expected = torch.where(has.view(-1, *[1] * (x[m].ndim - 1)), every[m], none[m])
        assert (mixed[m] - expected).abs().max() < CLOSE
    if driver is not Modality.AUDIO or style_tokens:
        assert (every.audio - none.audio).abs().max() > 1e-3  # or this could not fail


def test_what_a_masked_reference_holds_is_never_heard():
    model, x = small_model(), small_latents(2)
    told = dataclasses.replace(small_conditioning(2, reference=7), has_reference=torch.tensor([True, False]))
    other = dataclasses.replace(told, reference=torch.cat([told.reference[:1], told.reference[1:] + 9]))
    times = AV.both(torch.full((2, 1), 0.5))
    one, two = (model(x, times, model.prepare(c, 2)) for c in (told, other))
    assert torch.equal(one.video, two.video)
    assert torch.equal(one.audio, two.audio)


def test_has_reference_wants_a_reference_and_a_mask():
    model, told = small_model(), small_conditioning(2)
    with pytest.raises(ValueError, match="has_reference is a mask of bool, got torch.int64"):
        model.prepare(dataclasses.replace(told, has_reference=torch.tensor([1, 0])), 2)
    with pytest.raises(ValueError, match="which clips have a reference, and there is none"):
        model.prepare(dataclasses.replace(told, reference=None, has_reference=torch.tensor([True, False])), 2)

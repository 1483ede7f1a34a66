import numpy as np
import pytest
import torch
from bounces import FPS, SECONDS, bouncing, clicks

from harmony_core.measure.report import describe, draw
from harmony_core.measure.sync import measure_sync
from harmony_core.types import Audio

GREEN, RED = (24, 140, 60), (200, 40, 40)


def said(pictures, audio) -> str:
    found = measure_sync(pictures, audio, FPS)
    return describe(found, seen_seconds=len(pictures) / FPS, heard_seconds=audio.seconds)


def test_what_is_said_fits_what_was_given():
    pictures = bouncing()
    assert "shifted in time" in said(pictures, clicks())
    assert "no better than chance" not in said(pictures, clicks())
    assert "ms late" in said(pictures, clicks(late=0.2))
    assert "ms early" in said(pictures, clicks(late=-0.2))
    assert "the sound is silent" in said(pictures, Audio(torch.zeros(1, 1, 64_000), 16_000))
    assert "nothing moves" in said(pictures[:1].expand(96, -1, -1, -1), clicks())
    assert "the first 2.50 s were measured" in said(pictures, clicks(seconds=2.5))


@pytest.mark.parametrize("size", [(64, 64), (180, 320)])
def test_the_picture_marks_events_and_joins_those_that_match(size):
    pictures, audio = bouncing(size), clicks()
    found = measure_sync(pictures, audio, FPS)
    drawn = draw(found, pictures, audio, FPS)
    assert drawn.dtype == np.uint8
    join = drawn[-28 - 16 : -28]
    green = (join == GREEN).all(-1)
    assert green.any(1).all()  # lines go all the way from what is seen to what is heard
    seconds = np.flatnonzero((drawn[-1] == GREEN).all(-1)) / drawn.shape[1] * SECONDS
    matched = [found.heard.times[j] for _, j in found.events.pairs]
    assert max(np.abs(seconds - time).min() for time in matched) < 0.05


def test_events_without_a_partner_are_red():
    pictures, audio = bouncing(), clicks(late=0.25)
    drawn = draw(measure_sync(pictures, audio, FPS), pictures, audio, FPS)
    assert (drawn == RED).all(-1).any()


def test_silence_is_drawn_too():
    pictures, audio = bouncing(), Audio(torch.zeros(1, 2, 64_000), 16_000)
    drawn = draw(measure_sync(pictures, audio, FPS), pictures, audio, FPS)
    assert not (drawn == GREEN).all(-1).any()

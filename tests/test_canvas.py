import pytest
import torch
from small import small_clip, small_latents

from harmony_core.canvas import Canvas
from harmony_core.types import AV, Modality


def blank(batch: int = 2) -> Canvas:
    return Canvas.blank(small_clip(), batch=batch)


def test_a_blank_canvas_is_the_joint_task():
    canvas = blank()
    assert canvas.driver is None
    assert canvas.generated == AV(True, True)
    times = canvas.times(AV(0.5, 0.25))
    assert times.video.shape == (2, 3)
    assert set(times.video.unique().tolist()) == {0.5}
    assert set(times.audio.unique().tolist()) == {0.25}


@pytest.mark.parametrize("driver", list(Modality))
@pytest.mark.bitwise("locked")
def test_a_stream_given_whole_drives_at_time_zero(driver):
    latents = small_latents(2)
    canvas = blank().with_given(driver, latents[driver])
    assert canvas.driver is driver
    assert canvas.generated == AV.both(True).replace(driver, False)
    times = canvas.times(AV(0.5, 0.5))
    assert times[driver].max() == 0
    assert times[driver.other].min() == 0.5
    x = small_latents(2, seed=9)
    composed = canvas.compose(x)
    assert torch.equal(composed[driver], latents[driver])
    assert torch.equal(composed[driver.other], x[driver.other])


@pytest.mark.bitwise("locked")
def test_a_first_frame_is_the_first_latent_alone():
    first = torch.randn(1, 48, 1, 4, 6)
    canvas = blank().with_first_frame(first)
    assert canvas.driver is None
    assert canvas.times(AV(0.5, 0.5)).video.tolist() == [[0, 0.5, 0.5]] * 2
    composed = canvas.compose(small_latents(2))
    assert torch.equal(composed.video[:, :, :1], first.expand(2, -1, -1, -1, -1))
    assert torch.equal(composed.video[:, :, 1:], small_latents(2).video[:, :, 1:])


@pytest.mark.bitwise("locked")
def test_some_seconds_of_either_stream_are_kept():
    spec, latents = small_clip(), small_latents(2)
    kept = spec.timeline.audio_in_span(0.1, 0.3)
    canvas = blank().with_given(Modality.AUDIO, latents.audio, kept)
    assert 0 < kept.sum() < len(kept)
    composed = canvas.compose(small_latents(2, seed=9))
    assert torch.equal(composed.audio[..., kept], latents.audio[..., kept])
    assert torch.equal(canvas.times(AV(1.0, 1.0)).audio[0] == 0, kept)
    both = canvas.with_first_frame(latents.video[:, :, :1])
    assert torch.equal(both.free.audio, canvas.free.audio)


@pytest.mark.bitwise("locked")
def test_giving_twice_adds_up():
    latents = small_latents(1)
    first, last = torch.tensor([True, False, False]), torch.tensor([False, False, True])
    canvas = blank(1).with_given(Modality.VIDEO, latents.video, first).with_given(Modality.VIDEO, latents.video, last)
    assert canvas.free.video.tolist() == [[False, True, False]]
    assert torch.equal(canvas.given.video[:, :, [0, 2]], latents.video[:, :, [0, 2]])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda c, x: c.with_given(Modality.VIDEO, x.video).with_given(Modality.AUDIO, x.audio), "nothing to generate"),
        (lambda c, x: c.with_given(Modality.AUDIO, x.audio[..., :-1]), "audio latents of this clip are"),
        (lambda c, x: c.with_given(Modality.VIDEO, x.video[:, :16]), "video latents of this clip are"),
        (lambda c, x: c.with_given(Modality.VIDEO, x.video.repeat(3, 1, 1, 1, 1)), "got"),
        (lambda c, x: c.with_given(Modality.AUDIO, x.audio, torch.ones(5, dtype=torch.bool)), "mask of 12, got"),
        (lambda c, x: c.with_given(Modality.AUDIO, x.audio * float("nan")), "not finite"),
        (lambda c, x: c.with_first_frame(x.video), "a first frame is"),
        (lambda c, x: Canvas(spec=c.spec, given=c.given, free=c.free.map(lambda m: m[:, 1:])), "mask of shape"),
    ],
)
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(blank(), small_latents(2))


def test_a_batch_is_driven_as_a_whole_or_not_at_all():
    canvas, latents = blank(), small_latents(2)
    free = canvas.free.audio.clone()
    free[0] = False
    with pytest.raises(ValueError, match="given whole in some clips of the batch and not in others"):
        Canvas(spec=canvas.spec, given=latents, free=canvas.free.replace(Modality.AUDIO, free))

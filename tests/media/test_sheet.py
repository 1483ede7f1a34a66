import pytest
import torch

from harmony_core.media.sheet import Mark, heated, sheet, strip
from harmony_core.types import Audio, Video


def sound(seconds: float, rate: int = 16_000, channels: int = 1) -> Audio:
    return Audio(torch.rand(1, channels, round(seconds * rate)) - 0.5, rate)


@pytest.mark.parametrize(
    ("size", "frames", "shown"),
    [((64, 64), 49, (64, 768)), ((704, 1280), 5, (106, 960)), ((30, 500), 2, (12, 384)), ((16, 16), 1, (16, 16))],
)
def test_pictures_of_any_size_make_a_strip_of_sane_width(size, frames, shown):
    video = Video(torch.zeros(1, 3, frames, *size), 24.0)
    drawn = strip(video, sound(video.seconds, 44_100, 2), [[], [Mark(0.0, (255, 0, 0))]])
    assert drawn.shape == (shown[0] + 40 + 2 * 10, shown[1], 3)


def test_a_mark_is_below_the_picture_of_its_instant():
    frames = -torch.ones(1, 3, 48, 8, 8)
    frames[:, :, 20:24] = 1  # 5/12 to 6/12 of the clip
    drawn = strip(Video(frames, 24.0), sound(2.0), [[Mark(21 / 24, (255, 0, 0))]])
    bright = (drawn[0] == 255).all(1).nonzero()[0]
    red = ((drawn[-1] == (255, 0, 0)).all(1)).nonzero()[0]
    assert bright.min() <= red.min() <= red.max() <= bright.max()


def test_the_map_of_a_latent_is_over_the_pictures_it_covers():
    maps = torch.zeros(3, 2, 2)
    maps[1, 0, 1] = 1
    video = heated(Video(torch.zeros(1, 3, 9, 8, 8), 24.0), maps, 4)
    changed = (video.frames[0] - video.frames[0, :, :1]).abs().sum(0)
    assert [bool(frame.any()) for frame in changed] == [False, *[True] * 4, *[False] * 4]
    assert changed[1, 0, 7] > changed[1, 7, 0]
    assert video.frames.abs().max() <= 1


def test_strips_stand_below_each_other():
    parts = [strip(Video(torch.zeros(1, 3, n, 8, 8), 24.0), sound(n / 24)) for n in (3, 5)]
    drawn = sheet(parts)
    assert drawn.shape == (1, 3, 1, 2 * (48 + 6), 40)
    with pytest.raises(ValueError, match="at least one clip"):
        sheet([])

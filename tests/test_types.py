import pytest
import torch

from harmony_core.types import AV, Audio, Modality, Video


def test_map_applies_to_each_stream_with_its_own_arguments():
    assert AV(1, 2).map(lambda a, b, c: a + b * c, AV(10, 20), AV(3, 4)) == AV(31, 82)


def test_streams_are_reached_by_modality_and_exchanged():
    pair = AV.of(lambda m: m.value)
    assert pair[Modality.VIDEO] == "video"
    assert pair[Modality.VIDEO.other] == "audio"
    assert pair.replace(Modality.AUDIO, "x") == AV("video", "x")
    assert list(pair) == ["video", "audio"]


def test_media_know_their_length():
    assert Audio(torch.zeros(1, 2, 8000), 16_000).seconds == 0.5
    assert Video(torch.zeros(1, 3, 12, 4, 4), 24).seconds == 0.5


@pytest.mark.parametrize(
    "make",
    [
        lambda: Audio(torch.zeros(2, 8000), 16_000),
        lambda: Audio(torch.zeros(1, 2, 8000), 0),
        lambda: Video(torch.zeros(1, 12, 3, 4, 4), 24),
        lambda: Video(torch.zeros(1, 3, 12, 4, 4), float("nan")),
    ],
)
def test_media_of_another_shape_or_rate_are_refused(make):
    with pytest.raises(ValueError, match="got"):
        make()

import pytest
import torch
from rounding import ROUNDING, away

from harmony_core.measure.sound_source import agreement, overlay, source_masks

SETTINGS = {"fps": 24.0, "frame_stride": 4}


def moving() -> torch.Tensor:
    """A map whose strongest cell goes right and down, one cell a latent."""
    maps = torch.full((1, 4, 4, 6), 0.1)
    for number in range(4):
        maps[0, number, number, number] = 1.0
    return maps


def test_maps_agree_where_both_are_strong_whatever_their_scale():
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.rand(1, 3, 4, 4, generator=generator) * 0.3 for _ in range(2))
    first[:, :, 1, 2] = second[:, :, 1, 2] = 0.9
    first[:, :, 0, 0] = 1.0  # stronger, but in one of them only
    both = agreement(first, 7 * second)
    assert (both.flatten(2).argmax(-1) == 1 * 4 + 2).all()
    assert torch.allclose(both, agreement(second, first))
    assert not agreement(torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2)).any()
    assert not agreement(torch.ones(1, 1, 2, 2), torch.ones(1, 1, 2, 2)).any()  # alike everywhere: no source


def strongest(mask: torch.Tensor) -> tuple[int, int]:
    row, column = divmod(int(mask.argmax()), mask.shape[1])
    return row, column


@pytest.mark.parametrize("size", [(64, 96), (32, 48), (300, 450)])
def test_a_mask_is_strongest_where_its_latents_map_is(size):
    masks = source_masks(moving(), size, **SETTINGS, seconds=0.0)
    assert masks.shape == (1, 13, *size)
    assert 0 <= masks.min() <= masks.max() <= 1
    assert masks.max() > 0.97
    cell = size[0] / 4
    for number, picture in ((0, 0), (1, 2), (1, 3), (2, 6), (3, 11)):
        row, column = strongest(masks[0, picture])
        assert abs(row + 0.5 - (number + 0.5) * cell) <= cell / 2
        assert abs(column + 0.5 - (number + 0.5) * cell) <= cell / 2


def test_masks_change_smoothly_over_time_and_space():
    masks = source_masks(moving(), (64, 96), **SETTINGS, floor=0.0, seconds=0.1, spread=0.05)
    assert (masks[:, 1:] - masks[:, :-1]).abs().max() < 0.25
    assert (masks[:, :, 1:] - masks[:, :, :-1]).abs().max() < 0.12
    jumps = source_masks(moving(), (64, 96), **SETTINGS, floor=0.0, seconds=0.0)
    assert (masks[:, 1:] - masks[:, :-1]).abs().max() < (jumps[:, 1:] - jumps[:, :-1]).abs().max()


def test_a_higher_floor_is_a_smaller_mask():
    areas = [float((source_masks(moving(), (64, 96), **SETTINGS, floor=floor) > 0).float().mean()) for floor in (0.0, 0.3, 0.7)]
    assert areas[0] > areas[1] > areas[2] > 0


def test_what_every_cell_gets_alike_is_no_source():
    maps = moving() * 0.2 + 0.2
    masks = source_masks(maps, (64, 96), **SETTINGS, floor=0.6, seconds=0.0)
    assert masks[0, 11, -1, 0] == 0


def test_clips_do_not_touch_each_other():
    both = torch.cat([moving(), moving().flip(3) * 5])
    masks = source_masks(both, (32, 48), **SETTINGS, spread=0.1)
    for number in range(2):
        assert away(masks[number], source_masks(both[number : number + 1], (32, 48), **SETTINGS, spread=0.1)[0]) <= ROUNDING


def test_one_latent_and_an_empty_map_are_masks_too():
    assert source_masks(moving()[:, :1], (16, 24), **SETTINGS).shape == (1, 1, 16, 24)
    assert not source_masks(torch.zeros(1, 2, 4, 4), (16, 16), **SETTINGS).any()


@pytest.mark.parametrize("wrong", [{"floor": 1.0}, {"floor": -0.1}, {"seconds": -1.0}, {"spread": -1.0}])
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match="floor is in"):
        source_masks(moving(), (16, 16), **SETTINGS, **wrong)


def test_the_overlay_is_the_picture_at_strength_0_and_orange_at_the_source():
    pictures = torch.rand(2, 8, 8, 3, generator=torch.Generator().manual_seed(0))
    masks = torch.zeros(2, 8, 8)
    masks[:, 2, 3] = 1
    assert away(overlay(pictures, masks, 0.0), pictures) <= ROUNDING
    shown = overlay(pictures, masks, 1.0)
    assert 0 <= shown.min() <= shown.max() <= 1
    red, _, blue = shown[0, 2, 3]
    assert red > blue + 0.5
    assert torch.allclose(shown[0, 5, 5], pictures[0, 5, 5] * 0.6)

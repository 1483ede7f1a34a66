import pytest
import torch
from rounding import ROUNDING, away

from harmony_core.layers import rope

THETA = 10_000.0


def turn(positions) -> torch.Tensor:
    return rope.rotation((torch.as_tensor(positions),), (8,), theta=THETA)


def test_scores_depend_on_the_distance_alone():
    q, k = torch.randn(2, 1, 1, 1, 8).unbind(0)
    near = (rope.rotate(q, turn([3.0])) * rope.rotate(k, turn([1.5]))).sum()
    far = (rope.rotate(q, turn([103.0])) * rope.rotate(k, turn([101.5]))).sum()
    assert torch.allclose(near, far, atol=1e-4)


def test_lengths_are_kept_and_position_zero_is_the_identity():
    x = torch.randn(1, 4, 2, 8)
    y = rope.rotate(x, turn([0, 1, 2, -7]))
    assert torch.allclose(x.norm(dim=-1), y.norm(dim=-1), atol=1e-5)
    assert away(x[:, 0], y[:, 0]) <= ROUNDING
    assert not torch.allclose(x[:, 1], y[:, 1])


@pytest.mark.bitwise("copy")
def test_channels_beyond_the_rotated_ones_pass():
    x = torch.randn(1, 3, 2, 12)
    y = rope.rotate(x, turn([1, 2, 3]))
    assert torch.equal(x[..., 8:], y[..., 8:])


def test_axes_share_the_head_in_order_and_scale_multiplies_frequencies():
    t, h = torch.tensor([2.0, 5.0]), torch.tensor([1.0, 3.0])
    both = rope.rotation((t, h), (4, 6), theta=THETA)
    apart = [rope.rotation((t,), (4,), theta=THETA), rope.rotation((h,), (6,), theta=THETA)]
    assert away(both, torch.cat(apart, -1)) <= ROUNDING
    assert torch.allclose(rope.rotation((t,), (4,), theta=THETA, scale=0.5), rope.rotation((t / 2,), (4,), theta=THETA))


def test_the_real_form_for_compilers_equals_the_complex_one():
    x, positions = torch.randn(2, 5, 3, 8), turn([0.0, 1.3, 2.0, 9.5, -4.0])
    assert torch.allclose(rope.rotate(x, positions), rope._rotate_real(x, positions), atol=1e-6)


def test_wan_shares_a_head_of_128_as_44_42_42():
    assert rope.split_channels(128) == (44, 42, 42)

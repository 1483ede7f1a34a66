import math

import pytest
import torch

from harmony_core.layers.modulation import add_gated, modulate, sinusoidal


def test_groups_share_a_row():
    x, y = torch.randn(2, 2, 6, 4).unbind(0)
    shift, scale = torch.randn(2, 2, 3, 4).unbind(0)
    spread = [r.repeat_interleave(2, 1) for r in (shift, scale)]
    assert torch.allclose(modulate(x, shift, scale), x * (1 + spread[1]) + spread[0], atol=1e-6)
    assert torch.allclose(add_gated(x, y, scale), x + y * spread[1], atol=1e-6)


def test_sinusoidal_is_cosines_then_sines_from_fast_to_slow():
    features = sinusoidal(torch.tensor([[0.0, 3.0]]), 8)
    assert features.shape == (1, 2, 8)
    assert features[0, 0].tolist() == pytest.approx([1] * 4 + [0] * 4, abs=1e-6)
    assert features[0, 1, [0, 4]].tolist() == pytest.approx([math.cos(3), math.sin(3)], abs=1e-6)

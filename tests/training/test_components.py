import pytest
import torch
from synthetic import Discs

from harmony_core.training.components import blocks_of, principal_components

BLOCK = 3 * 4 * 16 * 16


def clips(count=4, frames=9):
    discs = Discs(count, frames=frames, size=32)
    return torch.stack([discs.clip(n).frames for n in range(count)]).float()


def even(x):
    return torch.ones(len(x), 1, 1, *x.shape[3:])


@pytest.fixture(scope="module")
def components():
    """All in which these clips vary, from two batches of them."""
    x = clips()
    return principal_components([(x[:2], even(x[:2])), (x[2:], even(x[2:]))], 47)  # 48 blocks vary in 47 directions


@pytest.mark.bitwise("copy")
def test_blocks_hold_each_pixel_once_and_the_first_frame_four_times():
    x = torch.randn(2, 3, 9, 32, 48)
    blocks = blocks_of(x)
    assert blocks.shape == (2, 3, 2, 3, BLOCK)
    block = blocks[1, 2, 1, 2].reshape(3, 4, 16, 16)
    assert torch.equal(block, x[1, :, 5:9, 16:32, 32:48])
    first = blocks[0, 0, 0, 0].reshape(3, 4, 16, 16)
    assert all(torch.equal(first[:, n], x[0, :, 0, :16, :16]) for n in range(4))


def test_components_are_uncorrelated_and_their_variances_have_a_mean_of_one(components):
    rows = components.of(clips()).movedim(1, -1).flatten(0, 3).double()
    assert rows.shape == (4 * 3 * 2 * 2, 47)
    covariance = rows.T.cov(correction=0)
    variances = covariance.diagonal()
    assert abs(variances.mean() - 1) < 5e-3  # the directions of no variance have some in float32
    assert (variances.diff() <= 1e-6).all()
    assert (covariance - covariance.diag().diag()).abs().max() < 1e-3 * variances.max()


def test_all_components_together_lose_nothing(components):
    x = clips()
    code = components.of(x).movedim(1, -1)
    back = code / components.gain @ components.basis.T + components.mean
    torch.testing.assert_close(back, blocks_of(x), atol=2e-3, rtol=0)


def test_what_weighs_more_is_kept_better(components):
    x = clips()
    left = torch.full((4, 1, 1, 32, 32), 1e-3)
    left[..., :16] = 1

    def error(code, count):
        kept = code.of(x).movedim(1, -1)[..., :count] / code.gain[:count]
        return (kept @ code.basis[:, :count].T + code.mean - blocks_of(x))[:, :, :, 0].square().mean()

    assert error(principal_components([(x, left)], 3), 3) < error(components, 3)

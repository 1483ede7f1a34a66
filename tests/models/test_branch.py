import pytest
import torch
from rounding import ROUNDING, away
from small import small_branch

from harmony_core.models.branch import Branch
from harmony_core.runtime import Runtime

VIDEO, AUDIO = (1, 2, 2), (1,)


def branch(patch=VIDEO, channels=12, **changes) -> Branch:
    torch.manual_seed(0)
    module = Branch(small_branch(channels, patch, **changes), Runtime())
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return module.requires_grad_(False)


@pytest.mark.parametrize("embedding", ["conv", "conv_mlp"])
def test_sound_and_picture_come_back_in_their_shapes(embedding):
    video, audio = torch.randn(2, 12, 3, 4, 6), torch.randn(2, 20, 9)
    caption = torch.randn(2, 4, 16)
    assert branch()(video, torch.rand(2), caption).shape == video.shape
    assert branch(AUDIO, 20, embedding=embedding)(audio, torch.rand(2), caption).shape == audio.shape


def test_a_clean_first_frame_changes_what_the_model_knows_of_its_time():
    module, x, caption = branch(), torch.randn(1, 12, 3, 4, 4), torch.randn(1, 4, 16)
    noisy = module(x, torch.full((1, 3), 0.7), caption)
    first_clean = module(x, torch.tensor([[0.0, 0.7, 0.7]]), caption)
    assert away(module(x, torch.tensor([0.7]), caption), noisy) <= ROUNDING
    assert (noisy - first_clean).abs().max() > 1e-3


@pytest.mark.bitwise("mask")
def test_patches_are_put_back_where_they_were_taken():
    """With a head that knows one patch's content only by its own token, each patch of the output depends on its own input."""
    module = branch(layers=1)
    for block in module.blocks:
        for silent in (block.self_attn.o, block.cross_attn.o):
            torch.nn.init.zeros_(silent.weight)
            torch.nn.init.zeros_(silent.bias)
    x, t, caption = torch.randn(1, 12, 2, 4, 6), torch.tensor([0.5]), torch.randn(1, 4, 16)
    nudged = x.clone()
    nudged[0, 3, 1, 2, 5] += 1.0  # frame 1, patch row 1, patch column 2
    changed = (module(x, t, caption) - module(nudged, t, caption)).abs().amax(1)[0] > 1e-4
    where = torch.zeros(2, 4, 6, dtype=torch.bool)
    where[1, 2:4, 4:6] = True
    assert torch.equal(changed, where)


def test_a_prefix_is_seen_but_not_returned_and_sits_before_the_clip():
    module, x = branch(AUDIO, 20), torch.randn(1, 20, 6)
    text = module.read_context(module.embed_text(torch.randn(1, 4, 16)))
    prefix = module.embed(torch.randn(1, 20, 2))
    t = torch.full((1, 6), 0.4)

    def run(gap: int) -> torch.Tensor:
        turn = module.rotation(module.layout(x, prefix), gap)
        stream = module.begin(x, t, text, turn=turn, prefix=prefix)
        for block, kv in zip(module.blocks, text, strict=True):
            stream = block.feed_forward(block.attend_text(block.attend_self(stream), kv))
        return module.finish(stream)

    assert run(0).shape == x.shape
    assert (run(0) - run(5)).abs().max() > 1e-5
    assert (run(0) - module(x, t, torch.zeros(1, 1, 16))).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda m: m(torch.zeros(1, 11, 3, 4, 4), torch.zeros(1), torch.zeros(1, 4, 16)),
            r"\(batch, 12, frames, height, width\)",
        ),
        (lambda m: m(torch.zeros(1, 12, 3, 4), torch.zeros(1), torch.zeros(1, 4, 16)), "latents are"),
        (lambda m: m(torch.zeros(1, 12, 3, 4, 5), torch.zeros(1), torch.zeros(1, 4, 16)), "do not divide into patches"),
        (lambda m: m(torch.zeros(1, 12, 3, 4, 4), torch.zeros(1, 2), torch.zeros(1, 4, 16)), "times are"),
        (lambda m: m(torch.zeros(1, 12, 3, 4, 4), torch.zeros(1), torch.zeros(1, 4, 17)), "caption tokens are"),
        (lambda m: m(torch.zeros(1, 12, 3, 4, 4), torch.zeros(1), torch.zeros(1, 7, 16)), "at most 6 tokens, got 7"),
    ],
)
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(branch())

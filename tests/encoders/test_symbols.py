import pytest
import torch

from harmony_core.config import SymbolEncoderConfig
from harmony_core.encoders.symbols import FILLER, SymbolEncoder, to_symbols
from harmony_core.runtime import Runtime

LETTERS = SymbolEncoderConfig(symbols=" abc", length=6, dim=16, blocks=2)
BYTES = SymbolEncoderConfig(length=6, dim=16, blocks=1)


def test_symbols_are_numbered_and_filled_up():
    assert to_symbols(["a  B", ""], LETTERS).tolist() == [[2, 1, 3, 0, 0, 0], [FILLER] * 6]
    assert to_symbols(["é"], BYTES).tolist() == [[0xC3 + 1, 0xA9 + 1, 0, 0, 0, 0]]


def test_unknown_symbols_are_named():
    with pytest.raises(ValueError, match=r"knows no 'z' \(LATIN SMALL LETTER Z\), 'é'"):
        to_symbols(["zaé"], LETTERS)


def test_long_texts_are_refused_with_the_limit():
    with pytest.raises(ValueError, match="has 7 symbols, at most 6"):
        to_symbols(["abcabca"], LETTERS)


def encoder(config=LETTERS) -> SymbolEncoder:
    torch.manual_seed(0)
    module = SymbolEncoder(config, 8, Runtime())
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return module


def test_every_symbol_and_its_place_matter():
    out = encoder()(to_symbols(["abc", "acb", "ab", ""], LETTERS), torch.float32)
    assert out.shape == (4, 6, 8)
    for i in range(4):
        for j in range(i):
            assert (out[i] - out[j]).abs().max() > 1e-3


def test_a_text_is_encoded_alone_as_in_a_batch():
    module, numbers = encoder(), to_symbols(["abc", "c", ""], LETTERS)
    alone = torch.cat([module(row[None], torch.float32) for row in numbers])
    assert torch.allclose(module(numbers, torch.float32), alone, atol=1e-6)


@pytest.mark.parametrize(
    "numbers", [torch.zeros(1, 5, dtype=torch.long), torch.full((1, 6), 9), torch.full((1, 6), -1), torch.zeros(1, 6)]
)
def test_numbers_that_are_no_symbols_are_refused(numbers):
    with pytest.raises(ValueError, match="got"):
        encoder()(numbers, torch.float32)


@pytest.mark.parametrize("symbols", ["", "abc"])
def test_half_a_character_is_no_text(symbols):
    with pytest.raises(ValueError, match="a character is no text, but half of one: 'a.ud800'") as refusal:
        to_symbols(["a\ud800"], SymbolEncoderConfig(symbols=symbols, length=8, dim=4, blocks=1))
    assert str(refusal.value).isprintable()

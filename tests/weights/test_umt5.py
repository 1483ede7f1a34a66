"""umT5 from every form it is published in, against transformers' own encoder."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
import sentencepiece
import text_encoders as small
import torch
from rounding import ROUNDING, away
from safetensors.torch import save_file
from torch import Tensor

from harmony_core.encoders.umt5 import LONGEST, TextEncoder, clean
from harmony_core.weights.umt5 import encode_texts, load_text_encoder

TEXT = "A man says, <S>Hello.<E> Audio: knocks"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return small.save_folder(tmp_path_factory.mktemp("umt5"))


def loaded(path: Path) -> TextEncoder:
    return load_text_encoder(path, dtype=torch.float32)


def expected(text: str = TEXT, length: int = 64) -> Tensor:
    """By transformers, padded and masked, as Wan encodes; then without what is masked."""
    numbers = [3 + ord(letter) - 32 for letter in text] + [small.END]
    ids = torch.tensor([numbers + [small.PAD] * (length - len(numbers))])
    mask = (torch.arange(length) < len(numbers)).long()[None]
    return small.encoder()(input_ids=ids, attention_mask=mask).last_hidden_state[:, : len(numbers)]


def test_a_folder_of_transformers(folder):
    encoder = loaded(folder)
    tokens = encoder(TEXT)
    assert tokens.shape == (1, len(TEXT) + 1, encoder.width)
    assert (tokens - expected()).abs().max() <= 1e-5


def test_a_folder_of_diffusers(folder, tmp_path):
    small.encoder().save_pretrained(str(tmp_path / "text_encoder"))
    small.save_tokenizer(tmp_path / "tokenizer")
    assert away(loaded(tmp_path)(TEXT), loaded(folder)(TEXT)) <= ROUNDING


@pytest.mark.parametrize("place", [".", "google/umt5-xxl"])
def test_wans_own_file_with_the_tokenizer_beside_it(place, tmp_path):
    state = dict(small.encoder().state_dict())
    del state["encoder.embed_tokens.weight"]
    theirs = small.wan_names(state)
    assert len(theirs) == len(state)
    torch.save(theirs, tmp_path / "models_t5_umt5-xxl-enc-bf16.pth")
    with pytest.raises(ValueError, match="holds no tokenizer, and none is beside it: put the folder google/umt5-xxl"):
        loaded(tmp_path / "models_t5_umt5-xxl-enc-bf16.pth")
    small.save_tokenizer(tmp_path / place)
    assert (loaded(tmp_path / "models_t5_umt5-xxl-enc-bf16.pth")(TEXT) - expected()).abs().max() <= 1e-5


def test_comfyuis_single_file_with_its_tokenizer_in_it_plain_and_in_eight_bits(tmp_path):
    written = io.BytesIO()
    sentences = ["a red ball falls on a wooden floor", "knocks on wood, then birds", "a woman speaks"] * 9
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences), model_writer=written, vocab_size=60, hard_vocab_limit=False,
        pad_id=0, eos_id=1, bos_id=3, unk_id=2, minloglevel=2,
    )  # fmt: skip
    pieces = torch.frombuffer(bytearray(written.getvalue()), dtype=torch.uint8)
    state = {key: value for key, value in small.encoder().state_dict().items() if key != "encoder.embed_tokens.weight"}
    save_file({**state, "spiece_model": pieces}, str(tmp_path / "plain.safetensors"))
    plain = loaded(tmp_path / "plain.safetensors")
    numbers = plain.tokenize("a red ball")
    assert numbers[-1] == small.END
    assert (plain("a red ball") - small.encoder()(input_ids=torch.tensor([numbers])).last_hidden_state).abs().max() <= 1e-5

    stored: dict[str, Tensor] = {"spiece_model": pieces, "scaled_fp8": torch.zeros(2).to(torch.float8_e4m3fn)}
    for key, value in state.items():
        if value.ndim == 2 and "layer" in key and "bias" not in key:
            scale = value.abs().max() / 448
            stored[key] = (value / scale).to(torch.float8_e4m3fn)
            stored[key.removesuffix("weight") + "scale_weight"] = scale
        else:
            stored[key] = value
    save_file(stored, str(tmp_path / "scaled.safetensors"))
    rounded = loaded(tmp_path / "scaled.safetensors")("a red ball")
    assert 0 < (rounded - plain("a red ball")).abs().max() < 0.2 * plain("a red ball").abs().max()


def test_texts_are_encoded_and_the_encoder_is_let_go(folder):
    found = encode_texts(folder, [TEXT, "", TEXT], dtype=torch.float32)
    assert set(found) == {TEXT, ""}
    assert found[""].shape == (1, 1, 16)  # its end alone
    assert away(found[TEXT], loaded(folder)(TEXT)) <= ROUNDING


def test_a_long_text_is_cut_and_still_ends(folder):
    encoder = loaded(folder)
    assert encoder("a" * 2000).shape[1] == LONGEST
    longest = encoder("a" * (LONGEST - 1))
    assert away(longest, encoder("a" * 2000)) <= ROUNDING


def test_texts_are_cleaned_as_wan_cleans_them():
    assert clean("  it\u2019s \u201cso\u201d\n\n good &amp;amp; new ") == 'it\'s "so" good & new'
    assert clean("e\u0301") == "\u00e9"


def test_what_is_no_text_encoder_is_refused_in_a_sentence(folder, tmp_path):
    with pytest.raises(ValueError, match="there is no text encoder at"):
        loaded(tmp_path / "none")
    with pytest.raises(ValueError, match=r"is no folder of a text encoder: it has no config\.json"):
        loaded(tmp_path)
    save_file({"double_blocks.weight": torch.zeros(2, 2)}, str(tmp_path / "image.safetensors"))
    small.save_tokenizer(tmp_path)
    with pytest.raises(ValueError, match="is no umT5: it lacks 'shared.weight'"):
        loaded(tmp_path / "image.safetensors")
    state = {key: value for key, value in small.encoder().state_dict().items() if key != "encoder.embed_tokens.weight"}
    del state["encoder.block.1.layer.1.DenseReluDense.wo.weight"]
    save_file(state, str(tmp_path / "part.safetensors"))
    with pytest.raises(ValueError, match=r"is no whole umT5: 1 tensors are missing .*block\.1\.layer\.1\.DenseReluDense\.wo"):
        loaded(tmp_path / "part.safetensors")
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "config.json").write_text(json.dumps({"model_type": "bert"}))
    small.save_tokenizer(tmp_path / "bert")
    with pytest.raises(ValueError, match="of the kind 'bert'; wanted is umt5"):
        loaded(tmp_path / "bert")
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"has no tokenizer in it: one of tokenizer\.json"):
        loaded(tmp_path / "bare")


def test_without_transformers_one_is_told_what_to_install(folder):
    code = (
        "import sys; sys.modules['transformers'] = None\n"
        "from harmony_core.weights.umt5 import load_text_encoder\n"
        f"try: load_text_encoder({str(folder)!r})\n"
        "except ValueError as error: print(error)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "pip install 'harmony-av[text]'" in said


def test_importing_the_module_imports_no_transformers():
    code = "import sys, harmony_core.weights.umt5, harmony_core.pipeline; sys.exit('transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

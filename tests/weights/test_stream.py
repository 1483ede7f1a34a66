"""Tensors a piece at a time: what is read is what is there, and a file is there whole or not at all."""

import json
import random

import pytest
import torch
from public_parts import save, save_shards
from safetensors import safe_open
from safetensors.torch import load_file

from harmony_core.weights import stream
from harmony_core.weights.stream import Entry, open_tensors, writing

TENSORS = {
    "scale": torch.tensor(0.5),
    "nothing": torch.zeros(0, 3),
    "row": torch.randn(7),
    "wide": torch.randn(5, 300),
    "odd": torch.randn(3, 5).to(torch.float8_e4m3fn),
    "conv": torch.randn(6, 2, 3, 1, 2).bfloat16(),
    "counts": torch.arange(4),
    "flags": torch.tensor([True, False]),
}


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.dtype is b.dtype and a.shape == b.shape and torch.equal(a.float(), b.float())


@pytest.fixture(params=["safetensors", "shards", "pickle"])
def source(request, tmp_path, monkeypatch):
    monkeypatch.setattr(stream, "PIECE_BYTES", 1000)  # so that larger ones come in several
    monkeypatch.setattr(stream, "MAPPED_BYTES", 1500)
    if request.param == "shards":
        return open_tensors(save_shards(tmp_path, TENSORS))
    if request.param == "pickle":
        torch.save({"module": TENSORS}, tmp_path / "m.pt")
        return open_tensors(tmp_path / "m.pt")
    return open_tensors(save(tmp_path / "m.safetensors", TENSORS, {"who": "me"}))


@pytest.mark.bitwise("file")
def test_every_tensor_is_read_as_it_is(source):
    assert source.entries.keys() == TENSORS.keys()
    for key, value in TENSORS.items():
        assert source.entries[key] == Entry(tuple(value.shape), value.dtype)
        assert same(source.read(key), value), key
    assert [len(piece) for piece in source.pieces("wide")] == [1] * 5
    assert len(list(source.pieces("scale"))) == 1


@pytest.mark.bitwise("file")
def test_what_is_written_is_what_others_read(source, tmp_path):
    path = tmp_path / "out.safetensors"
    with writing(path, source.entries, {"who": "me"}) as writer:
        for key in reversed(list(source.entries)):  # any order will do
            writer.write(key, source.pieces(key))
    found = load_file(path)
    assert found.keys() == TENSORS.keys()
    assert all(same(found[key], value) for key, value in TENSORS.items())
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"who": "me"}


def test_values_lie_on_multiples_of_their_size(tmp_path):
    entries = {"a": Entry((3,), torch.float8_e4m3fn), "b": Entry((2,), torch.float64), "c": Entry((1,), torch.bfloat16)}
    with writing(tmp_path / "m.safetensors", entries, {}) as writer:
        for key, entry in entries.items():
            writer.write(key, [torch.zeros(entry.shape, dtype=entry.dtype)])
    for key, place in stream.read_places(tmp_path / "m.safetensors")[0].items():
        assert place.begin % entries[key].dtype.itemsize == 0


@pytest.mark.parametrize("stopped", [KeyboardInterrupt, ValueError])
def test_what_is_not_finished_leaves_what_was_there(tmp_path, stopped):
    path = tmp_path / "m.safetensors"
    path.write_text("before")
    with pytest.raises(stopped), writing(path, {"a": Entry((9,), torch.float32)}, {}) as writer:
        writer.write("a", [torch.zeros(9)])
        raise stopped
    assert path.read_text() == "before"
    assert [p.name for p in tmp_path.iterdir()] == ["m.safetensors"]


def test_a_file_that_is_too_large_for_the_disk_is_not_begun(tmp_path):
    with (
        pytest.raises(
            ValueError, match=r"cannot write .*m.safetensors: it takes 1000000\.00 GB, and .* GB of the disk are free"
        ),
        writing(tmp_path / "m.safetensors", {"a": Entry((10**15,), torch.uint8)}, {}),
    ):
        pytest.fail("it was begun")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "words"), [("m.pt", "to a .safetensors file"), ("m.gguf", "GGUF"), ("no/m.safetensors", "cannot")]
)
def test_targets_that_cannot_be(tmp_path, name, words):
    with pytest.raises(ValueError, match=words), writing(tmp_path / name, {}, {}):
        pytest.fail("it was begun")
    assert not list(tmp_path.iterdir())


def test_damaged_files_never_get_past_the_border(tmp_path):
    whole, path = save(tmp_path / "m.safetensors", TENSORS).read_bytes(), tmp_path / "damaged.safetensors"
    header = 8 + int.from_bytes(whole[:8], "little")
    rng = random.Random(0)
    refused = 0
    for _ in range(300):
        damaged = bytearray(whole)
        for _ in range(3):
            damaged[rng.randrange(header)] = rng.randrange(256)
        path.write_bytes(damaged)
        try:
            found = open_tensors(path)
            for key in found.entries:
                found.read(key)
        except ValueError as error:
            refused += 1
            assert "damaged.safetensors" in str(error)  # noqa: PT017
    assert refused > 200


@pytest.mark.parametrize("cut", [0, 7, 100, -1])
def test_truncated_files_and_shards_are_one_sentence(tmp_path, cut):
    index = save_shards(tmp_path, TENSORS)
    shard = tmp_path / "m-2-of-2.safetensors"
    shard.write_bytes(shard.read_bytes()[:cut])
    for path in (index, shard):
        with pytest.raises(ValueError, match="m-2-of-2.safetensors cannot be read as weights, it is truncated") as raised:
            open_tensors(path)
        assert "\n" not in str(raised.value)


def test_a_shard_that_is_missing_or_lacks_a_tensor_is_named(tmp_path):
    index = save_shards(tmp_path, TENSORS)
    record = json.loads(index.read_text())
    index.write_text(json.dumps({"weight_map": {**record["weight_map"], "more": "m-1-of-2.safetensors"}}))
    with pytest.raises(ValueError, match=r"says that more is in m-1-of-2.safetensors, and it is not"):
        open_tensors(index)
    (tmp_path / "m-1-of-2.safetensors").unlink()
    with pytest.raises(ValueError, match="lists the shard m-1-of-2.safetensors, which is not beside it"):
        open_tensors(index)


def test_a_file_that_shrinks_while_it_is_read_is_one_sentence(tmp_path):
    path = save(tmp_path / "m.safetensors", {"a": torch.zeros(100)})
    source = open_tensors(path)
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(ValueError, match=r"cannot read .*m.safetensors: it is shorter than it was"):
        source.read("a")


def test_what_is_no_weights_file_is_said(tmp_path):
    (tmp_path / "m.txt").write_text("x")
    torch.save({"a": torch.zeros(3)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    for name, words in (("none.safetensors", "no weights file at"), ("m.txt", "is no weights file"), ("old.pt", "before 1.6")):
        with pytest.raises(ValueError, match=words):
            open_tensors(tmp_path / name)

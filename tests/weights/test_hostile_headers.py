"""Headers of safetensors files and indexes that nobody's tool wrote."""

import json
import os
from pathlib import Path

import pytest
import torch
from limits import MIB, refused_within
from safetensors.torch import save_file

from harmony_core.weights import files
from harmony_core.weights.files import read_places, read_tensors
from harmony_core.weights.stream import open_tensors


def written(path: Path, header: str, data: bytes = b"") -> Path:
    text = header.encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def entry(shape: str, offsets: str = "[0, 0]", dtype: str = '"F32"') -> str:
    return f'{{"a": {{"dtype": {dtype}, "shape": {shape}, "data_offsets": {offsets}}}}}'


BROKEN = {
    "an endless axis": entry(f"[{2**62}, 0]"),
    "an axis beyond 64 bits": entry(f"[{2**63}, 0]"),
    "an infinite axis": entry("[1e999, 0]"),
    "an axis that is no number": entry("[NaN, 0]"),
    "half an axis": entry("[0.5, 0]"),
    "an axis of truth": entry("[true, 0]"),
    "an axis of thousands of digits": entry(f"[{'9' * 5000}, 0]"),
    "offsets with a point": entry("[0]", "[0.0, 0.0]"),
    "offsets that are infinite": entry("[0]", "[1e999, 1e999]"),
    "offsets of nothing": entry("[0]", "[null, null]"),
    "one offset": entry("[0]", "[0]"),
    "a dtype that is a list": entry("[0]", dtype="[]"),
    "a dtype of a megabyte": entry("[0]", dtype=json.dumps("x" * MIB)),
    "no shape": '{"a": {"dtype": "F32", "data_offsets": [0, 0]}}',
    "a list": "[]",
    "metadata that are no texts": '{"__metadata__": {"a": 1}}',
    "metadata that are none": '{"__metadata__": null}',
    "a nest": "[" * 100_000,
}


@pytest.mark.parametrize("header", BROKEN.values(), ids=BROKEN)
def test_a_broken_header_is_one_sentence(tmp_path, header):
    path = written(tmp_path / "w.safetensors", header)
    for read in (read_places, open_tensors, read_tensors):
        with pytest.raises(ValueError, match=r"w\.safetensors") as refusal:
            read(path)
        assert len(str(refusal.value)) < 400
        assert "\n" not in str(refusal.value)


def test_a_tensor_of_no_values_is_converted_whatever_its_rows(tmp_path):
    path = written(tmp_path / "w.safetensors", entry(f"[{2**40}, 0]"))
    assert [tuple(piece.shape) for piece in open_tensors(path).pieces("a")] == [(2**40, 0)]
    long = written(tmp_path / "v.safetensors", BROKEN["an endless axis"])
    assert "does not fit" in refused_within(300 * MIB, "convert", long, tmp_path / "o.safetensors", "--to", "bf16", seconds=30)


def test_a_header_larger_than_any_is_refused_unread(tmp_path):
    path = tmp_path / "w.safetensors"
    with path.open("wb") as file:
        file.write((99_000_000).to_bytes(8, "little"))
        file.truncate(99_000_008)
    with pytest.raises(ValueError, match="header has 99,000,000 bytes, more than the limit"):
        read_tensors(path)


INDEXES = [
    "[" * 100_000,
    '{"weight_map": {"a": "\\ud800.safetensors"}}',
    '{"weight_map": {"a": "x\\u0000"}}',
    '{"weight_map": []}',
]


@pytest.mark.parametrize("text", [*INDEXES, json.dumps({"weight_map": {"a": "n" * 5000}}), '{"weight_map": {"a": 1e999}}'])
def test_a_broken_index_is_one_sentence(tmp_path, text):
    path = tmp_path / "w.safetensors.index.json"
    path.write_text(text)
    for read in (open_tensors, read_tensors):
        with pytest.raises(ValueError, match=r"index\.json") as refusal:
            read(path)
        assert len(str(refusal.value)) < 400


def test_a_small_file_is_no_longer_needed_once_it_is_read(tmp_path):
    path = tmp_path / "w.safetensors"
    save_file({"a": torch.ones(1000, 1000)}, str(path))
    tensors, _ = read_tensors(path)
    os.truncate(path, 0)
    assert tensors["a"].sum() == 1e6


def test_a_mapped_file_that_changed_is_refused_before_it_is_used(tmp_path):
    path = tmp_path / "w.pt"
    torch.save({"a": torch.ones(1000, 1000)}, path)
    source = open_tensors(path)
    os.truncate(path, 100)
    with pytest.raises(ValueError, match=r"w\.pt changed while it was in use"):
        source.read("a")


def test_a_large_file_that_changed_is_refused_before_it_is_used(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "COPIED", 0)
    path = tmp_path / "w.safetensors"
    save_file({"a": torch.ones(1000, 1000)}, str(path))
    unchanged = files.Unchanged(path)
    tensors, _ = read_tensors(path)
    assert tensors["a"].sum() == 1e6
    unchanged.check()
    os.truncate(path, 100)
    with pytest.raises(ValueError, match="changed while it was in use"):
        unchanged.check()

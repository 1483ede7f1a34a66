"""Pickles of tensors that would take more than their file holds, or hold what no file of weights does."""

import io
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from limits import MIB, refused_within

from harmony_core.weights.files import read_tensors
from harmony_core.weights.stream import open_tensors


def repacked(path: Path, changed: dict[str, bytes], compress: frozenset[str] = frozenset()) -> Path:
    """A file of ``torch.save`` with entries exchanged or compressed."""
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in entries.items():
            short = name.split("/", 1)[1]
            kind = zipfile.ZIP_DEFLATED if short in compress else zipfile.ZIP_STORED
            archive.writestr(name, changed.get(short, data), compress_type=kind)
    return path


def saved(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


def calling(path: Path, function: bytes, argument: bytes) -> Path:
    """A file whose pickle calls a function with one argument, where its first tensor was."""
    program = b"\x80\x02}(X\x01\x00\x00\x00ac" + function + b"\n(" + argument + b"tRu."
    return repacked(saved(path, {"a": torch.zeros(4)}), {"data.pkl": program})


def call_of_storage(size: int) -> bytes:
    return b"\x8a\x06" + size.to_bytes(6, "little")


@pytest.mark.parametrize("entry", ["data.pkl", "data/0"])
def test_compressed_entries_are_refused_before_they_grow(tmp_path, entry):
    path = repacked(saved(tmp_path / "w.pt", {"a": torch.zeros(4)}), {entry: bytes(1 << 29)}, frozenset({entry}))
    assert path.stat().st_size < MIB
    assert "is compressed" in refused_within(300 * MIB, "inspect", path)
    assert "is compressed" in refused_within(300 * MIB, "convert", path, tmp_path / "o.safetensors", "--to", "bf16")


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (b"__builtin__\nbytearray", "holds more than tensors"),
        (b"builtins\nbytearray", "holds more than tensors"),
        (b"torch.storage\nUntypedStorage", "cannot be read"),
        (b"torch\nFloatTensor", "holds more than tensors"),
    ],
)
def test_a_pickle_makes_nothing_of_the_size_it_says(tmp_path, function, message):
    path = calling(tmp_path / "w.pt", function, call_of_storage(1 << 33))
    assert message in refused_within(300 * MIB, "inspect", path)
    assert message in refused_within(300 * MIB, "convert", path, tmp_path / "o.safetensors", "--to", "bf16")


def test_a_storage_is_as_long_as_it_is_in_the_file(tmp_path):
    path = saved(tmp_path / "w.pt", {"a": torch.zeros(4)})
    with zipfile.ZipFile(path) as archive:
        program = archive.read(f"{archive.namelist()[0].split('/')[0]}/data.pkl")
    longer = program.replace(b"K\x04tq\x07Q", b"J\x00\x00\x00\x40tq\x07Q")
    assert longer != program
    with pytest.raises(ValueError, match=r"says that values 0 have 4,294,967,296 bytes"):
        read_tensors(repacked(path, {"data.pkl": longer}))


@pytest.mark.parametrize("old", [True, False])
def test_a_tensor_is_no_larger_than_its_values(tmp_path, old):
    path = tmp_path / "w.pt"
    torch.save({"a": torch.zeros(1).expand(1 << 30)}, path, _use_new_zipfile_serialization=not old)
    with pytest.raises(ValueError, match="holds a tensor of 1,073,741,824 values, and has 1 of them"):
        read_tensors(path)


def test_views_of_one_storage_are_read_and_many_of_them_are_not(tmp_path):
    whole = torch.arange(100_000.0)
    tensors, _ = read_tensors(saved(tmp_path / "tied.pt", {"a": whole, "b": whole, "c": whole[10:20].view(2, 5)}))
    assert torch.equal(tensors["c"], torch.arange(10.0, 20.0).view(2, 5))
    with pytest.raises(ValueError, match=r"names tensors of 40,000,000 bytes, and the file has"):
        read_tensors(saved(tmp_path / "bomb.pt", {str(n): whole.view(1, -1) for n in range(100)}))


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (lambda: torch.eye(3).to_sparse(), "sparse"),
        (lambda: torch.eye(4).to_sparse_csr(), "sparse"),
        (lambda: torch.zeros(3, device="meta"), "meta|more than tensors"),
        (lambda: torch.zeros(3, dtype=torch.complex64), "complex64"),
        (lambda: torch.quantize_per_tensor(torch.zeros(3), 0.1, 0, torch.qint8), "quantised|more than tensors"),
        (lambda: torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)]), "nested|more than tensors"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_tensors_that_are_no_plain_ones_are_named(tmp_path, tensor, message):
    path = saved(tmp_path / "w.pt", {"a": tensor()})
    for read in (read_tensors, open_tensors):
        with pytest.raises(ValueError, match=rf"w\.pt holds.*({message})"):
            read(path)


def test_what_training_programs_keep_beside_tensors_is_passed_over(tmp_path):
    content = {
        "model": torch.nn.Linear(3, 2).state_dict(),
        "epoch": 3,
        "device": torch.device("cpu"),
        "dtype": torch.bfloat16,
        "shape": torch.Size([1, 2]),
        "optimizer": torch.optim.AdamW([torch.nn.Parameter(torch.zeros(2))]).state_dict(),
        "name": "ü",
        "bytes": b"ab",
    }
    for old in (True, False):
        torch.save(content, tmp_path / "w.pt", _use_new_zipfile_serialization=not old)
        assert set(read_tensors(tmp_path / "w.pt")[0]) == {"weight", "bias"}
    every = {str(dtype): torch.zeros(2, dtype=dtype) for dtype in (torch.bool, torch.uint16, torch.float8_e4m3fn, torch.int64)}
    every["parameter"] = torch.nn.Parameter(torch.ones(2, 3).t())
    assert {key: value.dtype for key, value in read_tensors(saved(tmp_path / "w.pt", every))[0].items()} == {
        key: value.dtype for key, value in every.items()
    }


def test_a_key_of_tuples_of_tuples_does_not_take_years(tmp_path):
    key = b"K\x01" + b"".join(b"q\x00h\x00\x86" for _ in range(60))
    program = b"\x80\x02}" + key + b"K\x01s."
    path = repacked(saved(tmp_path / "w.pt", {"a": torch.zeros(4)}), {"data.pkl": program})
    with pytest.raises(ValueError, match="keys that are neither words nor numbers"):
        read_tensors(path)


def test_an_archive_that_two_programs_read_differently_is_refused(tmp_path):
    path = saved(tmp_path / "w.pt", {"a": torch.zeros(4)})
    whole = path.read_bytes()
    path.write_bytes(b"x" * 64 + whole)  # what Python's reader passes over
    with pytest.raises(ValueError, match="no archive as torch"):
        read_tensors(path)
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
        archive.writestr(next(iter(entries)).replace("data.pkl", "DATA.PKL"), pickle.dumps({}, 2))
    with pytest.raises(ValueError, match="no archive as torch"):
        read_tensors(path)

import json
import pickle
import random
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from harmony_core.weights.files import OLDEST_TORCH, load_into, read_header, read_tensors

ROOT = Path(__file__).parents[2]
TENSORS = {"a.weight": torch.randn(3, 2), "a.bias": torch.randn(3)}


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "w.safetensors"
    save_file(TENSORS, str(path), metadata={"who": "me"})
    return path


def same(tensors) -> bool:
    return tensors.keys() == TENSORS.keys() and all(torch.equal(tensors[k], TENSORS[k]) for k in TENSORS)


@pytest.mark.bitwise("file")
def test_safetensors_with_metadata(saved):
    tensors, metadata = read_tensors(saved)
    assert same(tensors)
    assert metadata == {"who": "me"}
    assert read_header(saved) == ({"a.weight": (3, 2), "a.bias": (3,)}, {"who": "me"})


@pytest.mark.parametrize("wrapper", [(), ("state_dict",), ("module",), ("app", "model"), ("generator",)])
@pytest.mark.bitwise("file")
def test_pickles_of_tensors_whatever_they_are_nested_in(tmp_path, wrapper):
    nested = TENSORS
    for name in reversed(wrapper):
        nested = {name: nested}
    torch.save(nested, tmp_path / "w.pth")
    assert same(read_tensors(tmp_path / "w.pth")[0])


class Harmful:
    def __reduce__(self):
        return (open, ("/nonexistent/proof", "w"))


@pytest.mark.parametrize("protocol", ["torch", "plain"])
def test_pickles_with_anything_else_are_not_opened(tmp_path, protocol):
    path = tmp_path / "bad.pt"
    if protocol == "torch":
        torch.save({"a": Harmful()}, path)
    else:
        path.write_bytes(pickle.dumps({"a": Harmful()}))
    with pytest.raises(ValueError, match="holds more than tensors and is not opened"):
        read_tensors(path)


@pytest.mark.parametrize("content", [{}, {"epoch": 3}, {"a": torch.zeros(1), "epoch": 3}, [torch.zeros(1)]])
def test_pickles_that_are_no_table_of_tensors(tmp_path, content):
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(ValueError, match="no flat table of tensors"):
        read_tensors(tmp_path / "w.pt")


@pytest.mark.parametrize("cut", [0, 4, 40, -1])
def test_truncated_and_foreign_files_say_so(saved, tmp_path, cut):
    whole = saved.read_bytes()
    for name in ("cut.safetensors", "cut.pt"):
        path = tmp_path / name
        path.write_bytes(whole[:cut])
        with pytest.raises(ValueError, match=f"{name} (cannot be read as weights|holds)"):
            read_tensors(path)


def test_missing_files_and_other_kinds_are_named(tmp_path):
    with pytest.raises(ValueError, match="no weights file at"):
        read_tensors(tmp_path / "none.safetensors")
    (tmp_path / "w.txt").write_text("x")
    with pytest.raises(ValueError, match="is no weights file: expected"):
        read_tensors(tmp_path / "w.txt")


def index(folder, names):
    path = folder / "w.safetensors.index.json"
    path.write_text(json.dumps({"weight_map": {str(i): n for i, n in enumerate(names)}}))
    return path


@pytest.mark.bitwise("file")
def test_shards_are_read_together_and_only_from_beside_their_index(tmp_path):
    for key, value in TENSORS.items():
        save_file({key: value}, str(tmp_path / f"{key}.safetensors"))
    assert same(read_tensors(index(tmp_path, [f"{k}.safetensors" for k in TENSORS]))[0])
    with pytest.raises(ValueError, match="lists the shard gone.safetensors, which is not beside it"):
        read_tensors(index(tmp_path, ["gone.safetensors"]))
    with pytest.raises(ValueError, match="outside its own folder"):
        read_tensors(index(tmp_path, ["../a.safetensors"]))
    (tmp_path / "w.safetensors.index.json").write_text("[]")
    with pytest.raises(ValueError, match="no safetensors index"):
        read_tensors(tmp_path / "w.safetensors.index.json")


@pytest.mark.bitwise("copy")
def test_every_key_must_fit_and_the_first_ten_misfits_are_named():
    module = torch.nn.Module()
    module.a = torch.nn.Linear(2, 3)
    load_into(module, TENSORS, what="the module")
    assert torch.equal(module.a.weight, TENSORS["a.weight"])
    wrong = {"a.weight": torch.zeros(2, 3), **{f"x{i:02d}": torch.zeros(1) for i in range(13)}}
    with pytest.raises(ValueError, match="do not fit the module") as error:
        load_into(module, wrong, what="the module")
    text = str(error.value)
    assert "1 missing: a.bias" in text
    assert "13 unexpected: x00, x01" in text
    assert "x09 and 3 more" in text
    assert "a.weight (2, 3) instead of (3, 2)" in text
    assert torch.equal(module.a.weight, TENSORS["a.weight"])


@pytest.mark.parametrize(("version", "opened"), [("2.5.1+cu124", False), ("2.6.0", True), ("2.10.0.dev1", True)])
def test_no_pickle_is_opened_by_a_torch_that_lets_it_run_code(tmp_path, monkeypatch, version, opened):
    torch.save(TENSORS, tmp_path / "w.pt")
    monkeypatch.setattr(torch, "__version__", torch.torch_version.TorchVersion(version))
    if opened:
        assert read_tensors(tmp_path / "w.pt")[0].keys() == TENSORS.keys()
        return
    with pytest.raises(ValueError, match=re.escape(f"in torch {version} a pickle can run code; update torch to 2.6 or newer")):
        read_tensors(tmp_path / "w.pt")


def test_the_project_asks_for_a_torch_that_opens_pickles():
    asked = re.search(r'^  "torch>=([\d.]+)",', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    assert asked and asked[1] == OLDEST_TORCH


def test_a_pickle_that_holds_itself_ends(tmp_path):
    endless = {}
    endless["model"] = endless
    torch.save(endless, tmp_path / "w.pt")
    with pytest.raises(ValueError, match="no flat table of tensors"):
        read_tensors(tmp_path / "w.pt")


def test_damaged_pickles_never_get_past_the_border(tmp_path):
    torch.save(TENSORS, tmp_path / "w.pt")
    whole, path = (tmp_path / "w.pt").read_bytes(), tmp_path / "damaged.pt"
    rng = random.Random(0)
    refused = []
    for _ in range(200):
        damaged = bytearray(whole)
        for _ in range(3):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        path.write_bytes(damaged)
        try:
            read_tensors(path)
        except ValueError as error:
            refused.append(str(error))
    assert len(refused) > 50
    assert all("damaged.pt" in message for message in refused)


def test_whole_numbers_are_no_weights():
    module = torch.nn.Linear(2, 3)
    with pytest.raises(ValueError, match="1 of whole numbers: bias"):
        load_into(module, {"weight": torch.zeros(3, 2), "bias": torch.zeros(3, dtype=torch.int32)}, what="the module")

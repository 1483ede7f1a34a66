"""The convert command: what it says, that memory does not grow with the file, that a full disk leaves nothing."""

import subprocess
import sys

import pytest
import torch
from limits import FULL_DISK, LARGE, MIB, STATUS, peak_bytes
from public_parts import save, save_large_ovi, small_wan
from safetensors.torch import load_file

from harmony_core.__main__ import main
from harmony_core.cli import assemble as cli_assemble
from harmony_core.cli import convert as cli_convert
from harmony_core.weights.assemble import DTYPES
from harmony_core.weights.convert import PRECISIONS


def test_there_and_back_and_what_it_says(tmp_path, capsys):
    wan, eight, back = save(tmp_path / "w.safetensors", small_wan()), tmp_path / "e.safetensors", tmp_path / "b.safetensors"
    assert main(["convert", str(wan), str(eight), "--to", "fp8"]) == 0
    said = capsys.readouterr()
    assert said.out.startswith(f"wrote {eight}: 96 weights, 30 of them in 8 bits, 66 as they were; 0.0109 GB became ")
    assert "converting 96/96" in said.err
    assert main(["convert", str(eight), str(back), "--to", "bf16"]) == 0
    assert capsys.readouterr().out.startswith(f"wrote {back}: 96 weights; ")
    assert {value.dtype for value in load_file(back).values()} == {torch.bfloat16}


def test_a_built_in_checkpoint_has_a_name(tmp_path):
    assert main(["convert", "harmony-tiny", str(tmp_path / "t.safetensors"), "--to", "fp8"]) == 0


def test_what_cannot_be_done_is_one_sentence(tmp_path, capsys):
    wan = save(tmp_path / "w.safetensors", small_wan())
    for source, target, words in (
        (tmp_path / "none.safetensors", tmp_path / "o.safetensors", "there is no checkpoint"),
        (wan, tmp_path / "o.gguf", "GGUF is neither read nor written here"),
        (wan, tmp_path / "none" / "o.safetensors", "cannot write"),
    ):
        assert main(["convert", str(source), str(target), "--to", "bf16"]) == 1
        said = capsys.readouterr()
        assert words in said.err
        assert said.err.count("\n") == 1
    assert [p.name for p in tmp_path.iterdir()] == ["w.safetensors"]


def test_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path):
    wan = save(tmp_path / "w.safetensors", small_wan())
    command = [sys.executable, "-c", FULL_DISK, "convert", str(wan), str(tmp_path / "o.safetensors"), "--to", "bf16"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"harmony: cannot write {tmp_path / 'o.safetensors'}: ")
    assert [p.name for p in tmp_path.iterdir()] == ["w.safetensors"]


@pytest.mark.skipif(not STATUS.is_file(), reason="the system does not tell a process's largest size")
@pytest.mark.parametrize(("ending", "room"), [("safetensors", 160), ("pt", 300)])
def test_memory_does_not_grow_with_the_file(tmp_path, ending, room):
    """Of a pickle, what is mapped of it counts too, 128 MiB at a time."""
    small, large = save(tmp_path / "w.safetensors", small_wan()), save_large_ovi(tmp_path / "l.safetensors", **LARGE)
    assert large.stat().st_size > 380 * MIB
    if ending == "pt":
        torch.save({"module": load_file(large)}, tmp_path / "l.pt")
    least = peak_bytes("convert", small, tmp_path / "o.safetensors", "--to", "fp8")
    assert peak_bytes("convert", tmp_path / f"l.{ending}", tmp_path / "o.safetensors", "--to", "fp8") - least < room * MIB


def test_the_options_are_what_can_be_done():
    assert tuple(PRECISIONS) == cli_convert.PRECISIONS
    assert cli_assemble.DTYPES == DTYPES

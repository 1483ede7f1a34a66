"""The assemble command: what it says, that memory does not grow with the files, that nothing half-written is left."""

import signal
import subprocess
import sys

import ovi_files
import pytest
from limits import FULL_DISK, LARGE, MIB, STATUS, peak_bytes
from public_parts import save, save_large_ovi, small_wan

from harmony_core.__main__ import INTERRUPTED, main
from harmony_core.cli import progress_line
from harmony_core.weights.checkpoint import load_checkpoint


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parts")
    return save(folder / "wan.safetensors", small_wan()), ovi_files.save_ovi(folder / "ovi.safetensors")


def command(parts, out, *more: str) -> list[str]:
    return ["assemble", "--video", str(parts[0]), "--audio", str(parts[1]), "--out", str(out), *more]


def test_it_says_what_it_took_and_what_is_new(parts, tmp_path, capsys):
    out = tmp_path / "m.safetensors"
    assert main(command(parts, out)) == 0
    said = capsys.readouterr()
    size = f"{out.stat().st_size / 1e9:.3g} GB"
    assert said.out == f"wrote {out}, {size}: 96 weights of the video branch, 99 of the audio branch, 171 new\n"
    assert "assembling 366/366" in said.err
    load_checkpoint(out).model()


def test_without_transcripts(parts, tmp_path):
    assert main(command(parts, tmp_path / "m.safetensors", "--no-transcripts", "--dtype", "fp32")) == 0
    assert load_checkpoint(tmp_path / "m.safetensors").config.speech is None


def test_what_cannot_be_done_is_one_sentence(parts, tmp_path, capsys):
    for given, words in (
        ((parts[1], parts[0]), "wan.safetensors is "),
        ((tmp_path / "none.safetensors", parts[1]), "no weights file at"),
    ):
        assert main(command(given, tmp_path / "m.safetensors")) == 1
        said = capsys.readouterr()
        assert words in said.err
        assert said.err.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_leaves_nothing(parts, tmp_path, monkeypatch, capsys):
    def draw(self, done, total):
        del self, total
        if done == 100:
            assert len(names := [path.name for path in tmp_path.iterdir()]) == 1  # the half-written one
            assert names != ["m.safetensors"]
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(progress_line.ProgressLine, "__call__", draw)
    assert main(command(parts, tmp_path / "m.safetensors")) == INTERRUPTED
    assert "harmony: stopped" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_one_sentence_and_leaves_nothing(parts, tmp_path):
    out = tmp_path / "m.safetensors"
    done = subprocess.run([sys.executable, "-c", FULL_DISK, *command(parts, out)], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"harmony: cannot write {out}: ")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not STATUS.is_file(), reason="the system does not tell a process's largest size")
def test_memory_does_not_grow_with_the_files(parts, tmp_path):
    out = tmp_path / "m.safetensors"
    ovi = save_large_ovi(tmp_path / "l.safetensors", **LARGE)
    least = peak_bytes(*command(parts, out))
    grown = peak_bytes(*command((ovi, ovi), out)) - least
    assert out.stat().st_size > 400 * MIB
    assert grown < 160 * MIB

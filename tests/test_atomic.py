import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from harmony_core.atomic import replacing


def test_the_file_is_there_whole(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interruption_leaves_what_was_there(tmp_path, error):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(error), replacing(path) as temporary:
        temporary.write_text("half")
        raise error
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["none/a.txt", "file/a.txt", "x" * 300])
def test_targets_that_cannot_be_written_are_one_sentence(tmp_path, name):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot write"), replacing(tmp_path / name):
        pytest.fail("there is nothing to write to")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def write_and(then: str, path: Path) -> subprocess.Popen[str]:
    """A process that writes half a file, says so, and goes on with ``then``."""
    program = f"""
        import os, signal, sys, time
        from pathlib import Path
        from harmony_core.atomic import replacing
        with replacing(Path({str(path)!r})) as temporary:
            temporary.write_text("half")
            (temporary.parent / ".tmp-of-a-library").write_text("half")
            print("half", flush=True)
            {then}
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "half\n"
    return process


def hidden(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


def test_what_a_killed_process_left_goes_with_the_next_write(tmp_path):
    with write_and("time.sleep(60)", tmp_path / "a.txt") as living, write_and("time.sleep(60)", tmp_path / "a.txt") as dead:
        assert len(hidden(tmp_path)) == 2
        (tmp_path / ".harmony-other").mkdir()
        (tmp_path / ".harmony-00000000-1-00000000-00000000").mkdir()  # of another machine
        dead.kill()
        dead.wait()
        others = hidden(tmp_path)
        with replacing(tmp_path / "b.txt") as temporary:
            temporary.write_text("whole")
        left = set(others) - set(hidden(tmp_path))
        assert len(left) == 1
        assert f"-{dead.pid}-" in left.pop()
        living.kill()
        living.wait()
    with replacing(tmp_path / "b.txt") as temporary:
        temporary.write_text("whole")
    assert hidden(tmp_path) == [".harmony-00000000-1-00000000-00000000", ".harmony-other"]


def test_a_number_that_another_process_has_by_now_protects_nothing(tmp_path):
    """As after a restart, or in a container, where every process has the number 1."""
    with replacing(tmp_path / "a.txt") as temporary:
        name = temporary.parent.name
    head, _, last = name.rpartition("-")[0].rpartition("-")
    assert last != "0" * 8, "this system says when processes began"
    (tmp_path / f"{head}-12345678-12345678").mkdir()
    (tmp_path / f"{head}-{last}-12345678").mkdir()
    with replacing(tmp_path / "a.txt"):
        pass
    assert hidden(tmp_path) == [f"{head}-{last}-12345678"]


@pytest.mark.parametrize("name", ["x" * 251 + ".txt", "ü" * 127, "a." + "b" * 250, "a\n.txt", ".mp4"])
def test_every_name_the_disk_takes_can_be_written(tmp_path, name):
    with replacing(tmp_path / name) as temporary:
        temporary.write_text("whole")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_name_with_a_null_character_is_one_sentence(tmp_path):
    with pytest.raises(ValueError, match="null byte"), replacing(tmp_path / "a\0b.txt"):
        pytest.fail("there is nothing to write to")

"""The tables of docs/checkpoints.md: every file in them is known as it says, every row names a test that is there."""

import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import layouts
import pytest

from harmony_core.weights import published
from harmony_core.weights.inspect import inspect

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "checkpoints.md").read_text(encoding="utf-8")
CODE = re.compile(r"`([^`]+)`")
NONE = "no"
TASKS = ("text to AV", "image to AV", "audio-driven", "video-driven", "SyncCFG", "LoRA", "training start")
PARTS = ("codec", "captions", "layers")
READERS = ("command line", "nodes", "Python")


def table(heads: tuple[str, ...]) -> list[list[str]]:
    """The rows of the table with these heads."""
    lines = PAGE.splitlines()
    first = lines.index(f"| {' | '.join(heads)} |") + 2
    rows = []
    for line in lines[first:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


FILES = table(("file", "of", "is known as", "ComfyUI's folder"))
READ = table(("file", "read by", "for", "test"))
MODELS = table(("file", *TASKS))


def test_every_published_file_has_a_row():
    assert sorted(name for row in FILES for name in CODE.findall(row[0])) == sorted(layouts.PUBLISHED)


@pytest.mark.parametrize("row", FILES, ids=lambda row: CODE.findall(row[0])[0])
def test_a_file_is_known_as_its_row_says(tmp_path, row):
    files, _, known, folder = row
    for name in CODE.findall(files):
        found = inspect(layouts.PUBLISHED[name](tmp_path / name))
        assert found.what.startswith(known)
        assert (f"`{found.folder}`" if found.folder else NONE) == folder


def test_files_are_where_the_command_says_they_are():
    """Whatever ``harmony inspect`` names as missing is in the table, at the same place."""
    places = {name: row[1] for row in FILES for name in CODE.findall(row[0])}
    named = 0
    for part in (*published.RUNNING, published.VIDEO, published.AUDIO, published.OVI_VIDEO, published.OVI_AUDIO):
        for source in part.sources:
            for file in source.files:
                name = file.rpartition("/")[2].partition(" ")[0]
                if name in places:
                    assert source.repository in {places[name], "Wan-AI/Wan2.2-TI2V-5B"}, name
                    named += 1
    assert named >= 12


def test_every_row_names_a_test_that_is_collected():
    ids = [CODE.fullmatch(row[3])[1] for row in READ]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", *sorted(set(ids))],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:]
    collected = {line.partition("[")[0] for line in done.stdout.splitlines() if "::" in line}
    assert set(ids) == collected


def test_rows_are_of_known_tasks_and_readers():
    for _, reader, tasks, _ in READ:
        assert reader in READERS or reader.startswith("`harmony "), reader
        assert set(tasks.split(", ")) <= {*TASKS, *PARTS}, tasks


def test_the_table_of_models_is_the_sum_of_the_rows():
    proved = defaultdict(set)
    for file, reader, tasks, _ in READ:
        for task in tasks.split(", "):
            proved[file, task].add(reader)
    models = {file for file, task in proved if task in TASKS}
    assert [row[0] for row in MODELS] == sorted(models, key=[row[0] for row in READ].index)
    for file, *cells in MODELS:
        for task, cell in zip(TASKS, cells, strict=True):
            assert cell == (", ".join(sorted(proved[file, task])) or NONE), (file, task)

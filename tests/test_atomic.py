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


@pytest.mark.parametrize("there", [True, False], ids=["file", "nothing"])
def test_a_link_stays_a_link_and_what_it_leads_to_is_written(tmp_path, there):
    for name in ("links", "files"):
        (tmp_path / name).mkdir()
    link, file = tmp_path / "links" / "a.txt", tmp_path / "files" / "b.txt"
    link.symlink_to(file)
    if there:
        file.write_text("old")
    with replacing(link) as temporary:
        assert temporary.parent.is_relative_to(file.parent), "on another disk it could not take its place"
        temporary.write_text("new")
    assert link.is_symlink()
    assert file.read_text() == "new"
    assert [*link.parent.iterdir(), *file.parent.iterdir()] == [link, file]

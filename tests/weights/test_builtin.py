from pathlib import Path

import pytest

from harmony_core.weights.builtin import ASSETS, CHECKPOINTS, JUDGES, judges, resolve

ROOT = Path(__file__).parents[2]


def test_a_file_is_itself_and_a_name_is_in_the_package(tmp_path):
    file = tmp_path / "harmony-tiny"
    file.write_bytes(b"x")
    assert resolve(file) == file
    for name, asset in CHECKPOINTS.items():
        if (ASSETS / asset).is_file():
            assert resolve(name) == ASSETS / asset
        else:
            with pytest.raises(ValueError, match=f"the built-in checkpoint {name} is missing from this installation"):
                resolve(name)


def test_the_judges_are_there_or_said_to_be_missing():
    if (ASSETS / JUDGES).is_file():
        assert judges() == ASSETS / JUDGES
    else:
        with pytest.raises(ValueError, match="judges is missing from this installation"):
            judges()


def test_what_is_not_there_is_named_with_what_is(tmp_path):
    with pytest.raises(ValueError, match=r"there is no checkpoint .*none.safetensors; .*: harmony-tiny$"):
        resolve(tmp_path / "none.safetensors")
    with pytest.raises(ValueError, match="is a folder"):
        resolve(tmp_path)


def test_the_files_are_part_of_the_package():
    assert all(name.endswith(".safetensors") for name in (*CHECKPOINTS.values(), JUDGES))
    assert 'harmony_core = ["assets/*.safetensors", "assets/demo/*",' in (ROOT / "pyproject.toml").read_text()

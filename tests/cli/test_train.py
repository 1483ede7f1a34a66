from pathlib import Path

import pytest

from harmony_core.__main__ import main

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.mark.parametrize("name", ["tiny-video-vae", "tiny-audio-vae", "tiny-model"])
def test_a_device_that_is_not_there_is_one_sentence_before_any_work(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    text = (CONFIGS / f"{name}.yaml").read_text()
    config = tmp_path / "run.yaml"
    config.write_text(text.replace("run:\n", "run:\n  device: abacus\n", 1))
    assert main(["train", str(config)]) == 1
    assert "the config's device abacus cannot be used" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["run.yaml"]

"""The inspect command: what it prints."""

import json

import layouts
import torch
from all_in_one import all_in_one_config, save_all_in_one
from safetensors.torch import save_file

from harmony_core.__main__ import main
from harmony_core.records import to_record


def test_a_checkpoint_in_words(tmp_path, capsys):
    path = save_all_in_one(tmp_path / "all.safetensors")
    assert main(["inspect", str(path)]) == 0
    lines = dict(line.strip().split("  ", 1) for line in capsys.readouterr().out.splitlines())
    said = {name: text.strip() for name, text in lines.items()}
    assert said["is"] == "a Harmony checkpoint of format 1, with its video and audio codecs"
    assert said["video branch"] == "2 layers, dim 48, 2 heads, feed-forward 64, 48 channels, patch 1 x 1 x 1"
    assert said["interaction"] == "frame_wise, exact positions, window 1, style alignment"
    assert said["isolation"] == "drivers read nothing of what they drive"
    assert said["trained on"] == "13 frames of 48 x 32 at 24 fps (0.54 s)"
    assert said["transcripts"] == "4 symbols, up to 6; dim 16, blocks 1"
    assert said["modelspec.title"] == "small"
    assert "KiB" in said["file"] or "MiB" in said["file"]


def test_what_else_it_takes_and_where_that_is(tmp_path, capsys):
    path = layouts.PUBLISHED["wan2.2_ti2v_5B_fp16.safetensors"](tmp_path / "wan2.2_ti2v_5B_fp16.safetensors")
    assert main(["inspect", str(path)]) == 0
    lines = [line.split("  ", 1) for line in capsys.readouterr().out.splitlines()]
    said = [(name.strip(), text.strip()) for name, text in lines if not name.startswith(" ") and name]
    missing = [text for name, text in said if name == "missing"]
    assert [text.partition(":")[0] for text in missing] == [
        "audio branch",
        "text encoder umT5-xxl",
        "video VAE",
        "audio VAE",
        "vocoder",
    ]
    assert missing[0].startswith("audio branch: chetwinlow1/Ovi, model.safetensors, model_960x960.safetensors, ")
    assert missing[3].endswith("(CC-BY-NC-4.0: not for commercial use)")
    assert dict(said)["good for"].startswith("the video branch of a joint model")
    assert dict(said)["ComfyUI"] == "models/diffusion_models"
    assert dict(said)["licence"] == "Apache-2.0"
    assert "http" not in " ".join(text for _, text in said)


def test_what_does_not_fit_is_said_with_the_reason(tmp_path, capsys):
    path = layouts.write(tmp_path / "wan14b.safetensors", layouts.wan(**layouts.WAN_14B))
    assert main(["inspect", str(path)]) == 0
    out = capsys.readouterr().out
    assert "not usable as video branch, because it is 5120 wide with 40 layers, TI2V-5B 3072 with 30" in out
    assert "missing" not in out


def test_all_of_it_as_json(tmp_path, capsys):
    path = save_all_in_one(tmp_path / "all.safetensors")
    assert main(["inspect", str(path), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["path"] == str(path)
    assert record["config"] == json.loads(json.dumps(to_record(all_in_one_config())))
    assert record["clip"]["frames"] == 13
    assert {part["name"] for part in record["parts"]} >= {"video", "audio", "vocoder"}
    assert record["missing"] == [] and record["folder"] == "checkpoints"
    ovi = layouts.PUBLISHED["model.safetensors"](tmp_path / "model.safetensors")
    assert main(["inspect", str(ovi), "--json"]) == 0
    missing = json.loads(capsys.readouterr().out)["missing"]
    assert [piece["name"] for piece in missing] == ["text encoder umT5-xxl", "video VAE", "audio VAE", "vocoder"]
    assert {"repository", "files"} == missing[0]["sources"][0].keys()


def test_many_kinds_of_keys_do_not_fill_the_screen(tmp_path, capsys):
    many = {f"part{n}.weight": torch.zeros(1) for n in range(40)}
    save_file(many, tmp_path / "x.safetensors", metadata={"long": "word " * 200})
    assert main(["inspect", str(tmp_path / "x.safetensors")]) == 0
    out = capsys.readouterr().out
    assert "24 tensors with 24 other beginnings" in out
    assert out.count("\n") < 25
    assert max(map(len, out.splitlines())) < 250


def test_what_cannot_be_inspected_is_one_sentence(tmp_path, capsys):
    (tmp_path / "empty.safetensors").touch()
    for name, words in {
        "none.safetensors": "built-in one: harmony-tiny",
        "empty.safetensors": "is empty",
        ".": "is a folder",
    }.items():
        assert main(["inspect", str(tmp_path / name)]) == 1
        said = capsys.readouterr()
        assert words in said.err
        assert said.err.count("\n") == 1
        assert not said.out

"""The plan command: what it prints of presets and files, and what generate makes of it."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from all_in_one import SPEC, all_in_one_config, save_all_in_one
from rounding import ROUNDING, away
from safetensors.torch import save_file

from harmony_core.__main__ import main
from harmony_core.cli import generate
from harmony_core.cli.clip_request import plan
from harmony_core.cli.memory_options import saving_for
from harmony_core.codecs.audio import PRESETS as AUDIO
from harmony_core.codecs.video_vae import PRESETS as VIDEO
from harmony_core.config import preset
from harmony_core.media import read_video
from harmony_core.plan.fit import RESERVE, Job, Way
from harmony_core.plan.parts import model_size
from harmony_core.weights.latents import load_latents
from harmony_core.weights.lora import parameter_shapes

FULL = ("--checkpoint", "5b", "--seconds", "5", "--size", "1280x704", "--tflops", "100")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_all_in_one(tmp_path_factory.mktemp("weights") / "small.safetensors")


def planned(capsys, *words: object) -> dict:
    assert main(["plan", "--json", *map(str, words)]) == 0
    return json.loads(capsys.readouterr().out)


def refused(capsys, *words: str) -> str:
    assert main(["plan", *words]) == 1
    said = capsys.readouterr()
    assert not said.out
    assert said.err.count("\n") == 1
    return said.err


def test_a_preset_in_words(capsys):
    assert main(["plan", *FULL, "--sync"]) == 0
    out = capsys.readouterr().out
    assert "121 frames of 1280 x 704 at 24 fps (5.04 s): 27280 video tokens, 158 audio tokens" in out
    assert "with SyncCFG; passes per step: video 2, audio 2" in out
    for card in (8, 12, 16, 24, 80):
        assert f"{card:>3} GB  bfloat16" in out
        assert f"{card:>3} GB  fp8" in out
    for stage in ("encode pictures", "encode sound", "sample", "decode pictures", "decode sound"):
        assert out.count(f"  {stage} ") == 2
    assert "at 100 TFLOPS (100 in attention), given" in out
    assert max(map(len, out.splitlines())) < 130


def test_a_file_is_planned_by_its_header_alone(checkpoint, capsys):
    found = planned(capsys, "--checkpoint", checkpoint)
    assert found["clip"] == {
        "frames": SPEC.frames, "width": SPEC.width, "height": SPEC.height, "fps": SPEC.fps, "seconds": SPEC.seconds,
    }  # fmt: skip
    assert found["dtype"] == "float32"
    hollow = checkpoint.with_name("hollow.safetensors")
    start = checkpoint.read_bytes()
    head = 8 + int.from_bytes(start[:8], "little")
    hollow.write_bytes(start[:head] + bytes(len(start) - head))  # nothing but zeros where the weights were
    again = planned(capsys, "--checkpoint", hollow)
    for one in (found, again):
        del one["model"], one["time"]
    assert found == again


def test_the_built_in_checkpoint_and_the_preset_of_its_size_are_planned(capsys):
    assert planned(capsys)["model"].startswith("harmony-tiny, a Harmony checkpoint")
    found = planned(capsys, "--checkpoint", "tiny", "--seconds", 2, "--size", "64x64")
    values = sum(part["values"] for name, part in found["weights"]["parts"].items() if "codec" not in name)
    assert values == model_size(preset("tiny")).total.values
    assert found["time"]["rate"]["measured"]


def test_what_is_asked_for_changes_the_plan(capsys):
    plain = planned(capsys, *FULL)
    sync, text = planned(capsys, *FULL, "--sync"), planned(capsys, *FULL, "--text")
    assert sync["branches_per_step"] == text["branches_per_step"] == {"video": 2, "audio": 2}
    assert sync["pass"]["drivers"] > plain["pass"]["drivers"] == text["pass"]["drivers"] == 0
    assert text["pass"]["conditions"] == 2 * plain["pass"]["conditions"]
    sound = planned(capsys, *FULL, "--task", "video-driven")
    assert sound["branches_per_step"] == {"video": 0, "audio": 1}
    assert "decode pictures" not in {stage["name"] for stage in sound["stages"]["whole"]}
    assert sound["time"]["step_seconds"] < plain["time"]["step_seconds"] / 100
    voice = planned(capsys, *FULL, "--task", "video-driven", "--voice")
    assert voice["pass"]["drivers"] == 2 * sound["pass"]["drivers"]
    slow = planned(capsys, *FULL[:-1], "50", "--steps", "10")
    assert slow["time"]["sampling_seconds"] == pytest.approx(10 * 2 * plain["time"]["step_seconds"])
    assert planned(capsys, *FULL, "--dtype", "float32")["pass"]["activations"] == 2 * plain["pass"]["activations"]


def test_published_models_are_planned_by_name(capsys):
    found = planned(capsys, "--checkpoint", "ovi-720", "--text", "--tflops", "100")
    values = sum(part["values"] for name, part in found["weights"]["parts"].items() if "codec" not in name)
    assert values == 11_660_753_108
    assert found["time"]["steps"] == 50
    assert found["branches_per_step"] == {"video": 2, "audio": 2}
    assert any("umT5" in note for note in found["notes"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--size", "704:1280"), "--size is WIDTHxHEIGHT in pixels"),
        (("--size", "100x64"), "width 100 is not a multiple of 16; nearest: 96 or 112"),
        (("--seconds", "0"), "--seconds is a number from 0.001 to 600"),
        (("--fps", "-1"), "--fps is a number from 0.001 to 1000"),
        (("--steps", "0"), "--steps is a whole number from 1"),
        (("--tflops", "0"), "--tflops is a positive number"),
        (("--tflops", "nan"), "--tflops is a positive number"),
        (("--device", "cuda:99"), "--device cuda:99 cannot be used"),
        (("--checkpoint", "huge"), "or a preset: 5b, tiny"),
        (("--checkpoint", "ovi-720", "--voice"), "takes no reference voice"),
    ],
)
def test_what_cannot_be_planned_is_one_sentence(capsys, words, message):
    assert message in refused(capsys, *words)


def test_a_file_that_is_no_model_is_one_sentence(tmp_path, capsys):
    (tmp_path / "text.safetensors").write_text("no weights")
    assert "truncated or of another format" in refused(capsys, "--checkpoint", str(tmp_path / "text.safetensors"))
    judges = Path(__file__).parents[2] / "harmony_core" / "assets" / "world-judges.safetensors"
    assert "is no joint model, it is" in refused(capsys, "--checkpoint", str(judges))


# ---- generate


@pytest.mark.parametrize("lora", [False, True], ids=["plain", "LoRA"])
def test_a_clip_made_layer_by_layer_is_the_same(checkpoint, tmp_path, lora):
    """Its latents, that is: two files of the same pictures are not always the same."""
    common = ["--checkpoint", str(checkpoint), "--steps", "2", "a ball"]
    if lora:
        out, inner = parameter_shapes(all_in_one_config())["video.blocks.1.ffn.0.weight"]
        pair = {"lora_up": torch.randn(out, 2), "lora_down": torch.randn(2, inner)}
        save_file({f"lora_unet_blocks_1_ffn_0.{role}.weight": x for role, x in pair.items()}, tmp_path / "lora.safetensors")
        common += ["--lora", str(tmp_path / "lora.safetensors")]
    found = []
    for name, more in (("whole", ["--offload", "none"]), ("moved", ["--offload", "layers"]), ("auto", [])):
        latents = tmp_path / f"{name}.safetensors"
        out = ["--out", str(tmp_path / f"{name}.mp4"), "--save-latents", str(latents)]
        assert main(["generate", *common, *more, *out]) == 0
        found.append(load_latents(latents)[0])
    for other in found[1:]:
        assert away(found[0].video, other.video) <= ROUNDING
        assert away(found[0].audio, other.audio) <= ROUNDING


@pytest.mark.parametrize(
    ("spare", "words", "said"),
    [
        (1.0, (), ""),
        (0.0, (), "to fit cuda, layers are offloaded"),
        (0.0, ("--offload", "layers"), ""),
        (-1.0, (), None),
        (-1.0, ("--offload", "none", "--tile", "none"), ""),
    ],
)
def test_what_saves_memory_is_chosen_by_what_is_free(checkpoint, tmp_path, monkeypatch, spare, words, said):
    """``spare`` 1: all of it fits; 0: not whole; -1: not at all. The device itself is only asked for its memory."""
    parser = argparse.ArgumentParser()
    generate.add_arguments(parser)
    args = parser.parse_args(["--checkpoint", str(checkpoint), "--out", str(tmp_path / "a.mp4"), *words])
    wanted = replace(plan(args, note=lambda _: None), device=torch.device("cuda"))
    job = Job(
        config=all_in_one_config(),
        spec=SPEC,
        video_codec=VIDEO["tiny"],
        audio_codec=AUDIO["tiny"],
        guidance=wanted.guidance,
    )
    whole, least = (job.peak(Way(dtype="float32", offload=offload)) for offload in (False, True))
    free = {1.0: whole, 0.0: (whole + least) // 2, -1.0: least // 4}[spare] + RESERVE // 2
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (free, free))
    notes: list[str] = []
    if said is None:
        with pytest.raises(ValueError, match="this clip needs at least .* GiB of cuda, .* GiB are free: make it shorter"):
            saving_for(args, wanted, notes.append)
        return
    saving = saving_for(args, wanted, notes.append)
    assert saving.offload == (spare == 0.0)
    assert saving.tiling is None
    assert notes == [said][: bool(said)]
    if spare >= 0:
        assert saving.budget is not None
        assert max(saving.budget.device, saving.budget.host) == job.kept_bytes(Way(dtype="float32")) > 0


def test_a_clip_decoded_in_tiles_is_nearly_the_same(checkpoint, tmp_path):
    size = ["--size", "208x32", "--seconds", "0.2", "--steps", "1"]
    frames = []
    for tile in ("none", "192"):
        out = tmp_path / f"{tile}.mp4"
        assert main(["generate", "--checkpoint", str(checkpoint), *size, "--tile", tile, "--out", str(out)]) == 0
        frames.append(read_video(out).frames)
    assert frames[0].shape == frames[1].shape
    assert (frames[0] - frames[1]).abs().mean() < 0.02


@pytest.mark.parametrize("tile", ["0", "100", "64", "small"])
def test_a_tile_that_is_none_is_one_sentence(checkpoint, tmp_path, capsys, tile):
    message = f"--tile is a multiple of 16 pixels from 192 to 65536, auto or none, got '{tile}'"
    out = ["--out", str(tmp_path / "a.mp4")]
    assert main(["generate", "--checkpoint", str(checkpoint), "--tile", tile, *out]) == 1
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())

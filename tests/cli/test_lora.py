"""``harmony generate --lora`` on a small random checkpoint."""

from pathlib import Path

import pytest
import torch
from all_in_one import all_in_one_config, save_all_in_one
from rounding import CHANGED, ROUNDING, away
from safetensors.torch import save_file

from harmony_core.__main__ import main
from harmony_core.cli.lora_options import parse_lora
from harmony_core.types import Modality
from harmony_core.weights.latents import load_latents
from harmony_core.weights.lora import parameter_shapes


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A checkpoint and LoRAs of its video branch in Wan's names and of its sound in ours."""
    folder = tmp_path_factory.mktemp("weights")
    save_all_in_one(folder / "small.safetensors")
    generator = torch.Generator().manual_seed(0)
    shapes = parameter_shapes(all_in_one_config())
    for file, layer, name in (
        ("wan", "video.blocks.1.ffn.0", "lora_unet_blocks_1_ffn_0"),
        ("own", "audio.blocks.1.ffn.0", "diffusion_model.audio.blocks.1.ffn.0"),
        ("part", "audio.blocks.1.ffn.0", "diffusion_model.audio.blocks.1.ffn.0"),
        ("foreign", "audio.blocks.1.ffn.0", "lora_unet_double_blocks_0_img_attn_proj"),
    ):
        out, inner = shapes[f"{layer}.weight"]
        up, down = torch.randn(out, 4, generator=generator), torch.randn(4, inner, generator=generator)
        pair = {f"{name}.lora_up.weight": up, f"{name}.lora_down.weight": down}
        if file == "part":
            pair |= {"audio.blocks.9.ffn.0.lora_up.weight": up.clone(), "audio.blocks.9.ffn.0.lora_down.weight": down.clone()}
        save_file(pair, folder / f"{file}.safetensors")
    return folder


@pytest.fixture
def made(folder, tmp_path):
    """Runs the command with LoRAs; the latents it made."""

    def run(*loras: str, more: tuple[str, ...] = ()):
        words = [*more, *(word for lora in loras for word in ("--lora", str(folder / lora)))]
        words += ["--checkpoint", str(folder / "small.safetensors"), "--steps", "2", "--sync-video", "1", "--sync-audio", "1"]
        latents = tmp_path / "latents.safetensors"
        assert main(["generate", "a ball", *words, "--out", str(tmp_path / "a.mp4"), "--save-latents", str(latents)]) == 0
        return load_latents(latents)[0]

    return run


def test_loras_change_the_clip_as_strongly_as_told_and_add_up(made):
    plain, wan, own = made(), made("wan.safetensors"), made("own.safetensors:1.0")
    assert away(plain, wan) > CHANGED and away(plain, own) > CHANGED and away(wan, own) > CHANGED
    assert away(plain, made("wan.safetensors:0", "own.safetensors:0.0")) <= ROUNDING
    assert away(wan, made("wan.safetensors:0.5")) > CHANGED
    both = made("wan.safetensors", "own.safetensors")
    assert away(both, wan) > CHANGED and away(both, own) > CHANGED
    assert away(both, made("wan.safetensors", "own.safetensors", more=("--offload", "layers"))) <= ROUNDING
    halves = made("wan.safetensors:0.5", "own.safetensors", "wan.safetensors:0.5")
    assert max((both[m] - halves[m]).abs().max().item() for m in Modality) < 1e-3


def test_what_is_left_out_is_noted(made, capsys):
    made("part.safetensors")
    noted = capsys.readouterr().err
    assert noted.count("1 of 2 layers have no place in this model: audio.blocks.9.ffn.0") == 1


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("foreign.safetensors", "is a LoRA for another model: it matches 0 of 1 layers"),
        ("none.safetensors:0.5", "--lora: there is no LoRA file"),
        ("small.safetensors", "is no LoRA, it is a Harmony checkpoint"),
        ("wan.safetensors:21", "what follows the colon is a number from -20 to 20, got 21"),
        ("wan.safetensors:nan", "what follows the colon is a number from -20 to 20, got nan"),
    ],
)
def test_what_is_wrong_is_one_sentence_before_anything_is_made(folder, tmp_path, capsys, option, message):
    words = [
        "--checkpoint",
        str(folder / "small.safetensors"),
        "--lora",
        f"{folder}/{option}",
        "--out",
        str(tmp_path / "a.mp4"),
    ]
    assert main(["generate", *words]) == 1
    told = capsys.readouterr().err
    assert message in told and told.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_lora_is_not_written_over(folder, tmp_path, capsys):
    lora = str(folder / "wan.safetensors")
    words = ["--checkpoint", str(folder / "small.safetensors"), "--lora", f"{lora}:0.5", "--out", str(tmp_path / "a.mp4")]
    assert main(["generate", *words, "--save-latents", lora]) == 1
    assert "would be written over" in capsys.readouterr().err


def test_a_file_whose_name_ends_like_a_strength_is_a_file(tmp_path):
    odd = tmp_path / "style:2"
    odd.touch()
    assert parse_lora(str(odd)) == (odd, 1.0)
    assert parse_lora(f"{odd}:-0.5") == (odd, -0.5)
    assert parse_lora("C:\\loras\\a.safetensors") == (Path("C:\\loras\\a.safetensors"), 1.0)

"""The generate command on a tiny random file in Ovi's layout, with its codecs and its text encoder in files of their own."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import ovi_files as ovi
import pytest
import text_encoders
import torch
from all_in_one import save_all_in_one
from rounding import CHANGED, ROUNDING, away

from harmony_core.__main__ import main
from harmony_core.cli.clip_request import Plan, check_options, plan
from harmony_core.cli.generate import SIZES, add_arguments
from harmony_core.codecs.audio import PRESETS as AUDIO
from harmony_core.codecs.audio import AudioCodec
from harmony_core.codecs.video_vae import PRESETS as VIDEO
from harmony_core.codecs.video_vae import VideoVAE
from harmony_core.geometry import ClipSpec
from harmony_core.guidance import sync_guidance, text_guidance
from harmony_core.media import read_audio, read_video, write_image, write_video, write_wav
from harmony_core.pipeline import Parts, Pipeline, Request
from harmony_core.sample import Schedule
from harmony_core.types import AV, Audio, Video
from harmony_core.weights import ovi as weights
from harmony_core.weights.codec_files import save_codec
from harmony_core.weights.latents import load_latents

FRAMES, HEIGHT, WIDTH = 9, 32, 64
SHAPE = ("--size", f"{WIDTH}x{HEIGHT}", "--seconds", FRAMES / 24, "--steps", 2, "--skip-layers", 1)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ovi")
    tensors = ovi.weights(width=128, layers=2, ffn=64, text=16, freq=16)
    ovi.save_ovi(folder / "model_960x960.safetensors", tensors)
    for name, half in zip(("video", "audio"), ovi.split(tensors), strict=True):
        ovi.save_ovi(folder / f"{name}.safetensors", half)
    torch.manual_seed(0)
    save_codec(folder / "vae.safetensors", VideoVAE(VIDEO["tiny"]))
    save_codec(folder / "sound.safetensors", AudioCodec(AUDIO["tiny"]))
    text_encoders.save_folder(folder / "umt5")
    t = torch.arange(16_000) / 16_000
    write_wav(folder / "tone.wav", Audio(0.3 * torch.sin(2 * torch.pi * 220 * t)[None, None], 16_000))
    ramp = torch.linspace(-0.8, 0.8, 20)[:, None, None] * torch.ones(3, 20, HEIGHT, WIDTH)
    write_video(folder / "ramp.mp4", Video(ramp[None], 24), None)
    noise = torch.rand(1, 3, 1, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(1))
    write_image(folder / "first.png", noise * 2 - 1)
    return folder


def parts(files: Path) -> tuple[object, ...]:
    return (
        *("--text-encoder", files / "umt5"),
        *("--video-vae", files / "vae.safetensors"),
        *("--audio-vae", files / "sound.safetensors"),
    )


def made(files: Path, out: Path, *words: object, checkpoint: str = "model_960x960.safetensors", shape: tuple = SHAPE) -> int:
    saved = ("--save-latents", out.with_suffix(".safetensors"))
    command = ("generate", *words, "--checkpoint", files / checkpoint, *parts(files), *shape, *saved, "--out", out)
    return main([str(word) for word in command])


def latents(out: Path):
    return load_latents(out.with_suffix(".safetensors"))[0]


def test_words_make_a_clip_by_ovis_recipe(files, tmp_path, capsys):
    out = tmp_path / "clip.mp4"
    assert made(files, out, "a man speaks", "--sound", "a voice", "--say", "Hello.") == 0
    assert read_video(out).frames.shape == (1, 3, FRAMES, HEIGHT, WIDTH)
    assert read_audio(out, sample_rate=16_000).waveform.shape[2] == FRAMES * 16_000 // 24
    said = capsys.readouterr()
    assert "passes per step: video 2, audio 2\n" in said.out  # with the text, and without it
    assert "taken for Ovi's model 960x960_5s, by its name" in said.err
    assert "trained on clips of 960 x 960 at 24 fps for 5.04 s" in said.err


@pytest.mark.bitwise("program")
def test_every_text_matters_and_so_does_the_skipped_layer(files, tmp_path):
    base = ("a dog", "--sound", "barking")
    runs = {
        "base": base,
        "again": base,
        "seen": ("a cat", "--sound", "barking"),
        "heard": ("a dog", "--sound", "birds"),
        "said": (*base, "--say", "Hi."),
        "negative": (*base, "--negative", "blue"),
        "negative sound": (*base, "--negative-sound", "hum"),
        "unskipped": (*base, "--skip-layers", ""),
        "size": (*base, "--ovi-size", "720x720_5s"),  # the prompt's other format
    }
    made_of = {}
    for name, words in runs.items():
        assert (
            made(files, tmp_path / "clip.mp4", *words, shape=(*SHAPE[:-2], *(() if "--skip-layers" in words else SHAPE[-2:])))
            == 0
        )
        made_of[name] = latents(tmp_path / "clip.mp4")
    assert torch.equal(made_of.pop("again").video, made_of["base"].video)
    plain = made_of.pop("base")
    for name, other in made_of.items():
        assert away(plain.video, other.video) > CHANGED, name
        assert away(plain.audio, other.audio) > CHANGED, name


def test_two_files_make_what_one_makes(files, tmp_path):
    assert made(files, tmp_path / "one.mp4", "a dog", "--ovi-size", "960x960_5s") == 0
    halves = ("--audio-checkpoint", files / "audio.safetensors", "--ovi-size", "960x960_5s")
    assert made(files, tmp_path / "two.mp4", "a dog", *halves, checkpoint="video.safetensors") == 0
    one, two = latents(tmp_path / "one.mp4"), latents(tmp_path / "two.mp4")
    assert away(one.video, two.video) <= ROUNDING
    assert away(one.audio, two.audio) <= ROUNDING


def test_a_pickle_in_half_precision(files, tmp_path):
    tensors = ovi.weights(width=128, layers=2, ffn=64, text=16, freq=16)
    torch.save({"app": {"model": tensors}}, files / "model.pt")
    shape = (*SHAPE, "--ovi-size", "960x960_10s", "--dtype", "bfloat16")
    assert made(files, tmp_path / "half.mp4", "a dog", checkpoint="model.pt", shape=shape) == 0
    assert made(files, tmp_path / "full.mp4", "a dog", checkpoint="model.pt", shape=(*shape[:-1], "float32")) == 0
    half, full = latents(tmp_path / "half.mp4"), latents(tmp_path / "full.mp4")
    assert 0 < (half.video - full.video).abs().max() < 0.3 * full.video.abs().max()


@pytest.mark.bitwise("copy")
def test_in_code_what_a_checkpoint_lacks_is_said(files):
    with pytest.raises(ValueError, match="no video codec in it; give the file"):
        Pipeline.load(files / "model_960x960.safetensors")
    some = Parts(video_vae=files / "vae.safetensors")
    with pytest.raises(ValueError, match="no audio codec in it; give the files"):
        Pipeline.load(files / "model_960x960.safetensors", parts=some)
    whole = Pipeline.load(files / "model_960x960.safetensors", parts=replace(some, audio_vae=files / "sound.safetensors"))
    spec = ClipSpec(frames=FRAMES, height=HEIGHT, width=WIDTH)
    with pytest.raises(ValueError, match="no caption encoder of its own; encode captions with umT5"):
        whole.conditioning(Request(spec=spec), 1)
    told = replace(whole, text=lambda text: torch.ones(1, 1 + len(text), 16))
    words = Request(spec=spec, video_caption="a dog", audio_caption="barking", transcript="Hi.")
    conditioning = told.conditioning(words, 2)
    assert conditioning.video_caption.shape == (2, 1 + len("a dog <S>Hi.<E> Audio: barking"), 16)
    assert torch.equal(conditioning.video_caption, conditioning.audio_caption)
    assert conditioning.transcript is None


def test_a_first_picture_is_kept(files, tmp_path):
    image = ("--image", files / "first.png")
    assert made(files, tmp_path / "a.mp4", "a dog", *image) == 0
    assert made(files, tmp_path / "b.mp4", "a cat", *image, "--seed", 5) == 0
    one, other = latents(tmp_path / "a.mp4"), latents(tmp_path / "b.mp4")
    assert away(one.video[:, :, 0], other.video[:, :, 0]) <= ROUNDING
    assert away(one.video[:, :, 1], other.video[:, :, 1]) > CHANGED


def test_sound_drives_pictures_and_pictures_sound_with_sync_cfg_beside_the_text(files, tmp_path, capsys):
    heard, seen = tmp_path / "heard.mp4", tmp_path / "seen.mp4"
    assert made(files, heard, "a dog", "--audio", files / "tone.wav") == 0
    given = read_audio(files / "tone.wav", sample_rate=16_000).waveform
    back = read_audio(heard, sample_rate=16_000).waveform
    assert torch.nn.functional.cosine_similarity(back, given[..., : back.shape[2]], dim=2) > 0.95
    capsys.readouterr()
    assert made(files, seen, "a dog", "--video", files / "ramp.mp4", "--sync-audio", 2) == 0
    assert "audio 3" in capsys.readouterr().out
    assert (read_video(seen).frames - read_video(files / "ramp.mp4").frames[:, :, :FRAMES]).abs().mean() < 0.03
    assert made(files, tmp_path / "sync.mp4", "a dog", "--sync-video", 3, "--sync-audio", 2) == 0
    assert made(files, tmp_path / "plain.mp4", "a dog") == 0
    assert away(latents(tmp_path / "sync.mp4").audio, latents(tmp_path / "plain.mp4").audio) > CHANGED


def refused(capsys: pytest.CaptureFixture[str], words: str, *command: object) -> None:
    capsys.readouterr()
    assert main(["generate", *map(str, command)]) == 1
    said = capsys.readouterr().err.splitlines()
    assert words in said[-1]
    assert sum(line.startswith("harmony: ") for line in said) == 1


def test_what_does_not_do_is_one_sentence_each(files, tmp_path, capsys):
    whole, out = ("--checkpoint", files / "model_960x960.safetensors"), ("--out", tmp_path / "b.mp4")
    codecs = parts(files)[2:]
    refused(capsys, "is told by umT5: give its folder or file with --text-encoder", *whole, *codecs, *out)
    refused(capsys, "lacks codecs", *whole, *parts(files)[:4], *out)
    refused(capsys, "--skip-layers of this checkpoint are 0 to 1, got 11", *whole, *parts(files), *out)
    refused(capsys, "--skip-layers is numbers such as", *whole, *parts(files), *out, "--skip-layers", "a")
    refused(capsys, "takes no reference voice", *whole, *parts(files), *out, "--voice", files / "tone.wav")
    refused(capsys, "has no frame-wise attention", *whole, *parts(files), *out, "--sound-map")
    refused(capsys, "speech stands between", "a <S>b", *whole, *parts(files), *out, *SHAPE[-2:])
    refused(capsys, "--text-encoder: there is no file", *whole, *codecs, *out, "--text-encoder", tmp_path / "none")
    refused(capsys, "is no folder of a text encoder", *whole, *codecs, *out, *SHAPE, "--text-encoder", tmp_path)
    refused(capsys, "--vocoder belongs to --audio-vae", *whole, *out, "--vocoder", files / "sound.safetensors")
    half = ("--checkpoint", files / "video.safetensors", *parts(files), *out)
    refused(capsys, "holds Ovi's video tower alone", *half)
    refused(capsys, "does not say which of Ovi's models it is", *half, "--audio-checkpoint", files / "audio.safetensors")
    ours = ("--checkpoint", save_all_in_one(tmp_path / "small.safetensors"), *out)
    refused(capsys, "--audio-checkpoint and --ovi-size are for Ovi", *ours, "--ovi-size", "960x960_5s")
    refused(capsys, "has a caption encoder of its own: leave --text-encoder out", *ours, "--text-encoder", files / "umt5")
    refused(capsys, "--skip-layers is for guidance by the text", *ours, "--skip-layers", 1)
    wide = text_encoders.save_folder(tmp_path / "wide", 24)
    refused(capsys, "caption tokens are (batch, length, 16)", *whole, *codecs, *out, *SHAPE, "--text-encoder", wide)
    assert not (tmp_path / "b.mp4").exists()


def test_a_checkpoint_of_ours_takes_codecs_and_captions_from_files_too(files, tmp_path):
    bare = save_all_in_one(tmp_path / "bare.safetensors", codecs=False, caption=None)
    command = ("generate", "a dog", "--checkpoint", bare, *parts(files), "--steps", 2, "--out", tmp_path / "a.mp4")
    assert main([str(word) for word in command]) == 0
    assert (tmp_path / "a.mp4").exists()


def planned(*words: object) -> Plan:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    args = parser.parse_args([str(word) for word in words])
    check_options(args)
    return plan(args, note=lambda text: None)


def test_ovi_is_sampled_as_its_authors_do_unless_told_otherwise(files, tmp_path):
    deep = ovi.save_ovi(tmp_path / "model.safetensors", ovi.weights(width=128, layers=12, ffn=64, text=16, freq=16))
    asked = ("--checkpoint", deep, *parts(files), "--out", tmp_path / "a.mp4", "--size", "64x32", "--seconds", 0.3)
    by_recipe = planned("a dog", "--say", "Hi.", *asked)
    assert by_recipe.schedule == Schedule(steps=50, shift=5.0, sampler="unipc")
    assert by_recipe.guidance == text_guidance(AV(4.0, 3.0), skip_layers=(11,))
    negative = AV("jitter, bad hands, blur, distortion", "robotic, muffled, echo, distorted")
    assert by_recipe.texts == {"a dog <S>Hi.<E>", *negative}
    otherwise = planned("a dog", *asked, "--steps", 9, "--text-video", 6, "--skip-layers", "3,5", "--negative", "")
    assert otherwise.schedule.steps == 9
    assert otherwise.guidance == text_guidance(AV(6.0, 3.0), skip_layers=(3, 5))
    assert otherwise.texts == {"a dog", "", negative.audio}
    assert planned("a dog", *asked, "--recipe", "harmony").guidance == sync_guidance(AV(3.0, 2.0))
    beside = sync_guidance(AV(3.0, 1.0), text="additive", text_scale=AV(4.0, 3.0), skip_layers=(11,))
    assert planned("a dog", *asked, "--sync-video", 3).guidance == beside
    instead = sync_guidance(AV(3.0, 2.0), text="null", skip_layers=(11,))
    assert planned("a dog", *asked, "--sync-text", "null", "--sync-video", 3, "--sync-audio", 2).guidance == instead


def test_the_sizes_on_the_command_line_are_those_of_the_loader():
    assert SIZES == weights.SIZES

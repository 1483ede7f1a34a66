"""The generate command on a small random checkpoint: what is written fits what was asked and given."""

from __future__ import annotations

import argparse
import math
import signal
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from all_in_one import SPEC, save_all_in_one
from rounding import CHANGED, away

from harmony_core.__main__ import INTERRUPTED, main
from harmony_core.cli import generate, progress_line
from harmony_core.cli.clip_request import check_options, plan
from harmony_core.media import probe, read_audio, read_image, read_video, write_image, write_video, write_wav
from harmony_core.types import Audio, Video
from harmony_core.weights.builtin import resolve
from harmony_core.weights.latents import load_latents


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_all_in_one(tmp_path_factory.mktemp("weights") / "small.safetensors")


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("media")
    write_wav(folder / "voice.wav", tone(0.8))
    write_wav(folder / "short.wav", tone(0.2))
    write_wav(folder / "silent.wav", Audio(torch.zeros(1, 1, 16_000), 16_000))
    write_wav(folder / "clipped.wav", Audio(torch.ones(1, 1, 16_000), 16_000))
    write_mp3(folder / "song.mp3", tone(0.9, 22_050))
    ramp = torch.linspace(-0.8, 0.8, 20)[:, None, None] * torch.ones(3, 20, 70, 102)
    write_video(folder / "phone.mp4", Video(ramp[None], 30), tone(0.6))
    write_image(folder / "first.png", torch.rand(1, 3, 1, 50, 61, generator=torch.Generator().manual_seed(1)) * 2 - 1)
    (folder / "broken.mp4").write_bytes(b"\0\0\0\x18ftypisom" + bytes(200))
    return folder


def tone(seconds: float, rate: int = 16_000) -> Audio:
    t = torch.arange(round(seconds * rate)) / rate
    return Audio(0.3 * torch.sin(2 * torch.pi * 220 * t)[None, None], rate)


def write_mp3(path: Path, audio: Audio) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mp3", rate=audio.sample_rate)
        stream.codec_context.layout = "mono"
        samples = np.ascontiguousarray(audio.waveform[0].numpy())
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
        frame.sample_rate = audio.sample_rate
        for packet in (*stream.encode(frame), *stream.encode(None)):
            container.mux(packet)


def made(checkpoint: Path, *words: object) -> int:
    return main(["generate", "--steps", "2", "--checkpoint", str(checkpoint), *map(str, words)])


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_words_alone_make_a_clip_of_the_length_the_checkpoint_was_trained_on(checkpoint, tmp_path, capsys):
    out = tmp_path / "clip.mp4"
    assert made(checkpoint, "a ball", "--sound", "a knock", "--out", out) == 0
    assert read_video(out).frames.shape == (1, 3, SPEC.frames, SPEC.height, SPEC.width)
    assert read_audio(out, sample_rate=16_000).waveform.shape == (1, 1, SPEC.samples)
    assert names(tmp_path) == {"clip.mp4", "clip.png"}
    said = capsys.readouterr()
    assert said.out == (
        f"wrote {out}, {tmp_path / 'clip.png'}\npasses per step: video 2, audio 2; the first step: video 3, audio 3\n"
    )
    assert "sampling 2/2" in said.err
    assert "decoding" in said.err
    assert "note:" not in said.err


@pytest.mark.bitwise("program")
def test_a_seed_gives_the_same_clip_alone_or_among_several(checkpoint, tmp_path, capsys):
    alone, several = tmp_path / "a.mp4", tmp_path / "b.mp4"
    plain = ("--sync-video", 1, "--sync-audio", 1)
    assert made(checkpoint, "--out", alone, "--seed", 4, *plain, "--save-latents", tmp_path / "a.safetensors") == 0
    assert "passes per step: video 1, audio 1\n" in capsys.readouterr().out
    assert (
        made(checkpoint, "--out", several, "--seed", 3, "--count", 2, *plain, "--save-latents", tmp_path / "b.safetensors") == 0
    )
    assert names(tmp_path) == {f"{n}.{e}" for n in ("a", "b-0", "b-1") for e in ("mp4", "png", "safetensors")}
    (one, spec), (other, _), (same, _) = (load_latents(tmp_path / f"{n}.safetensors") for n in ("a", "b-0", "b-1"))
    assert spec == SPEC
    assert torch.equal(one.video, same.video)
    assert torch.equal(one.audio, same.audio)
    assert away(one.video, other.video) > CHANGED
    assert alone.read_bytes() == (tmp_path / "b-1.mp4").read_bytes()


def test_a_sound_of_any_format_and_rate_is_kept_and_the_clip_is_as_long(checkpoint, media, tmp_path, capsys):
    out = tmp_path / "clip.mp4"
    assert made(checkpoint, "--audio", media / "song.mp3", "--out", out) == 0
    assert "note: the clip lasts 0.542 s (13 frames), as the checkpoint was trained for" in capsys.readouterr().err
    heard, given = (read_audio(path, sample_rate=22_050) for path in (out, media / "song.mp3"))
    assert heard.waveform.shape[2] == round(SPEC.seconds * 22_050)
    alike = torch.nn.functional.cosine_similarity(heard.waveform, given.waveform[..., : heard.waveform.shape[2]], dim=2)
    assert alike > 0.95


def test_a_clip_is_no_longer_than_its_driver(checkpoint, media, tmp_path, capsys):
    out = tmp_path / "clip.mp4"
    assert made(checkpoint, "--audio", media / "song.mp3", "--start", 0.5, "--out", out) == 0
    assert "(9 frames), the longest that fits the sound" in capsys.readouterr().err
    assert read_video(out).frames.shape[2] == 9
    assert made(checkpoint, "--video", media / "phone.mp4", "--start", 0.4, "--out", out) == 0
    assert "(5 frames), the longest that fits the video" in capsys.readouterr().err
    assert read_video(out).frames.shape[2] == 5
    assert made(checkpoint, "--audio", media / "song.mp3", "--seconds", 0.7, "--out", out) == 0
    err = capsys.readouterr().err
    assert "(17 frames), the nearest to 0.7 s that fits" in err
    assert "trained on clips of 48 x 32 at 24 fps for 0.54 s" in err


def test_a_video_of_any_size_and_rate_keeps_its_pictures(checkpoint, media, tmp_path):
    out = tmp_path / "clip.mp4"
    assert made(checkpoint, "--video", media / "phone.mp4", "--out", out, "--sound-map") == 0
    given = read_video(media / "phone.mp4", fps=24, size=(32, 48), frames=13)
    back = read_video(out)
    assert (back.frames - given.frames).abs().mean() < 0.03
    assert probe(out).audio is not None
    assert names(tmp_path) == {"clip.mp4", "clip.png", "clip.map.png"}
    assert read_image(tmp_path / "clip.map.png").shape == read_image(tmp_path / "clip.png").shape


@pytest.mark.bitwise("locked")
def test_a_first_picture_and_a_voice_go_together(checkpoint, media, tmp_path):
    out, latents = tmp_path / "clip.mp4", tmp_path / "l.safetensors"
    words = ("a", "--say", "ABC ab", "--text-video", 4, "--negative", "b", "--save-latents", latents, "--out", out)
    voice, image = ("--voice", media / "voice.wav"), ("--image", media / "first.png")
    assert made(checkpoint, *words, *voice, *image, "--count", 2) == 0
    assert made(checkpoint, *words, *image) == 0
    (one, _), (other, _), (voiceless, _) = (load_latents(tmp_path / f"l{n}.safetensors") for n in ("-0", "-1", ""))
    assert torch.equal(one.video[:, :, 0], other.video[:, :, 0])
    assert away(one.video[:, :, 1], other.video[:, :, 1]) > CHANGED
    assert away(one.audio, voiceless.audio) > CHANGED


def test_size_and_rate_are_the_users(checkpoint, tmp_path):
    out = tmp_path / "clip.mp4"
    assert made(checkpoint, "--out", out, "--size", "64x32", "--fps", 12, "--seconds", 0.4, "--sampler", "heun") == 0
    video = read_video(out)
    assert video.frames.shape == (1, 3, 5, 32, 64)
    assert math.isclose(video.fps, 12)


def refused(checkpoint: Path, capsys: pytest.CaptureFixture[str], words: str, *request: object) -> None:
    capsys.readouterr()
    assert made(checkpoint, *request) == 1
    said = capsys.readouterr()
    assert words in said.err
    assert said.err.startswith("harmony: ")
    assert said.err.count("\n") == 1
    assert not said.out


def test_options_that_are_wrong_are_one_sentence_each(checkpoint, media, tmp_path, capsys):
    out = ("--out", tmp_path / "b.mp4")
    refusals: dict[str, tuple[object, ...]] = {
        "ending in .mp4": ("--out", tmp_path / "b.avi"),
        "cannot write to the folder": ("--out", tmp_path / "none" / "b.mp4"),
        "ending in .safetensors": (*out, "--save-latents", tmp_path / "b.pt"),
        "--audio makes pictures for a sound": (*out, "--audio", media / "song.mp3", "--video", media / "phone.mp4"),
        "leave --image out": (*out, "--video", media / "phone.mp4", "--image", media / "first.png"),
        "--say is empty": (*out, "--say", " \n"),
        "knows no 'x' (LATIN SMALL LETTER X)": (*out, "--say", "xa"),
        "--say: the text has 7 symbols, at most 6": (*out, "--say", "abcabca"),
        "the caption: the text has 25 symbols": ("a" * 25, *out),
        "--sound: the text has 25 symbols": ("--sound", "a" * 25, *out),
        "number of steps, at least one, got -3": (*out, "--steps", -3),
        "scale is a number from 0 up to 1000, got -1.0 for video": (*out, "--sync-video", -1),
        "got nan for audio": (*out, "--text-audio", "nan"),
        "no sampler 'ddim'": (*out, "--sampler", "ddim"),
        "gamma is a positive number": (*out, "--gamma", 0),
        "--count is a whole number from 1": (*out, "--count", 0),
        "--seed is a whole number from 0": (*out, "--seed", -1),
        "--threads is a whole number from 1": (*out, "--threads", 0),
        "--seconds is a number from 0.001 to 600, got inf": (*out, "--seconds", "inf"),
        "--seconds is a number from 0.001 to 600, got 1e+09": (*out, "--seconds", 1e9),
        "--fps is a number from 0.001 to 1000": (*out, "--fps", -24),
        "--size is WIDTHxHEIGHT": (*out, "--size", "64"),
        "width 50 is not a multiple of 16; nearest: 48 or 64": (*out, "--size", "50x32"),
        "--start is a time in --audio or --video": (*out, "--start", 1),
        "needs --text-video or --text-audio": (*out, "--sync-text", "additive"),
        "a text scale goes with": (*out, "--sync-text", "null", "--text-video", 3),
        "--negative is for guidance by the text": (*out, "--negative", "a"),
        "--device abacus cannot be used": (*out, "--device", "abacus"),
    }
    for words, request in refusals.items():
        refused(checkpoint, capsys, words, *request)
    assert not names(tmp_path)


def test_media_that_do_not_do_are_one_sentence_each(checkpoint, media, tmp_path, capsys):
    out = ("--out", tmp_path / "b.mp4")
    refusals: dict[str, tuple[object, ...]] = {
        "at least 0.3 s, got 0.20 s": ("--voice", media / "short.wav"),
        "voice is silent": ("--voice", media / "silent.wav"),
        "100% of the reference voice is clipped": ("--voice", media / "clipped.wav"),
        "first.png has no sound": ("--voice", media / "first.png"),
        "none.png: No such file": ("--image", media / "none.png"),
        "voice.wav has no pictures": ("--image", media / "voice.wav"),
        "cannot read": ("--video", media / "broken.mp4"),
        "is a photograph: give it as --image": ("--video", media / "first.png"),
        "lasts 0.80 s, the clip 2 s: make the clip shorter": ("--audio", media / "voice.wav", "--seconds", 2),
        "phone.mp4 lasts 0.67 s, the clip 5 s": ("--video", media / "phone.mp4", "--seconds", 5),
        "voice.wav has no sound at 3.00 s": ("--audio", media / "voice.wav", "--start", 3),
        "less than a picture": ("--audio", media / "voice.wav", "--start", 0.78),
    }
    for words, request in refusals.items():
        refused(checkpoint, capsys, words, *request, *out)
    assert not names(tmp_path)


def test_what_is_read_is_not_written_over(checkpoint, media, tmp_path, capsys):
    picture = tmp_path / "clip.png"
    picture.write_bytes((media / "first.png").read_bytes())
    before = picture.read_bytes()
    refused(checkpoint, capsys, "also read", "--image", picture, "--out", tmp_path / "clip.mp4")
    assert picture.read_bytes() == before
    assert names(tmp_path) == {"clip.png"}


def test_a_checkpoint_that_cannot_is_one_sentence(media, tmp_path, capsys):
    bare = save_all_in_one(tmp_path / "bare.safetensors", codecs=False)
    mute = save_all_in_one(tmp_path / "mute.safetensors", speech=None, caption=None, interaction={"kind": "global"})
    (tmp_path / "text.safetensors").write_text("no weights")
    out = ("--out", tmp_path / "b.mp4")
    refused(tmp_path / "none.safetensors", capsys, "built-in one: harmony-tiny", *out)
    refused(tmp_path / "text.safetensors", capsys, "truncated or of another format", *out)
    refused(media / "voice.wav", capsys, "voice.wav is no weights file", *out)
    refused(bare, capsys, "lacks codecs", *out)
    refused(mute, capsys, "has no transcript encoder: leave --say out", "--say", "abc", *out)
    refused(mute, capsys, "has no caption encoder of its own", "a ball", *out)
    refused(mute, capsys, "has no frame-wise attention", "--sound-map", *out)
    assert not list(tmp_path.glob("b.*"))


def test_a_clip_larger_than_memory_is_one_sentence(checkpoint, tmp_path, capsys):
    status = main(
        [
            "generate",
            "--out",
            str(tmp_path / "b.mp4"),
            "--checkpoint",
            str(checkpoint),
            "--size",
            "99840x99840",
            "--seconds",
            "600",
        ]
    )
    assert status == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith("harmony: not enough memory on cpu for this clip")
    assert not names(tmp_path)


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_leaves_no_file_and_one_line(checkpoint, tmp_path, monkeypatch, capsys):
    draw = progress_line.ProgressLine.__call__

    def interrupt(self, done, total):
        draw(self, done, total)
        if done == 3:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(progress_line.ProgressLine, "__call__", interrupt)
    status = main(["generate", "--out", str(tmp_path / "b.mp4"), "--checkpoint", str(checkpoint), "--steps", "1000"])
    assert status == INTERRUPTED
    assert capsys.readouterr().err.splitlines()[-1] == "harmony: stopped"
    assert not names(tmp_path)


# ---- what a file or a name may be


def test_sound_of_eight_channels_drives_a_clip_and_is_in_it(tmp_path):
    sound = Audio(torch.cat([tone(1.0).waveform * gain for gain in (1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)], 1), 16_000)
    write_wav(tmp_path / "seven.wav", sound)
    args = ["--audio", tmp_path / "seven.wav", "--sync-video", 1, "--sync-audio", 1, "--out", tmp_path / "o.mp4"]
    assert made(Path("harmony-tiny"), "x", *args) == 0
    assert read_audio(tmp_path / "o.mp4").waveform.shape[1] == 8


@pytest.mark.parametrize(("said", "read"), [("“Hello”, Café", "hello, cafe"), ("nǐ hǎo", "ni3 hao3")])
def test_a_transcript_is_spelled_as_in_the_node(said, read, tmp_path):
    parser = argparse.ArgumentParser()
    generate.add_arguments(parser)
    args = parser.parse_args(["x", "--say", said, "--out", str(tmp_path / "o.mp4")])
    check_options(args)
    assert plan(args, note=lambda _: None).request.transcript == read


def test_what_cannot_be_said_or_written_is_refused_before_anything_is_made(tmp_path, capsys):
    out = tmp_path / "o.mp4"
    left, right = tone(0.9).waveform, -tone(0.9).waveform
    write_wav(tmp_path / "anti.wav", Audio(torch.cat([left, right], 1), 16_000))
    for args, message in (
        (["--say", "I have 3 cats"], "--say: write numbers as words, got '3'"),
        (["--say", "[laughs] hello"], "--say: '[laughs]' would be spoken"),
        (["--say", "bonjour", "--language", "Mandarin"], "--say: 'bonjour' is no pinyin"),
        (["--voice", tmp_path / "anti.wav"], "anti.wav: its channels cancel each other, one is the other upside down"),
        (["--tile", "64"], "--tile is a multiple of 16 pixels from 192 to "),
        (["--out", tmp_path / f"{'b' * 300}.mp4"], "File name too long"),
        (["--out", tmp_path / f"{'b' * 250}.mp4", "--sound-map"], "File name too long"),
    ):
        assert made(Path("harmony-tiny"), "x", "--out", out, *args) == 1
        assert message in capsys.readouterr().err
    assert names(tmp_path) == {"anti.wav"}


def test_a_name_as_long_as_the_disk_takes_is_written(tmp_path):
    out = tmp_path / f"{'b' * 251}.mp4"
    assert made(Path("harmony-tiny"), "x", "--steps", 1, "--sync-video", 1, "--sync-audio", 1, "--out", out) == 0
    assert names(tmp_path) == {out.name, out.with_suffix(".png").name}


def test_a_shard_names_the_index_it_belongs_to(tmp_path, capsys):
    shard = tmp_path / "m-00001-of-00002.safetensors"
    shard.write_bytes(resolve("harmony-tiny").read_bytes())
    assert made(shard, "x", "--out", tmp_path / "o.mp4") == 1
    assert "this is one of several shards: give m.safetensors.index.json" in capsys.readouterr().err


def test_a_log_file_gets_a_few_lines_not_hundreds(tmp_path):
    command = [sys.executable, "-m", "harmony_core", "generate", "x", "--steps", "24", "--out", str(tmp_path / "o.mp4")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert len(done.stderr.splitlines()) < 10
    assert "\r" not in done.stderr
    assert "sampling 24/24" in done.stderr

"""The roundtrip command, with small random codecs: what is written fits what was read."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from harmony_core.__main__ import main
from harmony_core.codecs.audio import AudioCodec, audio_codec_preset
from harmony_core.codecs.video_vae import PRESETS, VideoVAE
from harmony_core.media import probe, read_audio, read_image, read_video, write_image, write_video, write_wav
from harmony_core.types import Audio, Video


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    save_file(VideoVAE(PRESETS["tiny"]).state_dict(), folder / "video.safetensors")
    save_file(AudioCodec(audio_codec_preset("tiny")).state_dict(), folder / "audio.safetensors")
    return {"video": str(folder / "video.safetensors"), "audio": str(folder / "audio.safetensors")}


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    frames = torch.rand(1, 3, 12, 70, 100, generator=torch.Generator().manual_seed(0)) * 2 - 1
    sound = torch.rand(1, 2, 24_000, generator=torch.Generator().manual_seed(1)) - 0.5
    write_video(tmp_path / "clip.mp4", Video(frames, 24), Audio(sound, 48_000))
    return tmp_path / "clip.mp4"


def sent(*words: object) -> int:
    return main(["roundtrip", *map(str, words)])


def test_a_video_comes_back_with_pictures_and_sound_of_one_length(clip: Path, tmp_path: Path, weights: dict[str, str]):
    out = tmp_path / "out.mp4"
    both = ("--video-vae", weights["video"], "--audio-codec", weights["audio"], "--audio-preset", "tiny")
    assert sent(clip, "--out", out, *both) == 0
    assert read_video(out).frames.shape == (1, 3, 9, 64, 96)
    audio = read_audio(out, sample_rate=16_000)
    assert audio.waveform.shape == (1, 1, 6000)
    assert sent(clip, "--out", out, *both, "--seconds", "0.2", "--start", "0.1", "--size", "64x32") == 0
    assert read_video(out).frames.shape == (1, 3, 5, 32, 64)


def test_one_codec_alone_leaves_the_other_stream_as_it_was(clip: Path, tmp_path: Path, weights: dict[str, str]):
    out = tmp_path / "out.mp4"
    assert sent(clip, "--out", out, "--video-vae", weights["video"]) == 0
    given, back = read_audio(clip, sample_rate=16_000, seconds=9 / 24), read_audio(out, sample_rate=16_000)
    heard = torch.nn.functional.cosine_similarity(given.waveform.mean(1), back.waveform[:, 0])
    assert heard > 0.9


def test_sound_and_photographs_go_through_alone(tmp_path: Path, weights: dict[str, str]):
    write_wav(tmp_path / "a.wav", Audio(torch.rand(1, 1, 9_999) - 0.5, 16_000))
    assert (
        sent(tmp_path / "a.wav", "--out", tmp_path / "b.wav", "--audio-codec", weights["audio"], "--audio-preset", "tiny") == 0
    )
    assert read_audio(tmp_path / "b.wav").waveform.shape == (1, 1, 9_999)
    write_image(tmp_path / "a.png", torch.rand(1, 3, 1, 33, 50) * 2 - 1)
    assert sent(tmp_path / "a.png", "--out", tmp_path / "b.png", "--video-vae", weights["video"]) == 0
    assert read_image(tmp_path / "b.png").shape == (1, 3, 1, 32, 32)


def test_what_is_missing_is_said_in_one_sentence(
    clip: Path, tmp_path: Path, weights: dict[str, str], capsys: pytest.CaptureFixture[str]
):
    write_wav(tmp_path / "a.wav", Audio(torch.rand(1, 1, 9_999) - 0.5, 16_000))
    video = ("--video-vae", weights["video"])
    audio = ("--audio-codec", weights["audio"], "--audio-preset", "tiny")
    refusals = {
        "--video-vae": (clip, "--out", tmp_path / "b.mp4"),
        "--audio-codec": (clip, "--out", tmp_path / "b.wav", *video),
        "ending in": (clip, "--out", tmp_path / "b.avi", *video),
        "has no pictures for": (tmp_path / "a.wav", "--out", tmp_path / "b.mp4", *audio),
        "b.safetensors": (clip, "--out", tmp_path / "b.mp4", "--video-vae", tmp_path / "b.safetensors"),
        "No such file": (tmp_path / "none.mp4", "--out", tmp_path / "b.mp4", *video),
        "--device": (clip, "--out", tmp_path / "b.mp4", *video, "--device", "abacus"),
        "too short": (clip, "--out", tmp_path / "b.mp4", *video, "--seconds", "9"),
        "not a multiple": (clip, "--out", tmp_path / "b.mp4", *video, "--size", "64x50"),
        "--size is WIDTHxHEIGHT": (clip, "--out", tmp_path / "b.mp4", *video, "--size", "64"),
        "preset": (clip, "--out", tmp_path / "b.wav", *audio[:2], "--audio-preset", "huge"),
    }
    for words, request in refusals.items():
        assert sent(*request) == 1
        said = capsys.readouterr().err
        assert words in said
        assert said.count("\n") == 1
    assert not list(tmp_path.glob("b.*"))
    assert probe(clip).audio is not None

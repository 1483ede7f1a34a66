"""Files that are written: what players find in them, and that there is a whole one or none."""

from __future__ import annotations

import math
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from harmony_core.media import read_audio, read_image, read_video, write_image, write_video, write_wav
from harmony_core.progress import Cancelled
from harmony_core.types import Audio, Video


def black(frames: int = 36, height: int = 32, width: int = 48) -> torch.Tensor:
    return torch.full((1, 3, frames, height, width), -1.0)


def noise(samples: int, channels: int = 1) -> torch.Tensor:
    return torch.rand(1, channels, samples, generator=torch.Generator().manual_seed(0)) * 0.5 - 0.25


@pytest.mark.parametrize(
    ("fps", "exact"), [(24, Fraction(24)), (23.976, Fraction(24000, 1001)), (30, Fraction(30)), (12.5, Fraction(25, 2))]
)
@pytest.mark.parametrize("rate", [16_000, 48_000])
def test_both_streams_have_the_clips_rate_count_and_length(tmp_path: Path, fps: float, exact: Fraction, rate: int):
    path = tmp_path / "clip.mp4"
    write_video(path, Video(black(), fps), Audio(noise(round(36 / fps * rate)), rate))
    with av.open(str(path)) as container:
        video, audio = container.streams.video[0], container.streams.audio[0]
        assert video.average_rate == exact
        assert video.start_time == audio.start_time == 0
        for stream in (video, audio):
            assert abs(stream.duration * stream.time_base - 36 / Fraction(fps)) < 0.5 / Fraction(fps)
        times = [frame.time for frame in container.decode(video)]
    np.testing.assert_allclose(times, np.arange(36) / float(exact), atol=1e-4)


@pytest.mark.parametrize("fps", [24, 23.976, 30])
@pytest.mark.parametrize("rate", [16_000, 44_100, 48_000])
def test_flashes_and_clicks_come_back_at_their_frame_within_a_millisecond(tmp_path: Path, fps: float, rate: int):
    at = [0, 7, 20, 35]
    frames, sound = black(), torch.zeros(1, 1, round(36 / fps * rate))
    for k in at:
        frames[:, :, k] = 1
        sound[..., round(k / fps * rate)] = 0.9
    write_video(tmp_path / "clip.mp4", Video(frames, fps), Audio(sound, rate))

    light = read_video(tmp_path / "clip.mp4").frames.mean((0, 1, 3, 4))
    assert torch.nonzero(light > 0).flatten().tolist() == at
    back = read_audio(tmp_path / "clip.mp4", sample_rate=rate).waveform
    assert back.shape == sound.shape
    for k in at:
        first = max(0, round((k - 3) / fps * rate))
        found = first + back[0, 0, first : round((k + 3) / fps * rate)].abs().argmax().item()
        assert abs(found / rate - k / fps) <= 1e-3


def test_saturated_colours_survive_and_are_tagged_as_they_are_coded(tmp_path: Path):
    corners = torch.tensor([[r, g, b] for r in (-1, 1) for g in (-1, 1) for b in (-1, 1)], dtype=torch.float32)
    patches = corners.T.reshape(3, 1, 2, 4).repeat_interleave(32, 2).repeat_interleave(32, 3)[None]
    write_video(tmp_path / "clip.mp4", Video(patches, 24), crf=4)
    back = read_video(tmp_path / "clip.mp4").frames[0, :, 0, 16::32, 16::32].reshape(3, 8).T
    assert (back - corners).abs().max() * 127.5 <= 4

    with av.open(str(tmp_path / "clip.mp4")) as container:
        context = container.streams.video[0].codec_context
        assert (context.color_primaries, context.color_trc) == (1, 1)
        frame = next(container.decode(video=0))
        luma = frame.to_ndarray()[:64, :128][16::32, 16::32].reshape(-1).astype(float)
        assert (frame.color_range, frame.colorspace) == (1, 1)
    wanted = 16 + 219 * ((corners.numpy() + 1) / 2) @ [0.2126, 0.7152, 0.0722]
    np.testing.assert_allclose(luma, wanted, atol=2)


def test_an_mp4_starts_with_its_index_and_keeps_names_and_texts(tmp_path: Path):
    texts = {"prompt": "ein Käfer brummt", "workflow": '{"nodes": []}'}
    write_video(tmp_path / "clip.mp4", Video(black(3), 24), metadata=texts)
    data = (tmp_path / "clip.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")
    with av.open(str(tmp_path / "clip.mp4")) as container:
        assert texts.items() <= container.metadata.items()
        assert not container.streams.audio


def test_a_single_picture_and_sound_longer_or_shorter_are_written_as_given(tmp_path: Path):
    for frames, samples in ((1, 16_000), (24, 4_000)):
        write_video(tmp_path / "clip.mp4", Video(black(frames), 24), Audio(noise(samples), 16_000))
        assert read_video(tmp_path / "clip.mp4").frames.shape[2] == frames
        assert read_audio(tmp_path / "clip.mp4", sample_rate=16_000).waveform.shape[2] == samples


@pytest.mark.parametrize("channels", [1, 2, 6])
@pytest.mark.bitwise("file")
def test_a_wav_keeps_every_sample_to_half_a_step_or_exactly(tmp_path: Path, channels: int):
    sound = noise(20_000, channels)
    write_wav(tmp_path / "a.wav", Audio(sound, 16_000))
    back = read_audio(tmp_path / "a.wav")
    assert back.sample_rate == 16_000
    torch.testing.assert_close(back.waveform, sound, atol=0.5001 / 32768, rtol=0)
    write_wav(tmp_path / "a.wav", Audio(sound, 16_000), sample_format="float32")
    assert torch.equal(read_audio(tmp_path / "a.wav").waveform, sound)


def test_full_scale_does_not_wrap(tmp_path: Path):
    sound = torch.tensor([[[1.0, -1.0, 2.0, -2.0] * 100]])
    write_wav(tmp_path / "a.wav", Audio(sound, 16_000))
    torch.testing.assert_close(read_audio(tmp_path / "a.wav").waveform, sound.clamp(-1, 1), atol=1 / 32768, rtol=0)


def test_a_png_keeps_every_level(tmp_path: Path):
    image = torch.arange(3 * 7 * 11).reshape(1, 3, 1, 7, 11) / 127.5 - 1
    write_image(tmp_path / "a.png", image)
    torch.testing.assert_close(read_image(tmp_path / "a.png"), image, atol=1e-6, rtol=0)


def test_half_precision_and_values_beyond_the_range_are_taken(tmp_path: Path):
    write_video(tmp_path / "clip.mp4", Video(black(2).bfloat16() * 3, 24), Audio(noise(100).half(), 16_000))
    assert read_video(tmp_path / "clip.mp4").frames.max() < -0.95


@pytest.mark.parametrize("stop", [Cancelled, KeyboardInterrupt, RuntimeError])
def test_an_interrupted_write_leaves_everything_as_it_was(tmp_path: Path, stop: type[BaseException]):
    path = tmp_path / "clip.mp4"
    video, audio = Video(black(60), 24), Audio(noise(40_000), 16_000)

    def halfway(done: int, total: int) -> None:
        if done == total // 2:
            raise stop

    with pytest.raises(stop):
        write_video(path, video, audio, progress=halfway)
    assert not list(tmp_path.iterdir())
    path.write_bytes(b"precious")
    with pytest.raises(stop):
        write_video(path, video, audio, progress=halfway)
    assert path.read_bytes() == b"precious"
    assert list(tmp_path.iterdir()) == [path]
    write_video(path, video, audio)
    assert read_video(path).frames.shape[2] == 60


_ON_A_FULL_DISK = """
import resource, signal, sys, torch
from harmony_core.media import write_image, write_video, write_wav
from harmony_core.types import Audio, Video
torch.manual_seed(0)
video, audio = Video(torch.rand(1, 3, 6, 64, 64) * 2 - 1, 24), Audio(torch.rand(1, 1, 8000) - 0.5, 16000)
writers = {
    "a.mp4": lambda path: write_video(path, video, audio),
    "a.wav": lambda path: write_wav(path, audio),
    "a.png": lambda path: write_image(path, video.frames[:, :, :1]),
}
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
for name, write in writers.items():
    write(f"{sys.argv[1]}/whole-{name}")
for name, write in writers.items():
    import os
    size = os.path.getsize(f"{sys.argv[1]}/whole-{name}")
    for room in (0, 100, size // 2, size - 1):
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))
        try:
            write(f"{sys.argv[1]}/{name}")
        except ValueError as error:
            assert name in str(error) and "\\n" not in str(error), error
        else:
            raise SystemExit(f"{name} was written into {room} of {size} bytes")
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="limits of file sizes are POSIX")
def test_a_full_disk_is_reported_and_leaves_nothing(tmp_path: Path):
    done = subprocess.run([sys.executable, "-c", _ON_A_FULL_DISK, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["whole-a.mp4", "whole-a.png", "whole-a.wav"]


def test_what_cannot_be_written_is_refused_in_one_sentence(tmp_path: Path):
    video, audio = Video(black(2), 24), Audio(noise(100), 16_000)
    broken_video, broken_audio = black(2), noise(100)
    broken_video[0, 0, 1, 0, 0] = torch.nan
    broken_audio[0, 0, 7] = torch.inf
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "file").write_bytes(b"")
    attempts = {
        "even": lambda: write_video(tmp_path / "a.mp4", Video(black(2, 31, 48), 24)),
        "one picture or more": lambda: write_video(tmp_path / "a.mp4", Video(black(0), 24)),
        "picture 1": lambda: write_video(tmp_path / "a.mp4", Video(broken_video, 24), audio),
        "the sound has": lambda: write_video(tmp_path / "a.mp4", video, Audio(broken_audio, 16_000)),
        "batch of 2": lambda: write_video(tmp_path / "a.mp4", Video(black(2).repeat(2, 1, 1, 1, 1), 24)),
        "floats": lambda: write_video(tmp_path / "a.mp4", Video(black(2).to(torch.uint8), 24)),
        "up to 16384": lambda: write_video(tmp_path / "a.mp4", Video(black(1, 2, 20_000), 24)),
        "pictures per second": lambda: write_video(tmp_path / "a.mp4", Video(black(2), math.inf)),
        "names and texts": lambda: write_video(tmp_path / "a.mp4", video, metadata={"seed": 3}),  # type: ignore[dict-item]
        "preset": lambda: write_video(tmp_path / "a.mp4", video, preset="warp"),  # type: ignore[arg-type]
        "too long": lambda: write_video(tmp_path / ("x" * 300 + ".mp4"), video),
        "crf": lambda: write_video(tmp_path / "a.mp4", video, crf=99),
        "ends in .mp4": lambda: write_video(tmp_path / "a.avi", video),
        "not a file": lambda: write_video(tmp_path / "folder.mp4", video),
        "no such folder": lambda: write_video(tmp_path / "missing" / "a.mp4", video),
        "there is no such": lambda: write_wav(tmp_path / "file" / "a.wav", audio),
        "1 to 8 channels": lambda: write_wav(tmp_path / "a.wav", Audio(noise(100, 9), 16_000)),
        "at least one sample": lambda: write_wav(tmp_path / "a.wav", Audio(noise(0), 16_000)),
        "sample_format": lambda: write_wav(tmp_path / "a.wav", audio, sample_format="int8"),  # type: ignore[arg-type]
        "a picture is": lambda: write_image(tmp_path / "a.png", black(2)),
    }
    before = sorted(tmp_path.rglob("*"))
    for words, attempt in attempts.items():
        with pytest.raises(ValueError, match=words) as caught:
            attempt()
        assert "\n" not in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_link_stays_a_link(tmp_path: Path):
    (tmp_path / "link.wav").symlink_to(tmp_path / "real.wav")
    write_wav(tmp_path / "link.wav", Audio(noise(100), 16_000))
    assert (tmp_path / "link.wav").is_symlink()
    assert read_audio(tmp_path / "real.wav").waveform.shape[2] == 100

"""Files that are no media, or no longer whole: one sentence with the file's name, never a crash."""

from __future__ import annotations

import math
import os
import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from harmony_core.media import Limits, probe, read_audio, read_image, read_video

Encode = Callable[..., Path]


def _video(**pictures: Any) -> dict[str, Any]:
    return pictures


def _audio(**sound: Any) -> dict[str, Any]:
    return sound


def refusal(read: Callable[[Path], object], path: Path) -> str:
    with pytest.raises(ValueError, match=re.escape(path.name)) as caught:
        read(path)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.fixture
def media(encode: Encode) -> dict[str, Path]:
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 255, (32, 48, 3), dtype=np.uint8) for _ in range(48)]
    sound = (rng.standard_normal((1, 96_000)) * 0.1).astype(np.float32)
    h264 = {"codec": "libx264", "pixel_format": "yuv420p"}
    return {
        "a.mp4": encode("a.mp4", _video(frames=frames, **h264), _audio(samples=sound, codec="aac"), movflags="+faststart"),
        "a.mkv": encode("a.mkv", _video(frames=frames, **h264), _audio(samples=sound, codec="aac")),
        "a.wav": encode("a.wav", None, _audio(samples=sound)),
        "a.flac": encode("a.flac", None, _audio(samples=sound, codec="flac")),
        "a.png": encode("a.png", _video(frames=frames[:1], codec="png", pixel_format="rgb24"), update="1"),
    }


def readers(name: str) -> list[Callable[[Path], object]]:
    if name.endswith("png"):
        return [read_image]
    return [read_audio] if name.endswith(("wav", "flac")) else [read_audio, read_video]


def test_what_is_no_media_is_refused(tmp_path: Path):
    files = {
        "empty.mp4": b"",
        "text.txt": b"Dear diary, nothing moved and nothing sounded today.\n" * 50,
        "page.mp4": b"<!DOCTYPE html><html><body>404</body></html>",
        "zeros.wav": bytes(10_000),
        "noise.mp3": np.random.default_rng(0).integers(0, 255, 30_000, dtype=np.uint8).tobytes(),
        "head.png": b"\x89PNG\r\n\x1a\n",
        "head.wav": b"RIFF\x24\0\0\0WAVEfmt \x10\0\0\0\x01\0\x01\0\x80\x3e\0\0\0\x7d\0\0\x02\0\x10\0data\0\0\0\0",
        "weights.safetensors": struct.pack("<Q", 2) + b"{}",
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
        for read in (probe, read_video, read_audio, read_image):
            if name == "head.wav" and read is probe:  # a whole file, of no sample
                continue
            refusal(read, tmp_path / name)
    (tmp_path / "folder.mp4").mkdir()
    assert "not a file" in refusal(probe, tmp_path / "folder.mp4")
    assert "No such file" in refusal(probe, tmp_path / "missing.mp4")


def test_a_playlist_does_not_open_other_files(tmp_path: Path, media: dict[str, Path], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    lists = {
        "list.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\na.mp4\n#EXT-X-ENDLIST\n",
        "list.ffconcat": "ffconcat version 1.0\nfile a.mp4\n",
    }
    for name, text in lists.items():
        (tmp_path / name).write_text(text)
        refusal(read_video, tmp_path / name)
    assert media["a.mp4"].exists()
    (tmp_path / "frame%03d.png").write_bytes(media["a.png"].read_bytes())  # a pattern to FFmpeg, a name to us
    assert read_image(tmp_path / "frame%03d.png").shape[3:] == (32, 48)


@pytest.mark.parametrize("part", [0.01, 0.3, 0.6])
def test_a_file_cut_short_is_refused(media: dict[str, Path], part: float):
    for name, path in media.items():
        data = path.read_bytes()
        path.write_bytes(data[: round(len(data) * part)])
        for read in readers(name):
            refusal(read, path)


def test_a_part_before_the_cut_can_be_read(media: dict[str, Path]):
    data = media["a.mp4"].read_bytes()
    media["a.mp4"].write_bytes(data[: round(len(data) * 0.6)])
    assert read_video(media["a.mp4"], frames=12).frames.shape[2] == 12
    assert read_audio(media["a.mp4"], seconds=0.5).seconds == 0.5


def test_a_wav_from_a_pipe_that_states_no_length_is_whole(media: dict[str, Path]):
    data = bytearray(media["a.wav"].read_bytes())
    data[4:8] = b"\xff" * 4
    at = data.index(b"data") + 4
    data[at : at + 4] = b"\xff" * 4
    media["a.wav"].write_bytes(data)
    assert read_audio(media["a.wav"]).waveform.shape[2] == 96_000


def _outcome(read: Callable[[Path], object], path: Path) -> str:
    try:
        read(path)
    except ValueError as error:
        return "refused" if path.name in str(error) else str(error)
    return "read"


def test_damage_anywhere_is_survived_or_refused(media: dict[str, Path]):
    rng = np.random.default_rng(1)
    outcomes = set()
    for name, path in media.items():
        whole = np.frombuffer(path.read_bytes(), np.uint8)
        for _ in range(12):
            broken = whole.copy()
            at = rng.integers(0, len(broken) - 40)
            broken[at : at + 40] = rng.integers(0, 255, 40)
            path.write_bytes(broken.tobytes())
            for read in readers(name):
                outcomes.add(_outcome(read, path))
    assert outcomes == {"read", "refused"}


def test_a_file_that_is_mostly_damage_is_refused(media: dict[str, Path]):
    path = media["a.flac"]
    data = bytearray(path.read_bytes())
    for at in range(2000, len(data), 50):
        data[at : at + 20] = bytes(20)
    path.write_bytes(data)
    refusal(read_audio, path)


def test_absurd_sizes_are_refused_before_they_cost_memory(tmp_path: Path):
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    def png(side: int, body: bytes) -> bytes:
        header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
        return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")

    (tmp_path / "bomb.png").write_bytes(png(40_000, zlib.compress(bytes(10_000_000), 9)))
    refusal(read_image, tmp_path / "bomb.png")
    with (tmp_path / "huge.mp4").open("wb") as file:
        os.truncate(file.fileno(), 1 << 40)
    assert "limit" in refusal(probe, tmp_path / "huge.mp4")


def test_senseless_requests_are_refused(media: dict[str, Path]):
    path = media["a.mp4"]
    requests = (
        lambda: read_video(path, fps=0),
        lambda: read_video(path, fps=float("nan")),
        lambda: read_video(path, size=(0, 10)),
        lambda: read_video(path, start=-1),
        lambda: read_video(path, frames=0),
        lambda: read_video(path, short="loop"),  # type: ignore[arg-type]
        lambda: read_video(path, resize="squash"),  # type: ignore[arg-type]
        lambda: read_audio(path, sample_rate=0),
        lambda: read_audio(path, sample_rate=10**12),
        lambda: read_audio(path, seconds=-1),
        lambda: read_audio(path, seconds=float("inf")),
    )
    for request in requests:
        with pytest.raises(ValueError, match=r"(positive|from 0|at least 1|1000 to|is 'refuse'|is 'cover')"):
            request()


def test_silence_packed_ten_thousand_times_is_refused_before_it_is_unpacked(tmp_path: Path):
    path = tmp_path / "bomb.flac"
    block = np.zeros((1, 8 * 65_535), np.int16)
    with av.open(str(path), "w", format="flac") as container:
        stream = container.add_stream("flac", rate=192_000)
        stream.codec_context.layout, stream.codec_context.format = "7.1", "s16"
        for number in range(530):  # three minutes
            frame = av.AudioFrame.from_ndarray(block, format="s16", layout="7.1")
            frame.sample_rate, frame.pts = 192_000, number * 65_535
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert path.stat().st_size < 100_000
    assert "is over the limit of 174.76 s; read a part" in refusal(read_audio, path)
    assert read_audio(path, seconds=1.0).waveform.shape == (1, 8, 192_000)
    tight = Limits(sound_bytes=1 << 20)
    assert "over the limit of 0.17 s" in refusal(lambda file: read_audio(file, seconds=1.0, limits=tight), path)


def test_times_no_file_has_are_refused(media: dict[str, Path]):
    for path in (media["a.mp4"], media["a.wav"]):
        for start in (1e308, math.inf, math.nan, -1.0):
            with pytest.raises(ValueError, match="a start is a number of seconds from 0 to 1e\\+06"):
                read_audio(path, start=start)
    for fps in (1e-300, 0.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="a frame rate is positive"):
            read_video(media["a.mp4"], fps=fps)

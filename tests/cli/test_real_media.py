"""Generate, given what phones and music players write: turned, of odd sizes, of any rate, in stereo."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from all_in_one import SPEC, save_all_in_one

from harmony_core.__main__ import main
from harmony_core.media import probe, read_audio, read_video

FLASH = 0.25
"""Seconds at which the bright side of the pictures goes on."""
CLOCKWISE = (0, 1 << 16, 0, -(1 << 16), 0, 0, 54 << 16, 0, 1 << 30)
RATES = {
    "30": [k / 30 for k in range(24)],
    "29.97": [k * 1001 / 30_000 for k in range(24)],
    "variable": [0, 0.02, 0.09, 0.1, 0.2, 0.24, 0.27, 0.31, 0.4, 0.45, 0.58, 0.6, 0.71, 0.75],
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_all_in_one(tmp_path_factory.mktemp("weights") / "small.safetensors")


def film(path: Path, times: list[float], *, width: int = 97, height: int = 55, turned: bool = False) -> Path:
    """Pictures whose left half lights up at ``FLASH``, with a click in stereo then, in an mp4; turned as phones do it."""
    with av.open(str(path), "w") as container:
        pictures = container.add_stream("libx264", rate=30, options={"crf": "8", "bf": "0"})
        pictures.width, pictures.height, pictures.pix_fmt = width, height, "yuv444p"
        pictures.codec_context.time_base = Fraction(1, 30_000)
        sound = container.add_stream("aac", rate=44_100)
        sound.codec_context.layout = "stereo"
        packets = []
        for time in times:
            picture = np.full((height, width, 3), 20, np.uint8)
            picture[:, : width // 2] = 235 if time >= FLASH else 20
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="yuv444p")
            frame.pts, frame.time_base = round(time * 30_000), Fraction(1, 30_000)
            packets += pictures.encode(frame)
        packets += pictures.encode(None)
        samples = np.zeros((2, 35_280), np.float32)
        samples[:, round(FLASH * 44_100) :][:, :400] = 0.8
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="stereo")
        frame.sample_rate, frame.time_base, frame.pts = 44_100, Fraction(1, 44_100), 0
        packets += [*sound.encode(frame), *sound.encode(None)]
        for packet in sorted(packets, key=lambda p: p.dts * p.time_base):
            container.mux(packet)
    if turned:
        data = bytearray(path.read_bytes())
        at = data.index(b"tkhd") + 44  # the display matrix in the header of the first track
        data[at : at + 36] = b"".join(value.to_bytes(4, "big", signed=True) for value in CLOCKWISE)
        path.write_bytes(data)
    return path


def made(checkpoint: Path, *words: object) -> int:
    return main(
        [
            "generate",
            "--steps",
            "1",
            "--sync-video",
            "1",
            "--sync-audio",
            "1",
            "--checkpoint",
            str(checkpoint),
            *map(str, words),
        ]
    )


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("turned", [False, True])
def test_a_phones_video_drives_as_it_is_seen_when_it_is_seen(checkpoint: Path, tmp_path: Path, rate: str, turned: bool):
    given, out = film(tmp_path / "given.mp4", RATES[rate], turned=turned), tmp_path / "out.mp4"
    info = probe(given).video
    assert info is not None
    assert (info.width, info.height) == ((55, 97) if turned else (97, 55))
    assert made(checkpoint, "--video", given, "--out", out) == 0
    video = read_video(out)
    assert video.frames.shape == (1, 3, SPEC.frames, SPEC.height, SPEC.width)
    assert probe(out).audio is not None
    middles = (np.arange(SPEC.frames) + 0.5) / SPEC.fps
    shown = [max(time for time in RATES[rate] if time <= middle + 1e-3) for middle in middles]
    lit, dark = video.frames[0, 0, :, 4:-4, 4:18], video.frames[0, 0, :, 4:-4, -18:-4]
    if turned:  # clockwise: the left half is on top
        lit, dark = video.frames[0, 0, :, 2:12, 4:-4], video.frames[0, 0, :, -12:-2, 4:-4]
    assert (lit.mean(dim=(1, 2)) > 0).tolist() == [time >= FLASH for time in shown]
    assert dark.max() < 0


@pytest.mark.parametrize(
    ("name", "codec"), [("a.mp3", "libmp3lame"), ("a.m4a", "aac"), ("a.wav", "pcm_s16le"), ("a.ogg", "libopus")]
)
def test_a_recording_in_stereo_drives_and_is_heard_as_it_was(checkpoint: Path, tmp_path: Path, name: str, codec: str):
    rate = 48_000 if codec == "libopus" else 44_100
    t = np.arange(rate) / rate
    samples = np.stack([0.4 * np.sin(2 * np.pi * 330 * t), 0.2 * np.sin(2 * np.pi * 500 * t)]).astype(np.float32)
    given, out = tmp_path / name, tmp_path / "out.mp4"
    with av.open(str(given), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.codec_context.layout = "stereo"
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="stereo")
        frame.sample_rate, frame.time_base, frame.pts = rate, Fraction(1, rate), 0
        for packet in (*stream.encode(frame), *stream.encode(None)):
            container.mux(packet)
    assert made(checkpoint, "--audio", given, "--out", out) == 0
    heard, before = read_audio(out).waveform, read_audio(given).waveform
    assert heard.shape == (1, 2, round(SPEC.seconds * rate))
    alike = torch.nn.functional.cosine_similarity(heard, before[..., : heard.shape[2]], dim=2)
    assert alike.min() > 0.95


def test_a_film_gives_its_sound_too(checkpoint: Path, tmp_path: Path):
    given, out = film(tmp_path / "given.mp4", RATES["variable"], turned=True), tmp_path / "out.mp4"
    assert made(checkpoint, "--audio", given, "--out", out) == 0
    heard = read_audio(out)
    assert abs(int((heard.waveform[0, 1].abs() > 0.2).nonzero()[0]) / heard.sample_rate - FLASH) < 0.003

"""Which track of a file is read, where its channels are heard, how loud it is, and what its colours mean."""

import io
import logging
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from harmony_core.media import probe, read_audio, read_image, read_video, to_mono, write_video, write_wav
from harmony_core.media.hdr import HLG, PQ, tone_mapped
from harmony_core.types import Audio, Video

RATE = 48_000


def tones(channels: int, layout: str | None = None) -> Audio:
    """A second in which each channel has a tone of its own, 100, 150, 200 ... Hz."""
    time = torch.arange(RATE) / RATE
    waves = [0.1 * torch.sin(2 * torch.pi * 50 * (c + 2) * time) for c in range(channels)]
    return Audio(torch.stack(waves)[None], RATE, layout)


def pitches(audio: Audio) -> list[int]:
    return [round(float(torch.fft.rfft(wave).abs().argmax()) / audio.seconds) for wave in audio.waveform[0]]


@pytest.mark.parametrize(("channels", "layout"), [(8, None), (7, None), (4, "quad"), (3, "2.1"), (6, None), (3, None)])
@pytest.mark.parametrize("name", ["a.mp4", "a.wav"])
def test_every_channel_stays_in_its_place(tmp_path: Path, channels: int, layout: str | None, name: str):
    sound = tones(channels, layout)
    if name == "a.mp4":
        write_video(tmp_path / name, Video(torch.zeros(1, 3, 24, 32, 32), 24.0), sound)
    else:
        write_wav(tmp_path / name, sound)
    read = read_audio(tmp_path / name)
    assert pitches(read) == pitches(sound)
    assert read.layout == layout


def test_a_layout_aac_has_no_place_for_becomes_the_usual_one(tmp_path: Path):
    write_video(tmp_path / "a.mp4", Video(torch.zeros(1, 3, 24, 32, 32), 24.0), tones(8, "octagonal"))
    assert pitches(read_audio(tmp_path / "a.mp4")) == pitches(tones(8))


@pytest.mark.parametrize(("channels", "layout", "low"), [(3, "2.1", 2), (6, None, 3), (8, None, 3), (8, "7.1(wide)", 3)])
def test_the_low_frequency_channel_is_not_mixed_into_mono(channels: int, layout: str | None, low: int):
    sound = tones(channels, layout)
    mixed = torch.fft.rfft(to_mono(sound).waveform[0, 0]).abs()
    assert all((mixed[50 * (c + 2)] > 100) == (c != low) for c in range(channels))


def test_sound_without_a_low_frequency_channel_is_averaged():
    for channels, layout in ((2, None), (3, None), (4, "quad"), (4, None), (5, None)):
        sound = tones(channels, layout)
        assert torch.allclose(to_mono(sound).waveform[0, 0], sound.waveform[0].mean(0), atol=1e-6)


def two_tracks(path: Path) -> Path:
    """First a thumbnail of a second and a tone of 300 Hz, then what players show and play: 2.5 s, 900 Hz."""
    with av.open(str(path), "w") as container:
        streams = [container.add_stream("ffv1", rate=24), container.add_stream("ffv1", rate=24)]
        sounds = [container.add_stream("pcm_s16le", rate=RATE), container.add_stream("pcm_s16le", rate=RATE)]
        for stream in (streams[0], sounds[0]):
            stream.disposition = 0
        for stream in (streams[1], sounds[1]):
            stream.disposition = av.stream.Disposition.default
        for stream, size in zip(streams, (32, 64), strict=True):
            stream.width, stream.height, stream.pix_fmt = size, size, "bgr0"
        for stream in sounds:
            stream.codec_context.layout = "mono"
        for stream, size, count, level in zip(streams, (32, 64), (24, 60), (50, 200), strict=True):
            for _ in range(count):
                frame = av.VideoFrame.from_ndarray(np.full((size, size, 3), level, np.uint8), format="rgb24")
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        for stream, pitch in zip(sounds, (300, 900), strict=True):
            wave = (8000 * np.sin(2 * np.pi * pitch * np.arange(RATE * 5 // 2) / RATE)).astype(np.int16)
            frame = av.AudioFrame.from_ndarray(wave[None], format="s16", layout="mono")
            frame.sample_rate, frame.pts = RATE, 0
            container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    return path


def test_the_default_track_is_read_not_the_first(tmp_path: Path):
    path = two_tracks(tmp_path / "two.mkv")
    assert (probe(path).video.width, round(probe(path).video.seconds, 1)) == (64, 2.5)
    assert pitches(read_audio(path)) == [900]
    assert read_video(path).frames.shape[2:] == (60, 64, 64)


def test_floats_over_full_scale_are_made_quieter_and_it_is_said(tmp_path: Path, caplog):
    sound = tones(1)
    write_wav(tmp_path / "loud.wav", Audio(20 * sound.waveform, RATE), sample_format="float32")
    with caplog.at_level(logging.WARNING):
        read = read_audio(tmp_path / "loud.wav")
    assert torch.allclose(read.waveform, sound.waveform / sound.waveform.abs().max(), atol=1e-4)  # its shape, not a square wave
    assert "goes over full scale (2.00): it is read 6.0 dB quieter, so that nothing is cut" in caplog.text


# ---- colours


@pytest.mark.parametrize(("transfer", "white"), [(HLG, 0.75), (PQ, 0.5807)])
def test_diffuse_white_and_greys_become_those_of_a_standard_screen(transfer: int, white: float):
    """Signals of BT.2408 for 203 cd/m²; black stays black, and what is brighter still rises."""
    signals = np.array([0, white, min(1.0, white * 1.2), 1.0])
    rgb = np.rint(signals[:, None, None] * 65535).astype(np.uint16).repeat(3, 2)
    mapped = tone_mapped(rgb, transfer, 9)[:, 0]
    assert (mapped == mapped[:, :1]).all()  # greys stay grey
    levels = mapped[:, 0].tolist()
    assert levels[0] == 0
    assert 240 <= levels[1] < levels[2] <= levels[3] == 255


def hdr_grey(path: Path, transfer: int, level: float) -> Path:
    """A grey of ``level`` of diffuse white, as ten-bit HEVC would have it; lossless here."""
    light = 203 * level
    if transfer == HLG:
        scene = (light / 1000) ** (1 / 1.2)
        signal = (3 * scene) ** 0.5 if scene <= 1 / 12 else 0.17883277 * np.log(12 * scene - 0.28466892) + 0.55991073
    else:
        y = (light / 10_000) ** (2610 / 16384)
        signal = ((3424 / 4096 + 2413 / 128 * y) / (1 + 2392 / 128 * y)) ** (2523 / 32)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=24)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p10le"
        context = stream.codec_context
        context.color_trc, context.color_primaries, context.colorspace = transfer, 9, 9
        for _ in range(3):
            frame = av.VideoFrame(32, 32, "yuv420p10le")
            for plane, value in zip(frame.planes, (round(64 + 876 * signal), 512, 512), strict=True):
                plane.update(np.full(plane.buffer_size // 2, value, "<u2").tobytes())
            frame.color_trc, frame.color_primaries, frame.colorspace = transfer, 9, 9
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("transfer", [HLG, PQ])
def test_grey_of_high_dynamic_range_is_the_grey_it_was(tmp_path: Path, transfer: int, caplog):
    path = hdr_grey(tmp_path / "a.mkv", transfer, (191 / 255) ** 2.4)
    with caplog.at_level(logging.WARNING):
        level = (read_video(path).frames + 1) * 127.5
    assert (level - 191).abs().max() < 3
    assert "has high dynamic range" in caplog.text


# ---- photographs


def photograph(kind: str, frames: int = 1, **options) -> bytes:
    rng = np.random.default_rng(0)
    made = [Image.fromarray(rng.integers(0, 255, (96, 96, 3)).astype(np.uint8)) for _ in range(frames)]
    file = io.BytesIO()
    made[0].save(file, kind, **({"save_all": True, "append_images": made[1:]} if frames > 1 else {}), **options)
    return file.getvalue()


CUT = {
    "a.jpg": photograph("JPEG", quality=90),
    "b.jpg": photograph("JPEG", quality=90, progressive=True),
    "a.gif": photograph("GIF"),
    "b.gif": photograph("GIF", 4),
}


@pytest.mark.parametrize("name", CUT)
@pytest.mark.parametrize("share", [0.4, 0.7, 0.95])
def test_a_cut_photograph_is_refused(tmp_path: Path, name: str, share: float):
    (tmp_path / name).write_bytes(CUT[name][: int(share * len(CUT[name]))])
    with pytest.raises(ValueError, match=f"{name} is (cut short|damaged)"):
        read_video(tmp_path / name)


@pytest.mark.parametrize("name", CUT)
def test_a_whole_photograph_and_junk_behind_it_are_fine(tmp_path: Path, name: str):
    for junk in (b"", b"\0" * 100, b"MotionPhoto" * 30):
        (tmp_path / name).write_bytes(CUT[name] + junk)
        assert read_image(tmp_path / name).shape == (1, 3, 1, 96, 96)

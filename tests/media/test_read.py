"""Files that are read: in time, upright, in their colours, with all their channels."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from av.video.frame import VideoFrame
from PIL import Image, ImageOps

from harmony_core.geometry import ClipSpec
from harmony_core.media import Limits, probe, read_audio, read_clip, read_image, read_video, to_mono
from harmony_core.types import Audio, Video

Encode = Callable[..., Path]


def _video(**pictures: Any) -> dict[str, Any]:
    return pictures


def _audio(**sound: Any) -> dict[str, Any]:
    return sound


# One colour a quarter, so that a turn or a mirroring cannot hide.
QUARTERS = np.zeros((40, 60, 3), np.uint8)
QUARTERS[:20, :30], QUARTERS[:20, 30:], QUARTERS[20:, :30], QUARTERS[20:, 30:] = (
    (255, 0, 0),
    (0, 255, 0),
    (0, 0, 255),
    (255, 255, 255),
)


def numbered(count: int, height: int = 16, width: int = 16) -> list[np.ndarray]:
    return [np.full((height, width, 3), 4 * i, np.uint8) for i in range(count)]


def numbers(video: Video) -> list[int]:
    return ((video.frames.mean((0, 1, 3, 4)) + 1) * 127.5 / 4).round().int().tolist()


def levels(frames: torch.Tensor) -> np.ndarray:
    return ((frames[0, :, 0] + 1) * 127.5).round().permute(1, 2, 0).numpy()


def click(seconds: float, length: float = 2.0, rate: int = 48_000, channels: int = 1) -> np.ndarray:
    samples = np.zeros((channels, round(length * rate)), np.float32)
    samples[:, round(seconds * rate)] = 0.9
    return samples


def click_time(audio: Audio) -> float:
    return audio.waveform[0, 0].abs().argmax().item() / audio.sample_rate


def test_a_variable_frame_rate_is_resampled_by_timestamps(encode: Encode):
    times = [0, 40, 200, 240, 500, 900]
    path = encode("a.mkv", _video(frames=numbered(6), times=times, time_base=Fraction(1, 1000)))
    video = read_video(path, fps=24)
    middles = (np.arange(video.frames.shape[2]) + 0.5) / 24 * 1000
    assert numbers(video) == (np.searchsorted(times, middles, side="right") - 1).tolist()
    assert video.frames.shape[2] >= 22  # the last picture stays for its own duration


@pytest.mark.parametrize(("stored", "wanted"), [(60, 24), (12, 24), (24, 24), (Fraction(24000, 1001), 24), (25, 23.976)])
def test_a_changed_rate_shows_what_is_there_in_the_middle_of_each_frame(encode: Encode, stored: Fraction, wanted: float):
    path = encode("a.mkv", _video(frames=numbered(60), rate=Fraction(stored)))
    video = read_video(path, fps=wanted)
    # Matroska rounds its times to milliseconds: a middle on an edge may fall either way.
    shown, exact = np.array(numbers(video)), (np.arange(video.frames.shape[2]) + 0.5) / wanted * float(stored)
    assert ((shown <= exact + 0.06) & (exact - 0.06 <= shown + 1)).all()
    assert abs(video.seconds - 60 / float(stored)) <= 0.5 / wanted + 1e-3


@pytest.mark.bitwise("file")
def test_a_part_of_a_video_is_the_part_of_the_whole(encode: Encode):
    long_distance = {"g": "300"}
    path = encode("a.mp4", _video(frames=numbered(60), codec="libx264", pixel_format="yuv420p", options=long_distance))
    whole = read_video(path)
    for start in (0.25, 1.0, 2.25):
        part = read_video(path, start=start, frames=5)
        first = round(start * 24)
        torch.testing.assert_close(part.frames, whole.frames[:, :, first : first + 5], atol=0, rtol=0)


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("a.mp3", "libmp3lame"),
        ("a.m4a", "aac"),
        ("a.ogg", "libopus"),
        ("a.flac", "flac"),
        ("a.mka", "libopus"),
        ("a.wav", "pcm_s24le"),
    ],
)
@pytest.mark.parametrize("start", [0.0, 0.3, 3.0])
def test_a_click_is_where_it_was_in_every_format_from_any_start(encode: Encode, name: str, codec: str, start: float):
    path = encode(name, None, _audio(samples=click(3.5, length=4.0), codec=codec))
    audio = read_audio(path, start=start, sample_rate=16_000)
    assert abs(click_time(audio) + start - 3.5) <= 1e-3
    assert abs(audio.seconds + start - 4.0) < 0.03


@pytest.mark.parametrize("name", ["a.mkv", "a.mov"])
@pytest.mark.parametrize("delay", [0.25, 0.0])
def test_late_sound_stays_in_step_with_the_pictures(encode: Encode, name: str, delay: float):
    pictures = _video(frames=numbered(48), codec="libx264", pixel_format="yuv420p")
    path = encode(name, pictures, _audio(samples=click(0.5, length=1.0), delay=delay))
    assert abs(click_time(read_audio(path)) - delay - 0.5) <= 1e-3
    assert not read_audio(path).waveform[..., : max(0, round(delay * 48_000) - 1)].any()


def test_late_pictures_start_the_clip_and_earlier_sound_is_left_out(encode: Encode):
    late = _video(frames=numbered(24), times=list(range(12, 36)))
    path = encode("a.mkv", late, _audio(samples=click(1.0)))
    video, audio = read_video(path), read_audio(path)
    assert numbers(video) == list(range(24))
    assert abs(click_time(audio) - 0.5) <= 1e-3
    assert abs(audio.seconds - 1.5) <= 1e-3


def test_a_transport_stream_that_starts_anywhere_is_in_step(encode: Encode):
    pictures = [np.full((32, 32, 3), 255 if i == 30 else 0, np.uint8) for i in range(48)]
    path = encode(
        "a.ts",
        _video(frames=pictures, codec="libx264", pixel_format="yuv420p", options={"bf": "0"}),
        _audio(samples=click(30 / 24), codec="aac"),
    )
    with av.open(str(path)) as container:
        assert container.streams.video[0].start_time > 0
    flash = read_video(path).frames.mean((0, 1, 3, 4)).argmax().item()
    assert flash == 30
    assert abs(click_time(read_audio(path)) - 30 / 24) <= 2e-3


def _turned(path: Path, matrix: tuple[int, ...]) -> Path:
    """Write a display matrix into the track header of an mp4."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40  # version, flags, times, id, duration, layer, volume
    data[at : at + 36] = b"".join(value.to_bytes(4, "big", signed=True) for value in matrix)
    path.write_bytes(data)
    return path


ONE, W = 1 << 16, 1 << 30
MATRICES = {
    "upright": ((ONE, 0, 0, 0, ONE, 0, 0, 0, W), lambda a: a),
    "clockwise": ((0, ONE, 0, -ONE, 0, 0, 40 * ONE, 0, W), lambda a: np.rot90(a, -1)),
    "half": ((-ONE, 0, 0, 0, -ONE, 0, 0, 0, W), lambda a: np.rot90(a, 2)),
    "counterclockwise": ((0, -ONE, 0, ONE, 0, 0, 0, 0, W), lambda a: np.rot90(a, 1)),
    "mirrored": ((-ONE, 0, 0, 0, ONE, 0, 0, 0, W), lambda a: a[:, ::-1]),
    "transposed": ((0, ONE, 0, ONE, 0, 0, 0, 0, W), lambda a: a.swapaxes(0, 1)),
}


@pytest.mark.parametrize("turn", MATRICES)
def test_a_turned_video_comes_upright(encode: Encode, turn: str):
    matrix, expected = MATRICES[turn]
    pictures = _video(frames=[QUARTERS] * 3, codec="libx264", pixel_format="yuv444p", options={"crf": "1"})
    path = _turned(encode("a.mp4", pictures), matrix)
    wanted = expected(QUARTERS)
    video = read_video(path)
    assert video.frames.shape[3:] == wanted.shape[:2]
    np.testing.assert_allclose(levels(video.frames), wanted, atol=12)
    info = probe(path).video
    assert info is not None
    assert (info.height, info.width) == wanted.shape[:2]


@pytest.mark.parametrize("kind", ["jpg", "png", "webp", "tiff"])
@pytest.mark.parametrize("tag", range(1, 9))
def test_a_photograph_is_turned_as_its_tag_says(tmp_path: Path, kind: str, tag: int):
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "maker", tag
    path = tmp_path / f"a.{kind}"
    options = {"jpg": {"quality": 100, "subsampling": 0}, "webp": {"lossless": True}}.get(kind, {})
    Image.fromarray(QUARTERS).save(path, exif=exif, **options)
    with Image.open(path) as image:
        wanted = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    np.testing.assert_allclose(levels(read_image(path)), wanted, atol=4)


@pytest.mark.parametrize("kind", ["png", "webp", "gif"])
def test_transparency_is_put_over_black(tmp_path: Path, kind: str):
    rgba = np.full((8, 8, 4), 255, np.uint8)
    rgba[:4, :, 3] = 0
    Image.fromarray(rgba).save(tmp_path / f"a.{kind}", **({"lossless": True, "exact": True} if kind == "webp" else {}))
    back = levels(read_image(tmp_path / f"a.{kind}"))
    assert (back[:4] == 0).all()
    assert (back[4:] == 255).all()


def test_grey_and_sixteen_bit_pictures_keep_their_levels(tmp_path: Path):
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    Image.fromarray(ramp).save(tmp_path / "grey.png")
    np.testing.assert_allclose(levels(read_image(tmp_path / "grey.png"))[..., 1], ramp, atol=1)
    Image.fromarray(ramp.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    np.testing.assert_allclose(levels(read_image(tmp_path / "deep.png"))[..., 1], ramp, atol=1)


KR_KB = {1: (0.2126, 0.0722), 5: (0.299, 0.114), 6: (0.299, 0.114), 7: (0.212, 0.087), 9: (0.2627, 0.0593)}
COLOURS = np.array([[r, g, b] for r in (30, 220) for g in (30, 220) for b in (30, 220)], np.float64)


def _coded(matrix: int, full: bool, bits: int) -> VideoFrame:
    """A row of patches, coded by the definition of the matrix: no library's conversion on either side of the test."""
    kr, kb = KR_KB[matrix]
    rgb = COLOURS / 255
    luma = rgb @ [kr, 1 - kr - kb, kb]
    chroma = (rgb[:, 2] - luma) / (2 * (1 - kb)), (rgb[:, 0] - luma) / (2 * (1 - kr))
    top, step = (1 << bits) - 1, 1 << (bits - 8)
    y = luma * top if full else (16 + 219 * luma) * step
    uv = [c * top + 128 * step if full else (128 + 224 * c) * step for c in chroma]
    planes = np.stack([np.tile(np.repeat(np.rint(p), 16), (16, 1)) for p in (y, *uv)])
    frame = VideoFrame(128, 16, "yuv444p" if bits == 8 else "yuv444p10le")
    for plane, values in zip(frame.planes, planes, strict=True):
        rows = np.zeros((16, plane.line_size), np.uint8)
        packed = values.astype(np.uint8 if bits == 8 else "<u2").view(np.uint8).reshape(16, -1)
        rows[:, : packed.shape[1]] = packed
        plane.update(rows.tobytes())
    frame.colorspace, frame.color_range = matrix, 2 if full else 1
    return frame


@pytest.mark.parametrize("bits", [8, 10])
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("matrix", KR_KB)
def test_colours_are_decoded_by_their_matrix_and_range(encode: Encode, matrix: int, full: bool, bits: int):
    frame = _coded(matrix, full, bits)
    tags = {"colorspace": matrix, "color_range": 2 if full else 1}
    path = encode("a.mkv", _video(frames=[frame] * 2, pixel_format=frame.format.name, tags=tags))
    np.testing.assert_allclose(levels(read_video(path).frames)[8, 8::16], COLOURS, atol=2)


@pytest.mark.parametrize(("size", "matrix"), [((16, 128), 5), ((720, 1280), 1)])
def test_an_unstated_matrix_is_that_of_the_size(encode: Encode, size: tuple[int, int], matrix: int):
    frame = _coded(matrix, False, 8)
    large = frame.reformat(width=size[1], height=size[0], interpolation="POINT")
    large.colorspace = 2  # unstated
    path = encode("a.mkv", _video(frames=[large], pixel_format="yuv444p", tags={"color_range": 1}))
    step = size[1] // 8
    np.testing.assert_allclose(levels(read_video(path).frames)[size[0] // 2, step // 2 :: step], COLOURS, atol=2)


def test_odd_sizes_are_read_as_they_are_and_brought_to_any_other(encode: Encode):
    path = encode("a.mkv", _video(frames=[np.full((33, 47, 3), 200, np.uint8)] * 2))
    assert read_video(path).frames.shape == (1, 3, 2, 33, 47)
    for size in ((1, 1), (17, 101), (64, 32)):
        frames = read_video(path, size=size).frames
        assert frames.shape == (1, 3, 2, *size)
        assert ((frames + 1) * 127.5 - 200).abs().max() <= 1


@pytest.mark.bitwise("copy")
def test_cover_crops_evenly_and_fit_shows_all(tmp_path: Path):
    Image.fromarray(QUARTERS).save(tmp_path / "a.png")
    cover = levels(read_image(tmp_path / "a.png", size=(40, 40)))
    np.testing.assert_array_equal(cover, QUARTERS[:, 10:50])
    fit = levels(read_image(tmp_path / "a.png", size=(60, 60), resize="fit"))
    assert not fit[:10].any()
    assert not fit[50:].any()
    np.testing.assert_array_equal(fit[10:50], QUARTERS)


def test_pixels_that_are_not_square_are_made_so(encode: Encode):
    tags = {"sample_aspect_ratio": Fraction(4, 3)}
    path = encode("a.mp4", _video(frames=numbered(2, 48, 64), codec="libx264", pixel_format="yuv420p", tags=tags))
    assert read_video(path).frames.shape[3:] == (48, 85)


def test_all_channels_come_in_order_and_mix_to_one(encode: Encode):
    tones = np.stack([np.sin(np.arange(48_000) / 48_000 * 2 * math.pi * 200 * (i + 1)) * 0.4 for i in range(6)]).astype(
        np.float32
    )
    for name, codec in (("a.wav", "pcm_s16le"), ("a.flac", "flac"), ("a.mkv", "ac3")):
        path = encode(name, None, _audio(samples=tones, codec=codec, layout="5.1"))
        audio = read_audio(path, sample_rate=24_000)
        assert audio.waveform.shape[1] == 6
        spectrum = torch.fft.rfft(audio.waveform[0, :, 6000:18_000]).abs()
        heard = [0, 1, 2, 4, 5] if codec == "ac3" else range(6)  # the low-frequency channel of AC-3 ends below the tone
        assert [spectrum[i].argmax().item() for i in heard] == [100 * (i + 1) for i in heard]
        assert to_mono(audio).waveform.abs().max() <= audio.waveform.abs().max() + 1e-6
    stereo = Audio(torch.tensor([[[1.0, 0.5], [0.0, -0.5]]]), 16_000)
    assert to_mono(stereo).waveform.tolist() == [[[0.5, 0.0]]]
    centre = Audio(torch.eye(6)[None], 16_000)
    assert to_mono(centre).waveform[0, 0, 3] == 0


def test_a_file_has_what_it_has(encode: Encode, tmp_path: Path):
    silent = encode("silent.mkv", _video(frames=numbered(10)))
    song = encode("song.mp3", None, _audio(samples=click(0.1, channels=2), codec="libmp3lame", layout="stereo"))
    Image.fromarray(QUARTERS).save(tmp_path / "cover.jpg")
    cover = (tmp_path / "cover.jpg").read_bytes()
    covered = tmp_path / "covered.mp3"
    covered.write_bytes(_id3_picture(cover) + song.read_bytes())
    assert probe(silent).audio is None
    for path in (song, covered):
        info = probe(path)
        assert info.video is None
        assert info.audio is not None
        assert (info.audio.channels, info.audio.sample_rate) == (2, 48_000)
        with pytest.raises(ValueError, match=r"\.mp3 has no pictures"):
            read_video(path)
    with pytest.raises(ValueError, match=r"silent\.mkv has no sound"):
        read_audio(silent)
    photo = probe(tmp_path / "cover.jpg")
    assert photo.still
    assert photo.video is not None
    assert (photo.video.height, photo.video.width, photo.video.seconds) == (40, 60, None)


def _id3_picture(image: bytes) -> bytes:
    def size(n: int) -> bytes:
        return bytes(n >> shift & 127 for shift in (21, 14, 7, 0))

    body = b"\0image/jpeg\0\x03\0" + image
    frame = b"APIC" + size(len(body)) + b"\0\0" + body
    return b"ID3\x04\0\0" + size(len(frame)) + frame


def test_a_clip_has_the_specs_shape_to_the_sample(encode: Encode, tmp_path: Path):
    spec = ClipSpec(frames=25, height=32, width=64, fps=23.976)
    path = encode(
        "a.mkv", _video(frames=numbered(40), rate=Fraction(30)), _audio(samples=click(0.5), rate=44_100, layout="mono")
    )
    video, audio = read_clip(path, spec)
    assert video is not None
    assert audio is not None
    assert video.frames.shape == (1, 3, 25, 32, 64)
    assert video.fps == spec.fps
    assert (audio.waveform.shape, audio.sample_rate) == ((1, 1, spec.samples), 16_000)

    Image.fromarray(QUARTERS).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="too short"):
        read_clip(tmp_path / "a.png", spec)
    held, sound = read_clip(tmp_path / "a.png", spec, short="hold", start=5.0)
    assert sound is None
    assert held is not None
    assert (held.frames == held.frames[:, :, :1]).all()


def test_a_file_shorter_than_the_clip_is_refused_or_held(encode: Encode):
    spec = ClipSpec(frames=49, height=32, width=32)
    short = encode("a.mkv", _video(frames=numbered(24)), _audio(samples=click(0.5, 1.0)))
    sound = encode("a.wav", None, _audio(samples=click(0.5, 1.0)))
    for path in (short, sound):
        with pytest.raises(ValueError, match="too short"):
            read_clip(path, spec)
    video, audio = read_clip(short, spec, short="hold")
    assert video is not None
    assert audio is not None
    assert numbers(video) == [*range(24), *[23] * 25]
    assert audio.waveform.shape[2] == spec.samples
    assert not audio.waveform[..., 17_000:].any()
    enough = encode("b.mkv", _video(frames=numbered(50)), _audio(samples=click(0.5, 1.0)))
    assert read_clip(enough, spec)[1] is not None  # the sound of a video may end early
    for kind, read, path in (("pictures", read_video, short), ("sound", read_audio, short), ("sound", read_audio, sound)):
        with pytest.raises(ValueError, match=f"no {kind} at 7.00 s"):
            read(path, start=7.0)


def test_reading_can_be_stopped_and_begun_again(encode: Encode):
    path = encode("a.mkv", _video(frames=numbered(20)))

    def stop(done: int, _total: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        read_video(path, progress=stop)
    calls: list[tuple[int, int]] = []
    assert numbers(read_video(path, frames=20, progress=lambda *c: calls.append(c))) == list(range(20))
    assert calls == [(i + 1, 20) for i in range(20)]


def test_what_is_over_a_limit_is_refused_by_name(encode: Encode, tmp_path: Path):
    path = encode("a.mkv", _video(frames=numbered(24, 32, 32)), _audio(samples=click(0.5, 1.0, channels=2), layout="stereo"))
    Image.fromarray(QUARTERS).save(tmp_path / "a.png")
    Image.fromarray(QUARTERS[:1]).resize((4000, 1)).save(tmp_path / "line.png")
    refusals = (
        lambda: read_video(path, limits=Limits(file_bytes=100)),
        lambda: read_video(path, limits=Limits(seconds=0.5)),
        lambda: read_video(path, limits=Limits(pixels=1000)),
        lambda: read_video(path, limits=Limits(output_bytes=100_000)),
        lambda: read_video(path, frames=30, short="hold", limits=Limits(seconds=1.1)),
        lambda: read_video(path, size=(100_000, 100_000)),
        lambda: read_video(path, fps=1e12),
        lambda: read_image(tmp_path / "a.png", limits=Limits(pixels=1000)),
        lambda: read_image(tmp_path / "line.png", size=(1000, 1000)),
        lambda: read_audio(path, limits=Limits(seconds=0.5)),
        lambda: read_audio(path, seconds=0.9, limits=Limits(seconds=0.5)),
        lambda: read_audio(path, limits=Limits(channels=1)),
    )
    for refused in refusals:
        with pytest.raises(ValueError, match=r"(a\.mkv|a\.png|line\.png)") as caught:
            refused()
        assert "\n" not in str(caught.value)
    assert read_video(path, frames=10, limits=Limits(seconds=0.5)).frames.shape[2] == 10

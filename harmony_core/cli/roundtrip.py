"""Send a media file through the codecs and back: what the model could at best give back of it, to see and hear.

Pictures are read at a clip's rate, cropped to sides the model takes and to 1 + 4 k of them; sound is as long, in mono. What no
weights are given for is written as it was read.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ..atomic import check_target
from ..inputs import named
from .numbers import LONGEST_START, check_length, check_number

if TYPE_CHECKING:
    from ..media import VideoInfo
    from ..runtime import Runtime
    from ..types import Audio, Video

SUMMARY = "encode and decode a media file through the codecs"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The file, where it goes, the weights and the clip."""
    parser.add_argument("file", type=Path, help="a video, sound or picture file")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the file to write: .mp4, .wav or .png")
    parser.add_argument("--video-vae", type=Path, metavar="FILE", help="Wan2.2's video VAE, or a file of ours that holds one")
    parser.add_argument(
        "--audio-codec",
        type=Path,
        metavar="FILE",
        help="MMAudio's VAE, alone or with its vocoder, or a file of ours that holds one",
    )
    parser.add_argument("--vocoder", type=Path, metavar="FILE", help="weights of the vocoder, where they are apart")
    parser.add_argument("--audio-preset", default="mmaudio-16k", help="size of the audio codec (default: mmaudio-16k)")
    parser.add_argument("--start", type=float, default=0.0, metavar="S", help="seconds to skip (default: 0)")
    parser.add_argument("--seconds", type=float, metavar="S", help="length, to the nearest that fits (default: to the end)")
    parser.add_argument("--fps", type=float, default=24.0, help="pictures per second of the clip (default: 24)")
    parser.add_argument("--size", metavar="WIDTHxHEIGHT", help="of the clip, in pixels (default: the file's)")
    parser.add_argument("--device", default="cpu", help="torch device, such as cpu or cuda (default: cpu)")


def run(args: argparse.Namespace) -> None:
    """Read the file at a clip's rate and size, encode, decode, write.

    Raises:
        ValueError: weights that the file needs were not given, or a file cannot be read or written.
    """
    from ..media import probe, write_image, write_video, write_wav

    kind = _check_request(args)
    info = probe(args.file)
    runtime = _runtime(args.device)
    if kind == ".wav":
        if info.audio is None:
            raise ValueError(f"{named(args.file)} has no sound for {named(args.out)}")
        write_wav(args.out, _audio(args, runtime, None))
    else:
        if info.video is None:
            raise ValueError(f"{named(args.file)} has no pictures for {named(args.out)}; sound alone is written to a .wav")
        video = _video(args, info.video, runtime, still=kind == ".png")
        if kind == ".png":
            write_image(args.out, video.frames)
        else:
            write_video(args.out, video, _audio(args, runtime, video) if info.audio is not None else None)
    print(f"wrote {args.out}")


def _check_request(args: argparse.Namespace) -> str:
    """The kind of file to write, when the weights that it may need are given."""
    kind: str = args.out.suffix.lower()
    if kind not in {".mp4", ".wav", ".png"}:
        raise ValueError(f"--out is a name ending in .mp4, .wav or .png, got {named(args.out)}")
    check_number("start", args.start, 0, LONGEST_START)
    check_length(args.seconds, args.fps)
    check_target(args.out)
    for_pictures = "--video-vae FILE with Wan2.2_VAE.pth for the pictures"
    for_sound = "--audio-codec FILE with MMAudio's VAE, and --vocoder FILE with its vocoder, for the sound"
    if kind == ".png" and args.video_vae is None:
        raise ValueError(f"give {for_pictures}")
    if kind == ".wav" and args.audio_codec is None:
        raise ValueError(f"give {for_sound}")
    if args.video_vae is None and args.audio_codec is None:
        raise ValueError(f"give {for_pictures}, {for_sound}, or both")
    return kind


def _runtime(device: str) -> Runtime:
    from ..runtime import Runtime, usable_device

    return Runtime(device=usable_device(device))


def _video(args: argparse.Namespace, info: VideoInfo, runtime: Runtime, *, still: bool) -> Video:
    """The pictures of the clip, through the codec where its weights are given."""
    from ..geometry import ClipSpec, Grid
    from ..media import read_video
    from ..types import Video
    from ..weights.codec_files import load_video_codec
    from .sizes import parse_size

    grid = Grid()
    multiple = grid.size_multiple
    fitting = (max(multiple, side // multiple * multiple) for side in (info.height, info.width))
    height, width = fitting if args.size is None else parse_size(args.size)
    spec = ClipSpec(frames=1, height=height, width=width, fps=args.fps, grid=grid)
    wanted = None if args.seconds is None else ClipSpec.nearest(args.seconds, height=height, width=width, fps=args.fps).frames
    read = read_video(args.file, fps=spec.fps, size=(height, width), start=args.start, frames=1 if still else wanted)
    frames = read.frames[:, :, : grid.frames(grid.latent_frames(read.frames.shape[2]))]
    if args.video_vae is not None:
        vae = load_video_codec(args.video_vae, runtime)
        given, frames = frames, vae.decode(vae.encode(frames))
        error = (frames - given).square().mean().clamp(min=1e-12) / 4
        print(f"pictures: {frames.shape[2]} of {width} x {height}, PSNR {-10 * error.log10():.2f} dB")
    return Video(frames, spec.fps)


def _audio(args: argparse.Namespace, runtime: Runtime, video: Video | None) -> Audio:
    """The sound of the clip, as long as its pictures where it has some, through the codec where its weights are given."""
    from ..geometry import Grid
    from ..media import read_audio, to_mono
    from ..weights.codec_files import load_sound_codec

    seconds = video.seconds if video is not None else args.seconds
    audio = to_mono(
        read_audio(
            args.file,
            sample_rate=Grid().sample_rate,
            start=args.start,
            seconds=seconds,
            short="refuse" if video is None else "hold",
        )
    )
    if args.audio_codec is None:
        return audio
    codec = load_sound_codec(args.audio_codec, runtime, vocoder=args.vocoder, preset=args.audio_preset)
    print(f"sound: {audio.seconds:.3f} s")
    return codec.decode(codec.encode(audio), samples=audio.waveform.shape[2])

"""From the options of ``harmony generate`` to a request: everything is checked and read before the model is loaded."""

from __future__ import annotations

import argparse
import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ..codecs.audio import resample
from ..config import SymbolEncoderConfig
from ..encoders.symbols import to_symbols
from ..flow import adjust_times, shifted_schedule
from ..geometry import ClipSpec
from ..guidance import Guidance, SyncText, sync_guidance, text_guidance
from ..media import probe, read_audio, read_image, read_video, to_mono
from ..pipeline import Request, Schedule, check_voice
from ..runtime import usable_device
from ..sampling import sampler
from ..types import AV, Audio, Video
from ..weights.builtin import resolve
from ..weights.inspect import Description, inspect
from ..weights.trained import usual_clip
from .clip_files import ClipFiles
from .sizes import parse_size

LONGEST_VOICE = 3.0
"""Seconds of a reference that are used: as long as those the papers train with."""
_NOTED = 0.5e-3  # seconds by which a clip may differ from what was asked without a word
_LONGEST, _FASTEST = 600.0, 1000.0  # seconds, as much as media reads; pictures a second
_LARGEST_SEED, _MOST_CLIPS, _MOST_THREADS = 1 << 62, 1000, 1024
_WORLD_SIZE = (64, 64)

Note = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All that a run needs but the model.

    Attributes:
        checkpoint: the file.
        device: to compute on.
        request: the clip to make.
        guidance: how it is guided.
        schedule: how it is sampled.
        files: where each clip goes.
        marked: whether impacts are marked on the sheets: the checkpoint knows the small world.
    """

    checkpoint: Path
    device: torch.device
    request: Request
    guidance: Guidance
    schedule: Schedule
    files: tuple[ClipFiles, ...]
    marked: bool


def check_options(args: argparse.Namespace) -> None:
    """Refuse options that are wrong by themselves or beside others.

    Raises:
        ValueError: one is; the message names it.
    """
    if args.out.suffix.lower() != ".mp4":
        raise ValueError(f"--out is a name ending in .mp4, got {args.out}")
    if args.save_latents is not None and args.save_latents.suffix != ".safetensors":
        raise ValueError(f"--save-latents is a name ending in .safetensors, got {args.save_latents}")
    for option, value, least, most in (
        ("count", args.count, 1, _MOST_CLIPS),
        ("seed", args.seed, 0, _LARGEST_SEED),
        ("threads", args.threads, 1, _MOST_THREADS),
    ):
        if value is not None and not least <= value <= most:
            raise ValueError(f"--{option} is a whole number from {least} to {most}, got {value}")
    for option, number, limit in (("seconds", args.seconds, _LONGEST), ("fps", args.fps, _FASTEST)):
        if number is not None and not 0 < number <= limit:
            raise ValueError(f"--{option} is a positive number up to {limit:g}, got {number:g}")
    if args.audio is not None and args.video is not None:
        raise ValueError("--audio makes pictures for a sound and --video a sound for pictures: give one of them")
    if args.video is not None and args.image is not None:
        raise ValueError("--video gives all pictures: leave --image out")
    if args.say is not None and not args.say.strip():
        raise ValueError("--say is empty: give what is said, or leave it out")
    if args.start is not None and args.audio is None and args.video is None:
        raise ValueError("--start is a time in --audio or --video: give one of them")
    if args.start is not None and not (math.isfinite(args.start) and args.start >= 0):
        raise ValueError(f"--start is a number of seconds from 0 on, got {args.start}")
    _size(args)
    _schedule(args)
    _guidance(args)


def plan(args: argparse.Namespace, *, note: Note) -> Plan:
    """Read what is given and make a request of it.

    Args:
        args: options that :func:`check_options` let pass.
        note: told what was chosen for the user.

    Raises:
        ValueError: a file cannot be read or written, or something does not fit the checkpoint.
    """
    device = usable_device(args.device)
    files = _files(args)
    found = _checkpoint(args)
    request = _request(args, found, note)
    return Plan(
        checkpoint=found.path,
        device=device,
        request=request,
        guidance=_guidance(args),
        schedule=_schedule(args),
        files=files,
        marked=_knows_world(found),
    )


def _size(args: argparse.Namespace) -> tuple[int, int] | None:
    """Height and width."""
    return None if args.size is None else parse_size(args.size)


def _schedule(args: argparse.Namespace) -> Schedule:
    adjust_times(shifted_schedule(args.steps, shift=args.shift), gamma=args.gamma)
    sampler(args.sampler)
    return Schedule(steps=args.steps, shift=args.shift, gamma=args.gamma, sampler=args.sampler)


def _guidance(args: argparse.Namespace) -> Guidance:
    sync, text = AV(args.sync_video, args.sync_audio), AV(args.text_video, args.text_audio)
    by_text = any(scale != 1 for scale in text)
    mode: SyncText = args.sync_text or ("additive" if by_text else "same")
    if mode == "additive" and not by_text:
        raise ValueError("--sync-text additive needs --text-video or --text-audio, the scales of the text guidance")
    if any(t.strip() for t in (args.negative, args.negative_sound)) and not by_text and mode != "null":
        raise ValueError("--negative is for guidance by the text: give --text-video or --text-audio too")
    both = sync_guidance(sync, text=mode, text_scale=text)
    if all(scale == 1 for scale in sync):  # its anchors need not be made then
        return text_guidance(text) if by_text else Guidance()
    return both


def _files(args: argparse.Namespace) -> tuple[ClipFiles, ...]:
    """The names of what is written: in folders that are there, and not those of what is read."""
    numbers = [None] if args.count == 1 else range(args.count)
    files = tuple(
        ClipFiles.named(args.out, number=number, sound_map=args.sound_map, latents=args.save_latents) for number in numbers
    )
    for folder in {path.parent for path in files[0].all()}:
        _check_folder(folder)
    given = [path for path in (args.voice, args.image, args.audio, args.video) if path is not None]
    read = {path.resolve(): path for path in given}
    for path in (path for one in files for path in one.all()):
        if path.resolve() in read:
            raise ValueError(f"{path} would be written over, which is also read: give another name to --out")
        if path.exists() and not path.is_file():
            raise ValueError(f"cannot write {path}: it exists and is not a file")
    return files


def _check_folder(folder: Path) -> None:
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise ValueError(f"cannot write to the folder {folder}: {error.strerror or error}") from error


def _checkpoint(args: argparse.Namespace) -> Description:
    """What the checkpoint is, if it can do what is asked."""
    path = resolve(args.checkpoint)
    found = inspect(path)
    config = found.config
    if config is None:
        raise ValueError(f"{path} cannot generate clips, it is {found.what}")
    if found.codecs.video is None or found.codecs.audio is None:
        raise ValueError(f"{path} lacks codecs, it is {found.what}; give an all-in-one checkpoint")
    if args.say is not None and config.speech is None:
        raise ValueError(f"{path} has no transcript encoder: leave --say out")
    if args.sound_map and config.interaction.kind != "frame_wise":
        raise ValueError(
            f"{path} has no frame-wise attention, which --sound-map shows: its interaction is {config.interaction.kind}"
        )
    captions = {
        "the caption": args.caption,
        "--sound": args.sound,
        "--negative": args.negative,
        "--negative-sound": args.negative_sound,
    }
    for option, text in captions.items():
        if not text.strip():
            continue
        if config.caption is None:
            raise ValueError(f"{path} has no caption encoder of its own, and umT5 is not run here: leave {option} out")
        _check_text(option, text, config.caption)
    if args.say is not None and config.speech is not None:
        _check_text("--say", args.say, config.speech)
    return found


def _check_text(option: str, text: str, encoder: SymbolEncoderConfig) -> None:
    try:
        to_symbols([text], encoder)
    except UnicodeEncodeError as error:
        raise ValueError(f"{option} holds a character that is no text: {text!r}") from error
    except ValueError as error:
        raise ValueError(f"{option}: {error}") from error


def _trained(found: Description) -> ClipSpec:
    assert found.config is not None
    return found.clip or usual_clip(found.config)


def _knows_world(found: Description) -> bool:
    trained = _trained(found)
    return found.config is not None and found.config.caption is not None and (trained.height, trained.width) == _WORLD_SIZE


def _request(args: argparse.Namespace, found: Description, note: Note) -> Request:
    trained = _trained(found)
    height, width = _size(args) or (trained.height, trained.width)
    wanted = ClipSpec.nearest(
        args.seconds or trained.seconds, height=height, width=width, fps=args.fps or trained.fps, grid=trained.grid
    )
    voice = None if args.voice is None else _voice(args.voice, trained.grid.sample_rate)
    image = None if args.image is None else read_image(args.image, size=(height, width))
    drive = _drive(args, wanted)
    spec = wanted if drive is None else _as_long(wanted, drive, args)
    _tell_length(spec, wanted, trained, args, note)
    return Request(
        spec=spec,
        video_caption=args.caption,
        audio_caption=args.sound,
        transcript=args.say or "",
        voice=voice,
        image=image,
        drive=drive,
        negative=AV(args.negative, args.negative_sound),
    )


def _voice(path: Path, sample_rate: int) -> Audio:
    """The reference, mono at the codec's rate; judged before that, as resampling hides what is clipped."""
    heard = _sound(path, 0.0, LONGEST_VOICE)
    try:
        check_voice(heard)
    except ValueError as error:
        raise ValueError(f"--voice {path}: {error}") from error
    return resample(to_mono(heard), sample_rate)


def _sound(path: Path, start: float, seconds: float) -> Audio:
    """So much of a sound, or all there is from ``start`` on, with its own rate and channels."""
    try:
        return read_audio(path, start=start, seconds=seconds)
    except ValueError:  # too short; whatever else is wrong is found again
        return read_audio(path, start=start)


def _pictures(path: Path, wanted: ClipSpec, start: float) -> Video:
    """The pictures of a clip, or all there are from ``start`` on."""
    if probe(path).still:
        raise ValueError(f"{path} is a photograph: give it as --image")
    size = (wanted.height, wanted.width)
    try:
        return read_video(path, fps=wanted.fps, size=size, start=start, frames=wanted.frames)
    except ValueError:  # as above
        return read_video(path, fps=wanted.fps, size=size, start=start)


def _drive(args: argparse.Namespace, wanted: ClipSpec) -> Video | Audio | None:
    start = args.start or 0.0
    if args.audio is not None:
        return _sound(args.audio, start, wanted.seconds)
    return None if args.video is None else _pictures(args.video, wanted, start)


def _as_long(wanted: ClipSpec, drive: Video | Audio, args: argparse.Namespace) -> ClipSpec:
    """The clip that is wanted, or the longest that its driver fills.

    Raises:
        ValueError: the driver is shorter than the length the user named, or than a picture.
    """
    slack = 0.5 / wanted.fps
    if drive.seconds >= wanted.seconds - slack:
        return wanted
    path, whole = (args.audio, "sound") if isinstance(drive, Audio) else (args.video, "video")
    from_there = f" from {args.start:g} s on" if args.start else ""
    lasts = f"the {whole} of {path} lasts {drive.seconds:.2f} s{from_there}"
    if args.seconds is not None and drive.seconds < args.seconds - slack:
        raise ValueError(f"{lasts}, the clip {args.seconds:g} s: make the clip shorter, or leave --seconds out")
    frames = math.floor(drive.seconds * wanted.fps + 1e-6)
    if frames < 1:
        raise ValueError(f"{lasts}, less than a picture")
    return replace(wanted, frames=wanted.grid.frames(wanted.grid.latent_frames(frames)))


def _tell_length(spec: ClipSpec, wanted: ClipSpec, trained: ClipSpec, args: argparse.Namespace, note: Note) -> None:
    """Say what length was chosen, and where the checkpoint leaves what it was trained for."""
    lasts = f"the clip lasts {spec.seconds:.3f} s ({spec.frames} frame{'s' * (spec.frames > 1)})"
    driver = "sound" if args.audio is not None else "video" if args.video is not None else None
    if spec != wanted:
        note(f"{lasts}, the longest that fits the {driver}")
    elif args.seconds is not None and abs(spec.seconds - args.seconds) > _NOTED:
        note(f"{lasts}, the nearest to {args.seconds:g} s that fits")
    elif args.seconds is None and driver is not None:
        note(f"{lasts}, as the checkpoint was trained for")
    longer = spec.seconds > trained.seconds + 0.5 / trained.fps
    if longer or (spec.height, spec.width, spec.fps) != (trained.height, trained.width, trained.fps):
        size = f"{trained.width} x {trained.height} at {trained.fps:g} fps for {trained.seconds:.2f} s"
        note(f"the checkpoint was trained on clips of {size}; others may come out worse")

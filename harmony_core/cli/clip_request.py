"""From the options of ``harmony generate`` to a request: everything is checked and read before the model is loaded."""

from __future__ import annotations

import argparse
import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import torch

from ..atomic import check_target
from ..audio_ops import resample
from ..config import HarmonyConfig, SymbolEncoderConfig
from ..encoders.spelling import spell
from ..encoders.symbols import to_symbols
from ..flow import adjust_times, shifted_schedule
from ..geometry import ClipSpec
from ..guidance import Guidance, SyncText, sync_guidance, text_guidance
from ..inputs import exists, is_file, named
from ..media import probe, read_audio, read_image, read_video, to_mono
from ..pipeline import Request, check_voice, is_silent, texts_of
from ..recipes import RECIPES, Recipe, recipe_for
from ..records import is_text
from ..runtime import usable_device
from ..sample import Schedule
from ..sampling import sampler
from ..shown import shown
from ..types import AV, Audio, Video
from ..weights.builtin import resolve
from ..weights.inspect import Description, inspect
from ..weights.ovi import OviFiles, trained_on
from ..weights.trained import usual_clip
from .clip_files import ClipFiles
from .lora_options import Loras, parse_lora, read_loras
from .numbers import LARGEST_SEED, LONGEST_START, check_length, check_number, check_threads, check_whole
from .sizes import parse_size

LONGEST_VOICE = 3.0
"""Seconds of a reference that are used: as long as those the papers train with."""
_NOTED = 0.5e-3  # seconds by which a clip may differ from what was asked without a word
_MOST_CLIPS = 1000
_LONGEST_TEXT = 10_000  # characters, some minutes of reading
_WORLD_SIZE = (64, 64)

_PARTS = ("audio_checkpoint", "text_encoder", "video_vae", "audio_vae", "vocoder")

Note = Callable[[str], None]
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All that a run needs but the model.

    Attributes:
        checkpoint: the file.
        device: to compute on.
        request: the clip to make.
        guidance: how it is guided.
        schedule: how it is sampled.
        loras: for the checkpoint's model, each with its strength.
        texts: what an encoder of captions outside of the model is asked for.
        files: where each clip goes.
        marked: whether impacts are marked on the sheets: the checkpoint knows the small world.
    """

    checkpoint: Path
    device: torch.device
    request: Request
    guidance: Guidance
    schedule: Schedule
    loras: Loras
    texts: frozenset[str]
    files: tuple[ClipFiles, ...]
    marked: bool


def check_options(args: argparse.Namespace) -> None:
    """Refuse options that are wrong by themselves or beside others.

    Raises:
        ValueError: one is; the message names it.
    """
    if args.out.suffix.lower() != ".mp4":
        raise ValueError(f"--out is a name ending in .mp4, got {named(args.out)}")
    if args.save_latents is not None and args.save_latents.suffix != ".safetensors":
        raise ValueError(f"--save-latents is a name ending in .safetensors, got {named(args.save_latents)}")
    check_whole("count", args.count, 1, _MOST_CLIPS)
    check_whole("seed", args.seed, 0, LARGEST_SEED)
    check_threads(args.threads)
    check_length(args.seconds, args.fps)
    if args.audio is not None and args.video is not None:
        raise ValueError("--audio makes pictures for a sound and --video a sound for pictures: give one of them")
    if args.video is not None and args.image is not None:
        raise ValueError("--video gives all pictures: leave --image out")
    if args.say is not None and not args.say.strip():
        raise ValueError("--say is empty: give what is said, or leave it out")
    if args.start is not None and args.audio is None and args.video is None:
        raise ValueError("--start is a time in --audio or --video: give one of them")
    check_number("start", args.start, 0, LONGEST_START)
    for option in ("caption", "sound", "say", "negative", "negative_sound"):
        _check_readable(option, getattr(args, option))
    for text in args.lora:
        parse_lora(text)
    _size(args)
    _check_numbers(args)


def _check_readable(option: str, text: str | None) -> None:
    name = "the caption" if option == "caption" else f"--{option.replace('_', '-')}"
    if text is not None and not is_text(text):
        raise ValueError(f"{name} holds a character that is no text: '{shown(text, 60)}'")
    if text is not None and len(text) > _LONGEST_TEXT:
        raise ValueError(f"{name} has at most {_LONGEST_TEXT:,} characters, got {len(text):,}")


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
    _check_parts(args)
    found = _checkpoint(args, note)
    assert found.config is not None
    recipe = RECIPES[args.recipe or recipe_for(found.config)]
    schedule, guidance = _schedule(args, recipe), _guidance(args, recipe)
    _check_skipped(guidance, found.config)
    loras = read_loras(args.lora, found.config, note)
    request = _request(args, found, recipe, note)
    return Plan(
        checkpoint=found.path,
        device=device,
        request=request,
        guidance=guidance,
        schedule=schedule,
        loras=loras,
        texts=frozenset() if found.config.caption else frozenset(texts_of(request, found.config)),
        files=files,
        marked=_knows_world(found),
    )


def _size(args: argparse.Namespace) -> tuple[int, int] | None:
    """Height and width."""
    return None if args.size is None else parse_size(args.size)


def _check_parts(args: argparse.Namespace) -> None:
    """Refuse files of parts that are not there, before anything is read."""
    for option in _PARTS:
        path = getattr(args, option)
        if path is not None and not exists(path):
            raise ValueError(f"--{option.replace('_', '-')}: there is no file {named(path)}")
    if args.vocoder is not None and args.audio_vae is None:
        raise ValueError("--vocoder belongs to --audio-vae: give that too")


def _check_numbers(args: argparse.Namespace) -> None:
    """Refuse numbers of sampling that do for no recipe: which one it is, the checkpoint says."""
    recipes = RECIPES.values() if args.recipe is None else [RECIPES[args.recipe]]
    refusals = [_refusal(args, recipe) for recipe in recipes]
    if refusals[0] is not None and None not in refusals:
        raise refusals[0]


def _refusal(args: argparse.Namespace, recipe: Recipe) -> ValueError | None:
    try:
        _schedule(args, recipe)
        _guidance(args, recipe)
    except ValueError as error:
        return error
    return None


def _schedule(args: argparse.Namespace, recipe: Recipe) -> Schedule:
    schedule = Schedule(
        steps=_given(args.steps, recipe.steps),
        shift=_given(args.shift, recipe.shift),
        gamma=args.gamma,
        sampler=_given(args.sampler, recipe.sampler),
    )
    adjust_times(shifted_schedule(schedule.steps, shift=schedule.shift), gamma=schedule.gamma)
    sampler(schedule.sampler)
    return schedule


def _guidance(args: argparse.Namespace, recipe: Recipe) -> Guidance:
    sync = AV(args.sync_video, args.sync_audio).map(_given, recipe.sync)
    text = AV(args.text_video, args.text_audio).map(_given, recipe.text)
    skip = recipe.skip_layers if args.skip_layers is None else _layers(args.skip_layers)
    by_text = any(scale != 1 for scale in text)
    if args.sync_text == "null" and args.text_video is None and args.text_audio is None:
        text, by_text = AV(1.0, 1.0), False  # which guides by the text already
    mode: SyncText = args.sync_text or ("additive" if by_text else "same")
    if mode == "additive" and not by_text:
        raise ValueError("--sync-text additive needs --text-video or --text-audio, the scales of the text guidance")
    if not by_text and mode != "null":
        if any((t or "").strip() for t in (args.negative, args.negative_sound)):
            raise ValueError("--negative is for guidance by the text: give --text-video or --text-audio too")
        if args.skip_layers:
            raise ValueError("--skip-layers is for guidance by the text: give --text-video or --text-audio too")
    both = sync_guidance(sync, text=mode, text_scale=text, skip_layers=skip)
    if all(scale == 1 for scale in sync):  # its anchors need not be made then
        return text_guidance(text, skip_layers=skip) if by_text else Guidance()
    return both


def _layers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(word) for word in text.split(",") if word.strip())
    except ValueError as error:
        raise ValueError(
            f"--skip-layers is numbers such as 11 or 9,11, or nothing for none, got '{shown(text, 60)}'"
        ) from error


def _check_skipped(guidance: Guidance, config: HarmonyConfig) -> None:
    layers = config.video.layers
    skipped = sorted({layer for one in guidance.guides for layer in one.anchor.skip_layers})
    if any(not 0 <= layer < layers for layer in skipped):
        listed = shown(", ".join(map(str, skipped)))
        raise ValueError(f"--skip-layers of this checkpoint are 0 to {layers - 1}, got {listed}")


def _given(value: T | None, default: T) -> T:
    return default if value is None else value


def _files(args: argparse.Namespace) -> tuple[ClipFiles, ...]:
    """The names of what is written: in folders that are there, and not those of what is read."""
    numbers = [None] if args.count == 1 else range(args.count)
    files = tuple(
        ClipFiles.named(args.out, number=number, sound_map=args.sound_map, latents=args.save_latents) for number in numbers
    )
    for folder in dict.fromkeys(path.parent for path in files[0].all()):
        _check_folder(folder)
    given = [path for path in (args.voice, args.image, args.audio, args.video) if path is not None]
    given += [parse_lora(text)[0] for text in args.lora]
    given += [Path(args.checkpoint), *(path for option in _PARTS if (path := getattr(args, option)) is not None)]
    read = {path.resolve(): path for path in given}
    for path in (path for one in files for path in one.all()):
        if path.resolve() in read:
            raise ValueError(f"{named(path)} would be written over, which is also read: give another name to --out")
        check_target(path)
        if exists(path) and not is_file(path):
            raise ValueError(f"cannot write {named(path)}: it exists and is not a file")
    return files


def _check_folder(folder: Path) -> None:
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise ValueError(f"cannot write to the folder {named(folder)}: {error.strerror or error}") from error


def _checkpoint(args: argparse.Namespace, note: Note) -> Description:
    """What the checkpoint is, if it can do what is asked."""
    path = resolve(args.checkpoint)
    found = inspect(path)
    if found.kind == "ovi":
        found = _ovi(args, found, note)
    elif args.audio_checkpoint is not None or args.ovi_size is not None:
        raise ValueError(f"--audio-checkpoint and --ovi-size are for Ovi, {named(path)} is {found.what}")
    shard = next((note for note in found.notes if "one of several shards" in note), None)
    if shard is not None:
        raise ValueError(f"{named(path)}: {shard}")
    config = found.config
    if config is None:
        raise ValueError(f"{named(path)} cannot generate clips, it is {found.what}")
    carried = found.codecs
    if (carried.video or args.video_vae) is None or (carried.audio or args.audio_vae) is None:
        raise ValueError(
            f"{named(path)} lacks codecs, it is {found.what}; give an all-in-one checkpoint, or --video-vae and --audio-vae"
        )
    if args.say is not None and config.speech is None and not config.one_prompt:
        raise ValueError(f"{named(path)} has no transcript encoder: leave --say out")
    if args.voice is not None and config.one_prompt:
        raise ValueError(f"{named(path)} takes no reference voice: leave --voice out")
    if args.sound_map and config.interaction.kind != "frame_wise":
        raise ValueError(
            f"{named(path)} has no frame-wise attention, which --sound-map shows: its interaction is {config.interaction.kind}"
        )
    _check_texts(args, config, path)
    return found


def _ovi(args: argparse.Namespace, found: Description, note: Note) -> Description:
    """Ovi's files with their config, which no metadata says."""
    files = OviFiles(found.path, args.audio_checkpoint)
    size = files.which(args.ovi_size)
    if args.ovi_size is None:
        note(f"{found.path.name} is taken for Ovi's model {size}, by its name (else say --ovi-size)")
    config = files.config(size)
    return replace(found, config=config, clip=trained_on(size, config))


def _check_texts(args: argparse.Namespace, config: HarmonyConfig, path: Path) -> None:
    """Refuse texts the checkpoint cannot be told, or no encoder for those it can."""
    captions = {
        "the caption": args.caption,
        "--sound": args.sound,
        "--negative": args.negative or "",
        "--negative-sound": args.negative_sound or "",
    }
    if config.caption is not None:
        if args.text_encoder is not None:
            raise ValueError(f"{named(path)} has a caption encoder of its own: leave --text-encoder out")
        for option, text in captions.items():
            if text.strip():
                _check_text(option, text, config.caption)
    elif args.text_encoder is None:
        if config.one_prompt:
            raise ValueError(f"{named(path)} is told by umT5: give its folder or file with --text-encoder")
        given = [option for option, text in captions.items() if text.strip()]
        if given:
            raise ValueError(
                f"{named(path)} has no caption encoder of its own: give umT5 with --text-encoder, or leave {given[0]} out"
            )
    if args.say is not None and config.speech is not None:
        _check_text("--say", _spelled(args, config), config.speech)


def _spelled(args: argparse.Namespace, config: HarmonyConfig) -> str:
    """The transcript in the letters of the checkpoint's encoder; as it is for a model of one prompt."""
    if args.say is None or config.speech is None:
        return args.say or ""
    try:
        return spell(args.say, args.language, config.speech)
    except ValueError as error:
        raise ValueError(f"--say: {error}") from error


def _check_text(option: str, text: str, encoder: SymbolEncoderConfig) -> None:
    try:
        to_symbols([text], encoder)
    except ValueError as error:
        raise ValueError(f"{option}: {error}") from error


def _trained(found: Description) -> ClipSpec:
    assert found.config is not None
    return found.clip or usual_clip(found.config)


def _knows_world(found: Description) -> bool:
    trained = _trained(found)
    return found.config is not None and found.config.caption is not None and (trained.height, trained.width) == _WORLD_SIZE


def _request(args: argparse.Namespace, found: Description, recipe: Recipe, note: Note) -> Request:
    trained = _trained(found)
    assert found.config is not None
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
        transcript=_spelled(args, found.config),
        voice=voice,
        image=image,
        drive=drive,
        negative=AV(args.negative, args.negative_sound).map(_given, recipe.negative),
    )


def _voice(path: Path, sample_rate: int) -> Audio:
    """The reference, mono at the codec's rate; judged before that, as resampling hides what is clipped."""
    heard = _sound(path, 0.0, LONGEST_VOICE)
    try:
        check_voice(heard)
    except ValueError as error:
        raise ValueError(f"--voice {named(path)}: {error}") from error
    mono = to_mono(heard)
    if is_silent(mono):
        raise ValueError(
            f"--voice {named(path)}: its channels cancel each other, one is the other upside down; give one of them"
        )
    return resample(mono, sample_rate)


def _sound(path: Path, start: float, seconds: float) -> Audio:
    """So much of a sound, or all there is from ``start`` on, with its own rate and channels."""
    try:
        return read_audio(path, start=start, seconds=seconds)
    except ValueError:  # too short; whatever else is wrong is found again
        return read_audio(path, start=start)


def _pictures(path: Path, wanted: ClipSpec, start: float) -> Video:
    """The pictures of a clip, or all there are from ``start`` on."""
    if probe(path).still:
        raise ValueError(f"{named(path)} is a photograph: give it as --image")
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

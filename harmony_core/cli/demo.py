"""Four clips from the built-in checkpoint, one a task: a face that talks, a ball that bounces, pictures for a sound, a sound
for pictures. Says where they are and how well picture and sound of each belong together.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..inputs import named
from ..recipes import HARMONY
from .numbers import LARGEST_SEED, check_threads, check_whole

if TYPE_CHECKING:
    from ..geometry import ClipSpec
    from ..pipeline import Clip, Request
    from ..world.judges import Judges

SUMMARY = "generate four clips with the built-in checkpoint and measure their sync"


@dataclass(frozen=True, kw_only=True)
class Example:
    """One clip of the demo.

    Attributes:
        name: of its files.
        what: it shows.
        request: it is made from.
        talks: a face, not a ball.
        sync: scales of SyncCFG for pictures and sound; balls smear at those that suit faces.
    """

    name: str
    what: str
    request: Request
    talks: bool
    sync: tuple[float, float] = (3.0, 2.0)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where to, and how."""
    parser.add_argument(
        "--out", type=Path, default=Path("out/demo"), metavar="DIR", help="folder to write to (default: %(default)s)"
    )
    parser.add_argument("--steps", type=int, default=HARMONY.steps, metavar="N", help="sampling steps (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="another one gives other clips (default: 0)")
    parser.add_argument("--threads", type=int, metavar="N", help="of the CPU (default: torch's choice)")


def run(args: argparse.Namespace) -> None:
    """Generate, write, measure, print.

    Raises:
        ValueError: an option is wrong, the folder cannot be written, or the installation lacks the built-in weights.
    """
    import torch

    from ..flow import MOST_STEPS
    from ..guidance import sync_guidance
    from ..pipeline import Pipeline, generate
    from ..sample import Schedule
    from ..types import AV
    from ..weights.builtin import judges, resolve
    from ..weights.trained import usual_clip
    from ..world.judges import Judges
    from .clip_files import ClipFiles, write_clip
    from .progress_line import ProgressLine

    check_whole("steps", args.steps, 1, MOST_STEPS)
    check_whole("seed", args.seed, 0, LARGEST_SEED - 1)
    check_threads(args.threads)
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    pipeline, judging = Pipeline.load(resolve("harmony-tiny")), Judges.load(judges())
    spec = usual_clip(pipeline.model.config)
    wanted = _examples(spec)
    try:
        args.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"cannot make the folder {named(args.out)}: {error.strerror or error}") from error
    began = time.monotonic()
    for example in wanted:
        guidance = None if example.request.drive is not None else sync_guidance(AV(*example.sync))
        with ProgressLine(example.name) as line:
            clip = generate(
                pipeline,
                example.request,
                seeds=[args.seed],
                guidance=guidance,
                schedule=Schedule(steps=args.steps),
                on_step=lambda step: line(step.index + 1, step.steps),
            )
        files = ClipFiles.named(args.out / f"{example.name}.mp4", number=None, sound_map=False, latents=None)
        write_clip(files, clip, spec, maps=None, marked=not example.talks)
        print(f"{files.video}: {example.what}\n    {_sync(clip, judging, talks=example.talks)}", flush=True)
    print(f"generated in {time.monotonic() - began:.0f} s; beside each clip is its contact sheet, of the same name, as .png")


def _examples(spec: ClipSpec) -> list[Example]:
    from ..media import read_audio, read_video
    from ..pipeline import Request
    from ..weights.builtin import ASSETS

    folder = ASSETS / "demo"
    voice, speech = (read_audio(folder / name) for name in ("voice.wav", "speech.wav"))
    pictures = read_video(folder / "bouncing.mp4", fps=spec.fps, size=(spec.height, spec.width), frames=spec.frames)
    talk = Request(
        spec=spec,
        video_caption="a tan face with long brown hair, talking",
        audio_caption="somebody speaks",
        transcript="hello baby",
        voice=voice,
    )
    impact = Request(spec=spec, video_caption="a blue ball bouncing in a room", audio_caption="low knocks of wood")
    driven = Request(spec=spec, video_caption="a pale face with short black hair, talking", drive=speech)
    sounded = Request(spec=spec, audio_caption="bright pings of glass", drive=pictures)
    return [
        Example(name="talk", what="a face says what it was given, in a voice it was given", request=talk, talks=True),
        Example(
            name="impact",
            what="a ball bounces, picture and sound generated together",
            request=impact,
            talks=False,
            sync=(1.5, 1.5),
        ),
        Example(name="audio-driven", what="a face moves to a recording", request=driven, talks=True),
        Example(name="video-driven", what="a video gets its sound", request=sounded, talks=False),
    ]


def _sync(clip: Clip, judges: Judges, *, talks: bool) -> str:
    """How well picture and sound belong together, in words."""
    from ..audio_ops import resample
    from ..measure.matching import match
    from ..media import to_mono
    from ..world.clip import SAMPLE_RATE
    from ..world.metrics import listen, look, sync

    fps = clip.video.fps
    wave = resample(to_mono(clip.audio), SAMPLE_RATE).waveform[0]
    seen, heard = look(clip.video.frames[0], fps, judges), listen(wave, clip.video.frames.shape[2], fps, judges)
    if talks:
        agree, what = match(seen.releases, heard.releases, 2 / fps), "openings of the mouth"
    else:
        agree, what = match(seen.impacts.times, heard.impacts.times, 2 / fps), "impacts"
    found = f"{what}: {agree.first} seen, {agree.second} heard, {len(agree.pairs)} of them within two pictures of each other"
    if not talks:
        return found
    confidence, _, offset = sync(seen.embedding, heard.embedding)
    return f"{found}; Sync-C {confidence:.2f}, offset {offset:+.0f} pictures"

"""Generate a clip, video and sound together: from words, a voice and a first picture, or for a sound or a video that is given.

The caption says what is seen. The sound follows the picture, and is told in words of its own with --sound: models are trained
on two captions, such as "a blue ball bouncing in a room" and "low knocks of wood", and know no other kind for the sound. Where
--sound is missing the sound is told nothing, which they know too.

Beside CLIP.mp4 a contact sheet is written, CLIP.png: pictures over the waveform over marks at impacts, those seen above those
heard, where the model knows the small world.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..pipeline import Clip, Pipeline
    from .clip_request import Plan

SUMMARY = "generate a clip from words, a voice, pictures or sound"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the clip is made of, what it is like, and how it is made."""
    _add_contents(parser)
    _add_shape(parser)
    _add_sampling(parser)
    parser.add_argument(
        "--checkpoint",
        default="harmony-tiny",
        metavar="FILE",
        help="all-in-one checkpoint, or a built-in one (default: %(default)s)",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="CLIP.mp4", help="the file to write")
    parser.add_argument("--save-latents", type=Path, metavar="FILE", help="write the latents too, to a .safetensors file")
    parser.add_argument(
        "--sound-map", action="store_true", help="write CLIP.map.png too: where in the picture the sound is from"
    )
    parser.add_argument("--device", default="cpu", help="torch device, such as cpu or cuda (default: cpu)")
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16", "float16"), help="to compute the model in (default: the checkpoint's)"
    )
    parser.add_argument("--threads", type=int, metavar="N", help="of the CPU (default: torch's choice)")


def _add_contents(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("caption", nargs="?", default="", help="what is seen; empty for anything")
    parser.add_argument(
        "--sound", default="", metavar="TEXT", help="what is heard, speech aside (default: whatever goes with it)"
    )
    parser.add_argument("--say", metavar="TEXT", help="what is said")
    parser.add_argument(
        "--voice",
        type=Path,
        metavar="FILE",
        help="a sound file whose voice to speak with, from 0.3 s on; its first 3 s are used",
    )
    parser.add_argument("--image", type=Path, metavar="FILE", help="the first picture")
    parser.add_argument("--audio", type=Path, metavar="FILE", help="a sound to make pictures for; it is kept as it is")
    parser.add_argument("--video", type=Path, metavar="FILE", help="a video to make sound for; its pictures are kept")
    parser.add_argument("--start", type=float, metavar="S", help="seconds of --audio or --video to skip (default: 0)")
    parser.add_argument(
        "--negative", default="", metavar="TEXT", help="what is not to be seen; needs --text-video or --text-audio"
    )
    parser.add_argument("--negative-sound", default="", metavar="TEXT", help="what is not to be heard; likewise")


def _add_shape(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--seconds", type=float, metavar="S", help="length, to the nearest that fits (default: the checkpoint's, or a driver's)"
    )
    parser.add_argument("--size", metavar="WIDTHxHEIGHT", help="of the pictures (default: the checkpoint's)")
    parser.add_argument("--fps", type=float, help="pictures per second (default: the checkpoint's)")
    parser.add_argument("--seed", type=int, default=0, help="another one gives another clip (default: 0)")
    parser.add_argument(
        "--count", type=int, default=1, metavar="N", help="make N clips of following seeds, CLIP-0.mp4 and so on (default: 1)"
    )


def _add_sampling(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--steps", type=int, default=24, metavar="N", help="sampling steps (default: 24)")
    parser.add_argument("--shift", type=float, default=5.0, help="of the schedule towards noise (default: 5)")
    parser.add_argument("--sampler", default="unipc", help="euler, heun, dpmpp_2m or unipc (default: unipc)")
    parser.add_argument(
        "--gamma", type=float, default=1.0, help="above 1 the picture settles before the sound (default: 1, together)"
    )
    for name, default, what in (("video", 3.0, "picture to the sound"), ("audio", 2.0, "sound to the picture")):
        parser.add_argument(
            f"--sync-{name}",
            type=float,
            default=default,
            metavar="SCALE",
            help=f"SyncCFG: how strictly to keep the {what} (default: {default:g}; 1 is off)",
        )
    parser.add_argument(
        "--sync-text",
        choices=("same", "null", "additive"),
        help="SyncCFG's anchors know the text (same), or do not, which also guides by the text (null), or know it with text "
        "guidance beside them (additive); default: additive with --text-video or --text-audio, else same",
    )
    for name, what in (("video", "picture"), ("audio", "sound")):
        parser.add_argument(
            f"--text-{name}",
            type=float,
            default=1.0,
            metavar="SCALE",
            help=f"how strictly the {what} is to follow the text (default: 1, off; it costs a pass more)",
        )


def run(args: argparse.Namespace) -> None:
    """Check, read, generate, write.

    Raises:
        ValueError: an option is wrong or they do not fit each other, a file cannot be read or written, or the checkpoint
            cannot do what is asked.
    """
    from .clip_request import check_options, plan

    check_options(args)
    wanted = plan(args, note=_note)
    pipeline = _load(args, wanted)
    for number in range(args.count):
        clip, written = _make(args, wanted, pipeline, number)
        print(f"wrote {', '.join(map(str, written))}", flush=True)
    print(_passes(clip, args.steps))


def _load(args: argparse.Namespace, wanted: Plan) -> Pipeline:
    import torch

    from ..pipeline import Pipeline
    from ..runtime import Runtime

    if args.threads is not None:
        torch.set_num_threads(args.threads)
    dtype = None if args.dtype is None else getattr(torch, args.dtype)
    return Pipeline.load(wanted.checkpoint, runtime=Runtime(device=wanted.device, dtype=dtype))


def _make(args: argparse.Namespace, wanted: Plan, pipeline: Pipeline, number: int) -> tuple[Clip, list[Path]]:
    """One clip, made and written."""
    import torch

    from ..models.sound_map import SoundMapRecorder
    from ..pipeline import generate
    from .clip_files import write_clip
    from .progress_line import ProgressLine

    of = f"clip {number + 1} of {args.count}: " if args.count > 1 else ""
    recorder = SoundMapRecorder() if args.sound_map else None
    try:
        with ProgressLine(f"{of}sampling") as sampling, ProgressLine(f"{of}decoding") as decoding:
            clip = generate(
                pipeline,
                wanted.request,
                seeds=[args.seed + number],
                guidance=wanted.guidance,
                schedule=wanted.schedule,
                recorder=recorder,
                on_step=lambda step: sampling(step.index + 1, step.steps),
                on_decode=decoding,
            )
    except RuntimeError as error:
        # On a CPU torch has no exception of its own for this.
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        raise ValueError(f"not enough memory on {wanted.device} for this clip: make it shorter or smaller") from error
    maps = None if recorder is None else recorder.maps()[0]
    return clip, write_clip(wanted.files[number], clip, wanted.request.spec, maps=maps, marked=wanted.marked)


def _passes(clip: Clip, steps: int) -> str:
    """How often each branch was run, in words; what a driver needs is computed in the first evaluation alone."""
    first, last = clip.passes[0], clip.passes[-1]
    one = "step" if len(clip.passes) == steps else "evaluation"
    later = f"passes per {one}: video {last.video}, audio {last.audio}"
    return later if first == last else f"{later}; the first {one}: video {first.video}, audio {first.audio}"


def _note(text: str) -> None:
    print(f"note: {text}", file=sys.stderr)

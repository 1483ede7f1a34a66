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

from ..recipes import HARMONY, OVI
from .memory_options import add_memory, check_memory, saving_for

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from torch import Tensor

    from ..pipeline import Clip, Pipeline
    from .clip_request import Plan
    from .memory_options import Saving

SIZES = ("720x720_5s", "960x960_5s", "960x960_10s")
"""Of Ovi's models, as ``weights.ovi.SIZES``: parsing options imports no model code."""
LANGUAGES = ("automatic", "English", "Mandarin", "as written")
"""As ``encoders.spelling.LANGUAGES``, likewise."""
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
        help="all-in-one checkpoint, a model with its codecs beside it, or a built-in one (default: %(default)s)",
    )
    _add_parts(parser)
    parser.add_argument(
        "--lora",
        action="append",
        default=[],
        metavar="FILE[:STRENGTH]",
        help="a LoRA of Wan2.2-5B, for the video branch, or of the checkpoint; several add up (strength: 1)",
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
    add_memory(parser)
    parser.add_argument("--threads", type=int, metavar="N", help="of the CPU (default: torch's choice)")


def _add_parts(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--audio-checkpoint", type=Path, metavar="FILE", help="the audio tower of Ovi in two files")
    parser.add_argument(
        "--ovi-size", choices=SIZES, help="which of Ovi's models the checkpoint is (default: what its file's name says)"
    )
    parser.add_argument(
        "--text-encoder", type=Path, metavar="PATH", help="umT5, a folder or a file, for models without an encoder of captions"
    )
    parser.add_argument("--video-vae", type=Path, metavar="FILE", help="Wan2.2's video VAE (default: the checkpoint's)")
    parser.add_argument(
        "--audio-vae", type=Path, metavar="FILE", help="MMAudio's VAE, or a file with its vocoder (default: the checkpoint's)"
    )
    parser.add_argument("--vocoder", type=Path, metavar="FILE", help="the vocoder of --audio-vae")


def _add_contents(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("caption", nargs="?", default="", help="what is seen; empty for anything")
    parser.add_argument(
        "--sound", default="", metavar="TEXT", help="what is heard, speech aside (default: whatever goes with it)"
    )
    parser.add_argument("--say", metavar="TEXT", help="what is said; numbers in words, Mandarin in pinyin with tones")
    parser.add_argument(
        "--language",
        choices=LANGUAGES,
        default=LANGUAGES[0],
        help="what --say is spelled in (default: automatic, whichever it is)",
    )
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
        "--negative", metavar="TEXT", help="what is not to be seen; needs --text-video or --text-audio (default: the recipe's)"
    )
    parser.add_argument("--negative-sound", metavar="TEXT", help="what is not to be heard; likewise")


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
    parser.add_argument(
        "--recipe",
        choices=("harmony", "ovi"),
        help="whose numbers are the defaults of what follows (default: the checkpoint's: SyncCFG, or Ovi's 50 steps, text "
        "guidance at 4 and 3, layer 11 skipped, and its negative texts)",
    )
    parser.add_argument("--steps", type=int, metavar="N", help=f"sampling steps (default: {HARMONY.steps}; ovi: {OVI.steps})")
    parser.add_argument("--shift", type=float, help=f"of the schedule towards noise (default: {HARMONY.shift:g})")
    parser.add_argument("--sampler", help=f"euler, heun, dpmpp_2m or unipc (default: {HARMONY.sampler})")
    parser.add_argument(
        "--gamma", type=float, default=1.0, help="above 1 the picture settles before the sound (default: 1, together)"
    )
    sync, text = HARMONY.sync, OVI.text
    for name, default, what in (("video", sync.video, "picture to the sound"), ("audio", sync.audio, "sound to the picture")):
        parser.add_argument(
            f"--sync-{name}",
            type=float,
            metavar="SCALE",
            help=f"SyncCFG: how strictly to keep the {what} (default: {default:g}; ovi: 1, which is off)",
        )
    parser.add_argument(
        "--sync-text",
        choices=("same", "null", "additive"),
        help="SyncCFG's anchors know the text (same), or do not, which also guides by the text (null), or know it with text "
        "guidance beside them (additive); default: additive with --text-video or --text-audio, else same",
    )
    for name, default, what in (("video", text.video, "picture"), ("audio", text.audio, "sound")):
        parser.add_argument(
            f"--text-{name}",
            type=float,
            metavar="SCALE",
            help=f"how strictly the {what} is to follow the text (default: 1, off, it costs a pass more; ovi: {default:g})",
        )
    parser.add_argument(
        "--skip-layers",
        metavar="N,...",
        help="layers left out of passes without text, which makes what these layers do stronger (default: none; ovi: 11)",
    )


def run(args: argparse.Namespace) -> None:
    """Check, read, generate, write.

    Raises:
        ValueError: an option is wrong or they do not fit each other, a file cannot be read or written, or the checkpoint
            cannot do what is asked.
    """
    from .clip_request import check_options, plan

    check_options(args)
    check_memory(args)
    wanted = plan(args, note=_note)
    saving = saving_for(args, wanted, _note)
    pipeline = _load(args, wanted, saving)
    for number in range(args.count):
        clip, written = _make(args, wanted, pipeline, saving, number)
        print(f"wrote {', '.join(map(str, written))}", flush=True)
    print(_passes(clip, wanted.schedule.steps))


def _load(args: argparse.Namespace, wanted: Plan, saving: Saving) -> Pipeline:
    import torch

    from ..pipeline import Parts, Pipeline
    from ..runtime import Runtime
    from ..weights.lora import merge_loras

    if args.threads is not None:
        torch.set_num_threads(args.threads)
    dtype = None if args.dtype is None else getattr(torch, args.dtype)
    parts = Parts(
        audio_tower=args.audio_checkpoint,
        ovi_size=args.ovi_size,
        video_vae=args.video_vae,
        audio_vae=args.audio_vae,
        vocoder=args.vocoder,
        text=None if args.text_encoder is None else _encoded(args.text_encoder, wanted, dtype),
    )
    runtime = Runtime(device=wanted.device, dtype=dtype)
    pipeline = Pipeline.load(wanted.checkpoint, runtime=runtime, offload=saving.offload, tiling=saving.tiling, parts=parts)
    merge_loras(pipeline.model, wanted.loras)
    return pipeline


def _encoded(path: Path, wanted: Plan, dtype: torch.dtype | None) -> Callable[[str], Tensor]:
    """All texts of the run; the encoder, as large as a model, is gone before the model comes."""
    import torch

    from ..weights.umt5 import encode_texts

    exact = torch.float32 if dtype is torch.float32 else torch.bfloat16  # it overflows in float16
    return encode_texts(path, wanted.texts, device=wanted.device, dtype=exact).__getitem__


def _make(args: argparse.Namespace, wanted: Plan, pipeline: Pipeline, saving: Saving, number: int) -> tuple[Clip, list[Path]]:
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
                budget=saving.budget,
                recorder=recorder,
                on_step=lambda step: sampling(step.index + 1, step.steps),
                on_decode=decoding,
            )
    except RuntimeError as error:
        # On a CPU torch has no exception of its own for this.
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        hint = "" if saving.offload or wanted.device.type == "cpu" else ", or give --offload layers"
        raise ValueError(f"not enough memory on {wanted.device} for this clip: make it shorter or smaller{hint}") from error
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

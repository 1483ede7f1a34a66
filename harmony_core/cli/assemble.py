"""Put a start point for training together: the video branch of Wan2.2-TI2V-5B, the audio branch of Ovi, the rest new.

The interaction begins silent, so that at first each branch computes what it did alone. Memory does not grow with the files.
What comes out is trained with `harmony train`, as the config's init; see docs/checkpoints.md.
"""

from __future__ import annotations

import argparse
from pathlib import Path

SUMMARY = "put a model together of public weights, to train it"
DTYPES = ("bf16", "fp16", "fp32")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The parts and the file to write."""
    parser.add_argument(
        "--video", required=True, metavar="FILE", help="Wan2.2-TI2V-5B's transformer, or Ovi, whole or its video half"
    )
    parser.add_argument("--audio", required=True, metavar="FILE", help="Ovi, whole or its audio half")
    parser.add_argument("--out", required=True, metavar="FILE", type=Path, help="the .safetensors file to write")
    parser.add_argument("--dtype", default="bf16", choices=DTYPES, help="precision of all weights (default: bf16)")
    parser.add_argument("--seed", type=int, default=0, help="of what is new (default: 0)")
    parser.add_argument(
        "--no-transcripts", action="store_true", help="leave the transcript encoder out: speech is then told in captions alone"
    )


def run(args: argparse.Namespace) -> None:
    """Assemble, then say what was done.

    Raises:
        ValueError: a file cannot be read or written, or is of another model.
    """
    from ..weights.assemble import assemble
    from .progress_line import ProgressLine

    with ProgressLine("assembling") as line:
        done = assemble(
            args.video,
            args.audio,
            args.out,
            dtype=args.dtype,
            seed=args.seed,
            transcripts=not args.no_transcripts,
            progress=line,
        )
    print(
        f"wrote {args.out}, {done.size / 1e9:.3g} GB: {done.taken.video} weights of the video branch, "
        f"{done.taken.audio} of the audio branch, {done.new} new"
    )

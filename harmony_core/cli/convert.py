"""Write a weights file in another precision: bf16, fp16, fp32, or 8 bits with scales as ComfyUI reads them; and back.

Reads .safetensors, an index beside its shards, and pickles that hold nothing but tensors; GGUF is neither read nor written.
Memory does not grow with the file. With fp8 the matrices of attention and feed-forward are stored in 8 bits, and everything
else stays as it is.
"""

from __future__ import annotations

import argparse
from pathlib import Path

SUMMARY = "write a weights file in another precision"
PRECISIONS = ("bf16", "fp16", "fp32", "fp8")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The files and the precision."""
    parser.add_argument("source", metavar="IN", help="a weights file, or the name of a built-in checkpoint")
    parser.add_argument("target", metavar="OUT", type=Path, help="the .safetensors file to write")
    parser.add_argument("--to", required=True, choices=PRECISIONS, help="the precision of the weights")


def run(args: argparse.Namespace) -> None:
    """Convert, then say what was done.

    Raises:
        ValueError: a file cannot be read or written, or what is in it cannot be converted.
    """
    from ..weights.builtin import resolve
    from ..weights.convert import convert
    from .progress_line import ProgressLine

    with ProgressLine("converting") as line:
        done = convert(resolve(args.source), args.target, args.to, line)
    parts = [f"{done.weights} weights"]
    if done.quantised:
        parts.append(f"{done.quantised} of them in 8 bits")
    if done.kept:
        parts.append(f"{done.kept} as they were")
    print(f"wrote {args.target}: {', '.join(parts)}; {done.before / 1e9:.3g} GB became {done.after / 1e9:.3g} GB")

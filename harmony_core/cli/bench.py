"""Measure speed and memory: ratios of things run in turn on this machine."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ..atomic import check_target, replacing

SUMMARY = "measure speed and memory"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The benchmarks and their options."""
    parts = parser.add_subparsers(dest="part", required=True, metavar="PART")
    model = parts.add_parser("model", help="the joint model: caches, guidance, interactions, our branch against diffusers'")
    model.add_argument("--preset", default="mid", help="mid (default), tiny or 5b")
    model.add_argument("--device", default="cpu", help="torch device, such as cpu or cuda (default: cpu)")
    codecs = parts.add_parser("codecs", help="the codecs: time against diffusers, peak memory against length, real-time factor")
    codecs.add_argument("--quick", action="store_true", help="small shapes only")
    gpu = parts.add_parser("gpu", help="what a GPU computes and how fast, in stages that go on where they were cut")
    gpu.add_argument("--stages", default="check,speed", help="which, in order (default: check,speed)")
    gpu.add_argument("--minutes", type=float, help="for all of them (default: 2 and 3)")
    gpu.add_argument(
        "--out", type=Path, default=Path("out/gpu"), metavar="DIR", help="folder of the results (default: out/gpu)"
    )
    gpu.add_argument("--device", default="cuda", help="torch device (default: cuda)")
    gpu.add_argument("--rehearse", action="store_true", help="in small, as on a CPU")
    for part in (model, codecs):
        part.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE as well")


def run(args: argparse.Namespace) -> None:
    """Measure and print a table.

    Raises:
        ValueError: something asked for is not there, or an item of a stage failed.
    """
    if args.part == "gpu":
        _run_gpu(args)
        return
    if args.json:
        check_target(args.json)
    if args.part == "model":
        from ..bench.model import measure

        figures = measure(args.preset, device=args.device)
    else:
        from ..bench.codecs import measure as measure_codecs

        figures = measure_codecs(quick=args.quick)
    if args.json:
        with replacing(args.json) as temporary:
            temporary.write_text(json.dumps(figures, indent=2) + "\n")
    width = max(map(len, figures))
    for name, value in figures.items():
        print(f"{name:<{width}}  {value:.4g}")


def _run_gpu(args: argparse.Namespace) -> None:
    from ..bench.gpu import check, speed
    from ..bench.gpu.stages import Place, Stage, run_stages
    from ..runtime import usable_device

    known = {
        "check": lambda: Stage(name="check", minutes=2, items=check.items()),
        "speed": lambda: Stage(name="speed", minutes=3, items=speed.items(), needs=64),
    }
    names = args.stages.split(",")
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"--stages: {unknown[0]} is none; the stages are {', '.join(known)}")
    if args.minutes is not None and not 0 < args.minutes < 1e6:
        raise ValueError(f"--minutes is a positive number, got {args.minutes:g}")
    place = Place(device=usable_device(args.device), small=args.rehearse)
    if not run_stages([known[name]() for name in names], place, args.out, minutes=args.minutes, told=print):
        raise ValueError(f"not every item has a result; what there is lies in {args.out}, run it again to go on")

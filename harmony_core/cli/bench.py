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
    for part in (model, codecs):
        part.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE as well")


def run(args: argparse.Namespace) -> None:
    """Measure and print a table."""
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

"""Score joint generators on one list of items: a checkpoint, or a folder of clips that any system made.

Items are a list of our own (``harmony-bench``, 150 of them; ``world``, 150 of the small world, for harmony-tiny) or the file or
folder of a public one. Clips of a folder are named by item: ITEM.mp4. What has a result in --out is not made or measured again.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..evaluation.generators import Generator
    from ..evaluation.items import Item

SUMMARY = "score a checkpoint, or any system's clips, on a list of items"
_OWN, _WORLD = "harmony-bench", "world"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The list, who makes the clips, and where the results go."""
    parser.add_argument("items", metavar="ITEMS", nargs="?", help=f"{_OWN}, {_WORLD}, or a public list's file or folder")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--checkpoint", metavar="FILE", help="make the clips with it")
    source.add_argument("--clips", type=Path, metavar="DIR", help="a folder of clips, ITEM.mp4")
    source.add_argument(
        "--compare", type=Path, nargs=2, metavar="DIR", help="two folders of results: the second less the first"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of the results")
    parser.add_argument("--sets", default="", metavar="LIST", help="sets of the list (default: all)")
    parser.add_argument("--limit", type=int, metavar="N", help="the first N items of each set")
    parser.add_argument("--steps", type=int, metavar="N", help="sampling steps (default: the checkpoint's)")
    parser.add_argument("--seed", type=int, default=0, help="of the first item; the others follow (default: 0)")
    parser.add_argument("--device", default="cpu", help="torch device, such as cpu or cuda (default: cpu)")


def run(args: argparse.Namespace) -> None:
    """Make, measure, report.

    Raises:
        ValueError: an option is wrong, or a list, a checkpoint or a folder is none.
    """
    from ..evaluation.benchmark import run as run_items
    from ..evaluation.benchmark_report import by_set, table, write_page
    from .progress_line import ProgressLine

    if args.compare is not None:
        print(_compared(*args.compare))
        return
    items = _items(args)
    generator = _generator(args)
    if args.out is None:
        raise ValueError("--out is missing: name a folder for the results")
    with ProgressLine("items") as line:
        results = run_items(items, generator, args.out, progress=line)
    print(table(by_set(results)))
    failed = [result for result in results if result.error]
    if failed:
        print(f"{len(failed)} of {len(results)} items have no clip to measure, such as {failed[0].item.id}: {failed[0].error}")
    write_page(args.out / "index.html", results, f"{args.checkpoint or args.clips} on {args.items}")
    print(f"wrote {args.out / 'index.html'}")


def _items(args: argparse.Namespace) -> tuple[Item, ...]:
    from ..evaluation.generators import of_sets, world_items
    from ..evaluation.items import OWN, read_items

    if args.items is None:
        raise ValueError(f"give a list of items: {_OWN}, {_WORLD}, or a file or folder")
    if args.limit is not None and args.limit < 1:
        raise ValueError(f"--limit is a whole number from 1 on, got {args.limit}")
    items = world_items() if args.items == _WORLD else read_items(OWN if args.items == _OWN else args.items)
    items = of_sets(items, [name for name in args.sets.split(",") if name])
    if args.limit is None:
        return items
    numbers = dict.fromkeys((item.set for item in items), 0)
    kept = []
    for item in items:
        numbers[item.set] += 1
        if numbers[item.set] <= args.limit:
            kept.append(item)
    return tuple(kept)


def _generator(args: argparse.Namespace) -> Generator:
    from ..evaluation.generators import CheckpointGenerator, ClipFolder

    if args.clips is not None:
        if not args.clips.is_dir():
            raise ValueError(f"--clips: there is no folder {args.clips}")
        return ClipFolder(args.clips)
    if args.checkpoint is None:
        raise ValueError("who makes the clips? Give --checkpoint, or --clips for those of another system")
    from dataclasses import replace

    from ..guidance import sync_guidance
    from ..pipeline import Pipeline
    from ..recipes import RECIPES, recipe_for
    from ..runtime import Runtime, usable_device
    from ..sample import Schedule
    from ..weights.builtin import resolve
    from ..weights.inspect import inspect
    from ..weights.trained import usual_clip

    path = resolve(args.checkpoint)
    found = inspect(path)
    if found.config is None:
        raise ValueError(f"{path} cannot generate clips, it is {found.what}")
    recipe = RECIPES[recipe_for(found.config)]
    schedule = Schedule(steps=recipe.steps, shift=recipe.shift, sampler=recipe.sampler)
    if args.steps is not None:
        if not 1 <= args.steps <= 1000:
            raise ValueError(f"--steps is a whole number from 1 to 1000, got {args.steps}")
        schedule = replace(schedule, steps=args.steps)
    return CheckpointGenerator(
        pipeline=Pipeline.load(path, runtime=Runtime(device=usable_device(args.device))),
        spec=found.clip or usual_clip(found.config),
        schedule=schedule,
        guidance=sync_guidance(recipe.sync),
        seed=args.seed,
    )


def _compared(first: Path, second: Path) -> str:
    from ..evaluation.benchmark import differences, read_results
    from ..evaluation.benchmark_report import table

    results = [read_results(folder) for folder in (first, second)]
    for folder, found in zip((first, second), results, strict=True):
        if not found:
            raise ValueError(f"{folder} holds no results of this command")
    return table({f"{second.name} less {first.name}": differences(*results)})

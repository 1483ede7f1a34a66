"""Measure a checkpoint on the small world, whose truth is known exactly.

Clips the model never saw are made, generated again in every way (joint, with SyncCFG, driven by sound, driven by pictures) and
judged beside the truth, the truth through the codecs, shuffled pairs and pairs that are late. Every figure stands with half the
width of its 95 % interval.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import os
import platform
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..atomic import check_target, replacing
from ..inputs import is_dir, named
from ..recipes import HARMONY
from .numbers import LARGEST_SEED, check_threads, check_whole

if TYPE_CHECKING:
    from ..bench.world.plan import Plan
    from ..bench.world.runs import Batch, Made
    from ..world.clip import Kind, WorldClip
    from ..world.evaluation import Figures
    from ..world.judges import Judges

SUMMARY = "measure a checkpoint on the small world"
SAVED = 4
"""Clips of each generated row that --save writes."""

_LARGEST_BATCH = 4096
_STILL = "the first picture where pictures are given, else even grey"
_SPEECH = ["sync_c", "sync_c_share", "sync_d", "closure_f1", "closure_offset", "words", "voice"]
_EVENTS = ["event_f1", "event_f1_share", "event_f1_1", "event_offset", "material"]
_ALWAYS = [
    "events_seen",
    "events_heard",
    "motion",
    "loudness",
    "av_align",
    "map_hit",
    "map_fixed",
    "map_shuffled",
    "map_chance",
]
_COLUMNS = {
    "impact": [*_EVENTS, *_ALWAYS],
    "talk": [*_SPEECH, *_ALWAYS],
    "complex": [*_EVENTS[:-2], "closure_f1", "words", "voice", *_ALWAYS],
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    parser.add_argument(
        "checkpoint", metavar="CHECKPOINT", nargs="?", help="a file that carries its codecs, or the name of a built-in one"
    )
    parser.add_argument("--clips", type=int, default=256, metavar="N", help="of each kind (default: 256)")
    parser.add_argument("--first", type=int, default=0, metavar="N", help="number of the first clip (default: 0)")
    parser.add_argument(
        "--kinds", default="impact,talk", metavar="LIST", help="among impact, talk, complex (default: impact,talk)"
    )
    parser.add_argument(
        "--rows", metavar="LIST", help="rows to measure; the truth and shuffled pairs are always there (default: all)"
    )
    parser.add_argument("--split", default="easy", help="easy, or hard: 4.5 s with more in it (default: easy)")
    parser.add_argument("--steps", type=int, default=HARMONY.steps, help="sampling steps (default: %(default)s)")
    parser.add_argument(
        "--shift", type=float, default=HARMONY.shift, help="of the schedule towards noise (default: %(default)g)"
    )
    parser.add_argument(
        "--gamma", type=float, default=1.0, help="above 1 the picture settles before the sound (default: 1, together)"
    )
    parser.add_argument("--sampler", default=HARMONY.sampler, help="euler, heun, dpmpp_2m or unipc (default: %(default)s)")
    for name, scale in (("video", HARMONY.sync.video), ("audio", HARMONY.sync.audio)):
        parser.add_argument(
            f"--sync-{name}", type=float, default=scale, metavar="SCALE", help=f"of SyncCFG, for {name} (default: {scale:g})"
        )
    parser.add_argument("--driven-sync", action="store_true", help="measure the driven tasks with SyncCFG as well")
    parser.add_argument("--batch", type=int, default=16, metavar="N", help="clips generated together (default: 16)")
    parser.add_argument("--seed", type=int, default=0, help="of noise, shuffles and intervals (default: 0)")
    judges = parser.add_mutually_exclusive_group()
    judges.add_argument("--judges", type=Path, metavar="FILE", help="trained judges (default: those built in)")
    judges.add_argument("--train-judges", type=Path, metavar="FILE", help="train the judges, a few minutes, and write them")
    parser.add_argument("--device", default="cpu", help="torch device of the model, such as cpu or cuda (default: cpu)")
    parser.add_argument("--threads", type=int, metavar="N", help="of the CPU")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures to FILE")
    parser.add_argument(
        "--values", type=Path, metavar="FILE", help="write what was measured of every clip to FILE, for --merge"
    )
    parser.add_argument(
        "--merge",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="measure nothing: put together what other runs wrote with --values, each of other clips (--first)",
    )
    parser.add_argument(
        "--save", type=Path, metavar="DIR", help=f"write the first {SAVED} clips of each generated row, to look at and hear"
    )


def run(args: argparse.Namespace) -> None:
    """Measure, print a table for each kind, write the figures.

    Raises:
        ValueError: a bad option, a checkpoint or judges that are none, or a place that cannot be written to.
    """
    import torch

    from ..bench.world.measure import WorldBench
    from ..bench.world.runs import world_spec
    from ..bench.world.values import Part, write_part
    from ..pipeline import Pipeline
    from ..runtime import Runtime, usable_device
    from ..weights.builtin import resolve
    from .progress_line import ProgressLine

    for file in (args.json, args.train_judges, args.values):
        _check_writable(file)
    if args.merge is not None:
        _merge(args)
        return
    if args.checkpoint is None:
        raise ValueError("give a checkpoint to measure, or --merge with files of values")
    began = time.monotonic()
    _check_numbers(args)
    plan = _plan(args)
    device = usable_device(args.device)
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    path = resolve(args.checkpoint)
    pipeline = Pipeline.load(path, runtime=Runtime(device=device))
    world_spec(pipeline, plan.split)
    keeper = _Keeper(args.save) if args.save else None
    judges, whose = _judges(args)
    tables: dict[str, dict[str, Figures]] = {}
    with ProgressLine("evaluating") as line:
        bench = WorldBench(pipeline, judges, plan, progress=line, on_made=keeper)
        for kind in plan.kinds:
            tables[kind] = bench.kind(kind)
            _show(kind, tables[kind], _meta(plan))
        tables["anchors"] = bench.anchors()
    _show("anchors", tables["anchors"], _meta(plan))
    if keeper:
        keeper.finish()
    meta = {
        **_meta(plan),
        "checkpoint": {"name": str(args.checkpoint), "sha256": _digest(path)},
        "judges": whose,
        "told": _told(pipeline.model.config),
        "device": str(device),
        "versions": _versions(),
        "seconds": {stage: round(spent, 2) for stage, spent in bench.seconds.items()},
        "wall_seconds": round(time.monotonic() - began, 2),
    }
    if args.values:
        write_part(args.values, Part(meta, bench.values))
        print(f"wrote {args.values}")
    if args.json:
        write_figures(args.json, meta, tables)
        print(f"wrote {args.json}")


def _check_numbers(args: argparse.Namespace) -> None:
    check_threads(args.threads)
    check_whole("batch", args.batch, 1, _LARGEST_BATCH)
    check_whole("seed", args.seed, 0, LARGEST_SEED)


def _merge(args: argparse.Namespace) -> None:
    """Put parts together; print and write as if they were one run."""
    from ..bench.world.values import merge, read_part, tables_of, write_part

    if args.checkpoint is not None:
        raise ValueError("--merge measures nothing: leave the checkpoint out")
    whole = merge([read_part(path) for path in args.merge])
    tables = tables_of(whole)
    for kind, rows in tables.items():
        _show(kind, rows, whole.meta)
    if args.values:
        write_part(args.values, whole)
        print(f"wrote {args.values}")
    if args.json:
        write_figures(args.json, whole.meta, tables)
        print(f"wrote {args.json}")


def write_figures(path: Path, meta: Mapping[str, Any], tables: Mapping[str, Mapping[str, Figures]]) -> None:
    """Write figures as JSON: ``meta``, and ``figures`` flat as ``kind.row.figure`` with ``.low`` and ``.high``.

    What no clip says anything about is null.

    Raises:
        ValueError: the file cannot be written.
    """
    import json

    from ..world.metrics import flat

    figures: dict[str, float | None] = {}
    for kind, rows in tables.items():
        for row, found in rows.items():
            named = flat(found, f"{kind}.{row}")
            figures |= {name: value if math.isfinite(value) else None for name, value in named.items()}
    with replacing(path) as temporary:
        temporary.write_text(json.dumps({"meta": meta, "figures": figures}, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def _plan(args: argparse.Namespace) -> Plan:
    from ..bench.world.plan import Plan
    from ..flow import adjust_times, shifted_schedule
    from ..sample import Schedule
    from ..sampling import sampler
    from ..types import AV

    sampler(args.sampler)
    adjust_times(shifted_schedule(args.steps, shift=args.shift), gamma=args.gamma)
    return Plan(
        kinds=tuple(_listed(args.kinds)),  # type: ignore[arg-type]  # checked there
        rows=None if args.rows is None else tuple(_listed(args.rows)),
        clips=args.clips,
        first=args.first,
        batch=args.batch,
        split=args.split,
        seed=args.seed,
        schedule=Schedule(steps=args.steps, shift=args.shift, gamma=args.gamma, sampler=args.sampler),
        sync_scale=AV(args.sync_video, args.sync_audio),
        driven_sync=args.driven_sync,
    )


def _listed(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _check_writable(path: Path | None) -> None:
    """Refuse at once what could not be written after hours.

    Raises:
        ValueError: the folder is missing or closed, or the path is a folder.
    """
    if path is None:
        return
    check_target(path)
    if not is_dir(path.absolute().parent):
        raise ValueError(f"cannot write {named(path)}: there is no folder {named(path.absolute().parent)}")
    if not os.access(path.absolute().parent, os.W_OK):
        raise ValueError(f"cannot write {named(path)}: its folder cannot be written to")


def _judges(args: argparse.Namespace) -> tuple[Judges, str]:
    """The judges, and which they are, for the record."""
    from ..weights import builtin
    from ..world.judges import Judges

    if args.train_judges is not None:
        judges = _trained()
        judges.save(args.train_judges)
        return judges, f"sha256 {_digest(args.train_judges)}"
    if args.judges is not None:
        return Judges.load(args.judges), f"sha256 {_digest(args.judges)}"
    try:
        path = builtin.judges()
    except ValueError as error:
        print(f"{error}; they are trained now. --train-judges FILE keeps them.", file=sys.stderr)
        return _trained(), "trained for this run"
    return Judges.load(path), f"built in, sha256 {_digest(path)}"


def _trained() -> Judges:
    from ..world.judges import train_judges
    from .progress_line import ProgressLine

    with ProgressLine("training judges") as line:
        return train_judges(progress=line)


def _show(kind: str, rows: Mapping[str, Figures], meta: Mapping[str, Any]) -> None:
    """Print a table, over the progress line."""
    from ..world.evaluation import table

    if not rows:
        return
    there = dict.fromkeys(name for row in rows.values() for name in row)
    columns = [name for name in _COLUMNS.get(kind, there) if name in there]
    gains = [name for name in there if name.endswith("_gain")]
    print(file=sys.stderr)
    print(f"{kind}: {meta['clips']} clips, {meta['split']}, {meta['steps']} steps of {meta['sampler']}")
    print(table(rows, columns + gains), end="\n\n", flush=True)


def _meta(plan: Plan) -> dict[str, Any]:
    from ..world.dataset import TEST_SEEDS

    return {
        "clips": plan.clips,
        "kinds": list(plan.kinds),
        "split": plan.split,
        "first": plan.first,
        "first_seed": TEST_SEEDS[plan.first],
        "seed": plan.seed,
        "batch": plan.batch,
        "steps": plan.schedule.steps,
        "shift": plan.schedule.shift,
        "gamma": plan.schedule.gamma,
        "sampler": plan.schedule.sampler,
        "sync_cfg": {**vars(plan.sync_scale), "text": "same", "still": _STILL},
    }


def _told(config: Any) -> list[str]:
    """What the model was told of each clip; a reference where the clip has one."""
    takes = {"captions": config.caption, "transcripts": config.speech, "references": True}
    return [name for name, taken in takes.items() if taken]


def _versions() -> dict[str, str]:
    import numpy as np
    import torch

    from .. import __version__

    return {
        "harmony": __version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


def _digest(path: Path) -> str:
    """SHA-256 of a file; of an index, of the index and its shards in their order."""
    from ..weights.files import shard_names

    files = [path]
    if path.name.endswith(".index.json"):
        files += [path.with_name(name) for name in shard_names(path)]
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


@dataclass
class _Keeper:
    """Writes the first clips of every generated row as mp4, and a contact sheet of each row.

    Attributes:
        folder: to write to, made where it is missing.
    """

    folder: Path
    _sheets: dict[str, list[WorldClip]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(f"cannot make the folder {named(self.folder)}: {error.strerror or error}") from error

    def __call__(self, kind: Kind, row: str, batch: Batch, made: Made) -> None:
        """Write those of a batch that are among the first; see ``OnMade``."""
        from ..bench.world.plan import TASKS
        from ..media import write_video
        from ..types import Audio, Video
        from ..world.clip import SAMPLE_RATE

        # Where nothing of the clip was given, its events are not those of what was made.
        keeps_events = row not in TASKS or (TASKS[row].drive is not None and not TASKS[row].anchor)
        shown = self._sheets.setdefault(f"{kind}_{row}", [])
        for n, clip in enumerate(batch.clips):
            if len(shown) == SAVED:
                return
            video, audio = Video(made.frames[n : n + 1], clip.spec.fps), Audio(made.wave[n : n + 1], SAMPLE_RATE)
            write_video(self.folder / f"{kind}_{row}_{clip.seed}.mp4", video, audio)
            pictures = made.frames[n].permute(1, 2, 3, 0).add(1).mul(127.5).round().clamp(0, 255).byte().numpy()
            events = clip.events if keeps_events else ()
            shown.append(replace(clip, pictures=pictures, wave=made.wave[n, 0].numpy(), events=events))

    def finish(self) -> None:
        """Write the contact sheets."""
        from ..media import write_image
        from ..world.sheet import contact_sheet

        for name, clips in self._sheets.items():
            write_image(self.folder / f"{name}.png", contact_sheet(clips))
        print(f"wrote clips and contact sheets of {len(self._sheets)} rows to {self.folder}")

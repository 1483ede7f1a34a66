"""Make clips of the small world, whose every event is known: mp4 files, a manifest to train from, and a contact sheet."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..atomic import replacing
from ..inputs import named
from .numbers import check_whole

if TYPE_CHECKING:
    from ..world.clip import WorldClip

SUMMARY = "make clips of the small world"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write to, made where it is missing")
    parser.add_argument("--count", type=int, default=8, metavar="N", help="number of clips (default: 8)")
    parser.add_argument("--seed", type=int, default=0, help="of the first clip; held-out clips start at 1000000 (default: 0)")
    parser.add_argument(
        "--split", choices=("easy", "hard"), default="easy", help="2 s, or 4.5 s with more in it (default: easy)"
    )
    parser.add_argument(
        "--kind", choices=("impact", "talk", "complex", "still"), help="of every clip (default: a mix of all kinds)"
    )
    parser.add_argument("--voices", choices=("seen", "unseen"), default="seen", help="those in training, or others")


def run(args: argparse.Namespace) -> None:
    """Make the clips and write them.

    Raises:
        ValueError: seeds out of range, espeak-ng missing, or a folder that cannot be written.
    """
    from ..media import write_image
    from ..world.dataset import MIX, dataset, recipes
    from ..world.sheet import contact_sheet

    check_whole("count", args.count, 1, 1_000_000)
    check_whole("seed", args.seed, 0, 1_999_999)
    wanted = recipes(
        args.count,
        first_seed=args.seed,
        mix=MIX if args.kind is None else {args.kind: 1.0},
        split=args.split,
        voices=args.voices,
    )
    try:
        args.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"cannot make the folder {named(args.out)}: {error.strerror or error}") from error
    shown: list[WorldClip] = []
    lines = []
    for number, clip in enumerate(dataset(wanted), start=1):
        lines.append(_write(clip, args.out))
        if len(shown) < 16:
            shown.append(clip)
        print(f"\r{number} of {args.count} clips", end="", flush=True)
    print()
    with replacing(args.out / "manifest.jsonl") as temporary:
        temporary.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    write_image(args.out / "contact_sheet.png", contact_sheet(shown))
    print(f"wrote {args.count} clips, manifest.jsonl and contact_sheet.png to {args.out}")


def _write(clip: WorldClip, folder: Path) -> dict[str, Any]:
    """Write a clip and its reference voice; gives its line of the manifest."""
    import dataclasses

    from ..media import write_video, write_wav

    name = f"{clip.kind}_{clip.seed:07d}"
    write_video(folder / f"{name}.mp4", clip.video, clip.audio)
    line: dict[str, Any] = {
        "file": f"{name}.mp4",
        "video_caption": clip.video_caption,
        "audio_caption": clip.audio_caption,
        "transcript": clip.transcript,
        "null": clip.kind == "still",
    }
    if clip.reference_audio is not None:
        write_wav(folder / f"{name}_voice.wav", clip.reference_audio)
        line |= {"reference": f"{name}_voice.wav", "speaker": clip.voice}
    events = [dataclasses.asdict(event) for event in clip.events]
    return line | {"meta": {"kind": clip.kind, "split": clip.split, "seed": clip.seed, "events": events}}

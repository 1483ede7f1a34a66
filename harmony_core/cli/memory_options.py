"""The options of ``harmony generate`` that save memory, and what they come to on the device at hand."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..shown import shown

if TYPE_CHECKING:
    from ..codecs.video_tiling import Tiling
    from ..drivers import MemoryBudget
    from .clip_request import Plan

LARGEST_TILE, _TILE_DIGITS = 1 << 16, 5
OFFLOADS = ("auto", "layers", "none")


def add_memory(parser: argparse.ArgumentParser) -> None:
    """Where weights wait, and how pictures are cut."""
    parser.add_argument(
        "--offload",
        choices=OFFLOADS,
        default="auto",
        help="layers: weights wait in main memory and come to the device layer by layer, with the same result; auto: where "
        "the clip does not fit otherwise, as `harmony plan` has it (default: %(default)s)",
    )
    parser.add_argument(
        "--tile",
        default="auto",
        metavar="PIXELS",
        help="cut pictures into tiles of this size in the video codec; auto: where they do not fit whole; none "
        "(default: %(default)s)",
    )


@dataclass(frozen=True, kw_only=True)
class Saving:
    """What is done to save memory.

    Attributes:
        offload: layers come to the device one by one.
        tiling: how pictures are cut; None for not at all.
        budget: memory for drivers; None for as much as seems good.
    """

    offload: bool = False
    tiling: Tiling | None = None
    budget: MemoryBudget | None = None


def check_memory(args: argparse.Namespace) -> None:
    """Refuse a tile that is none.

    Raises:
        ValueError: it is no size of a tile.
    """
    if args.tile not in {"auto", "none"}:
        _tiling(args.tile)


def saving_for(args: argparse.Namespace, wanted: Plan, note: Callable[[str], None]) -> Saving:
    """What to do for this clip on this device.

    Args:
        args: options that :func:`check_memory` let pass.
        wanted: the clip.
        note: told what was chosen for the user.

    Raises:
        ValueError: nothing that is left open makes it fit; the message says what it needs.
    """
    from ..drivers import MemoryBudget

    tiling = None if args.tile in {"auto", "none"} else _tiling(args.tile)
    if wanted.device.type != "cuda" or (args.offload != "auto" and args.tile != "auto"):
        return Saving(offload=args.offload == "layers", tiling=tiling)
    from ..plan.fit import Job, way_on
    from ..plan.model import codecs_for, model_of
    from ..types import Audio, Modality, Video

    found = model_of(wanted.checkpoint, args.audio_checkpoint)
    video, audio = codecs_for(found.config, found.codecs)
    given = {Audio: Modality.AUDIO, Video: Modality.VIDEO}
    job = Job(
        config=found.config,
        spec=wanted.request.spec,
        video_codec=video,
        audio_codec=audio,
        guidance=wanted.guidance,
        driver=None if wanted.request.drive is None else given[type(wanted.request.drive)],
        prefix=_prefix(wanted, found.config.interaction.style_tokens),
    )
    way = way_on(
        job,
        wanted.device,
        args.dtype or found.dtype,
        offload=None if args.offload == "auto" else args.offload == "layers",
        tiled=None if args.tile == "auto" else tiling is not None,
    )
    tiling = job.tiling if way.tiled and tiling is None else tiling
    done = ["layers are offloaded"] * (way.offload and args.offload == "auto")
    done += [f"pictures are cut into tiles of {job.tiling.size} pixels"] * (way.tiled and args.tile == "auto")
    if done:
        note(f"to fit {wanted.device}, {' and '.join(done)}")
    kept = job.kept_bytes(way)
    budget = MemoryBudget(0 if way.cache == "host" else kept, kept)
    return Saving(offload=way.offload, tiling=tiling, budget=budget)


def _prefix(wanted: Plan, style_tokens: int) -> int:
    voice, grid = wanted.request.voice, wanted.request.spec.grid
    return style_tokens if voice is None else -(-voice.waveform.shape[-1] // grid.hop)


def _tiling(text: str) -> Tiling:
    from ..codecs.video_tiling import Tiling

    least = 2 * Tiling().overlap
    if not (text.isdecimal() and len(text) <= _TILE_DIGITS and least <= int(text) <= LARGEST_TILE) or int(text) % 16:
        wanted = f"a multiple of 16 pixels from {least} to {LARGEST_TILE}, auto or none"
        raise ValueError(f"--tile is {wanted}, got '{shown(text, 40)}'")
    return Tiling(size=int(text))

"""The clip a checkpoint was trained on, beside the config in its metadata.

The config says what the model is, and any clip on its grid can be asked of it; this says which clip it does best.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from ..config import HarmonyConfig
from ..geometry import ClipSpec
from ..records import check_fields, from_record, to_record

CLIP_KEY = "harmony.clip"


@dataclass(frozen=True, kw_only=True)
class TrainedClip:
    """Its size.

    Attributes:
        frames: number of pictures.
        height: pixels.
        width: pixels.
    """

    frames: int
    height: int
    width: int

    def __post_init__(self) -> None:
        check_fields(self, CLIP_KEY)


_SMALL, _WAN = TrainedClip(frames=49, height=64, width=64), TrainedClip(frames=121, height=704, width=1280)


def clip_metadata(spec: ClipSpec) -> dict[str, str]:
    """As the metadata of a safetensors file."""
    clip = TrainedClip(frames=spec.frames, height=spec.height, width=spec.width)
    return {CLIP_KEY: json.dumps(to_record(clip), sort_keys=True)}


def trained_clip(config: HarmonyConfig, metadata: Mapping[str, str]) -> ClipSpec | None:
    """What the metadata says; None where it says nothing.

    Raises:
        ValueError: it says something that is no clip of this config.
    """
    if CLIP_KEY not in metadata:
        return None
    try:
        record = json.loads(metadata[CLIP_KEY])
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{CLIP_KEY} in the metadata is no JSON: {error}") from error
    return _spec(from_record(TrainedClip, record, CLIP_KEY), config)


def usual_clip(config: HarmonyConfig) -> ClipSpec:
    """The clip of models like this one: the small world's for those with a caption encoder of their own, else Wan2.2-5B's."""
    usual, multiple = _SMALL if config.caption is not None else _WAN, config.grid.size_multiple
    height, width = (max(multiple, side // multiple * multiple) for side in (usual.height, usual.width))
    frames = config.grid.frames(config.grid.latent_frames(usual.frames))
    return _spec(TrainedClip(frames=frames, height=height, width=width), config)


def _spec(clip: TrainedClip, config: HarmonyConfig) -> ClipSpec:
    return ClipSpec(frames=clip.frames, height=clip.height, width=clip.width, fps=config.fps, grid=config.grid)

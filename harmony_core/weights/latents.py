"""Latents of a clip in a file: both streams, and the clip they belong to in the metadata."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from ..atomic import replacing
from ..geometry import ClipSpec
from ..inputs import named
from ..records import from_record, to_record
from ..types import AV
from .files import read_tensors

LATENTS_KEY = "harmony.latents"


def save_latents(path: str | Path, latents: AV[Tensor], spec: ClipSpec) -> None:
    """Write latents; an interrupted write leaves nothing, or what was there.

    Args:
        path: a ``.safetensors`` file; replaced where it exists.
        latents: video (B, C, F, H, W) and audio (B, C, L).
        spec: the clip they belong to.

    Raises:
        ValueError: they are of another clip, or the file cannot be written.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"latents are written to a .safetensors file, got {named(path)}")
    if ClipSpec.of_latents(*latents, fps=spec.fps, grid=spec.grid) != spec:
        raise ValueError(f"these are no latents of a clip of {spec.frames} frames of {spec.width} x {spec.height}")
    tensors = {name: value.detach().cpu().contiguous() for name, value in vars(latents).items()}
    with replacing(path) as temporary:
        try:
            save_file(tensors, str(temporary), metadata={LATENTS_KEY: json.dumps(to_record(spec), sort_keys=True)})
        except SafetensorError as error:
            raise ValueError(f"cannot write {named(path)}: {error}") from error


def load_latents(path: str | Path) -> tuple[AV[Tensor], ClipSpec]:
    """Read what :func:`save_latents` wrote.

    Raises:
        ValueError: the file is missing, broken or holds something else.
    """
    tensors, metadata = read_tensors(path)
    try:
        record = json.loads(metadata[LATENTS_KEY])
        latents = AV[torch.Tensor](tensors["video"], tensors["audio"])
    except (KeyError, ValueError, RecursionError) as error:
        raise ValueError(f"{named(path)} holds no latents of a clip") from error
    spec = from_record(ClipSpec, record, LATENTS_KEY)
    if ClipSpec.of_latents(*latents, fps=spec.fps, grid=spec.grid) != spec:
        raise ValueError(f"the latents in {named(path)} are not of the clip that its metadata names")
    return latents, spec

"""Joint latents in files.

The format is ``harmony generate --save-latents``': normalised video and audio, and the clip in the metadata. ComfyUI's latents
are raw, and normalising does not come back bit for bit, so they are in the file too, with what tells the one from the other.
"""

from __future__ import annotations

import json
import logging
import os
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

import folder_paths
import torch
from comfy.cli_args import args
from comfy.nested_tensor import NestedTensor
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from ...harmony_core.geometry import ClipSpec
from ...harmony_core.records import to_record
from ...harmony_core.shown import shown
from ...harmony_core.types import AV
from ...harmony_core.weights.files import read_tensors
from ...harmony_core.weights.latents import LATENTS_KEY, load_latents
from .latent import FPS, GRID, STATISTICS, STILL, Latent, Statistics, clip_of, masks_of, named
from .latent_paths import SUFFIX, path_of
from .model import harmony_model

log = logging.getLogger(__name__)

RAW = "raw.video"
PICTURE = "still"
MASKS = AV("mask.video", "mask.audio")
STATISTICS_KEY = "harmony.statistics"
OTHERS_KEY = "harmony.others"
OTHER = "other."
KNOWN = frozenset({"samples", "noise_mask", FPS, GRID, STATISTICS, STILL})


def save(latent: Latent, prefix: str, written_by: dict[str, Any]) -> dict[str, str]:
    """Write a latent into ComfyUI's output folder, whole or not at all, under a name nobody has.

    Args:
        latent: of picture and sound.
        prefix: of the file's name, perhaps with a folder and ComfyUI's ``%date%`` parts.
        written_by: the graph, for the metadata.

    Returns:
        What ComfyUI tells of a file: ``filename``, ``subfolder`` and ``type``.

    Raises:
        ValueError: the latent is not of both streams, the prefix leads elsewhere, or the file cannot be written.
    """
    spec = clip_of(latent)
    tensors, metadata = _packed(latent, spec)
    if not args.disable_metadata:
        metadata = {key: json.dumps(value) for key, value in written_by.items() if value is not None} | metadata
    folder, name, number, subfolder = _place(prefix, spec)
    temporary = folder / f".{uuid.uuid4().hex}{SUFFIX}"
    try:
        temporary.touch(exist_ok=False)
        mode = temporary.stat().st_mode
        save_file(tensors, str(temporary), metadata=metadata)
        temporary.chmod(mode)  # the writer makes a file that is its user's alone
        path = _claim(temporary, folder, name, number)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"filename_prefix: cannot write into {shown(str(folder), 200)}: {shown(str(error), 200)}") from error
    finally:
        with suppress(OSError):
            temporary.unlink()
    return {"filename": path.name, "subfolder": subfolder, "type": "output"}


def load(name: str, patcher: Any = None) -> Latent:
    """Read what :func:`save` or ``harmony generate`` wrote.

    Args:
        name: one of :func:`names`.
        patcher: the MODEL it is for; needed for what ``harmony generate`` wrote.

    Raises:
        ValueError: the file is missing, broken, holds something else, or latents of another model.
    """
    path = path_of(name)
    with named("file"):
        latents, spec = load_latents(path)
        tensors, metadata = read_tensors(path)
        known = _statistics(metadata.get(STATISTICS_KEY), spec)
        others = _object(metadata.get(OTHERS_KEY, "{}"), OTHERS_KEY)
    statistics = _agreed(known, spec, patcher)
    mean, std = (torch.tensor(values).view(1, -1, 1, 1, 1) for values in statistics)
    video = tensors[RAW] if RAW in tensors else latents.video.float() * std + mean
    samples = AV(video, latents.audio if RAW in tensors else latents.audio.float())
    others |= {key.removeprefix(OTHER): value for key, value in tensors.items() if key.startswith(OTHER)}
    streams = NestedTensor(list(samples))
    latent: Latent = {**others, "samples": streams, FPS: spec.fps, GRID: spec.grid, STATISTICS: statistics}
    if all(key in tensors for key in MASKS):
        latent["noise_mask"] = NestedTensor([tensors[key] for key in MASKS])
    if PICTURE in tensors:
        latent[STILL] = tensors[PICTURE]
    with named("file"):
        _check(latent, spec, latents)
    return latent


def _packed(latent: Latent, spec: ClipSpec) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Everything a latent holds, as tensors and metadata."""
    video, audio = latent["samples"].unbind()
    statistics: Statistics = latent[STATISTICS]
    mean, std = (torch.tensor(values).view(1, -1, 1, 1, 1) for values in statistics)
    tensors = {"video": (video.float() - mean.to(video.device)) / std.to(video.device), "audio": audio, RAW: video}
    if latent.get("noise_mask") is not None:
        tensors |= dict(zip(MASKS, masks_of(latent), strict=True))
    if STILL in latent:
        tensors[PICTURE] = latent[STILL]
    others = {}
    for key in (key for key in latent if key not in KNOWN):
        value = latent[key]
        if isinstance(value, Tensor):
            tensors[OTHER + key] = value
        elif _is_plain(value):
            others[key] = value
        else:
            log.warning("Save Harmony Latent leaves %s out: a %s cannot be in the file", key, type(value).__name__)
    metadata = {
        LATENTS_KEY: json.dumps(to_record(spec), sort_keys=True),
        STATISTICS_KEY: json.dumps([list(values) for values in statistics]),
        OTHERS_KEY: json.dumps(others),
    }
    # Each with memory of its own: the file's format has no views.
    return {key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}, metadata


def _is_plain(value: Any) -> bool:
    try:
        return bool(json.loads(json.dumps(value)) == value)
    except (TypeError, ValueError):
        return False


def _place(prefix: str, spec: ClipSpec) -> tuple[Path, str, int, str]:
    """Folder, name, first number to try, and the folder's name in the output folder."""
    if not prefix.strip() or prefix.endswith(("/", "\\")):
        raise ValueError("filename_prefix: it names no file; write a name, perhaps after a folder, as latents/harmony")
    if not prefix.isprintable():
        raise ValueError(f"filename_prefix: '{shown(prefix)}' holds characters that no file's name should have; leave them out")
    try:
        folder, name, number, subfolder, _ = folder_paths.get_save_image_path(
            prefix, folder_paths.get_output_directory(), spec.width, spec.height
        )
    except OSError as error:
        raise ValueError(f"filename_prefix: cannot make the folder of '{shown(prefix)}': {error.strerror or error}") from error
    except Exception as error:  # ComfyUI raises nothing more special where a prefix leads out of the folder
        raise ValueError(
            f"filename_prefix: '{shown(prefix)}' leads out of ComfyUI's output folder; name one inside it"
        ) from error
    return Path(folder), name, number, subfolder


def _claim(temporary: Path, folder: Path, name: str, number: int) -> Path:
    """Give a written file the first free name from a number on."""
    while True:
        path = folder / f"{name}_{number:05}_{SUFFIX}"
        number += 1
        try:
            # Unlike a rename, a link never takes the place of a file that is there.
            os.link(temporary, path)
        except FileExistsError:
            continue
        except OSError:  # a file system without links
            if path.exists():
                continue
            temporary.replace(path)
        return path


def _object(text: str, where: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{where} in the metadata is no JSON") from error
    if not isinstance(value, dict):
        raise ValueError(f"{where} in the metadata is no object")
    return value


def _statistics(text: str | None, spec: ClipSpec) -> Statistics | None:
    if text is None:
        return None
    channels = spec.grid.video_channels
    try:
        mean, std = ([float(x) for x in values] for values in json.loads(text))
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{STATISTICS_KEY} in the metadata is no mean and deviation") from error
    finite = bool(torch.tensor([*mean, *std]).isfinite().all())
    if len(mean) != channels or len(std) != channels or not finite or min(std) <= 0:
        raise ValueError(f"{STATISTICS_KEY} in the metadata is no mean and deviation of {channels} channels")
    return mean, std


def _agreed(known: Statistics | None, spec: ClipSpec, patcher: Any) -> Statistics:
    """What raw latents are like, by the file or by the model, which have to agree."""
    if patcher is None:
        if known is None:
            raise ValueError(
                "model: harmony generate wrote this file, which does not say what its codec's latents are like; connect the "
                "MODEL it was made with"
            )
        return known
    model = harmony_model(patcher)
    of_model: Statistics = tuple([float(x) for x in values] for values in model.model_config.statistics)
    if spec.grid != model.config.grid or (known is not None and [list(v) for v in known] != [list(v) for v in of_model]):
        raise ValueError("model: the file's latents are those of another model or codec; connect the MODEL they were made with")
    return of_model


def _check(latent: Latent, spec: ClipSpec, latents: AV[Tensor]) -> None:
    """Refuse tensors that do not fit each other."""
    for one, like in zip(latent["samples"].unbind(), latents, strict=True):
        if one.shape != like.shape or not one.is_floating_point() or not bool(one.isfinite().all()):
            raise ValueError("its latents do not fit each other, or are not finite; save them again")
    if "noise_mask" in latent:
        for mask, like in zip(latent["noise_mask"].unbind(), latents, strict=True):
            if mask.shape != (like.shape[0], 1, *like.shape[2:]) or not bool(((mask >= 0) & (mask <= 1)).all()):
                raise ValueError("its masks are not of its latents, or not from 0 to 1; save them again")
    still = latent.get(STILL)
    if still is not None and tuple(still.shape) != (1, spec.height, spec.width, 3):
        raise ValueError(f"the picture in it is not one of {spec.width} x {spec.height}; save it again")

"""What a model is, by its name or its file's header."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from ..codecs.audio import PRESETS as AUDIO_CODECS
from ..codecs.audio import AudioCodecConfig
from ..codecs.video_vae import PRESETS as VIDEO_CODECS
from ..codecs.video_vae import VideoVAEConfig
from ..config import PRESETS, HarmonyConfig
from ..geometry import ClipSpec
from ..weights.builtin import resolve
from ..weights.checkpoint import CodecConfigs
from ..weights.inspect import inspect
from ..weights.ovi import OviFiles, trained_on
from ..weights.trained import usual_clip

COMPUTED = ("float32", "float16", "bfloat16")
"""What weights of a file are computed in, where they are stored in it."""


@dataclass(frozen=True, kw_only=True)
class Model:
    """A joint model, its weights not read.

    Attributes:
        what: in words.
        config: of it.
        codecs: of those it carries.
        clip: that it does best.
        dtype: what its weights are computed in.
    """

    what: str
    config: HarmonyConfig
    codecs: CodecConfigs
    clip: ClipSpec
    dtype: str


def model_of(name_or_path: str | Path, audio_path: Path | None = None) -> Model:
    """Find a model.

    Args:
        name_or_path: a preset, a built-in checkpoint, or a file: a Harmony checkpoint, or Ovi's.
        audio_path: the audio tower of Ovi in two files.

    Raises:
        ValueError: there is no such file, or it is no joint model.
    """
    name = str(name_or_path)
    if name in PRESETS:
        config = PRESETS[name]
        return Model(what="a preset", config=config, codecs=CodecConfigs(), clip=usual_clip(config), dtype="bfloat16")
    try:
        path = resolve(name)
    except ValueError as error:
        raise ValueError(f"{error}; or a preset: {', '.join(PRESETS)}") from error
    found = inspect(path)
    if found.kind == "ovi":
        files = OviFiles(path, audio_path)
        size = files.size or "720x720_5s"  # they differ in the clip they do best
        config = files.config(size)
        what = found.what if files.size else f"{found.what}; taken for the size {size}"
        found = replace(found, what=what, config=config, clip=trained_on(size, config))
    if found.config is None:
        raise ValueError(f"{path} is no joint model, it is {found.what}")
    dtype = next((dtype for dtype in found.dtypes if dtype in COMPUTED), "bfloat16")
    clip = found.clip or usual_clip(found.config)
    return Model(what=found.what, config=found.config, codecs=found.codecs, clip=clip, dtype=dtype)


def codecs_for(config: HarmonyConfig, carried: CodecConfigs) -> tuple[VideoVAEConfig, AudioCodecConfig]:
    """The codecs a model carries, or else those of models like it: small ones, or Wan2.2's and MMAudio's."""
    small = config.caption is not None
    video = carried.video or VIDEO_CODECS["tiny" if small else "wan2.2"]
    return video, carried.audio or AUDIO_CODECS["tiny" if small else "mmaudio-16k"]

"""The files of a generated clip: mp4, contact sheet, sound-source map, latents."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor

from ..audio_ops import resample
from ..geometry import ClipSpec
from ..media import to_mono, write_image, write_video
from ..media.sheet import Mark, heated, sheet, strip
from ..pipeline import Clip
from ..types import Audio, Video
from ..weights.latents import save_latents
from ..world.clip import SAMPLE_RATE
from ..world.sheet import marks
from ..world.trackers import hear_impacts, track_impacts

_WORLD_HEIGHT = 64  # pixels of the pictures that the trackers are made for


@dataclass(frozen=True, kw_only=True)
class ClipFiles:
    """Where a clip goes.

    Attributes:
        video: the mp4.
        sheet: its contact sheet.
        sound_map: where its sound comes from; None if not wanted.
        latents: what was sampled; None if not wanted.
    """

    video: Path
    sheet: Path
    sound_map: Path | None = None
    latents: Path | None = None

    @classmethod
    def named(cls, out: Path, *, number: int | None, sound_map: bool, latents: Path | None) -> ClipFiles:
        """Names from those of the mp4 and the latents; several clips are numbered."""
        if number is not None:
            out = out.with_stem(f"{out.stem}-{number}")
            latents = latents and latents.with_stem(f"{latents.stem}-{number}")
        return cls(
            video=out,
            sheet=out.with_suffix(".png"),
            sound_map=out.with_suffix(".map.png") if sound_map else None,
            latents=latents,
        )

    def all(self) -> list[Path]:
        """Those that are wanted, in the order they are written."""
        return [path for path in (self.video, self.sheet, self.sound_map, self.latents) if path is not None]


def write_clip(files: ClipFiles, clip: Clip, spec: ClipSpec, *, maps: Tensor | None, marked: bool) -> list[Path]:
    """Write one clip.

    Args:
        files: where to.
        clip: a batch of one.
        spec: its shape.
        maps: (T, h, w), where the sound comes from; needed if its file is wanted.
        marked: mark impacts on the sheets, which are found as the small world's are.

    Returns:
        What was written.

    Raises:
        ValueError: a file cannot be written.
    """
    video = Video(clip.video.frames.cpu(), clip.video.fps)
    audio = replace(clip.audio, waveform=clip.audio.waveform.cpu())
    rows = _impacts(video, audio) if marked else []
    write_video(files.video, video, audio)
    write_image(files.sheet, sheet([strip(video, audio, rows)]))
    if files.sound_map is not None:
        assert maps is not None
        write_image(files.sound_map, sheet([strip(heated(video, maps, spec.grid.frame_stride), audio, rows)]))
    if files.latents is not None:
        save_latents(files.latents, clip.latents, spec)
    return files.all()


def _impacts(video: Video, audio: Audio) -> list[list[Mark]]:
    """Impacts seen, and those heard, each a row of marks."""
    frames = video.frames[0].float()
    height, width = frames.shape[2:]
    if height != _WORLD_HEIGHT:  # speeds and sizes are judged in pixels
        size = _WORLD_HEIGHT, max(1, round(width * _WORLD_HEIGHT / height))
        frames = F.interpolate(frames.transpose(0, 1), size=size, mode="bilinear", antialias=True).transpose(0, 1)
    wave = resample(to_mono(audio), SAMPLE_RATE).waveform[0]
    return [marks(track_impacts(frames, video.fps)), marks(hear_impacts(wave))]

"""What can be measured of any clip without weights of others: sync, motion, loudness, clipping, lengths."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ..audio_ops import resample
from ..measure.sync import measure_sync
from ..media import to_mono
from ..types import Audio, Video
from ..world.av_align import av_align, motion_peaks, sound_onsets

FULL_SCALE = 0.999
"""From which on a sample counts as clipped."""
QUIETEST = -100.0
"""dB of full scale that stand for silence."""
SYNC_SECONDS = 0.5
_ONSET_RATE = 16_000
_MULTIPLE = 16  # of the sides, for the optical flow

Figures = Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One or several figures of a clip.

    Attributes:
        what: in words, with the direction that is better if there is one.
        measure: of pictures (1, 3, F, H, W) in [-1, 1] and sound; empty where it says nothing of this clip.
    """

    what: str
    measure: Callable[[Video, Audio], Figures]


def _sync(video: Video, audio: Audio) -> Figures:
    if min(video.seconds, audio.seconds) < SYNC_SECONDS or video.frames.shape[2] < 3:
        return {}
    found = measure_sync(video.frames[0].transpose(0, 1).add(1).div(2), audio, video.fps)
    figures = {"sync_score": found.score, "events_seen": float(len(found.seen)), "events_heard": float(len(found.heard))}
    return {**figures, "sync_offset_ms": 1000 * found.offset} if found.clear else figures


def _av_align(video: Video, audio: Audio) -> Figures:
    frames = video.frames[0]
    height, width = (side // _MULTIPLE * _MULTIPLE for side in frames.shape[2:])
    if frames.shape[1] < 4 or not height or not width:
        return {}
    heard = resample(to_mono(audio), _ONSET_RATE).waveform[0]
    both, union = av_align(motion_peaks(frames[:, :, :height, :width], video.fps), sound_onsets(heard), video.fps)
    return {"av_align": both / union} if union else {}


def _loudness(video: Video, audio: Audio) -> Figures:
    del video
    power = float(audio.waveform.double().square().mean())
    clipped = float((audio.waveform.abs() >= FULL_SCALE).double().mean())
    return {"loudness_db": max(QUIETEST, 10 * math.log10(power)) if power else QUIETEST, "clipped": clipped}


def _motion(video: Video, audio: Audio) -> Figures:
    del audio
    return {"motion": float(video.frames.diff(dim=2).abs().mean()) / 2} if video.frames.shape[2] > 1 else {}


def _lengths(video: Video, audio: Audio) -> Figures:
    return {"seconds": video.seconds, "sound_longer_by": audio.seconds - video.seconds}


METRICS: Mapping[str, Metric] = {
    "sync": Metric(what="events that meet, beyond chance (higher is better); offset where it is clear", measure=_sync),
    "av_align": Metric(what="peaks of motion and onsets of sound that meet (decides little)", measure=_av_align),
    "loudness": Metric(what="level, and share of samples at full scale (lower is better)", measure=_loudness),
    "motion": Metric(what="mean change from frame to frame, share of full range", measure=_motion),
    "lengths": Metric(what="seconds of the frames, and by how much the sound is longer", measure=_lengths),
}
"""By name."""


def measure_clip(video: Video, audio: Audio | None) -> dict[str, float]:
    """All figures of a clip; one without sound has those of its frames alone."""
    figures: dict[str, float] = {}
    sound = audio or Audio(video.frames.new_zeros(1, 1, max(1, round(video.seconds * _ONSET_RATE))), _ONSET_RATE)
    for name, metric in METRICS.items():
        if audio is not None or name == "motion":
            figures |= metric.measure(video, sound)
    return {**figures, "has_sound": float(audio is not None)}

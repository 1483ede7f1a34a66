"""What is measured on a pair of pictures and sound, and what it says about many pairs.

Each measure of a clip is a fraction; over many clips numerators and denominators are summed, so that a clip with more events
weighs more and a clip with none weighs nothing. Intervals are bootstrapped over clips.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..measure.matching import match, nearest_offsets
from .av_align import av_align, motion_peaks, sound_onsets
from .clip import SAMPLE_RATE, Floats, WorldClip
from .judges import Judges, features, mouths
from .trackers import Found, hear_impacts, track_impacts, track_releases
from .voice import likeness, portrait

Fractions = dict[str, tuple[float, float]]

_REACH = 6  # pictures to each side in which an event's partner is looked for to measure offsets
_SHIFTS = 12
_RESAMPLES = 1000


@dataclass(frozen=True)
class Interval:
    """A figure over clips with its 95 % bootstrap interval; NaN where no clip says anything about it."""

    value: float
    low: float
    high: float
    clips: int


@dataclass(frozen=True)
class Seen:
    """What the pictures of a clip show."""

    impacts: Found
    releases: Floats
    embedding: Tensor
    motion: float
    peaks: Floats


@dataclass(frozen=True)
class Heard:
    """What the sound of a clip holds."""

    impacts: Found
    releases: Floats
    words: tuple[str, ...]
    embedding: Tensor
    voice: tuple[float, Floats]
    loudness: float
    onsets: Floats


@torch.no_grad()
def look(frames: Tensor, fps: float, judges: Judges) -> Seen:
    """Judge the pictures of a clip by themselves.

    Args:
        frames: (3, F, 64, 64) in [-1, 1].
        fps: pictures a second.
        judges: the trained networks.
    """
    return Seen(
        impacts=track_impacts(frames, fps),
        releases=track_releases(frames, fps),
        embedding=judges.syncnet.pictures(mouths(frames[None].float()))[0],
        motion=float(frames.float().diff(dim=1).abs().mean()) if frames.shape[1] > 1 else 0.0,
        peaks=motion_peaks(frames, fps),
    )


@torch.no_grad()
def listen(wave: Tensor, frames: int, fps: float, judges: Judges) -> Heard:
    """Judge the sound of a clip by itself.

    Args:
        wave: (1, samples) in [-1, 1] at 16 kHz.
        frames: pictures of the clip.
        fps: pictures a second.
        judges: the trained networks.
    """
    words, opened = judges.listener.hear(wave.float())
    return Heard(
        impacts=hear_impacts(wave),
        releases=opened,
        words=tuple(words),
        embedding=judges.syncnet.sound(features(wave.float()), frames, fps)[0],
        voice=portrait(wave[0].double().numpy()),
        loudness=float(wave.float().square().mean()),
        onsets=sound_onsets(wave),
    )


def compare(seen: Seen, heard: Heard, truth: WorldClip) -> Fractions:
    """Every measure that applies to a clip of this kind, as numerator and denominator."""
    found: Fractions = {"motion": (seen.motion, 1.0), "loudness": (heard.loudness, 1.0)}
    frame = 1 / truth.spec.fps
    found["av_align"] = av_align(seen.peaks, heard.onsets, truth.spec.fps)
    if truth.kind != "talk":
        found |= _events("event", seen.impacts.times, heard.impacts.times, frame)
        pairs = match(seen.impacts.times, heard.impacts.times, 2 * frame).pairs
        alike = sum(seen.impacts.materials[i] == heard.impacts.materials[j] for i, j in pairs)
        found["material"] = (alike, len(pairs))
    if truth.kind in {"talk", "complex"}:
        found |= _events("closure", seen.releases, heard.releases, frame)
        known = match(truth.times("release"), seen.releases, 2 * frame)
        found["closure_truth_f1"] = (2 * len(known.pairs), known.first + known.second)
        said = [word.text for word in truth.words]
        found["words"] = (len(said) - edits(said, list(heard.words)), len(said))
        if truth.reference is not None:
            found["voice"] = (likeness(heard.voice, portrait(truth.reference.astype(np.float64))), 1.0)
    if truth.kind == "talk":
        confidence, distance, offset = sync(seen.embedding, heard.embedding)
        found |= {"sync_c": (confidence, 1.0), "sync_d": (distance, 1.0), "sync_offset": (offset, 1.0)}
    return found


def compare_shuffled(seen: Seen, heard: Heard, truth: WorldClip, other: WorldClip) -> Fractions:
    """Every measure of pictures beside the sound of another clip; of one speaker's two clips, none of the voice."""
    found = compare(seen, heard, truth)
    if truth.voice and truth.voice == other.voice:
        found.pop("voice", None)
    return found


def _events(name: str, seen: Floats, heard: Floats, frame: float) -> Fractions:
    """F1 at two tolerances, and the mean of heard minus seen, milliseconds."""
    found: Fractions = {}
    for tolerance, suffix in ((2, ""), (1, "_1")):
        pairs = match(seen, heard, tolerance * frame)
        found[f"{name}_f1{suffix}"] = (2 * len(pairs.pairs), pairs.first + pairs.second)
    offsets = nearest_offsets(seen, heard, _REACH * frame)
    found[f"{name}_offset"] = (1000 * float(offsets.sum()), len(offsets))
    return found


def sync(seen: Tensor, heard: Tensor) -> tuple[float, float, float]:
    """Sync-C, Sync-D and the shift in pictures at which both agree best.

    The mean distance of embeddings is taken at every shift up to half a second to each side. Sync-D is the least, Sync-C the
    median less the least; a positive shift says that the sound comes late.

    Args:
        seen: (F, E), of length 1.
        heard: (F, E), of length 1.
    """
    reach = min(_SHIFTS, len(seen) - 1)
    shifts = range(-reach, reach + 1)
    distances = [
        float((seen[max(0, -s) : len(seen) - max(0, s)] - heard[max(0, s) : len(heard) + min(0, s)]).norm(dim=1).mean())
        for s in shifts
    ]
    best = int(np.argmin(distances))
    return float(np.median(distances)) - distances[best], distances[best], float(shifts[best])


def edits(wanted: Sequence[str], given: Sequence[str]) -> int:
    """Insertions, deletions and exchanges that turn one list into the other (Levenshtein)."""
    row = list(range(len(given) + 1))
    for i, want in enumerate(wanted, start=1):
        last, row[0] = row[0], i
        for j, got in enumerate(given, start=1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (want != got))
    return row[-1]


def intervals(clips: Sequence[Fractions], *, seed: int = 0) -> dict[str, Interval]:
    """Sum fractions over clips, and bootstrap.

    ``loudness`` becomes decibels of full scale, -100 and above.
    """
    rng = np.random.default_rng(seed)
    names = dict.fromkeys(name for clip in clips for name in clip)
    return {name: _interval(name, [clip[name] for clip in clips if name in clip], rng) for name in names}


def _interval(name: str, fractions: Sequence[tuple[float, float]], rng: np.random.Generator) -> Interval:
    # Words where nothing was said have a numerator alone, and count.
    table = np.array([fraction for fraction in fractions if any(fraction)], dtype=np.float64).reshape(-1, 2)
    count = len(table)
    if not table[:, 1].any():
        return Interval(float("nan"), float("nan"), float("nan"), 0)
    sums = table[rng.integers(count, size=(_RESAMPLES, count))].sum(axis=1)
    top, bottom = np.concatenate([table.sum(axis=0, keepdims=True), sums[sums[:, 1] > 0]]).T
    values = top / bottom
    if name == "loudness":
        values = 10 * np.log10(np.maximum(values, 1e-10))
    low, high = np.percentile(values[1:], [2.5, 97.5])
    return Interval(float(values[0]), float(low), float(high), count)


def evaluate_pairs(frames: Tensor, audio: Tensor, truth: Sequence[WorldClip], judges: Judges) -> dict[str, Interval]:
    """Measure pairs of pictures and sound.

    Keys, where they apply to the kinds of ``truth``: ``event_f1`` and ``event_f1_1`` (tolerance of two pictures and of one),
    ``event_offset`` (heard minus seen, ms), ``material`` (colour against pitch), ``closure_f1``, ``closure_f1_1`` and
    ``closure_offset`` (openings of the mouth in the pictures against those the listener infers from the sound),
    ``closure_truth_f1`` (openings in the pictures against the known ones: of use where the true sound drove the pictures),
    ``sync_c``, ``sync_d``, ``sync_offset``, ``words`` (1 less the word error rate of all clips together, by the listener; below
    0 where more is wrong than was said), ``voice`` (likeness to the reference), ``motion`` (mean change from picture to
    picture), ``loudness`` (dB of full scale) and ``av_align`` (which decides nothing, see :mod:`.av_align`).

    Args:
        frames: (N, 3, F, 64, 64) in [-1, 1].
        audio: (N, 1, samples) in [-1, 1] at 16 kHz.
        truth: the clip each pair was made for: its kind, transcript, reference and events.
        judges: the trained networks.

    Raises:
        ValueError: shapes do not fit each other, or values are not finite.
    """
    check_pairs(frames, audio, truth)
    count, fps = frames.shape[2], truth[0].spec.fps
    return intervals(
        [
            compare(look(f, fps, judges), listen(a, count, fps, judges), clip)
            for f, a, clip in zip(frames, audio, truth, strict=True)
        ]
    )


def check_pairs(frames: Tensor, audio: Tensor, truth: Sequence[WorldClip]) -> None:
    """Refuse pairs that are not clips of the world.

    Raises:
        ValueError: shapes do not fit each other, or values are not finite.
    """
    if not truth:
        raise ValueError("there are no clips to measure")
    spec = truth[0].spec
    want = (len(truth), 3, spec.frames, spec.height, spec.width)
    if tuple(frames.shape) != want or tuple(audio.shape) != (len(truth), 1, spec.samples):
        raise ValueError(
            f"{len(truth)} clips have frames {want} and audio {(len(truth), 1, spec.samples)}, "
            f"got {tuple(frames.shape)} and {tuple(audio.shape)}"
        )
    if any(clip.spec != spec for clip in truth):
        raise ValueError("clips that are measured together are of one split")
    if not (torch.isfinite(frames).all() and torch.isfinite(audio).all()):
        raise ValueError("frames and audio to measure have values that are not finite numbers")


def flat(figures: Mapping[str, Interval], prefix: str) -> dict[str, float]:
    """Figures as plain numbers: ``prefix.name``, ``prefix.name.low`` and ``prefix.name.high``."""
    found: dict[str, float] = {}
    for name, figure in figures.items():
        found |= {
            f"{prefix}.{name}": figure.value,
            f"{prefix}.{name}.low": figure.low,
            f"{prefix}.{name}.high": figure.high,
        }
    return found


def delayed(audio: Tensor, frames: float, fps: float) -> Tensor:
    """Sound that comes ``frames`` pictures late, silent at its start; as long as before."""
    late = round(frames * SAMPLE_RATE / fps)
    return torch.nn.functional.pad(audio, (late, 0))[..., : audio.shape[-1]]

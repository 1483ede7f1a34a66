"""Find events in pictures and in sound, with nothing known but what the world looks and sounds like.

The same functions judge true and generated clips. Times are in seconds from the start of the clip, as exact as the medium
allows: a bounce is placed between two pictures where the paths before and after it meet.
"""

# F pictures, H W size, S spectra, B bins

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor

from .clip import SAMPLE_RATE, Floats
from .drawing import Colour
from .mouth import releases
from .scenes import COLOURS
from .sound import MATERIALS, modes


@dataclass(frozen=True)
class Found:
    """Events in the order of time: when, and of which material."""

    times: Floats
    materials: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class BallTracker:
    """Settings of :func:`track_impacts`.

    Attributes:
        smallest: mass of a ball that counts as seen, pixels.
        kink: change of velocity that counts as a contact, pixels per picture.
        approach: velocity towards the surface before it, pixels per picture.
        apart: seconds between two events of a ball.
        delay: seconds added to the times, so that they are right on average on true clips.
    """

    smallest: float = 8.0
    kink: float = 1.15
    approach: float = 0.5
    apart: float = 0.09
    delay: float = 0.0


@dataclass(frozen=True, kw_only=True)
class OnsetTracker:
    """Settings of :func:`hear_impacts`.

    Attributes:
        rise: least increase of the level in a material's bands, relative to the loudest possible impact.
        over_tail: least increase relative to what was ringing there before.
        apart: seconds between two onsets.
        delay: seconds added to the times.
    """

    rise: float = 0.02
    over_tail: float = 0.30
    apart: float = 0.06
    delay: float = 0.0


def track_impacts(frames: Tensor, fps: float, tracker: BallTracker | None = None) -> Found:
    """Contacts of coloured balls seen in the pictures.

    Args:
        frames: (3, F, H, W) in [-1, 1].
        fps: pictures a second.
        tracker: settings.
    """
    tracker = tracker or BallTracker()
    found = []
    for material, colour in COLOURS.items():
        mass, x, y = centroid(colour_likeness(frames, colour))
        seen = mass > tracker.smallest
        found += [(time, material) for time in _kinks(x, y, seen, mass, fps, tracker)]
    found.sort()
    return Found(np.array([time for time, _ in found]), tuple(material for _, material in found))


def colour_likeness(frames: Tensor, colour: Colour) -> npt.NDArray[np.float32]:
    """How much of each pixel has this hue, (F, H, W), 0 to 1: chroma along the colour's, less that across it."""
    pixels = frames.detach().float().permute(1, 2, 3, 0).numpy() / 2
    chroma = pixels - pixels.mean(axis=-1, keepdims=True)
    wanted = np.asarray(colour, np.float32) - np.mean(colour)
    length = float(np.linalg.norm(wanted))
    along = chroma @ (wanted / length).astype(np.float32)
    across = np.sqrt(np.maximum((chroma**2).sum(-1) - along**2, 0))
    return np.clip((along - across) / length / 0.8 - 0.2, 0, 1)


def centroid(weight: npt.NDArray[np.float32]) -> tuple[Floats, Floats, Floats]:
    """Mass, x and y of the weight in each picture; positions are of no meaning where there is no mass."""
    height, width = weight.shape[1:]
    mass = weight.sum(axis=(1, 2), dtype=np.float64)
    safe = np.maximum(mass, 1e-9)
    x = (weight.sum(axis=1, dtype=np.float64) @ (np.arange(width) + 0.5)) / safe
    y = (weight.sum(axis=2, dtype=np.float64) @ (np.arange(height) + 0.5)) / safe
    return mass, x, y


def _kinks(x: Floats, y: Floats, seen: npt.NDArray[np.bool_], mass: Floats, fps: float, tracker: BallTracker) -> list[float]:
    """Times at which the path of a ball turns sharply away from floor or wall."""
    candidates = []
    for k in range(1, len(x) - 2):
        around = slice(k - 1, k + 3)
        if not seen[around].all() or np.ptp(mass[around]) > 0.4 * mass[around].max():
            continue
        for path, sides in ((y, (1,)), (x, (1, -1))):
            before, after = path[k] - path[k - 1], path[k + 2] - path[k + 1]
            for side in sides:  # moving towards the surface, then not
                turn = side * (before - after)
                if turn > tracker.kink and side * before > tracker.approach and side * after < 0.35 * side * before:
                    candidates.append((turn, (k + 0.5 + _meeting(path[k - 1 : k + 3])) / fps + tracker.delay))
    kept: list[float] = []
    for _, time in sorted(candidates, reverse=True):
        if all(abs(time - other) > tracker.apart for other in kept):
            kept.append(time)
    return sorted(kept)


def _meeting(path: Floats) -> float:
    """Where the line through the first two of four positions meets that through the last two, in steps after the second."""
    before, after = path[1] - path[0], path[3] - path[2]
    return float(np.clip((path[2] - after - path[1]) / (before - after), 0, 1))


_WINDOW, _HOP = 512, 80


def hear_impacts(wave: Tensor, tracker: OnsetTracker | None = None) -> Found:
    """Onsets of ringing balls in the sound.

    Args:
        wave: (1, samples) or (samples,), at 16 kHz.
        tracker: settings.
    """
    tracker = tracker or OnsetTracker()
    levels = _mode_levels(np.asarray(wave.detach().float().reshape(-1), dtype=np.float64))
    ahead = 4  # hops over which a level rises
    rises = {name: np.maximum(0, level[ahead:] - level[:-ahead]) for name, level in levels.items()}
    best = np.max(list(rises.values()), axis=0)
    names = list(rises)
    candidates = []
    for k in range(1, len(best) - 1):
        if best[k] < tracker.rise or best[k] < best[max(0, k - 6) : k + 7].max():
            continue
        name = names[int(np.argmax([rises[n][k] for n in names]))]
        if best[k] > tracker.over_tail * levels[name][k]:
            candidates.append((best[k], _attack(levels[name], k, ahead) + tracker.delay, name))
    kept: list[tuple[float, str]] = []
    for _, time, name in sorted(candidates, reverse=True):
        if all(abs(time - other) > tracker.apart for other, _ in kept):
            kept.append((time, name))
    kept.sort()
    return Found(np.array([time for time, _ in kept]), tuple(name for _, name in kept))


def _mode_levels(wave: Floats) -> dict[str, Floats]:
    """Level of each material's fundamental over time, (S,): amplitude where only its modes sound."""
    padded = np.pad(wave, (_WINDOW // 2, _WINDOW))
    count = len(wave) // _HOP + 1
    n = np.arange(_WINDOW)
    window = np.hanning(_WINDOW)
    blocks = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW)[::_HOP][:count]
    out = {}
    for name in MATERIALS:
        tones = [np.exp(-2j * np.pi * hertz * n / SAMPLE_RATE) * window for hertz, _, _ in modes(name)[:2]]
        parts = np.abs(blocks @ np.stack(tones, axis=1)) * (2 / window.sum())
        out[name] = np.sqrt(parts[:, 0] * np.minimum(parts[:, 0], 2 * parts[:, 1]))
    return out


def _attack(level: Floats, k: int, ahead: int) -> float:
    """When the level passed the middle of its rise, seconds."""
    low = level[k]
    peak = level[k : k + 2 * ahead + 1].max()
    middle = (low + peak) / 2
    for step in range(k, min(k + 2 * ahead, len(level) - 1)):
        if level[step + 1] >= middle:
            part = (middle - level[step]) / max(level[step + 1] - level[step], 1e-9)
            return (step + float(np.clip(part, 0, 1))) * _HOP / SAMPLE_RATE
    return (k + ahead) * _HOP / SAMPLE_RATE


def mouth_openness(frames: Tensor) -> Floats:
    """How far the mouth is open in each picture, (F,), 0 to about 1, from the height of its dark red inside.

    Args:
        frames: (3, F, H, W) in [-1, 1].
    """
    pixels = (frames.detach().float().numpy() + 1) / 2
    red, green, blue = pixels
    # Neither skin, lips nor balls are red over blue over green in this way: skin has blue below green, balls have it high.
    inside = np.clip(1.5 * (np.minimum(red - blue, 3 * (blue - green)) / 0.26 - 0.35), 0, 1)
    inside *= np.clip((0.62 - red) / 0.12, 0, 1)
    height = np.sort(inside.sum(axis=1), axis=1)[:, -3:].mean(axis=1)
    reference = max(np.percentile(height, 95), _SMALLEST_MOUTH)
    return np.asarray(height / reference, dtype=np.float64)


_SMALLEST_MOUTH = 6.0  # pixels of height when wide open


def track_releases(frames: Tensor, fps: float) -> Floats:
    """Times at which a shut mouth opens, (n,), seconds.

    Args:
        frames: (3, F, H, W) in [-1, 1].
        fps: pictures a second.
    """
    return releases(mouth_openness(frames), fps, start=0.5 / fps)

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
        approach: velocity towards the floor before it, pixels per picture.
        sideways: velocity towards a wall before it, pixels per picture; slower ones touch it without a sound.
        steady: change of the mass around a contact that is still taken for the same ball, as a part of the mass.
        apart: seconds between two events of a ball.
        delay: seconds added to the times, so that they are right on average on true clips.
    """

    smallest: float = 8.0
    kink: float = 1.15
    approach: float = 0.5
    sideways: float = 1.2
    steady: float = 0.5
    apart: float = 0.09
    delay: float = 0.0


@dataclass(frozen=True, kw_only=True)
class OnsetTracker:
    """Settings of :func:`hear_impacts`.

    Attributes:
        rise: least increase of the level of a material's modes above their surroundings, of full scale.
        over_tail: least increase relative to what was ringing there before.
        decay: seconds in which what was ringing is taken to fall to a third, so that what speech covers for a while is no
            onset when it is heard again.
        ring: how far both modes have to stand above their surroundings after the onset and above themselves before it, a sum of
            natural logarithms: a ball rings on, and speech, which crosses a mode now and then, does not.
        apart: seconds between two onsets.
        delay: seconds added to the times.
    """

    rise: float = 0.015
    over_tail: float = 0.30
    decay: float = 0.06
    ring: float = 2.5
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
        if not seen[around].all() or np.ptp(mass[around]) > tracker.steady * mass[around].max():
            continue
        for path, sides, approach in ((y, (1,), tracker.approach), (x, (1, -1), tracker.sideways)):
            before, after = path[k] - path[k - 1], path[k + 2] - path[k + 1]
            for side in sides:  # moving towards the surface, then not
                turn = side * (before - after)
                if turn > tracker.kink and side * before > approach and side * after < 0.35 * side * before:
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
_BESIDE = (-110.0, -80.0, 80.0, 110.0)  # Hz from a mode to where it is not heard any more, and speech would be
_AHEAD = 8  # hops over which the modes come out of the noise of an onset
_ATTACK = 4  # hops over which a level rises
_QUIET = 1e-4


def hear_impacts(wave: Tensor, tracker: OnsetTracker | None = None) -> Found:
    """Onsets of ringing balls in the sound, beside speech too.

    Args:
        wave: (1, samples) or (samples,), at 16 kHz.
        tracker: settings.
    """
    tracker = tracker or OnsetTracker()
    modes_ = _modes(np.asarray(wave.detach().float().reshape(-1), dtype=np.float64))
    levels = {name: _level(mode.at) for name, mode in modes_.items()}
    clear = {name: _level(np.maximum(0, mode.at - mode.beside)) for name, mode in modes_.items()}
    tails = {name: _tail(level, tracker.decay) for name, level in clear.items()}
    rises = {
        name: np.minimum(clear[name][_AHEAD:] - tails[name][:-_AHEAD], level[_AHEAD:] - level[:-_AHEAD])
        for name, level in levels.items()
    }
    best = np.max(list(rises.values()), axis=0)
    candidates = []
    for k in range(1, len(best) - 1):
        if best[k] < tracker.rise or best[k] < best[max(0, k - _AHEAD) : k + _AHEAD + 1].max():
            continue
        name = max(rises, key=lambda material: float(rises[material][k]))
        if best[k] > tracker.over_tail * tails[name][k]:
            time = _attack(levels[name], _steepest(levels[name], k), _ATTACK)
            if _ringing(modes_[name], levels[name], round(time * SAMPLE_RATE / _HOP)) > tracker.ring:
                candidates.append((best[k], time + tracker.delay, name))
    kept: list[tuple[float, str]] = []
    for _, time, name in sorted(candidates, reverse=True):
        if all(abs(time - other) > tracker.apart for other, _ in kept):
            kept.append((time, name))
    kept.sort()
    return Found(np.array([time for time, _ in kept]), tuple(name for _, name in kept))


@dataclass(frozen=True)
class _Modes:
    """Amplitudes of a material's first two modes, (S, 2), and the highest beside each, (S, 2)."""

    at: Floats
    beside: Floats


def _modes(wave: Floats) -> dict[str, _Modes]:
    """The first two modes of each material over time."""
    padded = np.pad(wave, (_WINDOW // 2, _WINDOW))
    count = len(wave) // _HOP + 1
    n = np.arange(_WINDOW)
    window = np.hanning(_WINDOW)
    blocks = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW)[::_HOP][:count]
    out = {}
    for name in MATERIALS:
        hertz = np.array([[mode + offset for offset in (0.0, *_BESIDE)] for mode, _, _ in modes(name)[:2]])
        tones = np.exp(-2j * np.pi * hertz.reshape(-1, 1) * n / SAMPLE_RATE) * window
        parts = (np.abs(blocks @ tones.T) * (2 / window.sum())).reshape(count, *hertz.shape)
        out[name] = _Modes(parts[..., 0], parts[..., 1:].max(axis=-1))
    return out


def _level(parts: Floats) -> Floats:
    """Level of a material, (S,), from its two modes, (S, 2): that of its fundamental where only its modes sound."""
    return np.sqrt(parts[:, 0] * np.minimum(parts[:, 0], 2 * parts[:, 1]))


def _tail(level: Floats, decay: float) -> Floats:
    """What may still be ringing: the level, falling no faster than ``decay``."""
    tail = level.copy()
    kept = np.exp(-_HOP / SAMPLE_RATE / decay)
    for k in range(1, len(tail)):
        tail[k] = max(tail[k], kept * tail[k - 1])
    return tail


def _steepest(level: Floats, k: int) -> int:
    """Where the level rises most, of the hops around a candidate."""
    first, last = max(0, k - 2), max(k, min(k + _AHEAD, len(level) - _ATTACK - 1))
    return first + int(np.argmax([level[j + _ATTACK] - level[j] for j in range(first, last + 1)]))


def _ringing(mode: _Modes, level: Floats, k: int) -> float:
    """How clearly a ball rings from hop ``k`` on; see ``OnsetTracker.ring``."""
    after, before = level[k + 4 : k + 8], level[max(0, k - 8) : max(0, k - 4)]
    rise = np.log((_mean(after) + _QUIET) / (_mean(before) + _QUIET))
    over = np.log((mode.at[k + 4 : k + 12] + _QUIET) / (mode.beside[k + 4 : k + 12] + _QUIET))
    return float(rise + (over.min(axis=0).sum() if len(over) else 0))


def _mean(values: Floats) -> float:
    return float(values.mean()) if len(values) else 0.0


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

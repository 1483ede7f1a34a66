"""Pictures of high dynamic range (HLG and PQ of ITU-R BT.2100) to what a standard screen shows.

Diffuse white, 203 cd/m² (BT.2408), becomes white; what is below three quarters of it keeps its light, what is above is rolled
off instead of cut. FFmpeg's own way (zscale and tonemap) is not in the builds that PyAV ships, which lack zscale.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from av.video.frame import VideoFrame

PQ, HLG = 16, 18
"""Transfer functions by their number in ITU-T H.273."""
NAMES = {PQ: "PQ", HLG: "HLG"}

_WIDE = 9  # primaries of BT.2020, by number
_WHITE = 203.0  # cd/m²
_HLG_PEAK, _HLG_GAMMA = 1000.0, 1.2
_KNEE = 0.75
_SCREEN_GAMMA = 2.4  # BT.1886
_LUMA = np.array([0.2627, 0.6780, 0.0593])  # of BT.2020
_TO_BT709 = np.array([[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]])

_Array = np.ndarray[Any, Any]


def transfer_of(frame: VideoFrame) -> int | None:
    """The number of the transfer function, if it is one of high dynamic range."""
    number = int(frame.color_trc or 0)
    return number if number in NAMES else None


def tone_mapped(rgb: _Array, transfer: int, primaries: int) -> _Array:
    """Pictures for a standard screen.

    Args:
        rgb: (H, W, 3) uint16, full range, as coded.
        transfer: ``PQ`` or ``HLG``.
        primaries: their number in ITU-T H.273.

    Returns:
        (H, W, 3) uint8, full range, BT.709.
    """
    signal = rgb.astype(np.float32) / 65535
    light = (_pq(signal) if transfer == PQ else _hlg(signal)) / _WHITE
    if primaries == _WIDE:
        light = np.maximum(light @ _TO_BT709.T, 0)
    over = (light - _KNEE) / (1 - _KNEE)
    light = np.where(over > 0, _KNEE + (1 - _KNEE) * np.tanh(np.maximum(over, 0)), light)
    return np.rint(255 * np.clip(light, 0, 1) ** (1 / _SCREEN_GAMMA)).astype(np.uint8)


def _pq(signal: _Array) -> _Array:
    """Light in cd/m² (BT.2100, table 4)."""
    m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128
    power = signal ** (1 / m2)
    return np.asarray(10_000 * (np.maximum(power - c1, 0) / (c2 - c3 * power)) ** (1 / m1))


def _hlg(signal: _Array) -> _Array:
    """Light in cd/m² of a screen of 1,000 (BT.2100, table 5)."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    scene = np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)
    luminance = np.maximum(scene @ _LUMA, 1e-6)[..., None]
    return np.asarray(_HLG_PEAK * luminance ** (_HLG_GAMMA - 1) * scene)

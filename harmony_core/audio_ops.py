"""Sound as channels: where they are heard, by FFmpeg's names, and their mix.

FFmpeg is asked, through PyAV, for names that are not usual: what runs a model alone needs neither.
"""

from __future__ import annotations

import math

import torch

from .types import Audio

_UNSTATED = " channels"  # FFmpeg's name where a file gives their number alone
_LOW = {"LFE", "LFE2"}
_MIX = {"FL": 1.0, "FR": 1.0, "FC": math.sqrt(2), "FLC": 1.0, "FRC": 1.0}
USUAL = {1: "mono", 2: "stereo", 3: "3.0", 4: "4.0", 5: "5.0", 6: "5.1", 7: "6.1", 8: "7.1"}
"""The usual layout of so many channels."""


def layout_of(audio: Audio) -> str:
    """The layout of a sound: its own where it has one of as many channels, else the usual one.

    Raises:
        ValueError: there is no layout of so many channels here.
    """
    channels = audio.waveform.shape[1]
    if audio.layout is not None and _channels(audio.layout) == channels:
        return audio.layout
    if channels not in USUAL:
        raise ValueError(f"sound has 1 to {max(USUAL)} channels, got {channels}")
    return USUAL[channels]


def channel_names(audio: Audio) -> list[str]:
    """The channels in order, such as FL, FR, LFE; without names where there are too many."""
    import av  # noqa: PLC0415 - see above

    channels = audio.waveform.shape[1]
    if channels not in USUAL:
        return [""] * channels
    return [channel.name for channel in av.AudioLayout(layout_of(audio)).channels]


def known_layout(name: str, channels: int) -> str | None:
    """A layout as a file has it; None where it says nothing but the number of channels."""
    stated = _UNSTATED not in name and _channels(name) == channels
    return name if stated and name != USUAL.get(channels) else None


def _channels(name: str) -> int:
    import av  # noqa: PLC0415 - see above

    try:
        return av.AudioLayout(name).nb_channels
    except ValueError:  # no layout of FFmpeg's, such as "4 channels"
        return 0


def to_mono(audio: Audio) -> Audio:
    """Mix all channels into one, without raising the level of any sum above full scale.

    Sound with a low-frequency channel (2.1, 5.1, 7.1) is mixed as players fold it down: without that channel, the centre 3 dB
    higher and the surrounds 3 dB lower than the front. The channels of any other sound are averaged.
    """
    weights = torch.ones(audio.waveform.shape[1])
    if len(weights) > 2 and _LOW & set(names := channel_names(audio)):
        weights = torch.tensor([0.0 if name in _LOW else _MIX.get(name, math.sqrt(0.5)) for name in names])
    weights = (weights / weights.sum()).to(audio.waveform)
    return Audio((audio.waveform * weights[:, None]).sum(1, keepdim=True), audio.sample_rate)

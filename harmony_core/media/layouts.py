"""Where the channels of a sound are heard, by FFmpeg's names."""

from __future__ import annotations

import av

from ..types import Audio

_UNSTATED = " channels"  # FFmpeg's name where a file gives their number alone
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
    channels = audio.waveform.shape[1]
    if channels not in USUAL:
        return [""] * channels
    return [channel.name for channel in av.AudioLayout(layout_of(audio)).channels]


def known_layout(name: str, channels: int) -> str | None:
    """A layout as a file has it; None where it says nothing but the number of channels."""
    stated = _UNSTATED not in name and _channels(name) == channels
    return name if stated and name != USUAL.get(channels) else None


def _channels(name: str) -> int:
    try:
        return av.AudioLayout(name).nb_channels
    except ValueError:  # no layout of FFmpeg's, such as "4 channels"
        return 0

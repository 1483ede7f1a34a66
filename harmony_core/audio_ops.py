"""What is done to audio before and after any codec: its rate, its channels by FFmpeg's names, and their mix.

FFmpeg resamples, and is asked for names of layouts that are not usual, through PyAV: what runs a model alone needs neither.
"""

from __future__ import annotations

import math
from contextlib import suppress
from fractions import Fraction
from typing import Any

import numpy as np
import torch

from .types import Audio

# FFmpeg's polyphase sinc resampler: 128 taps under a Kaiser window (beta 12) that end the pass band at 0.98 of Nyquist, where
# its default of 32 taps lets a tone 500 Hz above Nyquist through at -26 dB.
RESAMPLER = "filter_size=128:cutoff=0.98:kaiser_beta=12"
RESAMPLE_BLOCK = 1 << 16
SAMPLE_RATES = (1_000, 768_000)
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


def resample(audio: Audio, sample_rate: int) -> Audio:
    """The same sound at another rate; the first samples coincide.

    PyAV is used because it is there wherever this package is: torchaudio, whose resampler is pure Python, does not import
    beside a CPU-only torch. It runs on the CPU and is not differentiable.

    Args:
        audio: (B, C, samples), any device.
        sample_rate: Hz wanted.

    Returns:
        float32, ``samples * sample_rate / audio.sample_rate`` samples, rounded, at least 1, on the same device; the audio
        itself where it has the rate already.

    Raises:
        ValueError: a rate outside 1 to 768 kHz, or with a fraction of a Hz.
    """
    if audio.sample_rate == sample_rate:
        return audio
    low, high = SAMPLE_RATES
    for rate in (audio.sample_rate, sample_rate):
        if not low <= rate <= high or rate != int(rate):
            raise ValueError(f"sound is resampled between whole rates of {low} to {high} Hz, got {rate}")
    wave = audio.waveform.detach().float().cpu()
    length = max(1, round(wave.shape[2] * sample_rate / audio.sample_rate))
    rows = [_resample_row(row.numpy(), int(audio.sample_rate), int(sample_rate), length) for row in wave.flatten(0, 1)]
    result = torch.from_numpy(np.stack(rows)) if rows else wave.new_zeros(0, length)
    return Audio(result.reshape(*wave.shape[:2], length).to(audio.waveform.device), sample_rate, audio.layout)


def _resample_row(wave: np.ndarray, rate_in: int, rate_out: int, length: int) -> np.ndarray:
    import av  # noqa: PLC0415 - a machine that only samples may lack it

    graph = av.filter.Graph()
    source = graph.add_abuffer(sample_rate=rate_in, format="fltp", layout="mono", time_base=Fraction(1, rate_in))
    graph.link_nodes(source, graph.add("aresample", f"{rate_out}:{RESAMPLER}"), graph.add("abuffersink")).configure()
    pieces: list[np.ndarray] = []
    for start in range(0, len(wave), RESAMPLE_BLOCK):
        block = np.ascontiguousarray(wave[None, start : start + RESAMPLE_BLOCK])
        frame = av.AudioFrame.from_ndarray(block, format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = rate_in, start, Fraction(1, rate_in)
        graph.push(frame)
        _pull(graph, pieces)
    graph.push(None)
    _pull(graph, pieces)
    out = np.concatenate(pieces)[:length] if pieces else np.zeros(0, np.float32)
    return np.pad(out, (0, length - len(out)))


def _pull(graph: Any, pieces: list[np.ndarray]) -> None:
    import av  # noqa: PLC0415 - as above

    with suppress(av.error.BlockingIOError, av.error.EOFError):  # nothing more for now, or at all
        while True:
            pieces.append(graph.pull().to_ndarray()[0])

"""Speed and memory of the codecs: the video codec beside diffusers' in one run, and the audio codec against the clock.

Weights are random and of middling width: the ratios are those of the code, not of a file. The two implementations take turns
with the same weights, shapes and threads, and medians are compared.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ..codecs.audio import AudioCodec, audio_codec_preset
from ..codecs.video_vae import VideoVAE, VideoVAEConfig
from ..timing import interleaved
from ..weights.video_vae import from_diffusers


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much is measured.

    Attributes:
        width: channels of the finest level of both towers.
        clips: (frames, height, width) of the clips timed; the ratio is that of the total times.
        rounds: turns each implementation takes.
        peak_clip: height and width of the clips whose memory is measured.
        peak_width: channels of the finest level there.
        preset: of the audio codec.
        seconds: of sound.
    """

    width: int
    clips: tuple[tuple[int, int, int], ...]
    rounds: int
    peak_clip: tuple[int, int]
    peak_width: int
    preset: str
    seconds: float


FULL = Plan(
    width=64,
    clips=((17, 128, 128), (9, 192, 256)),
    rounds=3,
    peak_clip=(128, 128),
    peak_width=16,
    preset="mmaudio-16k",
    seconds=1.0,
)
QUICK = Plan(width=8, clips=((5, 32, 32),), rounds=1, peak_clip=(128, 128), peak_width=8, preset="tiny", seconds=0.5)


def measure(*, quick: bool = False) -> dict[str, float]:
    """Measure the codecs.

    Args:
        quick: a few seconds' worth, to see that it runs; the figures mean nothing then.

    Returns:
        ``video_decode_over_diffusers`` and ``video_encode_over_diffusers``: our time over theirs.
        ``video_decode_peak_241_over_49``: memory of decoding 241 frames over that of 49, weights and result aside.
        ``audio_decode_realtime_factor``: seconds of computing for a second of sound.

    Raises:
        ValueError: diffusers is not installed, or the system does not say how much memory a process has.
    """
    plan = QUICK if quick else FULL
    decode, encode = _over_diffusers(plan)
    return {
        "video_decode_over_diffusers": decode,
        "video_encode_over_diffusers": encode,
        "video_decode_peak_241_over_49": _peak(plan, 241) / _peak(plan, 49),
        "audio_decode_realtime_factor": _audio(plan),
    }


def _config(width: int) -> VideoVAEConfig:
    return VideoVAEConfig(
        encoder_width=width, decoder_width=width, multipliers=(1, 2, 4, 4), blocks=2, mean=(0.0,) * 48, std=(1.0,) * 48
    )


def _theirs(config: VideoVAEConfig) -> Any:
    try:
        from diffusers import AutoencoderKLWan  # noqa: PLC0415 - an extra: only this measurement needs it
    except ImportError as error:
        raise ValueError("the video codec is measured beside diffusers: pip install diffusers") from error
    return AutoencoderKLWan(
        base_dim=config.encoder_width,
        decoder_base_dim=config.decoder_width,
        z_dim=config.channels,
        dim_mult=list(config.multipliers),
        num_res_blocks=config.blocks,
        temperal_downsample=[False, True, True],
        latents_mean=list(config.mean),
        latents_std=list(config.std),
        is_residual=True,
        in_channels=12,
        out_channels=12,
        patch_size=2,
        scale_factor_spatial=16,
    )


@torch.no_grad()
def _over_diffusers(plan: Plan) -> tuple[float, float]:
    """Our time over theirs, decoding and encoding."""
    config = _config(plan.width)
    theirs = _theirs(config).eval()
    ours = VideoVAE(config)
    ours.load_state_dict(from_diffusers(theirs.state_dict(), ours.state_dict()))
    totals = [0.0] * 4
    for frames, height, width in plan.clips:
        x = torch.rand(1, 3, frames, height, width) * 2 - 1
        z = torch.randn(1, config.channels, 1 + (frames - 1) // 4, height // 16, width // 16)
        works: dict[str, Callable[[], object]] = {
            "our decoding": partial(ours.decode, z),
            "their decoding": partial(theirs.decode, z),
            "our encoding": partial(ours.encode, x),
            "their encoding": partial(theirs.encode, x),
        }
        times = interleaved(works, rounds=plan.rounds, device=x.device).values()
        totals = [total + seconds for total, seconds in zip(totals, times, strict=True)]
    return totals[0] / totals[1], totals[2] / totals[3]


def _peak(plan: Plan, frames: int) -> float:
    """Bytes by which a fresh process grows while it decodes a clip, two latents at a time, and lets go of each piece."""
    call = f"from {__name__} import print_peak; print_peak({frames}, {plan.peak_clip}, {plan.peak_width})"
    # Freed blocks go back to the system at once: else the process grows by the allocator's habits more than by the codec's.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    done = subprocess.run([sys.executable, "-c", call], capture_output=True, text=True, check=False, env=environment)  # noqa: S603 - ourselves
    if done.returncode:
        raise ValueError(f"the memory of decoding {frames} frames could not be measured: {done.stderr.strip()[-300:]}")
    return float(done.stdout)


def print_peak(frames: int, size: tuple[int, int], width: int) -> None:
    """Decode in this process and print by how much it grew at most; for :func:`_peak`, in a process of its own.

    Raises:
        ValueError: the system does not say how much memory a process has.
    """
    torch.set_num_threads(1)  # threads that wait for one another make a busy machine many times slower, and use no less memory
    vae = VideoVAE(_config(width)).requires_grad_(False)
    latents = torch.randn(1, vae.config.channels, 1 + (frames - 1) // 4, size[0] // 16, size[1] // 16)
    # What only the first call allocates (thread pools, compiled kernels) is there before counting starts.
    vae.decode(latents[:, :, :1, :2, :2])
    before = _memory("VmRSS")
    for _piece in vae.decode_chunks(latents, chunk=2):
        pass
    sys.stdout.write(f"{_memory('VmHWM') - before}\n")


def _memory(kind: str) -> int:
    """Bytes of this process: resident now (VmRSS) or at most so far (VmHWM)."""
    status = Path("/proc/self/status")
    if not status.is_file():
        raise ValueError("the memory of decoding is measured on Linux only")
    (line,) = (line for line in status.read_text().splitlines() if line.startswith(kind))
    return int(line.split()[1]) * 1024


def _audio(plan: Plan) -> float:
    torch.manual_seed(0)
    return decode_realtime_factor(AudioCodec(audio_codec_preset(plan.preset)), seconds=plan.seconds)


def decode_realtime_factor(codec: AudioCodec, *, seconds: float = 4.0, repeats: int = 3) -> float:
    """Seconds of computing for a second of sound: latents to waveform, the fastest of ``repeats`` after one to warm up.

    Args:
        codec: any, also with random weights.
        seconds: of sound, rounded up to whole latents.
        repeats: timed runs.

    Returns:
        Below 1 is faster than real time.
    """
    length = codec.latents(max(1, round(seconds * codec.config.mel.sample_rate)))
    latents = torch.randn(1, codec.config.vae.latent_channels, length, generator=torch.Generator().manual_seed(0))
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        sound = codec.decode(latents)
        sound.waveform.cpu()  # waits for a GPU
        times.append(time.perf_counter() - start)
    return min(times[1:]) / sound.seconds

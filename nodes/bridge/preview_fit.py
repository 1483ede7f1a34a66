"""Linear maps from latents to what they look and sound like, good enough to watch a clip come about.

A checkpoint's codecs are shown the demo's clip and voices, and what a latent covers is fitted to it by least squares: the mean
colour of its pixels, and the mel spectrum of its samples. A preview then takes a matrix product and no decoder.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ...harmony_core.codecs.audio import AudioCodec
from ...harmony_core.codecs.mel import log_mel
from ...harmony_core.codecs.video_vae import VideoVAE
from ...harmony_core.media import read_audio, read_video
from .demo import FOLDER

BANDS = 20
"""Of the spectrum that is shown."""

_PENALTY = 1e-3

# B clips, C channels of a latent, n values that are fitted


def fit_colours(codec: VideoVAE) -> Tensor:
    """(C + 1, 3): colours in [-1, 1] of a normalised video latent, the last row for a 1 after its channels."""
    frames = read_video(FOLDER / "bouncing.mp4").frames
    latents = codec.encode(frames).float().cpu()
    _, _, count, height, width = latents.shape
    later = frames[:, :, 1:].unflatten(2, (count - 1, -1)).mean(3)
    covered = torch.cat([frames[:, :, :1], later], dim=2)
    return least_squares([latents], [F.adaptive_avg_pool3d(covered, (count, height, width))])


def fit_spectrum(codec: AudioCodec) -> Tensor:
    """(C + 1, BANDS): log-mel levels of an audio latent, the last row for a 1 after its channels."""
    latents, levels = [], []
    for name in ("speech.wav", "voice.wav"):
        sound = read_audio(FOLDER / name)
        latents.append(codec.encode(sound).float().cpu())
        mel = log_mel(codec.waveform(sound), codec.config.mel).float().cpu()
        levels.append(F.adaptive_avg_pool2d(mel[:, None], (BANDS, latents[-1].shape[2]))[:, 0])
    return least_squares(latents, levels)


def applied(latents: Tensor, fitted: Tensor) -> Tensor:
    """Latents (C, ...) of one clip to (..., n)."""
    fitted = fitted.to(latents.device)
    return latents.float().movedim(0, -1) @ fitted[:-1] + fitted[-1]


def least_squares(latents: list[Tensor], wanted: list[Tensor]) -> Tensor:
    """(C + 1, n) of latents (B, C, ...) and what each should give, (B, n, ...)."""

    def rows(tensors: list[Tensor]) -> Tensor:
        return torch.cat([x.movedim(1, -1).flatten(0, -2).double() for x in tensors])

    given, targets = rows(latents), rows(wanted)
    given = torch.cat([given, given.new_ones(len(given), 1)], dim=1)
    penalty = _PENALTY * len(given) * torch.eye(given.shape[1], dtype=given.dtype)
    penalty[-1, -1] = 0  # the mean is as it is
    return torch.linalg.solve(given.T @ given + penalty, given.T @ targets).float()

"""From a finished joint latent to pictures and sound."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ...harmony_core.types import Modality
from .codec import check_vae
from .latent import Latent, clip_of


def decode(latent: Latent, video_vae: Any, audio_vae: Any) -> tuple[Tensor, dict[str, Any], float]:
    """Decode both streams.

    Returns:
        IMAGE (B F, H, W, 3), AUDIO exactly as long, and the pictures per second.

    Raises:
        ValueError: the latent is not of both streams.
    """
    spec = clip_of(latent)
    check_vae(video_vae, Modality.VIDEO)
    check_vae(audio_vae, Modality.AUDIO)
    video, audio = latent["samples"].unbind()
    images = video_vae.decode(video)
    wave = audio_vae.decode(audio).movedim(-1, 1)
    samples = round(spec.seconds * audio_vae.audio_sample_rate)
    return images.flatten(0, 1), {"waveform": wave[..., :samples], "sample_rate": audio_vae.audio_sample_rate}, spec.fps

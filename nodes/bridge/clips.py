"""Several clips in one IMAGE and one AUDIO.

ComfyUI has no batch of videos: an IMAGE is one row of pictures, and whoever makes a video of it takes one sound. So both hold
the clips one after the other, and a video of them is heard from its first picture to its last. The AUDIO says beside its
samples how many clips it holds; nodes that cut or mix sound leave that out, and then it is of one clip.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

COUNT = "clips"

# B clips, F pictures, C channels


def joined(waves: Tensor, rate: int) -> dict[str, Any]:
    """AUDIO of the sounds (B, C, samples) of B clips, one after the other."""
    return {"waveform": torch.cat(tuple(waves), -1)[None], "sample_rate": rate, COUNT: len(waves)}


def separate(audio: dict[str, Any]) -> Tensor:
    """The sounds (B, C, samples) of the clips in AUDIO: joined ones, or those of a batch."""
    waves: Tensor = audio["waveform"]
    count = int(audio.get(COUNT, 1))
    return torch.cat(waves.chunk(count, -1)) if len(waves) == 1 and waves.shape[-1] % count == 0 else waves


def sounds_of(images: Tensor, audio: dict[str, Any]) -> Tensor:
    """Likewise, beside IMAGE (F, H, W, channels) of the same clips; one sound where the pictures are of fewer."""
    return separate(audio) if len(images) % int(audio.get(COUNT, 1)) == 0 else audio["waveform"]

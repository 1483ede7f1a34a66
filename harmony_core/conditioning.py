"""What the model is told about a clip, as tensors; whatever is missing is the model's learned "nothing"."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Conditioning:
    """The conditions of a batch of clips.

    Attributes:
        video_caption: caption tokens for the picture, (B, n, text_dim).
        audio_caption: caption tokens for the sound, (B, n, text_dim).
        transcript: symbol numbers of what is spoken, (B, length) int64.
        reference: audio latents of a voice or a sound to be like, (B, channels, n).
        dropped: (B,) bool, clips whose captions and transcript are to be taken as missing (training); None for none.
    """

    video_caption: Tensor | None = None
    audio_caption: Tensor | None = None
    transcript: Tensor | None = None
    reference: Tensor | None = None
    dropped: Tensor | None = None

    def without_text(self) -> Conditioning:
        """The same without captions and transcript; the reference stays."""
        return replace(self, video_caption=None, audio_caption=None, transcript=None, dropped=None)

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Conditioning:
        """On a device, its floating-point tensors in ``dtype``."""
        moved = {name: value.to(device, dtype if value.is_floating_point() else None) for name, value in self._present()}
        return replace(self, **moved)

    def check(self, batch: int) -> None:
        """Refuse conditions of another batch.

        Raises:
            ValueError: a condition has a batch other than ``batch``, or NaNs.
        """
        for name, value in self._present():
            if value.shape[0] != batch:
                raise ValueError(f"{name} has a batch of {value.shape[0]}, the clip has {batch}")
            if value.is_floating_point() and not torch.isfinite(value).all():
                raise ValueError(f"{name} has values that are not finite")
        if self.dropped is not None and self.dropped.dtype != torch.bool:
            raise ValueError(f"which clips are dropped is a bool mask, got {self.dropped.dtype}")

    def _present(self) -> Iterator[tuple[str, Tensor]]:
        for f in fields(self):
            value = getattr(self, f.name)
            if value is not None:
                yield f.name, value

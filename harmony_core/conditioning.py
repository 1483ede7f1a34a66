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
        has_reference: (B,) bool, clips whose row of ``reference`` counts; the others are as without one. None for all.
        dropped: (B,) bool, clips whose captions and transcript are to be taken as missing (training); None for none.
    """

    video_caption: Tensor | None = None
    audio_caption: Tensor | None = None
    transcript: Tensor | None = None
    reference: Tensor | None = None
    has_reference: Tensor | None = None
    dropped: Tensor | None = None

    def without_text(self) -> Conditioning:
        """The same without captions and transcript; the reference stays."""
        return replace(self, video_caption=None, audio_caption=None, transcript=None, dropped=None)

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Conditioning:
        """On a device, its floating-point tensors in ``dtype``."""
        moved = {name: value.to(device, dtype if value.is_floating_point() else None) for name, value in self._present()}
        return replace(self, **moved)

    def check(self, batch: int, *, values: bool = True) -> None:
        """Refuse conditions of another batch.

        Args:
            batch: number of clips.
            values: look for NaNs too, for which the host waits until a GPU has computed them.

        Raises:
            ValueError: a condition has a batch other than ``batch``, or NaNs.
        """
        for name, value in self._present():
            if value.shape[0] != batch:
                raise ValueError(f"{name} has a batch of {value.shape[0]}, the clip has {batch}")
            if values and value.is_floating_point() and not torch.isfinite(value).all():
                raise ValueError(f"{name} has values that are not finite")
        for name in ("dropped", "has_reference"):
            mask = getattr(self, name)
            if mask is not None and mask.dtype != torch.bool:
                raise ValueError(f"{name} is a mask of bool, got {mask.dtype}")
        if self.has_reference is not None and self.reference is None:
            raise ValueError("has_reference says which clips have a reference, and there is none")

    def _present(self) -> Iterator[tuple[str, Tensor]]:
        for f in fields(self):
            value = getattr(self, f.name)
            if value is not None:
                yield f.name, value

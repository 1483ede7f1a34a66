"""Where in the picture a sound comes from: the frame-wise attention between sound and picture, captured (Figure 6)."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

from ..types import Modality


class SoundMapRecorder:
    """Collects frame-wise attention over chosen layers and a part of a run.

    Put one into a run's setting; afterwards :meth:`maps` gives the picture. Where no recorder is given nothing is computed.

    Two attentions can tell where a sound is. Where sound reads the picture, an audio token's attention is spread over the
    patches: that is the map. Where sound is given and reads nothing (audio-driven video), the picture still reads the
    sound, and the same scores, compared over the patches instead of over the sound, say which patch listens most.

    Attributes:
        layers: which layers are recorded; None for all.
        start: sigma from which steps are recorded; 1 is from the beginning.
        end: sigma down to which they are; 0 is to the end.
    """

    def __init__(self, *, layers: Collection[int] | None = None, start: float = 1.0, end: float = 0.0) -> None:
        if not 0 <= end <= start <= 1:
            raise ValueError(f"steps are recorded from a sigma of start down to end, in [0, 1], got {start} to {end}")
        self.layers = layers
        self.start = start
        self.end = end
        self._size = (0, 0)
        self._sums: dict[Modality, Tensor] = {}

    def wants_layer(self, layer: int) -> bool:
        """Whether this layer is recorded."""
        return self.layers is None or layer in self.layers

    def wants_step(self, sigma: float) -> bool:
        """Whether a step at this sigma is recorded."""
        return self.end <= sigma <= self.start

    def begin(self) -> None:
        """Start another run: what was recorded before is dropped."""
        self._sums.clear()

    def set_size(self, height: int, width: int) -> None:
        """Tell the token rows and columns of a video frame."""
        self._size = (height, width)

    def add(self, target: Modality, weight: Tensor) -> None:
        """Add one layer's attention.

        Args:
            target: the stream that read the other.
            weight: (B, frames, patches), not negative.
        """
        weight = weight.detach().float().cpu()
        self._sums[target] = self._sums[target] + weight if target in self._sums else weight

    def maps(self) -> Tensor:
        """The recorded maps.

        Returns:
            (B, frames, H, W) in [0, 1]: token rows and columns of each video latent, 1 at a clip's strongest point.

        Raises:
            ValueError: nothing was recorded.
        """
        for target in (Modality.AUDIO, Modality.VIDEO):
            if target in self._sums:
                total = self._sums[target]
                peak = total.amax(dim=(1, 2), keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
                return (total / peak).unflatten(2, self._size)
        raise ValueError("no sound-source map was recorded: the model has no frame-wise attention, or no chosen step ran")

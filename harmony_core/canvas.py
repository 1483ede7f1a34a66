"""What of a clip is given and what is to be generated: every task is such a canvas.

| task | video | audio |
|---|---|---|
| joint | generated | generated |
| audio-driven video | generated | given |
| video-driven audio | given | generated |
| first frame given | latent frame 0 given | generated |
| keep some seconds | given where kept | given where kept |

A given latent has time 0 and comes back bit for bit; the model learns all of these as one mechanism, a time per token.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .geometry import ClipSpec
from .types import AV, Modality

# B batch, F video latents in time, L audio latents


@dataclass(frozen=True, kw_only=True)
class Canvas:
    """A batch of clips, partly given.

    Attributes:
        spec: shape of the clips.
        given: clean latents, zeros where nothing is given: (B, channels, F, H, W) and (B, channels, L).
        free: which latents in time are generated, bool: (B, F) and (B, L).
    """

    spec: ClipSpec
    given: AV[Tensor]
    free: AV[Tensor]

    def __post_init__(self) -> None:
        batch = self.given.video.shape[0]
        shapes = AV(self.spec.video_shape(batch), self.spec.audio_shape(batch))
        for m in Modality:
            if tuple(self.given[m].shape) != shapes[m]:
                raise ValueError(f"{m.value} latents of this clip are {shapes[m]}, got {tuple(self.given[m].shape)}")
            if not torch.isfinite(self.given[m]).all():
                raise ValueError(f"the given {m.value} latents have values that are not finite")
        lengths = AV(self.spec.latent_frames, self.spec.audio_latents)
        for m in Modality:
            if self.free[m].dtype != torch.bool or tuple(self.free[m].shape) != (batch, lengths[m]):
                raise ValueError(f"what is free of the {m.value} is a bool mask of shape {(batch, lengths[m])}")
        for m in Modality:
            whole = ~self.free[m].any(1)
            if whole.any() and not whole.all():
                raise ValueError(f"the {m.value} is given whole in some clips of the batch and not in others; split the batch")
        if not any(mask.any() for mask in self.free):
            raise ValueError("both streams are given as a whole: there is nothing to generate; leave one of them free")

    @classmethod
    def blank(cls, spec: ClipSpec, *, batch: int = 1) -> Canvas:
        """Nothing given: joint generation."""
        return cls(
            spec=spec,
            given=AV(torch.zeros(spec.video_shape(batch)), torch.zeros(spec.audio_shape(batch))),
            free=AV(
                torch.ones(batch, spec.latent_frames, dtype=torch.bool),
                torch.ones(batch, spec.audio_latents, dtype=torch.bool),
            ),
        )

    def with_given(self, modality: Modality, latents: Tensor, kept: Tensor | None = None) -> Canvas:
        """The same canvas with latents of one stream given.

        Args:
            modality: which stream.
            latents: clean latents of the whole stream, (B or 1, channels, ...).
            kept: (F,) or (L,) bool, which of them to keep; None for all: the stream drives the other.

        Raises:
            ValueError: another shape, or nothing is left to generate.
        """
        whole, free = self.given[modality], self.free[modality]
        if latents.ndim != whole.ndim or latents.shape[1:] != whole.shape[1:] or latents.shape[0] not in {1, whole.shape[0]}:
            raise ValueError(f"{modality.value} latents of this clip are {tuple(whole.shape)}, got {tuple(latents.shape)}")
        kept = torch.ones_like(free[0]) if kept is None else kept
        if kept.shape != free.shape[1:]:
            raise ValueError(f"which {modality.value} latents to keep is a mask of {free.shape[1]}, got {tuple(kept.shape)}")
        kept = kept.to(free)
        return Canvas(
            spec=self.spec,
            given=self.given.replace(modality, torch.where(over_latents(kept[None], whole), latents.to(whole), whole)),
            free=self.free.replace(modality, free & ~kept),
        )

    def with_first_frame(self, latent: Tensor) -> Canvas:
        """The same canvas with the first video latent given, (B or 1, channels, 1, H, W)."""
        whole = self.given.video
        if latent.ndim != 5 or latent.shape[2] != 1:
            raise ValueError(f"a first frame is (batch, channels, 1, height, width), got {tuple(latent.shape)}")
        first = torch.arange(whole.shape[2]) == 0
        return self.with_given(Modality.VIDEO, latent.expand(-1, -1, whole.shape[2], -1, -1), first)

    @property
    def batch(self) -> int:
        """Number of clips."""
        return self.given.video.shape[0]

    @property
    def driver(self) -> Modality | None:
        """The stream that is given as a whole in every clip, if one is."""
        return next((m for m in Modality if not self.free[m].any()), None)

    @property
    def generated(self) -> AV[bool]:
        """Which streams are generated at least in part."""
        return self.free.map(lambda mask: bool(mask.any()))

    def times(self, sigma: AV[float]) -> AV[Tensor]:
        """The time of every latent: sigma where it is generated, 0 where it is given; (B, F) and (B, L)."""
        return self.free.map(lambda mask, s: mask * s, sigma)

    def compose(self, x: AV[Tensor]) -> AV[Tensor]:
        """``x`` where it is generated, the given latents elsewhere, exactly."""
        return x.map(lambda value, given, mask: torch.where(over_latents(mask, value), value, given), self.given, self.free)

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Canvas:
        """On a device, its latents in ``dtype``."""
        return Canvas(
            spec=self.spec,
            given=self.given.map(lambda x: x.to(device, dtype)),
            free=self.free.map(lambda x: x.to(device)),
        )


def over_latents(mask: Tensor, latents: Tensor) -> Tensor:
    """A mask in time (B, T), shaped to broadcast over latents (B, channels, T, ...)."""
    return mask[:, None].reshape(mask.shape[0], 1, -1, *[1] * (latents.ndim - 3))

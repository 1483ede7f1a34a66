"""Cross-task synergy: L = L_joint + lambda_video L_audio-driven + lambda_audio L_video-driven, over one noise.

    L_joint         both velocities
    L_audio-driven  the video velocity, given the clean sound
    L_video-driven  the audio velocity, given the clean picture

A driver is clean as a whole and has time 0, as in sampling. Every loss is a mean over each clip's generated latents and then
over clips, so that parts of a batch, on one machine or several, average to the whole.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..canvas import over_latents
from ..conditioning import Conditioning
from ..models.harmony import Context, Harmony
from ..models.tables import Tables
from ..types import AV, Modality
from .captions import with_nothing
from .tasks import Batch

Losses = dict[str, Tensor]
"""Scalars by name; ``loss`` is what is minimised, the others say what it is made of."""

NAMES = {None: "joint", Modality.AUDIO: "audio_driven", Modality.VIDEO: "video_driven"}


class Objective(nn.Module):
    """A model with its losses: the one module whose forward pass is trained."""

    def __init__(self, model: Harmony) -> None:
        super().__init__()
        self.model = model
        self._tables = Tables()

    def forward(self, batch: Batch) -> Losses:
        """The losses of a batch.

        Returns:
            ``loss`` and, of the tasks done, ``joint.video``, ``joint.audio``, ``audio_driven.video``, ``video_driven.audio``.
        """
        config, inputs = batch.objective, batch.inputs()
        context = self._context(batch, inputs)
        if config.streams == "audio":
            return self._audio_alone(batch, inputs, context)
        streams = {Modality.VIDEO: config.video_weight, Modality.AUDIO: 1.0}
        losses: Losses = {}
        total = inputs.video.new_zeros(())
        for driver, weight in _weights(batch).items():
            for m, loss in self._task(batch, inputs, context, driver).items():
                losses[f"{NAMES[driver]}.{m.value}"] = loss.detach()
                total = total + weight * streams[m] * loss
        return {"loss": total, **losses}

    def _task(self, batch: Batch, inputs: AV[Tensor], context: Context, driver: Modality | None) -> dict[Modality, Tensor]:
        """Losses of the generated streams of one task."""
        free = AV.of(lambda m: _free(batch, inputs[m], m, driver))
        given = inputs.map(lambda x, clean, mask: torch.where(over_latents(mask, x), x, clean), batch.data, free)
        times = batch.times.map(lambda t, mask: t[:, None] * mask, free)
        velocity = self.model(given, times, context, driver=driver)
        return {m: _loss(velocity[m], batch, m, free[m]) for m in Modality if m is not driver}

    def _audio_alone(self, batch: Batch, inputs: AV[Tensor], context: Context) -> Losses:
        free = _free(batch, inputs.audio, Modality.AUDIO, None)
        velocity = self.model.forward_alone(Modality.AUDIO, inputs.audio, batch.times.audio[:, None], context)
        loss = _loss(velocity, batch, Modality.AUDIO, free)
        return {"loss": loss, "alone.audio": loss.detach()}

    def _context(self, batch: Batch, inputs: AV[Tensor]) -> Context:
        """Conditions, prepared once for all of the batch's passes."""
        captions = AV.of(lambda m: self._caption(m, batch.captions[m], batch.untold[m]))
        told = Conditioning(
            video_caption=captions.video,
            audio_caption=captions.audio,
            transcript=batch.transcript,
            reference=batch.reference,
            has_reference=batch.has_reference,
            dropped=None if self.model.config.one_prompt else batch.dropped,
        )
        # The cache has looked at all values it stores; reading them again would wait for a GPU at every step.
        return self.model.prepare(told, len(batch), device=inputs.audio.device, tables=self._tables, checked=True)

    def _caption(self, modality: Modality, caption: Tensor, untold: Tensor | None) -> Tensor:
        if self.model.caption is not None:
            return self.model.encode_captions(caption)
        return with_nothing(self.model, modality, caption, untold)


def _weights(batch: Batch) -> dict[Modality | None, float]:
    """The tasks of a batch, each a driver, and their weights."""
    config = batch.objective
    if config.mode != "synergy":
        return {batch.driver: 1.0}
    weights: dict[Modality | None, float] = {
        None: 1.0,
        Modality.AUDIO: config.lambda_video,
        Modality.VIDEO: config.lambda_audio,
    }
    return {driver: weight for driver, weight in weights.items() if weight}


def _free(batch: Batch, x: Tensor, modality: Modality, driver: Modality | None) -> Tensor:
    """Which latents in time are generated, (B, T) bool."""
    free = torch.full((len(batch), x.shape[2]), modality is not driver, dtype=torch.bool, device=x.device)
    if modality is Modality.VIDEO and x.shape[2] > 1:
        free[:, 0] &= ~batch.first
    return free


def _loss(velocity: Tensor, batch: Batch, modality: Modality, free: Tensor) -> Tensor:
    """Squared error of a velocity over the latents that are generated."""
    error = (velocity.float() - (batch.noise[modality] - batch.data[modality])).square()
    per_time = error.flatten(3).mean(3).mean(1) if error.ndim > 3 else error.mean(1)
    return ((per_time * free).sum(1) / free.sum(1)).mean()

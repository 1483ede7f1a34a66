"""One sampling run: what is given, what was prepared once, and a step's question to the model.

It lives from the first to the last step, so a run that is cancelled leaves nothing behind and the next one starts clean.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import comfy.model_management
import torch
from torch import Tensor

from ...harmony_core.canvas import over_latents
from ...harmony_core.conditioning import Conditioning
from ...harmony_core.drivers import DriverCache, MemoryBudget
from ...harmony_core.evaluator import Evaluator, Step
from ...harmony_core.flow import adjust_times
from ...harmony_core.geometry import ClipSpec
from ...harmony_core.guidance import FULL, Evaluation
from ...harmony_core.models.harmony import Context, Harmony
from ...harmony_core.models.sound_map import SoundMapRecorder
from ...harmony_core.types import AV, Modality

HOST_BYTES = 16 << 30

# B batch, F video latents in time, L audio latents


@dataclass(frozen=True, kw_only=True)
class Question:
    """What a step asks the model; put into ``transformer_options`` by a guider.

    Attributes:
        evaluation: beside what, and told what; telling is the guider's choice of conditions.
        wanted: the streams whose velocity is used.
        anchors: clean latents of SyncCFG's still and silence, normalised; for mute evaluations.
        recorder: collects sound-source maps of full evaluations.
    """

    evaluation: Evaluation = FULL
    wanted: AV[bool]
    anchors: AV[Tensor] | None = None
    recorder: SoundMapRecorder | None = None


class Run:
    """The state of one sampling run.

    Attributes:
        spec: the clip.
        masks: how much of every latent is generated, in [0, 1]: (B, C, F, H, W) and (B, C, L), C as the latents' or 1.
        free: the most that is generated of anything in each latent in time, (B, F) and (B, L); 0 is given. The model takes one
            time for each of them, so what is generated less is brought to its noise (:meth:`beside`).
        driver: the stream that is given as a whole, if one is.
        gamma: timestep adjustment between the streams; 1 is none. A sampler that walks both sets it.
    """

    def __init__(self, spec: ClipSpec, masks: AV[Tensor], device: torch.device) -> None:
        self.spec = spec
        self.masks = masks
        self.free = AV(masks.video.amax(dim=(1, 3, 4)), masks.audio.amax(dim=1))
        free = self.free
        self.driver = next((m for m in Modality if not bool(free[m].any())), None)
        if self.driver is not None and not bool(free[self.driver.other].any()):
            raise ValueError("latent: both streams are given as a whole; leave one of them free")
        drivers = DriverCache(device, partial(_budget, device))
        self._evaluator = Evaluator(driver=self.driver, fps=spec.fps, drivers=drivers)
        self._contexts: dict[tuple[int, torch.device, torch.dtype], tuple[Conditioning, Context]] = {}
        self.gamma = 1.0

    @classmethod
    def of_masks(cls, spec: ClipSpec, masks: Sequence[Tensor] | None, batch: int, device: torch.device) -> Run:
        """A run of noise masks in the latents' shapes; None for nothing given."""
        if masks is None:
            masks = torch.ones(batch, 1, spec.latent_frames, 1, 1), torch.ones(batch, 1, spec.audio_latents)
        return cls(spec, AV(*masks).map(lambda m: m.to(device)), device)

    @property
    def generated(self) -> AV[bool]:
        """Which streams are generated at least in part."""
        return AV.of(lambda m: m is not self.driver)

    def times(self, t: Tensor) -> AV[Tensor]:
        """The time of every latent where the sampler is at ``t``, (B,)."""
        own = adjust_times(t.tolist(), gamma=self.gamma)
        return self.free.map(lambda free, s: free * free.new_tensor(s)[:, None], own)

    def sigmas(self, sigma: float) -> AV[float]:
        """Each stream's own sigma where the sampler is at ``sigma``."""
        return adjust_times([sigma], gamma=self.gamma).map(lambda values: values[0])

    def on_schedule(self, velocity: AV[Tensor], sigmas: Tensor | None) -> AV[Tensor]:
        """Velocities as the sampler is to see them: where it is, at ``sigmas``, they point to the data of every latent."""
        velocity = velocity.map(lambda v, free: v * over_latents(free, v), self.free)
        if self.gamma == 1 or sigmas is None:
            return velocity
        sigma = float(sigmas.flatten()[0])
        return velocity.map(lambda v, own: v * (own / sigma), self.sigmas(sigma))

    def beside(self, sigma: Tensor, noise: AV[Tensor], image: AV[Tensor], masks: AV[Tensor]) -> AV[Tensor]:
        """What the sampler puts where a latent is given, so that a latent in time has one amount of noise.

        The sampler mixes: mask of its own latents, at ``sigma``, and the rest of what is returned here. For the mixture to have
        the noise of the latent's time, ``sigma free``, this has ``sigma (free - mask) / (1 - mask)`` of it: none where a latent
        in time is as free everywhere, all where the mask is 0 beside what is free.

        Args:
            sigma: where the sampler is, (B,).
            noise: of the run.
            image: what is given.
            masks: of the step, broadcastable to the latents.
        """
        own = self.sigmas(float(sigma.flatten()[0]))

        def mixed(noise: Tensor, image: Tensor, mask: Tensor, free: Tensor, s: float) -> Tensor:
            mask = mask.to(image)
            share = (over_latents(free, image) - mask).clamp(min=0) / (1 - mask).clamp(min=1e-6)
            return torch.lerp(image, noise, s * share)

        return noise.map(mixed, image, masks, self.free, own)

    def free_latents(self, like: AV[Tensor]) -> AV[Tensor]:
        """Which latents are generated, shaped to broadcast over them."""
        return self.free.map(lambda free, x: over_latents(free > 0, x), like)

    def close(self) -> None:
        """Let go of conditions and drivers."""
        self._evaluator.close()
        self._contexts.clear()

    def forget(self, conditions: Conditioning) -> None:
        """Let go of what was prepared of these conditions."""
        for key in [key for key in self._contexts if key[0] == id(conditions)]:
            _, context = self._contexts.pop(key)
            self._evaluator.forget(context)

    def velocity(
        self, model: Harmony, x: AV[Tensor], times: AV[Tensor], conditions: Conditioning, question: Question
    ) -> AV[Tensor]:
        """The velocities asked for; zeros where none is wanted."""
        if not any(question.wanted):
            return x.map(torch.zeros_like)
        anchors = question.anchors
        if anchors is not None:
            anchors = anchors.map(lambda a, latent: a.to(latent).expand(latent.shape[0], *a.shape[1:]), x)
        step = Step(latents=x, times=times, anchors=anchors, recorder=question.recorder)
        context = self._context(model, conditions, x.video)
        velocity = self._evaluator.evaluate(model, question.evaluation, question.wanted, step, context)
        return x.map(lambda latent, v: torch.zeros_like(latent) if v is None else v, velocity)

    @property
    def passes(self) -> dict[Modality, int]:
        """How often each branch was run so far."""
        return self._evaluator.passes

    @property
    def saved(self) -> int:
        """How often a driver did not have to be run again."""
        return self._evaluator.saved

    def _context(self, model: Harmony, conditions: Conditioning, like: Tensor) -> Context:
        # The conditions are kept beside what was made of them, so that their identity stays theirs.
        key = (id(conditions), like.device, like.dtype)
        if key not in self._contexts:
            context = model.prepare(conditions, like.shape[0], device=like.device, dtype=like.dtype)
            self._contexts[key] = (conditions, context)
        return self._contexts[key][1]


def _budget(device: torch.device) -> MemoryBudget:
    """Of drivers: half of what is free beside the loaded model."""
    free_bytes = int(comfy.model_management.get_free_memory(device))
    return MemoryBudget(free_bytes // 2, 0 if device.type == "cpu" else HOST_BYTES)

"""One sampling run: what is given, what was prepared once, and how the model answers a step's question.

It lives from the first to the last step, so a run that is cancelled leaves nothing behind and the next one starts clean.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import comfy.model_management
import torch
from torch import Tensor

from ...harmony_core.canvas import over_latents
from ...harmony_core.conditioning import Conditioning
from ...harmony_core.drivers import DriverCache, Keep, MemoryBudget
from ...harmony_core.geometry import ClipSpec
from ...harmony_core.guidance import FULL, Evaluation
from ...harmony_core.models.harmony import Context, Harmony
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
    """

    evaluation: Evaluation = FULL
    wanted: AV[bool]
    anchors: AV[Tensor] | None = None


class Run:
    """The state of one sampling run.

    Attributes:
        spec: the clip.
        free: how much of every latent in time is generated, in [0, 1]: (B, F) and (B, L); 0 is given.
        driver: the stream that is given as a whole, if one is.
    """

    def __init__(self, spec: ClipSpec, free: AV[Tensor], device: torch.device) -> None:
        self.spec = spec
        self.free = free
        self.driver = next((m for m in Modality if not bool(free[m].any())), None)
        if self.driver is not None and not bool(free[self.driver.other].any()):
            raise ValueError("latent: both streams are given as a whole; leave one of them free")
        free_bytes = int(comfy.model_management.get_free_memory(device))
        on_cpu = device.type == "cpu"
        self._drivers = DriverCache(device, MemoryBudget(free_bytes // 2, 0 if on_cpu else HOST_BYTES))
        self._contexts: dict[int, tuple[Conditioning, Context]] = {}

    @classmethod
    def of_masks(cls, spec: ClipSpec, masks: Sequence[Tensor] | None, batch: int, device: torch.device) -> Run:
        """A run of noise masks in the latents' shapes; None for nothing given."""
        if masks is None:
            free = AV(
                torch.ones(batch, spec.latent_frames, device=device), torch.ones(batch, spec.audio_latents, device=device)
            )
        else:
            free = AV(masks[0].mean(dim=(1, 3, 4)), masks[1].mean(dim=1)).map(lambda m: m.to(device))
        return cls(spec, free, device)

    @property
    def generated(self) -> AV[bool]:
        """Which streams are generated at least in part."""
        return AV.of(lambda m: m is not self.driver)

    def times(self, t: Tensor) -> AV[Tensor]:
        """The time of every latent where the step is at ``t``, (B,)."""
        return self.free.map(lambda free: free * t[:, None].to(free))

    def free_latents(self, like: AV[Tensor]) -> AV[Tensor]:
        """Which latents are generated, shaped to broadcast over them."""
        return self.free.map(lambda free, x: over_latents(free > 0, x), like)

    def close(self) -> None:
        """Let go of conditions and drivers."""
        self._drivers.clear()
        self._contexts.clear()

    def velocity(
        self, model: Harmony, x: AV[Tensor], times: AV[Tensor], conditions: Conditioning, question: Question
    ) -> AV[Tensor]:
        """The velocities asked for; zeros where none is wanted."""
        context = self._context(model, conditions, x.video)
        answer = AV.both(None) if not any(question.wanted) else self._ask(model, x, times, context, question)
        return x.map(lambda latent, v: torch.zeros_like(latent) if v is None else v, answer)

    def _ask(self, model: Harmony, x: AV[Tensor], times: AV[Tensor], context: Context, question: Question) -> AV[Tensor | None]:
        wanted = question.wanted
        company = question.evaluation.company
        if company == "cut":
            return AV.of(lambda m: model.forward_alone(m, x[m], times[m], context) if wanted[m] else None)
        if company == "mute":
            assert question.anchors is not None
            anchors = question.anchors.map(lambda a, latent: a.to(latent).expand(latent.shape[0], *a.shape[1:]), x)
            return AV.of(
                lambda m: self._driven(model, m, x[m], times[m], context, anchors[m.other], "anchor") if wanted[m] else None
            )
        if self.driver is not None:
            target = self.driver.other
            v = self._driven(model, target, x[target], times[target], context, x[self.driver], "given")
            return AV[Tensor | None](None, None).replace(target, v)
        both = Harmony.forward(model, x, times, context, fps=self.spec.fps)
        return both.map(lambda v, want: v if want else None, wanted)

    def _driven(
        self, model: Harmony, target: Modality, x: Tensor, t: Tensor, context: Context, clean: Tensor, role: str
    ) -> Tensor:
        """The target's velocity beside a clean other stream, which is run once where it does not read the target."""
        driver, fps = target.other, self.spec.fps
        if model.config.driver_isolation:

            def read(keep: Keep) -> None:
                model.read_driver(driver, clean, context, keep, other_length=x.shape[2], fps=fps)

            memory = self._drivers.get((driver, role, id(context)), read)
            if memory is not None:
                return model.forward_driven(target, x, t, context, memory, driver_length=clean.shape[2], fps=fps)
        latents = AV.both(clean).replace(target, x)
        times = AV.both(clean.new_zeros(clean.shape[0], 1)).replace(target, t)
        return Harmony.forward(model, latents, times, context, driver=driver, fps=fps)[target]

    def _context(self, model: Harmony, conditions: Conditioning, like: Tensor) -> Context:
        # The conditions are kept beside what was made of them, so that their identity stays theirs.
        key = id(conditions)
        if key not in self._contexts:
            context = model.prepare(conditions, like.shape[0], device=like.device, dtype=like.dtype)
            self._contexts[key] = (conditions, context)
        return self._contexts[key][1]

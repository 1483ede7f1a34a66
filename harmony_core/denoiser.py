"""A model bound to one run: what is given, what it is told, how it is guided. To a sampler it is one velocity.

Conditions are prepared once, drivers are run once, and all of it lives as long as this object: a run that is cancelled leaves
nothing behind.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor

from .canvas import Canvas, over_latents
from .conditioning import Conditioning
from .drivers import DriverCache, MemoryBudget
from .evaluator import Evaluator, Step
from .guidance import Evaluation, Guidance, guide
from .models.harmony import Context, Harmony
from .models.sound_map import SoundMapRecorder
from .types import AV, Modality


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Everything about a run but its noise and its sampler.

    Attributes:
        canvas: what is given and what is generated.
        told: the conditions.
        untold: captions and transcript that take the others' place where text guidance leaves them out (a negative prompt);
            None is the model's "nothing". The reference is the same in both.
        guidance: the guides.
        anchors: clean latents of SyncCFG's drivers, a still for video and silence for audio, (1 or B, channels, ...); needed
            where a guide's anchor is mute.
        use_cache: False runs drivers along at every step, for comparison.
        budget: memory for drivers.
        recorder: collects sound-source maps.
    """

    canvas: Canvas
    told: Conditioning = field(default_factory=Conditioning)
    untold: Conditioning | None = None
    guidance: Guidance = field(default_factory=Guidance)
    anchors: AV[Tensor] | None = None
    use_cache: bool = True
    budget: MemoryBudget | None = None
    recorder: SoundMapRecorder | None = None

    def __post_init__(self) -> None:
        if self.anchors is None and any(g.anchor.company == "mute" for g in self.guidance.guides):
            raise ValueError("SyncCFG needs its anchors: latents of a still picture and of silence, of the clip's shape")
        if self.anchors is not None:
            for m in Modality:
                anchor, given = self.anchors[m], self.canvas.given[m]
                if anchor.shape[1:] != given.shape[1:] or anchor.shape[0] not in {1, given.shape[0]}:
                    raise ValueError(f"the {m.value} anchor is of shape {tuple(anchor.shape)}, the clip {tuple(given.shape)}")
                if not torch.isfinite(anchor).all():
                    raise ValueError(f"the {m.value} anchor has values that are not finite")


class Denoiser:
    """``velocity(x, sigma)`` of one run.

    Attributes:
        device: where it computes.
        dtype: in which it computes; velocities are combined in float32.
        passes: how often each branch was run at the last call; a joint pass counts one of each.
    """

    def __init__(
        self, model: Harmony, setting: Setting, *, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> None:
        """Bind the model.

        Args:
            model: a joint model.
            setting: of the run.
            device: to compute on; where the weights are by default.
            dtype: to compute in; the weights' by default.

        Raises:
            ValueError: the conditions do not fit the model or the canvas.
        """
        parameter = next(model.parameters())
        self.device, self.dtype = device or parameter.device, dtype or parameter.dtype
        layers = model.config.video.layers
        skipped = sorted({layer for one in setting.guidance.guides for layer in one.anchor.skip_layers})
        if any(not 0 <= layer < layers for layer in skipped):
            raise ValueError(f"layers to skip are 0 to {layers - 1}, got {skipped}")
        self._model = model
        self._setting = setting
        self._canvas = setting.canvas.to(self.device, self.dtype)
        self._anchors: AV[Tensor] | None = None
        if setting.anchors is not None:
            self._anchors = setting.anchors.map(
                lambda a: a.to(self.device, self.dtype).expand(self._canvas.batch, *a.shape[1:])
            )
        self._contexts: dict[bool, Context] = {}
        drivers = DriverCache(self.device, setting.budget) if setting.use_cache else None
        self._evaluator = Evaluator(driver=self._canvas.driver, fps=setting.canvas.spec.fps, drivers=drivers)
        self.passes = AV(0, 0)
        if setting.recorder is not None:
            _, rows, columns = model.config.video.patch
            height, width = setting.canvas.spec.latent_size
            setting.recorder.begin()
            setting.recorder.set_size(height // rows, width // columns)

    def __call__(self, x: AV[Tensor], sigma: AV[float]) -> AV[Tensor]:
        """The guided velocity at ``x``.

        Args:
            x: latents, in any float dtype; what is given is put in first.
            sigma: each stream's time.

        Returns:
            Velocities in ``x``'s dtype; zero where latents are given.
        """
        before, canvas = dict(self._evaluator.passes), self._canvas
        inputs = canvas.compose(x.map(lambda value: value.to(self.device, self.dtype)))
        free = canvas.free.map(over_latents, inputs)
        step = Step(latents=inputs, times=canvas.times(sigma), anchors=self._anchors, recorder=self._recorder(sigma))
        with torch.no_grad():
            velocity = guide(partial(self._evaluate, step), self._setting.guidance, sigma, canvas.generated, free)
        self.passes = AV.of(lambda m: self._evaluator.passes[m] - before[m])
        return x.map(lambda value, v, mask: torch.zeros_like(value) if v is None else (v * mask).to(value), velocity, free)

    def close(self) -> None:
        """Let go of conditions and drivers."""
        self._evaluator.close()
        self._contexts.clear()

    # ---- evaluations

    def _evaluate(self, step: Step, what: Evaluation, wanted: AV[bool]) -> AV[Tensor | None]:
        velocity = self._evaluator.evaluate(self._model, what, wanted, step, self._context(what.text))
        return velocity.map(lambda v: None if v is None else v.float())

    def _context(self, text: bool) -> Context:
        if text not in self._contexts:
            told = self._setting.told
            if not text:
                told = replace(self._setting.untold or Conditioning(), reference=told.reference)
            self._contexts[text] = self._model.prepare(told, self._canvas.batch, device=self.device, dtype=self.dtype)
        return self._contexts[text]

    def _recorder(self, sigma: AV[float]) -> SoundMapRecorder | None:
        recorder = self._setting.recorder
        return recorder if recorder is not None and recorder.wants_step(sigma.audio) else None

"""Which passes of the model answer one question of guidance.

There is one evaluator for all: the command line's :class:`~.denoiser.Denoiser`, ComfyUI's nodes, and the estimate, which runs
it with a model that only notes its passes (:func:`.plan.operations.run_of`).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from .config import HarmonyConfig
from .drivers import DriverCache, Keep
from .guidance import FULL, Evaluation
from .models.harmony import Context, DriverMemory
from .models.sound_map import SoundMapRecorder
from .types import AV, Modality


class JointModel(Protocol):
    """The passes of a joint model; see :class:`~.models.harmony.Harmony`."""

    config: HarmonyConfig

    def forward_joint(
        self,
        latents: AV[Tensor],
        times: AV[Tensor],
        context: Context,
        *,
        driver: Modality | None = None,
        fps: float | None = None,
        skip_layers: Collection[int] = (),
        recorder: SoundMapRecorder | None = None,
    ) -> AV[Tensor]:
        """Both streams, one of them perhaps clean."""

    def forward_alone(
        self, modality: Modality, latent: Tensor, t: Tensor, context: Context, *, skip_layers: Collection[int] = ()
    ) -> Tensor:
        """One stream, the interaction cut."""

    def read_driver(
        self,
        driver: Modality,
        latent: Tensor,
        context: Context,
        keep: Keep,
        *,
        other_length: int,
        fps: float | None = None,
        skip_layers: Collection[int] = (),
    ) -> None:
        """A clean stream alone, read for the other."""

    def forward_driven(
        self,
        target: Modality,
        latent: Tensor,
        t: Tensor,
        context: Context,
        memory: DriverMemory,
        *,
        driver_length: int,
        fps: float | None = None,
        skip_layers: Collection[int] = (),
        recorder: SoundMapRecorder | None = None,
    ) -> Tensor:
        """A stream beside what was kept of its driver."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """What the passes of one step are made on.

    Attributes:
        latents: of both streams, what is given in its place: (B, channels, F, H, W) and (B, channels, L).
        times: of every latent in time, (B, F) and (B, L).
        anchors: clean latents of SyncCFG's drivers, of the latents' shapes; for evaluations beside silence or a still.
        recorder: collects sound-source maps of full evaluations.
    """

    latents: AV[Tensor]
    times: AV[Tensor]
    anchors: AV[Tensor] | None = None
    recorder: SoundMapRecorder | None = None


class Evaluator:
    """Answers questions of guidance during one sampling run.

    Attributes:
        passes: how often each branch was run so far; a joint pass counts one of each.
        saved: how often a driver did not have to be run again.
    """

    def __init__(self, *, driver: Modality | None, fps: float, drivers: DriverCache | None) -> None:
        """Begin a run.

        Args:
            driver: the stream that is given as a whole, if one is.
            fps: frames per second of the clip.
            drivers: what is kept of clean streams; None runs them along at every step.
        """
        self._driver = driver
        self._fps = fps
        self._drivers = drivers
        self.passes = dict.fromkeys(Modality, 0)
        self.saved = 0

    def evaluate(
        self, model: JointModel, what: Evaluation, wanted: AV[bool], step: Step, context: Context
    ) -> AV[Tensor | None]:
        """The velocities of the streams that are wanted; None for the others.

        Args:
            model: asked.
            what: beside what it generates, and without which layers.
            wanted: at least one stream; one that is given is not.
            step: its inputs.
            context: the conditions, prepared. The caller keeps it for as long as the run may ask with it, or calls
                :meth:`forget`: what is kept of drivers is found by its identity.
        """
        if what.company == "cut":
            return AV.of(lambda m: self._alone(model, m, what, step, context) if wanted[m] else None)
        if what.company == "mute":
            assert step.anchors is not None
            anchors = step.anchors
            return AV.of(
                lambda m: self._driven(model, m, anchors[m.other], "anchor", what, step, context) if wanted[m] else None
            )
        if self._driver is not None:
            target, given = self._driver.other, step.latents[self._driver]
            velocity = self._driven(model, target, given, "given", what, step, context)
            return AV[Tensor | None](None, None).replace(target, velocity)
        self._count(*Modality)
        joint = model.forward_joint(
            step.latents,
            step.times,
            context,
            fps=self._fps,
            skip_layers=what.skip_layers,
            recorder=step.recorder if what == FULL else None,
        )
        return joint.map(lambda v, want: v if want else None, wanted)

    def forget(self, context: Context) -> None:
        """Let go of the drivers that were run with these conditions."""
        for key in self._drivers or ():
            if key[2] == id(context):  # type: ignore[index]
                assert self._drivers is not None
                self._drivers.drop(key)

    def close(self) -> None:
        """Let go of all drivers."""
        if self._drivers is not None:
            self._drivers.clear()

    def _alone(self, model: JointModel, m: Modality, what: Evaluation, step: Step, context: Context) -> Tensor:
        self._count(m)
        return model.forward_alone(m, step.latents[m], step.times[m], context, skip_layers=what.skip_layers)

    def _driven(
        self, model: JointModel, target: Modality, clean: Tensor, role: str, what: Evaluation, step: Step, context: Context
    ) -> Tensor:
        """The target's velocity beside a clean other stream, which is run once where it does not read the target."""
        recorder = step.recorder if what == FULL else None
        memory = self._memory(model, target, clean, role, what, step, context)
        if memory is not None:
            self._count(target)
            return model.forward_driven(
                target,
                step.latents[target],
                step.times[target],
                context,
                memory,
                driver_length=clean.shape[2],
                fps=self._fps,
                skip_layers=what.skip_layers,
                recorder=recorder,
            )
        self._count(*Modality)
        return model.forward_joint(
            step.latents.replace(target.other, clean),
            AV.both(clean.new_zeros(clean.shape[0], 1)).replace(target, step.times[target]),
            context,
            driver=target.other,
            fps=self._fps,
            skip_layers=what.skip_layers,
            recorder=recorder,
        )[target]

    def _memory(
        self, model: JointModel, target: Modality, clean: Tensor, role: str, what: Evaluation, step: Step, context: Context
    ) -> DriverMemory | None:
        """What the target reads of the clean stream, run at the first question; None where it is to be run along."""
        if self._drivers is None or not model.config.driver_isolation:
            return None
        driver, before = target.other, self.passes[target.other]

        def read(keep: Keep) -> None:
            self._count(driver)
            model.read_driver(
                driver,
                clean,
                context,
                keep,
                other_length=step.latents[target].shape[2],
                fps=self._fps,
                skip_layers=what.skip_layers,
            )

        memory = self._drivers.get((driver, role, id(context), what.skip_layers), read)
        self.saved += memory is not None and self.passes[driver] == before
        return memory

    def _count(self, *branches: Modality) -> None:
        for m in branches:
            self.passes[m] += 1

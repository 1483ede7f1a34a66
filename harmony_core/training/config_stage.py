"""What a stage of training learns and how: its losses, its draws, its optimizer."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from ..records import check_fields, check_most
from .limits import at_least, between

Mode = Literal["synergy", "mixed", "joint"]
Reference = Literal["none", "same_clip", "same_speaker"]


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """The optimizer and its schedule.

    Attributes:
        kind: ``adamw``; or ``muon`` for the matrices inside the network and AdamW for the rest.
        lr: highest learning rate.
        warmup: steps over which it rises from zero.
        decay: ``cosine`` falls to ``final * lr`` at the stage's end, ``constant`` stays.
        final: see ``decay``.
        betas: of AdamW.
        weight_decay: of matrices, kernels and embeddings; biases, gains, modulations and learned tokens have none.
        clip: largest norm of the gradient; 0 leaves it as it is.
    """

    kind: Literal["adamw", "muon"] = "adamw"
    lr: float
    warmup: int = 100
    decay: Literal["cosine", "constant"] = "cosine"
    final: float = 0.05
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.01
    clip: float = 1.0

    def __post_init__(self) -> None:
        check_fields(self, "optimizer")
        at_least(self.warmup, 0, "optimizer.warmup")
        at_least(self.clip, 0, "optimizer.clip")
        at_least(self.weight_decay, 0, "optimizer.weight_decay")
        between(self.final, 0, 1, "optimizer.final")
        if not self.lr > 0:
            raise ValueError(f"optimizer.lr is positive, got {self.lr}")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"optimizer.betas are in [0, 1), got {self.betas}")

    def lr_at(self, step: int, steps: int) -> float:
        """The learning rate of step ``step`` (from 0) of a stage of ``steps``."""
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        if self.decay == "constant":
            return self.lr
        share = (step - self.warmup) / max(1, steps - self.warmup)
        return self.lr * (self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * min(share, 1.0))))


@dataclass(frozen=True, kw_only=True)
class TimeConfig:
    """How times are drawn.

    Attributes:
        distribution: ``uniform`` in [0, 1], or ``logit_normal``: the logistic of a normal draw.
        mean: of the normal draw.
        std: of the normal draw.
        shift: towards noise, as in sampling: ``s t / (1 + (s - 1) t)``; 1 is none.
    """

    distribution: Literal["uniform", "logit_normal"] = "uniform"
    mean: float = 0.0
    std: float = 1.0
    shift: float = 1.0

    def __post_init__(self) -> None:
        check_fields(self, "times")
        if not (self.std > 0 and self.shift > 0):
            raise ValueError(f"times.std and times.shift are positive, got {self.std} and {self.shift}")


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """What is learned in a stage.

    Attributes:
        mode: ``synergy`` is the paper's L_joint + lambda_video L_audio-driven + lambda_audio L_video-driven, three passes over
            one noise; ``mixed`` draws one of the three tasks a batch, one pass, each loss with weight 1; ``joint`` leaves the
            driven tasks out, for comparison.
        streams: ``both``, or ``audio`` to train the audio branch alone.
        lambda_video: weight of the audio-driven video loss (``synergy``).
        lambda_audio: weight of the video-driven audio loss (``synergy``).
        shares: of batches that are joint, audio-driven and video-driven (``mixed``); they sum to 1.
        video_weight: of the video stream's loss beside the audio stream's, in every task.
        independent_times: probability that a clip's streams have times of their own in the joint loss.
        text_drop: probability that a clip's captions and transcript are left out.
        caption_drop: probability, for each of a clip's two captions by itself, that it alone is left out: people write one.
        first_frame: probability that a clip's first video latent is given.
        reference: what the reference is cut from: ``same_clip``, the clip itself, is for training the audio branch alone;
            ``same_speaker`` is another recording (see :meth:`.cache.LatentCache.reference`), and a clip without one has none.
        reference_seconds: shortest and longest reference.
        no_reference: probability that a clip's reference is left out.
        times: how times are drawn.
    """

    mode: Mode = "synergy"
    streams: Literal["both", "audio"] = "both"
    lambda_video: float = 0.1
    lambda_audio: float = 0.3
    shares: tuple[float, float, float] = (0.5, 0.25, 0.25)
    video_weight: float = 1.0
    independent_times: float = 0.25
    text_drop: float = 0.1
    caption_drop: float = 0.0
    first_frame: float = 0.25
    reference: Reference = "same_speaker"
    reference_seconds: tuple[float, float] = (1.0, 3.0)
    no_reference: float = 0.25
    times: TimeConfig = field(default_factory=TimeConfig)

    def __post_init__(self) -> None:
        check_fields(self, "objective")
        for name in ("independent_times", "text_drop", "caption_drop", "first_frame", "no_reference"):
            between(getattr(self, name), 0, 1, f"objective.{name}")
        for name in ("lambda_video", "lambda_audio", "video_weight"):
            at_least(getattr(self, name), 0, f"objective.{name}")
        if min(self.shares) < 0 or abs(sum(self.shares) - 1) > 1e-6:
            raise ValueError(f"objective.shares are not negative and sum to 1, got {self.shares}")
        if self.reference == "same_clip" and self.streams == "both":
            raise ValueError(
                "objective.reference: same_clip hands the model a part of what it is to make; it is for streams: audio, "
                "use same_speaker or none here"
            )
        shortest, longest = self.reference_seconds
        if not 0 < shortest <= longest:
            raise ValueError(f"objective.reference_seconds are a shortest and a longest length, got {self.reference_seconds}")


@dataclass(frozen=True, kw_only=True)
class StageConfig:
    """One stage of the curriculum; its optimizer starts anew.

    Attributes:
        name: of the stage, in logs.
        steps: how many.
        optimizer: of the stage.
        objective: of the stage.
        batch: clips a step, over all processes; None for that of the bucket or of ``run``.
        accumulate: parts a step's batch is computed in; None for ``run.accumulate``.
        tokens: in place of ``batch``, tokens of the stage's streams a step: of each bucket as many clips as fit (see
            :func:`.order.clips_for`).
        train: parts of the model that are trained, by the beginnings of their weights' names, such as ``interaction`` or
            ``video.blocks.0``, or with ``*``; the others stay as they are. All where it is left out.
    """

    name: str
    steps: int
    optimizer: OptimizerConfig
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    batch: int | None = None
    accumulate: int | None = None
    tokens: int | None = None
    train: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_fields(self, "stage")
        at_least(self.steps, 1, "stage.steps")
        for name in ("batch", "accumulate", "tokens"):
            if (value := getattr(self, name)) is not None:
                at_least(value, 1, f"stage.{name}")
        if self.batch is not None:
            check_most(self, "stage", batch=1 << 16)
        if self.batch is not None and self.tokens is not None:
            raise ValueError("stage.batch and stage.tokens both say how many clips a step has: give one of them")

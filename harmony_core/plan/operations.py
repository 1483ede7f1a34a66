"""Multiplications and additions of a pass, and the passes of a step.

Counted are matrix products, convolutions and attention, as torch's own counter does; everything else is small beside them.
What is told is prepared once a run and not counted.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from math import ceil, prod

import torch
from torch import Tensor

from ..config import BranchConfig, HarmonyConfig
from ..drivers import DriverCache, MemoryBudget
from ..evaluator import Evaluator, Step
from ..geometry import ClipSpec
from ..guidance import Evaluation, Guidance, guide
from ..layers.attention import KeysValues
from ..layers.embedding import ConvMLP
from ..models.alignment import align
from ..models.harmony import Context
from ..types import AV, Modality

CONV_MLP_KERNEL = 7


@dataclass(frozen=True)
class Operations:
    """Multiplications and additions, each counted as one operation.

    Attributes:
        products: of matrix products and convolutions.
        attention: of attention, without its projections.
    """

    products: float = 0.0
    attention: float = 0.0

    def __add__(self, other: Operations) -> Operations:
        return Operations(self.products + other.products, self.attention + other.attention)

    @property
    def total(self) -> float:
        """All of them."""
        return self.products + self.attention


@dataclass(frozen=True, kw_only=True)
class Pass:
    """One run of the model; see ``models/harmony.py`` for the three kinds.

    Attributes:
        streams: branches that are run.
        reads: targets for which the other stream is read.
        writes: targets that are changed by what was read, now or earlier.
        clean: streams that have one time for all their tokens.
        unasked: streams that are run for what is read of them alone.
        left_out: number of layers that are skipped.
    """

    streams: frozenset[Modality]
    reads: frozenset[Modality] = frozenset()
    writes: frozenset[Modality] = frozenset()
    clean: frozenset[Modality] = frozenset()
    unasked: frozenset[Modality] = frozenset()
    left_out: int = 0


def joint_pass(config: HarmonyConfig, driver: Modality | None = None) -> Pass:
    """Both streams, one of them perhaps clean."""
    clean = frozenset() if driver is None else frozenset({driver})
    readers = frozenset(Modality) - (clean if config.driver_isolation else frozenset())
    return Pass(streams=frozenset(Modality), reads=readers, writes=readers, clean=clean)


def lone_pass(stream: Modality) -> Pass:
    """One stream, the interaction cut."""
    return Pass(streams=frozenset({stream}))


def driver_pass(driver: Modality) -> Pass:
    """A clean stream alone, read for the other."""
    itself = frozenset({driver})
    return Pass(streams=itself, reads=frozenset({driver.other}), clean=itself, unasked=itself)


def driven_pass(target: Modality) -> Pass:
    """A stream beside what was kept of its driver."""
    return Pass(streams=frozenset({target}), writes=frozenset({target}))


@dataclass
class Run:
    """What a sampling run asks of the model.

    Attributes:
        step: the passes of every evaluation.
        once: the passes of the first evaluation alone.
        drivers: the clean streams that are kept, one entry for each.
        texts: how many sets of conditions there are.
    """

    step: list[Pass] = field(default_factory=list)
    once: list[Pass] = field(default_factory=list)
    drivers: list[Modality] = field(default_factory=list)
    texts: int = 1

    @property
    def branches(self) -> AV[int]:
        """How often each branch is run in an evaluation after the first."""
        return AV.of(lambda m: sum(m in one.streams for one in self.step))


class PassRecorder:
    """A model that computes nothing and notes the passes it is asked for."""

    def __init__(self, config: HarmonyConfig) -> None:
        self.config = config
        self.step: list[Pass] = []
        self.once: list[Pass] = []

    def forward_joint(
        self, latents: AV[Tensor], *_: object, driver: Modality | None = None, skip_layers: Collection[int] = (), **__: object
    ) -> AV[Tensor]:
        """Both streams."""
        self.step.append(replace(joint_pass(self.config, driver), left_out=len(skip_layers)))
        return latents

    def forward_alone(self, modality: Modality, latent: Tensor, *_: object, skip_layers: Collection[int] = ()) -> Tensor:
        """One stream."""
        self.step.append(replace(lone_pass(modality), left_out=len(skip_layers)))
        return latent

    def read_driver(self, driver: Modality, *_: object, skip_layers: Collection[int] = (), **__: object) -> None:
        """A clean stream alone."""
        self.once.append(replace(driver_pass(driver), left_out=len(skip_layers)))

    def forward_driven(
        self, target: Modality, latent: Tensor, *_: object, skip_layers: Collection[int] = (), **__: object
    ) -> Tensor:
        """A stream beside what was kept."""
        self.step.append(replace(driven_pass(target), left_out=len(skip_layers)))
        return latent


def run_of(config: HarmonyConfig, guidance: Guidance, driver: Modality | None = None) -> Run:
    """The passes of a run while all guides act, noted from the evaluator that makes them.

    Args:
        config: of the model.
        guidance: of the run.
        driver: the stream that is given as a whole, if one is.
    """
    acting = replace(guidance, guides=tuple(replace(one, start=1.0, end=0.0) for one in guidance.guides))
    model, empty = PassRecorder(config), AV(torch.empty(1, 1, 1, 1, 1), torch.empty(1, 1, 1))
    contexts = {text: Context(AV[Sequence[KeysValues]]([], []), prefix=None) for text in (True, False)}
    evaluator = Evaluator(driver=driver, fps=config.fps, drivers=DriverCache(torch.device("cpu"), MemoryBudget(0)))
    told: set[bool] = set()

    def evaluate(what: Evaluation, wanted: AV[bool]) -> AV[Tensor | None]:
        told.add(what.text)
        step = Step(latents=empty, times=empty, anchors=empty)
        return evaluator.evaluate(model, what, wanted, step, contexts[what.text])

    def ask() -> list[Pass]:
        model.step = []
        guide(evaluate, acting, AV.both(0.5), AV.of(lambda m: m is not driver), empty)
        return model.step

    ask()  # the first step reads drivers
    return Run(
        step=ask(), once=model.once, drivers=[m for one in model.once for m in Modality if m in one.streams], texts=len(told)
    )


def operations_of(
    config: HarmonyConfig, spec: ClipSpec, passes: Iterable[Pass], *, batch: int = 1, prefix: int = 0
) -> Operations:
    """Operations of some passes.

    Args:
        config: of the model.
        spec: of the clip.
        passes: to be added up.
        batch: number of clips.
        prefix: reference tokens of the sound.
    """
    total = Operations()
    for one in passes:
        layers = config.video.layers - one.left_out
        for m in (m for m in Modality if m in one.streams):
            total += _branch(config, spec, m, prefix, layers, clean=m in one.clean, asked=m not in one.unasked)
        for target in Modality:
            reads, writes = target in one.reads, target in one.writes
            total += _links(config, spec, target, prefix, layers, reads=reads, writes=writes)
    return Operations(batch * total.products, batch * total.attention)


def tokens_of(spec: ClipSpec) -> AV[int]:
    """Tokens of both streams, references aside."""
    return AV(spec.video_tokens, spec.audio_latents)


def _branch(
    config: HarmonyConfig, spec: ClipSpec, m: Modality, prefix: int, layers: int, *, clean: bool, asked: bool
) -> Operations:
    c: BranchConfig = config.video if m is Modality.VIDEO else config.audio
    body = tokens_of(spec)[m]
    prefix = prefix if m is Modality.AUDIO else 0
    length, dim = body + prefix, c.dim
    groups = spec.latent_frames if m is Modality.VIDEO else length
    if clean and not prefix:
        groups = 1
    heard = config.speech.length if config.speech and m is Modality.AUDIO else 0
    layer = length * (6 * dim**2 + 2 * dim * c.ffn)
    head = asked * dim * c.channels * prod(c.patch)
    outside = body * (_embedding(c) + head) + groups * (c.freq_dim * dim + 7 * dim**2)
    attention = 2 * length * dim * (length + c.text_len + heard)
    return Operations(2.0 * (outside + layers * layer), 2.0 * layers * attention)


def _embedding(c: BranchConfig) -> int:
    """Multiplications for a token's patch embedding."""
    if c.embedding == "conv":
        return c.channels * prod(c.patch) * c.dim
    hidden = ConvMLP.MULTIPLE * ceil(8 * c.dim // 3 / ConvMLP.MULTIPLE)
    return CONV_MLP_KERNEL * (c.channels * c.dim + 3 * c.dim * hidden)


def _links(
    config: HarmonyConfig, spec: ClipSpec, target: Modality, prefix: int, layers: int, *, reads: bool, writes: bool
) -> Operations:
    """The links into one stream, over all layers that are run; arguments as for :class:`.Pass`."""
    branches = AV(config.video, config.audio)
    dim, source_dim = branches[target].dim, branches[target.other].dim
    body, source = tokens_of(spec)[target], tokens_of(spec)[target.other]
    link, products, attention = config.interaction, 0, 0
    if link.kind in {"frame_wise", "global", "fused"}:
        products += reads * 2 * source * source_dim * dim
        products += writes * (link.kind != "fused") * 2 * body * dim**2
        attention += writes * 2 * dim * (_pairs(config, spec, target) if link.kind == "frame_wise" else body * source)
    elif link.kind == "cmc_pe":
        times = spec.latent_frames if target.other is Modality.VIDEO else spec.audio_latents
        products += reads * times * (source_dim * dim + dim**2)
    if link.style and link.kind != "none" and target is Modality.AUDIO and prefix:
        products += reads * 2 * source * source_dim * dim + writes * 2 * prefix * dim**2
        attention += writes * 2 * prefix * source * dim
    return Operations(2.0 * layers * products, 2.0 * layers * attention)


def _pairs(config: HarmonyConfig, spec: ClipSpec, target: Modality) -> int:
    """Query and key pairs of frame-wise attention, filling entries with them."""
    patches = spec.video_tokens // spec.latent_frames
    table = align(config, spec.latent_frames, spec.audio_latents, spec.fps)[target]
    rows, width = table.rows.index.shape
    if target is Modality.VIDEO:
        return rows * patches * width
    return rows * width * (2 * config.interaction.window + 1) * patches

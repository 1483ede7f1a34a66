"""The loop: draw, compute, step, average, log, save; the same for the model and for the codecs.

What is trained is an objective, a module that turns a batch into losses, and phases, each with an optimizer of its own. A run
that was killed goes on from its last checkpoint; its losses are then the ones it would have had.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from ..atomic import replacing
from ..inputs import is_file, named, read_text
from ..progress import Progress
from ..records import LARGEST
from ..shown import shown
from .alone import alone
from .checkpoint import Checkpoints
from .config import AnyRun, OptimizerConfig, RunConfig
from .distributed import Weights, World, wrap
from .ema import Ema
from .muon import Muon, is_matrix
from .parts import chosen, is_weight
from .plots import plot_log
from .prefetch import Prefetcher
from .record import check_same, write_record

log = logging.getLogger(__name__)

LOG = "log.jsonl"
LARGEST_LOG = 1 << 30
"""Bytes: of some millions of steps."""
PLOT_EVERY = 200
"""Steps from plot to plot; a plot takes milliseconds."""

B = TypeVar("B", bound="Batch")


class Batch(Protocol):
    """What an objective takes."""

    @property
    def names(self) -> tuple[str, ...]:
        """Of the clips, for messages."""
        ...

    def part(self: B, index: int, parts: int) -> B:
        """One of ``parts`` equal parts."""
        ...

    def to(self: B, device: torch.device | str) -> B:
        """On a device."""
        ...


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A stretch of training with an optimizer of its own.

    Attributes:
        name: in the log.
        steps: how many.
        optimizer: its settings.
        draw: this process's part of the batch of a step, counted over the whole run.
        batches: numbers of clips a step may have, over all processes; that of the run where it is empty.
        accumulate: parts a batch is computed in; None for that of the run.
        train: parts of the network that are trained, see :func:`.parts.chosen`; all where it is empty.
    """

    name: str
    steps: int
    optimizer: OptimizerConfig
    draw: Callable[[int], Any]
    batches: tuple[int, ...] = ()
    accumulate: int | None = None
    train: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Hooks:
    """What else happens when a checkpoint has been written; on the first process, with the averaged weights.

    Attributes:
        export: writes weights in the form in which they are used; it takes them one at a time.
        measure: gives numbers for the log, such as the sync of sampled clips.
    """

    export: Callable[[Weights], None]
    measure: Callable[[int, Mapping[str, Tensor]], Mapping[str, float]] | None = None


def train(
    objective: nn.Module,
    network: nn.Module,
    phases: Sequence[Phase],
    config: AnyRun,
    hooks: Hooks,
    *,
    world: World | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> None:
    """Train.

    Args:
        objective: turns a batch into losses, means over the batch; ``loss`` is minimised.
        network: the module in it that is trained and saved.
        phases: in order.
        config: of the run, kept beside the checkpoints.
        hooks: called after checkpoints.
        world: the processes; this one alone by default.
        resume: go on from the last checkpoint in ``config.run.output``.
        progress: called after each step; it cancels by raising, and the run can be resumed.

    Raises:
        ValueError: there is a run in the output folder already and ``resume`` is not asked for; its config differs; a batch
            does not divide; a phase trains nothing that its loss depends on; another process trains in the output folder; muon
            is asked for with weights in parts; a loss is not finite (step and clips are named); or a file cannot be written.
    """
    world = world or World()
    _check_batches(phases, config.run, world)
    if world.size > 1 and config.run.sharding == "fsdp" and any(phase.optimizer.kind == "muon" for phase in phases):
        raise ValueError(
            "muon turns whole matrices, fsdp keeps them in parts: set run.sharding to ddp, or optimizer.kind to adamw"
        )
    with alone(config.run.output, first=world.first, resume=resume):
        _train(_Trainer(objective, network, config, hooks, world), phases, resume=resume, progress=progress)


def _train(trainer: _Trainer, phases: Sequence[Phase], *, resume: bool, progress: Progress | None) -> None:
    done = trainer.begin(resume=resume)
    total = sum(phase.steps for phase in phases)
    start, before = 0, phases[0]
    for phase in phases:
        stop = start + phase.steps
        if done < stop:
            trainer.run(phase, before, start=start, done=done, stop=stop, total=total, progress=progress)
            done = stop
        start, before = stop, phase
    if trainer.path is not None:
        # All steps were done before, and their checkpoint was not read: what follows one may have failed, as on a full disk.
        trainer.export_again(phases[-1])


class _Trainer:
    """The state of a run between steps."""

    def __init__(self, objective: nn.Module, network: nn.Module, config: AnyRun, hooks: Hooks, world: World) -> None:
        self.run_config: RunConfig = config.run
        self.config, self.hooks, self.world, self.network = config, hooks, world, network
        self.output = Path(config.run.output)
        if config.run.threads:
            torch.set_num_threads(config.run.threads)
        network.requires_grad_(True)
        self.objective = wrap(objective, world, config.run.sharding, config.run.device)
        # Autocast would keep every layer's weights whole in half precision until the pass ends.
        self.in_parts = world.size > 1 and config.run.sharding == "fsdp"
        self.parameters: dict[str, nn.Parameter] = dict(network.named_parameters())
        self.trained = self.parameters
        self.ema = Ema(self.parameters, config.run.ema)
        self.checkpoints = Checkpoints(self.output / "checkpoints", world, keep=config.run.keep)
        self.path: Path | None = None

    def begin(self, *, resume: bool) -> int:
        """Prepare the output folder; returns the steps done."""
        found = self.checkpoints.found()
        if found and not resume:
            raise ValueError(f"{self.output} holds a run already; resume it, or name another run.output")
        self.checkpoints.clean()
        if resume:
            check_same(self.config, self.output)
        if self.world.first:
            write_record(self.config, self.output)
        done = 0
        if found:
            self.path = found[-1]
            done = self.checkpoints.read_state(self.path).step
            log.info("resuming after step %d", done)
        elif resume:
            log.warning("%s has no checkpoint yet: starting from the beginning", self.output)
        if self.world.first:
            self._cut_log(done)
        return done

    def run(
        self, phase: Phase, before: Phase, *, start: int, done: int, stop: int, total: int, progress: Progress | None
    ) -> None:
        """Do what is left of a phase."""
        self.trained = self._trained(phase)
        for name, parameter in self.parameters.items():
            parameter.requires_grad_(name in self.trained)
            parameter.grad = None
        optimizer = make_optimizer(self.trained, phase.optimizer)
        if self.path is not None:
            # At a phase's beginning the optimizer's state is that of the phase before; only the weights are taken over.
            saved = make_optimizer(self._trained(before), before.optimizer) if done == start else optimizer
            self.checkpoints.load(self.path, self._tensors(saved))
            self.path = None
        with Prefetcher(phase.draw, range(done, stop), device=self.run_config.device) as batches:
            waiting = iter(batches)
            for step in range(done, stop):
                begun = time.perf_counter()
                batch = next(waiting)
                wait = time.perf_counter() - begun
                lr = phase.optimizer.lr_at(step - start, phase.steps)
                losses = self._step(phase, batch, optimizer, step, lr)
                seconds = {"seconds": time.perf_counter() - begun, "wait": wait}
                self._log({"step": step + 1, "phase": phase.name, "lr": lr, **losses, **seconds})
                finished = step + 1
                if finished % self.run_config.save_every == 0 or finished == stop:
                    self._save(finished, optimizer)
                elif finished % PLOT_EVERY == 0:
                    self._plot()
                if progress is not None:
                    progress(finished, total)

    def _trained(self, phase: Phase) -> dict[str, nn.Parameter]:
        """The parameters a phase trains; the others have neither gradient nor state, and their averages stay too."""
        names = chosen(self.parameters, phase.train) if phase.train else frozenset(self.parameters)
        return {name: parameter for name, parameter in self.parameters.items() if name in names}

    def export_again(self, phase: Phase) -> None:
        """What :class:`Hooks` export, from the last checkpoint of a run that is done."""
        assert self.path is not None
        self.checkpoints.load(self.path, self._tensors(make_optimizer(self._trained(phase), phase.optimizer)))
        self._export()
        self.world.barrier()

    def _step(self, phase: Phase, batch: Any, optimizer: torch.optim.Optimizer, step: int, lr: float) -> dict[str, float]:
        """One step; nothing is changed if a loss or the gradient is not finite."""
        parts, device = phase.accumulate or self.run_config.accumulate, self.run_config.device
        for parameter in self.parameters.values():
            parameter.grad = None
        sums: dict[str, Tensor] = {}
        for index in range(parts):
            with torch.autocast(
                torch.device(device).type, torch.bfloat16, enabled=self.run_config.bfloat16, cache_enabled=not self.in_parts
            ):
                losses = self.objective(batch.part(index, parts).to(device))
            if not losses["loss"].requires_grad:
                raise ValueError(f"stage {phase.name!r} trains {', '.join(phase.train)}, which its loss does not depend on")
            (losses["loss"] / parts).backward()
            for name, value in losses.items():
                sums[name] = sums.get(name, 0) + value.detach() / parts
        means = self.world.mean(sums)
        _check(means, step, batch.names)
        norm = _clip(self.trained.values(), phase.optimizer.clip)
        _check({"gradient norm": norm}, step, batch.names)
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.step()
        self.ema.update(self.trained, step + 1)
        return {**means, "norm": norm}

    def _tensors(self, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
        """Everything the next step depends on, live."""
        tensors = {f"weights.{name}": value for name, value in self.network.state_dict().items()}
        tensors |= {f"average.{name}": value for name, value in self.ema.weights.items()}
        for name, parameter in self.parameters.items():
            tensors |= {f"optimizer.{name}.{key}": value for key, value in optimizer.state.get(parameter, {}).items()}
        return tensors

    def averaged(self) -> Weights:
        """The network's state with averaged weights."""
        return Weights({**self.network.state_dict(), **self.ema.weights}, self.world)

    def _export(self) -> None:
        weights = self.averaged()
        if self.world.first:
            self.hooks.export(weights)
        else:
            weights.hand_over()

    def _save(self, step: int, optimizer: torch.optim.Optimizer) -> None:
        self.checkpoints.save(step, self._tensors(optimizer))
        self._export()
        if self.hooks.measure is not None:
            weights = self.averaged().whole()
            if self.world.first:
                self._log({"step": step, "measured": dict(self.hooks.measure(step, weights))})
        self._plot()
        self.world.barrier()

    def _plot(self) -> None:
        if self.world.first:
            plot_log(self.output / LOG, self.output)

    def _log(self, line: Mapping[str, Any]) -> None:
        if not self.world.first:
            return
        try:
            with (self.output / LOG).open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            raise ValueError(f"cannot write {self.output / LOG}: {error.strerror or error}") from error

    def _cut_log(self, done: int) -> None:
        """Drop what was logged after the checkpoint: those steps are done again."""
        kept = [line for line in read_log(self.output / LOG) if line["step"] <= done]
        with replacing(self.output / LOG) as temporary:
            temporary.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")


def _check_batches(phases: Sequence[Phase], config: RunConfig, world: World) -> None:
    for phase in phases:
        parts = phase.accumulate or config.accumulate
        for batch in phase.batches or (config.batch,):
            if batch % (world.size * parts):
                raise ValueError(
                    f"a batch of {batch} clips (stage {phase.name!r}) does not divide among {world.size} processes "
                    f"of {parts} parts"
                )


def make_optimizer(parameters: Mapping[str, nn.Parameter], config: OptimizerConfig) -> torch.optim.AdamW:
    """The optimizer, its state made at once so that a checkpoint has a place for all of it."""
    turned = {name for name, p in parameters.items() if config.kind == "muon" and is_matrix(name, p)}
    adam = {name: p for name, p in parameters.items() if name not in turned}
    groups: list[dict[str, Any]] = [
        {"params": [parameters[name] for name in parameters if name in turned], "orthogonal": True},
        {"params": [p for name, p in adam.items() if is_weight(name, p)]},
        {"params": [p for name, p in adam.items() if not is_weight(name, p)], "weight_decay": 0.0},
    ]
    groups = [{"weight_decay": config.weight_decay, **g} for g in groups if g["params"]]
    optimizer: torch.optim.AdamW
    if config.kind == "muon":
        optimizer = Muon(groups, lr=config.lr, betas=config.betas)
    else:
        optimizer = torch.optim.AdamW(groups, lr=config.lr, betas=config.betas)
    for name, parameter in parameters.items():
        if name in turned:
            optimizer.state[parameter] = {"momentum": torch.zeros_like(parameter.detach())}
            continue
        moments = {key: torch.zeros_like(parameter.detach()) for key in ("exp_avg", "exp_avg_sq")}
        optimizer.state[parameter] = {"step": torch.zeros((), dtype=torch.float32), **moments}
    return optimizer


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a run's log; a last line that a killed run left unfinished is passed over."""
    if not is_file(path):
        return []
    *lines, last = read_text(path, most=LARGEST_LOG).split("\n")
    if last:
        log.warning("%s ends in a line without end; it is left out", path)
    try:
        found = [json.loads(line) for line in lines]
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{named(path)} is damaged: {shown(str(error))}; remove it to resume") from error
    bad = next((n for n, line in enumerate(found, 1) if not _is_logged(line)), None)
    if bad is not None:
        raise ValueError(f"{named(path)} is damaged: line {bad} is none of a training's; remove it to resume")
    return found


def _is_logged(line: Any) -> bool:
    """Whether a line is of numbers by name, those measured in a table of their own."""
    if not isinstance(line, dict) or type(line.get("step")) is not int:
        return False
    values = [value for key, value in line.items() if key not in {"phase", "measured"}]
    measured = line.get("measured", {})
    if not isinstance(measured, dict):
        return False
    values += measured.values()
    return all(isinstance(value, int | float) and not abs(value) > LARGEST for value in values)  # NaN may be among them


def _clip(parameters: Any, limit: float) -> float:
    """Scale the gradients to a norm of at most ``limit``; returns the norm they had."""
    gradients = [p for p in parameters if p.grad is not None]
    norm = nn.utils.clip_grad_norm_(gradients, limit or math.inf)
    return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)


def _check(values: Mapping[str, float], step: int, names: Sequence[str]) -> None:
    bad = [name for name, value in values.items() if not math.isfinite(value)]
    if bad:
        raise ValueError(
            f"step {step + 1}: {', '.join(bad)} is not finite, with the clips {', '.join(names)}; "
            f"the run stops, its last checkpoint is as it was; resume with a lower learning rate or without these clips"
        )

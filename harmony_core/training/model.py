"""Training of the joint model, or of a LoRA for it: its stages over cached latents, and its file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor, nn

from ..config import HarmonyConfig
from ..encoders.symbols import to_symbols
from ..models.harmony import Harmony
from ..progress import Progress
from ..runtime import Runtime
from ..weights.checkpoint import CODEC_PARTS, CodecConfigs, checkpoint_metadata, load_checkpoint
from ..weights.files import load_into
from ..weights.lora import FittedLora, merge_loras, save_lora
from ..weights.quantise import plain_tensors
from ..weights.stream import Entry, writing
from .cache import LatentCache
from .captions import check_captions
from .config import ModelRun
from .distributed import Weights, World
from .loop import Hooks, Phase, train
from .lora import FILE as LORA_FILE
from .lora import Pairs, changes, lora_metadata
from .objective import Objective
from .store import same_shape
from .tasks import draw_batch

FILE = "model.safetensors"

Measure = Callable[[int, Harmony], Mapping[str, float]]
"""Called as ``measure(step, model)`` with averaged weights after each checkpoint; its numbers are logged and plotted."""


def train_model(
    config: ModelRun,
    cache: LatentCache,
    *,
    codecs: CodecConfigs | None = None,
    extras: Mapping[str, Tensor] | None = None,
    metadata: Mapping[str, str] | None = None,
    measure: Measure | None = None,
    world: World | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Train the joint model, or with ``config.lora`` a LoRA for it.

    Args:
        config: of the run.
        cache: latents of the data set.
        codecs: configs of the codecs that go into the model's file; a LoRA's has none.
        extras: tensors of those codecs, under ``video_vae.``, ``audio_vae.`` and ``vocoder.``.
        metadata: goes there too.
        measure: called after each checkpoint.
        world: the processes.
        resume: go on from the last checkpoint.
        progress: called after each step.

    Returns:
        The file of the averaged weights, written anew after each checkpoint.

    Raises:
        ValueError: see :func:`.loop.train`; the cache is of another shape than the config's clips, or its captions are not
            those the model is told; or a target of the LoRA is no layer.
    """
    spec = config.data.spec(config.model)
    if not same_shape(cache.spec, spec):
        raise ValueError(f"the latents in {cache.folder} are of clips {cache.spec}, the config's are {spec}")
    check_captions(cache, config.model)
    check_texts(cache, config.model)
    model = start_model(config)
    model.gradient_checkpointing = config.gradient_checkpointing
    objective, network = Objective(model), _trained(config, model)
    if network is not model:
        objective.add_module("lora", network)
    path = Path(config.run.output) / (FILE if config.lora is None else LORA_FILE)
    dtype: torch.dtype = getattr(torch, config.stored)

    def export(weights: Weights) -> None:
        stored = ((key, value.to(dtype)) for key, value in weights.items())
        if config.lora is None:
            shapes = {key: Entry(shape, dtype) for key, shape in weights.shapes.items()}
            entries = shapes | {key: Entry(tuple(value.shape), value.dtype) for key, value in (extras or {}).items()}
            about = checkpoint_metadata(config.model, codecs=codecs, metadata=metadata)
            with writing(path, entries, about) as writer:
                for key, value in chain(stored, (extras or {}).items()):
                    writer.write(key, [value.cpu()])
        else:
            about = lora_metadata(config.lora, title=Path(config.run.output).name)
            save_lora(path, changes(config.lora, dict(stored)), {**(metadata or {}), **about})

    def measured(step: int, weights: Mapping[str, Tensor]) -> Mapping[str, float]:
        assert measure is not None
        return measure(step, averaged_model(config, weights))

    phases = [
        Phase(name=stage.name, steps=stage.steps, optimizer=stage.optimizer, draw=partial(_draw, config, cache, index))
        for index, stage in enumerate(config.stages)
    ]
    hooks = Hooks(export=export, measure=measured if measure is not None else None)
    train(objective, network, phases, config, hooks, world=world, resume=resume, progress=progress)
    return path


def check_texts(cache: LatentCache, config: HarmonyConfig) -> None:
    """Refuse texts the model's encoders cannot read, before anything is trained.

    Raises:
        ValueError: a caption or transcript is too long or has an unknown symbol; clip and symbol are named.
    """
    for entry in cache.entries:
        try:
            if config.caption is not None:
                to_symbols([entry.video_caption, entry.audio_caption], config.caption)
            if config.speech is not None:
                to_symbols([entry.transcript], config.speech)
        except ValueError as error:  # noqa: PERF203 - once a run
            raise ValueError(f"clip {entry.file}: {error}") from error


def start_model(config: ModelRun) -> Harmony:
    """The model before its first step.

    Raises:
        ValueError: ``config.init`` is no checkpoint of this config.
    """
    if config.init is None:
        model = Harmony(config.model)
        model.initialize(config.run.seed)
        return model
    model = Harmony(config.model, Runtime(device="meta"))  # its weights are those of the file
    start = load_checkpoint(config.init)
    if start.config != config.model:
        raise ValueError(f"{config.init} is of another config than config.model; set config.model to that of the file")
    weights = {key: value for key, value in start.tensors.items() if not key.startswith(CODEC_PARTS)}
    plain = plain_tensors(weights, start.metadata, torch.float32)
    load_into(model, {key: value.float() for key, value in plain.items()}, what="this model")
    return model


def averaged_model(config: ModelRun, weights: Mapping[str, Tensor]) -> Harmony:
    """A model of its own with these weights, or with the LoRA of these weights, to sample from on the device trained on."""
    if config.lora is not None:
        model = start_model(config)
        here = {name: value.detach().cpu() for name, value in weights.items()}
        merge_loras(model, [(FittedLora(name="what is trained", changes=changes(config.lora, here)), 1.0)])
    else:
        model = Harmony(config.model)
        model.load_state_dict({name: value.detach().cpu() for name, value in weights.items()})
    return model.requires_grad_(False).eval().to(config.run.device)


def _trained(config: ModelRun, model: Harmony) -> nn.Module:
    """The module whose weights are trained: the model, or the pairs of its LoRA."""
    return model if config.lora is None else Pairs(model, config.lora, config.run.seed)


def _draw(config: ModelRun, cache: LatentCache, stage: int, step: int) -> object:
    return draw_batch(
        cache,
        config.model,
        config.stages[stage].objective,
        step=step,
        batch=config.run.batch,
        seed=config.run.seed,
    )

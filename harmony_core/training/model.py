"""Training of the joint model, or of a LoRA for it: its stages over cached latents, and its file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
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
from .config import ModelRun, StageConfig
from .distributed import Weights, World
from .loop import Hooks, Phase, train
from .lora import FILE as LORA_FILE
from .lora import Pairs, changes, lora_metadata
from .objective import Objective
from .order import Order, StageOrder, arranged, clips_for
from .parts import chosen
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
        ValueError: see :func:`.loop.train`; the cache is of another shape than the config's clips, or has none for a stage, or
            its captions are not those the model is told; or a target of the LoRA or a part to train is none of the model.
    """
    world = world or World()
    check_parts(config)
    stages = stage_orders(config, cache)
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

    order = Order(stages, config.run.seed)
    phases = [
        Phase(
            name=stage.name,
            steps=stage.steps,
            optimizer=stage.optimizer,
            draw=partial(_draw, config, cache, order, world, index),
            batches=tuple(bucket.batch for bucket in stages[index].buckets),
            accumulate=stage.accumulate,
            train=stage.train,
        )
        for index, stage in enumerate(config.stages)
    ]
    hooks = Hooks(export=export, measure=measured if measure is not None else None)
    train(objective, network, phases, config, hooks, world=world, resume=resume, progress=progress)
    return path


def stage_orders(config: ModelRun, cache: LatentCache) -> tuple[StageOrder, ...]:
    """What each stage draws from: sound files too where it trains the audio branch alone.

    Raises:
        ValueError: the clips are of another shape than the config's, or there is none for a stage.
    """
    specs = config.data.specs(config.model)
    shapes = {spec: next((n for n, one in enumerate(specs) if same_shape(one, spec)), -1) for spec in cache.specs}
    buckets = [shapes[cache.spec_of(clip)] for clip in range(len(cache))]
    if -1 in buckets:
        found = cache.spec_of(buckets.index(-1))
        raise ValueError(f"the latents in {cache.folder} are of clips {found}, the config's are {' or '.join(map(str, specs))}")
    shares = [source.share for source, _ in config.data.parts()]
    stages = []
    for stage in config.stages:
        alone = stage.objective.streams == "audio"
        clips: dict[tuple[int, int], list[int]] = {}
        for clip, bucket in enumerate(buckets):
            if alone or cache.has_pictures(clip):
                clips.setdefault((bucket, cache.source_of(clip)), []).append(clip)
        if not clips:
            raise ValueError(f"stage {stage.name!r} trains both streams, but no clip in {cache.folder} has pictures")
        batches = {bucket: _batch(config, stage, bucket) for bucket, _ in clips}
        stages.append(StageOrder(steps=stage.steps, buckets=arranged(clips, shares, batches)))
    return tuple(stages)


def _batch(config: ModelRun, stage: StageConfig, bucket: int) -> int:
    """Clips of a bucket a step."""
    if stage.tokens is not None:
        spec = config.data.specs(config.model)[bucket]
        seen = spec.video_tokens if stage.objective.streams == "both" else 0
        return clips_for(stage.tokens, spec.audio_latents + seen)
    own = config.data.buckets[bucket].batch if config.data.buckets else None
    return stage.batch or own or config.run.batch


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


def check_parts(config: ModelRun) -> None:
    """Refuse stages that train parts which the model does not have, before anything is read or encoded.

    Raises:
        ValueError: a part is none of the model; its parts are named.
    """
    if any(stage.train for stage in config.stages):
        with torch.device("meta"):
            names = [name for name, _ in Harmony(config.model).named_parameters()]
        for stage in config.stages:
            chosen(names, stage.train)


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
    if replace(start.config, fps=config.model.fps) != config.model:  # weights know no rate: training at another teaches it
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


def _draw(config: ModelRun, cache: LatentCache, order: Order, world: World, stage: int, step: int) -> object:
    clips = order.clips(step)
    return draw_batch(
        cache,
        config.model,
        config.stages[stage].objective,
        step=step,
        batch=len(clips),
        seed=config.run.seed,
        clips=clips,
        rank=world.rank,
        size=world.size,
    )

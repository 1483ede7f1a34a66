"""What a training run is: one YAML file, read strictly; every knob is here and nowhere else.

A file says ``kind: model``, ``codecs-video`` or ``codecs-audio`` and has the fields of :class:`ModelRun`,
:class:`VideoCodecRun` or :class:`AudioCodecRun`. The network (``model`` or ``codec``) is a preset by name, with any of its
fields changed:

    model: {preset: tiny, video: {dim: 128}, audio: {dim: 128}}
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from ..codecs.audio import PRESETS as AUDIO_PRESETS
from ..codecs.audio import AudioCodecConfig
from ..codecs.video_vae import PRESETS as VIDEO_PRESETS
from ..codecs.video_vae import VideoVAEConfig
from ..config import PRESETS as MODEL_PRESETS
from ..config import HarmonyConfig
from ..flow import MOST_STEPS
from ..inputs import named, read_text
from ..recipes import HARMONY
from ..records import check_fields, check_most, from_record, to_record
from ..shown import shown
from .config_data import BucketConfig, DataConfig, SourceConfig, WorldConfig
from .config_stage import Mode, ObjectiveConfig, OptimizerConfig, Reference, StageConfig, TimeConfig
from .limits import at_least, between

__all__ = [
    "AnyRun",
    "AudioCodecRun",
    "BucketConfig",
    "DataConfig",
    "LoraConfig",
    "Mode",
    "ModelRun",
    "ObjectiveConfig",
    "OptimizerConfig",
    "Reference",
    "RunConfig",
    "SamplesConfig",
    "SourceConfig",
    "StageConfig",
    "TimeConfig",
    "VideoCodecRun",
    "WorldConfig",
    "read_config",
    "to_run",
]


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """How any run goes.

    Attributes:
        output: folder of the run: ``checkpoints``, ``log.jsonl``, ``loss.png``, ``config.json`` and what it ends in.
        seed: of the first weights and of everything drawn.
        batch: clips a step, over all processes.
        accumulate: parts a step's batch is computed in, one after the other, to save memory.
        ema: decay of the averaged weights.
        save_every: steps from checkpoint to checkpoint.
        keep: checkpoints kept.
        device: torch device, such as cpu or cuda.
        bfloat16: compute under autocast; weights stay float32.
        sharding: with several processes, ``ddp`` keeps the weights whole on each, ``fsdp`` in parts.
        threads: of torch on a CPU; 0 leaves torch's choice. Exact resume needs the same number.
        timeout_minutes: how long processes wait for one that says nothing before they end; longer than what one does alone,
            such as sampling.
    """

    output: str
    seed: int = 0
    batch: int
    accumulate: int = 1
    ema: float = 0.999
    save_every: int = 250
    keep: int = 2
    device: str = "cpu"
    bfloat16: bool = False
    sharding: Literal["ddp", "fsdp"] = "ddp"
    threads: int = 0
    timeout_minutes: float = 60.0

    def __post_init__(self) -> None:
        check_fields(self, "run")
        if not self.timeout_minutes > 0:
            raise ValueError(f"run.timeout_minutes is positive, got {self.timeout_minutes:g}")
        for name in ("batch", "accumulate", "save_every", "keep"):
            at_least(getattr(self, name), 1, f"run.{name}")
        check_most(self, "run", batch=1 << 16, threads=1024)
        at_least(self.seed, 0, "run.seed")
        at_least(self.threads, 0, "run.threads")
        between(self.ema, 0, 1, "run.ema")
        if self.batch % self.accumulate:
            raise ValueError(f"run.batch {self.batch} does not divide into {self.accumulate} parts (run.accumulate)")


@dataclass(frozen=True, kw_only=True)
class SamplesConfig:
    """Clips generated after each checkpoint, with the averaged weights.

    Attributes:
        clips: how many; captions and transcripts are those of the data set's first clips, of the small world its first impacts.
        steps: sampling steps.
        shift: of the sampling schedule.
    """

    clips: int = 0
    steps: int = HARMONY.steps
    shift: float = HARMONY.shift

    def __post_init__(self) -> None:
        check_fields(self, "samples")
        at_least(self.clips, 0, "samples.clips")
        at_least(self.steps, 1, "samples.steps")
        check_most(self, "samples", clips=1000, steps=MOST_STEPS)
        if not self.shift > 0:
            raise ValueError(f"samples.shift is positive, got {self.shift}")


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """A LoRA, trained in place of the model it is for.

    Attributes:
        rank: of the two matrices beside each layer.
        alpha: what they add counts ``alpha / rank``.
        targets: linear layers by name, such as ``video.blocks.0.ffn.0``; ``*`` stands for anything.
    """

    rank: int = 16
    alpha: float = 16.0
    targets: tuple[str, ...] = ("video.blocks.*", "audio.blocks.*", "interaction.layers.*")

    def __post_init__(self) -> None:
        check_fields(self, "lora")
        at_least(self.rank, 1, "lora.rank")
        check_most(self, "lora", rank=1 << 14)
        if not self.alpha > 0:
            raise ValueError(f"lora.alpha is positive, got {self.alpha}")
        if not self.targets:
            raise ValueError("lora.targets names at least one layer")


@dataclass(frozen=True, kw_only=True)
class ModelRun:
    """Training of the joint model.

    Attributes:
        kind: ``model``.
        run: how it goes.
        data: the clips.
        model: the network.
        init: a Harmony checkpoint to start from, of the same config; None starts from nothing.
        video_codec: weights of the video codec the clips are encoded with, as its training wrote them.
        audio_codec: likewise; or MMAudio's VAE alone.
        vocoder: the vocoder that belongs to MMAudio's VAE, where ``audio_codec`` is that.
        text_encoder: file or folder of umT5, which encodes the captions; for models without a caption encoder of their own,
            and for no other.
        stages: one after the other.
        gradient_checkpointing: compute each layer twice and hold only what is between layers.
        samples: clips generated while training.
        stored: dtype of the weights in the model's file; checkpoints keep float32.
        lora: a LoRA of the model in ``init``, trained in its place and written to a file of its own; None trains the model.
    """

    kind: Literal["model"]
    run: RunConfig
    data: DataConfig
    model: HarmonyConfig
    init: str | None = None
    video_codec: str
    audio_codec: str
    vocoder: str | None = None
    text_encoder: str | None = None
    stages: tuple[StageConfig, ...]
    gradient_checkpointing: bool = False
    samples: SamplesConfig = field(default_factory=SamplesConfig)
    stored: Literal["float32", "bfloat16", "float16"] = "float32"
    lora: LoraConfig | None = None

    def __post_init__(self) -> None:
        check_fields(self, "config")
        if not self.stages:
            raise ValueError("config.stages has at least one stage")
        if self.data.fps != self.model.fps:
            raise ValueError(
                f"data.fps {self.data.fps:g} and model.fps {self.model.fps:g} differ: the model puts both streams together "
                f"at its own rate; set both alike, as in model: {{fps: {self.data.fps:g}}}"
            )
        if self.lora is not None and any(stage.train for stage in self.stages):
            raise ValueError("stage.train is for a model's own weights; what a LoRA changes is said by lora.targets")
        if self.lora is not None and self.init is None:
            raise ValueError("config.lora is for a trained model: name its file as config.init")
        if self.model.caption is None and self.text_encoder is None:
            raise ValueError("config.text_encoder is missing: this model is told captions by umT5; name its file or folder")
        if self.model.caption is not None and self.text_encoder is not None:
            raise ValueError("config.text_encoder: this model has a caption encoder of its own; leave the field out")
        if self.model.one_prompt and any(stage.objective.reference != "none" for stage in self.stages):
            raise ValueError("config.stages: this model takes no reference voice; set objective.reference to none in each")


@dataclass(frozen=True, kw_only=True)
class VideoCodecRun:
    """Training of a video codec.

    Attributes:
        kind: ``codecs-video``.
        run: how it goes.
        data: the clips.
        codec: the network.
        init: a video codec's file to start from, of the same shape; None starts from nothing.
        steps: how many.
        optimizer: its settings.
        crop_frames: frames of a training clip, 1 + 4 k, cut anywhere from a whole clip.
        kl: weight of the divergence from a unit Gaussian, nats a latent value.
        squared: weight of the squared error beside the absolute one.
        motion: weight of the absolute error of the change from frame to frame.
        focus: how much more the errors count where pixels change: ``1 + focus`` times their range of values in the clip.
        linear: weight of the squared distance of the latents' means from principal components of their blocks
            (:mod:`.components`).
        statistics_clips: clips the latents' means and deviations are measured on at the end.
    """

    kind: Literal["codecs-video"]
    run: RunConfig
    data: DataConfig
    codec: VideoVAEConfig
    init: str | None = None
    steps: int
    optimizer: OptimizerConfig
    crop_frames: int = 17
    kl: float = 1e-5
    squared: float = 1.0
    motion: float = 0.5
    focus: float = 0.0
    linear: float = 0.0
    statistics_clips: int = 128

    def __post_init__(self) -> None:
        check_fields(self, "config")
        _one_shape(self.data)
        at_least(self.steps, 1, "config.steps")
        at_least(self.statistics_clips, 1, "config.statistics_clips")
        for name in ("kl", "squared", "motion", "focus", "linear"):
            at_least(getattr(self, name), 0, f"config.{name}")
        check_most(self, "config", statistics_clips=1 << 20)
        if self.crop_frames < 1 or self.crop_frames % 4 != 1 or self.crop_frames > self.data.frames:
            raise ValueError(f"config.crop_frames is 1 + 4k and at most data.frames {self.data.frames}, got {self.crop_frames}")


@dataclass(frozen=True, kw_only=True)
class AudioCodecRun:
    """Training of an audio VAE and a vocoder, side by side in each step.

    Attributes:
        kind: ``codecs-audio``.
        run: how it goes.
        data: the clips.
        codec: the networks.
        steps: how many.
        optimizer: AdamW.
        kl: weight of the divergence from a unit Gaussian, nats a latent value.
        crop_frames: mel frames of sound the vocoder is trained on in a step.
        decoded: share of the vocoder's clips that are decoded from latents instead of measured.
        windows: of the vocoder's spectral loss, samples.
        mel: weight of the vocoder's mel loss.
        statistics_clips: clips the mel's and the latents' means and deviations are measured on.
    """

    kind: Literal["codecs-audio"]
    run: RunConfig
    data: DataConfig
    codec: AudioCodecConfig
    steps: int
    optimizer: OptimizerConfig
    kl: float = 1e-4
    crop_frames: int = 32
    decoded: float = 0.5
    windows: tuple[int, ...] = (256, 512, 1024, 2048)
    mel: float = 1.0
    statistics_clips: int = 128

    def __post_init__(self) -> None:
        check_fields(self, "config")
        _one_shape(self.data)
        for name in ("steps", "crop_frames", "statistics_clips"):
            at_least(getattr(self, name), 1, f"config.{name}")
        check_most(self, "config", statistics_clips=1 << 20, crop_frames=1 << 16, windows=1 << 18)
        at_least(self.kl, 0, "config.kl")
        at_least(self.mel, 0, "config.mel")
        between(self.decoded, 0, 1, "config.decoded")
        if not self.windows or min(self.windows) < 16 or any(w % 4 for w in self.windows):
            raise ValueError(f"config.windows are multiples of 4 from 16 on, got {self.windows}")


AnyRun = ModelRun | VideoCodecRun | AudioCodecRun
LARGEST_FILE, MOST_VALUES = 1 << 17, 10_000
"""Bytes of a config, and values in it, aliases counted as what they stand for; those committed have 100."""
# PyYAML's constructors of scalars raise whatever comes to them: of `!!int ''`, `!!bool x`, `!!timestamp x`.
_NO_YAML = (yaml.YAMLError, ValueError, TypeError, AttributeError, LookupError, ArithmeticError)
KINDS: dict[str, Any] = {"model": ModelRun, "codecs-video": VideoCodecRun, "codecs-audio": AudioCodecRun}
NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "model": ("model", MODEL_PRESETS),
    "codecs-video": ("codec", VIDEO_PRESETS),
    "codecs-audio": ("codec", AUDIO_PRESETS),
}


def read_config(path: str | Path) -> AnyRun:
    """Read a run from a YAML file.

    Raises:
        ValueError: the file is missing or no YAML, a field is unknown, missing, twice there or of the wrong type or range.
    """
    text = read_text(path, most=LARGEST_FILE)
    try:
        record = yaml.load(text, Loader=_Strict)  # noqa: S506 - a SafeLoader
    except RecursionError as error:
        raise ValueError(f"{named(path)} is no YAML: it is nested too deep") from error
    except _NO_YAML as error:
        raise ValueError(f"{named(path)} is no YAML: {shown(' '.join(str(error).split()), 200)}") from error
    try:
        return to_run(record)
    except ValueError as error:
        raise ValueError(f"{named(path)}: {error}") from error


def to_run(record: Any) -> AnyRun:
    """A run from plain values; see :func:`read_config`."""
    if not isinstance(record, dict):
        raise ValueError(f"a training config is a table of fields, got {type(record).__name__}")
    kind = record.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        raise ValueError(f"config.kind is one of {', '.join(KINDS)}, got {shown(kind)}")
    name, presets = NETWORKS[kind]
    if name in record:
        record = {**record, name: _with_preset(record[name], presets, f"config.{name}")}
    return from_record(KINDS[kind], record, "config")


def _with_preset(record: Any, presets: dict[str, Any], where: str) -> Any:
    if not isinstance(record, dict) or "preset" not in record:
        return record
    preset = record["preset"]
    if not isinstance(preset, str) or preset not in presets:
        raise ValueError(f"{where}.preset is one of {', '.join(presets)}, got {shown(repr(preset))}")
    return _merged(to_record(presets[preset]), {k: v for k, v in record.items() if k != "preset"})


def _merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """``base`` with ``changes``, table by table; what is unknown stays in and is refused by name later."""
    merged = dict(base)
    for key, value in changes.items():
        deeper = isinstance(value, dict) and isinstance(base.get(key), dict)
        merged[key] = _merged(base[key], value) if deeper else value
    return merged


class _Strict(yaml.SafeLoader):
    """YAML as large as a config is, without duplicate keys, of which the last would silently win, and with 1e-3 a number."""

    def construct_document(self, node: yaml.Node) -> Any:
        """All of it, refused if it is large once aliases stand for what they name."""
        if _values(node, {}) > MOST_VALUES:
            raise yaml.constructor.ConstructorError(
                None, None, f"more than {MOST_VALUES:,} values, aliases counted as what they stand for", node.start_mark
            )
        return super().construct_document(node)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """A table, refused if a key is twice in it."""
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable) and key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{shown(repr(key), 40)} twice", node.start_mark)
            if isinstance(key, Hashable):  # what is not is refused with the table
                seen.add(key)
        return super().construct_mapping(node, deep=deep)


def _values(node: yaml.Node, counted: dict[yaml.Node, int]) -> int:
    """Values in a part of a file; infinite where it holds itself."""
    if node not in counted:
        counted[node] = MOST_VALUES + 1  # while it is being counted
        parts = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else node.value
        inside = (_values(part, counted) for part in parts) if isinstance(node, yaml.CollectionNode) else ()
        counted[node] = 1 + sum(inside)
    return counted[node]


EXPONENT = re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$")
# YAML 1.1 reads 1e-3 as text, for want of a dot.
_Strict.add_implicit_resolver("tag:yaml.org,2002:float", EXPONENT, list("-+.0123456789"))


def _one_shape(data: DataConfig) -> None:
    if data.buckets or data.sources:
        raise ValueError(
            "data.buckets and data.sources are for training of a model: a codec is trained on one folder, one shape"
        )

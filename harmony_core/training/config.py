"""What a training run is: one YAML file, read strictly; every knob is here and nowhere else.

A file says ``kind: model``, ``codecs-video`` or ``codecs-audio`` and has the fields of :class:`ModelRun`,
:class:`VideoCodecRun` or :class:`AudioCodecRun`. The network (``model`` or ``codec``) is a preset by name, with any of its
fields changed:

    model: {preset: tiny, video: {dim: 128}, audio: {dim: 128}}
"""

from __future__ import annotations

import math
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
from ..geometry import ClipSpec
from ..inputs import named, read_text
from ..recipes import HARMONY
from ..records import check_fields, check_most, from_record, to_record
from ..shown import shown

Mode = Literal["synergy", "mixed", "joint"]
Reference = Literal["none", "same_clip", "same_speaker"]


@dataclass(frozen=True, kw_only=True)
class WorldConfig:
    """Clips of the small world.

    Attributes:
        clips: how many.
        first_seed: of the first clip.
        split: easy or hard.
        mix: shares of impact, talk, complex and still, which need not add up to 1.
    """

    clips: int
    first_seed: int = 0
    split: Literal["easy", "hard"] = "easy"
    mix: tuple[float, float, float, float] = (0.36, 0.36, 0.15, 0.13)

    def __post_init__(self) -> None:
        check_fields(self, "world")
        _at_least(self.clips, 1, "world.clips")
        _at_least(self.first_seed, 0, "world.first_seed")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where the clips are.

    Attributes:
        folder: of videos with a ``manifest.jsonl``, or of packed clips.
        world: clips of the small world that ``folder`` is made of if it is not there.
        cache: folder for what is made of them once (latents for a model, packed clips for a codec); made if it is not there.
        frames: of a clip, 1 + 4 k.
        height: pixels.
        width: pixels.
        fps: pictures per second.
        null_pairs: of the cached clips, how many for each of the data set's own are stills with silence made from its first
            frames; 0 where the data set has its own.
        shard_clips: clips a shard holds.
    """

    folder: str
    world: WorldConfig | None = None
    cache: str
    frames: int = 49
    height: int = 64
    width: int = 64
    fps: float = 24.0
    null_pairs: float = 0.0
    shard_clips: int = 256

    def __post_init__(self) -> None:
        check_fields(self, "data")
        _between(self.null_pairs, 0, 1, "data.null_pairs")
        _at_least(self.shard_clips, 1, "data.shard_clips")
        check_most(self, "data", shard_clips=1 << 16)

    def spec(self, like: HarmonyConfig | None = None) -> ClipSpec:
        """The shape of the clips."""
        changes = {"grid": like.grid} if like else {"grid": MODEL_PRESETS["tiny"].grid}
        return ClipSpec(frames=self.frames, height=self.height, width=self.width, fps=self.fps, **changes)


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
        weight_decay: of matrices; vectors and scalars have none.
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
        _at_least(self.warmup, 0, "optimizer.warmup")
        _at_least(self.clip, 0, "optimizer.clip")
        _at_least(self.weight_decay, 0, "optimizer.weight_decay")
        _between(self.final, 0, 1, "optimizer.final")
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

    def __post_init__(self) -> None:
        check_fields(self, "run")
        for name in ("batch", "accumulate", "save_every", "keep"):
            _at_least(getattr(self, name), 1, f"run.{name}")
        check_most(self, "run", batch=1 << 16, threads=1024)
        _at_least(self.seed, 0, "run.seed")
        _at_least(self.threads, 0, "run.threads")
        _between(self.ema, 0, 1, "run.ema")
        if self.batch % self.accumulate:
            raise ValueError(f"run.batch {self.batch} does not divide into {self.accumulate} parts (run.accumulate)")


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
            _between(getattr(self, name), 0, 1, f"objective.{name}")
        for name in ("lambda_video", "lambda_audio", "video_weight"):
            _at_least(getattr(self, name), 0, f"objective.{name}")
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
    """

    name: str
    steps: int
    optimizer: OptimizerConfig
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)

    def __post_init__(self) -> None:
        check_fields(self, "stage")
        _at_least(self.steps, 1, "stage.steps")


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
        _at_least(self.clips, 0, "samples.clips")
        _at_least(self.steps, 1, "samples.steps")
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
        _at_least(self.rank, 1, "lora.rank")
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
        _at_least(self.steps, 1, "config.steps")
        _at_least(self.statistics_clips, 1, "config.statistics_clips")
        for name in ("kl", "squared", "motion", "focus", "linear"):
            _at_least(getattr(self, name), 0, f"config.{name}")
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
        for name in ("steps", "crop_frames", "statistics_clips"):
            _at_least(getattr(self, name), 1, f"config.{name}")
        check_most(self, "config", statistics_clips=1 << 20, crop_frames=1 << 16, windows=1 << 18)
        _at_least(self.kl, 0, "config.kl")
        _at_least(self.mel, 0, "config.mel")
        _between(self.decoded, 0, 1, "config.decoded")
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


def _between(value: float, low: float, high: float, where: str) -> None:
    if not low <= value <= high:
        raise ValueError(f"{where} is {low:g} to {high:g}, got {value:g}")


def _at_least(value: float, low: float, where: str) -> None:
    if not value >= low:
        raise ValueError(f"{where} is at least {low:g}, got {value:g}")

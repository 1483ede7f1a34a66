"""The memory of a clip stage by stage, and the way to make it that fits a GPU.

A way costs nothing in quality but where it is said so: ``fp8`` weights are rounded, tiles are blended where they meet. The
layers of an offloaded model are the same numbers, a kept driver as well.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from ..codecs.audio import AudioCodecConfig
from ..codecs.video_tiling import Tiling
from ..codecs.video_vae import VideoVAEConfig
from ..config import HarmonyConfig
from ..geometry import ClipSpec
from ..guidance import Guidance
from ..types import AV, Modality
from .memory import FLOAT32_BYTES, audio_codec_bytes, context_values, driver_values, pass_values, step_bytes, video_piece_bytes
from .operations import Pass, Run, operations_of, run_of, tokens_of
from .parts import ModelSize, Size, audio_codec_size, model_size, video_codec_size
from .rate import Rate

CARDS = (8, 12, 16, 24, 80)
"""Sizes of GPUs, GiB."""
RESERVE = 1 << 30
"""Bytes of a GPU that are not ours: the driver's context, the libraries' workspaces, gaps between tensors. An allowance, not
measured."""
AHEAD = 1
"""Layers that are brought before their turn."""
TILE = 384
DTYPES = {"float32": 4, "bfloat16": 2, "float16": 2, "fp8": 1}
"""Bytes of a weight of a matrix."""


@dataclass(frozen=True, kw_only=True)
class Way:
    """How a clip is made.

    Attributes:
        dtype: of the model's weights, one of :data:`DTYPES`; with ``fp8`` everything but matrices is bfloat16.
        offload: layers come to the device one by one, and parts take turns there.
        tiled: large pictures are cut in the video codec.
        cache: where what is kept of drivers lies, ``device`` or ``host``.
    """

    dtype: str = "bfloat16"
    offload: bool = False
    tiled: bool = False
    cache: str = "device"

    @property
    def itemsize(self) -> int:
        """Bytes of a value the model computes with."""
        return max(2, DTYPES[self.dtype])

    def weights(self, size: Size) -> int:
        """Bytes of a model's weights."""
        return size.bytes(self.itemsize, DTYPES[self.dtype])


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One part of making a clip.

    Attributes:
        name: of it.
        weights: bytes of weights on the device.
        working: bytes beside them.
        kept: bytes of what is kept of drivers, on the device.
        host: bytes in main memory: weights that wait, the pictures twice, what tiles and drivers leave there.
    """

    name: str
    weights: int
    working: int
    kept: int = 0
    host: int = 0

    @property
    def device(self) -> int:
        """Bytes on the device."""
        return self.weights + self.working + self.kept


@dataclass(frozen=True, kw_only=True)
class Job:
    """A clip to make with a model.

    Attributes:
        config: of the model.
        spec: of the clip.
        video_codec: config of the video codec.
        audio_codec: config of the audio codec.
        guidance: of the run.
        driver: the stream that is given as a whole.
        prefix: reference tokens of the sound.
        batch: number of clips.
    """

    config: HarmonyConfig
    spec: ClipSpec
    video_codec: VideoVAEConfig
    audio_codec: AudioCodecConfig
    guidance: Guidance = Guidance()  # noqa: RUF009 - an immutable value
    driver: Modality | None = None
    prefix: int = 0
    batch: int = 1

    @cached_property
    def run(self) -> Run:
        """What the sampling asks of the model."""
        return run_of(self.config, self.guidance, self.driver)

    @cached_property
    def size(self) -> ModelSize:
        """Of the model."""
        return model_size(self.config)

    @cached_property
    def codec_sizes(self) -> AV[Size]:
        """Of the codecs, which compute in float32."""
        return AV(video_codec_size(self.video_codec), audio_codec_size(self.audio_codec))

    @property
    def tiling(self) -> Tiling:
        """How pictures are cut where they are."""
        overlap = max(96, self.video_codec.least_overlap)
        return Tiling(size=max(TILE, 2 * overlap), overlap=overlap)

    def kept_bytes(self, way: Way) -> int:
        """Bytes kept of all drivers."""
        tokens = tokens_of(self.spec)
        values = sum(driver_values(self.config, d, tokens, prefix=self.prefix > 0) for d in self.run.drivers)
        return self.batch * values * way.itemsize

    def activation_bytes(self, way: Way) -> int:
        """Bytes of the largest pass, beside conditions and latents."""
        passes = [*self.run.step, *self.run.once]
        return int(max(pass_values(self.config, self._shapes, one.streams) for one in passes) * way.itemsize)

    def condition_bytes(self, way: Way) -> int:
        """Bytes of all sets of conditions."""
        return self.batch * self.run.texts * context_values(self.config) * way.itemsize

    def stages(self, way: Way) -> list[Stage]:
        """All stages of the clip, in order, made in this way."""
        model = self.size
        layers = min(model.layers, 1 + AHEAD)
        all_weights = way.weights(model.total) + sum(size.bytes(FLOAT32_BYTES) for size in self.codec_sizes)
        there = way.weights(model.rest) + layers * way.weights(model.layer)
        waiting = all_weights if way.offload else 0

        def coding(name: str, m: Modality, *, decode: bool) -> Stage:
            weights = self.codec_sizes[m].bytes(FLOAT32_BYTES) if way.offload else all_weights
            if m is Modality.AUDIO:
                working = self.batch * audio_codec_bytes(self.audio_codec, self.spec.audio_latents, decode=decode)
                return Stage(name=name, weights=weights, working=working, host=waiting)
            latent = (self.spec.latent_frames, *self.spec.latent_size)
            tiling = self.tiling if way.tiled else None
            piece = video_piece_bytes(self.video_codec, latent, decode=decode, tiling=tiling)
            clip = 3 * self.spec.frames * self.spec.height * self.spec.width * FLOAT32_BYTES
            host = waiting + self.batch * (piece.host + 2 * clip)
            return Stage(name=name, weights=weights, working=self.batch * piece.device, host=host)

        mute = any(guide.anchor.company == "mute" for guide in self.guidance.guides)
        stages = []
        if mute or self.driver is Modality.VIDEO:
            stages.append(coding("encode pictures", Modality.VIDEO, decode=False))
        voice = self.prefix > self.config.interaction.style_tokens
        if mute or voice or self.driver is Modality.AUDIO:
            stages.append(coding("encode sound", Modality.AUDIO, decode=False))
        kept = self.kept_bytes(way)
        stages.append(
            Stage(
                name="sample",
                weights=there if way.offload else all_weights,
                working=self._working(way),
                kept=kept if way.cache == "device" else 0,
                host=(kept if way.cache == "host" else 0) + waiting,
            )
        )
        if self.driver is not Modality.VIDEO:
            stages.append(coding("decode pictures", Modality.VIDEO, decode=True))
        if self.driver is not Modality.AUDIO:
            stages.append(coding("decode sound", Modality.AUDIO, decode=True))
        return stages

    def peak(self, way: Way) -> int:
        """Bytes on the device at the highest."""
        return max(stage.device for stage in self.stages(way))

    def way_within(
        self, size: int, dtype: str = "bfloat16", *, offload: bool | None = None, tiled: bool | None = None
    ) -> Way | None:
        """The quickest way that takes at most ``size`` bytes on the device; None if there is none.

        A whole model is quicker than one that comes layer by layer, tiles cost a little, and a cache in main memory comes to
        the device again at every step.

        Args:
            size: bytes.
            dtype: of the model's weights.
            offload: whether layers come one by one; None leaves it open.
            tiled: whether pictures are cut; None leaves it open.
        """
        caches = ("device", "host") if self.run.drivers else ("device",)
        for cache, away, cut in itertools.product(caches, _open(offload), _open(tiled)):
            way = Way(dtype=dtype, offload=away, tiled=cut, cache=cache)
            if self.peak(way) <= size:
                return way
        return None

    def step_seconds(self, way: Way, rate: Rate) -> float:
        """Time of an evaluation after the first; a kept driver in main memory comes between layers, not beside them."""
        fetched = self.kept_bytes(way) / rate.copies if way.cache == "host" and rate.copies else 0.0
        return self._seconds(self.run.step, way, rate) + fetched

    def once_seconds(self, way: Way, rate: Rate) -> float:
        """What the first evaluation takes on top: drivers."""
        return self._seconds(self.run.once, way, rate)

    @property
    def _shapes(self) -> AV[Sequence[int]]:
        video, audio = self.spec.video_shape(self.batch), self.spec.audio_shape(self.batch)
        return AV[Sequence[int]](video, (*audio[:2], audio[2] + self.prefix))

    def _working(self, way: Way) -> int:
        """The largest pass with its surroundings; further sets of conditions on top."""
        passes = [*self.run.step, *self.run.once]
        more = (self.run.texts - 1) * self.batch * context_values(self.config) * way.itemsize
        return more + max(step_bytes(self.config, self._shapes, way.itemsize, one.streams) for one in passes)

    def _seconds(self, passes: Iterable[Pass], way: Way, rate: Rate) -> float:
        total = 0.0
        for one in passes:
            work = operations_of(self.config, self.spec, [one], batch=self.batch, prefix=self.prefix)
            branches = AV(self.size.video, self.size.audio)
            moved = sum((branches[m] for m in one.streams), Size()) + (
                self.size.interaction if one.reads | one.writes else Size()
            )
            layers = self.size.layers - one.left_out
            total += rate.seconds(work, way.weights(moved.times(layers)) if way.offload else 0.0)
        return total


def _open(choice: bool | None) -> tuple[bool, ...]:
    return (False, True) if choice is None else (choice,)


def way_on(job: Job, device: torch.device, dtype: str, *, offload: bool | None = None, tiled: bool | None = None) -> Way:
    """The quickest way for the memory that is free now; where a device says nothing of its memory, all of it is there.

    Args:
        job: to be done.
        device: to compute on, with nothing of the model on it yet.
        dtype: of the model's weights.
        offload: see :meth:`Job.way_within`.
        tiled: likewise.

    Raises:
        ValueError: no way fits; the message says what the least one takes.
    """
    if device.type != "cuda":
        return Way(dtype=dtype, offload=bool(offload), tiled=bool(tiled))
    free = torch.cuda.mem_get_info(device)[0]
    way = job.way_within(free - RESERVE // 2, dtype, offload=offload, tiled=tiled)
    if way is None:
        smallest = Way(dtype=dtype, offload=_open(offload)[-1], tiled=_open(tiled)[-1], cache="host")
        least = job.peak(smallest)
        raise ValueError(
            f"this clip needs at least {(least + RESERVE // 2) / 2**30:.1f} GiB of {device}, {free / 2**30:.1f} GiB are free: "
            "make it shorter or smaller"
        )
    return way

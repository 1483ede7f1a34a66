"""How large the parts of a model and its codecs are, counted on the meta device: nothing is read, nothing is allocated."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor, nn

from ..codecs.audio import AudioCodec, AudioCodecConfig
from ..codecs.video_vae import VideoVAE, VideoVAEConfig
from ..config import HarmonyConfig
from ..models.harmony import Harmony
from ..runtime import Runtime

META = Runtime(device="meta")


@dataclass(frozen=True)
class Size:
    """Weights.

    Attributes:
        values: all of them.
        matrices: those in matrices, which eight bits can store.
    """

    values: int = 0
    matrices: int = 0

    def __add__(self, other: Size) -> Size:
        return Size(self.values + other.values, self.matrices + other.matrices)

    def times(self, count: int) -> Size:
        """So many alike."""
        return Size(count * self.values, count * self.matrices)

    def bytes(self, itemsize: int, matrix_itemsize: int | None = None) -> int:
        """Memory, with matrices perhaps stored otherwise."""
        matrix = itemsize if matrix_itemsize is None else matrix_itemsize
        return (self.values - self.matrices) * itemsize + self.matrices * matrix


@dataclass(frozen=True, kw_only=True)
class ModelSize:
    """A joint model.

    Attributes:
        video, audio, interaction: one layer of each.
        layers: how many there are.
        beside: what is outside the layers, by part.
    """

    video: Size
    audio: Size
    interaction: Size
    layers: int
    beside: dict[str, Size]

    @property
    def layer(self) -> Size:
        """One layer of both branches and what passes between them."""
        return self.video + self.audio + self.interaction

    @property
    def rest(self) -> Size:
        """All outside the layers."""
        return sum(self.beside.values(), Size())

    @property
    def parts(self) -> dict[str, Size]:
        """The whole, by part."""
        layers = {"video": self.video, "audio": self.audio, "interaction": self.interaction}
        names = {**dict.fromkeys(layers), **dict.fromkeys(self.beside)}
        return {
            name: self.beside.get(name, Size()) + (layers[name].times(self.layers) if name in layers else Size())
            for name in names
        }

    @property
    def total(self) -> Size:
        """The whole."""
        return self.layer.times(self.layers) + self.rest


def model_size(config: HarmonyConfig) -> ModelSize:
    """Count a model by one of its layers, as they are all alike."""
    model = Harmony(config.replace(video={"layers": 1}, audio={"layers": 1}), META)
    first = {"video": model.video.blocks[0], "audio": model.audio.blocks[0], "interaction": model.interaction.layers[0]}
    counted = {id(p) for layer in first.values() for p in layer.parameters()}
    beside: dict[str, Size] = {}
    for name, parameter in model.named_parameters():
        if id(parameter) not in counted:
            part = name.partition(".")[0]
            beside[part] = beside.get(part, Size()) + _size([parameter])
    return ModelSize(layers=config.video.layers, beside=beside, **{name: _size(m.parameters()) for name, m in first.items()})


def video_codec_size(config: VideoVAEConfig) -> Size:
    """Count the video codec."""
    return _module(VideoVAE(config, META))


def audio_codec_size(config: AudioCodecConfig) -> Size:
    """Count the audio codec."""
    return _module(AudioCodec(config, META))


def _module(module: nn.Module) -> Size:
    return _size(module.parameters())


def _size(weights: Iterable[Tensor]) -> Size:
    total = Size()
    for weight in weights:
        total += Size(weight.numel(), weight.numel() if weight.ndim == 2 else 0)
    return total

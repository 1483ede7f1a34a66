"""A start point for training, put together of public parts: a pretrained video branch, a pretrained audio branch, and what
makes one model of them, new.

The video branch is Wan2.2-TI2V-5B's transformer or Ovi's video tower, the audio branch Ovi's audio tower; Ovi's own attention
between its towers is left behind. The interaction is new and silent, so that at first each branch computes what it did alone.
The transcript encoder is new too, and at first all its tokens are the one that branch sees where a caption has ended: more
padding. "No caption" is nothing but padding.

Everything is read, cast and written tensor by tensor, and new parts are made one at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import HarmonyConfig, InteractionConfig, SymbolEncoderConfig, preset
from ..encoders.symbols import SymbolEncoder
from ..inputs import named
from ..models.harmony import Harmony
from ..models.initialize import initialize
from ..models.interaction import Interaction
from ..progress import Progress
from ..runtime import Runtime
from ..types import AV, Modality
from .convert import PRECISIONS, cast_pieces
from .files import check_keys
from .inspect import inspect
from .keymap import to_original
from .ovi import config_of, is_ovi, to_harmony, towers_of
from .quantise import Stored, find_weights, plain_pieces
from .stream import Entry, TensorSource, TensorWriter, open_tensors, writing

DTYPES = tuple(name for name in PRECISIONS if name != "fp8")
"""What the weights can be written in: training starts from plain ones."""
LARGEST_SEED = 2**32
_WANTED = AV(
    "Wan2.2-TI2V-5B's transformer or Ovi, whole or its video half",
    "Ovi, whole or its audio half",
)
_WANS = {1536: "a 1.3B model of Wan2.1", 5120: "a 14B model of Wan"}
_CHANNELS = AV(48, 20)


@dataclass(frozen=True, kw_only=True)
class Assembled:
    """What was put together.

    Attributes:
        config: of the model.
        taken: weights that were there before, of each branch.
        new: weights that were made.
        size: bytes of the file.
    """

    config: HarmonyConfig
    taken: AV[int]
    new: int
    size: int


@dataclass(frozen=True)
class _Part:
    """A branch in a file: its weights under our keys."""

    path: Path
    source: TensorSource
    weights: Mapping[str, Stored]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {key: stored.entry.shape for key, stored in self.weights.items()}

    def pieces(self, key: str, dtype: torch.dtype) -> Iterator[Tensor]:
        """A weight, plain and cast."""
        stored = self.weights[key]
        scale = None if stored.scale is None else self.source.read(stored.scale)
        return cast_pieces(plain_pieces(self.source.pieces(stored.key), scale), dtype, f"{self.path}: {stored.key}")


def assemble(
    video: str | Path,
    audio: str | Path,
    out: str | Path,
    *,
    dtype: str = "bf16",
    seed: int = 0,
    transcripts: bool = True,
    progress: Progress | None = None,
) -> Assembled:
    """Write a Harmony checkpoint to start training from.

    Args:
        video: Wan2.2-TI2V-5B's transformer under any of its names, or Ovi, whole or its video half; in any precision,
            mixed ones and eight bits with scales too.
        audio: Ovi, whole or its audio half.
        out: the ``.safetensors`` file to write.
        dtype: of all weights, one of :data:`DTYPES`.
        seed: of what is new.
        transcripts: whether the model gets a transcript encoder. Without one its audio branch is told no more than Ovi's.
        progress: called after each weight.

    Raises:
        ValueError: a file cannot be read or is of another model, which the message names; the branches do not fit each other;
            a value does not fit fp16; the target cannot be written.
    """
    if dtype not in DTYPES:
        raise ValueError(f"an assembled model is written in one of {', '.join(DTYPES)}, got {dtype!r}")
    if not 0 <= seed < LARGEST_SEED:
        raise ValueError(f"the seed is 0 to {LARGEST_SEED - 1}, got {seed}")
    parts = AV(_open(Path(video), Modality.VIDEO), _open(Path(audio), Modality.AUDIO))
    config = _config(parts, preset("5b").speech if transcripts else None)
    wanted = {key: tuple(value.shape) for key, value in Harmony(config, Runtime(device="meta")).state_dict().items()}
    for m in Modality:
        branch = {key: shape for key, shape in wanted.items() if key.startswith(f"{m.value}.")}
        check_keys(branch, parts[m].shapes, what=f"the {m.value} branch ({parts[m].path})")
    precision = PRECISIONS[dtype]
    entries = {key: Entry(shape, precision) for key, shape in wanted.items()}
    with writing(Path(out), entries, {**_described(parts), **config.to_metadata()}) as writer:
        steps = _written(writer, parts, config, precision, seed)
        for done, _ in enumerate(steps, start=1):
            if progress is not None:
                progress(done, len(wanted))
    taken = AV.of(lambda m: len(parts[m].weights))
    return Assembled(config=config, taken=taken, new=len(wanted) - taken.video - taken.audio, size=Path(out).stat().st_size)


def _written(writer: TensorWriter, parts: AV[_Part], config: HarmonyConfig, dtype: torch.dtype, seed: int) -> Iterator[str]:
    """Write every weight; give its key once it is written."""
    for m in Modality:
        for key in parts[m].weights:
            writer.write(key, parts[m].pieces(key, dtype))
            yield key
    for key, value in _new(parts.audio, config, dtype, seed):
        writer.write(key, [value.detach().to(dtype)])
        yield key


# ---- what is there


def _open(path: Path, m: Modality) -> _Part:
    """The branch a file is to give.

    Raises:
        ValueError: it holds none, or that of another model.
    """
    source = open_tensors(path)
    stored = find_weights(source.entries, source.metadata, source.read, str(path))
    ours = _renamed(path, list(stored), m)
    _check_size(path, {key: stored[theirs].entry.shape for key, theirs in ours.items()}, m)
    return _Part(path, source, {key: stored[theirs] for key, theirs in ours.items()})


def _renamed(path: Path, keys: list[str], m: Modality) -> dict[str, str]:
    """Our keys of a branch to the file's."""
    prefix, names = f"{m.value}.", {key: key for key in keys}
    if is_ovi(keys):
        if m not in towers_of(keys):
            raise ValueError(
                f"{named(path)} is Ovi's {m.other.value} half alone; --{m.value} takes {_WANTED[m]}: "
                "give the file of the other half"
            )
        return {ours: theirs for ours, theirs in to_harmony(names).items() if ours.startswith(prefix)}
    try:
        renamed = to_original(names)
    except ValueError:
        raise _another(path, m) from None
    return {prefix + ours: theirs for ours, theirs in renamed.items()}


def _check_size(path: Path, shapes: Mapping[str, tuple[int, ...]], m: Modality) -> None:
    """Refuse a transformer of Wan's design that is not this branch's."""
    conv, row = (shapes.get(f"{m.value}.patch_embedding.{name}", ()) for name in ("weight", "0.weight"))
    embedding, axes = (conv, 5) if m is Modality.VIDEO else (row, 3)
    if len(embedding) == axes and embedding[1] == _CHANNELS[m]:
        return
    width = next((shape[0] for shape in (conv, row) if shape), 0)
    if len(conv) == 5 and width in _WANS:
        raise ValueError(
            f"{named(path)} is {_WANS[width]} (dim {width}, {conv[1]} latent channels); --{m.value} takes {_WANTED[m]}"
        )
    raise _another(path, m)


def _another(path: Path, m: Modality) -> ValueError:
    return ValueError(f"{named(path)} is {inspect(path).what}; --{m.value} takes {_WANTED[m]}")


def _config(parts: AV[_Part], speech: SymbolEncoderConfig | None) -> HarmonyConfig:
    towers = config_of({**parts.video.shapes, **parts.audio.shapes}, "720x720_5s")  # the size is that of its prompts alone
    return HarmonyConfig(
        video=towers.video, audio=towers.audio, interaction=InteractionConfig(), speech=speech, grid=towers.grid
    )


def _described(parts: AV[_Part]) -> dict[str, str]:
    names = parts.map(lambda part: part.path.name)
    return {
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": "harmony",
        "modelspec.title": "Harmony, a start point for training",
        "modelspec.description": f"video branch of {names.video}, audio branch of {names.audio}; the rest is new and untrained",
    }


# ---- what is new


def _new(audio: _Part, config: HarmonyConfig, dtype: torch.dtype, seed: int) -> Iterator[tuple[str, Tensor]]:
    """Keys and values of all that no file gives."""
    seeds = iter(range(seed << 20, (seed + 1) << 20))
    for index in range(config.video.layers):
        interaction = Interaction(config, Runtime(device="meta"))
        for target in Modality:
            for name, link in interaction.links(target).items():
                _make(link, next(seeds))
                link.zero()
                prefix = f"interaction.layers.{index}.to_{target.value}.{name}."
                yield from ((prefix + key, value) for key, value in link.state_dict().items())
                link.to("meta")  # which frees its memory
    if config.speech is not None:
        speech = SymbolEncoder(config.speech, config.audio.dim, Runtime(device="meta"))
        _make(speech, next(seeds))
        with torch.no_grad():
            speech.projection.weight.zero_()
            speech.projection.bias.copy_(_padding_token(audio, dtype))
        yield from ((f"speech.{key}", value) for key, value in speech.state_dict().items())
    for m in Modality:
        yield f"null.{m.value}", torch.zeros(1, 1, config.video.text_dim if m is Modality.VIDEO else config.audio.text_dim)


def _make(module: nn.Module, seed: int) -> None:
    """Put random weights into a module on the meta device."""
    module.to_empty(device="cpu")
    initialize(module, seed)


def _padding_token(audio: _Part, dtype: torch.dtype) -> Tensor:
    """What a branch's text embedding makes of zeros, which captions are filled up with."""

    def read(name: str) -> Tensor:
        return torch.cat([piece.float() for piece in audio.pieces(f"audio.text_embedding.{name}", dtype)])

    return F.linear(F.gelu(read("0.bias"), approximate="tanh"), read("2.weight"), read("2.bias"))

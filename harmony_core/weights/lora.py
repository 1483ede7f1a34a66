"""LoRA files: read, fitted to a joint model, applied, taken away, written.

A LoRA adds to a layer's weight the product of two thin matrices, ``W + strength * alpha / rank * up @ down``; some files add
whole differences (``diff``, ``diff_b``) too. Several add up. The sum is computed in float32 from the weights as they were and
rounded once, so that the order does not matter beyond rounding, and what is taken away leaves nothing behind: the weights as
they were are kept, not computed back.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from ..atomic import replacing
from ..config import HarmonyConfig
from ..inputs import is_file, named, read_text
from ..models.harmony import Harmony
from ..runtime import Runtime
from .files import LONGEST_TEXT, read_tensors
from .inspect import inspect
from .lora_names import Names, Role, of_text_encoder, other_kind, split_key

STRONGEST = 20.0
"""Largest strength, either way."""
LEAST_SHARE = 0.5
"""Of a file's layers, those that must have a place in a model for the file to be taken for one of its LoRAs."""
_SHOWN = 3
_ADAPTER_METADATA, _ADAPTER_FILE = "lora_adapter_metadata", "adapter_config.json"

Shapes = Mapping[str, tuple[int, ...]]
"""Of a model's parameters, by key."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """What a LoRA does to one layer.

    Attributes:
        down: (rank, ...), to the rank; None where there is no low-rank part.
        up: (outputs, rank, ...), from the rank; likewise.
        alpha: the low-rank part counts ``alpha / rank``.
        weight: added to the weight; None for nothing.
        bias: added to the bias; likewise.
    """

    down: Tensor | None = None
    up: Tensor | None = None
    alpha: float = 1.0
    weight: Tensor | None = None
    bias: Tensor | None = None

    @property
    def scale(self) -> float:
        """What the low-rank part counts."""
        return 1.0 if self.down is None else self.alpha / self.down.shape[0]

    def fits(self, weight: tuple[int, ...], bias: tuple[int, ...] | None) -> bool:
        """Whether it can be added to a layer with parameters of these shapes."""
        low = self.up is None or self.down is None or (self.up.shape[0], self.down[0].numel()) == _as_matrix(weight)
        same = self.weight is None or tuple(self.weight.shape) == weight
        return low and same and (self.bias is None or tuple(self.bias.shape) == bias)

    def of_weight(self, strength: float, like: Tensor) -> Tensor | None:
        """What is added to the weight, float32, on its device and of its shape; None for nothing."""
        total: Tensor | None = None
        if self.up is not None and self.down is not None:
            up, down = (part.to(like.device, torch.float32).flatten(1) for part in (self.up, self.down))
            total = (strength * self.scale) * (up @ down).reshape(like.shape)
        if self.weight is not None:
            whole = strength * self.weight.to(like.device, torch.float32)
            total = whole if total is None else total + whole
        return total

    def of_bias(self, strength: float, like: Tensor) -> Tensor | None:
        """Likewise, to the bias."""
        return None if self.bias is None else strength * self.bias.to(like.device, torch.float32)


@dataclass(frozen=True, kw_only=True)
class FittedLora:
    """A LoRA whose layers are those of a joint model.

    Attributes:
        name: of the file, for messages.
        changes: by our layer.
        note: what of the file has no place in the model, in a sentence; empty where all of it has.
    """

    name: str
    changes: Mapping[str, Change]
    note: str = ""

    def to_comfyui(self) -> dict[str, Tensor]:
        """The tensors under the names ComfyUI gives a joint model's layers; see :func:`comfyui_tensors`."""
        return comfyui_tensors(self.changes)


@dataclass(frozen=True, kw_only=True)
class Lora:
    """A LoRA file in memory, under the names of whoever wrote it.

    Attributes:
        name: of the file, for messages.
        changes: by the file's layer.
        metadata: the file's.
    """

    name: str
    changes: Mapping[str, Change]
    metadata: Mapping[str, str]

    def fit(self, shapes: Shapes) -> FittedLora:
        """Find a model's layers for it.

        Args:
            shapes: of the model's parameters.

        Raises:
            ValueError: it is for another model: fewer than :data:`LEAST_SHARE` of its layers have a place in this one, or a
                layer is of another shape; how many match is said.
        """
        names = Names(shapes)
        placed = {name: layer for name in self.changes if (layer := names.find(name)) is not None}
        lost = [name for name in self.changes if name not in placed and not of_text_encoder(name)]
        of_text = len(self.changes) - len(placed) - len(lost)
        self._check_share(len(placed), lost)
        self._check_shapes(placed, shapes)
        changes = {layer: self.changes[name] for name, layer in placed.items()}
        if len(changes) < len(placed):
            raise ValueError(f"{self.name} names a layer twice, under different names, and is damaged")
        left = [f"{len(lost)} of {len(placed) + len(lost)} layers have no place in this model: {_listed(lost)}"] if lost else []
        left += [f"those of a text encoder ({of_text}) are not used"] if of_text else []
        return FittedLora(name=self.name, changes=changes, note=f"{self.name}: {'; '.join(left)}" if left else "")

    def _check_share(self, placed: int, lost: Sequence[str]) -> None:
        total = placed + len(lost)
        if total and placed >= LEAST_SHARE * total and placed:
            return
        least = f"; {LEAST_SHARE:.0%} is the least" if placed else ""
        such = f", such as {_listed(lost)}" if lost else ": it is for a text encoder"
        raise ValueError(f"{self.name} is a LoRA for another model: it matches {placed} of {total} layers{least}{such}")

    def _check_shapes(self, placed: Mapping[str, str], shapes: Shapes) -> None:
        odd = [name for name, layer in placed.items() if not self.changes[name].fits(*_shapes_of(layer, shapes))]
        if not odd:
            return
        change, (weight, _) = self.changes[odd[0]], _shapes_of(placed[odd[0]], shapes)
        given: tuple[int, ...] | None = None if change.weight is None else tuple(change.weight.shape)
        if change.up is not None and change.down is not None:
            given, weight = (change.up.shape[0], change.down[0].numel()), _as_matrix(weight)
        told = f", for {_size(given)} instead of {_size(weight)}" if given not in {None, weight} else ", in its bias"
        raise ValueError(
            f"{self.name} is a LoRA for another model: of {len(placed)} layers whose names match, {len(odd)} are of another "
            f"shape, such as {odd[0]}{told}"
        )


def read_lora(path: str | Path) -> Lora:
    """Read a LoRA file.

    Args:
        path: a ``.safetensors`` file, or a pickle of tensors; keys as kohya, PEFT, diffusers or ComfyUI write them.

    Raises:
        ValueError: the file is missing, broken, a pickle with code, no LoRA or one of a kind that is not supported (DoRA,
            LoHa, LoKr and others); a pair lacks its other half, or its halves do not fit; values are not finite.
    """
    path = Path(path)
    if not is_file(path):
        raise ValueError(f"there is no LoRA file {named(path)}")
    tensors, metadata = read_tensors(path)
    kind = other_kind(tensors)
    if kind is not None:
        raise ValueError(
            f"{named(path)} is {kind[0]} ({kind[1]}), which is not supported: use one of low-rank pairs and differences alone"
        )
    layers: dict[str, dict[Role, Tensor]] = {}
    for key, tensor in tensors.items():
        found = split_key(key)
        if found is None:
            continue
        if (not tensor.is_floating_point() and found[1] is not Role.ALPHA) or not tensor.float().isfinite().all():
            raise ValueError(f"{named(path)} is damaged: {key} holds values that are not finite numbers")
        layers.setdefault(found[0], {})[found[1]] = tensor
    layers = {name: parts for name, parts in layers.items() if set(parts) != {Role.ALPHA}}
    if not layers:
        raise ValueError(f"{named(path)} is no LoRA, it is {inspect(path).what}")
    adapter = _Adapter.of(path, metadata)
    changes = {name: _change(path, name, parts, adapter) for name, parts in layers.items()}
    return Lora(name=str(path), changes=changes, metadata=metadata)


def load_lora(path: str | Path, shapes: Shapes) -> FittedLora:
    """Read a LoRA file and fit it to a model; see :func:`read_lora` and :meth:`Lora.fit`."""
    return read_lora(path).fit(shapes)


@lru_cache(maxsize=4)
def parameter_shapes(config: HarmonyConfig) -> Shapes:
    """The shapes of a model's parameters, without the model."""
    return shapes_of(Harmony(config, Runtime(device="meta")))


def shapes_of(model: nn.Module) -> Shapes:
    """The shapes of a model's parameters."""
    return {key: tuple(parameter.shape) for key, parameter in model.named_parameters()}


class LoraStack:
    """The LoRAs on a model. The weights as they were are kept, and come back bit for bit."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._before: dict[str, Tensor] = {}

    def set(self, loras: Sequence[tuple[FittedLora, float]]) -> None:
        """Put these on the model, in place of those that are; none takes all away.

        Args:
            loras: each with its strength.

        Raises:
            ValueError: a strength is out of range, or the weights no longer fit their dtype; the model is then without LoRAs.
        """
        self.clear()
        try:
            self._before = _apply(self._model, loras, keep=self._before)
        except ValueError:
            self.clear()
            raise

    def clear(self) -> None:
        """Take all away."""
        for key, value in self._before.items():
            self._model.get_parameter(key).data = value
        self._before = {}


def merge_loras(model: nn.Module, loras: Sequence[tuple[FittedLora, float]]) -> None:
    """Put LoRAs on a model for good, layer by layer: the weights as they were are not kept.

    Raises:
        ValueError: as :meth:`LoraStack.set`; the model is then changed in part.
    """
    _apply(model, loras, keep=None)


def check_strength(strength: float, where: str) -> None:
    """Refuse a strength that is out of range.

    Raises:
        ValueError: it is.
    """
    if not (math.isfinite(strength) and abs(strength) <= STRONGEST):
        raise ValueError(f"{where} is a number from -{STRONGEST:g} to {STRONGEST:g}, got {strength:g}")


def comfyui_tensors(changes: Mapping[str, Change]) -> dict[str, Tensor]:
    """Changes of our layers under ComfyUI's names: ``diffusion_model.LAYER.lora_up.weight``, ``.lora_down.weight``,
    ``.alpha``, ``.diff`` and ``.diff_b``.
    """
    tensors: dict[str, Tensor] = {}
    for layer, change in changes.items():
        alpha = None if change.down is None else torch.tensor(change.alpha)
        parts = {"lora_up.weight": change.up, "lora_down.weight": change.down, "alpha": alpha}
        parts |= {"diff": change.weight, "diff_b": change.bias}
        tensors |= {f"diffusion_model.{layer}.{part}": value for part, value in parts.items() if value is not None}
    return tensors


def save_lora(path: str | Path, changes: Mapping[str, Change], metadata: Mapping[str, str] | None = None) -> None:
    """Write a LoRA in ComfyUI's names; an interrupted write leaves nothing, or what was there.

    Args:
        path: a ``.safetensors`` file.
        changes: by our layer.
        metadata: such as ``modelspec.*``.

    Raises:
        ValueError: the path is no ``.safetensors`` file or cannot be written to.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"a LoRA is written to a .safetensors file, got {named(path)}")
    tensors = {key: value.detach().cpu().contiguous().clone() for key, value in comfyui_tensors(changes).items()}
    with replacing(path) as temporary:
        try:
            save_file(tensors, str(temporary), metadata=dict(metadata or {}))
        except SafetensorError as error:
            raise ValueError(f"cannot write {named(path)}: {error}") from error


@dataclass(frozen=True)
class _Adapter:
    """What PEFT keeps of an adapter beside its tensors.

    Attributes:
        alpha: of layers that have none of their own; None where nothing is said: it is then the rank.
        alphas: of layers by the ends of their names.
        by_root: whether alpha is divided by the root of the rank (rsLoRA).
    """

    alpha: float | None = None
    alphas: Mapping[str, float] | None = None
    by_root: bool = False

    @classmethod
    def of(cls, path: Path, metadata: Mapping[str, str]) -> _Adapter:
        """As diffusers writes it into a file's metadata, or PEFT beside the file.

        Raises:
            ValueError: it is there and cannot be read.
        """
        beside = path.with_name(_ADAPTER_FILE)
        if _ADAPTER_METADATA in metadata:
            text, where = metadata[_ADAPTER_METADATA], f"{_ADAPTER_METADATA} in the metadata of {named(path)}"
        elif path.stem == "adapter_model" and is_file(beside):
            text, where = read_text(beside, most=LONGEST_TEXT), named(beside)
        else:
            return cls()
        try:
            said: dict[str, Any] = {key.removeprefix("transformer."): value for key, value in json.loads(text).items()}
            alpha = None if said.get("lora_alpha") is None else float(said["lora_alpha"])
            alphas = {str(key).lstrip("^"): float(value) for key, value in (said.get("alpha_pattern") or {}).items()}
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"{where} is no adapter's configuration: {error}") from error
        return cls(alpha, alphas, by_root=bool(said.get("use_rslora")))

    def alpha_of(self, name: str, rank: int) -> float:
        """What is divided by the rank."""
        own = next((a for end, a in (self.alphas or {}).items() if name == end or name.endswith(f".{end}")), self.alpha)
        if own is None:
            return float(rank)
        return own * math.sqrt(rank) if self.by_root else own


def _change(path: Path, name: str, parts: Mapping[Role, Tensor], adapter: _Adapter) -> Change:
    down, up = parts.get(Role.DOWN), parts.get(Role.UP)
    if (down is None) != (up is None) or (up is None and Role.UP_BIAS in parts):
        raise ValueError(f"{named(path)} is damaged: {name} has no {(Role.DOWN if down is None else Role.UP).value}")
    weight, bias = parts.get(Role.WEIGHT), parts.get(Role.BIAS)
    if down is None or up is None:
        return Change(weight=weight, bias=bias)
    if min(down.ndim, up.ndim) < 2 or up.flatten(1).shape[1] != down.shape[0]:
        shapes = f"{_size(tuple(up.shape))} and {_size(tuple(down.shape))}"
        raise ValueError(f"{named(path)} is damaged: the two matrices of {name} are of {shapes} and do not fit each other")
    rank = down.shape[0]
    given = parts.get(Role.ALPHA)
    if given is not None and given.numel() != 1:
        raise ValueError(f"{named(path)} is damaged: the alpha of {name} is {given.numel()} numbers instead of one")
    alpha = adapter.alpha_of(name, rank) if given is None else float(given)
    if Role.UP_BIAS in parts:  # of the low-rank part, and scaled with it
        own = alpha / rank * parts[Role.UP_BIAS].float()
        bias = own if bias is None else bias.float() + own
    return Change(down=down, up=up, alpha=alpha, weight=weight, bias=bias)


def _apply(model: nn.Module, loras: Sequence[tuple[FittedLora, float]], *, keep: dict[str, Tensor] | None) -> dict[str, Tensor]:
    """Change parameters; the tensors they were go into ``keep``, if there is one."""
    for lora, strength in loras:
        check_strength(strength, f"the strength of {lora.name}")
    parameters = dict(model.named_parameters())
    on = [(lora, strength) for lora, strength in loras if strength]
    for layer in dict.fromkeys(layer for lora, _ in on for layer in lora.changes):
        here = [(lora.changes[layer], strength) for lora, strength in on if layer in lora.changes]
        weight = layer if layer in parameters else f"{layer}.weight"
        for key, added in ((weight, Change.of_weight), (f"{layer}.bias", Change.of_bias)):
            parameter = parameters.get(key)
            if parameter is None:
                continue
            deltas = [delta for change, strength in here if (delta := added(change, strength, parameter.data)) is not None]
            if not deltas:
                continue
            value = sum(deltas, parameter.data.float()).to(parameter.dtype)
            if not value.float().isfinite().all():
                raise ValueError(f"with these LoRAs {key} does not fit {parameter.dtype}; lower their strengths")
            if keep is not None:
                keep[key] = parameter.data
            parameter.data = value
    return {} if keep is None else keep


def _shapes_of(layer: str, shapes: Shapes) -> tuple[tuple[int, ...], tuple[int, ...] | None]:
    """Of a layer's weight and bias."""
    return shapes[layer] if layer in shapes else shapes[f"{layer}.weight"], shapes.get(f"{layer}.bias")


def _as_matrix(shape: tuple[int, ...]) -> tuple[int, int]:
    return shape[0], math.prod(shape[1:])


def _size(shape: tuple[int, ...] | None) -> str:
    return " x ".join(map(str, shape or ()))


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more

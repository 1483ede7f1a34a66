"""What the layers of a joint model are called in LoRA files, and what the tensors of one layer are.

A key is a prefix of the trainer's, a layer's name and the tensor's role. Names of layers are ours, those of Wan2.2 and of
diffusers (which mean the video branch), and Ovi's; kohya writes them with underscores in place of dots.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from enum import Enum

from .keymap import WanLayout, from_original
from .ovi import to_ovi


class Role(Enum):
    """What a tensor of a layer is."""

    DOWN = "lora_down"
    UP = "lora_up"
    UP_BIAS = "lora_up bias"
    ALPHA = "alpha"
    WEIGHT = "diff"
    BIAS = "diff_b"


_ROLES: Mapping[str, Role] = {
    # kohya and ComfyUI
    ".lora_down.weight": Role.DOWN,
    ".lora_up.weight": Role.UP,
    ".alpha": Role.ALPHA,
    ".diff": Role.WEIGHT,
    ".diff_b": Role.BIAS,
    # LyCORIS, of normalisations
    ".w_norm": Role.WEIGHT,
    ".b_norm": Role.BIAS,
    # PEFT and diffusers, new and old
    ".lora_A.weight": Role.DOWN,
    ".lora_B.weight": Role.UP,
    ".lora_B.bias": Role.UP_BIAS,
    ".lora_A.default.weight": Role.DOWN,
    ".lora_B.default.weight": Role.UP,
    ".lora_B.default.bias": Role.UP_BIAS,
    ".lora_A": Role.DOWN,
    ".lora_B": Role.UP,
    ".lora.down.weight": Role.DOWN,
    ".lora.up.weight": Role.UP,
    "_lora.down.weight": Role.DOWN,
    "_lora.up.weight": Role.UP,
}
_OTHERS = (
    (re.compile(r"\.(dora_scale|lora_magnitude_vector)\b"), "a DoRA"),
    (re.compile(r"\.lora_mid\."), "a LoRA with a middle matrix"),
    (re.compile(r"\.hada_[wt]\d"), "a LoHa"),
    (re.compile(r"\.lokr_[wt]\d"), "a LoKr"),
    (re.compile(r"\.(oft_blocks|oft_diag|oft_R)\b"), "an OFT"),
    (re.compile(r"\.[ab][12]\.weight$"), "a GLoRA"),
    (re.compile(r"\.(reshape_weight|set_weight)$"), "a LoRA that replaces weights"),
)
_PREFIXES = ("base_model.model.", "model.diffusion_model.", "diffusion_model.", "transformer.", "unet.", "pipe.dit.", "dit.")
_FLAT_PREFIXES = ("lora_unet__", "lora_unet_", "lora_transformer_", "lycoris_")
_TEXT_ENCODER = re.compile(r"(lora_te\d*_|text_encoders?(_\d)?\.|te\d*\.)")


def split_key(key: str) -> tuple[str, Role] | None:
    """The name a key gives a layer, and the tensor's role; None for a tensor of another kind of file."""
    # The longest ending that is known: ``.lora_B.weight`` before ``.lora_B``.
    ending = max((e for e in _ROLES if key.endswith(e)), key=len, default=None)
    return None if ending is None else (key.removesuffix(ending), _ROLES[ending])


def other_kind(keys: Iterable[str]) -> tuple[str, str] | None:
    """What a file is whose change of the weights is not a plain LoRA's, with a key that shows it; None for a plain one."""
    return next(((kind, key) for key in keys for mark, kind in _OTHERS if mark.search(key)), None)


def of_text_encoder(name: str) -> bool:
    """Whether a name is of a text encoder's layer."""
    return _TEXT_ENCODER.match(name) is not None


def layer_of(parameter: str) -> str:
    """The layer of a weight; a parameter that is none is a layer of its own."""
    return parameter.removesuffix(".weight")


class Names:
    """Finds our layers by the names of others."""

    def __init__(self, parameters: Iterable[str]) -> None:
        """Make the table.

        Args:
            parameters: keys of a joint model.
        """
        layers = dict.fromkeys(layer_of(key) for key in parameters if not key.endswith(".bias"))
        self._dotted: dict[str, str] = {}
        # Later ones win: what is ours is never taken for another's.
        for theirs in (_diffusers, _wan, _ovi, _ours):
            self._dotted |= {name: layer for layer in layers if (name := theirs(layer)) is not None}
        self._flat = {name.replace(".", "_"): layer for name, layer in self._dotted.items()}

    def find(self, name: str) -> str | None:
        """Our layer of that name; None where there is none."""
        for prefix in _FLAT_PREFIXES:
            if name.startswith(prefix):
                return self._flat.get(name.removeprefix(prefix).replace(".", "_"))
        bare = name
        while True:
            if bare in self._dotted:
                return self._dotted[bare]
            prefix = next((p for p in _PREFIXES if bare.startswith(p)), "")
            if not prefix:
                return None
            bare = bare.removeprefix(prefix)


def _ours(layer: str) -> str:
    return layer


def _wan(layer: str) -> str | None:
    return layer.removeprefix("video.") if layer.startswith("video.") else None


def _diffusers(layer: str) -> str | None:
    name = _wan(layer)
    return None if name is None else next(iter(from_original({name: 0}, WanLayout.DIFFUSERS)))


def _ovi(layer: str) -> str | None:
    try:
        (name,) = to_ovi({f"{layer}.weight": 0})
    except ValueError:  # Ovi has nothing like it
        return None
    return name.removesuffix(".weight")

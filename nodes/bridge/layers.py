"""What other nodes do to the layers of a step: replace some of them, or compile them.

A replaced layer is ComfyUI's ``patches_replace["dit"][("double_block", i)]``, as skip-layer guidance uses it. Compiled is the
run through the layers alone: what a sampling run keeps book of is Python, and would be traced anew at every step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

import torch
from comfy.hooks import EnumHookType
from torch import Tensor
from torch._dynamo.exc import TorchDynamoException

from ...harmony_core.conditioning import Conditioning
from ...harmony_core.models.branch import Stream
from ...harmony_core.types import Modality
from .run import Run

Streams = Mapping[Modality, Stream]
Options = dict[str, Any]
Weights = tuple[tuple[Any, float], ...]
BLOCK = "double_block"
WEIGHTS_OPTION = "harmony_weights"


def replaced_layers(options: Options) -> dict[int, Callable[..., Any]]:
    """The functions that stand for layers, by number."""
    patches = options.get("patches_replace", {}).get("dit", {})
    return {key[1]: function for key, function in patches.items() if key[0] == BLOCK}


def through_layer(index: int, total: int, streams: Streams, layer: Callable[[Streams], Streams], options: Options) -> Streams:
    """One layer, or what replaces it.

    Args:
        index: its number.
        total: how many there are.
        streams: what is on its way; one of the two may be absent.
        layer: the layer itself.
        options: ``transformer_options`` of the step; they say which layer runs.
    """
    options |= {"block_index": index, "total_blocks": total, "block_type": "double"}
    function = replaced_layers(options).get(index)
    if function is None:
        return layer(streams)

    def original(args: Options) -> Options:
        return {**args, "img": _tokens(layer(_with_tokens(streams, args["img"])))}

    out = function({"img": _tokens(streams), "transformer_options": options}, {"original_block": original})
    return _with_tokens(streams, out["img"])


def is_plain(options: Options) -> bool:
    """Whether nothing was attached to layers or attention."""
    return not any(options.get(key) for key in ("patches_replace", "patches", "optimized_attention_override"))


def weights_of(patcher: Any) -> Weights:
    """Which hooks changed the weights of a loaded model, and how strongly each does now."""
    hooks = None if patcher is None else patcher.current_hooks
    return () if hooks is None else tuple((hook.hook_ref, hook.strength) for hook in hooks.get_type(EnumHookType.Weight))


class ToldApart:
    """Conditions of steps with other layers, weights or attention, apart from the same conditions without.

    A run prepares conditions and reads drivers once; what it read with all layers is not what it reads with fewer, nor with
    weights that a hook has changed. Where the same hooks change them step by step, only the latest is kept.
    """

    def __init__(self) -> None:
        self._known: WeakKeyDictionary[Run, dict[Any, tuple[Any, Conditioning, Conditioning]]] = WeakKeyDictionary()

    def __call__(self, run: Run, told: Conditioning, options: Options) -> Conditioning:
        """The same conditions for the same layers and weights, equal ones of their own for others."""
        layers, weights = replaced_layers(options), options.get(WEIGHTS_OPTION, ())
        attention = options.get("optimized_attention_override")
        if not layers and not weights and attention is None:
            return told
        known = self._known.setdefault(run, {})
        kind = id(told), frozenset(layers), tuple(ref for ref, _ in weights), attention is None
        state = layers, weights, attention
        before = known.get(kind)
        if before is not None and before[0] == state:
            return before[2]
        if before is not None:
            run.forget(before[2])
        # Beside the copy stands what it was made of, so that its identity stays its own.
        known[kind] = (state, told, replace(told))
        return known[kind][2]


class Compiled:
    """A function as torch.compile makes it.

    Attributes:
        options: of torch.compile.
    """

    def __init__(self, function: Callable[..., Any], options: dict[str, Any]) -> None:
        self.options = options
        self._function = torch.compile(function, **options)

    def __call__(self, *args: Any) -> Any:
        """Call it; the first call compiles.

        Raises:
            ValueError: it cannot be compiled here.
        """
        try:
            return self._function(*args)
        except TorchDynamoException as error:
            reason = " ".join(str(error).split("\n\n")[0].split())
            raise ValueError(f"model: torch.compile cannot compile it here ({reason}); leave TorchCompileModel out") from error


def _tokens(streams: Streams) -> tuple[Tensor | None, ...]:
    """Tokens of video and sound, as other joint models give them to patches; None for an absent stream."""
    return tuple(streams[m].x if m in streams else None for m in Modality)


def _with_tokens(streams: Streams, tokens: tuple[Tensor | None, ...]) -> Streams:
    return {m: streams[m].to(x) for m, x in zip(Modality, tokens, strict=True) if m in streams and x is not None}

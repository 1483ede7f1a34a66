"""What a network's parameters are: which are weights of layers, and which of them a stage trains."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from torch import nn

WEIGHTS = ("weight", "up", "down")
"""Last part of the names of matrices and kernels; ``up`` and ``down`` are a LoRA's."""


def is_weight(name: str, parameter: nn.Parameter) -> bool:
    """Whether a parameter is a layer's matrix or kernel: what weight decay is for.

    Not by its shape: modulations, a response norm's gains and learned tokens are vectors with axes of length 1 before them, and
    a kernel with one output channel is none. A layer of torch calls its matrix ``weight``, and of those with two axes and more
    all are matrices, kernels or embeddings.
    """
    return name.rsplit(".", 1)[-1] in WEIGHTS and parameter.ndim > 1


def chosen(names: Iterable[str], parts: Sequence[str]) -> frozenset[str]:
    """The parameters that some parts of a network have.

    Args:
        names: of all parameters.
        parts: of names, from their beginning to a dot, such as ``interaction`` or ``video.blocks.0``; ``*`` stands for
            anything.

    Raises:
        ValueError: a part has no parameter; the message says which parts there are.
    """
    names = list(names)
    found: set[str] = set()
    for part in parts:
        such = {name for name in names if fnmatchcase(name, part) or fnmatchcase(name, f"{part}.*")}
        if not such:
            known = ", ".join(dict.fromkeys(name.split(".")[0] for name in names))
            raise ValueError(f"stage.train: no weight of this model is called {part!r}; its parts are {known}")
        found |= such
    return frozenset(found)

"""Multi-head attention with the projections apart, so that keys and values can be computed once and kept."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from ..runtime import Runtime
from .rope import rotate

# B batch, L tokens, S tokens attended to, N heads, D channels of a head, C = N D


class KeysValues(NamedTuple):
    """Keys and values of one attention, each (B, L, N, D)."""

    k: Tensor
    v: Tensor


class Attention(nn.Module):
    """Queries from one sequence, keys and values from the same or another; Wan2.2's names.

    Attributes:
        q, k, v, o: projections.
        norm_q, norm_k: root-mean-square normalisation over the full width, all heads together.
    """

    def __init__(
        self, dim: int, heads: int, runtime: Runtime, *, eps: float, source_dim: int | None = None, own_output: bool = True
    ) -> None:
        """Build the projections.

        Args:
            dim: width of the queries' sequence, and of the attention.
            heads: number of heads; divides ``dim``.
            runtime: layer factory and attention function.
            eps: of the normalisations.
            source_dim: width of the keys' sequence where it is another one.
            own_output: False leaves out ``q``, ``norm_q`` and ``o``: the user of this attention brings its own.
        """
        super().__init__()
        self.heads = heads
        self.attention = runtime.attention
        source_dim = dim if source_dim is None else source_dim
        if own_output:
            self.q = runtime.linear(dim, dim)
            self.norm_q = runtime.rms_norm(dim, eps=eps)
        self.k = runtime.linear(source_dim, dim)
        self.v = runtime.linear(source_dim, dim)
        self.norm_k = runtime.rms_norm(dim, eps=eps)
        if own_output:
            self.o = runtime.linear(dim, dim)

    def queries(self, x: Tensor, turn: Tensor | None = None) -> Tensor:
        """Normalised and, with ``turn``, rotated queries, (B, L, N, D)."""
        q = self._split(self.norm_q(self.q(x)))
        return q if turn is None else rotate(q, turn)

    def keys_values(self, x: Tensor, turn: Tensor | None = None) -> KeysValues:
        """Normalised and, with ``turn``, rotated keys, and values."""
        k = self._split(self.norm_k(self.k(x)))
        return KeysValues(k if turn is None else rotate(k, turn), self._split(self.v(x)))

    def attend(self, q: Tensor, source: KeysValues, mask: Tensor | None = None) -> Tensor:
        """Attention without the output projection: (B, L, N, D) queries to (B, L, C).

        Args:
            q: queries.
            source: keys and values, (B, S, N, D).
            mask: (B, S) bool, the keys that count; None for all.
        """
        mask = None if mask is None else mask[:, None, None]
        out = self.attention(_by_head(q), _by_head(source.k), _by_head(source.v), mask)
        return out.transpose(1, 2).flatten(2)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1))


def _by_head(x: Tensor) -> Tensor:
    """(B, L, N, D) to (B, N, L, D)."""
    x = x.transpose(1, 2)
    # Torch's attention on the CPU is a tenth slower on strided heads than a copy costs; on a GPU it makes no difference.
    return x.contiguous() if x.device.type == "cpu" else x

"""One diffusion transformer branch, used once for video and once for sound.

The module has Wan2.2-TI2V-5B's structure and key names. It is written as steps of a block (self-attention, text
cross-attention, feed-forward) that work on a :class:`Stream`, because the joint model puts interactions between them;
``Branch.forward`` runs the branch alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ..config import BranchConfig
from ..layers.attention import Attention, KeysValues
from ..layers.embedding import patch_embedding
from ..layers.modulation import TIME_SCALE, add_gated, modulate, sinusoidal
from ..layers.rope import rotation
from ..runtime import Runtime

# B batch, L tokens, C width, G groups of tokens that share a time, F token frames, H and W token rows and columns

Fusion = Callable[[Tensor], Tensor]
"""Attention to something else with the text attention's queries: (B, L, N, D) to (B, L, C)."""


@dataclass(frozen=True)
class Layout:
    """Where the tokens of a stream are: ``prefix`` tokens of a reference, then ``frames`` times ``height`` times ``width``."""

    frames: int
    height: int = 1
    width: int = 1
    prefix: int = 0

    @property
    def patches(self) -> int:
        """Tokens of one frame."""
        return self.height * self.width

    @property
    def tokens(self) -> int:
        """All tokens, the prefix with them."""
        return self.prefix + self.frames * self.patches


@dataclass(frozen=True)
class Stream:
    """One stream on its way through the layers.

    Attributes:
        x: tokens, (B, L, C), prefix first.
        layout: where they are.
        turn: rotary factors of the branch's own self-attention, (L, 1, R).
        time: time embedding, (B, G, C), for the head.
        modulation: its projection, (B, G, 6, C), for the blocks.
        text: keys and values of the text, layer by layer.
        mask: (B, L) bool, the tokens that self-attention sees; None for all.
    """

    x: Tensor
    layout: Layout
    turn: Tensor
    time: Tensor
    modulation: Tensor
    text: Sequence[KeysValues]
    mask: Tensor | None = None

    @property
    def body(self) -> Tensor:
        """The tokens without the prefix."""
        return self.x[:, self.layout.prefix :]

    @property
    def prefix(self) -> Tensor:
        """The reference tokens alone."""
        return self.x[:, : self.layout.prefix]

    def to(self, x: Tensor) -> Stream:
        """The same stream with other tokens."""
        return replace(self, x=x)


class Block(nn.Module):
    """One transformer block as three steps, each from stream to stream."""

    def __init__(self, config: BranchConfig, runtime: Runtime) -> None:
        super().__init__()
        dim, eps = config.dim, config.eps
        self.norm1 = runtime.layer_norm(dim, affine=False, eps=eps)
        self.self_attn = Attention(dim, config.heads, runtime, eps=eps)
        self.norm3 = runtime.layer_norm(dim, affine=True, eps=eps)
        self.cross_attn = Attention(dim, config.heads, runtime, eps=eps)
        self.norm2 = runtime.layer_norm(dim, affine=False, eps=eps)
        self.ffn = nn.Sequential(runtime.linear(dim, config.ffn), nn.GELU(approximate="tanh"), runtime.linear(config.ffn, dim))
        self.modulation = runtime.empty(1, 6, dim)

    def attend_self(self, s: Stream) -> Stream:
        """Self-attention: ``x + gate attn(modulate(norm(x)))``."""
        shift, scale, gate = self._modulation(s)[:3]
        h = modulate(self.norm1(s.x), shift, scale)
        q = self.self_attn.queries(h, s.turn)
        h = self.self_attn.o(self.self_attn.attend(q, self.self_attn.keys_values(h, s.turn), s.mask))
        return s.to(add_gated(s.x, h, gate))

    def attend_text(self, s: Stream, text: KeysValues, fusion: Fusion | None = None) -> Stream:
        """Cross-attention to the text: ``x + attn(norm(x), text)``; ``fusion`` shares its queries and output."""
        q = self.cross_attn.queries(self.norm3(s.x))
        h = self.cross_attn.attend(q, text)
        if fusion is not None:
            h = h + fusion(q)
        return s.to(s.x + self.cross_attn.o(h))

    def feed_forward(self, s: Stream) -> Stream:
        """Feed-forward: ``x + gate ffn(modulate(norm(x)))``."""
        shift, scale, gate = self._modulation(s)[3:]
        h = self.ffn(modulate(self.norm2(s.x), shift, scale))
        return s.to(add_gated(s.x, h, gate))

    def _modulation(self, s: Stream) -> tuple[Tensor, ...]:
        return (self.modulation.to(s.modulation) + s.modulation).unbind(2)


class Head(nn.Module):
    """Tokens to latents."""

    def __init__(self, config: BranchConfig, runtime: Runtime) -> None:
        super().__init__()
        self.norm = runtime.layer_norm(config.dim, affine=False, eps=config.eps)
        self.head = runtime.linear(config.dim, config.channels * _volume(config.patch))
        self.modulation = runtime.empty(1, 2, config.dim)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """(B, L, C) tokens and their (B, G, C) times to (B, L, patch volume * channels)."""
        shift, scale = (self.modulation.to(time) + time[:, :, None]).unbind(2)
        return self.head(modulate(self.norm(x), shift, scale))


class Branch(nn.Module):
    """A Wan2.2-style diffusion transformer."""

    def __init__(self, config: BranchConfig, runtime: Runtime) -> None:
        super().__init__()
        self.config = config
        dim = config.dim
        self.patch_embedding = patch_embedding(config.embedding, config.channels, config.patch, dim, runtime)
        self.text_embedding = nn.Sequential(
            runtime.linear(config.text_dim, dim), nn.GELU(approximate="tanh"), runtime.linear(dim, dim)
        )
        self.time_embedding = nn.Sequential(runtime.linear(config.freq_dim, dim), nn.SiLU(), runtime.linear(dim, dim))
        self.time_projection = nn.Sequential(nn.SiLU(), runtime.linear(dim, 6 * dim))
        self.blocks: Sequence[Block] = nn.ModuleList(Block(config, runtime) for _ in range(config.layers))  # type: ignore[assignment]
        self.head = Head(config, runtime)

    def embed_text(self, caption: Tensor) -> Tensor:
        """Caption tokens (B, n, text_dim), padded with zeros to ``text_len``, to context tokens (B, text_len, C).

        Raises:
            ValueError: the tokens have another width, or are too many.
        """
        if caption.ndim != 3 or caption.shape[-1] != self.config.text_dim:
            raise ValueError(f"caption tokens are (batch, length, {self.config.text_dim}), got {tuple(caption.shape)}")
        if caption.shape[1] > self.config.text_len:
            raise ValueError(f"a caption has at most {self.config.text_len} tokens, got {caption.shape[1]}")
        return self.text_embedding(F.pad(caption, (0, 0, 0, self.config.text_len - caption.shape[1])))

    def read_context(self, context: Tensor) -> list[KeysValues]:
        """Keys and values of context tokens (B, n, C) for every layer: they do not change while a clip is sampled."""
        return [block.cross_attn.keys_values(context) for block in self.blocks]

    def embed(self, latent: Tensor) -> Tensor:
        """Latents (B, channels, *axes) to tokens (B, L, C)."""
        # Contiguous once: every later residual would inherit the transposed layout, and every norm copy it.
        return self.patch_embedding(latent).flatten(2).transpose(1, 2).contiguous()

    def begin(
        self,
        latent: Tensor,
        t: Tensor,
        text: Sequence[KeysValues],
        *,
        turn: Tensor | None = None,
        prefix: Tensor | None = None,
        prefix_mask: Tensor | None = None,
    ) -> Stream:
        """Latents to a stream ready for the first block.

        Args:
            latent: (B, channels, F, H, W) or (B, channels, L).
            t: times in [0, 1], 1 is noise: (B, 1) for all tokens, (B, F) per latent frame, or (B, L) per token.
            text: keys and values of the context, from :meth:`read_context`.
            turn: rotary factors, from :meth:`rotation`, on the latent's device; made here by default.
            prefix: tokens put in front, clean (t = 0), (B, n, C).
            prefix_mask: (B, n) bool, those of them that count; None for all.

        Raises:
            ValueError: channels or sizes do not fit, or ``t`` has a shape that fits no group of tokens.
        """
        layout = self.layout(latent, prefix)
        x = self.embed(latent)
        t = self._check_times(t, latent.shape[0], layout)
        if prefix is not None:
            x = torch.cat([prefix.to(x), x], dim=1)
            per_token = t if t.shape[1] == layout.frames * layout.patches else t.expand(-1, layout.frames)
            assert layout.patches == 1, "only streams of one token a frame have a prefix"
            t = torch.cat([t.new_zeros(t.shape[0], layout.prefix), per_token], dim=1)
        mask = None if prefix_mask is None else F.pad(prefix_mask, (0, layout.tokens - layout.prefix), value=True)
        time = self.time_embedding(sinusoidal(TIME_SCALE * t, self.config.freq_dim).to(x.dtype))
        modulation = self.time_projection(time).unflatten(-1, (6, -1))
        turn = self.rotation(layout).to(x.device) if turn is None else turn
        return Stream(x=x, layout=layout, turn=turn, time=time, modulation=modulation, text=text, mask=mask)

    def finish(self, stream: Stream) -> Tensor:
        """The stream after the last block to a velocity of the latent's shape."""
        layout = stream.layout
        time = stream.time if stream.time.shape[1] == 1 else stream.time[:, layout.prefix :]
        out = self.head(stream.body, time)
        if len(self.config.patch) == 1:
            return out.transpose(1, 2)
        _, ph, pw = self.config.patch
        return rearrange(
            out,
            "b (f h w) (ph pw c) -> b c f (h ph) (w pw)",
            f=layout.frames,
            h=layout.height,
            w=layout.width,
            ph=ph,
            pw=pw,
        )

    def forward(self, latent: Tensor, t: Tensor, caption: Tensor) -> Tensor:
        """The branch alone.

        Args:
            latent: (B, channels, F, H, W) or (B, channels, L).
            t: times in [0, 1]: (B,), or as in :meth:`begin`.
            caption: (B, n, text_dim).

        Returns:
            Velocity, noise minus data, of the latent's shape.
        """
        t = t[:, None] if t.ndim == 1 else t
        stream = self.begin(latent, t, self.read_context(self.embed_text(caption)))
        for block, text in zip(self.blocks, stream.text, strict=True):
            stream = block.feed_forward(block.attend_text(block.attend_self(stream), text))
        return self.finish(stream)

    def layout(self, latent: Tensor, prefix: Tensor | None = None) -> Layout:
        """Where the tokens of a latent are.

        Raises:
            ValueError: the latent has another rank or channel count, or its size is not a multiple of the patch.
        """
        c = self.config
        if latent.ndim != 2 + len(c.patch) or latent.shape[1] != c.channels:
            axes = "frames, height, width" if len(c.patch) == 3 else "length"
            raise ValueError(f"latents are (batch, {c.channels}, {axes}), got {tuple(latent.shape)}")
        if any(n % p for n, p in zip(latent.shape[2:], c.patch, strict=True)):
            raise ValueError(f"latents of {tuple(latent.shape[2:])} do not divide into patches of {c.patch}")
        if not all(latent.shape[2:]):
            raise ValueError(f"these latents have no length: {tuple(latent.shape)}")
        frames, height, width = (*(n // p for n, p in zip(latent.shape[2:], c.patch, strict=True)), 1, 1)[:3]
        return Layout(frames, height, width, prefix=0 if prefix is None else prefix.shape[1])

    def rotation(self, layout: Layout, prefix_gap: int = 0) -> Tensor:
        """Rotary factors of a layout's tokens, (L, 1, R), on the CPU.

        Args:
            layout: where the tokens are; a prefix lies before the clip.
            prefix_gap: positions left free between the prefix and the clip.
        """
        c, n = self.config, len(self.config.patch)
        before = torch.arange(layout.prefix) - layout.prefix - prefix_gap
        axes = (torch.arange(layout.frames), torch.arange(layout.height), torch.arange(layout.width))
        f, h, w = (torch.cat([torch.zeros_like(before), p.flatten()]) for p in torch.meshgrid(*axes, indexing="ij"))
        f[: layout.prefix] = before
        return rotation((f, h, w)[:n], c.rope_axes, theta=c.rope_theta, scale=c.rope_scale)

    def _check_times(self, t: Tensor, batch: int, layout: Layout) -> Tensor:
        groups = (1, layout.frames, layout.frames * layout.patches)
        if t.ndim != 2 or t.shape[0] not in {1, batch} or t.shape[1] not in groups:
            raise ValueError(
                f"times are ({batch}, n) with n = 1, {groups[1]} (latent frames) or {groups[2]} (tokens), got {tuple(t.shape)}"
            )
        return t.expand(batch, -1)


def _volume(patch: tuple[int, ...]) -> int:
    volume = 1
    for size in patch:
        volume *= size
    return volume

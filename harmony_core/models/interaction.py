"""What passes between the two streams at every layer.

One direction at one layer is a :class:`Link`, cut in two: ``read`` takes from the source all the target will need of it,
``write`` gives the target's tokens their change. Of a source that does not change over the steps of a run, ``read`` is
done once and kept (see ``models/harmony.py``); that cut is why.

Every link starts with zero output, so that a joint model begins as its two branches.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import BranchConfig, HarmonyConfig, InteractionConfig
from ..layers.attention import Attention, KeysValues
from ..layers.rope import rotate
from ..runtime import Runtime
from ..types import AV, Modality
from .alignment import Alignment
from .branch import Stream
from .sound_map import SoundMapRecorder

# B batch, T tokens of a stream in time, P tokens of a video frame, N heads, D channels of a head, C = N D, G groups of
# audio tokens, Q tokens of a group, W tokens or frames of a window

Memory = tuple[Tensor, ...]
"""What a link's ``read`` gives: tensors with the batch in front."""


class Point(Enum):
    """Where in a layer a link acts."""

    BEFORE = "before self-attention"
    TEXT = "within the text cross-attention"
    AFTER = "after the text cross-attention"


@dataclass(frozen=True)
class Exchange:
    """What links know besides the tokens.

    Attributes:
        alignment: of this direction's target with its source.
        recorder: collects sound-source maps; None for none.
    """

    alignment: Alignment
    recorder: SoundMapRecorder | None = None


class Link(nn.Module, ABC):
    """One direction of one layer."""

    point = Point.AFTER

    @abstractmethod
    def read(self, source: Stream, exchange: Exchange) -> Memory:
        """All the target will need of the source."""

    @abstractmethod
    def zero(self) -> None:
        """Make the output zero."""

    def wanted(self, target_prefix: int) -> bool:
        """Whether this link has anything to do for a target with so many reference tokens."""
        del target_prefix
        return True


class WritingLink(Link):
    """A link that changes the target by itself, between the steps of a block."""

    @abstractmethod
    def write(self, target: Stream, memory: Memory, exchange: Exchange) -> Tensor:
        """The target's tokens, (B, L, C), changed by what was read."""


class _AttentionLink(WritingLink):
    """A link that attends: normalised target to normalised source."""

    def __init__(self, target: BranchConfig, source: BranchConfig, runtime: Runtime) -> None:
        super().__init__()
        self.norm = runtime.layer_norm(target.dim, affine=True, eps=target.eps)
        self.norm_source = runtime.layer_norm(source.dim, affine=True, eps=target.eps)
        self.attn = Attention(target.dim, target.heads, runtime, eps=target.eps, source_dim=source.dim)

    def zero(self) -> None:
        """Silence the output projection."""
        _zero(self.attn.o)

    def add(self, target: Stream, out: Tensor, exchange: Exchange) -> Tensor:
        """The target with its clip's tokens (not the reference's) changed where the source is heard."""
        delta = self.attn.o(out)
        if not exchange.alignment.all_heard:
            heard = exchange.alignment.heard.to(delta).repeat_interleave(target.layout.patches)
            delta = delta * heard[:, None]
        return _add_to_body(target, delta)


class FrameWiseToVideo(_AttentionLink):
    """Each video latent frame attends to the audio tokens adjacent to it in time (RoPE-aligned frame-wise attention)."""

    def read(self, source: Stream, exchange: Exchange) -> Memory:
        """Keys and values of all audio tokens, each (B, T_a, N, D)."""
        return self.attn.keys_values(self.norm_source(source.body), exchange.alignment.source_turn)

    def write(self, target: Stream, memory: Memory, exchange: Exchange) -> Tensor:
        """Gather every frame's window of audio tokens, attend, add."""
        a, frames, patches = exchange.alignment, target.layout.frames, target.layout.patches
        q = self.attn.queries(self.norm(target.body), a.target_turn.repeat_interleave(patches, 0))
        q = q.unflatten(1, (frames, patches)).flatten(0, 1)
        k, v = (z[:, a.rows.index].flatten(0, 1) for z in memory)
        mask = a.rows.valid | ~a.heard[:, None]  # a softmax over nothing is not a number; such a row is cut in `add`
        mask = mask.repeat(target.x.shape[0], 1)[:, None, None]
        if exchange.recorder is not None:
            self._record(exchange.recorder, q, k, a.rows.valid, frames)
        out = self.attn.attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), mask)
        out = out.transpose(1, 2).flatten(2).unflatten(0, (-1, frames)).flatten(1, 2)
        return self.add(target, out, exchange)

    def _record(self, recorder: SoundMapRecorder, q: Tensor, k: Tensor, valid_FW: Tensor, frames: int) -> None:
        score = q.transpose(1, 2).float() @ k.permute(0, 2, 3, 1).float() / q.shape[-1] ** 0.5
        share = score.softmax(-2).mean(1).unflatten(0, (-1, frames))  # over the patches: which one listens most to a token
        recorder.add(Modality.VIDEO, (share * valid_FW[:, None]).sum(-1))


class FrameWiseToAudio(_AttentionLink):
    """Each audio token attends to all patches of the video latent frames adjacent to it in time."""

    def __init__(self, target: BranchConfig, source: BranchConfig, runtime: Runtime, *, window: int) -> None:
        super().__init__(target, source, runtime)
        self.window = window

    def read(self, source: Stream, exchange: Exchange) -> Memory:
        """Keys and values of all video tokens, each (B, T_v P, N, D)."""
        turn = exchange.alignment.source_turn.repeat_interleave(source.layout.patches, 0)
        return self.attn.keys_values(self.norm_source(source.body), turn)

    def write(self, target: Stream, memory: Memory, exchange: Exchange) -> Tensor:
        """Group the audio tokens by their nearest frame, let each group see its run of frames, add."""
        a = exchange.alignment
        patches = memory[0].shape[1] // (a.seen.shape[0] - 2 * self.window)
        q = self.attn.queries(self.norm(target.body), a.target_turn)
        q_BGNQD = q[:, a.rows.index].transpose(2, 3)
        mask_GW = a.seen.repeat_interleave(patches, 1)[:, None, None]
        if exchange.recorder is not None:
            self._record(exchange.recorder, q_BGNQD, memory[0], a, patches)
        # One clip at a time: the overlapping windows are then a view of the keys, not a copy of them.
        outs = []
        for item in range(q.shape[0]):
            k, v = (self._windows(z[item], patches) for z in memory)
            outs.append(self.attn.attention(q_BGNQD[item], k, v, mask_GW))
        out = torch.stack(outs).transpose(2, 3).flatten(3).flatten(1, 2)
        return self.add(target, out[:, a.slot], exchange)

    def _windows(self, x_LND: Tensor, patches: int) -> Tensor:
        """(T_v P, N, D) to overlapping runs of frames, (G, N, W P, D), without copying them apart."""
        edge = 2 * self.window * patches
        padded = F.pad(x_LND, (0, 0, 0, 0, edge, edge))
        return padded.unfold(0, (2 * self.window + 1) * patches, patches).transpose(2, 3)

    def _record(self, recorder: SoundMapRecorder, q_BGNQD: Tensor, k: Tensor, a: Alignment, patches: int) -> None:
        groups, edge = a.seen.shape[0], 2 * self.window
        seen = a.seen.repeat_interleave(patches, 1)[:, None, None]
        frame = torch.arange(groups, device=k.device)[:, None] + torch.arange(edge + 1, device=k.device)
        maps = []
        for item in range(q_BGNQD.shape[0]):
            windows = self._windows(k[item], patches)
            score = q_BGNQD[item].float() @ windows.float().transpose(-1, -2) / q_BGNQD.shape[-1] ** 0.5
            weight_GQW = score.masked_fill(~seen, -torch.inf).softmax(-1).mean(1) * a.rows.valid[..., None]
            per_frame = weight_GQW.sum(1).unflatten(-1, (edge + 1, patches)).flatten(0, 1)
            total = per_frame.new_zeros(groups + edge, patches).index_add_(0, frame.flatten(), per_frame)
            maps.append(total[edge:groups])
        recorder.add(Modality.AUDIO, torch.stack(maps))


class GlobalLink(_AttentionLink):
    """Every token attends to the whole other stream: the paper's ablation baseline; cost is quadratic in duration."""

    def read(self, source: Stream, exchange: Exchange) -> Memory:
        """Keys and values of all source tokens."""
        turn = exchange.alignment.source_turn.repeat_interleave(source.layout.patches, 0)
        return self.attn.keys_values(self.norm_source(source.body), turn)

    def write(self, target: Stream, memory: Memory, exchange: Exchange) -> Tensor:
        """Attend, add."""
        turn = exchange.alignment.target_turn.repeat_interleave(target.layout.patches, 0)
        q = self.attn.queries(self.norm(target.body), turn)
        return _add_to_body(target, self.attn.o(self.attn.attend(q, KeysValues(*memory))))


class StyleLink(_AttentionLink):
    """Global style alignment: ``z_r <- z_r + CrossAttn(z_r, whole video)``; only the reference tokens change."""

    def read(self, source: Stream, exchange: Exchange) -> Memory:
        """Keys and values of the whole video, without positions."""
        return self.attn.keys_values(self.norm_source(source.body))

    def write(self, target: Stream, memory: Memory, exchange: Exchange) -> Tensor:
        """Attend, add to the prefix."""
        q = self.attn.queries(self.norm(target.prefix))
        delta = self.attn.o(self.attn.attend(q, KeysValues(*memory)))
        return torch.cat([target.prefix + delta, target.body], dim=1)

    def wanted(self, target_prefix: int) -> bool:
        """Only a target with reference tokens has use for it."""
        return target_prefix > 0


class CmcPositionalLink(WritingLink):
    """CMC-PE: the other stream's features, resampled to this one's time, added like a positional encoding."""

    point = Point.BEFORE

    def __init__(self, target: BranchConfig, source: BranchConfig, runtime: Runtime) -> None:
        super().__init__()
        self.norm_source = runtime.layer_norm(source.dim, affine=True, eps=target.eps)
        self.ffn = nn.Sequential(
            runtime.linear(source.dim, target.dim), nn.GELU(approximate="tanh"), runtime.linear(target.dim, target.dim)
        )

    def zero(self) -> None:
        """Silence the last projection."""
        _zero(self.ffn[2])

    def read(self, source: Stream, exchange: Exchange) -> Memory:
        """Features at the target's times, (B, T_target, C); a video frame is the mean of its tokens."""
        a = exchange.alignment
        features = self.norm_source(source.body).unflatten(1, (source.layout.frames, source.layout.patches)).mean(2)
        features = self.ffn(features)
        weight = a.weight.to(features)[:, None]
        return (torch.lerp(features[:, a.before], features[:, a.after], weight),)

    def write(self, target: Stream, memory: Memory, exchange: Exchange) -> Tensor:
        """Broadcast over a frame's tokens, add."""
        return _add_to_body(target, memory[0].repeat_interleave(target.layout.patches, 1))


class FusedLink(Link):
    """Ovi's: attention to the other stream inside the text cross-attention, with its queries and its output projection."""

    point = Point.TEXT

    def __init__(self, target: BranchConfig, source: BranchConfig, runtime: Runtime) -> None:
        super().__init__()
        self.norm_source = runtime.layer_norm(source.dim, affine=True, eps=target.eps)
        self.attn = Attention(target.dim, target.heads, runtime, eps=target.eps, source_dim=source.dim, own_output=False)

    def zero(self) -> None:
        """Silence the values: the output projection is the text attention's."""
        _zero(self.attn.v)

    def read(self, source: Stream, exchange: Exchange) -> Memory:
        """Keys and values of the source, the keys turned as in the source's own self-attention."""
        return self.attn.keys_values(self.norm_source(source.body), source.turn[source.layout.prefix :])

    def attend(self, q: Tensor, target: Stream, memory: Memory) -> Tensor:
        """Attention of the text attention's queries (B, L, N, D); reference tokens take no part."""
        n = target.layout.prefix
        out = self.attn.attend(rotate(q[:, n:], target.turn[n:]), KeysValues(*memory))
        return F.pad(out, (0, 0, n, 0))


KINDS: dict[str, Callable[..., Link]] = {"global": GlobalLink, "cmc_pe": CmcPositionalLink, "fused": FusedLink}


class Interaction(nn.Module):
    """All links of one layer, by target and by name."""

    def __init__(self, config: HarmonyConfig, runtime: Runtime) -> None:
        super().__init__()
        branches = AV(config.video, config.audio)
        self.to_video = nn.ModuleDict(_links(Modality.VIDEO, branches, config.interaction, runtime))
        self.to_audio = nn.ModuleDict(_links(Modality.AUDIO, branches, config.interaction, runtime))

    def links(self, target: Modality) -> Mapping[str, Link]:
        """The links into ``target``."""
        return self.to_video if target is Modality.VIDEO else self.to_audio  # type: ignore[return-value]

    def zero(self) -> None:
        """Make every output zero."""
        for target in Modality:
            for link in self.links(target).values():
                link.zero()


def _links(target: Modality, branches: AV[BranchConfig], config: InteractionConfig, runtime: Runtime) -> dict[str, nn.Module]:
    to, source = branches[target], branches[target.other]
    links: dict[str, nn.Module] = {}
    if config.kind == "frame_wise":
        if target is Modality.VIDEO:
            links["main"] = FrameWiseToVideo(to, source, runtime)
        else:
            links["main"] = FrameWiseToAudio(to, source, runtime, window=config.window)
    elif config.kind != "none":
        links["main"] = KINDS[config.kind](to, source, runtime)
    if config.style and target is Modality.AUDIO and config.kind != "none":
        links["style"] = StyleLink(to, source, runtime)
    return links


def _add_to_body(target: Stream, delta: Tensor) -> Tensor:
    if not target.layout.prefix:
        return target.x + delta
    return torch.cat([target.prefix, target.body + delta], dim=1)


def _zero(linear: Any) -> None:
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)

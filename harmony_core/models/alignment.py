"""The tables that align two streams in time: rotary factors on one common axis, and who is adjacent to whom.

They depend on the two lengths and the frame rate alone and are made once a forward pass, on the CPU, then moved.

Windows are banded, never a dense T_v x T_a mask over all tokens: a video latent frame gathers the few audio tokens adjacent
to it, and the audio tokens nearest to one video latent form a group that sees one contiguous run of frames. Cost and memory
are linear in duration.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from ..config import HarmonyConfig
from ..geometry import Timeline
from ..layers.rope import rotation
from ..types import AV, Modality


@dataclass(frozen=True)
class Rows:
    """Rows gathered from a sequence, filled up to a common length.

    Attributes:
        index: (rows, width) int64, which members; a filling entry points somewhere valid.
        valid: (rows, width) bool, which entries are real.
    """

    index: Tensor
    valid: Tensor


@dataclass(frozen=True)
class Alignment:
    """How one stream (the target) finds its place in the other (the source).

    Attributes:
        target_turn: rotary factors of the target's time positions, (T_target, 1, R).
        source_turn: rotary factors of the source's positions put on the target's axis, (T_source, 1, R).
        before, after: for linear resampling of the source to the target's times, source index, (T_target,).
        weight: of ``after``, (T_target,).
        rows: video target: for each latent frame its audio tokens. Audio target: for each group its audio tokens; group g
            sees the frames ``g - 2 window .. g``.
        heard: (T_target,) bool, False where nothing of the source is adjacent: the source sends nothing there.
        all_heard: whether that is nowhere the case.
        slot: audio target only: where each audio token stands in the flattened rows, (T_a,).
        seen: audio target only: which of its ``2 window + 1`` frames a group really has, (groups, 2 window + 1) bool.
    """

    target_turn: Tensor
    source_turn: Tensor
    before: Tensor
    after: Tensor
    weight: Tensor
    rows: Rows
    heard: Tensor
    all_heard: bool
    slot: Tensor
    seen: Tensor

    def to(self, device: torch.device) -> Alignment:
        """All tables on another device."""
        rows = Rows(self.rows.index.to(device), self.rows.valid.to(device))
        tables: dict[str, Any] = {f.name: v.to(device) for f in fields(self) if isinstance(v := getattr(self, f.name), Tensor)}
        return replace(self, rows=rows, **tables)


def align(config: HarmonyConfig, frames: int, audio_latents: int, fps: float) -> AV[Alignment]:
    """Alignments for both directions, each under its target's name.

    Args:
        config: of the joint model.
        frames: video latents in time, T_v.
        audio_latents: audio latents of the clip, without the reference, T_a.
        fps: frames per second of the clip.
    """
    positions = config.interaction.positions
    line = Timeline(
        latent_frames=frames,
        audio_latents=audio_latents,
        fps=fps,
        grid=config.grid,
        time_map="exact" if positions == "index" else positions,
    )
    own = AV(torch.arange(frames), torch.arange(audio_latents))
    on_other = AV(line.video_on_audio_axis(), line.audio_on_video_axis())
    nearest = line.nearest_video_latent()
    window = config.interaction.window

    def one(target: Modality) -> Alignment:
        branch = config.video if target is Modality.VIDEO else config.audio
        source = own[target.other] if positions == "index" else on_other[target.other]

        def turn(position: Tensor) -> Tensor:
            return rotation((position,), (branch.head_dim // 2 * 2,), theta=branch.rope_theta)

        # Resampling asks where a target token lies among the source's, whatever the rotary embedding uses.
        place = on_other[target].clamp(0, own[target.other].numel() - 1)
        before = place.floor().long().clamp(max=max(0, own[target.other].numel() - 2))
        after = (before + 1).clamp(max=own[target.other].numel() - 1)
        band = _video_rows if target is Modality.VIDEO else _audio_rows
        rows, heard, slot, seen = band(nearest, frames, window)
        return Alignment(
            target_turn=turn(own[target]),
            source_turn=turn(source),
            before=before,
            after=after,
            weight=(place - before).float(),
            rows=rows,
            heard=heard,
            all_heard=bool(heard.all()),
            slot=slot,
            seen=seen,
        )

    return AV.of(one)


def _video_rows(nearest: Tensor, frames: int, window: int) -> tuple[Rows, Tensor, Tensor, Tensor]:
    """Row i holds the tokens whose nearest latent is at most ``window`` from i."""
    frame = torch.arange(frames)
    first, end = torch.searchsorted(nearest, frame - window), torch.searchsorted(nearest, frame + window, right=True)
    none = torch.empty(0, dtype=torch.long)
    return _gather(first, end - first, nearest.numel()), end > first, none, none.bool()


def _audio_rows(nearest: Tensor, frames: int, window: int) -> tuple[Rows, Tensor, Tensor, Tensor]:
    """Group g holds the tokens nearest to latent ``g - window``, so that the outermost groups see one frame only."""
    groups = torch.arange(frames + 2 * window)
    first = torch.searchsorted(nearest, groups - window)
    count = torch.searchsorted(nearest, groups - window, right=True) - first
    rows = _gather(first, count, nearest.numel())
    group = nearest + window
    heard = (group >= 0) & (group < len(groups))
    clamped = group.clamp(0, len(groups) - 1)
    slot = clamped * rows.index.shape[1] + torch.arange(nearest.numel()) - first[clamped]
    frame = groups[:, None] - 2 * window + torch.arange(2 * window + 1)
    return rows, heard, torch.where(heard, slot, 0), (frame >= 0) & (frame < frames)


def _gather(first: Tensor, count: Tensor, total: int) -> Rows:
    width = max(1, int(count.max()))
    step = torch.arange(width)
    return Rows((first[:, None] + step).clamp(max=total - 1), step < count[:, None])

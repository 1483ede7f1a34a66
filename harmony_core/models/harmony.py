"""The joint model: two branches and, at every layer, what passes between them.

Three ways to run it share one loop over the layers:

- :meth:`Harmony.forward`: both streams (a joint pass);
- :meth:`Harmony.read_driver`: a clean stream alone, keeping what the other will read of it, layer by layer;
- :meth:`Harmony.forward_driven`: the other stream alone, reading what was kept.

With driver isolation a clean stream never reads the stream it drives, so the second and third together equal the first
to rounding, and the second is done once a run instead of once a step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..conditioning import Conditioning
from ..config import HarmonyConfig
from ..encoders.symbols import FILLER, SymbolEncoder
from ..layers.attention import KeysValues
from ..runtime import Runtime
from ..types import AV, Modality
from .alignment import Alignment, align
from .branch import Branch, Fusion, Stream
from .initialize import initialize
from .interaction import Exchange, FusedLink, Interaction, Link, Memory, Point, WritingLink
from .sound_map import SoundMapRecorder
from .tables import Tables

# B batch, F latent frames, L audio latents, C width

Streams = Mapping[Modality, Stream]


@dataclass(frozen=True)
class Context:
    """Conditions made ready once a run: they do not change over the steps.

    Attributes:
        text: keys and values of each branch's context, layer by layer.
        prefix: reference (or learned style) tokens in front of the audio stream, (B, n, C); None for none.
        prefix_mask: (B, n) bool, those of them that count; None for all.
        tables: what depends on the shapes of the clips alone.
    """

    text: AV[Sequence[KeysValues]]
    prefix: Tensor | None
    prefix_mask: Tensor | None = None
    tables: Tables = field(default_factory=Tables, compare=False)

    @property
    def batch(self) -> int:
        """Number of clips."""
        return self.text.video[0].k.shape[0]

    @property
    def prefix_tokens(self) -> int:
        """Tokens in front of the audio stream."""
        return 0 if self.prefix is None else self.prefix.shape[1]


class DriverMemory(Protocol):
    """What a driven stream reads of its driver."""

    def recall(self, layer: int, link: str) -> Memory:
        """What one link of one layer read, on the model's device."""
        ...


class Residency(Protocol):
    """Whoever keeps the layers' weights elsewhere until it is their turn; see :mod:`harmony_core.offload`."""

    def in_turn(self, works: Sequence[Sequence[nn.Module]]) -> AbstractContextManager[Iterator[int]]:
        """Work piece by piece.

        Args:
            works: the modules each piece of work computes with, in order.

        Returns:
            A context with the numbers of ``works``; the weights of each are there until the next is asked for.
        """
        ...


@dataclass(frozen=True)
class _Pass:
    """What one run through the layers does besides the branches' own work.

    Attributes:
        exchanges: tables and recorder by target; None where nothing is read.
        readers: the targets something is read for, in the order of :class:`Modality`: where weights are gathered layer by
            layer, all processes have to come to the layers in one order, and a set's differs from process to process.
        prefix_tokens: of the audio stream, present or not.
        given: memory of an absent source, kept earlier.
        keep: told what is read, layer by layer, for an absent target.
        skip_layers: layers left out.
    """

    exchanges: AV[Exchange] | None
    readers: tuple[Modality, ...]
    prefix_tokens: int
    given: DriverMemory | None = None
    keep: Callable[[int, str, Memory], None] | None = None
    skip_layers: Collection[int] = ()


class _Received(NamedTuple):
    """One link's share of a layer: the link, what it read, what it needs to write it."""

    link: Link
    memory: Memory
    exchange: Exchange


class Interactions(nn.Module):
    """The interactions of all layers, and the learned tokens that stand for a missing reference."""

    def __init__(self, config: HarmonyConfig, runtime: Runtime) -> None:
        super().__init__()
        self.layers: Sequence[Interaction] = nn.ModuleList(  # type: ignore[assignment]
            Interaction(config, runtime) for _ in range(config.video.layers)
        )
        self.style_tokens: nn.Parameter | None = None
        if config.interaction.style_tokens:
            self.style_tokens = runtime.empty(1, config.interaction.style_tokens, config.audio.dim)


class Harmony(nn.Module):
    """A joint audio-video diffusion transformer."""

    def __init__(self, config: HarmonyConfig, runtime: Runtime | None = None) -> None:
        """Build the model, its weights not yet set.

        Args:
            config: the checkpoint's config.
            runtime: layer factory, attention, device and dtype; the default is plain torch.
        """
        super().__init__()
        runtime = runtime or Runtime()
        self.config = config
        self.gradient_checkpointing = False
        """Training: hold what is between layers and compute each layer again for its gradient."""
        self.residency: Residency | None = None
        """Brings the layers' weights where they are not always there; None where they are."""
        self.video = Branch(config.video, runtime)
        self.audio = Branch(config.audio, runtime)
        self.interaction = Interactions(config, runtime)
        self.speech = SymbolEncoder(config.speech, config.audio.dim, runtime) if config.speech else None
        self.caption = SymbolEncoder(config.caption, config.video.text_dim, runtime) if config.caption else None
        # Where captions come from an encoder outside the model, "no caption" is a learned token; a caption encoder of its
        # own has filler for that, and a model of one prompt has neither.
        self.null = nn.ParameterDict()
        if config.caption is None and not config.one_prompt:
            self.null = nn.ParameterDict({m.value: runtime.empty(1, 1, self.branch(m).config.text_dim) for m in Modality})

    def branch(self, modality: Modality) -> Branch:
        """The branch of one stream."""
        return self.video if modality is Modality.VIDEO else self.audio

    def initialize(self, seed: int) -> None:
        """Set every weight for training from nothing; the interaction starts with zero output."""
        initialize(self, seed)
        for layer in self.interaction.layers:
            layer.zero()

    def encode_captions(self, symbols: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Byte captions (B, length) to caption tokens in ``dtype``, for models with their own caption encoder.

        Raises:
            ValueError: this model takes its captions from umT5.
        """
        if self.caption is None:
            raise ValueError("this checkpoint has no caption encoder of its own; encode captions with umT5")
        return self.caption(symbols, dtype)

    def prepare(
        self,
        conditioning: Conditioning,
        batch: int,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        tables: Tables | None = None,
        checked: bool = False,
    ) -> Context:
        """Make conditions ready for any number of passes.

        Args:
            conditioning: what the model is told.
            batch: number of clips.
            device: to compute on; a host may keep weights elsewhere.
            dtype: to compute in; a host may keep weights in another.
            tables: those of an earlier run of this model, to be used again; new ones by default.
            checked: the values of the conditions are known to be finite: a GPU need not be waited for to look at them.

        Raises:
            ValueError: a condition has another batch or width, or this model has no use for it.
        """
        conditioning.check(batch, values=not checked)
        conditioning = conditioning.to(device, dtype)
        like = torch.empty(0, device=device, dtype=dtype)
        if conditioning.transcript is not None and self.speech is None:
            raise ValueError("this checkpoint has no transcript encoder; leave the transcript out")
        if conditioning.reference is not None and self.config.one_prompt:
            raise ValueError("this checkpoint takes no reference voice; leave it out")
        captions = AV(conditioning.video_caption, conditioning.audio_caption)
        context = AV.of(lambda m: self._embed_caption(m, captions[m], conditioning.dropped, batch, like))
        if self.speech is not None:
            speech = self._embed_transcript(self.speech, conditioning, batch, like)
            context = context.replace(Modality.AUDIO, torch.cat([speech, context.audio], dim=1))
        prefix, prefix_mask = self._prefix(conditioning, batch, like)
        return Context(
            AV.of(lambda m: self._read_context(m, context[m])), prefix, prefix_mask, Tables() if tables is None else tables
        )

    def forward_joint(
        self,
        latents: AV[Tensor],
        times: AV[Tensor],
        context: Context,
        *,
        driver: Modality | None = None,
        fps: float | None = None,
        interact: bool = True,
        skip_layers: Collection[int] = (),
        recorder: SoundMapRecorder | None = None,
    ) -> AV[Tensor]:
        """Both velocities.

        Args:
            latents: video (B, channels, F, H, W) and audio (B, channels, L).
            times: in [0, 1], 1 is noise: (B, 1), or (B, F) per latent frame and (B, L) per audio latent.
            context: from :meth:`prepare`.
            driver: the stream that is clean as a whole, if one is; with driver isolation it reads nothing.
            fps: frames per second of the clip; the config's by default.
            interact: False keeps the branches apart.
            skip_layers: layers left out.
            recorder: collects sound-source maps.

        Returns:
            Velocities, noise minus data, of the latents' shapes.

        Raises:
            ValueError: batches, channels, sizes or times do not fit.
        """
        if latents.video.shape[0] != latents.audio.shape[0]:
            raise ValueError(f"video has a batch of {latents.video.shape[0]}, audio of {latents.audio.shape[0]}")
        streams: Streams = {m: self._begin(m, latents[m], times[m], context) for m in Modality}
        isolated = driver if self.config.driver_isolation else None
        readers = tuple(m for m in Modality if interact and m is not isolated)
        lengths = AV.of(lambda m: streams[m].layout.frames)
        work = self._pass(lengths, latents.video.device, fps, context, readers, recorder)
        if recorder is not None:
            recorder.set_size(streams[Modality.VIDEO].layout.height, streams[Modality.VIDEO].layout.width)
        streams = self._run(streams, replace(work, skip_layers=skip_layers))
        return AV.of(lambda m: self.branch(m).finish(streams[m]))

    forward = forward_joint

    def forward_alone(
        self, modality: Modality, latent: Tensor, t: Tensor, context: Context, *, skip_layers: Collection[int] = ()
    ) -> Tensor:
        """One stream's velocity with the interaction cut; arguments as in :meth:`forward_joint`."""
        stream = self._begin(modality, latent, t, context)
        work = _Pass(exchanges=None, readers=(), prefix_tokens=context.prefix_tokens, skip_layers=skip_layers)
        return self.branch(modality).finish(self._run({modality: stream}, work)[modality])

    def read_driver(
        self,
        driver: Modality,
        latent: Tensor,
        context: Context,
        keep: Callable[[int, str, Memory], None],
        *,
        other_length: int,
        fps: float | None = None,
        skip_layers: Collection[int] = (),
    ) -> None:
        """Run a clean stream alone and hand over what the other stream will read of it.

        Args:
            driver: which stream.
            latent: its clean latent.
            context: from :meth:`prepare`.
            keep: called with layer, link name and memory, in order.
            other_length: latents in time of the driven stream.
            fps: frames per second of the clip.
            skip_layers: layers left out.
        """
        assert self.config.driver_isolation, "a driver that reads what it drives is not constant"
        stream = self._begin(driver, latent, latent.new_zeros(latent.shape[0], 1), context)
        lengths = AV.both(other_length).replace(driver, stream.layout.frames)
        work = self._pass(lengths, latent.device, fps, context, (driver.other,))
        self._run({driver: stream}, replace(work, keep=keep, skip_layers=skip_layers))

    def forward_driven(
        self,
        target: Modality,
        latent: Tensor,
        t: Tensor,
        context: Context,
        memory: DriverMemory,
        *,
        driver_length: int,
        fps: float | None = None,
        skip_layers: Collection[int] = (),
        recorder: SoundMapRecorder | None = None,
    ) -> Tensor:
        """One stream's velocity, given what was kept of its driver; equals :meth:`forward_joint` with that driver.

        Args:
            target: the driven stream.
            latent: its latent.
            t: its times, as in :meth:`forward_joint`.
            context: from :meth:`prepare`.
            memory: what :meth:`read_driver` kept.
            driver_length: latents in time of the driver.
            fps: frames per second of the clip.
            skip_layers: layers left out.
            recorder: collects sound-source maps.
        """
        stream = self._begin(target, latent, t, context)
        lengths = AV.both(driver_length).replace(target, stream.layout.frames)
        work = self._pass(lengths, latent.device, fps, context, (target,), recorder)
        streams = self._run({target: stream}, replace(work, given=memory, skip_layers=skip_layers))
        return self.branch(target).finish(streams[target])

    # ---- conditions

    def _embed_caption(
        self, modality: Modality, caption: Tensor | None, dropped: Tensor | None, batch: int, like: Tensor
    ) -> Tensor:
        branch = self.branch(modality)
        if caption is not None and dropped is None:
            return branch.embed_text(caption)
        nothing = branch.embed_text(self._no_caption(modality, like)).expand(batch, -1, -1)
        if caption is None:
            return nothing
        assert dropped is not None
        return torch.where(dropped[:, None, None], nothing, branch.embed_text(caption))

    def _no_caption(self, modality: Modality, like: Tensor) -> Tensor:
        if self.config.one_prompt:
            raise ValueError(f"this model knows no missing {modality.value} caption; give umT5's encoding of an empty text")
        if self.caption is None:
            return self.null[modality.value].to(like)
        return self.caption(_filler(self.caption, like), like.dtype)

    def _embed_transcript(self, speech: SymbolEncoder, conditioning: Conditioning, batch: int, like: Tensor) -> Tensor:
        transcript = conditioning.transcript
        if transcript is None:
            return speech(_filler(speech, like), like.dtype).expand(batch, -1, -1)
        if conditioning.dropped is not None:
            transcript = torch.where(conditioning.dropped[:, None], FILLER, transcript)
        return speech(transcript, like.dtype)

    def _read_context(self, modality: Modality, context: Tensor) -> list[KeysValues]:
        branch = self.branch(modality)
        if self.residency is None:
            return branch.read_context(context)
        texts = [block.cross_attn for block in branch.blocks]
        with self.residency.in_turn([(text.k, text.norm_k, text.v) for text in texts]) as turns:
            return [texts[turn].keys_values(context) for turn in turns]

    def _prefix(self, conditioning: Conditioning, batch: int, like: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Tokens of the references, or the learned ones of a clip without, and which of them count."""
        tokens = self.interaction.style_tokens
        learned = None if tokens is None else tokens.to(like).expand(batch, -1, -1)
        if conditioning.reference is None:
            return learned, None
        self.audio.layout(conditioning.reference)
        own = self.audio.embed(conditioning.reference)
        if (has := conditioning.has_reference) is None:
            return own, None
        # Both end where the clip begins, so a clip's tokens have the positions they have alone; what is in front of the
        # shorter ones is masked.
        learned = own[:, :0] if learned is None else learned
        longest = max(own.shape[1], learned.shape[1])
        first = torch.where(has, longest - own.shape[1], longest - learned.shape[1])
        own, learned = (F.pad(x, (0, 0, longest - x.shape[1], 0)) for x in (own, learned))
        mask = torch.arange(longest, device=has.device) >= first[:, None]
        return torch.where(has[:, None, None], own, learned), mask

    # ---- the layers

    def _begin(self, modality: Modality, latent: Tensor, t: Tensor, context: Context) -> Stream:
        if latent.shape[0] != context.batch:
            raise ValueError(
                f"{modality.value} has a batch of {latent.shape[0]}, the conditions were prepared for {context.batch}"
            )
        branch, gap = self.branch(modality), self.config.interaction.reference_gap
        prefix, mask = (context.prefix, context.prefix_mask) if modality is Modality.AUDIO else (None, None)
        layout = branch.layout(latent, prefix)
        turn = context.tables.once((modality, layout, latent.device), lambda: branch.rotation(layout, gap).to(latent.device))
        return branch.begin(latent, t, context.text[modality], turn=turn, prefix=prefix, prefix_mask=mask)

    def _pass(
        self,
        lengths: AV[int],
        device: torch.device,
        fps: float | None,
        context: Context,
        readers: tuple[Modality, ...],
        recorder: SoundMapRecorder | None = None,
    ) -> _Pass:
        fps = self.config.fps if fps is None else fps
        if not (math.isfinite(fps) and fps > 0):
            raise ValueError(f"fps is a positive number, got {fps}")

        def tables() -> AV[Alignment]:
            return align(self.config, lengths.video, lengths.audio, fps).map(lambda table: table.to(device))

        exchanges = context.tables.once((lengths, fps, device), tables).map(lambda table: Exchange(table, recorder))
        return _Pass(exchanges=exchanges, readers=readers, prefix_tokens=context.prefix_tokens)

    def _run(self, streams: Streams, work: _Pass) -> Streams:
        layers = [index for index in range(self.config.video.layers) if index not in work.skip_layers]
        if self.residency is None:
            return self._through(layers, streams, work)
        with self.residency.in_turn([self._modules_of(index, streams, work) for index in layers]) as turns:
            return self._through((layers[turn] for turn in turns), streams, work)

    def _modules_of(self, index: int, streams: Streams, work: _Pass) -> list[nn.Module]:
        """What a layer computes with in this pass."""
        modules: list[nn.Module] = [self.branch(m).blocks[index] for m in streams]
        for target in work.readers:
            prefix = work.prefix_tokens if target is Modality.AUDIO else 0
            modules += [link for link in self.interaction.layers[index].links(target).values() if link.wanted(prefix)]
        return modules

    def _through(self, layers: Iterable[int], streams: Streams, work: _Pass) -> Streams:
        for index in layers:
            if self.gradient_checkpointing and torch.is_grad_enabled():
                streams = checkpoint(self._layer, index, streams, work, use_reentrant=False)
            else:
                streams = self._layer(index, streams, work)
        return streams

    def _layer(self, index: int, streams: Streams, work: _Pass) -> Streams:
        """One layer: self-attention, text cross-attention, interaction, feed-forward."""
        streams = self._write(streams, self._read(index, Point.BEFORE, streams, work))
        streams = {m: self.branch(m).blocks[index].attend_self(s) for m, s in streams.items()}
        fused = self._read(index, Point.TEXT, streams, work)
        streams = {
            m: self.branch(m).blocks[index].attend_text(s, s.text[index], _fusion(s, fused[m])) for m, s in streams.items()
        }
        streams = self._write(streams, self._read(index, Point.AFTER, streams, work))
        return {m: self.branch(m).blocks[index].feed_forward(s) for m, s in streams.items()}

    def _read(self, index: int, point: Point, streams: Streams, work: _Pass) -> AV[list[_Received]]:
        """What every reader receives here; both directions read before either is changed."""
        received: AV[list[_Received]] = AV([], [])
        for target in work.readers:
            assert work.exchanges is not None
            prefix = work.prefix_tokens if target is Modality.AUDIO else 0
            exchange = work.exchanges[target]
            if exchange.recorder is not None and not exchange.recorder.wants_layer(index):
                exchange = replace(exchange, recorder=None)
            for name, link in self.interaction.layers[index].links(target).items():
                if link.point is not point or not link.wanted(prefix):
                    continue
                if work.given is not None:
                    memory = work.given.recall(index, name)
                else:
                    memory = link.read(streams[target.other], exchange)
                if work.keep is not None:
                    work.keep(index, name, memory)
                received[target].append(_Received(link, memory, exchange))
        return received

    def _write(self, streams: Streams, received: AV[list[_Received]]) -> Streams:
        changed = dict(streams)
        for target in streams:
            for link, memory, exchange in received[target]:
                assert isinstance(link, WritingLink)
                changed[target] = changed[target].to(link.write(changed[target], memory, exchange))
        return changed


def _filler(encoder: SymbolEncoder, like: Tensor) -> Tensor:
    """A sequence of nothing."""
    return torch.full((1, encoder.config.length), FILLER, device=like.device)


def _fusion(stream: Stream, received: list[_Received]) -> Fusion | None:
    """The fused attention of a stream's text cross-attention, where there is one."""
    if not received:
        return None
    (link, memory, _), *more = received
    assert isinstance(link, FusedLink) and not more
    return lambda q: link.attend(q, stream, memory)

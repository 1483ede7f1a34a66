"""How much memory a step, and a codec, takes beside its weights.

A step is counted in widths of its tokens, a codec in feature maps; the counts are those of the tensors that are there at
once, as measured. ComfyUI is told the same numbers, and makes room for them before it starts.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from math import ceil, prod

from ..codecs.audio import AudioCodecConfig
from ..codecs.video_tiling import Tiling
from ..codecs.video_vae import CHUNK_CELLS, VideoVAEConfig
from ..codecs.vocoder import CHUNK_FRAMES
from ..config import BranchConfig, HarmonyConfig
from ..types import AV, Modality

MARGIN = 1.2
"""Over the count, for what is small beside it and not counted."""
LATENT_COPIES = 12
"""Latents in float32 that a sampler and what surrounds the model hold at once."""
FLOAT32_BYTES = 4
ATTENTION_WIDTHS = 9
"""Of a token inside self-attention beside the residual: its input, queries, keys and values, each also in another order, and
what comes out."""
FEED_FORWARD_WIDTHS = 3
"""Of a token inside the feed-forward beside the residual and two hidden layers."""
TIME_WIDTHS = 7
"""Of a group of tokens that share a time: its embedding and its projection for the six modulations."""
CELL_PIXELS = 16 * 16 * 4
"""Pixels of one video latent: a feature map here is one value of each channel for each of them."""
DECODER_MAPS, ENCODER_MAPS = 1.56, 1.32
"""Feature maps of a piece of video where they are widest, of the finest level's channels."""
COARSE_DECODER_MAPS, COARSE_ENCODER_MAPS = 0.3, 0.7
"""Likewise in the coarse half, which is never cut into tiles."""
CONVOLUTION_MARGIN = 1.1
"""Over the count of feature maps, for what convolutions take inside."""
PIECE_COPIES = 2
"""Of a piece's pictures: as the codec has them, and on their way."""
CLIP_COPIES, CLIP_COPIES_ENCODING = 3, 2
"""Of pictures on their way through ComfyUI's VAE; of a waveform, the first."""
VOCODER_MAPS, VAE_MAPS = 13, 11.5
VOCODER_CONTEXT = 1.2
"""Length of a piece with its context, in pieces."""
AUDIO_TABLES = 5 << 18
"""Filters and windows of the spectrogram."""
BOTH = frozenset(Modality)


@dataclass(frozen=True)
class Bytes:
    """Memory beside weights.

    Attributes:
        device: where it is computed.
        host: in main memory; where both are the same, this comes on top.
    """

    device: int
    host: int = 0


def step_bytes(config: HarmonyConfig, shapes: AV[Sequence[int]], itemsize: int, streams: Collection[Modality] = BOTH) -> int:
    """Bytes of a pass and the sampler around it, at their highest.

    Args:
        config: of the model.
        shapes: of both streams' latents, the batch in front.
        itemsize: bytes of a value in the model.
        streams: those that are run; one alone beside what was kept of its driver.
    """
    batch, latents = shapes.video[0], sum(prod(shape) for shape in shapes)
    values = pass_values(config, shapes, streams) + batch * context_values(config)
    return int(MARGIN * (values * itemsize + latents * LATENT_COPIES * FLOAT32_BYTES))


def pass_values(config: HarmonyConfig, shapes: AV[Sequence[int]], streams: Collection[Modality] = BOTH) -> float:
    """Values of a pass that are there at once, at their highest; see :func:`step_bytes`."""
    video, audio = config.video, config.audio
    batch, frames = shapes.video[0], shapes.video[2]
    tokens = AV(batch * prod(shapes.video[2:]) // prod(video.patch), batch * shapes.audio[2])
    # In the exchange video gives sound its keys and values, with two frames of nothing at either end.
    exchange = FEED_FORWARD_WIDTHS * video.dim + audio.dim * (4 + 8 / frames)
    inside = AV(
        tokens.video * max(_inside(video), exchange) + batch * frames * 6 * video.dim,
        tokens.audio * (_inside(audio) + 6 * audio.dim),
    )
    resting = AV(
        tokens.video * video.dim + batch * frames * TIME_WIDTHS * video.dim,
        tokens.audio * (1 + TIME_WIDTHS) * audio.dim,
    )
    return sum(resting[m] for m in streams) + max(inside[m] for m in streams)


def context_values(config: HarmonyConfig) -> int:
    """Values of the keys and values of one clip's conditions, over all layers; they stay for a whole run."""
    spoken = config.speech.length if config.speech else 0
    lengths = AV(config.video.text_len, config.audio.text_len + spoken)
    branches = AV(config.video, config.audio)
    return sum(branch.layers * length * 2 * branch.dim for branch, length in zip(branches, lengths, strict=True))


def driver_values(config: HarmonyConfig, driver: Modality, tokens: AV[int], *, prefix: bool = False) -> int:
    """Values that are kept of a driver for a whole run: what the other stream reads of it, over all layers.

    Args:
        config: of the model.
        driver: the clean stream.
        tokens: of both streams.
        prefix: whether the sound begins with reference tokens, which also read the picture.
    """
    target = driver.other
    width = (config.video if target is Modality.VIDEO else config.audio).dim
    kind = config.interaction.kind
    if kind == "none":
        return 0
    # Keys and values of every token; cmc_pe keeps one vector for each time of the target, at most one a token of it.
    main = tokens[target] * width if kind == "cmc_pe" else 2 * tokens[driver] * width
    styled = config.interaction.style and prefix and target is Modality.AUDIO
    return config.video.layers * (main + (2 * tokens[driver] * width if styled else 0))


def video_codec_bytes(config: VideoVAEConfig, latent: Sequence[int], *, decode: bool) -> int:
    """Bytes of coding one clip in one place, pictures and latents included; its latent is (frames, height, width)."""
    one = video_piece_bytes(config, latent, decode=decode)
    pictures = prod(latent) * 3 * CELL_PIXELS
    copies = CLIP_COPIES if decode else CLIP_COPIES_ENCODING
    return one.device + one.host + FLOAT32_BYTES * copies * pictures


def video_piece_bytes(
    config: VideoVAEConfig,
    latent: Sequence[int],
    *,
    decode: bool,
    tiling: Tiling | None = None,
    itemsize: int = FLOAT32_BYTES,
) -> Bytes:
    """Bytes of the pieces a clip is coded in; the clip itself waits elsewhere.

    Args:
        config: of the codec.
        latent: (frames, height, width).
        decode: or encode.
        tiling: how large pictures are cut; the pasts of tiles wait in main memory.
        itemsize: bytes of a value in the codec.
    """
    frames, height, width = latent
    cells = height * width
    # A clip's first latent holds one frame, not four: a clip of one piece is that much shorter.
    piece = max(1, CHUNK_CELLS // cells) if frames * cells > CHUNK_CELLS else frames - 0.75
    channels = config.decoder_width if decode else config.encoder_width
    per_map = channels * CELL_PIXELS
    wide, coarse = (DECODER_MAPS, COARSE_DECODER_MAPS) if decode else (ENCODER_MAPS, COARSE_ENCODER_MAPS)
    past = _pasts(config, decode=decode)
    tile, copies = float(cells), 1
    if tiling is not None:
        sides = [_tile(side * config.pixel_stride, tiling) for side in (height, width)]
        tile = prod(length for length, _ in sides) / config.pixel_stride**2
        copies = prod(count for _, count in sides)
    # A layer's past is there twice while the next one is made, where there is more than one piece.
    fine = CONVOLUTION_MARGIN * tile * (piece * wide * per_map + past.fine * min(2, ceil(frames / ceil(piece))))
    attention = 2 * piece * cells**2
    # Between the halves, features at 8 x 8 pixels: four cells of two frames in the decoder, four in the encoder.
    between = cells * piece * (8 if decode else 16) * channels * (config.multipliers[-1] if decode else config.multipliers[1])
    pictures = PIECE_COPIES * cells * piece * 3 * CELL_PIXELS
    held = cells * past.coarse + between + pictures
    # Some convolutions work on a copy of their weights in another order.
    weights = 27 * (channels * max(config.multipliers)) ** 2
    values = held + weights + max(fine, cells * piece * coarse * per_map + attention)
    waiting = copies * tile * past.fine if copies > 1 else 0
    return Bytes(int(values * itemsize), int(waiting * itemsize))


@dataclass(frozen=True)
class _Pasts:
    """Values a clip's layers remember, for each cell of a latent frame."""

    coarse: float
    fine: float


def _pasts(config: VideoVAEConfig, *, decode: bool) -> _Pasts:
    """Two frames of the input of every causal convolution; see ``codecs/video_towers.py``."""
    halves = [0.0, 0.0]
    for cell, channels, fine in _decoder_convs(config) if decode else _encoder_convs(config):
        halves[fine] += 2 * channels * (16 / cell) ** 2
    return _Pasts(*halves)


def _decoder_convs(config: VideoVAEConfig) -> Iterator[tuple[int, int, bool]]:
    """Pixels of a cell, input channels, and whether in the fine half, of every causal convolution."""
    widths = [config.decoder_width * m for m in reversed(config.multipliers)]
    yield from [(16, config.channels, False), *[(16, widths[0], False)] * 4]
    for level, (before, after) in enumerate(zip((widths[0], *widths), widths, strict=False)):
        cell = 16 >> level
        inner = 2 * (config.blocks + 1) - 1 + (level < 2)  # the first convolution apart; two levels double the frames
        yield from [(cell, before, level > 0), *[(cell, after, level > 0)] * inner]
    yield 2, widths[-1], True


def _encoder_convs(config: VideoVAEConfig) -> Iterator[tuple[int, int, bool]]:
    widths = [config.encoder_width * m for m in config.multipliers]
    yield 2, 3 * 2 * 2, True
    for level, (before, after) in enumerate(zip((widths[0], *widths), widths, strict=False)):
        cell, fine = 2 << level, level < 2
        yield from [(cell, before, fine), *[(cell, after, fine)] * (2 * config.blocks - 1)]
        if level in {1, 2}:
            yield 2 * cell, after, fine  # it halves the frames, and remembers one
    yield from [(16, widths[-1], False)] * 5


def _tile(length: int, tiling: Tiling) -> tuple[int, int]:
    """Pixels of a tile along one side, and how many there are."""
    if length <= tiling.size:
        return length, 1
    return tiling.size, ceil((length - tiling.overlap) / (tiling.size - tiling.overlap))


def audio_codec_bytes(config: AudioCodecConfig, latents: int, *, decode: bool, channels: int = 1) -> int:
    """Bytes of coding one sound of so many latents; ``channels`` are the waveform's."""
    frames = latents * config.hop // config.mel.hop
    values = frames * VAE_MAPS * max(config.vae.widths) + CLIP_COPIES * latents * config.hop * channels
    if decode and config.vocoder is not None:
        # It works in pieces, with context on either side.
        widest, width = 0.0, float(config.vocoder.width)
        for rate in config.vocoder.rates:
            width *= rate / 2
            widest = max(widest, width)
        values += min(frames, CHUNK_FRAMES * VOCODER_CONTEXT) * VOCODER_MAPS * widest
    return int(FLOAT32_BYTES * values) + AUDIO_TABLES


def _inside(branch: BranchConfig) -> int:
    return max(ATTENTION_WIDTHS * branch.dim, FEED_FORWARD_WIDTHS * branch.dim + 2 * branch.ffn)

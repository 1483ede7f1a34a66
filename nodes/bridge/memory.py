"""How much memory a step, and a codec, takes beside its weights: ComfyUI makes room for it before it starts.

A step is counted in widths of its tokens, a codec in feature maps; the counts are those of the tensors that are there at
once, as measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from ...harmony_core.codecs.audio import AudioCodecConfig
from ...harmony_core.codecs.video_vae import CHUNK_CELLS, VideoVAEConfig
from ...harmony_core.codecs.vocoder import CHUNK_FRAMES
from ...harmony_core.config import BranchConfig, HarmonyConfig
from ...harmony_core.types import AV

MARGIN = 1.2
"""Over the count, for what is small beside it and not counted."""
LATENT_COPIES = 12
"""Latents in float32 that a sampler and ComfyUI's way to the model hold at once."""
FLOAT32_BYTES = 4
ATTENTION_WIDTHS = 9
"""Of a token inside self-attention beside the residual: its input, queries, keys and values, each also in another order, and
what comes out."""
FEED_FORWARD_WIDTHS = 3
"""Of a token inside the feed-forward beside the residual and two hidden layers."""
CELL_PIXELS = 16 * 16 * 4
"""Pixels of one video latent: where feature maps are widest, they are one channel set over each."""
DECODER_MAPS, ENCODER_MAPS, EDGE_MAPS = 1.8, 1.6, 1.8
"""Feature maps of a piece of video, and of the frame before it that the decoder keeps."""
VOCODER_MAPS, VAE_MAPS = 13, 11.5
VOCODER_CONTEXT = 1.2
"""Length of a piece with its context, in pieces."""
CLIP_COPIES = 3
"""Of pictures or a waveform on its way through ComfyUI's VAE."""
AUDIO_TABLES = 5 << 18
"""Filters and windows of the spectrogram."""
TIME_WIDTHS = 7
"""Of a group of tokens that share a time: its embedding and its projection for the six modulations."""


def step_bytes(config: HarmonyConfig, shapes: AV[Sequence[int]], itemsize: int) -> int:
    """Bytes of a joint pass and the sampler around it, at their highest.

    Args:
        config: of the model.
        shapes: of both streams' latents, the batch in front.
        itemsize: bytes of a value in the model.
    """
    video, audio = config.video, config.audio
    batch, frames = shapes.video[0], shapes.video[2]
    tokens = AV(batch * prod(shapes.video[2:]) // prod(video.patch), batch * shapes.audio[2])
    # In the exchange video gives sound its keys and values, with two frames of nothing at either end.
    exchange = FEED_FORWARD_WIDTHS * video.dim + audio.dim * (4 + 8 / frames)
    inside = AV(
        tokens.video * max(_inside(video), exchange) + batch * frames * 6 * video.dim,
        tokens.audio * (_inside(audio) + 6 * audio.dim),
    )
    resting = tokens.video * video.dim + batch * frames * TIME_WIDTHS * video.dim
    resting += tokens.audio * (1 + TIME_WIDTHS) * audio.dim
    values = resting + max(inside) + batch * context_values(config)
    latents = sum(prod(shape) for shape in shapes)
    return int(MARGIN * (values * itemsize + latents * LATENT_COPIES * FLOAT32_BYTES))


def context_values(config: HarmonyConfig) -> int:
    """Values of the keys and values of one clip's conditions, over all layers; they stay for a whole run."""
    spoken = config.speech.length if config.speech else 0
    lengths = AV(config.video.text_len, config.audio.text_len + spoken)
    branches = AV(config.video, config.audio)
    return sum(branch.layers * length * 2 * branch.dim for branch, length in zip(branches, lengths, strict=True))


def _inside(branch: BranchConfig) -> int:
    return max(ATTENTION_WIDTHS * branch.dim, FEED_FORWARD_WIDTHS * branch.dim + 2 * branch.ffn)


def video_codec_bytes(config: VideoVAEConfig, latent: Sequence[int], *, decode: bool) -> int:
    """Bytes of coding one clip, its latent being (frames, height, width)."""
    frames, height, width = latent
    channels = config.decoder_width if decode else config.encoder_width
    cells = height * width
    piece = min(frames * cells, max(cells, CHUNK_CELLS))
    maps = piece * DECODER_MAPS + cells * EDGE_MAPS if decode else piece * ENCODER_MAPS
    # Some convolutions work on a copy of their weights in another order.
    weights = 27 * (channels * max(config.multipliers)) ** 2
    pictures = frames * cells * 3 * CELL_PIXELS
    return int(FLOAT32_BYTES * (maps * channels * CELL_PIXELS + weights + CLIP_COPIES * pictures))


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

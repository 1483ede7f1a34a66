"""From a finished joint latent to pictures and sound, in the memory there is.

Clips of a batch are decoded one after the other, each straight into its place in the result, so that the device holds one
piece of one clip. Our own codecs are asked for large pieces first and smaller ones where memory is short; any other VAE is
asked as ComfyUI asks it, then for smaller tiles than ComfyUI falls back to by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import comfy.model_management
import comfy.utils
import torch
from torch import Tensor

from ...harmony_core.codecs.audio import AudioCodec
from ...harmony_core.codecs.video_tiling import Tiling
from ...harmony_core.codecs.video_vae import VideoVAE
from ...harmony_core.codecs.vocoder import CHUNK_FRAMES
from ...harmony_core.progress import Progress
from ...harmony_core.types import Modality
from .clips import joined
from .codec import HarmonyAudioVAE, HarmonyVideoVAE, check_vae
from .latent import Latent, clip_of

TILE_SIZES = (512, 384, 256)
"""Pixels of the tiles that are tried, large ones first; after them the smallest the codec allows."""
SOUND_PIECES = (CHUNK_FRAMES, CHUNK_FRAMES // 4, CHUNK_FRAMES // 16)
"""Spectra the vocoder is given at once."""
SMALL_TILE = {"tile_x": 8, "tile_y": 8, "overlap": 4}
"""Of another VAE of video, latents: half of what ComfyUI falls back to."""
SMALL_PIECE = {"tile_x": 64, "tile_y": 64, "overlap": 16}
"""Of another VAE of sound, latents: a quarter of that."""

_STEPS = 1000  # of the progress bar for each clip of each stream

T = TypeVar("T")

# B clips, F pictures, H and W pixels, T latents in time


@dataclass(frozen=True)
class Piece:
    """What the video codec decodes at once.

    Attributes:
        chunk: latents in time; None for what suits the size.
        tiling: how large pictures are cut; None for not at all.
    """

    chunk: int | None = None
    tiling: Tiling | None = None

    def shape(self, whole: Sequence[int]) -> tuple[int, ...]:
        """The shape of the latents it covers, of one clip's (1, C, T, h, w)."""
        side = max(whole[3:]) if self.tiling is None else self.tiling.size // 16
        return (1, whole[1], self.chunk or whole[2], min(whole[3], side), min(whole[4], side))


def decode(latent: Latent, video_vae: Any, audio_vae: Any, clip: int = 0) -> tuple[Tensor, dict[str, Any], float]:
    """Decode both streams.

    Args:
        latent: of picture and sound.
        video_vae: ours, or another for the same latents.
        audio_vae: likewise.
        clip: which of a batch, from 1; 0 for all.

    Returns:
        IMAGE (B F, H, W, 3) and AUDIO (1, channels, B samples), both with the clips of a batch one after the other, each
        exactly as long in both; and the pictures per second.

    Raises:
        ValueError: the latent is not of both streams, has values that are not finite or no such clip, a VAE is for others, or
            memory does not suffice for the smallest pieces.
    """
    spec = clip_of(latent)
    video, audio = latent["samples"].unbind()
    for modality, vae, stream in ((Modality.VIDEO, video_vae, video), (Modality.AUDIO, audio_vae, audio)):
        _check(modality, vae, stream)
    batch = video.shape[0]
    if clip > batch:
        raise ValueError(f"clip: number {clip} is asked for, the latent holds {batch}; choose one of them, or 0 for all")
    chosen = range(batch) if clip == 0 else range(clip - 1, clip)
    bar = comfy.utils.ProgressBar(2 * _STEPS * len(chosen))
    images = _joined((_pictures(video_vae, video[n : n + 1], _part(bar, at)) for at, n in enumerate(chosen)), len(chosen))
    wave = _joined(
        (_sound(audio_vae, audio[n : n + 1], _part(bar, at)) for at, n in enumerate(chosen, start=len(chosen))), len(chosen)
    )
    rate = int(audio_vae.audio_sample_rate)
    missing = round(spec.seconds * rate) - wave.shape[-1]  # less than none: a latent holds more than the clip
    wave = torch.nn.functional.pad(wave, (0, missing))
    return images.flatten(0, 1), joined(wave, rate), spec.fps


def _check(modality: Modality, vae: Any, stream: Tensor) -> None:
    check_vae(vae, modality)
    if vae.latent_channels != stream.shape[1]:
        raise ValueError(
            f"{modality.value}_vae: its latents have {vae.latent_channels} channels, these {stream.shape[1]}; connect the "
            f"{modality.value} VAE of Load Harmony Checkpoint"
        )
    if not bool(stream.isfinite().all()):
        raise ValueError(f"latent: its {modality.value} holds values that are not finite numbers; sample it again")


def _part(bar: Any, at: int) -> Progress:
    """Reports a part of the work, and lets the user's cancel through."""

    def report(done: int, total: int) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        bar.update_absolute(_STEPS * at + _STEPS * min(done, total) // total)

    return report


def _joined(clips: Iterator[Tensor], count: int) -> Tensor:
    """Clips (1, ...) as a batch, no two of them held twice."""
    first = next(clips)
    if count == 1:
        return first
    whole = first.new_empty(count, *first.shape[1:])
    whole[0] = first[0]
    for at, one in enumerate(clips, start=1):
        whole[at] = one[0]
    return whole


# ---- pictures


def _pictures(vae: Any, latents: Tensor, progress: Progress) -> Tensor:
    """Latents (1, C, T, h, w) to pictures (1, F, H, W, 3)."""
    if isinstance(vae, HarmonyVideoVAE):
        pieces = _fitting(vae, latents.shape)
        return _smaller_until_it_fits([partial(_stream, vae, latents, piece, progress) for piece in pieces], Modality.VIDEO)
    with _watched(vae.first_stage_model, latents.shape[2], progress):
        attempts = [partial(vae.decode, latents), partial(vae.decode_tiled, latents, **SMALL_TILE)]
        return _smaller_until_it_fits(attempts, Modality.VIDEO)


def _fitting(vae: HarmonyVideoVAE, shape: Sequence[int]) -> list[Piece]:
    """The pieces to try, from the largest that memory should hold to the smallest; loads the codec."""
    least = _video_codec(vae).config.least_overlap
    sizes = [size for size in (*TILE_SIZES, 2 * least) if 2 * least <= size < 16 * max(shape[3:])]
    pieces = [Piece(), Piece(chunk=1), *(Piece(1, Tiling(size=size, overlap=least)) for size in dict.fromkeys(sizes))]

    def needed(piece: Piece) -> int:
        return int(vae.memory_used_decode(piece.shape(shape), vae.vae_dtype))

    _load(vae, needed(pieces[0]))
    free = vae.patcher.get_free_memory(vae.device)
    while len(pieces) > 1 and needed(pieces[0]) > free:
        del pieces[0]
    return pieces


def _stream(vae: HarmonyVideoVAE, latents: Tensor, piece: Piece, progress: Progress) -> Tensor:
    codec = _video_codec(vae)
    _, _, T, h, w = latents.shape
    factory = {"device": vae.output_device, "dtype": vae.vae_output_dtype()}
    images = torch.empty(1, vae.upscale_ratio[0](T), 16 * h, 16 * w, 3, **factory)
    # The codec computes where its weights are and hands each piece back where the latents are.
    raw = codec.normalise(latents.to(vae.output_device, vae.vae_dtype))
    at = 0
    for frames in codec.decode_chunks(raw, chunk=piece.chunk, tiling=piece.tiling, progress=progress):
        count = frames.shape[2]
        images[0, at : at + count] = vae.process_output(frames[0].movedim(0, -1))
        at += count
    return images


def _video_codec(vae: Any) -> VideoVAE:
    return vae.first_stage_model.codec


# ---- sound


def _sound(vae: Any, latents: Tensor, progress: Progress) -> Tensor:
    """Latents (1, C, L) to sound (1, channels, samples)."""
    if isinstance(vae, HarmonyAudioVAE):
        _load(vae, int(vae.memory_used_decode(latents.shape, vae.vae_dtype)))
        codec: AudioCodec = vae.first_stage_model.codec  # type: ignore[assignment]

        def spoken(chunk: int) -> Tensor:
            wave = codec.decode(latents.to(vae.vae_dtype), chunk=chunk, progress=progress).waveform
            return wave.to(vae.output_device, vae.vae_output_dtype())

        return _smaller_until_it_fits([partial(spoken, chunk) for chunk in SOUND_PIECES], Modality.AUDIO)
    attempts = [partial(vae.decode, latents), partial(vae.decode_tiled, latents, **SMALL_PIECE)]
    wave = _smaller_until_it_fits(attempts, Modality.AUDIO).movedim(-1, 1)
    progress(1, 1)
    return wave


# ---- both


def _load(vae: Any, needed: int) -> None:
    comfy.model_management.load_models_gpu([vae.patcher], memory_required=needed, force_full_load=vae.disable_offload)


def _smaller_until_it_fits(attempts: Sequence[Callable[[], T]], modality: Modality) -> T:
    """The first attempt that does not run out of memory.

    Raises:
        ValueError: all of them do.
    """
    for attempt in attempts:
        try:
            return attempt()
        except (RuntimeError, MemoryError) as error:
            if not _is_out_of_memory(error):
                raise
        # After the handler: until then the exception holds on to what the attempt had made.
        comfy.model_management.soft_empty_cache()
    raise ValueError(
        f"latent: memory does not suffice to decode its {modality.value}, not even in the smallest pieces; free some of it, "
        "or make the clip smaller or shorter"
    )


def _is_out_of_memory(error: Exception) -> bool:
    if isinstance(error, MemoryError):
        return True
    try:
        comfy.model_management.raise_non_oom(error)
    except RuntimeError:
        # What torch says where a CPU's or an Apple GPU's memory is at its end; it has no class of its own.
        return "allocate memory" in str(error) or "out of memory" in str(error)
    return True


@contextmanager
def _watched(module: torch.nn.Module, latents: int, progress: Progress) -> Iterator[None]:
    """Another video VAE with progress and cancelling: those that stream call their decoder for every latent."""
    decoder = getattr(module, "decoder", None)
    if not isinstance(decoder, torch.nn.Module):
        yield
        return
    done = 0

    def report(*_: Any) -> None:
        nonlocal done
        progress(done, latents)
        done += 1

    handle = decoder.register_forward_pre_hook(report)
    try:
        yield
    finally:
        handle.remove()

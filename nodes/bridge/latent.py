"""The joint LATENT: a nested pair of video and sound with a nested mask, 1 where it is generated and 0 where it is given.

Beside the tensors it carries the rate of the pictures, the picture SyncCFG holds still, and what the codec's latents are like,
for the nodes that know them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import comfy.utils
import torch
from comfy.nested_tensor import NestedTensor
from torch import Tensor

from ...harmony_core.audio_ops import resample
from ...harmony_core.codecs.video_vae import WAN_MEAN, WAN_STD
from ...harmony_core.config import HarmonyConfig
from ...harmony_core.geometry import ClipSpec
from ...harmony_core.media import to_mono
from ...harmony_core.pipeline import as_long_as
from ...harmony_core.types import AV, Audio, Modality
from .clips import joined, separate
from .codec import check_vae

FPS = "harmony_fps"
STILL = "harmony_still"
GRID = "harmony_grid"
STATISTICS = "harmony_statistics"

Latent = dict[str, Any]
Statistics = tuple[Sequence[float], Sequence[float]]
"""Mean and standard deviation of every channel of raw video latents."""

# B clips, F video latents in time, L audio latents


def empty_latent(
    config: HarmonyConfig,
    *,
    seconds: float,
    width: int,
    height: int,
    fps: float,
    batch: int,
    images: Tensor | None = None,
    audio: dict[str, Any] | None = None,
    statistics: Statistics = (WAN_MEAN, WAN_STD),
) -> Latent:
    """Nothing given.

    Args:
        config: of the model.
        seconds: length, unless ``images`` or ``audio`` tell it.
        width: pixels, unless ``images`` tell it.
        height: likewise.
        fps: pictures a second.
        batch: number of clips.
        images: (1 or more, H, W, 3): the clip has their size and, where they are several, as many of them as fit the grid.
        audio: the clip is the longest that this sound fills; the shorter of the two where there are images too.
        statistics: of the codec's raw latents; Wan2.2's by default.

    Raises:
        ValueError: the length or size is off the model's grid; the nearest that fit are named.
    """
    grid, most = config.grid, []
    if images is not None:
        check_pictures(images)
        height, width = images.shape[1:3]
        most += [images.shape[0]] if images.shape[0] > 1 else []
    if audio is not None:
        # A driver may lack half a picture: see drive_with_audio.
        most.append(max(1, int(audio_from(audio).seconds * fps + 0.5)))
    with named("images" if images is not None else "", "; resize them"):
        spec = ClipSpec(frames=1, width=width, height=height, fps=fps, grid=grid)
    if most:
        spec = replace(spec, frames=grid.frames(grid.latent_frames(min(most))))
    else:
        with named("seconds"):
            spec = ClipSpec.from_seconds(seconds, height=height, width=width, fps=fps, grid=grid)
    samples = [torch.zeros(spec.video_shape(batch)), torch.zeros(spec.audio_shape(batch))]
    return {"samples": NestedTensor(samples), FPS: fps, GRID: grid, STATISTICS: statistics}


def clip_of(latent: Latent) -> ClipSpec:
    """The clip a latent is for.

    Raises:
        ValueError: it is not of both streams, or was made by another node.
    """
    samples = latent["samples"]
    if not isinstance(samples, NestedTensor) or FPS not in latent:
        raise ValueError("latent: this is no latent of picture and sound; make it with Empty Harmony Latent")
    streams = samples.unbind()
    if len(streams) != 2:
        raise ValueError(f"latent: it has {len(streams)} streams, picture and sound are 2; make it with Empty Harmony Latent")
    with named("latent"):
        return ClipSpec.of_latents(*streams, fps=latent[FPS], grid=latent[GRID])


def first_frame(latent: Latent, vae: Any, image: Tensor) -> Latent:
    """Give the first picture.

    Args:
        latent: as made by :func:`empty_latent`.
        vae: of video.
        image: (1 or more, H, W, 3) in [0, 1]; the first is taken.

    Raises:
        ValueError: the picture is of another size, or the pictures are given already.
    """
    spec = clip_of(latent)
    check_vae(vae, Modality.VIDEO)
    check_pictures(image, spec)
    _check_free(latent, Modality.VIDEO, "the pictures are given as a whole already: leave the first frame out")
    encoded = vae.encode(image[:1, ..., :3])
    kept = torch.arange(spec.latent_frames) == 0
    whole = encoded.expand(-1, -1, spec.latent_frames, -1, -1)
    return {**put(latent, Modality.VIDEO, kept, free=0.0, content=whole), STILL: image[:1, ..., :3]}


def drive_with_video(latent: Latent, vae: Any, images: Tensor) -> tuple[Latent, Tensor]:
    """Give all pictures.

    Args:
        latent: as made by :func:`empty_latent`.
        vae: of video.
        images: as many as the clip has or more, (N, H, W, 3) in [0, 1]; the first are taken.

    Returns:
        The latent, and the pictures as long as the clip, untouched.

    Raises:
        ValueError: too few pictures, another size, or the sound is given as a whole already.
    """
    spec = clip_of(latent)
    check_vae(vae, Modality.VIDEO)
    check_pictures(images, spec)
    if images.shape[0] == 1 < spec.frames:
        raise ValueError(f"images: there is 1 picture, the clip has {spec.frames}; connect a video, or use Harmony First Frame")
    if images.shape[0] < spec.frames:
        raise ValueError(
            f"images: there are {images.shape[0]} pictures, the clip has {spec.frames}; make the clip shorter "
            f"or give a video of {spec.seconds:.2f} s at {spec.fps:g} fps"
        )
    _check_free(latent, Modality.AUDIO, "the sound is given as a whole already: leave one of the drivers out")
    images = images[: spec.frames, ..., :3]
    encoded = vae.encode(images)
    everything = torch.ones(spec.latent_frames, dtype=torch.bool)
    return {**put(latent, Modality.VIDEO, everything, free=0.0, content=encoded), STILL: images[:1]}, images


def drive_with_audio(latent: Latent, vae: Any, audio: dict[str, Any] | None, start: float) -> tuple[Latent, dict[str, Any]]:
    """Give all sound.

    Args:
        latent: as made by :func:`empty_latent`.
        vae: of sound.
        audio: ComfyUI's, of any rate and channels.
        start: seconds of it to skip.

    Returns:
        The latent, and the sound exactly as long as the clip, with its own rate and channels, its samples untouched; for
        every clip of a batch, one after the other, as Harmony Decode gives their pictures.

    Raises:
        ValueError: the sound is empty or too short, or the pictures are given as a whole already.
    """
    spec = clip_of(latent)
    check_vae(vae, Modality.AUDIO)
    sound = audio_from(audio, start)
    if sound.seconds < spec.seconds - 0.5 / spec.fps:
        raise ValueError(
            f"audio: from {start:g} s on it lasts {sound.seconds:.2f} s, the clip {spec.seconds:.2f} s; make the clip shorter"
        )
    _check_free(latent, Modality.VIDEO, "the pictures are given as a whole already: leave one of the drivers out")
    sound = as_long_as(sound, spec)
    encoded = encode_sound(vae, sound, samples_of(spec, vae))[..., : spec.audio_latents]
    everything = torch.ones(spec.audio_latents, dtype=torch.bool)
    driven = put(latent, Modality.AUDIO, everything, free=0.0, content=encoded)
    clips = driven["samples"].unbind()[0].shape[0]
    return driven, joined(sound.waveform.expand(clips, -1, -1), sound.sample_rate)


def audio_from(
    audio: dict[str, Any] | None, start: float = 0.0, seconds: float | None = None, *, where: str = "audio"
) -> Audio:
    """A part of ComfyUI's AUDIO.

    Args:
        audio: of any rate and channels; of several clips each by itself; None is what a video without sound gives.
        start: seconds of it to skip.
        seconds: how much of it to take; all by default.
        where: name of the node's input.

    Raises:
        ValueError: nothing is left of it, or it holds something else than sound.
    """
    if audio is None or not audio["waveform"].numel():
        raise ValueError(f"{where}: there is no sound in it; connect one that lasts a while")
    rate = int(audio["sample_rate"])
    first = round(start * rate)
    last = None if seconds is None else first + round(seconds * rate)
    whole = separate(audio)
    wave = whole[..., first:last].float()
    if not wave.shape[-1]:
        lasts = whole.shape[-1] / rate
        raise ValueError(f"{where}: nothing is left of it after {start:g} s, it lasts {lasts:.2f} s; start earlier")
    if not bool(wave.isfinite().all()):
        raise ValueError(f"{where}: it holds samples that are not finite numbers; load it again or give another")
    return Audio(wave, rate)


def samples_of(spec: ClipSpec, vae: Any) -> int:
    """How many samples of a clip a VAE is given, at its rate."""
    rate = int(vae.audio_sample_rate)
    if rate == spec.grid.sample_rate:
        return spec.samples
    # ComfyUI's own VAE of MMAudio takes 44.1 kHz and leaves out what does not fill a latent: one more is given than is kept.
    return math.ceil((spec.audio_latents + 1) / spec.grid.audio_rate * rate)


def encode_sound(vae: Any, sound: Audio, samples: int | None = None) -> Tensor:
    """Audio latents of one channel of sound.

    Args:
        vae: of sound.
        sound: any rate and channels.
        samples: at the VAE's rate, to fill up to where rates do not divide.
    """
    heard = resample(to_mono(sound), vae.audio_sample_rate).waveform
    if samples is not None:
        heard = torch.nn.functional.pad(heard, (0, samples - heard.shape[-1]))
    return vae.encode(heard.movedim(1, -1))


def masks_of(latent: Latent) -> AV[Tensor]:
    """What is generated, in [0, 1]: (B, 1, F, H, W) and (B, 1, L).

    A mask of other nodes is read as samplers read it: one that is not nested is the picture's alone, and sizes are
    interpolated, time too.
    """
    samples = AV(*latent["samples"].unbind())
    mask = latent.get("noise_mask")
    if mask is None:
        return samples.map(lambda x: torch.ones(x.shape[0], 1, *x.shape[2:]))
    given = mask.unbind() if isinstance(mask, NestedTensor) else [mask, torch.ones(1, 1, samples.audio.shape[2])]

    def shaped(x: Tensor, one: Tensor) -> Tensor:
        return comfy.utils.reshape_mask(one.float(), (x.shape[0], 1, *x.shape[2:]))

    return samples.map(shaped, AV(*given))


def put(latent: Latent, modality: Modality, where: Tensor, *, free: float, content: Tensor | None = None) -> Latent:
    """The latent with some of one stream kept or freed.

    Args:
        latent: as made by :func:`empty_latent`.
        modality: which stream.
        where: (F,) or (L,) bool, the latents it is about.
        free: their mask: 0 keeps them, 1 has them generated.
        content: latents of the whole stream, (B or 1, channels, ...), put where it is about; None leaves what is there.

    Raises:
        ValueError: the content is of another shape.
    """
    samples, masks = AV(*latent["samples"].unbind()), masks_of(latent)
    old, mask = samples[modality], masks[modality]
    at = where.reshape(1, 1, -1, *[1] * (old.ndim - 3))
    if content is not None:
        _check_content(content, old, modality)
        samples = samples.replace(modality, torch.where(at.to(old.device), content.to(old), old))
    masks = masks.replace(modality, torch.where(at.to(mask.device), free, mask))
    return {**latent, "samples": NestedTensor(list(samples)), "noise_mask": NestedTensor(list(masks))}


def check_pictures(images: Tensor, spec: ClipSpec | None = None) -> None:
    """Refuse an IMAGE that is none, or is not of a clip's size.

    Args:
        images: (N, H, W, channels).
        spec: of the clip; None for any size.

    Raises:
        ValueError: it has no colours, transparent parts, values that are not finite, or another size.
    """
    if images.ndim != 4 or not images.numel():
        raise ValueError(f"images: there is no picture in a shape of {tuple(images.shape)}; connect a picture or a video")
    channels = images.shape[-1]
    if channels not in {3, 4}:
        raise ValueError(f"images: their channels are {channels}, red, green and blue are 3; convert them to RGB")
    if channels == 4 and bool((images[..., 3] < 1).any()):
        raise ValueError("images: parts of them are transparent; put them on a background, or split the alpha channel off")
    if not bool(images.isfinite().all()):
        raise ValueError("images: they hold values that are not finite numbers; load or make them again")
    height, width = images.shape[1:3]
    if spec is not None and (height, width) != (spec.height, spec.width):
        raise ValueError(
            f"images: they are {width} x {height}, the clip is {spec.width} x {spec.height}; resize them or the clip"
        )


@contextmanager
def named(where: str, advice: str = "") -> Iterator[None]:
    """Puts the name of a node's input before what is refused about it, and advice after it; with no name, neither."""
    try:
        yield
    except ValueError as error:
        if not where:
            raise
        raise ValueError(f"{where}: {error}{advice}") from error


def _check_content(encoded: Tensor, old: Tensor, modality: Modality) -> None:
    if encoded.shape[0] not in {1, old.shape[0]}:
        where = "audio" if modality is Modality.AUDIO else "images"
        raise ValueError(f"{where}: {encoded.shape[0]} were given for {old.shape[0]} clips; give one, or one for each")
    if encoded.shape[1:] != old.shape[1:]:
        raise ValueError(
            f"{modality.value}_vae: its latents are {tuple(encoded.shape[1:])}, the clip's {tuple(old.shape[1:])}; "
            f"use the {modality.value} VAE of Load Harmony Checkpoint"
        )


def _check_free(latent: Latent, modality: Modality, message: str) -> None:
    if not bool(masks_of(latent)[modality].any()):
        raise ValueError(f"latent: {message}")

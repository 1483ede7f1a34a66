"""The joint LATENT: a nested pair of video and sound with a nested mask, 1 where it is generated and 0 where it is given.

Beside the tensors it carries the rate of the pictures, and the picture SyncCFG holds still, for the nodes that know them.
"""

from __future__ import annotations

from typing import Any

import torch
from comfy.nested_tensor import NestedTensor
from torch import Tensor

from ...harmony_core.codecs.audio import resample
from ...harmony_core.config import HarmonyConfig
from ...harmony_core.geometry import ClipSpec
from ...harmony_core.media import to_mono
from ...harmony_core.pipeline import as_long_as
from ...harmony_core.types import AV, Audio, Modality
from .codec import check_vae

FPS = "harmony_fps"
STILL = "harmony_still"
GRID = "harmony_grid"

Latent = dict[str, Any]


def empty_latent(config: HarmonyConfig, *, seconds: float, width: int, height: int, fps: float, batch: int) -> Latent:
    """Nothing given.

    Raises:
        ValueError: the length or size is off the model's grid; the nearest that fit are named.
    """
    spec = ClipSpec.from_seconds(seconds, height=height, width=width, fps=fps, grid=config.grid)
    samples = [torch.zeros(spec.video_shape(batch)), torch.zeros(spec.audio_shape(batch))]
    return {"samples": NestedTensor(samples), FPS: fps, GRID: config.grid}


def clip_of(latent: Latent) -> ClipSpec:
    """The clip a latent is for.

    Raises:
        ValueError: it is not of both streams, or was made by another node.
    """
    samples = latent["samples"]
    if not isinstance(samples, NestedTensor) or FPS not in latent:
        raise ValueError("latent: this is no latent of picture and sound; make it with Empty Harmony Latent")
    video, audio = samples.unbind()
    return ClipSpec.of_latents(video, audio, fps=latent[FPS], grid=latent[GRID])


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
    _check_size(image, spec)
    _check_free(latent, Modality.VIDEO)
    encoded = vae.encode(image[:1, ..., :3])
    kept = torch.arange(spec.latent_frames) == 0
    whole = encoded.expand(-1, -1, spec.latent_frames, -1, -1)
    return {**_given(latent, Modality.VIDEO, whole, kept), STILL: image[:1, ..., :3]}


def drive_with_video(latent: Latent, vae: Any, images: Tensor) -> tuple[Latent, Tensor]:
    """Give all pictures.

    Returns:
        The latent, and the pictures as long as the clip.

    Raises:
        ValueError: too few pictures, another size, or the sound is given as a whole already.
    """
    spec = clip_of(latent)
    check_vae(vae, Modality.VIDEO)
    _check_size(images, spec)
    if images.shape[0] < spec.frames:
        raise ValueError(
            f"images: there are {images.shape[0]} pictures, the clip has {spec.frames}; make the clip shorter "
            f"or give a video of {spec.seconds:.2f} s at {spec.fps:g} fps"
        )
    _check_free(latent, Modality.AUDIO, "the sound is given as a whole already: leave one of the drivers out")
    images = images[: spec.frames, ..., :3]
    encoded = vae.encode(images)
    kept = torch.ones(spec.latent_frames, dtype=torch.bool)
    return {**_given(latent, Modality.VIDEO, encoded, kept), STILL: images[:1]}, images


def drive_with_audio(latent: Latent, vae: Any, audio: dict[str, Any], start: float) -> tuple[Latent, dict[str, Any]]:
    """Give all sound.

    Args:
        latent: as made by :func:`empty_latent`.
        vae: of sound.
        audio: ComfyUI's, of any rate and channels.
        start: seconds of it to skip.

    Returns:
        The latent, and the sound exactly as long as the clip, with its own rate and channels.

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
    encoded = encode_sound(vae, sound, spec.samples)
    kept = torch.ones(spec.audio_latents, dtype=torch.bool)
    back = {"waveform": sound.waveform, "sample_rate": sound.sample_rate}
    return _given(latent, Modality.AUDIO, encoded, kept), back


def audio_from(audio: dict[str, Any], start: float, seconds: float | None = None) -> Audio:
    """A part of ComfyUI's AUDIO.

    Raises:
        ValueError: nothing is left of it.
    """
    rate = int(audio["sample_rate"])
    first = round(start * rate)
    last = None if seconds is None else first + round(seconds * rate)
    wave = audio["waveform"][..., first:last].float()
    if not wave.shape[-1]:
        raise ValueError(f"audio: nothing is left of it after {start:g} s; start earlier or give a longer sound")
    return Audio(wave, rate)


def encode_sound(vae: Any, sound: Audio, samples: int | None = None) -> Tensor:
    """Audio latents of one channel of sound.

    Args:
        vae: of sound.
        sound: any rate and channels.
        samples: at the codec's rate, to fill up to where rates do not divide.
    """
    heard = resample(to_mono(sound), vae.audio_sample_rate).waveform
    if samples is not None:
        heard = torch.nn.functional.pad(heard, (0, samples - heard.shape[-1]))
    return vae.encode(heard.movedim(1, -1))


def masks_of(latent: Latent) -> AV[Tensor]:
    """What is generated: (B, 1, F, H, W) and (B, 1, L) of 0 and 1."""
    samples = AV(*latent["samples"].unbind())
    mask = latent.get("noise_mask")
    if isinstance(mask, NestedTensor):
        return AV(*mask.unbind())
    return samples.map(lambda x: torch.ones(x.shape[0], 1, *x.shape[2:]))


def _given(latent: Latent, modality: Modality, encoded: Tensor, kept: Tensor) -> Latent:
    """The latent with some of one stream given."""
    samples, masks = AV(*latent["samples"].unbind()), masks_of(latent)
    old = samples[modality]
    if encoded.shape[0] not in {1, old.shape[0]}:
        raise ValueError(f"{modality.value}: {encoded.shape[0]} were given for {old.shape[0]} clips; give one, or one for each")
    if encoded.shape[1:] != old.shape[1:]:
        raise ValueError(
            f"vae: its {modality.value} latents are {tuple(encoded.shape[1:])}, the clip's {tuple(old.shape[1:])}; "
            f"use the {modality.value} VAE of Load Harmony Checkpoint"
        )
    where = kept.reshape(1, 1, -1, *[1] * (old.ndim - 3))
    samples = samples.replace(modality, torch.where(where, encoded.to(old), old))
    masks = masks.replace(modality, torch.where(where, 0.0, masks[modality]))
    return {**latent, "samples": NestedTensor(list(samples)), "noise_mask": NestedTensor(list(masks))}


def _check_size(images: Tensor, spec: ClipSpec) -> None:
    height, width = images.shape[1:3]
    if (height, width) != (spec.height, spec.width):
        raise ValueError(
            f"images: they are {width} x {height}, the clip is {spec.width} x {spec.height}; resize them or the clip"
        )


def _check_free(latent: Latent, modality: Modality, message: str = "") -> None:
    if not bool(masks_of(latent)[modality].any()):
        raise ValueError("latent: " + (message or "the pictures are given as a whole already: leave the first frame out"))

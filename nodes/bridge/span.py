"""Spans of time of a joint latent that are kept or generated: inpainting in time, and clips made longer.

A video latent shows four pictures, the first one shows one, and an audio latent sounds 1/31.25 s. A span keeps the latents
that lie wholly in it, so nothing outside it is kept; it frees the latents it touches, so all of it is generated. What the one
frees is therefore what the other, on both sides of it, does not keep.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...harmony_core.audio_ops import resample
from ...harmony_core.geometry import ClipSpec
from ...harmony_core.media import to_mono
from ...harmony_core.types import Audio, Modality
from .codec import check_vae
from .latent import STILL, Latent, audio_from, check_pictures, clip_of, encode_sound, put, samples_of

STREAMS = {"picture and sound": tuple(Modality), "picture": (Modality.VIDEO,), "sound": (Modality.AUDIO,)}
INPUTS = {Modality.VIDEO: "images", Modality.AUDIO: "audio"}
TOLERANCE = 1e-6


@dataclass(frozen=True)
class Content:
    """What is put into a span of one stream.

    Attributes:
        until: second of the clip where it ends.
        encode: latents of the whole stream, the content in its place.
    """

    until: float
    encode: Callable[[], Tensor]


def span(
    latent: Latent,
    *,
    action: str,
    stream: str,
    start: float,
    end: float,
    images: Tensor | None = None,
    audio: dict[str, Any] | None = None,
    vaes: tuple[Any, Any] = (None, None),
    content_start: float = 0.0,
) -> Latent:
    """Keep or free a span.

    Content is put where the span starts: its picture and its sound at ``content_start`` are the clip's at ``start``, pictures
    to the nearest one. What of it lies outside the span is not kept, but the codecs see and hear it, so that an edge is encoded
    with its surroundings; where there is none, the first and the last picture are held, and there is silence. Without content,
    what is in the latent stays.

    Args:
        latent: of picture and sound, given in part or sampled.
        action: ``keep``, or ``free``; content put into a free span is where sampling with less than full noise starts.
        stream: one of ``STREAMS``.
        start: seconds of the clip.
        end: likewise, the clip's end where it is later; 0 is as far as the clip and the content go.
        images: content (N, H, W, 3) at the clip's rate.
        audio: content of any rate and channels.
        vaes: of video and sound; each needed with its content.
        content_start: seconds of the content to skip.

    Returns:
        The latent with its samples and its mask changed in the span.

    Raises:
        ValueError: no latent lies in the span, its content is missing, too short or of another size.
    """
    spec = clip_of(latent)
    _check_times(spec, start, end)
    given = {
        Modality.VIDEO: lambda: _pictures(images, vaes[0], spec, start, content_start),
        Modality.AUDIO: lambda: _sound(audio, vaes[1], spec, start, content_start),
    }
    connected = {Modality.VIDEO: images is not None, Modality.AUDIO: audio is not None}
    for modality in Modality:
        if modality not in STREAMS[stream]:
            if connected[modality]:
                raise ValueError(f"{INPUTS[modality]}: stream is {stream}; choose picture and sound there, or disconnect it")
            continue
        content = given[modality]() if connected[modality] else None
        where = _chosen(spec, modality, action, start, end, content)
        if content is None and action == "keep":
            _check_filled(latent, modality, where)
        encoded = None if content is None else content.encode()
        latent = put(latent, modality, where, free=0.0 if action == "keep" else 1.0, content=encoded)
        if modality is Modality.VIDEO and bool(where[0]):
            latent = _with_still(latent, images, round(content_start * spec.fps), kept=action == "keep")
    return latent


def _check_times(spec: ClipSpec, start: float, end: float) -> None:
    if start >= spec.seconds - TOLERANCE:
        raise ValueError(f"start: {start:g} s is after the end of the clip, which lasts {spec.seconds:.4g} s; start earlier")
    if end and end <= start:
        raise ValueError(f"end: {end:g} s is not after the start at {start:g} s; end later, or set 0 for as far as it goes")


def _chosen(spec: ClipSpec, modality: Modality, action: str, start: float, end: float, content: Content | None) -> Tensor:
    """The latents of a span, of which the content has to reach all if an end is named."""
    choose = _inside if action == "keep" else _touched
    # The last audio latent outlasts the clip, and a sound may lack half a picture, as a driver may.
    until = end if 0 < end < spec.seconds - TOLERANCE else math.inf
    reach = math.inf if content is None or content.until >= spec.seconds - 0.5 / spec.fps else content.until
    where = choose(spec, modality, start, min(until, reach))
    if end and not torch.equal(where, choose(spec, modality, start, until)):
        raise ValueError(
            f"{INPUTS[modality]}: put at {start:g} s, it lasts until {reach:.2f} s of the clip; end the span there, or set end "
            "to 0 for as far as it goes"
        )
    return where


def _inside(spec: ClipSpec, modality: Modality, start: float, end: float) -> Tensor:
    """The latents that lie wholly in a span."""
    where = spec.timeline.video_in_span(start, end) if modality is Modality.VIDEO else spec.timeline.audio_in_span(start, end)
    if not bool(where.any()):
        end = min(end, spec.seconds)
        length = spec.grid.frame_stride / spec.fps if modality is Modality.VIDEO else 1 / spec.grid.audio_rate
        name = "picture" if modality is Modality.VIDEO else "sound"
        raise ValueError(
            f"end: no latent of {name} lies wholly in {start:g} to {end:.4g} s, each lasts {length:.3f} s; make the span longer"
        )
    return where


def _touched(spec: ClipSpec, modality: Modality, start: float, end: float) -> Tensor:
    """The latents that a span touches."""
    spans = spec.timeline.video_spans() if modality is Modality.VIDEO else spec.timeline.audio_spans()
    return (spans[:, 1] > start + TOLERANCE) & (spans[:, 0] < end - TOLERANCE)


def _check_filled(latent: Latent, modality: Modality, where: Tensor) -> None:
    """Refuse to keep what was never put in: an empty latent is zeros, and no codec's latent is."""
    stream = latent["samples"].unbind()[0 if modality is Modality.VIDEO else 1]
    filled = stream.movedim(2, 1).flatten(2).any(dim=2)[:, where.to(stream.device)]
    if not bool(filled.all()):
        name = "picture" if modality is Modality.VIDEO else "sound"
        raise ValueError(f"{INPUTS[modality]}: the latent has no {name} of its own in the span to keep; connect what to keep")


def _pictures(images: Tensor, vae: Any, spec: ClipSpec, start: float, skip: float) -> Content:
    check_vae(vae, Modality.VIDEO)
    check_pictures(images, spec)
    first = round(skip * spec.fps)
    if first >= images.shape[0]:
        raise ValueError(
            f"content_start: {skip:g} s is after the last of {images.shape[0]} pictures at {spec.fps:g} fps; start earlier"
        )
    before = round(start * spec.fps) - first
    whole = images[(torch.arange(spec.frames) - before).clamp(0, images.shape[0] - 1), ..., :3]
    return Content((before + images.shape[0]) / spec.fps, lambda: vae.encode(whole))


def _sound(audio: dict[str, Any], vae: Any, spec: ClipSpec, start: float, skip: float) -> Content:
    check_vae(vae, Modality.AUDIO)
    until = start + audio_from(audio, skip).seconds
    rate, samples = int(vae.audio_sample_rate), samples_of(spec, vae)

    def encode() -> Tensor:
        until_clip_ends = audio_from(audio, seconds=skip - start + spec.seconds)
        heard = resample(to_mono(until_clip_ends), rate).waveform
        first = round((start - skip) * rate)
        heard = torch.nn.functional.pad(heard[..., max(0, -first) :], (max(0, first), 0))[..., :samples]
        return encode_sound(vae, Audio(heard, rate), samples)[..., : spec.audio_latents]

    return Content(until, encode)


def _with_still(latent: Latent, images: Tensor | None, first: int, *, kept: bool) -> Latent:
    """SyncCFG holds the first picture where that is given; what was held before it was freed is forgotten."""
    others = {key: value for key, value in latent.items() if key != STILL}
    if kept and images is not None:
        return {**others, STILL: images[first : first + 1, ..., :3]}
    return latent if kept else others

"""Both streams shown while they are sampled, in whatever sampler node: sent to the browser that queued the graph.

What is sent of a step is small: every latent of the picture as a few pixels, and the sound's spectrum as a strip. It comes
from :mod:`.preview_fit`, so it is a likeness and no decoded clip.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import comfy.utils
import torch
from comfy_execution.utils import get_executing_context
from PIL import Image
from torch import Tensor

from .preview_fit import applied, fit_colours, fit_spectrum

EVENT = "harmony.preview"
KEY = "harmony_preview"
SAVED = "harmony.preview"
"""The name in a file's metadata."""
PICTURES = 16
"""Latents of the picture that are sent, at most."""
LOWEST_SECONDS = 0.1
"""Between two previews, at least; the last step is always shown."""
QUIET, LOUD = -4.0, 1.0
"""Levels that are black and white in the strip, log10."""


@dataclass(frozen=True)
class Likeness:
    """What latents look and sound like.

    Attributes:
        colours: of a normalised video latent, (C + 1, 3); None where it is not known.
        spectrum: of an audio latent, (C + 1, bands); None where it is not known.
    """

    colours: Tensor | None
    spectrum: Tensor | None

    @classmethod
    def of(cls, video_codec: Any, audio_codec: Any, latent_format: Any) -> Likeness:
        """Of a checkpoint's codecs, each or None; ComfyUI knows the colours of Wan2.2's latents."""
        factors, bias = latent_format.latent_rgb_factors, latent_format.latent_rgb_factors_bias
        colours = None
        if factors is not None:
            colours = torch.tensor([*factors, bias if bias is not None else [0.0] * 3])
        elif video_codec is not None:
            colours = fit_colours(video_codec)
        return cls(colours, fit_spectrum(audio_codec) if audio_codec is not None else None)

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> Likeness | None:
        """As :meth:`to_metadata` wrote it; None where nothing is written."""
        if SAVED not in metadata:
            return None
        said = json.loads(metadata[SAVED])
        return cls(*(None if said.get(name) is None else torch.tensor(said[name]) for name in ("colours", "spectrum")))

    def to_metadata(self) -> dict[str, str]:
        """For a file that has no codecs to find it out from."""
        fitted = {"colours": self.colours, "spectrum": self.spectrum}
        return {SAVED: json.dumps({name: None if x is None else x.tolist() for name, x in fitted.items()})}


def with_preview(
    executor: Any,
    noise: Tensor,
    latent_image: Tensor,
    sampler: Any,
    sigmas: Tensor,
    denoise_mask: Tensor | None = None,
    callback: Any = None,
    *args: Any,
    latent_shapes: Any = None,
    **kwargs: Any,
) -> Tensor:
    """Wraps a whole sampling run: each step is shown too, where somebody looks."""
    patcher = executor.class_obj.model_patcher
    likeness, server, context = patcher.model.likeness, running_server(), get_executing_context()
    if likeness is not None and server is not None and server.client_id is not None and context is not None:
        callback = _Shown(callback, likeness, patcher.model.config.grid, latent_shapes, server, context.node_id)
    return executor(noise, latent_image, sampler, sigmas, denoise_mask, callback, *args, latent_shapes=latent_shapes, **kwargs)


class _Shown:
    """A step's callback that shows the step and calls the one there was."""

    def __init__(self, then: Any, likeness: Likeness, grid: Any, shapes: Any, server: Any, node: str) -> None:
        self._then, self._likeness, self._grid, self._shapes = then, likeness, grid, shapes
        self._server, self._node, self._last = server, node, 0.0

    def __call__(self, step: int, x0: Any, x: Any, total: int) -> Any:
        now = time.monotonic()
        if step + 1 >= total or now - self._last >= LOWEST_SECONDS:
            self._last = now
            streams = x0.unbind() if getattr(x0, "is_nested", False) else comfy.utils.unpack_latents(x0, self._shapes)
            shown = picture_of(self._likeness, *(stream[0] for stream in streams))
            seconds = streams[1].shape[-1] / self._grid.audio_rate
            said = {"node": self._node, "step": step + 1, "steps": total, "seconds": seconds, **shown}
            self._server.send_sync(EVENT, said, self._server.client_id)
        return self._then(step, x0, x, total) if self._then is not None else None


def picture_of(likeness: Likeness, video: Tensor, audio: Tensor) -> dict[str, Any]:
    """One clip's latents as images.

    Args:
        likeness: of its model.
        video: (C, T, h, w), normalised.
        audio: (C, L).

    Returns:
        ``pictures``, side by side, and ``count`` of them, where colours are known; ``spectrum``, or where it is not known the
        latents themselves, time across and low tones at the bottom, and whether it is known. Images are data URLs.
    """
    found: dict[str, Any] = {"count": 0, "known": likeness.spectrum is not None}
    if likeness.colours is not None:
        count = min(PICTURES, video.shape[1])
        at = torch.linspace(0, video.shape[1] - 1, count).round().long().to(video.device)
        colours = (applied(video[:, at], likeness.colours) + 1) / 2  # (T, h, w, 3)
        found |= {"count": count, "pictures": _url(colours.movedim(0, 1).flatten(1, 2), "JPEG")}
    if likeness.spectrum is not None:
        levels = (applied(audio, likeness.spectrum).T - QUIET) / (LOUD - QUIET)
    else:
        levels = audio.float() / 6 + 0.5
    return found | {"spectrum": _url(levels.flip(0), "PNG")}


def _url(values: Tensor, kind: str) -> str:
    """(H, W) or (H, W, 3) in [0, 1], what is outside cut off, as a data URL."""
    pixels = (values.nan_to_num().clamp(0, 1) * 255).to("cpu", torch.uint8).numpy()
    file = BytesIO()
    Image.fromarray(pixels).save(file, kind, **({"quality": 80} if kind == "JPEG" else {}))
    return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"


def running_server() -> Any:
    """ComfyUI's server; None in a script."""
    from server import PromptServer

    return getattr(PromptServer, "instance", None)

"""Guidance: away from what the model would do without something, towards what it does with it.

Every guidance names an *anchor*, the same model evaluated with something missing, and a scale for each stream:

    v = v_full + sum over guides of (scale - 1) (v_full - v_anchor)

At scale 1 a guide does nothing and costs nothing; with a single guide this is the usual
``v_anchor + scale (v_full - v_anchor)``, which for the mute anchor is SyncCFG. Guides add up.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from .flow import base_time
from .types import AV, Modality

Company = Literal["joint", "mute", "cut"]
SyncText = Literal["same", "null", "additive"]


LARGEST_SCALE = 1000.0


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One question to the model.

    Attributes:
        company: what a stream is generated beside. ``joint``: the other stream as it is. ``mute``: clean silence for video, a
            clean still for sound. ``cut``: nothing, the interaction is left out.
        text: whether captions and transcript are told (else the negative ones, or nothing).
        skip_layers: layers of both branches left out, which makes the anchor worse than the model in what these layers do.
    """

    company: Company = "joint"
    text: bool = True
    skip_layers: tuple[int, ...] = ()


FULL = Evaluation()
ROUNDING = 1e-9
"""Relative, by which a step may miss the edge of an interval it begins at."""

Evaluate = Callable[[Evaluation, AV[bool]], AV[Tensor | None]]
"""``evaluate(evaluation, wanted)``: the velocity of each stream that is wanted."""


@dataclass(frozen=True, kw_only=True)
class Guide:
    """One anchor with its strength.

    Attributes:
        anchor: what is guided away from.
        scale: for each stream; 1 is off.
        start: sigma of the schedule at and below which it acts; 1 is from the beginning.
        end: sigma of the schedule at and above which it acts; 0 is to the end. Both streams begin and end at the same step,
            also where timestep adjustment gives them times of their own.
    """

    anchor: Evaluation
    scale: AV[float]
    start: float = 1.0
    end: float = 0.0

    def __post_init__(self) -> None:
        for m in Modality:
            if not 0 <= self.scale[m] <= LARGEST_SCALE:  # a NaN is not
                raise ValueError(
                    f"a guidance scale is a number from 0 up to {LARGEST_SCALE:g}, got {self.scale[m]} for {m.value}"
                )
        if not 0 <= self.end <= self.start <= 1:
            raise ValueError(f"guidance acts from a sigma of start down to end, in [0, 1], got {self.start} to {self.end}")

    def active(self, sigma: AV[float]) -> AV[bool]:
        """Which streams it acts on at these sigmas."""
        base = base_time(sigma)
        inside = self.end * (1 - ROUNDING) <= base <= self.start * (1 + ROUNDING)
        return self.scale.map(lambda scale: scale != 1 and inside)


@dataclass(frozen=True, kw_only=True)
class Guidance:
    """All guides of a run.

    Attributes:
        guides: added up.
        rescale: in [0, 1]; how far the guided velocity is brought back to the spread of the unguided one, which undoes the
            overexposure of large scales (arXiv 2305.08891, eq. 15-16).
    """

    guides: tuple[Guide, ...] = ()
    rescale: AV[float] = AV(0.0, 0.0)  # noqa: RUF009 - an immutable value

    def __post_init__(self) -> None:
        if not all(0 <= r <= 1 for r in self.rescale):
            raise ValueError(f"guidance rescale lies between 0 and 1, got {self.rescale.video} and {self.rescale.audio}")

    def __add__(self, other: Guidance) -> Guidance:
        return Guidance(guides=self.guides + other.guides, rescale=self.rescale.map(max, other.rescale))


def text_guidance(scale: AV[float], *, skip_layers: tuple[int, ...] = (), start: float = 1.0, end: float = 0.0) -> Guidance:
    """Classifier-free guidance by the text.

    Args:
        scale: for video and sound.
        skip_layers: left out of the passes without text, as Ovi does with its layer 11.
        start: sigma from which it acts.
        end: sigma down to which it acts.
    """
    anchor = Evaluation(text=False, skip_layers=skip_layers)
    return Guidance(guides=(Guide(anchor=anchor, scale=scale, start=start, end=end),))


def sync_guidance(
    scale: AV[float],
    *,
    text: SyncText = "same",
    text_scale: AV[float] = AV(1.0, 1.0),  # noqa: B008 - an immutable value
    skip_layers: tuple[int, ...] = (),
    start: float = 1.0,
    end: float = 0.0,
) -> Guidance:
    """SyncCFG (section 4): guidance away from mute video and from the sound of a still.

    Args:
        scale: for video and sound; the paper's are 3 and 2.
        text: ``same``: the anchors are told the text too (the paper). ``null``: they are not, which guides by the text for
            free. ``additive``: as ``same``, with text guidance of ``text_scale`` beside it, one more pass.
        text_scale: of ``additive``.
        skip_layers: left out of the passes without text.
        start: sigma from which it acts.
        end: sigma down to which it acts.

    Raises:
        ValueError: an unknown text mode, or a text scale without ``additive``.
    """
    if text not in {"same", "null", "additive"}:
        raise ValueError(f"SyncCFG's text mode is same, null or additive, got {text!r}")
    if text != "additive" and any(s != 1 for s in text_scale):
        raise ValueError(f"a text scale goes with SyncCFG's text mode additive, got {text!r}")
    anchor = Evaluation(company="mute", text=text != "null", skip_layers=skip_layers if text == "null" else ())
    sync = Guidance(guides=(Guide(anchor=anchor, scale=scale, start=start, end=end),))
    if text != "additive":
        return sync
    return sync + text_guidance(text_scale, skip_layers=skip_layers, start=start, end=end)


def modality_guidance(scale: AV[float], *, start: float = 1.0, end: float = 0.0) -> Guidance:
    """Guidance away from the same streams with the interaction cut in all layers."""
    return Guidance(guides=(Guide(anchor=Evaluation(company="cut"), scale=scale, start=start, end=end),))


def guide(
    evaluate: Evaluate,
    guidance: Guidance,
    sigma: AV[float],
    generated: AV[bool],
    free: AV[Tensor],
    beside: AV[Tensor] | None = None,
) -> AV[Tensor | None]:
    """The guided velocity.

    Args:
        evaluate: asks the model.
        guidance: the guides.
        sigma: where the step is.
        generated: the streams that are generated.
        free: for each stream the mask of generated latents, broadcastable to the velocity; the rest does not count for rescale.
        beside: the full velocity as somebody else has guided it already; these guides are added to that, and rescale brings
            the sum back to the spread of the unguided one.

    Returns:
        Velocities of the generated streams; None for a given one.
    """
    full = evaluate(FULL, generated)
    guided = full if beside is None else full.map(lambda v, other: None if v is None else other, beside)
    for one in guidance.guides:
        wanted = one.active(sigma).map(lambda a, b: a and b, generated)
        if not any(wanted):
            continue
        anchor = evaluate(one.anchor, wanted)
        guided = guided.map(_away, full, anchor, one.scale)
    return guided.map(_rescaled, full, guidance.rescale, free)


def _away(guided: Tensor | None, full: Tensor | None, anchor: Tensor | None, scale: float) -> Tensor | None:
    if guided is None or full is None or anchor is None:
        return guided
    return guided + (scale - 1) * (full - anchor)


def _rescaled(guided: Tensor | None, full: Tensor | None, amount: float, free: Tensor) -> Tensor | None:
    if guided is None or full is None or amount == 0 or guided is full:
        return guided
    ratio = _spread(full, free) / _spread(guided, free).clamp(min=torch.finfo(guided.dtype).tiny)
    return guided * (1 + amount * (ratio - 1))


def _spread(x: Tensor, free: Tensor) -> Tensor:
    """Standard deviation over what is free, clip by clip."""
    axes = tuple(range(1, x.ndim))
    weight = free.to(x.dtype).expand_as(x)
    count = weight.sum(axes, keepdim=True).clamp(min=1)
    mean = (x * weight).sum(axes, keepdim=True) / count
    return (((x - mean) ** 2 * weight).sum(axes, keepdim=True) / count).sqrt()

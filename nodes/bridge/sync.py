"""Guidance as a patch of a MODEL: whatever guider and sampler asks it, SyncCFG is added to the answer.

The model is asked through ComfyUI's own evaluation of conditions, so hooks, LoRAs and areas work; the algebra is
``harmony_core.guidance``, the same as standalone. What a guider of ComfyUI's does by itself, such as CFG, is kept: the guides
here are added to its answer, so that its CFG beside SyncCFG is the additive text mode.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import comfy.samplers
import comfy.utils
import torch
from comfy.model_patcher import create_model_options_clone
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...harmony_core.config import HarmonyConfig
from ...harmony_core.geometry import ClipSpec
from ...harmony_core.guidance import FULL, Evaluation, Guidance, SyncText, guide, sync_guidance, text_guidance
from ...harmony_core.recipes import RECIPES, recipe_for
from ...harmony_core.shown import shown
from ...harmony_core.types import AV, Modality
from .codec import check_vae
from .latent import samples_of
from .model import QUESTION_OPTION, HarmonyModel, harmony_model
from .run import Question
from .told import without_text

PATCH = "harmony_sync"
UNTOLD_CONDITIONS = "harmony_untold"
AS_MODEL = "automatic"
"""Of layers to skip: as the model was made to be sampled."""
ON_TIME = 1 + 1e-5
"""A step that begins where guidance ends is outside, in spite of rounding."""

NEEDS_NEGATIVE = (
    'negative: this model has no "nothing" to tell instead of a text; connect a second Harmony Encode, its texts empty or what '
    "to go away from"
)


@dataclass(frozen=True, kw_only=True)
class Guides:
    """What guides, as the inputs of a node say it.

    Attributes:
        sync: scales of SyncCFG for picture and sound; 1 is off.
        text_mode: what SyncCFG's anchors are told.
        text: scales of text guidance; 1 is off.
        start: share of the steps from which all of it acts.
        end: share of the steps up to which it acts.
        rescale: how far the spread of the unguided answer is restored, in [0, 1].
        skip: layers left out of passes without the text: numbers, nothing, or :data:`AS_MODEL`.

    Raises:
        ValueError: scales that do not fit the text mode, nothing between start and end, or layers that are no numbers.
    """

    sync: AV[float]
    text_mode: str = "same"
    text: AV[float] = AV(1.0, 1.0)  # noqa: RUF009 - an immutable value
    start: float = 0.0
    end: float = 1.0
    rescale: float = 0.0
    skip: str = AS_MODEL

    def __post_init__(self) -> None:
        if self.syncs and any(s != 1 for s in self.text) and self.text_mode != "additive":
            raise ValueError("sync_text: text_video and text_audio beside SyncCFG need additive; choose it, or set them to 1")
        if not self.start < self.end:
            raise ValueError(
                f"start_percent: it is {self.start:g}, end_percent {self.end:g}; guidance ends after it starts: change one"
            )
        _numbers(self.skip)

    @property
    def syncs(self) -> bool:
        """Whether SyncCFG is on."""
        return any(s != 1 for s in self.sync)

    @property
    def untells(self) -> bool:
        """Whether the model is asked without the text."""
        return any(not one.anchor.text for one in self.guidance().guides)

    def skipped(self, config: HarmonyConfig) -> tuple[int, ...]:
        """The layers left out of passes without the text.

        Raises:
            ValueError: the model has no such layer.
        """
        total = config.video.layers
        layers = _numbers(self.skip)
        if layers is None:
            return tuple(one for one in RECIPES[recipe_for(config)].skip_layers if one < total)
        if any(one >= total for one in layers):
            raise ValueError(f"skip_layers: this model's are 0 to {total - 1}, got {shown(self.skip)}")
        return layers

    def guidance(
        self, to_sigma: Callable[[float], float] = lambda percent: 1 - percent, skip_layers: tuple[int, ...] = ()
    ) -> Guidance:
        """The guides over sigmas.

        Args:
            to_sigma: the sigma at a share of the steps.
            skip_layers: left out of passes without the text.
        """
        start, end = (min(1.0, float(to_sigma(share)) * ON_TIME) if share < 1 else 0.0 for share in (self.start, self.end))
        if self.syncs:
            text = cast("SyncText", self.text_mode)
            guides = sync_guidance(
                self.sync, text=text, text_scale=self.text, skip_layers=skip_layers, start=start, end=end
            ).guides
        else:
            guides = text_guidance(self.text, skip_layers=skip_layers, start=start, end=end).guides
        return Guidance(
            guides=tuple(one for one in guides if any(s != 1 for s in one.scale)), rescale=AV.both(float(self.rescale))
        )


def guides_of(
    *,
    sync_video: float,
    sync_audio: float,
    sync_text: str,
    text_video: float,
    text_audio: float,
    start_percent: float = 0.0,
    end_percent: float = 1.0,
    rescale: float = 0.0,
    skip_layers: str = AS_MODEL,
) -> Guides:
    """The guides that a node's inputs describe; see :class:`Guides`."""
    return Guides(
        sync=AV(sync_video, sync_audio),
        text_mode=sync_text,
        text=AV(text_video, text_audio),
        start=start_percent,
        end=end_percent,
        rescale=rescale,
        skip=skip_layers,
    )


def _numbers(text: str) -> tuple[int, ...] | None:
    """Layers as a widget says them; None for the model's own."""
    if text.strip() == AS_MODEL:
        return None
    words = text.replace(",", " ").split()
    if not all(word.isdecimal() for word in words):
        raise ValueError(f"skip_layers: it is numbers such as 11 or 9, 11, nothing for none, or {AS_MODEL}; got {shown(text)}")
    return tuple(sorted({int(word) for word in words}))


def patched(patcher: Any, guides: Guides, vaes: tuple[Any, Any], still: Tensor | None) -> Any:
    """A MODEL that is guided wherever it is sampled; guides it had before are replaced.

    Args:
        patcher: a MODEL of Harmony.
        guides: the guides.
        vaes: of video and sound, to make the anchors; needed where SyncCFG is on.
        still: the picture to hold, (1, H, W, 3) in [0, 1]; an even grey where None.

    Raises:
        ValueError: no Harmony model, SyncCFG without VAEs, or layers to skip that the model does not have.
    """
    config = harmony_model(patcher).config
    skipped = guides.skipped(config)
    patcher = patcher.clone()
    for kind in (WrappersMP.OUTER_SAMPLE, WrappersMP.PREDICT_NOISE):
        patcher.remove_wrappers_with_key(kind, PATCH)
    if not guides.guidance().guides:
        return patcher
    if guides.syncs:
        if any(vae is None for vae in vaes):
            raise ValueError("video_vae, audio_vae: SyncCFG needs both; connect them, or set sync_video and sync_audio to 1")
        for vae, modality in zip(vaes, Modality, strict=True):
            check_vae(vae, modality)

    def around_run(executor: Any, *args: Any, **kwargs: Any) -> Tensor:
        guider = executor.class_obj
        model = harmony_model(guider.model_patcher)
        assert model.run is not None
        anchors = None
        if guides.syncs:
            raw = make_anchors(AV(*vaes), model.run.spec, still)
            anchors = AV(model.normalise(raw.video), raw.audio)
        if "negative" not in guider.conds:
            if config.one_prompt and guides.untells:
                raise ValueError(NEEDS_NEGATIVE)
            told = [[None, entry] for entry in guider.conds["positive"]]
            guider.conds[UNTOLD_CONDITIONS] = [entry for _, entry in without_text(told)]
        to_sigma = guider.model_patcher.get_model_object("model_sampling").percent_to_sigma
        guider.model_options["transformer_options"][PATCH] = _Guiding(guides.guidance(to_sigma, skipped), anchors)
        return executor(*args, **kwargs)

    patcher.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, PATCH, around_run)
    patcher.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, PATCH, _around_step)
    return patcher


def is_patched(patcher: Any) -> bool:
    """Whether a MODEL is guided already."""
    return bool(patcher.get_wrappers(WrappersMP.PREDICT_NOISE, PATCH))


def make_anchors(vaes: AV[Any], spec: ClipSpec, still: Tensor | None) -> AV[Tensor]:
    """SyncCFG's drivers as raw latents: a picture held for the whole clip, and silence."""
    picture = torch.full((1, spec.height, spec.width, 3), 0.5) if still is None else still[:1, ..., :3]
    if tuple(picture.shape[1:3]) != (spec.height, spec.width):
        raise ValueError(
            f"still: it is {picture.shape[2]} x {picture.shape[1]}, the clip {spec.width} x {spec.height}; resize it"
        )
    held = vaes.video.encode(picture.expand(spec.frames, -1, -1, -1))
    silence = vaes.audio.encode(torch.zeros(1, samples_of(spec, vaes.audio), 1))
    return AV(held, silence[..., : spec.audio_latents])


def _around_step(executor: Any, x: Tensor, timestep: Tensor, model_options: dict[str, Any], seed: int | None = None) -> Tensor:
    """One question of the sampler: the guider's own answer, with the guides added."""
    guiding: _Guiding = model_options["transformer_options"][PATCH]
    sigma = float(timestep.flatten()[0])
    if not guiding.acts(sigma):
        return executor(x, timestep, model_options, seed)
    plain: list[Tensor] = []
    guider = executor.class_obj

    # The guider asks what we need too, unless it guides between other conditions than the positive ones. It is taken as the
    # model gave it, before nodes such as APG change it: what they change is not SyncCFG's to multiply.
    def keep_given(answer: dict[str, Any]) -> list[Tensor]:
        if answer["conds"][0] is guider.conds["positive"]:
            plain.append(answer["conds_out"][0].clone())
        return answer["conds_out"]

    def keep_plain(answer: dict[str, Any]) -> Tensor:
        if not plain and answer["cond"] is guider.conds["positive"]:  # guiders that ask by themselves
            plain.append(answer["cond_denoised"])
        return answer["denoised"]

    options = create_model_options_clone(model_options)
    options["sampler_pre_cfg_function"] = [keep_given, *options.get("sampler_pre_cfg_function", [])]
    options["sampler_post_cfg_function"] = [*options.get("sampler_post_cfg_function", []), keep_plain]
    theirs = executor(x, timestep, options, seed)
    return guiding.add(guider, x, timestep, theirs, plain[0] if plain else None, model_options)


def _renamed(conditions: list[dict[str, Any]], question: Question) -> list[dict[str, Any]]:
    """Conditions under a name of their own for each kind of question: caches such as EasyCache keep an answer by it.

    The name is the same at every step.
    """
    return [{**one, "uuid": uuid.uuid5(one["uuid"], repr(question.evaluation))} for one in conditions]


class _Guiding:
    """The guides of one run."""

    def __init__(self, guidance: Guidance, anchors: AV[Tensor] | None) -> None:
        self._guidance = guidance
        self._anchors = anchors

    def acts(self, sigma: float) -> bool:
        """Whether any guide does something here."""
        return any(any(one.active(AV.both(sigma))) for one in self._guidance.guides)

    def add(
        self, guider: Any, x: Tensor, timestep: Tensor, theirs: Tensor, plain: Tensor | None, options: dict[str, Any]
    ) -> Tensor:
        """The estimate of the data at ``x``, all flat.

        Args:
            guider: whose conditions are told.
            x: where the sampler is.
            timestep: its sigma.
            theirs: the guider's own estimate.
            plain: the estimate with the positive conditions alone, if it is known.
            options: of the model.
        """
        model: HarmonyModel = guider.inner_model
        run = model.run
        assert run is not None
        sigma = float(timestep.flatten()[0])
        own = run.sigmas(sigma)

        def streams(flat: Tensor) -> AV[Tensor]:
            return AV(*comfy.utils.unpack_latents(flat, model.latent_shapes))

        here = streams(x)

        def velocity(data: Tensor) -> AV[Tensor]:
            return here.map(lambda latent, x0, s: (latent - x0) / s, streams(data), own)

        def evaluate(what: Evaluation, wanted: AV[bool]) -> AV[Tensor | None]:
            data = plain if what == FULL else None
            if data is None:
                question = Question(evaluation=what, wanted=wanted, anchors=self._anchors)
                data = self._ask(guider, x, timestep, question, options)
            return velocity(data).map(lambda v, want: v if want else None, wanted)

        free = run.free_latents(here)
        guided = guide(evaluate, self._guidance, AV.both(sigma), run.generated, free, velocity(theirs))
        data = here.map(lambda latent, v, x0, s: x0 if v is None else latent - s * v, guided, streams(theirs), own)
        return comfy.utils.pack_latents(list(data))[0]

    @staticmethod
    def _ask(guider: Any, x: Tensor, timestep: Tensor, question: Question, options: dict[str, Any]) -> Tensor:
        asked = create_model_options_clone(options)
        asked["transformer_options"][QUESTION_OPTION] = question
        name = "positive" if question.evaluation.text else "negative"
        conditions = _renamed(guider.conds.get(name, guider.conds.get(UNTOLD_CONDITIONS)), question)
        return comfy.samplers.calc_cond_batch(guider.inner_model, [conditions], x, timestep, asked)[0]

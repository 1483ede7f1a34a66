"""Sampling: one node for all of it, and its parts for those who build their own."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from .border import HarmonyNode

TEXT_MODES = ["same", "null", "additive"]
WALKS = ["euler", "heun", "dpmpp_2m", "unipc"]


def _guidance_inputs() -> list[Any]:
    """Scales of guidance, the same wherever they are asked for."""

    def scale(name: str, default: float, tooltip: str) -> Any:
        return io.Float.Input(name, default=default, min=0.0, max=30.0, step=0.1, tooltip=tooltip)

    return [
        scale("sync_video", 3.0, "SyncCFG: how strictly to keep the picture to the sound; 1 is off."),
        scale("sync_audio", 2.0, "SyncCFG: how strictly to keep the sound to the picture; 1 is off."),
        io.Combo.Input(
            "sync_text",
            options=TEXT_MODES,
            default="same",
            tooltip="What SyncCFG's anchors are told: the text too (same), nothing, which guides by the text for free (null), "
            "or the text, with text guidance beside them (additive).",
        ),
        scale("text_video", 1.0, "How strictly the picture follows the text; 1 is off. With SyncCFG it needs additive."),
        scale("text_audio", 1.0, "How strictly the sound follows the text; 1 is off. With SyncCFG it needs additive."),
    ]


def _model_inputs() -> list[Any]:
    return [
        io.Model.Input("model", tooltip="The Harmony model, perhaps with LoRAs and patches."),
        io.Conditioning.Input("positive", tooltip="What is told, from Harmony Encode or CLIP Text Encode."),
    ]


def _vae_inputs() -> list[Any]:
    return [
        io.Vae.Input("video_vae", optional=True, tooltip="The video VAE; SyncCFG needs it to make its still picture."),
        io.Vae.Input("audio_vae", optional=True, tooltip="The audio VAE; SyncCFG needs it to make its silence."),
    ]


def _negative_input() -> Any:
    return io.Conditioning.Input("negative", optional=True, tooltip="What text guidance goes away from; nothing by default.")


def _more_guidance_inputs() -> list[Any]:
    """What few need: when the guides act, and against overexposure."""

    def share(name: str, default: float, tooltip: str) -> Any:
        limits = {"min": 0.0, "max": 1.0, "step": 0.01, "round": 0.001}
        return io.Float.Input(name, default=default, optional=True, advanced=True, tooltip=tooltip, **limits)

    return [
        share("start_percent", 0.0, "Share of the steps from which guidance acts; before it the steps are plain and cheaper."),
        share("end_percent", 1.0, "Share of the steps up to which guidance acts; after it the steps are plain and cheaper."),
        share("rescale", 0.0, "Against overexposed pictures of large scales: how far contrast is brought back; 0 is off."),
    ]


def _skip_input() -> Any:
    return io.String.Input(
        "skip_layers",
        default="automatic",
        optional=True,
        advanced=True,
        tooltip="Layers left out of the passes without the text, which makes text guidance stronger: numbers such as 11 or "
        "9, 11, or nothing for none. With automatic it is 11 for Ovi, none for others.",
    )


def _clip_inputs() -> list[Any]:
    """What is to be known of the clip where its latent comes later."""
    return [
        io.Image.Input(
            "still",
            optional=True,
            tooltip="The picture SyncCFG holds still, of the clip's size in pixels: your first frame, or the first "
            "picture of the video that drives; an even grey by default.",
        ),
        io.Latent.Input(
            "latent",
            optional=True,
            tooltip="The latent that will be sampled; it tells the pictures' rate, if not the model's, and the still.",
        ),
    ]


def _gamma_input(**more: Any) -> Any:
    return io.Float.Input(
        "gamma",
        default=1.0,
        min=0.1,
        max=10.0,
        step=0.05,
        tooltip="Timestep adjustment: above 1 the picture settles first and the sound follows, below 1 the other way; 1: off.",
        **more,
    )


class HarmonySyncCFG(HarmonyNode):
    """SyncCFG in the MODEL."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What ComfyUI shows."""
        return io.Schema(
            node_id="HarmonySyncCFG",
            display_name="Harmony SyncCFG",
            category="Harmony",
            description="Guides picture and sound towards each other in any sampler the model is connected to. "
            "A sampler's own CFG guides by the text beside it.",
            inputs=[
                io.Model.Input("model", tooltip="The Harmony model, perhaps with LoRAs and patches."),
                *_guidance_inputs(),
                *_vae_inputs(),
                *_more_guidance_inputs(),
                *_clip_inputs(),
                _skip_input(),
            ],
            outputs=[io.Model.Output(tooltip="The guided model, for KSampler or any guider.")],
        )

    @classmethod
    def execute(
        cls, model: Any, video_vae: Any = None, audio_vae: Any = None, still: Any = None, latent: Any = None, **guides: Any
    ) -> io.NodeOutput:
        """Patch it."""
        from .bridge.guider import about
        from .bridge.rate import with_rate
        from .bridge.sync import guides_of, patched

        still, fps = about(latent, still)
        guided = patched(model, guides_of(**guides), (video_vae, audio_vae), still)
        return io.NodeOutput(with_rate(guided, fps))


class HarmonySyncGuider(HarmonyNode):
    """SyncCFG as a GUIDER."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What ComfyUI shows."""
        return io.Schema(
            node_id="HarmonySyncGuider",
            display_name="Harmony SyncCFG Guider",
            category="Harmony",
            description="Guides picture and sound towards each other; for SamplerCustomAdvanced.",
            inputs=[
                *_model_inputs(),
                *_guidance_inputs(),
                _negative_input(),
                *_vae_inputs(),
                *_clip_inputs(),
                *_more_guidance_inputs(),
                _skip_input(),
            ],
            outputs=[io.Guider.Output(tooltip="For SamplerCustomAdvanced.")],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        positive: Any,
        negative: Any = None,
        video_vae: Any = None,
        audio_vae: Any = None,
        still: Any = None,
        latent: Any = None,
        **guides: Any,
    ) -> io.NodeOutput:
        """Make it."""
        from .bridge.guider import about, guided
        from .bridge.sync import guides_of

        still, fps = about(latent, still)
        vaes = (video_vae, audio_vae)
        return io.NodeOutput(guided(model, positive, negative, guides_of(**guides), vaes=vaes, still=still, fps=fps))


class HarmonySampler(HarmonyNode):
    """Timestep adjustment as a SAMPLER."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What ComfyUI shows."""
        return io.Schema(
            node_id="HarmonySampler",
            display_name="Harmony Sampler Select",
            category="Harmony",
            description="A sampler that can let the picture settle before the sound, or the sound before the picture; "
            "for SamplerCustomAdvanced.",
            inputs=[
                io.Combo.Input("sampler_name", options=WALKS, default="unipc", tooltip="How to walk from noise to the clip."),
                _gamma_input(),
            ],
            outputs=[io.Sampler.Output(tooltip="For SamplerCustomAdvanced.")],
        )

    @classmethod
    def execute(cls, sampler_name: str, gamma: float) -> io.NodeOutput:
        """Make it."""
        from .bridge.walk import HarmonyWalk

        return io.NodeOutput(HarmonyWalk(sampler_name, gamma=gamma))


class HarmonyKSampler(HarmonyNode):
    """Everything about sampling in one node."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What ComfyUI shows."""
        from .bridge.choices import sampler_names

        return io.Schema(
            node_id="HarmonyKSampler",
            display_name="Harmony KSampler",
            category="Harmony",
            description="Samples picture and sound together, guided towards each other.",
            inputs=[
                *_model_inputs(),
                io.Latent.Input("latent", tooltip="What is given and what is generated, from Empty Harmony Latent on."),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFF,
                    control_after_generate=True,
                    tooltip="Another number gives another clip; the clips of a batch have this seed and those after it.",
                ),
                io.Int.Input("steps", default=24, min=1, max=1000, tooltip="Number of sampling steps."),
                io.Combo.Input(
                    "sampler_name", options=sampler_names(), default="euler", tooltip="How to walk from noise to the clip."
                ),
                *_guidance_inputs(),
                _negative_input(),
                *_vae_inputs(),
                *_more_guidance_inputs(),
                io.Float.Input(
                    "denoise",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    optional=True,
                    tooltip="How much is made anew of a latent that holds a clip already, as in KSampler; 1 for an empty one.",
                ),
                io.Float.Input(
                    "shift",
                    default=0.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    optional=True,
                    advanced=True,
                    tooltip="How far the steps lean towards noise; 0 is what the model is made for.",
                ),
                _gamma_input(optional=True, advanced=True),
                _skip_input(),
            ],
            outputs=[io.Latent.Output(tooltip="Picture and sound, for Harmony Decode; what was given is in it bit for bit.")],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        positive: Any,
        latent: Any,
        seed: int,
        steps: int,
        sampler_name: str,
        negative: Any = None,
        video_vae: Any = None,
        audio_vae: Any = None,
        denoise: float = 1.0,
        shift: float = 0.0,
        gamma: float = 1.0,
        **guides: Any,
    ) -> io.NodeOutput:
        """Sample."""
        from .bridge.guider import about, guided, sample
        from .bridge.sync import guides_of

        still, fps = about(latent)
        vaes = (video_vae, audio_vae)
        guider = guided(model, positive, negative, guides_of(**guides), vaes=vaes, still=still, fps=fps, shift=shift)
        walk: dict[str, Any] = {"sampler_name": sampler_name, "denoise": denoise, "gamma": gamma}
        return io.NodeOutput(sample(guider, latent, seed=seed, steps=steps, **walk))

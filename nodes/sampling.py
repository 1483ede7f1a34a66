"""Sampling: one node for all of it, and the guider for those who build their own."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

TEXT_MODES = ["same", "null", "additive"]


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


def _optional_inputs() -> list[Any]:
    return [
        io.Conditioning.Input("negative", optional=True, tooltip="What text guidance goes away from; nothing by default."),
        io.Vae.Input("video_vae", optional=True, tooltip="The video VAE; SyncCFG needs it to make its still picture."),
        io.Vae.Input("audio_vae", optional=True, tooltip="The audio VAE; SyncCFG needs it to make its silence."),
    ]


def _guider(
    model: Any,
    positive: Any,
    *,
    sync_video: float,
    sync_audio: float,
    sync_text: str,
    text_video: float,
    text_audio: float,
    negative: Any = None,
    video_vae: Any = None,
    audio_vae: Any = None,
    **more: Any,
) -> Any:
    """The guider that the inputs of either node describe."""
    from .bridge.guider import guided

    return guided(
        model,
        positive,
        negative,
        sync=(sync_video, sync_audio),
        text_mode=sync_text,
        text=(text_video, text_audio),
        vaes=(video_vae, audio_vae),
        **more,
    )


class HarmonySyncGuider(io.ComfyNode):
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
                *_optional_inputs(),
                io.Image.Input(
                    "still",
                    optional=True,
                    tooltip="The picture SyncCFG holds still, of the clip's size in pixels: your first frame, or the first "
                    "picture of the video that drives; an even grey by default.",
                ),
            ],
            outputs=[io.Guider.Output(tooltip="For SamplerCustomAdvanced.")],
        )

    @classmethod
    def execute(cls, model: Any, positive: Any, still: Any = None, **guidance: Any) -> io.NodeOutput:
        """Make it."""
        return io.NodeOutput(_guider(model, positive, still=still, **guidance))


class HarmonyKSampler(io.ComfyNode):
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
                *_optional_inputs(),
            ],
            outputs=[io.Latent.Output(tooltip="Picture and sound, for Harmony Decode; what was given is in it bit for bit.")],
        )

    @classmethod
    def execute(
        cls, model: Any, positive: Any, latent: Any, seed: int, steps: int, sampler_name: str, **guidance: Any
    ) -> io.NodeOutput:
        """Sample."""
        from .bridge.guider import fps_of, sample, still_of

        guider = _guider(model, positive, still=still_of(latent), fps=fps_of(latent), **guidance)
        return io.NodeOutput(sample(guider, latent, seed=seed, steps=steps, sampler_name=sampler_name))

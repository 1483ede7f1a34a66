"""From latents to pictures and sound."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from .border import HarmonyNode


class HarmonyDecode(HarmonyNode):
    """Both streams at once."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What ComfyUI shows."""
        return io.Schema(
            node_id="HarmonyDecode",
            display_name="Harmony Decode",
            category="Harmony",
            description="Decodes pictures and sound, exactly as long as each other, in smaller pieces where memory is short.",
            inputs=[
                io.Latent.Input("latent", tooltip="A sampled latent of picture and sound."),
                io.Vae.Input("video_vae", tooltip="The video VAE."),
                io.Vae.Input("audio_vae", tooltip="The audio VAE."),
                io.Int.Input(
                    "clip",
                    default=0,
                    min=0,
                    max=64,
                    optional=True,
                    tooltip="Which clip of a batch, from 1; 0 for all, one after the other.",
                ),
            ],
            outputs=[
                io.Image.Output(tooltip="The pictures; those of a batch one after the other."),
                io.Audio.Output(tooltip="The sound; that of a batch one after the other, beside its pictures."),
                io.Float.Output("fps", display_name="fps", tooltip="Pictures per second, for Create Video."),
            ],
        )

    @classmethod
    def execute(cls, latent: Any, video_vae: Any, audio_vae: Any, clip: int = 0) -> io.NodeOutput:
        """Decode."""
        from .bridge.decode import decode
        from .bridge.player import watched

        decoded = decode(latent, video_vae, audio_vae, clip)
        return io.NodeOutput(*decoded, ui=watched(*decoded))

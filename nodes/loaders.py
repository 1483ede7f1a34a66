"""Loading."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from .border import HarmonyNode


class HarmonyLoadCheckpoint(HarmonyNode):
    """An all-in-one checkpoint, a model alone, or Ovi."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What ComfyUI shows."""
        from .bridge.paths import checkpoint_names, file_names

        return io.Schema(
            node_id="HarmonyLoadCheckpoint",
            display_name="Load Harmony Checkpoint",
            category="Harmony",
            description="Loads a joint model of video and sound, Harmony or Ovi, with its codecs and caption encoder where the "
            "file has them.",
            inputs=[
                io.Combo.Input(
                    "checkpoint",
                    options=checkpoint_names(),
                    tooltip="A Harmony checkpoint or Ovi, from models/checkpoints or models/diffusion_models, or the built-in "
                    "one.",
                ),
                io.Combo.Input(
                    "weight_dtype",
                    options=["default", "fp8_e4m3fn", "fp8_e5m2"],
                    default="default",
                    optional=True,
                    advanced=True,
                    tooltip="How the model's weights are stored: fp8 halves their memory and costs a little precision. "
                    "A file that is quantised already stays as it is.",
                ),
                io.Combo.Input(
                    "other_half",
                    options=["none", *file_names()],
                    default="none",
                    optional=True,
                    advanced=True,
                    tooltip="For Ovi published in two files: the second of them, in either order.",
                ),
                io.Combo.Input(
                    "ovi_size",
                    options=["by file name", "720x720_5s", "960x960_5s", "960x960_10s"],
                    default="by file name",
                    optional=True,
                    advanced=True,
                    tooltip="Which of Ovi's models the file is; its prompts depend on it. Needed where the file was renamed.",
                ),
            ],
            outputs=[
                io.Model.Output(tooltip="The joint model; works with stock samplers, LoRA loaders and model patches."),
                io.Clip.Output(tooltip="The checkpoint's caption encoder; empty where it has none: use Load CLIP with umT5."),
                io.Vae.Output("video_vae", display_name="video VAE", tooltip="Pictures; empty where the file has no codec."),
                io.Vae.Output("audio_vae", display_name="audio VAE", tooltip="Sound; empty where the file has no codec."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, checkpoint: str | None, other_half: str | None = "none", **_others: Any) -> str:
        """Changes when a file does."""
        from .bridge.paths import state_of

        return state_of(checkpoint, other_half)

    @classmethod
    def execute(
        cls, checkpoint: str, weight_dtype: str = "default", other_half: str = "none", ovi_size: str = "by file name"
    ) -> io.NodeOutput:
        """Load it."""
        from .bridge.loader import load_all
        from .bridge.paths import NONE, checkpoint_path

        half = None if other_half == NONE else checkpoint_path(other_half, where="other_half")
        return io.NodeOutput(*load_all(checkpoint_path(checkpoint), weight_dtype, other_half=half, ovi_size=ovi_size))

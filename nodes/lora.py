"""LoRAs."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from .border import HarmonyNode


class HarmonyLoadLora(HarmonyNode):
    """A LoRA on a Harmony model, whoever named its layers."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What ComfyUI shows."""
        from .bridge.lora_paths import lora_names

        return io.Schema(
            node_id="HarmonyLoadLora",
            display_name="Load Harmony LoRA",
            category="Harmony",
            description="Puts a LoRA on a Harmony model: one of Wan2.2-5B on its video branch, or one of its own. "
            "Several add up, one node behind the other.",
            inputs=[
                io.Model.Input("model", tooltip="The Harmony model, perhaps with LoRAs and patches."),
                io.Combo.Input("lora_name", options=lora_names(), tooltip="A file from models/loras."),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=-20.0,
                    max=20.0,
                    step=0.01,
                    tooltip="How strongly it changes the model; 0 is not at all, and below 0 it changes it the other way.",
                ),
            ],
            outputs=[io.Model.Output(tooltip="The model with the LoRA; the one that came in stays as it was.")],
        )

    @classmethod
    def fingerprint_inputs(cls, lora_name: str | None, model: Any = None, strength: float | None = None) -> str:
        """Changes when the file does."""
        from .bridge.lora_paths import state_of

        del model, strength
        return state_of(lora_name)

    @classmethod
    def execute(cls, model: Any, lora_name: str, strength: float) -> io.NodeOutput:
        """Put it on."""
        from .bridge.lora import with_lora

        return io.NodeOutput(with_lora(model, lora_name, strength))

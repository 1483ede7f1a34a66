"""What a finished clip is like: how well picture and sound go together, and where the sound comes from."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io, ui

from .border import HarmonyNode


class HarmonySyncReport(HarmonyNode):
    """How well any pictures and any sound go together."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What ComfyUI shows."""
        return io.Schema(
            node_id="HarmonySyncReport",
            display_name="Harmony Sync Report",
            category="Harmony",
            description="Measures how well any pictures and any sound go together: whether what is seen to happen is heard.",
            inputs=[
                io.Image.Input("images", tooltip="The pictures of a video; of several clips, one after the other."),
                io.Audio.Input("audio", tooltip="Its sound, of any rate; for several clips, a batch."),
                io.Float.Input(
                    "fps", default=24.0, min=1.0, max=120.0, step=0.01, tooltip="Pictures per second, from Harmony Decode."
                ),
            ],
            outputs=[
                io.Float.Output(
                    "score",
                    display_name="score",
                    tooltip="From 0, no better than chance or too little happens, to 1, every event is seen and heard at once.",
                ),
                io.Float.Output(
                    "offset_ms",
                    display_name="offset (ms)",
                    tooltip="Milliseconds the sound is late, early where negative, up to half a second.",
                ),
                io.String.Output("summary", display_name="summary", tooltip="What was found, and how far to trust it."),
                io.Image.Output(
                    "picture",
                    display_name="picture",
                    tooltip="Pictures over waveform over events seen and heard, green where matched, red where not.",
                ),
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, images: Any, audio: Any, fps: float) -> io.NodeOutput:
        """Measure."""
        from .bridge.report import sync_report

        score, offset, summary, picture, clips = sync_report(images, audio, fps)
        shown = {**ui.PreviewImage(picture, cls=cls).as_dict(), "text": (summary,), "harmony_clips": clips}
        return io.NodeOutput(score, offset, summary, picture, ui=shown)


class HarmonySoundSourceMap(HarmonyNode):
    """Where in the pictures the sound comes from."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What ComfyUI shows."""
        return io.Schema(
            node_id="HarmonySoundSourceMap",
            display_name="Harmony Sound Source Map",
            category="Harmony",
            description="Shows where in the pictures the sound comes from, as a mask for each; works on any finished latent.",
            inputs=[
                io.Model.Input("model", tooltip="The Harmony model, perhaps with LoRAs."),
                io.Conditioning.Input("positive", tooltip="What the clip was told, from Harmony Encode."),
                io.Latent.Input("latent", tooltip="A finished latent, from any sampler."),
                io.Image.Input("images", tooltip="Its pictures, from Harmony Decode, of any size; the mask is of the same."),
                io.Float.Input(
                    "floor",
                    default=0.1,
                    min=0.0,
                    max=0.95,
                    step=0.05,
                    tooltip="Strength, of the clip's strongest, up to which a place counts as silent; more is a smaller mask.",
                ),
                io.Float.Input(
                    "smooth_time", default=0.1, min=0.0, max=2.0, step=0.01, tooltip="Seconds over which the mask is smoothed."
                ),
                io.Float.Input(
                    "smooth_space",
                    default=0.05,
                    min=0.0,
                    max=0.5,
                    step=0.01,
                    tooltip="How far the mask is smoothed over the picture, in parts of its shorter side.",
                ),
                io.Float.Input(
                    "strength", default=0.8, min=0.0, max=1.0, step=0.05, tooltip="How strongly the overlay shows the mask."
                ),
            ],
            outputs=[
                io.Mask.Output(tooltip="For each picture, 1 where its sound comes from."),
                io.Image.Output("overlay", display_name="overlay", tooltip="The pictures with the mask over them, in orange."),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        positive: Any,
        latent: Any,
        images: Any,
        floor: float,
        smooth_time: float,
        smooth_space: float,
        strength: float,
    ) -> io.NodeOutput:
        """Listen."""
        from .bridge.source_map import sound_source_map

        settings = {"floor": floor, "seconds": smooth_time, "spread": smooth_space, "strength": strength}
        return io.NodeOutput(*sound_source_map(model, positive, latent, images, **settings))

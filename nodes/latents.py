"""What of a clip is given, and what is generated."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io


class HarmonyEmptyLatent(io.ComfyNode):
    """A clip of which nothing is given."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What ComfyUI shows."""
        return io.Schema(
            node_id="HarmonyEmptyLatent",
            display_name="Empty Harmony Latent",
            category="Harmony",
            description="The latent of a clip, picture and sound of one length. Lengths and sizes that do not fit are refused.",
            inputs=[
                io.Model.Input(
                    "model", tooltip="The Harmony model the clip is made with; it knows which lengths and sizes fit."
                ),
                io.Float.Input(
                    "seconds",
                    default=2.0417,
                    min=0.01,
                    max=60.0,
                    step=0.0001,
                    round=0.0001,
                    tooltip="Length in seconds: 1 + 4k pictures, so 49 pictures at 24 a second are 2.0417 s.",
                ),
                io.Int.Input("width", default=64, min=16, max=4096, step=16, tooltip="Width of the pictures in pixels."),
                io.Int.Input("height", default=64, min=16, max=4096, step=16, tooltip="Height of the pictures in pixels."),
                io.Float.Input("fps", default=24.0, min=1.0, max=120.0, step=0.01, tooltip="Pictures per second."),
                io.Int.Input("batch", default=1, min=1, max=64, tooltip="Number of clips to make at once."),
            ],
            outputs=[io.Latent.Output(tooltip="For a sampler, or to be given a first frame or a driver.")],
        )

    @classmethod
    def execute(cls, model: Any, seconds: float, width: int, height: int, fps: float, batch: int) -> io.NodeOutput:
        """Make it."""
        from .bridge.latent import empty_latent
        from .bridge.model import harmony_model

        config = harmony_model(model).config
        return io.NodeOutput(empty_latent(config, seconds=seconds, width=width, height=height, fps=fps, batch=batch))


class HarmonyFirstFrame(io.ComfyNode):
    """A clip whose first picture is given."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What ComfyUI shows."""
        return io.Schema(
            node_id="HarmonyFirstFrame",
            display_name="Harmony First Frame",
            category="Harmony",
            description="Gives the clip its first picture.",
            inputs=[
                io.Latent.Input("latent", tooltip="A latent of Empty Harmony Latent."),
                io.Vae.Input("video_vae", tooltip="The video VAE."),
                io.Image.Input(
                    "images", tooltip="The first picture, of the clip's size in pixels; of several the first is taken."
                ),
            ],
            outputs=[io.Latent.Output(tooltip="The latent with its first picture given.")],
        )

    @classmethod
    def execute(cls, latent: Any, video_vae: Any, images: Any) -> io.NodeOutput:
        """Give it."""
        from .bridge.latent import first_frame

        return io.NodeOutput(first_frame(latent, video_vae, images))


class HarmonyDriveWithAudio(io.ComfyNode):
    """A clip whose sound is given."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What ComfyUI shows."""
        return io.Schema(
            node_id="HarmonyDriveWithAudio",
            display_name="Harmony Drive with Audio",
            category="Harmony",
            description="Gives the clip its sound; the model makes pictures for it and leaves it as it is.",
            inputs=[
                io.Latent.Input("latent", tooltip="A latent of Empty Harmony Latent, perhaps with a first frame."),
                io.Vae.Input("audio_vae", tooltip="The audio VAE."),
                io.Audio.Input("audio", tooltip="The sound, of any rate, at least as long as the clip."),
                io.Float.Input("start", default=0.0, min=0.0, max=36000.0, step=0.01, tooltip="Seconds of the sound to skip."),
            ],
            outputs=[
                io.Latent.Output(tooltip="The latent with its sound given."),
                io.Audio.Output(tooltip="Your own sound, exactly as long as the clip, to be saved with the pictures."),
            ],
        )

    @classmethod
    def execute(cls, latent: Any, audio_vae: Any, audio: Any, start: float) -> io.NodeOutput:
        """Give it."""
        from .bridge.latent import drive_with_audio

        return io.NodeOutput(*drive_with_audio(latent, audio_vae, audio, start))


class HarmonyDriveWithVideo(io.ComfyNode):
    """A clip whose pictures are given."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What ComfyUI shows."""
        return io.Schema(
            node_id="HarmonyDriveWithVideo",
            display_name="Harmony Drive with Video",
            category="Harmony",
            description="Gives the clip its pictures; the model makes sound for them and leaves them as they are.",
            inputs=[
                io.Latent.Input("latent", tooltip="A latent of Empty Harmony Latent, at the rate of your video."),
                io.Vae.Input("video_vae", tooltip="The video VAE."),
                io.Image.Input(
                    "images", tooltip="The pictures, of the clip's size in pixels, at least as many as the clip has."
                ),
            ],
            outputs=[
                io.Latent.Output(tooltip="The latent with its pictures given."),
                io.Image.Output(tooltip="Your own pictures, exactly as many as the clip has, to be saved with the sound."),
            ],
        )

    @classmethod
    def execute(cls, latent: Any, video_vae: Any, images: Any) -> io.NodeOutput:
        """Give them."""
        from .bridge.latent import drive_with_video

        return io.NodeOutput(*drive_with_video(latent, video_vae, images))

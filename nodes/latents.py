"""What of a clip is given, and what is generated."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from .border import HarmonyNode


class HarmonyEmptyLatent(HarmonyNode):
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
                io.Image.Input(
                    "images",
                    optional=True,
                    tooltip="Pictures to take the size from instead, and of a video the length: as many of them as fit 1 + 4k.",
                ),
                io.Audio.Input(
                    "audio", optional=True, tooltip="Sound to take the length from instead: the longest clip that it fills."
                ),
            ],
            outputs=[io.Latent.Output(tooltip="For a sampler, or to be given a first frame or a driver.")],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        seconds: float,
        width: int,
        height: int,
        fps: float,
        batch: int,
        images: Any = None,
        audio: Any = None,
    ) -> io.NodeOutput:
        """Make it."""
        from .bridge.latent import empty_latent
        from .bridge.model import harmony_model

        harmony = harmony_model(model)
        return io.NodeOutput(
            empty_latent(
                harmony.config,
                seconds=seconds,
                width=width,
                height=height,
                fps=fps,
                batch=batch,
                images=images,
                audio=audio,
                statistics=harmony.model_config.statistics,
            )
        )


class HarmonyFirstFrame(HarmonyNode):
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


class HarmonyDriveWithAudio(HarmonyNode):
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


class HarmonyDriveWithVideo(HarmonyNode):
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


class HarmonyKeepSpan(HarmonyNode):
    """A clip of which some seconds are given, or no longer are."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What ComfyUI shows."""
        return io.Schema(
            node_id="HarmonyKeepSpan",
            display_name="Harmony Keep Span",
            category="Harmony",
            description="Keeps some seconds of picture or sound as they are, or frees them to be made anew. What is kept comes "
            "back bit for bit. A span keeps the latents that lie wholly in it and frees those it touches; a latent is four "
            "pictures, the first one picture, or 0.032 s of sound.",
            inputs=[
                io.Latent.Input("latent", tooltip="A latent of Empty Harmony Latent, of a sampler, or a loaded one."),
                io.Combo.Input(
                    "action",
                    options=["keep", "free"],
                    default="keep",
                    tooltip="Keep the span as it is, or free it: the sampler then makes it anew.",
                ),
                io.Combo.Input(
                    "stream",
                    options=["picture and sound", "picture", "sound"],
                    default="picture and sound",
                    tooltip="What of the clip the span is about.",
                ),
                io.Float.Input(
                    "start", default=0.0, min=0.0, max=3600.0, step=0.01, tooltip="Second of the clip where the span starts."
                ),
                io.Float.Input(
                    "end",
                    default=0.0,
                    min=0.0,
                    max=3600.0,
                    step=0.01,
                    tooltip="Second of the clip where the span ends; 0 for as far as the clip and what is given go.",
                ),
                io.Image.Input(
                    "images",
                    optional=True,
                    tooltip="Pictures to put there, at the clip's rate and of its size; without them the latent's own stay.",
                ),
                io.Audio.Input("audio", optional=True, tooltip="Sound to put there; without it the latent's own stays."),
                io.Vae.Input("video_vae", optional=True, tooltip="The video VAE; needed with images."),
                io.Vae.Input("audio_vae", optional=True, tooltip="The audio VAE; needed with audio."),
                io.Float.Input(
                    "content_start",
                    default=0.0,
                    min=0.0,
                    max=36000.0,
                    step=0.01,
                    optional=True,
                    tooltip="Seconds of images and audio to skip: what comes then is put where the span starts.",
                ),
            ],
            outputs=[io.Latent.Output(tooltip="The latent with the span kept or freed.")],
        )

    @classmethod
    def execute(
        cls,
        latent: Any,
        action: str,
        stream: str,
        start: float,
        end: float,
        images: Any = None,
        audio: Any = None,
        video_vae: Any = None,
        audio_vae: Any = None,
        content_start: float = 0.0,
    ) -> io.NodeOutput:
        """Keep or free it."""
        from .bridge.span import span

        return io.NodeOutput(
            span(
                latent,
                action=action,
                stream=stream,
                start=start,
                end=end,
                images=images,
                audio=audio,
                vaes=(video_vae, audio_vae),
                content_start=content_start,
            )
        )


class HarmonySaveLatent(HarmonyNode):
    """A latent to a file."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What ComfyUI shows."""
        return io.Schema(
            node_id="HarmonySaveLatent",
            display_name="Save Harmony Latent",
            category="Harmony",
            description="Writes a latent of picture and sound, and what of it is given, into ComfyUI's output folder, as "
            "harmony generate --save-latents does. A file that is there is never replaced.",
            inputs=[
                io.Latent.Input("latent", tooltip="A latent of picture and sound, sampled or not."),
                io.String.Input(
                    "filename_prefix",
                    default="latents/harmony",
                    tooltip="How the file's name begins, perhaps after a folder; a number follows.",
                ),
            ],
            outputs=[io.Latent.Output(tooltip="The latent as it came.")],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, latent: Any, filename_prefix: str) -> io.NodeOutput:
        """Write it."""
        from .bridge.latent_file import save

        written_by = {"prompt": cls.hidden.prompt, **(cls.hidden.extra_pnginfo or {})}
        return io.NodeOutput(latent, ui={"latents": [save(latent, filename_prefix, written_by)]})


class HarmonyLoadLatent(HarmonyNode):
    """A latent from a file."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What ComfyUI shows."""
        from .bridge.latent_paths import names

        return io.Schema(
            node_id="HarmonyLoadLatent",
            display_name="Load Harmony Latent",
            category="Harmony",
            description="Reads a latent that Save Harmony Latent or harmony generate --save-latents wrote.",
            inputs=[
                io.Combo.Input("file", options=names(), tooltip="A file in ComfyUI's input or output folder."),
                io.Model.Input(
                    "model", optional=True, tooltip="The Harmony model it was made with; needed for files of harmony generate."
                ),
            ],
            outputs=[io.Latent.Output(tooltip="The latent as it was saved, bit for bit, with what of it is given.")],
        )

    @classmethod
    def validate_inputs(cls, file: str | None) -> bool | str:
        """Whether there is such a file; it may be newer than the list, and is not known yet where another node names it."""
        from .bridge.latent_paths import path_of

        try:
            if file is not None:
                path_of(file)
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, file: str | None, model: Any = None) -> str | float:
        """Changes when the file does; always where another node names it."""
        from .bridge.latent_paths import state_of

        del model
        return float("nan") if file is None else state_of(file)

    @classmethod
    def execute(cls, file: str, model: Any = None) -> io.NodeOutput:
        """Read it."""
        from .bridge.latent_file import load

        return io.NodeOutput(load(file, model))

"""What the model is told."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io, ui

from .border import HarmonyNode

# As in harmony_core.encoders.spelling, which is not imported when ComfyUI starts.
LANGUAGES = ["automatic", "English", "Mandarin", "as written"]


class HarmonyEncode(HarmonyNode):
    """Words and a voice to CONDITIONING; for Ovi one prompt."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What ComfyUI shows."""
        return io.Schema(
            node_id="HarmonyEncode",
            display_name="Harmony Encode",
            category="Harmony",
            description="Tells the model what is seen, what is heard, what is said, and in whose voice. A second one, "
            "for the negative input, tells what to go away from.",
            inputs=[
                io.Model.Input("model", tooltip="The Harmony model; it knows which symbols a transcript may have."),
                io.Clip.Input("clip", tooltip="The caption encoder: the checkpoint's own, or umT5."),
                io.String.Input("picture", multiline=True, default="", tooltip="What is seen; empty for anything."),
                io.String.Input(
                    "sound",
                    multiline=True,
                    default="",
                    tooltip="What is heard, speech aside; empty for what goes with the picture.",
                ),
                io.String.Input("transcript", default="", tooltip="What is said, letter by letter; empty for no speech."),
                io.Audio.Input("voice", optional=True, tooltip="A sound whose voice to speak with, at least 0.3 s of it."),
                io.Vae.Input("audio_vae", optional=True, tooltip="The audio VAE; needed with a voice."),
                io.Float.Input(
                    "voice_start",
                    default=0.0,
                    min=0.0,
                    max=3600.0,
                    step=0.1,
                    optional=True,
                    tooltip="Seconds of the voice to skip.",
                ),
                io.Float.Input(
                    "voice_seconds",
                    default=3.0,
                    min=0.3,
                    max=30.0,
                    step=0.1,
                    optional=True,
                    tooltip="Seconds of the voice to use, from its start on.",
                ),
                io.Combo.Input(
                    "language",
                    options=LANGUAGES,
                    default="automatic",
                    optional=True,
                    tooltip="What the transcript is spelled in: English, Mandarin in pinyin (ni3 hao3 or nǐ hǎo), whichever it "
                    "looks like, or the model's own symbols as written.",
                ),
                io.Boolean.Input(
                    "one_caption",
                    default=False,
                    optional=True,
                    tooltip="Where sound is empty, tell it the caption of the picture too: one caption for both.",
                ),
                io.Boolean.Input(
                    "apart",
                    default=False,
                    optional=True,
                    advanced=True,
                    tooltip="For Ovi, which is told one prompt with everything in it: tell picture and sound each their own "
                    "text instead, as its negative texts are. Other models are always told so.",
                ),
            ],
            outputs=[
                io.Conditioning.Output(tooltip="For a sampler's positive or negative input."),
                io.String.Output(
                    "symbols", display_name="symbols", tooltip="What the transcript became, as the model reads it."
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        clip: Any,
        picture: str,
        sound: str,
        transcript: str,
        voice: Any = None,
        audio_vae: Any = None,
        voice_start: float = 0.0,
        voice_seconds: float = 3.0,
        language: str = "automatic",
        one_caption: bool = False,
        apart: bool = False,
    ) -> io.NodeOutput:
        """Encode."""
        from .bridge.encode import encode, reference_of, speech
        from .bridge.ovi import encode_prompt, has_one_prompt

        if has_one_prompt(model):
            texts: dict[str, str] = {"picture": picture, "sound": sound, "transcript": transcript}
            told, spoken = encode_prompt(model, clip, **texts, voice=voice, apart=apart)
            return io.NodeOutput(told, spoken.symbols, ui=ui.PreviewText(spoken.report))
        spoken = speech(model, transcript, language)
        reference = reference_of(audio_vae, voice, voice_start, voice_seconds)
        told = encode(model, clip, picture=picture, sound=sound, one_caption=one_caption, spoken=spoken, reference=reference)
        return io.NodeOutput(told, spoken.symbols, ui=ui.PreviewText(spoken.report))

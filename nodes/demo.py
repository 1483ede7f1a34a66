"""What there is to try the workflows with, before one has media of one's own."""

from __future__ import annotations

from comfy_api.latest import io

from .border import HarmonyNode


class HarmonyDemoMedia(HarmonyNode):
    """The media that come with the pack."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What ComfyUI shows."""
        return io.Schema(
            node_id="HarmonyDemoMedia",
            display_name="Harmony Demo Media",
            category="Harmony",
            description="Small pictures and sounds that come with the pack, so that its workflows run at once. Connect Load "
            "Image, Load Video or Load Audio in its place for your own. harmony-tiny has seen none of them in training.",
            inputs=[],
            outputs=[
                io.Image.Output(
                    "bouncing",
                    display_name="bouncing ball",
                    tooltip="A video of 49 pictures, 64 by 64 pixels, 24 a second; it has no sound.",
                ),
                io.Image.Output("face", display_name="face", tooltip="One picture of a face, 64 by 64 pixels."),
                io.Audio.Output("speech", display_name="speech", tooltip="Somebody speaks for 2.04 seconds."),
                io.Audio.Output("voice", display_name="voice", tooltip="Somebody else speaks for 1.54 seconds."),
            ],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        """Read them."""
        from .bridge.demo import demo_media

        return io.NodeOutput(*demo_media())

"""Nodes of Harmony: the only part of the project that knows ComfyUI.

What a node looks like is in the files beside this one, a schema and a few lines each; how it is done with ComfyUI's internals
is in ``bridge``, which is imported when a node runs, so that starting ComfyUI imports no model code.
"""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from .conditioning import HarmonyEncode
from .decoding import HarmonyDecode
from .demo import HarmonyDemoMedia
from .latents import (
    HarmonyDriveWithAudio,
    HarmonyDriveWithVideo,
    HarmonyEmptyLatent,
    HarmonyFirstFrame,
    HarmonyKeepSpan,
    HarmonyLoadLatent,
    HarmonySaveLatent,
)
from .loaders import HarmonyLoadCheckpoint
from .lora import HarmonyLoadLora
from .measure import HarmonySoundSourceMap, HarmonySyncReport
from .sampling import HarmonyKSampler, HarmonySampler, HarmonySyncCFG, HarmonySyncGuider


class HarmonyExtension(ComfyExtension):
    """What the pack adds to ComfyUI."""

    async def on_load(self) -> None:
        """Add what the browser asks for; see :mod:`.bridge.routes`."""
        from .bridge.routes import register

        register()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """The nodes, in the order of a graph."""
        return [
            HarmonyLoadCheckpoint,
            HarmonyLoadLora,
            HarmonyDemoMedia,
            HarmonyEncode,
            HarmonyEmptyLatent,
            HarmonyFirstFrame,
            HarmonyDriveWithAudio,
            HarmonyDriveWithVideo,
            HarmonyKeepSpan,
            HarmonySyncCFG,
            HarmonySyncGuider,
            HarmonySampler,
            HarmonyKSampler,
            HarmonyDecode,
            HarmonySaveLatent,
            HarmonyLoadLatent,
            HarmonySyncReport,
            HarmonySoundSourceMap,
        ]

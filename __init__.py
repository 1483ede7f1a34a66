"""The node pack as ComfyUI loads it, by path; nothing is imported before ComfyUI asks for the nodes."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .nodes import HarmonyExtension

WEB_DIRECTORY = "./js"


async def comfy_entrypoint() -> HarmonyExtension:
    """The pack's nodes."""
    from .nodes import HarmonyExtension

    return HarmonyExtension()

"""What the browser asks the server while a graph is edited: the lengths a checkpoint allows, how it reads a transcript, and
about how much memory it takes; and what it tells: whether it wants to play what is decoded.

Nothing here loads weights: the answers are in a file's header.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict
from functools import partial
from typing import Any

from aiohttp import web
from server import PromptServer

from .paths import checkpoint_path
from .watchers import wanted

LONGEST = 10_000
"""Characters of a transcript that are looked at."""


def register() -> None:
    """Add the routes; ComfyUI calls this once, when it starts."""
    server = getattr(PromptServer, "instance", None)
    if server is None:  # ComfyUI's modules without its server, as in a script
        return
    routes = server.routes

    @routes.get("/harmony/checkpoint")
    async def checkpoint(request: web.Request) -> web.Response:
        return await _answer(about_checkpoint, request.query.get("name", ""))

    @routes.get("/harmony/memory")
    async def memory(request: web.Request) -> web.Response:
        try:
            numbers = {key: int(request.query[key]) for key in ("pictures", "width", "height", "batch")}
            fps = float(request.query["fps"])
        except (ValueError, KeyError):
            return web.json_response({"error": "pictures, width, height, batch and fps are asked for, as numbers"}, status=400)
        name, dtype = request.query.get("name", ""), request.query.get("weight_dtype", "default")
        return await _answer(partial(about_checkpoint_memory, name, dtype, fps=fps, **numbers))

    @routes.post("/harmony/player")
    async def wants_player(request: web.Request) -> web.Response:
        try:
            asked = await request.json()
            wanted(str(asked["client"])[:LONGEST], on=bool(asked["on"]))
        except (ValueError, KeyError, TypeError):
            return web.json_response({"error": "client and on are asked for, as JSON"}, status=400)
        return web.json_response({})

    @routes.post("/harmony/transcript")
    async def transcript(request: web.Request) -> web.Response:
        try:
            asked = await request.json()
            name, text, language = (str(asked[key]) for key in ("checkpoint", "transcript", "language"))
        except (ValueError, KeyError, TypeError):
            return web.json_response({"error": "checkpoint, transcript and language are asked for, as JSON"}, status=400)
        return await _answer(about_transcript, name, text[:LONGEST], language)


def about_checkpoint(name: str) -> dict[str, Any]:
    """The grid of a checkpoint's clips, and how many symbols a transcript may have; 0 where it takes none.

    Raises:
        ValueError: there is no such checkpoint, or the file is none.
    """
    from ...harmony_core.geometry import Grid

    config = _config(name)
    if config is None:
        return {"grid": asdict(Grid()), "size_multiple": Grid().size_multiple, "symbols": 0}
    speech = config.speech.length if config.speech is not None else 0
    return {"grid": asdict(config.grid), "size_multiple": config.grid.size_multiple, "symbols": speech}


def about_transcript(name: str, text: str, language: str) -> dict[str, Any] | None:
    """How a checkpoint reads a transcript, and about how long it takes to say; None for Ovi, whose prompt it stands in.

    Raises:
        ValueError: as Harmony Encode would.
    """
    from ...harmony_core.encoders.spelling import speaking_seconds, spell
    from ...harmony_core.encoders.symbols import FILLER, to_symbols

    whole = _config(name)
    if whole is None:
        return None
    config = whole.speech
    if config is None:
        raise ValueError("this checkpoint takes no transcript; leave it empty")
    if not text.strip():
        return {"symbols": "", "count": 0, "length": config.length, "seconds": 0.0}
    spelled = spell(text, language, config)
    count = int((to_symbols([spelled], config) != FILLER).sum())
    return {"symbols": spelled, "count": count, "length": config.length, "seconds": speaking_seconds(spelled)}


def about_checkpoint_memory(name: str, weight_dtype: str, **clip: Any) -> dict[str, Any]:
    """Of a checkpoint by its name; see :func:`.estimate.about_memory`."""
    from .estimate import about_memory

    return about_memory(checkpoint_path(name), weight_dtype, **clip)


def _config(name: str) -> Any:
    """Of a checkpoint by its name; None for Ovi, whole or a half."""
    from safetensors import safe_open

    from ...harmony_core.config import HarmonyConfig
    from ...harmony_core.weights.files import read_header
    from ...harmony_core.weights.ovi import holds_ovi
    from .saved import KEY

    path = checkpoint_path(name)
    if holds_ovi(path):
        return None
    keys, metadata = read_header(path)
    if KEY in keys:
        with safe_open(str(path), framework="pt") as file:
            metadata = json.loads(bytes(file.get_tensor(KEY).tolist()))
    return HarmonyConfig.from_metadata(metadata)


async def _answer(ask: Any, *given: str) -> web.Response:
    """As JSON; what is refused is one sentence, and no error: it is what the user is to read."""
    try:
        return web.json_response(await asyncio.to_thread(ask, *given))
    except ValueError as error:
        return web.json_response({"error": str(error)})

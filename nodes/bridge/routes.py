"""What the browser asks the server while a graph is edited: the lengths a checkpoint allows, how it reads a transcript, and
about how much memory it takes; and what it tells: whether it wants to play what is decoded.

Nothing here loads weights: the answers are in a file's header. Anybody who reaches the server may ask: a question that is none
is answered 400, what is refused about a good one is a sentence to show, and both are JSON with an ``error``.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from typing import Any

from aiohttp import web
from server import PromptServer

from .paths import checkpoint_path
from .watchers import wanted

LONGEST = 10_000
"""Characters of a transcript that are looked at."""
LONGEST_BODY = 16 * LONGEST
"""Bytes of a question: a character may take 12 in JSON."""
NUMBERS = {"pictures": int, "width": int, "height": int, "batch": int, "fps": float}


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
            clip = {key: number(request.query[key]) for key, number in NUMBERS.items()}
        except (ValueError, KeyError):
            return _no_question("pictures, width, height, batch and fps are asked for, as numbers")
        name, dtype = request.query.get("name", ""), request.query.get("weight_dtype", "default")
        return await _answer(partial(about_checkpoint_memory, name, dtype, **clip))

    @routes.post("/harmony/player")
    async def wants_player(request: web.Request) -> web.Response:
        asked = await _asked(request, client=str, on=bool)
        if asked is None:
            return _no_question("client and on are asked for, as JSON")
        wanted(asked["client"][:LONGEST], on=asked["on"])
        return web.json_response({})

    @routes.post("/harmony/transcript")
    async def transcript(request: web.Request) -> web.Response:
        asked = await _asked(request, checkpoint=str, transcript=str, language=str)
        if asked is None:
            return _no_question("checkpoint, transcript and language are asked for, as JSON")
        return await _answer(about_transcript, asked["checkpoint"], asked["transcript"][:LONGEST], asked["language"])


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


async def _asked(request: web.Request, **kinds: type) -> Mapping[str, Any] | None:
    """A question in JSON that has values of these kinds; None where it is none."""
    # Read here, not by the request: it decodes with whatever charset the headers name, and as much as the server takes.
    body = b""
    try:
        while len(body) <= LONGEST_BODY and not request.content.at_eof():
            body += await request.content.read(LONGEST_BODY + 1 - len(body))
        asked = json.loads(body) if len(body) <= LONGEST_BODY else None
    except (ValueError, RecursionError, web.RequestPayloadError):  # the last where it is not compressed as it says
        return None
    known = isinstance(asked, dict) and all(isinstance(asked.get(key), kind) for key, kind in kinds.items())
    return asked if known else None


def _no_question(text: str) -> web.Response:
    return web.json_response({"error": text}, status=400)


async def _answer(ask: Any, *given: str) -> web.Response:
    """As JSON; what is refused is one sentence, and no error: it is what the user is to read."""
    try:
        return web.json_response(await asyncio.to_thread(ask, *given))
    except ValueError as error:
        return web.json_response({"error": str(error)})

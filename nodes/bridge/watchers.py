"""Which browsers want to play what Harmony Decode decodes; each says so itself, and a script that queues a graph does not.

Imported when ComfyUI starts, so it imports nothing that is not there already.
"""

from __future__ import annotations

MOST = 256
"""Browsers that are remembered; the one that spoke first is forgotten first."""

_wanting: dict[str, None] = {}


def wanted(client: str, *, on: bool) -> None:
    """Remember what a browser wants from now on."""
    _wanting.pop(client, None)
    if on:
        _wanting[client] = None
    while len(_wanting) > MOST:
        del _wanting[next(iter(_wanting))]


def wants(client: str | None) -> bool:
    """Whether the browser that queued the running graph, if one did, wants to play it."""
    return client in _wanting

"""What a running ComfyUI tells one client over its websocket: which node runs, what was cached, previews."""

import base64
import json
import os
import socket
import uuid
from collections.abc import Iterator
from typing import Any

TEXT, BINARY, CLOSE = 1, 2, 8
PREVIEW = "preview"


class Events:
    """A websocket client, as much of one as ComfyUI's server needs; use it in a ``with``.

    Attributes:
        name: to be given to :meth:`Server.queue`, so that events of that graph come here.
    """

    def __init__(self, port: int, *, seconds: float = 300) -> None:
        """Connect.

        Args:
            port: of the server on this machine.
            seconds: how long to wait for an event.
        """
        self.name = uuid.uuid4().hex
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=seconds)
        self._stream = self._socket.makefile("rb")
        key = base64.b64encode(os.urandom(16)).decode()
        lines = (
            f"GET /ws?clientId={self.name} HTTP/1.1",
            f"Host: 127.0.0.1:{port}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Key: {key}",
            "Sec-WebSocket-Version: 13",
        )
        self._socket.sendall("\r\n".join((*lines, "", "")).encode())
        status = self._stream.readline()
        assert b" 101 " in status, status
        while self._stream.readline().strip():
            pass

    def __enter__(self) -> "Events":
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()
        self._socket.close()

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        """Pairs of a message's type and its data; a preview's data are its bytes."""
        while True:
            head = self._stream.read(2)
            kind, length = head[0] & 15, head[1] & 127
            if length > 125:
                length = int.from_bytes(self._stream.read(2 if length == 126 else 8), "big")
            data = self._stream.read(length)
            if kind == TEXT:
                message = json.loads(data)
                yield message["type"], message["data"]
            elif kind == BINARY:
                yield PREVIEW, data
            assert kind != CLOSE, "ComfyUI closed the connection"

    def until_under_way(self, node: str) -> None:
        """Wait until a node has done some of its work."""
        for kind, data in self:
            if kind == "progress" and data["node"] == node and 0 < data["value"] < data["max"]:
                return
            assert kind != "execution_success", f"{node} was not seen at work"

    def executed(self, number: str) -> list[str]:
        """The nodes of a queued graph that are run, in their order, from now to its end; cached ones are not among them."""
        nodes = []
        for kind, data in self:
            if kind == "executing" and data.get("prompt_id") == number:
                if data["node"] is None:
                    return nodes
                nodes.append(data["node"])
        raise AssertionError

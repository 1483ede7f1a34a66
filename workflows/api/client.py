"""Queues a workflow on a running ComfyUI, waits for it and fetches the videos it saves; needs nothing but Python.

python client.py text-to-audio-video.json --server http://127.0.0.1:8188 --transcript "hello mama" --seed 3
"""

from __future__ import annotations

import argparse
import json
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

Graph = dict[str, Any]


def ask(url: str, body: Graph | None = None) -> bytes:
    """What ComfyUI answers; a body is posted to it."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})  # noqa: S310 - the user's own server
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
            return answer.read()
    except urllib.error.HTTPError as error:
        raise SystemExit(f"ComfyUI refuses: {error.read().decode(errors='replace')}") from error
    except urllib.error.URLError as error:
        raise SystemExit(f"there is no ComfyUI at {url}: {error.reason}") from error


def change(graph: Graph, **values: Any) -> None:
    """Set inputs wherever a node has them as a value; a link stays a link."""
    for node in graph.values():
        for name, value in values.items():
            if value is not None and name in node["inputs"] and not isinstance(node["inputs"][name], list):
                node["inputs"][name] = value


def run(server: str, graph: Graph) -> Graph:
    """Queue a graph and wait for its end.

    Returns:
        What its nodes put out, by their numbers.
    """
    number = json.loads(ask(f"{server}/prompt", {"prompt": graph}))["prompt_id"]
    while True:
        done = json.loads(ask(f"{server}/history/{number}")).get(number)
        if done and done["status"]["status_str"] == "error":
            failed = dict(done["status"]["messages"]).get("execution_error", {})
            raise SystemExit(f"{failed.get('node_type', 'ComfyUI')}: {failed.get('exception_message', 'interrupted').strip()}")
        if done and done["status"]["completed"]:
            return done["outputs"]
        time.sleep(0.5)


def fetch(server: str, outputs: Graph, folder: Path) -> list[Path]:
    """Download the videos that were saved."""
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for output in outputs.values():
        for file in output.get("images", []):
            if file["type"] == "output" and file["filename"].endswith(".mp4"):
                target = folder / file["filename"]
                target.write_bytes(ask(f"{server}/view?{urllib.parse.urlencode(file)}"))
                found.append(target)
    return found


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workflow", type=Path, help="a file of this folder")
    parser.add_argument("--server", default="http://127.0.0.1:8188", help="address of ComfyUI (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path(), metavar="DIR", help="folder for the videos (default: here)")
    parser.add_argument("--transcript", help="what is said")
    parser.add_argument("--picture", help="what is seen")
    parser.add_argument("--sound", help="what is heard")
    parser.add_argument("--checkpoint", help="another model")
    parser.add_argument("--seed", type=int, help="another number, another clip")
    args = parser.parse_args()
    graph = json.loads(args.workflow.read_text(encoding="utf-8"))
    changed = {name: getattr(args, name) for name in ("transcript", "picture", "sound", "checkpoint", "seed")}
    change(graph, **changed)
    for file in fetch(args.server, run(args.server, graph), args.out):
        print(file)  # noqa: T201


if __name__ == "__main__":
    main()

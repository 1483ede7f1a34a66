"""A real ComfyUI with the pack in it, on a free loopback port, driven by its HTTP API."""

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterable
from pathlib import Path

import pytest
from comfyui import ROOT, check_imports, find_comfy, find_python
from safetensors.torch import load_file

START_SECONDS = 600
PROMPT_SECONDS = 300
PACK = "harmony_pack"


class Failed(Exception):  # noqa: N818 - what ComfyUI answered
    """A prompt was refused or a node failed; the text is what the user reads."""


def install(folder: Path, files: Iterable[str] | None = None) -> None:
    """Put the pack into a folder: these files of it, or all of it by a link."""
    if files is None:
        folder.symlink_to(ROOT, target_is_directory=True)
        return
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, folder / name)


class Server:
    """The process, and what can be asked of it."""

    def __init__(self, base: Path, *options: str, copied: Iterable[str] | None = None) -> None:
        """Start it.

        Args:
            base: an empty folder for its models, inputs, outputs and custom nodes.
            options: more of its command line.
            copied: files of the pack, to be copied into custom_nodes; by default the whole folder is linked there.
        """
        self._root = find_comfy()
        check_imports(self._root, find_python(self._root))
        self.base = base
        for name in ("models/checkpoints", "input", "output", "temp", "user", "custom_nodes", "frontend"):
            (base / name).mkdir(parents=True)
        (base / "frontend" / "index.html").write_text("")
        install(base / "custom_nodes" / PACK, copied)
        shutil.copy(Path(__file__).with_name("comfy_probe.py"), base / "custom_nodes" / "comfy_probe.py")
        self._starts = 0
        self._start(*options)

    def _start(self, *options: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._starts += 1
        self.log = self.base / f"log-{self._starts}.txt"
        command = [
            find_python(self._root),
            "main.py",
            "--cpu",
            "--disable-auto-launch",
            "--disable-api-nodes",
            "--port",
            str(self.port),
        ]
        command += ["--base-directory", str(self.base), "--front-end-root", str(self.base / "frontend")]
        command += ["--database-url", "sqlite:///:memory:", *options]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        environment.pop("PYTHONPATH", None)
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(command, cwd=self._root, stdout=log, stderr=log, env=environment)

    def restart(self, *options: str) -> None:
        """End the process, start another on the same folder, and wait for it."""
        self.stop()
        self._start(*options)
        self.wait()

    def wait(self) -> None:
        """Until it answers; one that can be imported but does not start with the pack in it is a failure."""
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end:
            if self._process.poll() is not None:
                pytest.fail(f"ComfyUI ended instead of starting: {self.text()[-2000:]}")
            try:
                self.get("/system_stats")
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.5)
            else:
                return
        pytest.fail(f"ComfyUI did not answer in {START_SECONDS} s: {self.text()[-2000:]}")

    def stop(self) -> None:
        """End the process."""
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def text(self) -> str:
        """Its log so far."""
        return self.log.read_text(errors="replace")

    def get(self, path: str) -> dict:
        """Ask it."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=60) as answer:
            return json.load(answer)

    def post(self, path: str, body: dict) -> bytes:
        """Tell it.

        Raises:
            Failed: it refuses.
        """
        url, headers = f"http://127.0.0.1:{self.port}{path}", {"Content-Type": "application/json"}
        try:
            with urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode(), headers), timeout=60) as answer:
                return answer.read()
        except urllib.error.HTTPError as error:
            with error:
                raise Failed(error.read().decode()) from error

    def queue(self, graph: dict, client: str = "") -> str:
        """Queue a graph in API format; its number. What happens is told to the websocket client of that name."""
        return json.loads(self.post("/prompt", {"prompt": graph, "client_id": client}))["prompt_id"]

    def run(self, graph: dict) -> dict:
        """Run a graph to its end; see :meth:`finish`."""
        return self.finish(self.queue(graph))

    def finish(self, number: str) -> dict:
        """Wait for a queued graph.

        Returns:
            Its outputs.

        Raises:
            Failed: a node fails, or it is interrupted.
        """
        end = time.monotonic() + PROMPT_SECONDS
        while time.monotonic() < end:
            done = self.get(f"/history/{number}").get(number)
            if done and done["status"]["status_str"] == "error":
                messages = dict(done["status"]["messages"])
                details = messages.get("execution_error", {"node_type": "user", "exception_message": "interrupted"})
                raise Failed(f"{details['node_type']}: {details['exception_message'].strip()}")
            if done and done["status"]["completed"]:
                return done["outputs"]
            time.sleep(0.05)
        raise Failed(f"no answer in {PROMPT_SECONDS} s")

    def states(self, number: str) -> list[str]:
        """Whether a queued graph is running or waiting; empty when it is neither."""
        queue = self.get("/queue")
        return [key.removeprefix("queue_") for key, rows in queue.items() if any(number in row for row in rows)]

    def messages(self, number: str) -> dict:
        """What ComfyUI recorded of a finished graph: an event's data, with its time in milliseconds, by its type."""
        return dict(self.get(f"/history/{number}")[number]["status"]["messages"])

    def kept(self, name: str) -> dict:
        """The tensors a ProbeKeep wrote."""
        return load_file(self.base / "output" / name)

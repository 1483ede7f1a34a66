"""Writes the files of ``workflows/`` by what a running ComfyUI says of its nodes, and their pictures by running them.

python tests/helpers/make_workflows.py --server http://127.0.0.1:8188 --pictures
"""

import argparse
import io
import json
import sys
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image, ImageDraw
from workflow_files import FOLDER, files, paths, text
from workflow_graphs import WORKFLOWS

SIDE = 512
"""Of a picture, pixels."""
SHOWN = 3
"""Pictures of a clip beside each other, and as many rows."""
WAVE = 96
"""Height of the waveform, pixels."""


def ask(server: str, path: str, body: dict[str, Any] | None = None) -> bytes:
    """What ComfyUI answers."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(server + path, data, {"Content-Type": "application/json"})  # noqa: S310
    with urllib.request.urlopen(request, timeout=120) as answer:  # noqa: S310 - the developer's own server
        return answer.read()


def clip(server: str, graph: dict[str, Any]) -> bytes:
    """The last video that a graph saves."""
    number = json.loads(ask(server, "/prompt", {"prompt": graph}))["prompt_id"]
    while not (done := json.loads(ask(server, f"/history/{number}")).get(number)):
        time.sleep(1)
    if not done["status"]["completed"]:
        raise SystemExit(f"failed: {done['status']['messages'][-1]}")
    saved = [done["outputs"][name] for name, one in graph.items() if one["class_type"] == "SaveVideo"]
    return ask(server, f"/view?{urllib.parse.urlencode(saved[-1]['images'][0])}")


def picture(video: bytes) -> Image.Image:
    """Nine pictures of a clip over its waveform."""
    with av.open(io.BytesIO(video)) as container:
        shown = [frame.to_image() for frame in container.decode(video=0)]
    with av.open(io.BytesIO(video)) as container:
        wave = np.concatenate([frame.to_ndarray() for frame in container.decode(audio=0)], axis=1)[0]
    made = Image.new("RGB", (SIDE, SIDE), (24, 24, 28))
    width, height = SIDE // SHOWN, (SIDE - WAVE) // SHOWN
    side = min(width, height)
    for number, index in enumerate(np.linspace(0, len(shown) - 1, SHOWN**2).round().astype(int)):
        tile = shown[index].resize((side, side), Image.Resampling.LANCZOS)
        at = (number % SHOWN * width + (width - side) // 2, number // SHOWN * height + (height - side) // 2)
        made.paste(tile, at)
    draw = ImageDraw.Draw(made)
    for x, part in enumerate(np.array_split(wave, SIDE)):
        reach = WAVE / 2 * min(1.0, float(np.abs(part).max()) / max(1e-3, float(np.abs(wave).max())))
        draw.line([(x, SIDE - WAVE / 2 - reach), (x, SIDE - WAVE / 2 + reach)], fill=(120, 180, 255))
    return made


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", default="http://127.0.0.1:8188", help="address of ComfyUI (default: %(default)s)")
    parser.add_argument("--pictures", action="store_true", help="run each workflow and write its picture, too")
    args = parser.parse_args()
    kinds = json.loads(ask(args.server, "/object_info"))
    expected = {path for workflow in WORKFLOWS for path in paths(workflow)}
    expected |= {script.with_suffix(".jpg") for _, script in map(paths, WORKFLOWS)}
    (FOLDER / "api").mkdir(parents=True, exist_ok=True)
    for path in (*FOLDER.glob("*.j*"), *FOLDER.glob("api/*.json")):
        if path not in expected:
            path.unlink()
    for workflow in WORKFLOWS:
        made = files(workflow, kinds)
        for path, values in zip(paths(workflow), (made.api, made.ui), strict=True):
            path.write_text(text(values), encoding="utf-8")
        if args.pictures:
            target = paths(workflow)[1].with_suffix(".jpg")
            picture(clip(args.server, made.api)).save(target, quality=88, optimize=True)
        print(workflow.name, flush=True)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    main()

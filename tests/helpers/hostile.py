"""Hostile files and numbers from a seed, and how the software takes them: done, or refused in one sentence.

    python tests/helpers/hostile.py KIND,KIND FIRST COUNT

tries the cases FIRST to FIRST + COUNT - 1 of each kind, with a limit on memory and on time, and prints one line of JSON: by
kind, how many were accepted and refused, and every case that ended in another way.
"""

import contextlib
import dataclasses
import io
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).parent))
from small import small_model

from harmony_core.__main__ import main
from harmony_core.geometry import ClipSpec, Grid
from harmony_core.records import to_record
from harmony_core.training.checkpoint import Checkpoints
from harmony_core.training.config import read_config
from harmony_core.training.data import (
    Clip,
    PackedClips,
    open_source,
    pack,
)
from harmony_core.training.distributed import World
from harmony_core.training.loop import read_log
from harmony_core.training.plots import plot_log
from harmony_core.training.record import check_same
from harmony_core.training.store import INDEX, Entry
from harmony_core.types import AV
from harmony_core.weights.checkpoint import load_checkpoint, save_checkpoint
from harmony_core.weights.latents import load_latents, save_latents

MEMORY, SECONDS = 1 << 30, 20
"""Of a case: bytes beyond the libraries, and time."""
LONGEST = 400
"""Characters of a refusal."""
NOTHINGS: list[Any] = [
    None, True, -1, 0, 1, 3, 2**31, 2**62, 2**63, 10**30, 10**5000, 0.5, -0.0, 1e308, float("inf"), float("nan"), "", "x",
    "x" * 5000,
    "\ud800", "a\0b", "../x", "/dev/zero", "n" * 300, [], {}, [[]], [0] * 1000, {"a": 1}, {str(n): n for n in range(1000)},
]  # fmt: skip
ROOT = Path(__file__).parents[2]


class TooLongError(BaseException):
    """A case took more than its time; no handler of errors takes this for one."""


def deep(rng: random.Random) -> Any:
    nest: Any = rng.choice([[], {}, 0])
    for _ in range(rng.choice([5, 50, 500])):
        nest = [nest] if rng.random() < 0.5 else {"a": nest}
    return nest


def changed(rng: random.Random, value: Any) -> Any:
    """A value with a part exchanged, left out, renamed or doubled."""
    if isinstance(value, dict) and value and rng.random() < 0.85:
        value, key = dict(value), rng.choice(list(value))
        how = rng.random()
        if how < 0.1:
            del value[key]
        elif how < 0.2:
            value[rng.choice(["", "x", "\ud800", "k" * 5000, "__metadata__", "a\nb"])] = value.pop(key)
        else:
            value[key] = changed(rng, value[key])
        return value
    if isinstance(value, list) and value and rng.random() < 0.7:
        value, at = list(value), rng.randrange(len(value))
        how = rng.random()
        if how < 0.15:
            del value[at]
        elif how < 0.3:
            value.insert(at, value[at])
        else:
            value[at] = changed(rng, value[at])
        return value
    return deep(rng) if rng.random() < 0.08 else rng.choice(NOTHINGS)


def several(rng: random.Random, value: Any) -> Any:
    for _ in range(rng.choice([1, 1, 1, 2, 5])):
        value = changed(rng, value)
    return value


def damaged(rng: random.Random, data: bytes) -> bytes:
    """Bytes cut, exchanged, doubled, filled."""
    data = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 8])):
        at = rng.randrange(len(data)) if data else 0
        length = rng.choice([1, 1, 2, 4, 8, 64])
        how = rng.random()
        if how < 0.1:
            del data[at:]
        elif how < 0.25:
            del data[at : at + length]
        elif how < 0.4:
            data[at:at] = data[at : at + length]
        elif how < 0.6:
            data[at : at + length] = rng.choice([b"\0", b"\xff", b"\x7f"]) * length
        else:
            data[at : at + length] = rng.randbytes(length)
    return bytes(data)


def dumped(value: Any) -> bytes:
    sys.set_int_max_str_digits(0)
    try:
        return json.dumps(value).encode()
    finally:
        sys.set_int_max_str_digits(4300)


def command(*words: object) -> None:
    """A command of the line; its refusal as an error."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        try:
            status = main([str(word) for word in words])
        except SystemExit as error:
            status = int(error.code or 0)
    if status:
        raise ValueError(said.getvalue().strip().splitlines()[-1])


# ---- kinds: each makes files in a folder and reads them


def header_of(path: Path) -> tuple[dict[str, Any], bytes]:
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def with_header(path: Path, header: Any, data: bytes) -> None:
    text = dumped(header)
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def read_weights(path: Path, rng: random.Random) -> None:
    """One of the ways in which a weights file is read."""
    how = rng.randrange(4)
    if how == 0:
        command("inspect", path)
    elif how == 1:
        command("convert", path, path.parent / "converted.safetensors", "--to", rng.choice(["bf16", "fp16", "fp32", "fp8"]))
    elif how == 2:
        load_checkpoint(path).model()
    else:
        command("plan", "--checkpoint", path, "--tflops", 1)


def safetensors(folder: Path, rng: random.Random) -> None:
    path = folder / "w.safetensors"
    shutil.copy(small_checkpoint(), path)
    header, data = header_of(path)
    how = rng.random()
    if how < 0.35:
        with_header(path, several(rng, header), data)
    elif how < 0.75:
        meta = header["__metadata__"]
        key = rng.choice(list(meta))
        try:
            record = json.loads(meta[key])
        except ValueError:
            record = meta[key]
        meta[key] = dumped(several(rng, record)).decode()
        with_header(path, header, data)
    else:
        path.write_bytes(damaged(rng, path.read_bytes()))
    read_weights(path, rng)


def pickles(folder: Path, rng: random.Random) -> None:
    path = folder / "w.pt"
    tied = torch.zeros(64)
    content = {"a.weight": torch.zeros(8, 8), "b": tied, "c": tied.view(8, 8).t(), "d": torch.zeros(3, dtype=torch.bfloat16)}
    torch.save({"state_dict": content, "epoch": 3}, path, _use_new_zipfile_serialization=rng.random() < 0.7)
    if rng.random() < 0.7 and zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            entries = [(name, archive.read(name)) for name in archive.namelist()]
        with warnings.catch_warnings(), zipfile.ZipFile(path, "w") as archive:
            warnings.simplefilter("ignore")  # of names that are twice there
            for name, data in entries:
                kind = zipfile.ZIP_DEFLATED if rng.random() < 0.03 else zipfile.ZIP_STORED
                for _ in range(2 if rng.random() < 0.02 else 1):
                    text = damaged(rng, data) if name.endswith("data.pkl") else data
                    archive.writestr(name, text, compress_type=kind)
    else:
        path.write_bytes(damaged(rng, path.read_bytes()))
    read_weights(path, rng)


def indexes(folder: Path, rng: random.Random) -> None:
    save_file({"a": torch.zeros(2)}, str(folder / "s-1.safetensors"))
    save_file({"b": torch.zeros(2)}, str(folder / "s-2.safetensors"))
    record = {"metadata": {"total_size": 16}, "weight_map": {"a": "s-1.safetensors", "b": "s-2.safetensors"}}
    path = folder / "s.safetensors.index.json"
    text = dumped(several(rng, record))
    path.write_bytes(damaged(rng, text) if rng.random() < 0.3 else text)
    read_weights(path, rng)


def yamls(folder: Path, rng: random.Random) -> None:
    text = rng.choice(sorted((ROOT / "configs").glob("*.yaml"))).read_text(encoding="utf-8")
    path = folder / "run.yaml"
    if rng.random() < 0.5:
        path.write_bytes(dumped(several(rng, yaml.safe_load(text))))  # JSON is YAML
    else:
        lines = text.splitlines()
        for _ in range(rng.choice([1, 2, 5])):
            at = rng.randrange(len(lines))
            key = lines[at].partition(":")[0]
            word = rng.choice(
                ["!!int ''", "!!bool x", "!!timestamp x", "&a [*a]", "*a", "{[a]: b}", "!!set {a}", "? a", "<<: *b"]
            )
            lines[at] = rng.choice([f"{key}: {word}", word, lines[at] * 3, "\t" + lines[at], f"{key}: {'[' * 900}"])
        path.write_text("\n".join(lines), encoding="utf-8")
    config = read_config(path)
    config.data.spec(getattr(config, "model", None))


def manifests(folder: Path, rng: random.Random) -> None:
    record = {
        "file": "a.mp4",
        "video_caption": "a",
        "audio_caption": "b",
        "transcript": "c",
        "reference": "a.mp4",
        "speaker": "s",
    }
    (folder / "a.mp4").write_bytes(rng.randbytes(100))
    lines = [dumped(several(rng, record) if rng.random() < 0.7 else record) for _ in range(3)]
    text = b"\n".join(lines)
    (folder / "manifest.jsonl").write_bytes(damaged(rng, text) if rng.random() < 0.3 else text)
    source = open_source(folder, ClipSpec(frames=9, height=32, width=32, grid=Grid(patch=1)))
    source.clip(0)


def packed(folder: Path, rng: random.Random) -> None:
    spec = ClipSpec(frames=5, height=16, width=16, grid=Grid(patch=1))
    clip = Clip(torch.zeros(3, 5, 16, 16), torch.zeros(spec.samples), torch.zeros(100))
    target = folder / "clips"
    pack([(Entry(file=name), clip) for name in "abc"], spec, target, total=3, shard_clips=2)
    how = rng.random()
    if how < 0.5:
        (target / INDEX).write_bytes(dumped(several(rng, json.loads((target / INDEX).read_text()))))
    elif how < 0.7:
        shard = rng.choice(sorted(target.glob("*.safetensors")))
        header, data = header_of(shard)
        with_header(shard, several(rng, header), data)
    else:
        file = rng.choice(sorted(target.iterdir()))
        file.write_bytes(damaged(rng, file.read_bytes()))
    clips = PackedClips(target)
    for index in range(len(clips)):
        clips.clip(index)


def runs(folder: Path, rng: random.Random) -> None:
    config = read_config(ROOT / "configs" / "tiny-model.yaml")
    checkpoints = Checkpoints(folder / "checkpoints", World(), keep=2)
    tensors = {"weights.a": torch.zeros(3), "average.a": torch.zeros(3)}
    checkpoints.save(4, tensors)
    lines = [{"step": n, "phase": "a", "loss": 1.0, "seconds": 0.1} for n in range(1, 5)] + [
        {"step": 4, "measured": {"x": 1.0}}
    ]
    files = {
        folder / "config.json": to_record(config),
        folder / "checkpoints/step-00000004/state.json": json.loads(
            (folder / "checkpoints/step-00000004/state.json").read_text()
        ),
    }
    for path, record in files.items():
        path.write_bytes(dumped(several(rng, record) if rng.random() < 0.4 else record))
    text = b"\n".join(dumped(several(rng, line) if rng.random() < 0.1 else line) for line in lines) + b"\n"
    (folder / "log.jsonl").write_bytes(text)
    shard = folder / "checkpoints/step-00000004/state.safetensors"
    if rng.random() < 0.3:
        header, data = header_of(shard)
        with_header(shard, several(rng, header), data)
    check_same(config, folder)
    read_log(folder / "log.jsonl")
    plot_log(folder / "log.jsonl", folder)
    checkpoints.load(checkpoints.found()[-1], tensors)


def latents(folder: Path, rng: random.Random) -> None:
    spec = ClipSpec(frames=5, height=16, width=16, grid=Grid(patch=1))
    path = folder / "l.safetensors"
    save_latents(path, AV(torch.zeros(spec.video_shape()), torch.zeros(spec.audio_shape())), spec)
    header, data = header_of(path)
    if rng.random() < 0.5:
        record = json.loads(header["__metadata__"]["harmony.latents"])
        header["__metadata__"]["harmony.latents"] = dumped(several(rng, record)).decode()
        with_header(path, header, data)
    else:
        with_header(path, several(rng, header), data)
    load_latents(path)
    command("inspect", path)


def values(folder: Path, rng: random.Random) -> None:
    clips = {"event_f1": [[1.0, 2.0], [0.0, 1.0]]}
    meta = {"first": 0, "clips": 2, "first_seed": 1_000_000, "seed": 0}
    record = {"meta": meta, "values": {"impact": {"truth": clips, "shuffled": clips}}}
    (folder / "a.json").write_bytes(dumped(several(rng, record)))
    command("evaluate", "--merge", folder / "a.json")


def numbers(folder: Path, rng: random.Random) -> None:
    names = ["seconds", "fps", "seed", "count", "steps", "shift", "gamma", "threads", "tile", "skip-layers", "size"]
    names += [
        "sync-video",
        "sync-audio",
        "text-video",
        "text-audio",
        "start",
        "sync-text",
        "sampler",
        "say",
        "sound",
        "negative",
    ]
    hostile = [
        "-1",
        "0",
        "1e999",
        "nan",
        "-inf",
        "1e308",
        "1e-300",
        "9" * 30,
        "9" * 5000,
        "1e6",
        "0x10",
        "",
        " ",
        "\ud800",
        "\u0661",
        "1_0",
    ]
    words = [word for name in rng.sample(names, rng.choice([1, 1, 2])) for word in (f"--{name}={rng.choice(hostile)}",)]
    # A checkpoint that is none: whatever is right with the numbers, no clip is made.
    command("generate", "--out", folder / "o.mp4", "--checkpoint", folder / "none.safetensors", *words)


KINDS: dict[str, Callable[[Path, random.Random], None]] = {
    "safetensors": safetensors,
    "pickles": pickles,
    "indexes": indexes,
    "yamls": yamls,
    "manifests": manifests,
    "packed": packed,
    "runs": runs,
    "latents": latents,
    "values": values,
    "numbers": numbers,
}


def small_checkpoint() -> Path:
    path = Path(tempfile.gettempdir()) / f"hostile-small-{os.getpid()}.safetensors"
    if not path.is_file():
        model = small_model()
        save_checkpoint(path, model.config, model.state_dict())
    return path


@dataclasses.dataclass
class Tally:
    """How cases ended; ``odd`` are those that ended neither in success nor in one sentence."""

    accepted: int = 0
    refused: int = 0
    odd: list[str] = dataclasses.field(default_factory=list)
    slowest: float = 0.0


def attempt(kind: str, seed: int, tally: Tally) -> None:
    rng = random.Random(f"{kind} {seed}")
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        signal.alarm(SECONDS)
        try:
            KINDS[kind](Path(folder), rng)
            tally.accepted += 1
        except ValueError as error:
            text = str(error)
            if len(text) > LONGEST or not text.isprintable() or isinstance(error, UnicodeError):
                tally.odd.append(f"{kind} {seed}: {type(error).__name__}, {len(text)} characters: {text[:200]!r}")
            else:
                tally.refused += 1
        except (Exception, TooLongError) as error:
            tally.odd.append(f"{kind} {seed}: {type(error).__name__}: {str(error)[:200]!r}")
        finally:
            signal.alarm(0)
    tally.slowest = max(tally.slowest, time.monotonic() - began)


def limited() -> None:
    """Limits of this process: memory beyond what it has now, files."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    resource.setrlimit(resource.RLIMIT_FSIZE, (64 << 20, 64 << 20))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    def late(*_: object) -> None:
        raise TooLongError(f"more than {SECONDS} s")

    signal.signal(signal.SIGALRM, late)


if __name__ == "__main__":
    which, first, count = sys.argv[1].split(","), int(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(1)
    made = small_checkpoint()
    for name in which:
        attempt(name, -1, Tally())  # what is imported on the way
    limited()
    tallies = {name: Tally() for name in which}
    for name, found in tallies.items():
        for number in range(first, first + count):
            attempt(name, number, found)
    made.unlink()
    print(json.dumps({name: dataclasses.asdict(found) for name, found in tallies.items()}))

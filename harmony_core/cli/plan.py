"""Say what a clip takes before it is made: memory by stage, what fits a GPU of 8 to 80 GB and how, and time for each step.

Everything comes from the checkpoint's header; no weights are read. CHECKPOINT may also be the name of a preset (5b, tiny, ...)
or of a built-in checkpoint. Time is computed from the speed of --device, which is measured, or from --tflops.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from .numbers import check_length, check_whole

if TYPE_CHECKING:
    import torch

    from ..plan.fit import Job, Stage, Way
    from ..plan.rate import Rate

SUMMARY = "say what a clip takes: memory, what fits a GPU, time"
TASKS = ("joint", "audio-driven", "video-driven")
_GIB, _TERA = 2**30, 1e12
_VOICE_SECONDS = 3.0
"""Of a reference voice, as long as ``generate`` uses."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The clip, the model, the machine."""
    parser.add_argument(
        "--checkpoint",
        default="harmony-tiny",
        metavar="CHECKPOINT",
        help="a file, the name of a built-in one, or of a preset such as 5b (default: %(default)s)",
    )
    parser.add_argument(
        "--seconds", type=float, metavar="S", help="length, to the nearest that fits (default: the checkpoint's)"
    )
    parser.add_argument("--size", metavar="WIDTHxHEIGHT", help="of the pictures (default: the checkpoint's)")
    parser.add_argument("--fps", type=float, help="pictures per second (default: the checkpoint's)")
    parser.add_argument("--steps", type=int, metavar="N", help="sampling steps (default: as generate)")
    parser.add_argument("--task", choices=TASKS, default="joint", help="which stream is given, if one is (default: joint)")
    parser.add_argument("--sync", action="store_true", help="with SyncCFG")
    parser.add_argument("--text", action="store_true", help="with guidance by the text")
    parser.add_argument("--voice", action="store_true", help="with a reference voice of 3 s")
    parser.add_argument("--device", default="cpu", help="torch device whose speed is measured (default: cpu)")
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        help="of the model's weights (default: the checkpoint's; bfloat16 for a preset)",
    )
    parser.add_argument("--tflops", type=float, metavar="N", help="10^12 operations a second, instead of measuring --device")
    parser.add_argument(
        "--training", metavar="CONFIG", help="what a training takes instead, on 1 to 8 GPUs: a model's YAML file in configs/"
    )
    parser.add_argument("--json", action="store_true", help="print everything as JSON, bytes and seconds")


def run(args: argparse.Namespace) -> None:
    """Plan and print.

    Raises:
        ValueError: an option is wrong, or the checkpoint is no model.
    """
    from ..plan.rate import Rate, measure_rate
    from ..runtime import usable_device

    if args.training is not None:
        found = _training(args.training)
        print(json.dumps(found, indent=2) if args.json else "\n".join(_training_lines(found)))
        return
    _check(args)
    given = None if args.tflops is None else Rate.given(args.tflops)
    device = usable_device(args.device)
    what, job, dtype, steps = _job(args)
    rate = given or measure_rate(device, _computed(device, dtype))
    plan = _plan(what, job, dtype, steps, rate)
    print(json.dumps(plan, indent=2, ensure_ascii=False) if args.json else "\n".join(_lines(plan)))


def _training(path: str) -> dict[str, Any]:
    """Memory of a training, in bytes."""
    from ..plan.training import PROCESSES, training_memory
    from ..training.config import ModelRun, read_config

    config = read_config(path)
    if not isinstance(config, ModelRun):
        raise ValueError(f"--training: {path} trains a codec, which takes little; give the config of a model")
    spec, longest = config.data.spec(config.model), max(stage.objective.reference_seconds[1] for stage in config.stages)
    prefix = round(longest * config.model.grid.audio_rate)
    counted = {n: training_memory(config.model, spec, n, prefix=prefix) for n in PROCESSES}
    return {
        "config": path,
        "clip": {"frames": spec.frames, "width": spec.width, "height": spec.height},
        "tokens": spec.video_tokens + spec.audio_latents + prefix,
        "gpus": {str(n): {**vars(memory), "together": memory.together} for n, memory in counted.items()},
    }


def _training_lines(found: dict[str, Any]) -> Iterator[str]:
    clip = found["clip"]
    yield f"training {found['config']}, one clip of {clip['frames']} frames of {clip['width']} x {clip['height']} a GPU"
    yield "GB on each GPU (10^9 bytes), with sharding: fsdp, bfloat16: true and gradient_checkpointing: true"
    yield f"{'GPUs':>6}{'its parts':>12}{'gathered':>12}{'activations':>14}{'together':>12}"
    for count, memory in found["gpus"].items():
        parts, gathered, activations, together = (memory[k] / 1e9 for k in ("parts", "gathered", "activations", "together"))
        yield f"{count:>6}{parts:>12.1f}{gathered:>12.1f}{activations:>14.1f}{together:>12.1f}"


def _check(args: argparse.Namespace) -> None:
    from ..flow import MOST_STEPS

    check_length(args.seconds, args.fps)
    check_whole("steps", args.steps, 1, MOST_STEPS)


def _computed(device: torch.device, dtype: str) -> torch.dtype:
    """What a model of this dtype is computed in: a CPU is slow in half precision, and generate does not use it there."""
    import torch

    found: torch.dtype = torch.float32 if device.type == "cpu" else getattr(torch, dtype)
    return found


def _job(args: argparse.Namespace) -> tuple[str, Job, str, int]:
    """The model in words, the clip to make with it, its dtype, and sampling steps."""
    from ..config import PRESETS
    from ..geometry import ClipSpec
    from ..guidance import sync_guidance, text_guidance
    from ..plan.fit import Job
    from ..plan.model import codecs_for, model_of
    from ..recipes import RECIPES, recipe_for
    from ..types import Modality
    from .sizes import parse_size

    found = model_of(args.checkpoint)
    config, usual = found.config, found.clip
    height, width = (usual.height, usual.width) if args.size is None else parse_size(args.size)
    spec = ClipSpec.nearest(
        args.seconds or usual.seconds, height=height, width=width, fps=args.fps or usual.fps, grid=config.grid
    )
    if args.voice and (config.one_prompt or not config.interaction.style):
        raise ValueError(f"{args.checkpoint} takes no reference voice: leave --voice out")
    recipe, scales = RECIPES[recipe_for(config)], RECIPES["harmony"].sync
    by_text = recipe.text if any(scale != 1 for scale in recipe.text) else RECIPES["ovi"].text
    texts = text_guidance(by_text, skip_layers=recipe.skip_layers)
    guidance = sync_guidance(scales) if args.sync else text_guidance(by_text.both(1.0))
    guidance = guidance + texts if args.text else guidance
    video, audio = codecs_for(config, found.codecs)
    drivers = dict(zip(TASKS, (None, Modality.AUDIO, Modality.VIDEO), strict=True))
    prefix = round(_VOICE_SECONDS * config.grid.audio_rate) if args.voice else config.interaction.style_tokens
    job = Job(
        config=config,
        spec=spec,
        video_codec=video,
        audio_codec=audio,
        guidance=guidance,
        driver=drivers[args.task],
        prefix=prefix,
    )
    is_preset = args.checkpoint in PRESETS
    name = f"{args.checkpoint}, a preset" if is_preset else f"{args.checkpoint}, {found.what}"
    return name, job, args.dtype or found.dtype, args.steps or recipe.steps


def _plan(what: str, job: Job, dtype: str, steps: int, rate: Rate) -> dict[str, Any]:
    """Everything, in bytes and seconds."""
    from ..plan.fit import AHEAD, CARDS, RESERVE, Way
    from ..plan.memory import context_values
    from ..plan.operations import operations_of, tokens_of

    spec, run, way = job.spec, job.run, Way(dtype=dtype)
    work = operations_of(job.config, spec, run.step, prefix=job.prefix)
    least = Way(dtype=dtype, offload=True, tiled=True, cache="host")
    dtypes = dict.fromkeys((dtype, "fp8"))
    return {
        "model": what,
        "dtype": dtype,
        "clip": {
            "frames": spec.frames,
            "width": spec.width,
            "height": spec.height,
            "fps": spec.fps,
            "seconds": spec.seconds,
        },
        "tokens": vars(tokens_of(spec)),
        "task": _task(job),
        "branches_per_step": vars(run.branches),
        "weights": {
            "parts": {
                **{name: {"values": size.values, "bytes": way.weights(size)} for name, size in job.size.parts.items()},
                **{
                    f"{name} codec": {"values": size.values, "bytes": size.bytes(4)}
                    for name, size in zip(("video", "audio"), job.codec_sizes, strict=True)
                },
            },
            "layers": job.size.layers,
            "layers_there": min(1 + AHEAD, job.size.layers),
            "layer_bytes": way.weights(job.size.layer),
        },
        "pass": {
            "activations": job.activation_bytes(way),
            "conditions": job.condition_bytes(way),
            "drivers": job.kept_bytes(way),
            "one_set_of_conditions": context_values(job.config) * way.itemsize,
        },
        "stages": {"whole": _stages(job, way), "least": _stages(job, least)},
        "tile": vars(job.tiling),
        "reserve": RESERVE,
        "fits": {str(card): {one: _fit(job, job.way_within(card * _GIB - RESERVE, one)) for one in dtypes} for card in CARDS},
        "time": {
            "operations_per_step": work.total,
            "attention_share": work.attention / work.total,
            "rate": {"products": rate.products, "attention": rate.attention, "copies": rate.copies, "measured": rate.measured},
            "step_seconds": job.step_seconds(way, rate),
            "drivers_seconds": job.once_seconds(way, rate),
            "steps": steps,
            "sampling_seconds": steps * job.step_seconds(way, rate) + job.once_seconds(way, rate),
        },
        "notes": list(_notes(job)),
    }


def _task(job: Job) -> str:
    guides = [{"mute": "SyncCFG", "joint": "guidance by the text"}[g.anchor.company] for g in _acting(job)]
    names = {"none": "picture and sound together", "audio": "pictures for a sound", "video": "sound for pictures"}
    given = names["none" if job.driver is None else job.driver.value]
    return given + (f", with {' and '.join(guides)}" if guides else "")


def _acting(job: Job) -> list[Any]:
    return [g for g in job.guidance.guides if any(scale != 1 for scale in g.scale)]


def _stages(job: Job, way: Way) -> list[dict[str, Any]]:
    return [{**vars(stage), "device": stage.device} for stage in job.stages(way)]


def _fit(job: Job, way: Way | None) -> dict[str, Any] | None:
    if way is None:
        return None
    stages: list[Stage] = job.stages(way)
    settings = {"offload": "layers" if way.offload else "none", "tiled": way.tiled, "drivers": way.cache}
    if not job.run.drivers:
        del settings["drivers"]
    return {**settings, "device": job.peak(way), "host": max(stage.host for stage in stages)}


def _notes(job: Job) -> Iterator[str]:
    if job.config.caption is None:
        yield "captions are encoded before by umT5, 10.6 GiB in bfloat16, which is not counted"
    if not job.config.driver_isolation and (job.driver is not None or any(g.anchor.company == "mute" for g in _acting(job))):
        yield "this model's drivers read what they drive: they are run along at every step"
    yield "fp8 saves memory in ComfyUI, where the core computes with it; generate makes such weights plain"
    yield "decoding is not in the time"


# ---- in words


def _lines(plan: dict[str, Any]) -> Iterator[str]:
    clip, tokens, branches = plan["clip"], plan["tokens"], plan["branches_per_step"]
    yield f"model    {plan['model']}"
    yield (
        f"clip     {clip['frames']} frames of {clip['width']} x {clip['height']} at {clip['fps']:g} fps "
        f"({clip['seconds']:.2f} s): {tokens['video']} video tokens, {tokens['audio']} audio tokens"
    )
    yield f"task     {plan['task']}; passes per step: video {branches['video']}, audio {branches['audio']}"
    yield ""
    yield f"weights ({plan['dtype']}; codecs float32)"
    for name, part in plan["weights"]["parts"].items():
        yield f"  {name:<16}{part['values'] / 1e6:>10.1f} M {_gib(part['bytes'])}"
    layers, there = plan["weights"]["layers"], plan["weights"]["layers_there"]
    layer = _gib(plan["weights"]["layer_bytes"])
    yield f"  {layers} layers of {layer}, of which an offloaded model has {there} on the device"
    yield f"one pass: activations {_gib(plan['pass']['activations'])}, conditions {_gib(plan['pass']['conditions'])}"
    if plan["pass"]["drivers"]:
        yield f"drivers, kept for the run: {_gib(plan['pass']['drivers'])}"
    size = plan["tile"]["size"]
    for name, title in (("whole", "memory, everything on the device"), ("least", f"memory, layers offloaded, tiles of {size}")):
        yield ""
        yield from _table(title, plan["stages"][name])
    yield ""
    yield f"what fits, with {plan['reserve'] / _GIB:.0f} GiB left free"
    for card, ways in plan["fits"].items():
        for dtype, way in ways.items():
            yield f"  {card:>3} GB  {dtype:<9} {_way(way, size)}"
    yield ""
    yield from _time(plan["time"])
    yield from (f"note: {note}" for note in plan["notes"])


def _table(title: str, stages: list[dict[str, Any]]) -> Iterator[str]:
    keys = ("weights", "working", "kept", "device", "host")
    large = max(stage["device"] for stage in stages) >= _GIB
    unit, name = (_GIB, "GiB") if large else (2**20, "MiB")
    yield f"{f'{title}, {name}':<44}" + "".join(
        f"{k:>12}" for k in ("weights", "working", "drivers", "together", "main memory")
    )
    for stage in stages:
        yield f"  {stage['name']:<42}" + "".join(f"{stage[key] / unit:>12.2f}" for key in keys)


def _way(way: dict[str, Any] | None, tile: int) -> str:
    if way is None:
        return "does not fit"
    settings = ["layers offloaded" if way["offload"] == "layers" else "everything on the device"]
    settings += [f"tiles of {tile} pixels"] if way["tiled"] else []
    settings += ["drivers in main memory"] if way.get("drivers") == "host" else []
    return f"{', '.join(settings)}: {_gib(way['device'])}, main memory {_gib(way['host'])}"


def _time(time: dict[str, Any]) -> Iterator[str]:
    rate = time["rate"]
    how = "measured" if rate["measured"] else "given"
    yield (
        f"time     {time['operations_per_step']:.3g} operations a step ({time['attention_share']:.0%} attention) at "
        f"{rate['products'] / _TERA:.3g} TFLOPS ({rate['attention'] / _TERA:.3g} in attention), {how}"
    )
    drivers = f", and {_duration(time['drivers_seconds'])} once for the drivers" if time["drivers_seconds"] else ""
    step, whole = _duration(time["step_seconds"]), _duration(time["sampling_seconds"])
    yield f"         {step} a step, {whole} for {time['steps']} steps{drivers}"


def _duration(seconds: float) -> str:
    for size, name in ((3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {name}"
    return f"{seconds:.3g} s"


def _gib(size: float) -> str:
    return f"{size / _GIB:.2f} GiB" if size >= _GIB / 10 else f"{size / 2**20:.1f} MiB"

"""Run beside ComfyUI: a clip is made with the pack's nodes, and the core compared with what it was before; prints JSON.

Compared are the functions, classes, methods and registries of every module of ComfyUI, those of torch that a pack might
replace, and the settings of the process.
"""

import asyncio
import importlib.util
import json
import logging
import os
import signal
import sys
import sysconfig
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import comfy.cli_args

comfy.cli_args.args.cpu = True

import comfy_extras.nodes_custom_sampler  # noqa: E402 - after the device is chosen
import comfy_extras.nodes_lt  # noqa: E402, F401
import execution  # noqa: E402, F401
import folder_paths  # noqa: E402, F401
import latent_preview  # noqa: E402, F401
import server  # noqa: E402, F401
import torch  # noqa: E402
from comfy_config.config_parser import extract_node_configuration  # noqa: E402

import nodes  # noqa: E402, F401

ROOT = Path(__file__).parents[2]
COMFY = Path(comfy.cli_args.__file__).parents[1]
LIBRARIES = tuple(Path(sysconfig.get_path(kind)) for kind in ("purelib", "platlib"))
TORCH = ("torch", "torch.nn", "torch.nn.functional", "torch.nn.modules.module", "torch._tensor")
MOVING = {"current_loaded_models", "filename_list_cache", "cache_helper"}
"""What ComfyUI keeps of its own work."""

Members = dict[str, Any]


def core() -> dict[str, ModuleType]:
    """ComfyUI's modules; not the libraries of an environment that lies in its folder, which keep registries of their own."""
    files = {name: getattr(module, "__file__", None) for name, module in list(sys.modules.items())}
    return {name: sys.modules[name] for name, file in files.items() if file and is_core(Path(file))}


def is_core(file: Path) -> bool:
    """Whether a module's file is part of the checkout."""
    return file.is_relative_to(COMFY) and not any(map(file.is_relative_to, LIBRARIES))


def members(modules: dict[str, ModuleType]) -> Members:
    """Functions, classes and methods themselves, and what is in registries."""
    found: Members = {}
    for name, module in modules.items():
        for key, value in list(vars(module).items()):
            if callable(value) or isinstance(value, ModuleType):
                found[f"{name}.{key}"] = value
            if isinstance(value, type) and value.__module__ == name:
                found |= {f"{name}.{key}.{own}": one for own, one in vars(value).items() if not own.startswith("_abc_")}
            if isinstance(value, dict | list | set) and key not in MOVING and not key.startswith("__"):
                found[f"{name}.{key}"] = [*value]
                if isinstance(value, dict):
                    found |= {f"{name}.{key}[{own}]": one for own, one in value.items()}
    return found


def settings() -> Members:
    """What of the process a pack might change for all."""
    root = logging.getLogger()
    return {
        "dtype": torch.get_default_dtype(),
        "threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "grad": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "precision": torch.get_float32_matmul_precision(),
        "backends": (torch.backends.cudnn.benchmark, torch.backends.cuda.matmul.allow_tf32),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "warnings": list(warnings.filters),
        "logging": (root.level, list(root.handlers), list(root.filters)),
        "signals": [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)],
        "environment": dict(os.environ),
        "paths": (list(sys.path), list(sys.meta_path), str(Path.cwd())),
    }


def load_pack() -> dict[str, Any]:
    """Load it as ComfyUI does; its nodes by their ids."""
    spec = importlib.util.spec_from_file_location("pack", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
    module = importlib.util.module_from_spec(spec)
    sys.modules["pack"] = module
    spec.loader.exec_module(module)
    found = asyncio.run(asyncio.run(module.comfy_entrypoint()).get_node_list())
    return {one.GET_SCHEMA().node_id: one for one in found}


def make_clip(ours: dict[str, Any]) -> None:
    """Load, encode, sample and decode."""

    def run(name: str, **inputs: Any) -> Any:
        return ours[name].execute(**inputs).result

    model, clip, video_vae, audio_vae, *_ = run("HarmonyLoadCheckpoint", checkpoint="harmony-tiny (built in)")
    told, *_ = run("HarmonyEncode", model=model, clip=clip, picture="a ball", sound="knock", transcript="")
    latent, *_ = run("HarmonyEmptyLatent", model=model, seconds=0.5417, width=64, height=64, fps=24.0, batch=1)
    scales = {"sync_video": 3.0, "sync_audio": 2.0, "sync_text": "same", "text_video": 1.0, "text_audio": 1.0}
    vaes = {"video_vae": video_vae, "audio_vae": audio_vae}
    latent, *_ = run(
        "HarmonyKSampler", model=model, positive=told, latent=latent, seed=1, steps=2, sampler_name="euler", **scales, **vaes
    )
    images, *_ = run("HarmonyDecode", latent=latent, **vaes)
    assert images.isfinite().all()


def differs(before: Any, after: Any) -> bool:
    """Whether a thing is another one, or a list of things has others in it."""
    if isinstance(before, list):
        return len(before) != len(after) or any(map(differs, before, after))
    return before is not after and not (isinstance(before, str | tuple | dict) and before == after)


@torch.inference_mode()
def main() -> dict[str, Any]:
    modules, of_torch = core(), {name: sys.modules[name] for name in TORCH}
    before = members(modules) | members(of_torch) | settings()
    make_clip(load_pack())
    inside, outside, now = members(modules), members(of_torch), settings()
    after = inside | outside | now
    # torch gets attributes when more of it is imported.
    added = [key for key in inside if key not in before]
    changed = [key for key, value in before.items() if key not in after or differs(value, after[key])]
    config = extract_node_configuration(str(ROOT))
    return {
        "compared": len(before),
        "changed": sorted({*added, *changed}),
        "config": {
            "publisher": config.tool_comfy.publisher_id,
            "name": config.tool_comfy.display_name,
            "comfyui": config.project.supported_comfyui_version,
            "systems": config.project.supported_os,
        },
    }


if __name__ == "__main__":
    sys.stdout.write(f"\n{json.dumps(main())}\n")

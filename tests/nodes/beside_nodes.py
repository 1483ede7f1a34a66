"""Run beside ComfyUI: the pack loaded by path, as ComfyUI does it; prints what was found as JSON."""

import asyncio
import importlib.util
import json
import sys
import time
from pathlib import Path

import comfy.cli_args

comfy.cli_args.args.cpu = True

import comfy.model_patcher  # noqa: E402 - after the device is chosen
import comfy.sample  # noqa: E402
import comfy_api.latest  # noqa: E402, F401 - ComfyUI has it when it loads packs
import torch  # noqa: E402

ROOT = Path(__file__).parents[2]


def load_pack() -> dict:
    """Load it and its schemas, as ComfyUI does when it starts; what that took."""
    before, start = set(sys.modules), time.process_time()
    spec = importlib.util.spec_from_file_location("pack", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
    module = importlib.util.module_from_spec(spec)
    sys.modules["pack"] = module
    spec.loader.exec_module(module)
    nodes = asyncio.run(asyncio.run(module.comfy_entrypoint()).get_node_list())
    for one in nodes:
        one.GET_SCHEMA()
    took = time.process_time() - start
    heavy = ("torch", "pack.harmony_core.models", "pack.harmony_core.codecs", "pack.harmony_core.pipeline")
    loaded = set(sys.modules) - before
    return {"starts_at_once": took < 0.3, "starts_without_model_code": not {n for n in loaded if n.startswith(heavy)}}


def sample(patcher, clip, latent) -> list:
    positive = clip.encode_from_tokens_scheduled(clip.tokenize("a ball"))
    samples = latent["samples"]
    noise = comfy.sample.prepare_noise(samples, 7)
    done = comfy.sample.sample(patcher, noise, 3, 1.0, "euler", "simple", positive, positive, samples, seed=7)
    return done.unbind()


@torch.inference_mode()
def main(path: Path) -> dict:
    started = load_pack()
    from pack.nodes.bridge import latent, loader  # noqa: PLC0415 - exists from here on

    patcher, clip, _, _ = loader.load_all(path)
    empty = latent.empty_latent(patcher.model.config, seconds=13 / 24, width=48, height=32, fps=24.0, batch=1)
    first = sample(patcher, clip, empty)
    make, arguments = patcher.cached_patcher_init
    second = make(*arguments, disable_dynamic=True)
    delegate = patcher.clone(model_override=second.get_clone_model_override())
    half = loader.load_model(str(path), {"dtype": torch.bfloat16})
    closed = patcher.model.run is None
    return {
        **started,
        "is_plain": type(second) is comfy.model_patcher.ModelPatcher,
        "shares_nothing": second.model is not patcher.model,
        "delegate_equals": all(map(torch.equal, first, sample(delegate, clip, empty))),
        "fresh_equals": all(map(torch.equal, first, sample(second, clip, empty))),
        "bfloat16_finite": all(bool(x.isfinite().all()) for x in sample(half, clip, empty)),
        "run_is_closed": closed,
    }


if __name__ == "__main__":
    result = main(Path(sys.argv[1]))
    sys.stdout.write(f"\n{json.dumps(result)}\n")

"""Run beside ComfyUI: the pack loaded by path, as ComfyUI does it; prints what was found as JSON."""

import asyncio
import importlib.util
import json
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import comfy.cli_args

comfy.cli_args.args.cpu = True

import comfy.model_patcher  # noqa: E402 - after the device is chosen
import comfy.sample  # noqa: E402
import comfy.sd  # noqa: E402
import comfy_aimdo.host_buffer  # noqa: E402
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
    given = {"noise_mask": latent.get("noise_mask"), "seed": 7}
    done = comfy.sample.sample(patcher, noise, 3, 1.0, "euler", "simple", positive, positive, samples, **given)
    return done.unbind()


class Short(comfy.model_patcher.ModelPatcher):
    """A device with room for half of the weights: the rest stays where it is and is cast when it is used."""

    def load(self, device_to=None, lowvram_model_memory=0, force_patch_weights=False, full_load=False):
        del lowvram_model_memory, full_load
        super().load(device_to, lowvram_model_memory=self.model_size() // 2, force_patch_weights=force_patch_weights)


def low_rank(patcher):
    """The same with two matrices changed, as a LoRA changes them."""
    changed = patcher.clone()
    keys = [f"diffusion_model.{branch}.blocks.1.ffn.0.weight" for branch in ("video", "audio")]
    weights = patcher.model.state_dict()
    generator = torch.Generator().manual_seed(3)
    changed.add_patches({key: (torch.randn(weights[key].shape, generator=generator) * 0.1,) for key in keys})
    return changed


def partly_loaded(make, first, clip, latent) -> dict:
    """A model of which half is loaded, against one that is loaded as a whole, each without and with changed weights."""
    whole = make()
    short = Short(make().model, load_device=whole.load_device, offload_device=whole.offload_device)
    short.wrappers = make().wrappers
    found = {"partial_equals": all(map(torch.equal, first, sample(short, clip, latent)))}
    layers = [m for m in short.model.modules() if hasattr(m, "comfy_cast_weights")]
    cast = [m for m in layers if m.comfy_cast_weights]
    found["partial_is_partial"] = short.model.model_lowvram and 0 < len(cast) < len(layers)
    changed = sample(low_rank(whole), clip, latent)
    found["partial_equals_with_a_lora"] = all(map(torch.equal, changed, sample(low_rank(short), clip, latent)))
    found["the_lora_changes"] = not any(map(torch.equal, first, changed))
    found["partial_is_undone"] = all(map(torch.equal, first, sample(short, clip, latent)))
    return found


def dynamic(loader, path: Path, first, clip, latent) -> dict:
    """As ComfyUI loads where it streams weights to a GPU; there is none here, so it is made for one and run on the CPU."""
    comfy.memory_management.aimdo_enabled = True
    # The only part without which it is not made here: an empty buffer of pinned memory, which is the GPU driver's to give.
    comfy_aimdo.host_buffer.HostBuffer = lambda *_: SimpleNamespace(size=0)
    plain, comfy.model_patcher.CoreModelPatcher = comfy.model_patcher.CoreModelPatcher, comfy.model_patcher.ModelPatcherDynamic
    cpu = torch.device("cpu")
    try:
        options = {"load_device": torch.device("cuda", 0), "offload_device": cpu, "dtype": torch.float32}
        patcher = loader.load_model(str(path), options)
        delegate = patcher.clone(disable_dynamic=True)
        delegate.load_device = cpu
        streamed = comfy.model_patcher.ModelPatcher(patcher.model, load_device=cpu, offload_device=cpu)
        streamed.wrappers = patcher.wrappers
        small = loader.load_model(str(path), {**options, "dtype": torch.float8_e4m3fn}).model.diffusion_model
        layer = small.video.blocks[0].ffn[0]
        return {
            "dynamic_fp8_is_for_matrices": layer.weight_comfy_model_dtype == torch.float8_e4m3fn
            and layer.bias_comfy_model_dtype == torch.float32,
            "dynamic_is_dynamic": patcher.is_dynamic() and patcher.clone().is_dynamic(),
            "delegate_is_plain": not delegate.is_dynamic() and delegate.model is not patcher.model,
            "dynamic_delegate_equals": all(map(torch.equal, first, sample(delegate, clip, latent))),
            "dynamic_equals": all(map(torch.equal, first, sample(streamed, clip, latent))),
        }
    finally:
        comfy.model_patcher.CoreModelPatcher = plain
        comfy.memory_management.aimdo_enabled = False


def estimated(loader, estimate, config, path: Path) -> dict:
    """What is said of a file's memory before it is loaded, against what is there, and asked for, when it is."""
    spec = sys.modules["pack.harmony_core.geometry"].ClipSpec(frames=25, height=48, width=64, fps=24.0, grid=config.grid)
    shapes = [spec.video_shape(2), spec.audio_shape(2)]
    flat = (2, 1, sum(torch.Size(shape[1:]).numel() for shape in shapes))
    found = {}
    for dtype in loader.DTYPES:
        model = loader.load_all(path, dtype)[0].model
        model.latent_shapes = shapes
        told = estimate.about_memory(path, dtype, pictures=25, width=64, height=48, fps=24.0, batch=2)
        there = sum(value.nbytes for value in model.diffusion_model.state_dict().values())
        found[f"{dtype}_weights"], found[f"{dtype}_step"] = (
            (told["weights"], there),
            (told["step"], model.memory_required(flat)),
        )
    return found


def saved_whole(loader, path: Path) -> dict:
    """What CheckpointSave writes of a text encoder that was changed as a LoRA changes it, and of the codec beside it."""
    patcher, clip, _, audio = loader.load_all(path)
    changed = clip.clone()
    key = "encoder.projection.weight"
    changed.patcher.add_patches({key: (torch.ones_like(clip.cond_stage_model.state_dict()[key]),)})
    saved = path.with_name("saved whole.safetensors")
    comfy.sd.save_checkpoint(str(saved), patcher, changed, audio)

    def told(one) -> torch.Tensor:
        return one.encode_from_tokens(one.tokenize("a ball"))

    again = loader.load_all(saved)
    return {
        "saved_text_encoder_is_the_changed_one": bool((told(changed) - told(again[1])).abs().max() < 1e-5)
        and not torch.equal(told(clip), told(again[1])),
        "saved_codec_is_the_connected_one": again[2] is None
        and all(map(torch.equal, audio.get_sd().values(), again[3].get_sd().values())),
    }


@torch.inference_mode()
def main(path: Path) -> dict:
    started = load_pack()
    from pack.nodes.bridge import estimate, latent, loader  # noqa: PLC0415 - exists from here on

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
        "is_shown_alike": second.model.likeness is patcher.model.likeness is not None,
        "delegate_equals": all(map(torch.equal, first, sample(delegate, clip, empty))),
        "fresh_equals": all(map(torch.equal, first, sample(second, clip, empty))),
        "bfloat16_finite": all(bool(x.isfinite().all()) for x in sample(half, clip, empty)),
        "run_is_closed": closed,
        **saved_whole(loader, path),
        **partly_loaded(lambda: loader.load_model(str(path), {}), first, clip, empty),
        **dynamic(loader, path, first, clip, empty),
        "estimated": estimated(loader, estimate, patcher.model.config, path),
    }


if __name__ == "__main__":
    result = main(Path(sys.argv[1]))
    sys.stdout.write(f"\n{json.dumps(result)}\n")

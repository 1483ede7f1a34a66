"""Run beside ComfyUI: one model with LoRAs, loaded in every way ComfyUI has; prints what holds as JSON."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import comfy.cli_args

comfy.cli_args.args.cpu = True

import comfy.model_patcher  # noqa: E402 - after the device is chosen
import comfy_aimdo.host_buffer  # noqa: E402
import folder_paths  # noqa: E402
import torch  # noqa: E402
from beside_nodes import CHANGED, ROUNDING, Short, away, load_pack, sample  # noqa: E402
from comfy.lora import model_lora_keys_unet as lora_keys  # noqa: E402

WAN = ("diffusion_model.blocks.", "blocks.", "transformer.", "lora_unet_blocks_")
BARE = "video.blocks.1.modulation"
CPU = torch.device("cpu")


def files(core, folder: Path) -> None:
    """Two LoRAs: one of layers of both streams, one of a parameter that is no layer's, of a bias and of another's weight."""
    folder_paths.add_model_folder_path("loras", str(folder))
    generator = torch.Generator().manual_seed(3)

    def pair(out: int, inner: int):
        up, down = torch.randn(out, 4, generator=generator) * 0.3, torch.randn(4, inner, generator=generator) * 0.3
        return core.Change(up=up, down=down, alpha=4.0)

    layers = {"video.blocks.1.ffn.0": pair(64, 48), "audio.blocks.0.ffn.2": pair(48, 64)}
    core.save_lora(folder / "layers.safetensors", layers)
    differences = {
        BARE: core.Change(weight=torch.randn(1, 6, 48, generator=generator)),
        "audio.blocks.1.self_attn.q": core.Change(bias=torch.ones(48)),
        "speech.blocks.0.grn.gamma": core.Change(weight=torch.ones(1, 1, 32)),
    }
    core.save_lora(folder / "differences.safetensors", differences)


def weights(patcher) -> dict:
    return {key: value.clone() for key, value in patcher.model.diffusion_model.state_dict().items()}


def equal(a: dict, b: dict) -> bool:
    return all(torch.equal(a[key], b[key]) for key in a)


def streamed(loader, put, path: Path, wanted: dict) -> dict:
    """As ComfyUI loads where it streams weights to a GPU; there is none here, so it is made for one and loaded on the CPU."""
    comfy.memory_management.aimdo_enabled = True
    # The only part without which it is not made here: an empty buffer of pinned memory, which is the GPU driver's to give.
    comfy_aimdo.host_buffer.HostBuffer = lambda *_: SimpleNamespace(size=0)
    plain, comfy.model_patcher.CoreModelPatcher = comfy.model_patcher.CoreModelPatcher, comfy.model_patcher.ModelPatcherDynamic
    try:
        options = {"load_device": torch.device("cuda", 0), "offload_device": CPU, "dtype": torch.float32}
        first = loader.load_model(str(path), options)
        before, patcher = weights(first), put(first)
        patcher.load_device = CPU
        patcher.register_load_device(CPU)
        bare = []
        for _ in range(2):  # loading again must not put it on again
            patcher.load(CPU)
            bare.append(patcher.model.diffusion_model.get_parameter(BARE).clone())
        patcher.restore_loaded_backups()  # as it does before whatever comes next
        return {
            "streamed_is_streamed": patcher.is_dynamic(),
            "streamed_bare_equals": all(away(one, wanted[BARE]) <= ROUNDING for one in bare),
            "streamed_is_undone": equal(before, weights(patcher)),
        }
    finally:
        comfy.model_patcher.CoreModelPatcher = plain
        comfy.memory_management.aimdo_enabled = False


def another_model(bridge) -> str:
    """What is said of a MODEL that is not Harmony's."""
    try:
        bridge.with_lora(SimpleNamespace(model=torch.nn.Linear(1, 1)), "layers.safetensors", 1.0)
    except ValueError as error:
        return str(error)
    return ""


@torch.inference_mode()
def main(path: Path) -> dict:
    load_pack()
    from pack.harmony_core.weights import checkpoint, lora  # noqa: PLC0415 - exists from here on
    from pack.nodes.bridge import latent, loader  # noqa: PLC0415
    from pack.nodes.bridge import lora as bridge  # noqa: PLC0415

    files(lora, path.parent)
    names = ("layers", "differences", "differences")

    def put(patcher):
        for name in names:
            patcher = bridge.with_lora(patcher, f"{name}.safetensors", 0.5)
        return patcher

    patcher, clip, _, _ = loader.load_all(path)
    empty = latent.empty_latent(patcher.model.config, seconds=13 / 24, width=48, height=32, fps=24.0, batch=1)
    before, first = weights(patcher), sample(patcher, clip, empty)
    changed = put(patcher)
    loaded = sample(changed, clip, empty)
    patched = weights(changed)
    merged = checkpoint.load_checkpoint(path).model()
    shapes = lora.shapes_of(merged)
    lora.merge_loras(merged, [(lora.load_lora(path.parent / f"{name}.safetensors", shapes), 0.5) for name in names])
    wanted = merged.state_dict()
    short = Short(
        loader.load_model(str(path), {}).model, load_device=patcher.load_device, offload_device=patcher.offload_device
    )
    short.wrappers = patcher.wrappers
    again = sample(patcher, clip, empty)
    patcher.unpatch_model()
    return {
        "whole_equals_the_core": all((patched[key] - wanted[key]).abs().max() < 1e-5 for key in wanted),
        "whole_changes": min(map(away, loaded, first)) > CHANGED,
        "whole_is_undone": away(again, first) <= ROUNDING and equal(before, weights(patcher)),
        "partial_equals": away(sample(put(short), clip, empty), loaded) <= ROUNDING,
        "partial_is_undone": away(sample(short, clip, empty), first) <= ROUNDING,
        "the_core_has_no_names_of_wan": not [k for k in lora_keys(patcher.model, {}) if k.startswith(WAN)],
        "another_model_is_refused": another_model(bridge).startswith("model: this is no Harmony model"),
        **streamed(loader, put, path, patched),
    }


if __name__ == "__main__":
    result = main(Path(sys.argv[1]))
    sys.stdout.write(f"\n{json.dumps(result)}\n")

"""Run beside ComfyUI: layers that other nodes replace; prints what was found as JSON."""

import json
import sys
from pathlib import Path

import comfy.cli_args

comfy.cli_args.args.cpu = True

import comfy.model_management  # noqa: E402
import torch  # noqa: E402
from beside_nodes import CHANGED, ROUNDING, away, load_pack, sample  # noqa: E402
from comfy.nested_tensor import NestedTensor  # noqa: E402
from comfy_extras.nodes_slg import SkipLayerGuidanceDiT  # noqa: E402

LAYERS = 2


def with_sound_given(latent: dict) -> dict:
    """The same with a sound that is given as a whole."""
    video, audio = latent["samples"].unbind()
    audio = torch.randn(audio.shape, generator=torch.Generator().manual_seed(5))
    mask = NestedTensor([torch.ones(1, 1, *video.shape[2:]), torch.zeros(1, 1, audio.shape[2])])
    return {**latent, "samples": NestedTensor([video, audio]), "noise_mask": mask}


def replaced(patcher, function, *layers: int):
    """The same with layers replaced, as stock nodes do it."""
    patched = patcher.clone()
    for layer in layers:
        patched.set_model_patch_replace(function, "dit", "double_block", layer)
    return patched


def skipped(args, _extra):
    return args


def patches(patcher, run) -> dict:
    """Every layer replaced by itself, and one left out."""
    seen = []

    def itself(args, extra):
        options = args["transformer_options"]
        seen.append((options["block_index"], options["total_blocks"], tuple(x is not None for x in args["img"])))
        return extra["original_block"](args)

    plain = run(patcher)
    kept, without = run(replaced(patcher, itself, *range(LAYERS))), run(replaced(patcher, skipped, 1))
    return {
        "itself_changes_nothing": away(kept, plain) <= ROUNDING,
        "numbers": sorted({(index, total) for index, total, _ in seen}),
        "streams": sorted({there for *_, there in seen}),
        "without_one_is_another": away(without[0], plain[0]) > CHANGED,
        "undone": away(run(patcher), plain) <= ROUNDING,
    }


def without_memory(run, patcher) -> list:
    """Where there is no room to keep drivers, they are run along at every step."""
    free = comfy.model_management.get_free_memory
    # Attention asks for two figures, and is not what this is about.
    comfy.model_management.get_free_memory = lambda device=None, both=False: free(device, both) if both else 0
    try:
        return run(patcher)
    finally:
        comfy.model_management.get_free_memory = free


def skip_layer_guidance(patcher, run) -> dict:
    """The stock node, whose steps ask with all layers and with fewer in turn."""
    guided = SkipLayerGuidanceDiT.execute(patcher, scale=3.0, start_percent=0.0, end_percent=1.0, double_layers="1").result[0]
    plain, kept, along = run(patcher), run(guided), without_memory(run, guided)
    return {
        "guidance_changes": away(kept[0], plain[0]) > CHANGED,
        "away_without_a_kept_driver": max(float((a - b).abs().max()) for a, b in zip(kept, along, strict=True)),
    }


@torch.inference_mode()
def main(path: Path) -> dict:
    load_pack()
    from pack.nodes.bridge import latent, loader  # noqa: PLC0415 - exists from here on

    patcher, clip, _, _ = loader.load_all(path)
    empty = latent.empty_latent(patcher.model.config, seconds=13 / 24, width=48, height=32, fps=24.0, batch=1)
    found = {}
    for name, given in (("joint", empty), ("driven", with_sound_given(empty))):

        def run(model, given=given) -> list:
            return sample(model, clip, given)

        found[name] = patches(patcher, run) | skip_layer_guidance(patcher, run)
    return found


if __name__ == "__main__":
    result = main(Path(sys.argv[1]))
    sys.stdout.write(f"\n{json.dumps(result)}\n")

"""Run beside ComfyUI: Ovi told by its umT5, small but for its width, and its files loaded; prints what holds as JSON."""

import json
import sys
from pathlib import Path

import comfy.cli_args

comfy.cli_args.args.cpu = True

import comfy.sd  # noqa: E402 - after the device is chosen
import comfy_api.latest  # noqa: E402, F401 - ComfyUI has it when it loads packs
import torch  # noqa: E402
from beside_nodes import ROUNDING, away, load_pack  # noqa: E402
from umt5 import SMALL, write_umt5  # noqa: E402

import nodes  # noqa: E402

PROMPT = "a red ball falls <S>Hello.<E> <AUDCAP>knocks on wood<ENDAUDCAP>"
CLIP = {"pictures": 13, "width": 64, "height": 32, "fps": 24.0, "batch": 2}


def memory(loader, estimate, path: Path) -> dict:
    """What is said of a file's memory before it is loaded, against what is there, and asked for, when it is."""
    model = loader.load_all(path)[0].model
    spec = sys.modules["pack.harmony_core.geometry"].ClipSpec(frames=13, height=32, width=64, grid=model.config.grid)
    model.latent_shapes = shapes = [spec.video_shape(2), spec.audio_shape(2)]
    flat = (2, 1, sum(torch.Size(shape[1:]).numel() for shape in shapes))
    told = estimate.about_memory(path, "default", **CLIP)
    there = sum(value.nbytes for value in model.diffusion_model.state_dict().values())
    return {"weights": (told["weights"], there), "step": (told["step"], model.memory_required(flat))}


@torch.inference_mode()
def main(folder: Path, video_half: str, audio_half: str) -> dict:
    load_pack()
    from pack.harmony_core.weights.ovi import load_ovi  # noqa: PLC0415 - exists from here on
    from pack.nodes.bridge import estimate, latent, loader  # noqa: PLC0415
    from pack.nodes.conditioning import HarmonyEncode  # noqa: PLC0415

    write_umt5(folder / "umt5.safetensors", SMALL)
    options = {f"{name}_model_config": SMALL.options() for name in ("umt5xxl", "t5xxl")}
    clip = comfy.sd.load_clip([str(folder / "umt5.safetensors")], clip_type=comfy.sd.CLIPType.WAN, model_options=options)
    paths = {form: folder / f"{form}_720x720.safetensors" for form in ("ovi", "fp8", "scaled", "quanto")}
    model, *_ = loader.load_all(paths["ovi"])

    def stock(text: str):
        return nodes.CLIPTextEncode().encode(clip, text)[0][0][0]

    def told(*texts: str, **more):
        return HarmonyEncode.execute(model, clip, *texts, **more).result[0]

    positive = told("a red ball falls", "knocks on wood", "Hello.")
    (seen, extras), nothing = positive[0], told("", "", "")
    apart = told("blurred", "silent", "", apart=True)
    count = len([number for number, _ in clip.tokenize(PROMPT)["umt5xxl"][0] if number])
    empty = latent.empty_latent(model.model.config, seconds=13 / 24, width=64, height=32, fps=24.0, batch=1)

    def sampled(patcher) -> list:
        return nodes.KSampler().sample(patcher, 7, 1, 3.0, "euler", "simple", positive, nothing, empty)[0]["samples"].unbind()

    first = sampled(model)
    halves, *_ = loader.load_all(folder / video_half, other_half=folder / audio_half)
    make, arguments = halves.cached_patcher_init
    copy = make(*arguments, disable_dynamic=True)
    scaled = loader.load_all(paths["scaled"])[0]
    layers = scaled.model.diffusion_model
    exact = load_ovi(paths["scaled"], runtime=sys.modules["pack.harmony_core.runtime"].Runtime(dtype=torch.float32))
    plain = loader.load_all(paths["ovi"])[0]
    plain.model.diffusion_model.load_state_dict(exact.state_dict())
    return {
        "prompt_is_the_stock_caption": away(seen, stock(PROMPT)) <= ROUNDING,
        "both_are_told_it": away(extras["harmony_audio_caption"], seen) <= ROUNDING,
        "the_rest_is_zero": count < seen.shape[1] <= 512 and not seen[0, count:].any(),
        "an_empty_negative_is_told": away(nothing[0][0], stock("")) <= ROUNDING and not nothing[0][1]["harmony_untold"],
        "apart_is_apart": away(apart[0][0], stock("blurred")) <= ROUNDING
        and away(apart[0][1]["harmony_audio_caption"], stock("silent")) <= ROUNDING,
        "samples": all(bool(x.isfinite().all()) for x in first),
        "scaled_layers_stay_in_eight_bits": all(
            type(block.ffn[0].weight.data).__name__ == "QuantizedTensor"
            for block in (*layers.video.blocks, *layers.audio.blocks)
        ),
        "scaled_is_the_plain_one": all(
            (a - b).abs().max() < 1e-4 for a, b in zip(sampled(scaled), sampled(plain), strict=True)
        ),
        "a_second_copy_of_two_halves_is_the_same": away(sampled(copy), first) <= ROUNDING,
        "a_second_copy_is_another": copy.model is not halves.model,
        "memory": {form: memory(loader, estimate, path) for form, path in paths.items()},
    }


if __name__ == "__main__":
    result = main(Path(sys.argv[1]), *sys.argv[2:])
    sys.stdout.write(f"\n{json.dumps(result)}\n")

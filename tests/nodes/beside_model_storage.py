"""Run beside ComfyUI: one model stored in several ways; prints how far its latents are from those of the plain one."""

import json
import sys
from pathlib import Path

import comfy.cli_args

comfy.cli_args.args.cpu = True

import comfy.sample  # noqa: E402
import torch  # noqa: E402
from beside_nodes import load_pack  # noqa: E402

STEPS = 8


def sample(bridge, patcher, clip) -> list:
    """Eight steps of a bouncing ball, one second of 64 x 64."""
    empty = bridge.latent.empty_latent(patcher.model.config, seconds=25 / 24, width=64, height=64, fps=24.0, batch=1)
    latent = empty["samples"]
    told = clip.encode_from_tokens_scheduled(clip.tokenize("a blue ball bouncing in a room"))
    noise = comfy.sample.prepare_noise(latent, 7)
    return comfy.sample.sample(patcher, noise, STEPS, 1.0, "euler", "simple", told, told, latent, seed=7).unbind()


def away(found: list, wanted: list) -> float:
    """The larger of both streams' relative errors."""
    return max(float((a - b).norm() / b.norm()) for a, b in zip(found, wanted, strict=True))


def bytes_of(patcher) -> int:
    return sum(p.numel() * p.element_size() for p in patcher.model.diffusion_model.parameters())


@torch.inference_mode()
def main(plain: Path, folder: Path) -> dict:
    load_pack()
    from pack.nodes import bridge  # noqa: PLC0415 - exists from here on
    from pack.nodes.bridge import latent, loader  # noqa: F401, PLC0415

    patcher, clip, _, _ = loader.load_all(plain)
    wanted, size = sample(bridge, patcher, clip), bytes_of(patcher)
    half = loader.load_model(str(plain), {"dtype": torch.bfloat16})
    found = {"bf16": {"away": away(sample(bridge, half, clip), wanted)}}
    for name in ("fp8_e4m3fn", "fp8_e5m2"):
        stored, its_clip, _, _ = loader.load_all(plain, name)
        kinds = {p.dtype for n, p in stored.model.diffusion_model.named_parameters() if p.ndim < 2 or "modulation" in n}
        found[name] = {
            "away": away(sample(bridge, stored, its_clip), wanted),
            "size": bytes_of(stored) / size,
            "small ones are whole": kinds == {torch.float32},
        }
    for path in sorted(folder.glob("*.safetensors")):
        stored, its_clip, _, _ = loader.load_all(path)
        latents = sample(bridge, stored, its_clip)
        told = [c.encode_from_tokens(c.tokenize("a blue ball")) for c in (its_clip, clip)]
        found[path.stem] = {"away": away(latents, wanted), "caption": away(told[:1], told[1:])}
        found[path.stem]["mixed"] = bool(stored.model.model_config.quant_config)
    return found


if __name__ == "__main__":
    result = main(Path(sys.argv[1]), Path(sys.argv[2]))
    sys.stdout.write(f"\n{json.dumps(result)}\n")

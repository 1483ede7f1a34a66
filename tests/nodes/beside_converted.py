"""Run beside ComfyUI: its own loader reads a Wan2.2 in plain weights and in converted ones; prints how far they are apart."""

import json
import sys

import comfy.cli_args

comfy.cli_args.args.cpu = True

import comfy.sd  # noqa: E402
import torch  # noqa: E402


@torch.inference_mode()
def main(plain: str, *converted: str) -> dict:
    found, wanted = {}, None
    for path in (plain, *converted):
        model = comfy.sd.load_diffusion_model(path).model
        x = torch.randn(1, 48, 2, 8, 8, generator=torch.Generator().manual_seed(0))
        told = torch.randn(1, 7, 4096, generator=torch.Generator().manual_seed(1))
        out = model.apply_model(x, torch.tensor([0.5]), c_crossattn=told).float()
        wanted = out if wanted is None else wanted
        mixed, kind = bool(model.model_config.quant_config), type(model).__name__
        found[path] = {"away": float((out - wanted).norm() / wanted.norm()), "mixed": mixed, "kind": kind}
    return found


if __name__ == "__main__":
    result = main(*sys.argv[1:])
    sys.stdout.write(f"\n{json.dumps(result)}\n")

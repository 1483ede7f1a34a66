"""Run beside ComfyUI: how much noise a latent has where a run mixes what is made with what is kept; prints JSON."""

import json
import sys

import comfy.cli_args

comfy.cli_args.args.cpu = True

import torch  # noqa: E402 - after the device is chosen
from beside_nodes import load_pack  # noqa: E402


def main() -> dict:
    load_pack()
    from pack.harmony_core.geometry import ClipSpec  # noqa: PLC0415 - exists from here on
    from pack.harmony_core.types import AV  # noqa: PLC0415
    from pack.nodes.bridge.run import Run  # noqa: PLC0415

    spec = ClipSpec(frames=13, height=64, width=64)
    generator = torch.Generator().manual_seed(0)
    height, width = spec.latent_size
    video = torch.rand(1, 1, spec.latent_frames, height, width, generator=generator)
    video[:, :, 0], video[:, :, 1, :, :2], video[:, :, 2] = 0, 0, 1
    audio = torch.rand(1, 1, spec.audio_latents, generator=generator)
    masks, sigma = AV(video, audio), 0.6
    run = Run.of_masks(spec, masks, 1, torch.device("cpu"))
    ones, zeros = masks.map(torch.ones_like), masks.map(torch.zeros_like)
    kept = run.beside(torch.tensor([sigma]), ones, zeros, masks)
    # Of noise 1 and pictures 0 the sampler's own latents are sigma.
    mixed = masks.map(lambda mask, beside: mask * sigma + (1 - mask) * beside, kept)
    times = run.times(torch.tensor([sigma]))
    return {
        "video": (mixed.video - times.video[:, None, :, None, None]).abs().max().item(),
        "audio": (mixed.audio - times.audio[:, None]).abs().max().item(),
        "given_is_clean": bool((kept.video[:, :, 0] == 0).all()),
    }


if __name__ == "__main__":
    sys.stdout.write(f"\n{json.dumps(main())}\n")

"""Run beside ComfyUI: decoding with memory that runs out, and with ComfyUI's own VAE class; prints what was found as JSON.

Memory runs out by a hook on the codec's real layers, which raises torch's own error for inputs larger than a limit.
"""

import json
import sys
from contextlib import contextmanager
from pathlib import Path

import comfy.cli_args

comfy.cli_args.args.cpu = True

import comfy.ldm.wan.vae2_2  # noqa: E402 - after the device is chosen
import comfy.model_management  # noqa: E402
import comfy.model_patcher  # noqa: E402
import comfy.sd  # noqa: E402
import comfy.taesd.taesd  # noqa: E402
import comfy.utils  # noqa: E402
import comfy_api.latest  # noqa: E402, F401
import torch  # noqa: E402
from beside_nodes import load_pack  # noqa: E402
from comfy.nested_tensor import NestedTensor  # noqa: E402

WIDTH, HEIGHT, SECONDS = 176, 176, 13 / 24


@contextmanager
def memory_for(module, largest: float):
    """Inputs of a module with more values than this run out of memory; gives the sizes of all that came."""
    sizes = []

    def check(_module, inputs) -> None:
        sizes.append(inputs[0].numel())
        if inputs[0].numel() > largest:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate a lot.")

    handle = module.register_forward_pre_hook(check)
    try:
        yield sizes
    finally:
        handle.remove()


def stock_vae(ours):
    """ComfyUI's own class with its own Wan2.2 module, small, with the weights of ours."""
    codec = ours.first_stage_model.codec
    stock = comfy.ldm.wan.vae2_2.WanVAE(
        dim=16, dec_dim=16, z_dim=48, dim_mult=[1, 2, 4, 4], num_res_blocks=1, temperal_downsample=[False, True, True]
    )
    state = codec.state_dict()
    wanted = stock.state_dict()
    stock.load_state_dict({key: state[key].reshape(value.shape) for key, value in wanted.items()})
    vae = object.__new__(comfy.sd.VAE)
    vae.__dict__.update(ours.__dict__)
    vae.first_stage_model = stock.eval().requires_grad_(False)
    vae.patcher = comfy.model_patcher.ModelPatcher(stock, load_device=ours.device, offload_device=ours.device)
    return vae


def sentence(run) -> str:
    try:
        run()
    except ValueError as error:
        return str(error)
    return ""


def interrupt_after(pieces: int) -> list:
    """Press cancel once so much of a progress bar was seen; gives all that was seen."""
    seen = []

    def hook(value, total, _preview=None, node_id=None) -> None:
        del node_id
        seen.append((value, total))
        if len(seen) == pieces:
            comfy.model_management.interrupt_current_processing()

    comfy.utils.set_progress_bar_global_hook(hook)
    return seen


@torch.inference_mode()
def main(path: Path) -> dict:
    load_pack()
    from pack.nodes.bridge import decode, latent, loader  # noqa: PLC0415 - exists from here on

    patcher, _, video, audio = loader.load_all(path)[:4]
    empty = latent.empty_latent(patcher.model.config, seconds=SECONDS, width=WIDTH, height=HEIGHT, fps=24.0, batch=1)
    generator = torch.Generator().manual_seed(0)
    noise = [torch.randn(x.shape, generator=generator) for x in empty["samples"].unbind()]
    given = {**empty, "samples": NestedTensor(noise)}
    seen = interrupt_after(0)
    images, sound, _ = decode.decode(given, video, audio)
    whole = {"images": images, "wave": sound["waveform"]}
    values = [value for value, _ in seen]
    found = {"progress_rises": values == sorted(values) and len(values) > 1, "progress_ends": seen[-1][0] == seen[-1][1]}

    def far(other) -> float:
        return max((other[0] - whole["images"]).abs().max().item(), (other[1]["waveform"] - whole["wave"]).abs().max().item())

    fine = video.first_stage_model.codec.decoder.head  # the last layers, at full size
    with memory_for(fine, float("inf")) as sizes:
        decode.decode(given, video, audio, 1)
    most = max(sizes)  # of all 13 pictures: 512 positions are decoded at once, and the clip has 484
    vocoder = audio.first_stage_model.codec.vocoder
    for name, limit in (("chunks", most - 1), ("tiles", most // 13 * 4 - 1)):
        with memory_for(fine, limit) as tried:
            found[name] = far(decode.decode(given, video, audio))
        found[f"{name}_failed_before"] = sum(size > limit for size in tried)
    with memory_for(fine, 0):
        found["no_memory"] = sentence(lambda: decode.decode(given, video, audio))
    found["after_no_memory"] = far(decode.decode(given, video, audio))
    long = latent.empty_latent(patcher.model.config, seconds=97 / 24, width=16, height=16, fps=24.0, batch=1)
    with memory_for(vocoder.conv_pre, float("inf")) as sizes:
        at_once = decode.decode(long, video, audio)[1]["waveform"]
    with memory_for(vocoder.conv_pre, max(sizes) - 1):
        found["sound"] = (decode.decode(long, video, audio)[1]["waveform"] - at_once).abs().max().item()
    with memory_for(vocoder.conv_pre, 0):
        found["no_memory_for_sound"] = sentence(lambda: decode.decode(long, video, audio))

    plain = comfy.sd.VAE(sd=comfy.taesd.taesd.TAESD().state_dict())
    found["vaes_lack"] = sorted(vars(plain).keys() - (vars(video).keys() & vars(audio).keys()))
    other = stock_vae(video)
    found["stock"] = far(decode.decode(given, other, audio))
    last = other.first_stage_model.decoder.head[2]
    with memory_for(last, float("inf")) as sizes:
        decode.decode(given, other, audio, 1)
    # ComfyUI falls back to tiles of 16 latents, more than the clip has; those of 8 are 0.53 of it.
    with memory_for(last, 0.6 * max(sizes)):
        found["stock_tiles"] = (decode.decode(given, other, audio)[0] - images).abs().mean().item()
        found["mirrored"] = (images.flip(2) - images).abs().mean().item()
    with memory_for(last, 0):
        found["stock_no_memory"] = sentence(lambda: decode.decode(given, other, audio))
    for name, vae in (("ours", video), ("stock", other)):
        seen = interrupt_after(1)
        try:
            decode.decode(given, vae, audio)
        except comfy.model_management.InterruptProcessingException:
            found[f"{name}_cancelled_after"] = len(seen)
        interrupt_after(0)
        found[f"{name}_after_cancelling"] = far(decode.decode(given, vae, audio))
    return found


if __name__ == "__main__":
    result = main(Path(sys.argv[1]))
    sys.stdout.write(f"\n{json.dumps(result)}\n")

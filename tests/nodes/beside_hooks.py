"""Run beside ComfyUI: weight hooks whose keyframes begin within a run, against two stages of which the second has the weights.

Prints relative differences as JSON.
"""

import json
import sys
from pathlib import Path

import comfy.cli_args

comfy.cli_args.args.cpu = True

import comfy.hooks  # noqa: E402 - after the device is chosen
import comfy.samplers  # noqa: E402
import torch  # noqa: E402
from beside_nodes import load_pack  # noqa: E402
from comfy.nested_tensor import NestedTensor  # noqa: E402

KEYS = {
    "text": "diffusion_model.audio.blocks.1.cross_attn.v.weight",
    "driver": "diffusion_model.audio.blocks.0.ffn.0.weight",
    "step": "diffusion_model.video.blocks.0.ffn.0.weight",
}
STEPS, AT = 6, 3


def hook_of(key: str, delta: torch.Tensor, starts: list[tuple[float, float]]) -> comfy.hooks.HookGroup:
    """A change of one weight, with its strengths from shares of the steps on."""
    weight = comfy.hooks.WeightHook(strength_model=1.0, strength_clip=1.0)
    weight.weights = {key: (delta,)}
    weight.need_weight_init = False
    group, keyframes = comfy.hooks.HookGroup(), comfy.hooks.HookKeyframeGroup()
    group.add(weight)
    for strength, start in starts:
        keyframes.add(comfy.hooks.HookKeyframe(strength=strength, start_percent=start, guarantee_steps=0))
    group.set_keyframes_on_hooks(keyframes)
    return group


def relative(one, other) -> float:
    return max(((a - b).abs().max() / a.abs().max()).item() for a, b in zip(one.unbind(), other.unbind(), strict=True))


@torch.inference_mode()
def main(path: Path) -> dict:
    load_pack()
    from pack.harmony_core.flow import shifted_schedule  # noqa: PLC0415 - exists from here on
    from pack.harmony_core.types import AV  # noqa: PLC0415
    from pack.nodes.bridge import guider, latent, loader, sync  # noqa: PLC0415

    patcher, clip, *vaes = loader.load_all(path)
    positive = clip.encode_from_tokens_scheduled(clip.tokenize("a ball"))
    negative = clip.encode_from_tokens_scheduled(clip.tokenize("a dog"))
    empty = latent.empty_latent(patcher.model.config, seconds=13 / 24, width=48, height=32, fps=24.0, batch=1)
    wave = torch.rand(1, 1, 16_000, generator=torch.Generator().manual_seed(1)) - 0.5
    driven, *_ = latent.drive_with_audio(empty, vaes[1], {"waveform": wave, "sample_rate": 16_000}, 0.0)
    sigmas = torch.tensor(shifted_schedule(STEPS, shift=5.0))
    generator = torch.Generator().manual_seed(5)
    noise = NestedTensor([torch.randn(x.shape, generator=generator) for x in empty["samples"].unbind()])
    zero = NestedTensor([torch.zeros_like(x) for x in noise.unbind()])
    to_sigma = patcher.get_model_object("model_sampling").percent_to_sigma
    begins = next(p / 1000 for p in range(1001) if float(to_sigma(p / 1000)) <= float(sigmas[AT]) + 1e-6)
    assert float(to_sigma(begins)) > float(sigmas[AT + 1])

    def plain(model, told, away):
        made = comfy.samplers.CFGGuider(model)
        made.set_conds(told, away)
        made.set_cfg(2.0)
        return made

    def synced(model, told, away):
        guides = sync.Guides(sync=AV(3.0, 2.0), text_mode="same")
        return guider.guided(model, told, away, guides, vaes=tuple(vaes), still=None, fps=24.0)

    def run(made, given, some_noise, some_sigmas):
        euler = comfy.samplers.sampler_object("euler")
        mask = given.get("noise_mask")
        return made.sample(some_noise, given["samples"], euler, some_sigmas, denoise_mask=mask, disable_pbar=True, seed=5)

    found = {}
    for name, key in KEYS.items():
        shape = patcher.model.state_dict()[key].shape
        delta = torch.randn(shape, generator=generator) * 0.3
        hook = hook_of(key, delta, [(0.0, 0.0), (1.0, begins)])
        hooked = [[tokens, {**told, "hooks": hook}] for tokens, told in positive]
        hooked_away = [[tokens, {**told, "hooks": hook}] for tokens, told in negative]
        changed = patcher.clone()
        changed.add_patches({key: (delta,)})
        for task, given in {"joint": empty, "audio": driven}.items():
            for way, guided in {"cfg": plain, "sync": synced}.items():
                half = run(guided(patcher, positive, negative), given, noise, sigmas[: AT + 1])
                staged = {**given, "samples": half}
                want = run(guided(changed, positive, negative), staged, zero, sigmas[AT:])
                never = run(guided(patcher, positive, negative), given, noise, sigmas)
                got = run(guided(patcher, hooked, hooked_away), given, noise, sigmas)
                found[f"{name} {task} {way}"] = {"error": relative(want, got), "effect": relative(want, never)}
        # Hooked all along on the positive alone is the same as the two answers asked one by one and joined.
        always = [[tokens, {**told, "hooks": hook_of(key, delta, [(1.0, 0.0)])}] for tokens, told in positive]
        one = sigmas[[0, -1]]
        theirs = run(plain(changed, positive, positive), empty, noise, one).unbind()
        ours = run(plain(patcher, negative, negative), empty, noise, one).unbind()
        joined = NestedTensor([b + 2.0 * (a - b) for a, b in zip(theirs, ours, strict=True)])
        got = run(plain(patcher, always, negative), empty, noise, one)
        found[f"{name} one condition"] = {"error": relative(joined, got), "effect": 1.0}
    return found


if __name__ == "__main__":
    result = main(Path(sys.argv[1]))
    sys.stdout.write(f"\n{json.dumps(result)}\n")

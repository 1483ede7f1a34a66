"""Run beside ComfyUI: the memory of whole sampling runs and of the codecs, measured, and what ComfyUI is told of it."""

import json
import sys

import comfy.cli_args

# What GPUs have: the attention for a CPU without it takes what is free.
comfy.cli_args.args.cpu = True
comfy.cli_args.args.use_pytorch_cross_attention = True

import comfy.model_management  # noqa: E402
import comfy.sample  # noqa: E402
import torch  # noqa: E402
from beside_nodes import load_pack  # noqa: E402

CLIPS = ((13 / 24, 64, 1), (25 / 24, 128, 2), (25 / 24, 256, 1), (49 / 24, 256, 1), (49 / 24, 384, 2))
"""Seconds, edge and batch."""


def highest(work) -> int:
    """Bytes allocated at once while ``work`` is done, beside what was there before."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        work()
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = top = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        top = max(top, now)
    return top


def branch(config, channels: int, patch: tuple, dim: int, ffn: int):
    axes = config.split_channels(64) if len(patch) == 3 else (64,)
    shared = {"heads": dim // 64, "layers": 2, "text_dim": 64, "text_len": 64, "freq_dim": 64, "rope_axes": axes}
    return config.BranchConfig(channels=channels, patch=patch, dim=dim, ffn=ffn, **shared)


def harmony(config, *, dim: int, audio_dim: int, ffn: float, patch: int):
    """A model of two layers; how much is there at once does not depend on their number."""
    return config.HarmonyConfig(
        video=branch(config, 48, (1, patch, patch), dim, int(dim * ffn)),
        audio=branch(config, 20, (1,), audio_dim, int(audio_dim * ffn)),
        speech=config.SymbolEncoderConfig(symbols=" abc", length=32, dim=64, blocks=1),
        caption=config.SymbolEncoderConfig(length=64, dim=64, blocks=1),
        grid=config.Grid(patch=patch),
    )


def of_model(config, dtype: torch.dtype) -> list:
    from pack.harmony_core.models.harmony import Harmony  # noqa: PLC0415
    from pack.harmony_core.weights.checkpoint import Checkpoint, CodecConfigs  # noqa: PLC0415
    from pack.nodes.bridge import clip, latent, loader  # noqa: PLC0415

    plain = Harmony(config)
    plain.initialize(0)
    weights = {key: value.to(dtype) for key, value in plain.state_dict().items()}
    checkpoint = Checkpoint(config=config, codecs=CodecConfigs(), tensors=weights, metadata={})
    patcher = loader.model_of(checkpoint, "", {"dtype": dtype})
    encoder = clip.caption_clip(checkpoint)
    told = encoder.encode_from_tokens_scheduled(encoder.tokenize("a ball"))
    comfy.model_management.load_models_gpu([patcher])
    found = []
    for seconds, edge, batch in CLIPS:
        empty = latent.empty_latent(config, seconds=seconds, width=edge, height=edge, fps=24.0, batch=batch)["samples"]
        noise = comfy.sample.prepare_noise(empty, 7)
        asked = []
        # As ComfyUI asks before it samples, with the shapes of this run and not of the one before.
        estimate = patcher.model.memory_required
        patcher.model.memory_required = lambda shape, **k: asked.append((list(shape), estimate(shape, **k))) or asked[-1][1]  # noqa: B023

        def run():
            comfy.sample.sample(patcher, noise, 1, 1.0, "euler", "simple", told, told, empty, seed=7)  # noqa: B023

        measured = highest(run)
        patcher.model.memory_required = estimate
        found.append((next(value for shape, value in asked if shape[0] == batch), measured))
    return found


def of_codecs() -> dict:
    """Decoding and encoding of clips and sounds, from small to as long as several pieces."""
    from pack.harmony_core.codecs import audio, video_vae  # noqa: PLC0415
    from pack.nodes.bridge.codec import HarmonyAudioVAE, HarmonyVideoVAE  # noqa: PLC0415

    picture = HarmonyVideoVAE(video_vae.VideoVAE(video_vae.PRESETS["tiny"]))
    sound = HarmonyAudioVAE(audio.AudioCodec(audio.PRESETS["tiny"]))
    found: dict = {"decode video": [], "encode video": [], "decode audio": [], "encode audio": []}

    def measure(vae, what: str, latent: torch.Tensor, clip: torch.Tensor, shape: tuple) -> None:
        decode, encode = vae.memory_used_decode(latent.shape, vae.vae_dtype), vae.memory_used_encode(shape, vae.vae_dtype)
        found[f"decode {what}"].append((decode, highest(lambda: vae.decode(latent))))
        found[f"encode {what}"].append((encode, highest(lambda: vae.encode(clip))))

    for frames, edge in ((13, 64), (25, 128), (17, 256)):
        latent = torch.randn(1, 48, (frames + 3) // 4, edge // 16, edge // 16)
        measure(picture, "video", latent, torch.rand(frames, edge, edge, 3), (1, 3, frames, edge, edge))
    for length in (128, 320, 640):
        measure(sound, "audio", torch.randn(1, 20, length), torch.rand(1, length * 512, 2) - 0.5, (1, 2, length * 512))
    return found


def main() -> dict:
    load_pack()
    from pack.harmony_core import config  # noqa: PLC0415 - exists from here on

    kinds = {
        "wan": (harmony(config, dim=256, audio_dim=256, ffn=14 / 3, patch=2), torch.float32),
        "tiny": (harmony(config, dim=128, audio_dim=128, ffn=2, patch=1), torch.float32),
        "narrow sound": (harmony(config, dim=256, audio_dim=64, ffn=4, patch=2), torch.float32),
        "cast": (harmony(config, dim=256, audio_dim=256, ffn=14 / 3, patch=2), torch.bfloat16),
    }
    with torch.inference_mode():
        return of_codecs() | {name: of_model(made, dtype) for name, (made, dtype) in kinds.items()}


if __name__ == "__main__":
    result = main()
    sys.stdout.write(f"\n{json.dumps(result)}\n")

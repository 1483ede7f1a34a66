"""Run with ComfyUI's interpreter: our codecs and its own on the same small random weights; prints the differences.

The ratio of times is of medians, both in turn, on one thread, the wider codec of the two presets here.
"""

import json
import statistics
import time

import comfy.cli_args
import torch

comfy.cli_args.args.cpu = True
from comfy.ldm.mmaudio.vae import bigvgan  # noqa: E402
from comfy.ldm.mmaudio.vae import vae as mmaudio_vae  # noqa: E402
from comfy.ldm.wan import vae2_2  # noqa: E402

from harmony_core.codecs.audio import AudioCodec, AudioCodecConfig  # noqa: E402
from harmony_core.codecs.audio_vae import AudioVAEConfig  # noqa: E402
from harmony_core.codecs.video_vae import WAN_MEAN, WAN_STD, VideoVAE, VideoVAEConfig  # noqa: E402
from harmony_core.codecs.vocoder import VocoderConfig  # noqa: E402
from harmony_core.weights.audio_codec import to_comfyui  # noqa: E402


def video_pair(encoder: int, decoder: int):
    """Ours and ComfyUI's Wan2.2 video VAE, of these widths, with the same weights."""
    config = VideoVAEConfig(
        encoder_width=encoder, decoder_width=decoder, multipliers=(1, 2, 4, 4), blocks=2, mean=WAN_MEAN, std=WAN_STD
    )
    ours = VideoVAE(config)
    theirs = vae2_2.WanVAE(
        dim=encoder,
        dec_dim=decoder,
        z_dim=48,
        dim_mult=[1, 2, 4, 4],
        num_res_blocks=2,
        temperal_downsample=[False, True, True],
    )
    theirs.load_state_dict(ours.state_dict())
    return ours.requires_grad_(False), theirs.requires_grad_(False)


def seconds(*tasks) -> list[float]:
    """Medians of five runs of each, in turn, after one."""
    times = [[] for _ in tasks]
    for round_ in range(6):
        for task, own in zip(tasks, times, strict=True):
            start = time.perf_counter()
            task()
            if round_:
                own.append(time.perf_counter() - start)
    return [statistics.median(own) for own in times]


def video() -> dict[str, float]:
    """Differences on a small codec, ratios on a wider one."""
    ours, theirs = video_pair(8, 12)
    x, z = torch.rand(1, 3, 9, 48, 32) * 2 - 1, torch.randn(1, 48, 3, 3, 2)
    figures = {
        "video_encode_error": (ours.encode(x) - ours.normalise(theirs.encode(x))).abs().max().item(),
        "video_decode_error": (ours.decode(z, clamp=False) - theirs.decode(ours.denormalise(z))).abs().max().item(),
    }
    ours, theirs = video_pair(48, 64)
    x, z = torch.rand(1, 3, 9, 128, 128) * 2 - 1, torch.randn(1, 48, 3, 8, 8)
    a, b = seconds(lambda: ours.decode(z), lambda: theirs.decode(z))
    c, d = seconds(lambda: ours.encode(x), lambda: theirs.encode(x))
    return {**figures, "video_decode_over_comfyui": a / b, "video_encode_over_comfyui": c / d}


def audio() -> dict[str, float]:
    """Differences of the three parts on a small codec."""
    config = AudioCodecConfig(vae=AudioVAEConfig(width=16), vocoder=VocoderConfig(width=64))
    codec = AudioCodec(config)
    codec.audio_vae.init_weights()
    codec.vocoder.init_weights()
    codec.requires_grad_(False)
    for parameter in codec.parameters():  # biases, gains and snakes, which start even
        if parameter.ndim < 3:
            parameter.normal_(std=0.2)
    table = to_comfyui(codec.state_dict())

    def part(prefix: str) -> dict[str, torch.Tensor]:
        return {key.removeprefix(prefix): value for key, value in table.items() if key.startswith(prefix)}

    vae = mmaudio_vae.VAE(data_dim=80, embed_dim=20, hidden_dim=config.vae.width)
    vae.load_state_dict(part("vae."), strict=True)
    shape = config.vocoder
    settings = {
        "resblock": "1",
        "num_mels": shape.mel_bins,
        "upsample_rates": list(shape.rates),
        "upsample_kernel_sizes": list(shape.rate_kernels),
        "upsample_initial_channel": shape.width,
        "resblock_kernel_sizes": list(shape.block_kernels),
        "resblock_dilation_sizes": [list(dilations) for dilations in shape.block_dilations],
        "activation": "snakebeta",
        "snake_logscale": True,
    }
    vocoder = bigvgan.BigVGANVocoder(settings)
    vocoder.load_state_dict(part("vocoder."), strict=True)
    mel, z = torch.randn(1, 80, 24), torch.randn(1, 20, 12)
    return {
        "audio_encode_error": (codec.audio_vae.encode(mel) - vae.encode(mel).mean).abs().max().item(),
        "audio_decode_error": (codec.audio_vae.decode(z) - vae.decode(z)).abs().max().item(),
        "vocoder_error": (codec.vocoder(mel) - vocoder(mel)).abs().max().item(),
        "vocoder_spread": vocoder(mel).std().item(),
    }


torch.manual_seed(0)
torch.set_num_threads(1)
with torch.no_grad():
    print(json.dumps({**video(), **audio()}))

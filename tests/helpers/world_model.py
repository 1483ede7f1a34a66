"""A model of the small world's grid with random weights, codecs and judges; every part is there."""

import torch
from small import small_branch

from harmony_core.codecs.audio import AudioCodec, AudioCodecConfig
from harmony_core.codecs.audio_vae import AudioVAEConfig
from harmony_core.codecs.video_vae import WAN_MEAN, WAN_STD, VideoVAE, VideoVAEConfig
from harmony_core.codecs.vocoder import VocoderConfig
from harmony_core.config import LETTERS, TONES, HarmonyConfig, InteractionConfig, SymbolEncoderConfig
from harmony_core.geometry import Grid
from harmony_core.models.harmony import Harmony
from harmony_core.pipeline import Pipeline
from harmony_core.weights.checkpoint import CodecConfigs, save_checkpoint
from harmony_core.world.judges import Judges, Listener, SyncNet

VIDEO = VideoVAEConfig(encoder_width=4, decoder_width=4, multipliers=(1, 1, 1, 1), blocks=1, mean=WAN_MEAN, std=WAN_STD)
AUDIO = AudioCodecConfig(
    vae=AudioVAEConfig(width=32, multipliers=(1, 1), blocks=1),
    vocoder=VocoderConfig(width=32, rates=(16, 16), rate_kernels=(32, 32), block_kernels=(3,), block_dilations=((1,),)),
)


def world_config(grid: Grid | None = None, **interaction) -> HarmonyConfig:
    grid = grid or Grid(patch=1)
    return HarmonyConfig(
        video=small_branch(48, (1, grid.patch, grid.patch), text_len=96),
        audio=small_branch(20, (1,), text_len=96),
        interaction=InteractionConfig(**{"style_tokens": 2, **interaction}),
        speech=SymbolEncoderConfig(symbols=LETTERS + TONES, length=64, dim=16, blocks=1),
        caption=SymbolEncoderConfig(length=96, dim=16, blocks=1),
        grid=grid,
    )


def world_pipeline(config: HarmonyConfig | None = None) -> Pipeline:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Harmony(config or world_config())
        model.initialize(0)
        for parameter in model.parameters():
            if parameter.ndim > 1 and parameter.std() == 0:
                torch.nn.init.normal_(parameter, std=0.1)
        return Pipeline(
            model=model.requires_grad_(False),
            video_vae=VideoVAE(VIDEO).requires_grad_(False),
            audio_codec=AudioCodec(AUDIO).requires_grad_(False),
        )


def world_judges() -> Judges:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Judges(Listener().eval(), SyncNet().eval())


def save_world_checkpoint(path, pipeline: Pipeline) -> None:
    """Write an all-in-one file."""
    video = {f"video_vae.{key}": value for key, value in pipeline.video_vae.state_dict().items()}
    tensors = {**pipeline.model.state_dict(), **video, **pipeline.audio_codec.state_dict()}
    codecs = CodecConfigs(video=pipeline.video_vae.config, audio=pipeline.audio_codec.config)
    save_checkpoint(path, pipeline.model.config, tensors, codecs=codecs)

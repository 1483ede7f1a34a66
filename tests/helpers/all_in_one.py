"""An all-in-one checkpoint with every part there and random weights, small enough for a test."""

from pathlib import Path

import torch
from small import small_branch, small_model

from harmony_core.codecs.audio import PRESETS as AUDIO
from harmony_core.codecs.audio import AudioCodec
from harmony_core.codecs.video_vae import PRESETS as VIDEO
from harmony_core.codecs.video_vae import VideoVAE
from harmony_core.config import HarmonyConfig, SymbolEncoderConfig
from harmony_core.geometry import ClipSpec, Grid
from harmony_core.weights.checkpoint import CodecConfigs, save_checkpoint
from harmony_core.weights.trained import clip_metadata

GRID = Grid(patch=1)
SPEC = ClipSpec(frames=13, height=32, width=48, grid=GRID)
"""What the checkpoint says it was trained on."""


def all_in_one_config(**changes) -> HarmonyConfig:
    base = HarmonyConfig(
        video=small_branch(48, (1, 1, 1), text_len=24),
        audio=small_branch(20, (1,), text_len=24),
        speech=SymbolEncoderConfig(symbols=" abc", length=6, dim=16, blocks=1),
        caption=SymbolEncoderConfig(length=24, dim=16, blocks=1),
        grid=GRID,
    )
    return base.replace(**changes)


def save_all_in_one(path: Path, *, codecs: bool = True, **changes) -> Path:
    """Write one; ``changes`` are fields of the config."""
    config = all_in_one_config(**changes)
    model = small_model(config)
    torch.manual_seed(0)
    tensors, configs = dict(model.state_dict()), CodecConfigs()
    if codecs:
        video, audio = VideoVAE(VIDEO["tiny"]), AudioCodec(AUDIO["tiny"])
        configs = CodecConfigs(video=video.config, audio=audio.config)
        tensors |= {**{f"video_vae.{key}": value for key, value in video.state_dict().items()}, **audio.state_dict()}
    metadata = {**clip_metadata(SPEC), "modelspec.title": "small"}
    save_checkpoint(path, config, tensors, codecs=configs, metadata=metadata)
    return path

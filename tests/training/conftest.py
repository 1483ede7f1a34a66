"""Fixtures of the training tests: a small cache of latents, and a model that learns from it in a moment."""

import dataclasses

import pytest
import torch
from small import small_branch

from harmony_core.codecs.audio import AudioCodec, AudioCodecConfig
from harmony_core.codecs.audio_vae import AudioVAEConfig
from harmony_core.codecs.video_vae import VideoVAE, VideoVAEConfig
from harmony_core.codecs.vocoder import VocoderConfig
from harmony_core.config import HarmonyConfig, InteractionConfig, SymbolEncoderConfig
from harmony_core.flow import draw_noise
from harmony_core.geometry import ClipSpec, Grid
from harmony_core.training.cache import LatentCache
from harmony_core.training.config import DataConfig, ModelRun, ObjectiveConfig, OptimizerConfig, RunConfig, StageConfig
from harmony_core.training.store import Entry, writing
from harmony_core.types import AV

GRID = Grid(patch=1)
SPEC = ClipSpec(frames=9, height=32, width=32, grid=GRID)


@pytest.fixture(scope="session")
def model_config() -> HarmonyConfig:
    return HarmonyConfig(
        video=small_branch(48, (1, 1, 1), text_len=12),
        audio=small_branch(20, (1,), text_len=12),
        interaction=InteractionConfig(style_tokens=2, reference_gap=4),
        speech=SymbolEncoderConfig(symbols=" abcdefghijklmnopqrstuvwxyz", length=8, dim=16, blocks=1),
        caption=SymbolEncoderConfig(length=12, dim=16, blocks=1),
        grid=GRID,
    )


@pytest.fixture(scope="session")
def cache(tmp_path_factory) -> LatentCache:
    """Ten clips: two speakers, one clip with a reference of its own, one of nobody."""
    folder = tmp_path_factory.mktemp("data") / "cache"
    noise = draw_noise(AV(SPEC.video_shape(10), SPEC.audio_shape(10)), range(10))
    speakers = ["ann", "bob"] * 4 + [None, "ann"]
    with writing(folder, kind="latents", spec=SPEC, shard_clips=4) as writer:
        for n in range(10):
            entry = Entry(
                file=f"{n}.mp4", video_caption=f"ball {n}", audio_caption="knock", transcript="hi", speaker=speakers[n]
            )
            loose = {"reference": torch.full((20, 6), 7.0)} if n == 3 else {}
            writer.add(entry, {"video": noise.video[n].half(), "audio": noise.audio[n].half()}, loose)
    return LatentCache(folder)


@pytest.fixture(scope="session")
def codecs():
    """Small random codecs of pictures and sound."""
    torch.manual_seed(0)
    video = VideoVAE(
        VideoVAEConfig(encoder_width=4, decoder_width=4, multipliers=(1, 1, 1, 1), blocks=1, mean=(0.1,) * 48, std=(0.5,) * 48)
    )
    audio = AudioCodec(
        AudioCodecConfig(
            vae=AudioVAEConfig(width=8, blocks=1), vocoder=VocoderConfig(width=16, rates=(16, 16), rate_kernels=(16, 16))
        )
    )
    audio.audio_vae.init_weights(torch.Generator().manual_seed(0))
    audio.vocoder.init_weights(torch.Generator().manual_seed(0))
    return video.requires_grad_(False), audio.requires_grad_(False)


@pytest.fixture
def make_run(tmp_path, cache, model_config):
    """A model run; keyword arguments change its parts."""

    def make(*, stages=None, objective=None, steps=6, lr=1e-3, **run) -> ModelRun:
        stage = StageConfig(
            name="joint",
            steps=steps,
            optimizer=OptimizerConfig(lr=lr, warmup=2),
            objective=objective or ObjectiveConfig(reference_seconds=(0.05, 0.2)),
        )
        base = {"output": str(tmp_path / "run"), "batch": 4, "save_every": 3}
        return ModelRun(
            kind="model",
            run=RunConfig(**{**base, **run}),
            data=DataConfig(folder=str(cache.folder), cache=str(cache.folder), frames=9, height=32, width=32),
            model=model_config,
            video_codec="",
            audio_codec="",
            stages=stages or (stage,),
        )

    return make


def changed(run, part, **changes):
    """The same run with fields of a part exchanged."""
    return dataclasses.replace(run, **{part: dataclasses.replace(getattr(run, part), **changes)})

"""Train a codec or the model as a YAML file says.

What is made of the data set (packed clips for a codec, latents for the model) is made at the first run and kept. A run that was
stopped or killed goes on with --resume. Several processes: torchrun --nproc-per-node N -m harmony_core train CONFIG
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ..inputs import exists, is_file, named
from .progress_line import ProgressLine

if TYPE_CHECKING:
    from ..codecs.audio import AudioCodec
    from ..codecs.video_vae import VideoVAE
    from ..training.cache import LatentCache
    from ..training.config import AnyRun, ModelRun
    from ..training.data import PackedClips
    from ..training.distributed import World

SUMMARY = "train a codec or the model"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The config, and whether to go on."""
    parser.add_argument("config", type=Path, help="a YAML file; see configs/")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint of the run")


def run(args: argparse.Namespace) -> None:
    """Make what is missing of the data, then train.

    Raises:
        ValueError: something is wrong with the config, the data, the codecs or the run's folder.
    """
    from ..training.alone import alone
    from ..training.config import read_config
    from ..training.distributed import connected

    config = read_config(args.config)
    with (
        connected(config.run.device, timeout_minutes=config.run.timeout_minutes) as world,
        alone(config.run.output, first=world.first, resume=args.resume),
    ):
        _make_world(config, world)
        if config.kind == "model":
            path = _train_model(config, world, resume=args.resume)
        else:
            path = _train_codec(config, world, resume=args.resume)
        if world.first:
            print(f"wrote {path}")


def _make_world(config: AnyRun, world: World) -> None:
    """The data set of small-world clips that the config describes, if it is not there; each process makes a part of it."""
    from ..training.data import Clip, pack
    from ..training.store import Entry
    from ..world.clip import KINDS, WorldClip, clip_spec
    from ..world.dataset import dataset, recipes

    data = config.data
    if data.world is None or data.folder is None or world.all(exists(Path(data.folder)))[0]:
        return

    def pair(clip: WorldClip) -> tuple[Entry, Clip]:
        entry = Entry(
            file=f"{clip.kind}_{clip.seed:07d}",
            video_caption=clip.video_caption,
            audio_caption=clip.audio_caption,
            transcript=clip.transcript,
            speaker=clip.voice or None,
            sound_source=clip.sound_source or None,
            null=clip.kind == "still",
        )
        voice = clip.reference_audio
        return entry, Clip(clip.frames, clip.samples[0], None if voice is None else voice.waveform[0, 0])

    mix = dict(zip(KINDS, data.world.mix, strict=True))
    wanted = recipes(data.world.clips, first_seed=data.world.first_seed, mix=mix, split=data.world.split)
    begin, end = world.rows(len(wanted))
    pack(
        map(pair, dataset(wanted[begin:end])),
        clip_spec(data.world.split),
        data.folder,
        total=end - begin,
        shard_clips=data.shard_clips,
        world=world,
        progress=ProgressLine("making clips", shown=world.first),
    )


def _train_codec(config: AnyRun, world: World, *, resume: bool) -> Path:
    from ..training.codecs import train_audio_codec, train_video_codec

    clips = _packed(config, world)
    line = ProgressLine("training", shown=world.first)
    if config.kind == "codecs-video":
        return train_video_codec(config, clips, world=world, resume=resume, progress=line)
    assert config.kind == "codecs-audio"
    return train_audio_codec(config, clips, world=world, resume=resume, progress=line)


def _train_model(config: ModelRun, world: World, *, resume: bool) -> Path:
    import torch

    from ..runtime import Runtime
    from ..training.model import check_parts, train_model
    from ..training.samples import sampler
    from ..weights.checkpoint import CodecConfigs
    from ..weights.codec_files import codec_tensors, load_sound_codec, load_video_codec
    from ..weights.trained import clip_metadata

    check_parts(config)
    runtime = Runtime(device=config.run.device)
    sound = load_sound_codec(config.audio_codec, runtime, vocoder=config.vocoder)
    codecs = load_video_codec(config.video_codec, runtime), sound
    cache = _cached(config, world, *codecs)
    return train_model(
        config,
        cache,
        codecs=CodecConfigs(video=codecs[0].config, audio=codecs[1].config),
        extras=codec_tensors(*codecs, dtype=getattr(torch, config.stored)),
        metadata=clip_metadata(config.data.spec(config.model)),
        measure=sampler(config, cache, *codecs) if config.samples.clips else None,
        world=world,
        resume=resume,
        progress=ProgressLine("training", shown=world.first),
    )


def _packed(config: AnyRun, world: World) -> PackedClips:
    """Packed clips: the data set itself, or made of it once, by all processes."""
    from ..training.data import PackedClips, open_source, pack_clips
    from ..training.store import INDEX

    ((part, cache),) = config.data.parts()
    spec, folder = config.data.spec(), Path(part.folder)
    if not is_file(folder / INDEX):
        if not world.all(exists(cache))[0]:
            source = open_source(folder, spec, segments=config.data.segments, stride=config.data.stride)
            pack_clips(
                source,
                cache,
                pictures=config.kind == "codecs-video",
                shard_clips=config.data.shard_clips,
                world=world,
                progress=ProgressLine("reading clips", shown=world.first),
            )
        folder = cache
    packed = open_source(folder, spec)
    if not isinstance(packed, PackedClips):
        raise ValueError(f"{named(folder)} holds no packed clips; remove it or name another data.cache")
    return packed


def _cached(config: ModelRun, world: World, video_codec: VideoVAE, audio_codec: AudioCodec) -> LatentCache:
    """Latents of the data set, and captions where the model has no encoder for them, made once, by all processes."""
    from ..training.cache import LatentCache, build_cache, fingerprint
    from ..training.captions import check_captions, load_caption_encoder
    from ..training.data import open_source

    data, text = config.data, config.text_encoder
    parts = [(Path(source.folder), folder) for source, folder in data.parts()]
    there = world.all([exists(made) for _, made in parts])[0]
    missing = [part for part, done in zip(parts, there, strict=True) if not done]
    if missing:
        specs = data.specs(config.model)
        # All are opened first: what is wrong with a manifest is said before the hours of encoding.
        sources = [open_source(f, specs[0], specs=specs, segments=data.segments, stride=data.stride) for f, _ in missing]
        captions = None if text is None else load_caption_encoder(text, config.model, config.run.device)
        for source, (folder, made) in zip(sources, missing, strict=True):
            line = "encoding clips" if len(parts) == 1 else f"encoding clips of {folder.name}"
            build_cache(
                source,
                made,
                video_codec,
                audio_codec,
                captions=captions,
                null_pairs=data.null_pairs,
                sound_alone=any(stage.objective.streams == "audio" for stage in config.stages),
                shard_clips=data.shard_clips,
                world=world,
                progress=ProgressLine(line, shown=world.first),
            )
    cache = LatentCache(*(made for _, made in parts))
    if cache.made_with != fingerprint(video_codec, audio_codec):
        raise ValueError(
            f"the latents in {named(data.cache)} were made with other codecs; remove the folder to make them again"
        )
    check_captions(cache, config.model, text)
    return cache

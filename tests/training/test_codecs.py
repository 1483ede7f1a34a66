import dataclasses
import json
import math

import pytest
import torch
import yaml
from rounding import ROUNDING, away
from safetensors.torch import load_file
from small import small_branch
from synthetic import Discs

from harmony_core.__main__ import main
from harmony_core.codecs.audio import AudioCodec, AudioCodecConfig
from harmony_core.codecs.audio_vae import AudioVAEConfig
from harmony_core.codecs.mel import log_mel
from harmony_core.codecs.video_vae import VideoVAE, VideoVAEConfig
from harmony_core.codecs.vocoder import VocoderConfig
from harmony_core.media import probe
from harmony_core.progress import Cancelled
from harmony_core.records import to_record
from harmony_core.training.codecs import (
    AudioObjective,
    VideoObjective,
    _draw_audio,
    _draw_video,
    _where_it_moves,
    train_audio_codec,
    train_video_codec,
    with_audio_statistics,
    with_video_statistics,
)
from harmony_core.training.config import AudioCodecRun, DataConfig, OptimizerConfig, RunConfig, VideoCodecRun
from harmony_core.training.data import pack_clips
from harmony_core.training.loop import read_log
from harmony_core.training.spectral import spectral_distance
from harmony_core.types import Audio
from harmony_core.weights.checkpoint import load_checkpoint
from harmony_core.weights.codec_files import load_sound_codec, load_video_codec


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return pack_clips(Discs(8, frames=13, size=32), tmp_path_factory.mktemp("clips") / "packed")


def common(tmp_path, steps, batch):
    return {
        "run": RunConfig(output=str(tmp_path / "run"), batch=batch, save_every=steps // 2, ema=0.9),
        "data": DataConfig(folder="", cache="", frames=13, height=32, width=32),
        "optimizer": OptimizerConfig(lr=3e-3, warmup=5, weight_decay=0.0),
        "steps": steps,
        "statistics_clips": 8,
    }


def video_run(tmp_path, steps=30):
    codec = VideoVAEConfig(
        encoder_width=8, decoder_width=8, multipliers=(1, 1, 2, 2), blocks=1, mean=(0.0,) * 48, std=(1.0,) * 48
    )
    return VideoCodecRun(kind="codecs-video", codec=codec, crop_frames=5, **common(tmp_path, steps, 4))


def audio_run(tmp_path, steps=30):
    codec = AudioCodecConfig(
        vae=AudioVAEConfig(width=16, multipliers=(1, 1), blocks=1),
        vocoder=VocoderConfig(width=16, rates=(16, 16), rate_kernels=(16, 16), block_kernels=(3,), block_dilations=((1,),)),
    )
    return AudioCodecRun(kind="codecs-audio", codec=codec, crop_frames=12, **common(tmp_path, steps, 4))


def fall(log, name):
    return sum(line[name] for line in log[-5:]) / sum(line[name] for line in log[:5])


def test_a_video_codec_learns_and_its_latents_have_unit_variance(tmp_path, clips):
    config = video_run(tmp_path)
    vae = load_video_codec(train_video_codec(config, clips))
    assert fall(read_log(tmp_path / "run" / "log.jsonl"), "absolute") < 0.7
    frames = torch.stack([clips.clip(n).frames for n in range(8)])
    latents = vae.encode(frames)
    spread = vae.posterior(frames)[1].exp().mean((0, 2, 3, 4)) / torch.tensor(vae.config.std).square()
    assert (latents.mean((0, 2, 3, 4)).abs() < 1e-3).all()
    assert (latents.var((0, 2, 3, 4)) + spread - 1).abs().max() < 2e-2  # of draws, not of their means
    error = (vae.decode(latents) - frames).abs().mean()
    assert error < 0.85 * (frames - frames.mean()).abs().mean()


def test_a_video_codec_trained_on_begins_where_its_file_ends(tmp_path, clips):
    first = train_video_codec(video_run(tmp_path, steps=4), clips)
    onward = dataclasses.replace(video_run(tmp_path / "on", steps=2), init=str(first))
    onward = dataclasses.replace(onward, optimizer=OptimizerConfig(lr=1e-12, warmup=0, weight_decay=0.0))
    before, after = (load_video_codec(path).state_dict() for path in (first, train_video_codec(onward, clips)))
    assert all(torch.allclose(value, after[key], atol=1e-6) for key, value in before.items())
    other = VideoVAEConfig(
        encoder_width=4, decoder_width=8, multipliers=(1, 1, 2, 2), blocks=1, mean=(0.0,) * 48, std=(1.0,) * 48
    )
    with pytest.raises(ValueError, match="of another shape"):
        train_video_codec(dataclasses.replace(onward, codec=other), clips)


def test_latents_drawn_to_components_come_nearer_to_them_and_keep_their_scale_to_each_other(tmp_path, clips):
    config = dataclasses.replace(video_run(tmp_path, 60), linear=1.0, kl=0.0)
    vae = load_video_codec(train_video_codec(config, clips))
    assert fall(read_log(tmp_path / "run" / "log.jsonl"), "linear") < 0.7
    assert len(set(vae.config.std)) == 1
    frames = torch.stack([clips.clip(n).frames for n in range(8)])
    spread = vae.encode(frames).var((0, 2, 3, 4))
    assert spread[0] > 3 * spread[-12:].mean()  # the first component is the one of most variance


def test_an_audio_codec_learns_and_its_latents_have_unit_variance(tmp_path, clips):
    config = audio_run(tmp_path)
    codec = load_sound_codec(train_audio_codec(config, clips))
    log = read_log(tmp_path / "run" / "log.jsonl")
    assert fall(log, "vae") < 0.8
    assert fall(log, "spectral") < 0.9
    waves = torch.stack([clips.clip(n).wave for n in range(8)])
    latents = codec.encode(Audio(waves[:, None], 16_000))
    assert (latents.mean((0, 2)).abs() < 1e-3).all()
    padded = torch.nn.functional.pad(waves, (0, -waves.shape[1] % codec.config.hop))
    spread = codec.audio_vae.posterior(log_mel(padded, codec.config.mel)).log_variance.exp().mean((0, 2))
    assert (latents.var((0, 2)) + spread - 1).abs().max() < 2e-2
    mel = log_mel(codec.waveform(Audio(waves[:, None], 16_000)), codec.config.mel)
    assert (codec.audio_vae.data_mean[0, :, 0] - mel.mean((0, 2))).abs().max() < 0.3


def test_a_channel_that_is_not_used_stays_next_to_nothing(tmp_path, clips):
    """Its posterior is the prior: its mean says nothing, and must not be blown up to unit variance."""
    frames, waves = (torch.stack([getattr(clips.clip(n), name) for n in range(8)]) for name in ("frames", "wave"))
    torch.manual_seed(0)
    vae, codec = VideoVAE(video_run(tmp_path).codec), AudioCodec(audio_run(tmp_path).codec)
    codec.audio_vae.init_weights()
    unused, half = 3, {vae.conv1: 48, codec.audio_vae.encoder.conv_out: 20}
    for layer, channels in half.items():
        layer.requires_grad_(False)
        for parameter in layer.parameters():
            parameter[[unused, unused + channels]] *= 1e-4
    vae, codec = with_video_statistics(vae, clips, 8), with_audio_statistics(codec, clips, 8)
    assert abs(vae.config.std[unused] - 1) < 1e-2
    assert vae.encode(frames)[:, unused].abs().max() < 1e-2
    with torch.no_grad():
        latents = codec.encode(Audio(waves[:, None], 16_000))
    assert (codec.audio_vae.latent_std.flatten()[unused] - 1).abs() < 1e-2
    assert latents[:, unused].abs().max() < 1e-2
    assert latents.var((0, 2)).max() > 0.1


def test_errors_weigh_more_where_something_moves():
    clips = torch.zeros(2, 3, 5, 8, 8)
    clips[0, 1, 3, 2:4, 2:4] = 1.5
    weight = _where_it_moves(clips, 4.0)
    assert weight.shape == (2, 1, 1, 8, 8)
    assert float(weight.mean()) == pytest.approx(1)
    still, moving = weight[1, 0, 0, 0, 0], weight[0, 0, 0, 2, 2]
    assert float(moving / still) == pytest.approx(1 + 4 * 1.5)
    assert (weight[0, 0, 0, 2:4, 2:4] == moving).all()
    assert (weight == still).sum() == 2 * 64 - 4
    assert away(_where_it_moves(clips, 0.0), torch.ones(2, 1, 1, 8, 8)) <= ROUNDING


def test_without_focus_the_loss_is_the_unweighted_one_and_with_it_parts_average_to_the_whole(tmp_path, clips):
    config = video_run(tmp_path)
    torch.manual_seed(0)
    vae = VideoVAE(config.codec).requires_grad_(False)
    batch = _draw_video(config, clips, 0)
    mean, log_variance = vae.posterior(batch.clips)
    error = vae.decode(vae.normalise(mean + (0.5 * log_variance).exp() * batch.noise), clamp=False) - batch.clips
    losses = VideoObjective(vae, config)(batch)
    assert away(losses["absolute"], error.abs().mean()) <= ROUNDING
    assert away(losses["squared"], error.square().mean()) <= ROUNDING
    assert away(losses["motion"], error.diff(dim=2).abs().mean()) <= ROUNDING
    focused = dataclasses.replace(config, focus=4.0)
    batch, objective = _draw_video(focused, clips, 0), VideoObjective(vae, focused)
    whole, parts = objective(batch), [objective(batch.part(n, 4)) for n in range(4)]
    assert abs(whole["loss"] - losses["loss"]) > 1e-3
    for name in whole:
        assert float(sum(part[name] for part in parts) / 4) == pytest.approx(float(whole[name]), rel=1e-5)


@pytest.mark.parametrize(("make", "train"), [(video_run, train_video_codec), (audio_run, train_audio_codec)])
@pytest.mark.bitwise("program")
def test_a_codec_s_run_resumes_bit_for_bit(tmp_path, clips, make, train):
    whole = load_file(train(make(tmp_path / "a", steps=4), clips))

    def stop(done, total):
        if done == 3:
            raise Cancelled

    with pytest.raises(Cancelled):
        train(make(tmp_path / "b", steps=4), clips, progress=stop)
    resumed = load_file(train(make(tmp_path / "b", steps=4), clips, resume=True))
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)


def test_neither_sound_network_s_gradient_reaches_the_other(tmp_path, clips):
    config = dataclasses.replace(audio_run(tmp_path), decoded=1.0)
    codec = AudioCodec(config.codec)
    codec.audio_vae.init_weights()
    codec.vocoder.init_weights()
    losses = AudioObjective(codec, dataclasses.replace(config, kl=0.0))(_draw_audio(config, clips, 0))
    alone = torch.autograd.grad(losses["loss"], list(codec.audio_vae.parameters()), allow_unused=True)
    quiet = AudioObjective(codec, dataclasses.replace(config, kl=0.0, windows=(64,), mel=0.0))(_draw_audio(config, clips, 0))
    other = torch.autograd.grad(quiet["loss"], list(codec.audio_vae.parameters()), allow_unused=True)
    assert all(away(b, a) <= ROUNDING for a, b in zip(alone, other, strict=True) if a is not None)


def test_spectral_distance_is_nothing_for_equal_sounds_and_hears_pitch_not_phase():
    t = torch.arange(4096) / 16_000
    wave = torch.sin(2 * math.pi * 440 * t)[None]
    turned = torch.sin(2 * math.pi * 440 * t + 1)[None]
    higher = torch.sin(2 * math.pi * 520 * t)[None]
    far = spectral_distance(higher, wave, 1024)
    assert spectral_distance(wave, wave, 1024) < 1e-5 * far
    assert spectral_distance(turned, wave, 1024) < 0.5 * far
    quiet = (1e-6 * higher).requires_grad_(True)
    spectral_distance(quiet, wave, 1024).backward()
    assert quiet.grad.any()  # silence is no trap
    with pytest.raises(ValueError, match="shorter than a spectral window"):
        spectral_distance(wave[:, :100], wave[:, :100], 1024)


def test_the_command_trains_codecs_then_the_model(tmp_path, capsys):
    """From YAML files alone: video codec, audio codec, cache, model, and the one file that holds all of it."""
    pack_clips(Discs(4, frames=5, size=32), tmp_path / "packed")
    data = {"folder": str(tmp_path / "packed"), "cache": str(tmp_path / "latents"), "frames": 5, "height": 32, "width": 32}
    optimizer = {"lr": 1e-3, "warmup": 1}

    def command(name, record, *options):
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump({"run": {"output": str(tmp_path / name), "batch": 2}, "data": data, **record}))
        return main(["train", str(path), *options])

    def plain(codec):
        return json.loads(json.dumps(to_record(codec)))

    video, audio = plain(video_run(tmp_path).codec), plain(audio_run(tmp_path).codec)
    video_record = {"kind": "codecs-video", "codec": video, "steps": 2, "optimizer": optimizer, "crop_frames": 5}
    assert command("video", video_record) == 0
    audio_record = {"kind": "codecs-audio", "codec": audio, "steps": 2, "optimizer": optimizer, "crop_frames": 10}
    assert command("audio", {**audio_record, "windows": [512]}) == 0
    branch = {"dim": 48, "heads": 2, "layers": 1, "ffn": 64, "text_dim": 96}
    record = {
        "kind": "model",
        "model": {
            "preset": "tiny",
            "video": {**branch, "rope_axes": list(small_branch(48, (1, 1, 1)).rope_axes)},
            "audio": {**branch, "rope_axes": [24]},
        },
        "video_codec": str(tmp_path / "video" / "video_codec.safetensors"),
        "audio_codec": str(tmp_path / "audio" / "audio_codec.safetensors"),
        "stages": [{"name": "joint", "steps": 2, "optimizer": optimizer, "objective": {"reference_seconds": [0.05, 0.1]}}],
    }
    record["data"] = {**data, "null_pairs": 0.25}
    record["samples"] = {"clips": 2, "steps": 2}
    assert command("model", record) == 0
    checkpoint = load_checkpoint(tmp_path / "model" / "model.safetensors")
    assert checkpoint.model().config.video.dim == 48
    assert checkpoint.video_vae().config.std != (1.0,) * 48
    assert checkpoint.audio_codec().config.vae.width == 16
    clip = probe(tmp_path / "model" / "samples" / "step-00000002-1.mp4")
    assert clip.video is not None
    assert clip.audio is not None
    assert command("model", record) == 1
    assert "holds a run already" in capsys.readouterr().err
    assert command("model", record, "--resume") == 0

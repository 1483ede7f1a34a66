import json
from pathlib import Path

import pytest
import text_encoders
import torch
from processes import together, written

from harmony_core.__main__ import main
from harmony_core.codecs.audio import PRESETS as AUDIO
from harmony_core.codecs.audio import AudioCodec
from harmony_core.codecs.video_vae import PRESETS as VIDEO
from harmony_core.codecs.video_vae import VideoVAE
from harmony_core.media import write_video, write_wav
from harmony_core.training.cache import LatentCache
from harmony_core.training.config import WorldConfig
from harmony_core.training.data import PackedClips
from harmony_core.types import Audio, Video
from harmony_core.weights.checkpoint import load_checkpoint
from harmony_core.weights.codec_files import load_video_codec, save_codec
from harmony_core.world.clip import KINDS
from harmony_core.world.dataset import recipes

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.mark.parametrize("name", ["tiny-video-vae", "tiny-audio-vae", "tiny-model"])
def test_a_device_that_is_not_there_is_one_sentence_before_any_work(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    text = (CONFIGS / f"{name}.yaml").read_text()
    config = tmp_path / "run.yaml"
    config.write_text(text.replace("run:\n", "run:\n  device: abacus\n", 1))
    assert main(["train", str(config)]) == 1
    assert "the config's device abacus cannot be used" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["run.yaml"]


TOLD_BY_UMT5 = """
kind: model
run: {output: run, batch: 2}
data: {folder: clips, cache: latents, frames: 9, height: 32, width: 32, null_pairs: 0.5}
video_codec: vae.safetensors
audio_codec: sound.safetensors
text_encoder: umt5
model: {preset: tiny, caption: null, video: {layers: 1, text_dim: 16}, audio: {layers: 1, text_dim: 16}}
stages: [{name: joint, steps: 1, optimizer: {lr: 1e-3}, objective: {reference: none}}]
samples: {clips: 1, steps: 1}
"""


def test_a_model_without_a_caption_encoder_is_trained_on_captions_of_umt5(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    save_codec(Path("vae.safetensors"), VideoVAE(VIDEO["tiny"]))
    save_codec(Path("sound.safetensors"), AudioCodec(AUDIO["tiny"]))
    text_encoders.save_folder(Path("umt5"))
    Path("clips").mkdir()
    lines = []
    for name in ("a.mp4", "b.mp4"):
        video, sound = Video(torch.rand(1, 3, 9, 32, 32) * 2 - 1, 24.0), Audio(torch.rand(1, 1, 6000) - 0.5, 16_000)
        write_video(Path("clips") / name, video, sound)
        lines.append(json.dumps({"file": name, "video_caption": f"a ball {name}", "transcript": "hi"}))
    Path("clips/manifest.jsonl").write_text("\n".join(lines))
    Path("run.yaml").write_text(TOLD_BY_UMT5)
    assert main(["train", "run.yaml"]) == 0, capsys.readouterr().err
    model = load_checkpoint("run/model.safetensors").model()
    assert model.caption is None
    assert len(list(Path("run/samples").iterdir())) == 1
    text_encoders.save_folder(Path("umt5"), seed=1)
    Path("run.yaml").write_text(TOLD_BY_UMT5.replace("output: run", "output: other"))
    capsys.readouterr()
    assert main(["train", "run.yaml"]) == 1
    assert (
        "the captions in latents were encoded by another text encoder than umt5; remove the folder" in capsys.readouterr().err
    )
    assert not Path("other").exists()


TWO_FOLDERS = """
kind: model
run: {output: run, batch: 2, threads: 1}
data:
  sources: [{folder: speech, share: 1}, {folder: world, share: 3}]
  cache: latents
  segments: true
  buckets: [{frames: 9, height: 32, width: 32}, {frames: 9, height: 32, width: 64}]
video_codec: vae.safetensors
audio_codec: sound.safetensors
model: {preset: tiny, video: {layers: 1}, audio: {layers: 1}}
stages:
  - {name: sound, steps: 2, batch: 4, train: [audio], optimizer: {lr: 1e-3}, objective: {streams: audio, reference: same_clip}}
  - {name: both, steps: 2, train: [interaction], optimizer: {lr: 1e-3}}
samples: {clips: 1, steps: 1}
"""


def test_folders_of_shapes_and_sounds_are_trained_on_and_what_is_wrong_with_a_stage_is_said_first(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    Path("run.yaml").write_text(TWO_FOLDERS.replace("[interaction]", "[interactions]"))
    assert main(["train", "run.yaml"]) == 1
    assert "no weight of this model is called 'interactions'" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["run.yaml"]
    save_codec(Path("vae.safetensors"), VideoVAE(VIDEO["tiny"]))
    save_codec(Path("sound.safetensors"), AudioCodec(AUDIO["tiny"]))
    for folder, sizes in (("speech", [(9, 32, 32), (5, 32, 32)]), ("world", [(20, 32, 64), (9, 32, 32)])):
        Path(folder).mkdir()
        names = [f"{n}.mp4" for n in range(2)] + ["sound.wav"]
        for name, (frames, *size) in zip(names, sizes, strict=False):
            sound = Audio(torch.rand(1, 1, round(frames * 16_000 / 24)) - 0.5, 16_000)
            write_video(Path(folder) / name, Video(torch.rand(1, 3, frames, *size) * 2 - 1, 24.0), sound)
        write_wav(Path(folder) / "sound.wav", Audio(torch.rand(1, 1, 16_000) - 0.5, 16_000))
        Path(folder, "manifest.jsonl").write_text("\n".join(json.dumps({"file": name}) for name in names))
    Path("run.yaml").write_text(TWO_FOLDERS)
    assert main(["train", "run.yaml"]) == 0, capsys.readouterr().err
    caches = [LatentCache(Path("latents") / name) for name in ("speech", "world")]
    assert [len(cache) for cache in caches] == [3, 5]  # a second of sound makes two clips
    assert json.loads(Path("latents/speech/skipped.jsonl").read_text())["file"] == "1.mp4"
    lines = [json.loads(line) for line in Path("run/log.jsonl").read_text().splitlines()]
    assert [line["phase"] for line in lines if "phase" in line] == ["sound"] * 2 + ["both"] * 2


TOGETHER = """
kind: codecs-video
steps: 1
codec: {preset: tiny}
optimizer: {lr: 1e-3}
crop_frames: 5
statistics_clips: 2
run: {output: run, batch: 2, sharding: fsdp, bfloat16: true, save_every: 1}
data: {folder: world, cache: cache, world: {clips: 3}, shard_clips: 2}
"""


def test_two_processes_make_the_small_world_and_train_on_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("run.yaml").write_text(TOGETHER)
    command = "import sys; from harmony_core.__main__ import main; sys.exit(main(sys.argv[1:]))"
    said = together(written(tmp_path, command), ["train", "run.yaml"])
    assert said == [f"wrote {Path('run/video_codec.safetensors')}\n", ""]
    mix = dict(zip(KINDS, WorldConfig(clips=3).mix, strict=True))
    names = [f"{one.kind}_{one.seed:07d}" for one in recipes(3, mix=mix)]
    assert [entry.file for entry in PackedClips("world").entries] == names
    assert len(list(Path("run/checkpoints/step-00000001").glob("state-*-of-00002.safetensors"))) == 2
    load_video_codec("run/video_codec.safetensors")

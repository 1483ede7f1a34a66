import dataclasses
import json
import os
import re
from pathlib import Path

import pytest
import yaml

from harmony_core.config import preset
from harmony_core.records import to_record
from harmony_core.training.config import OptimizerConfig, read_config, to_run
from harmony_core.training.record import check_same, write_record

TEXT = """
kind: model
run: {output: runs/a, batch: 8, threads: 1}
data: {folder: data, cache: cache}
video_codec: v.safetensors
audio_codec: a.safetensors
model: {preset: tiny, video: {dim: 96, heads: 3, ffn: 192}, interaction: {window: 2}}
stages:
  - name: joint
    steps: 10
    optimizer: {lr: 1e-3}
    objective: {mode: mixed, shares: [0.5, 0.25, 0.25], times: {shift: 2}}
"""


def write(tmp_path, text):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    return path


def test_a_file_is_read_with_its_preset_changed_in_places(tmp_path):
    run = read_config(write(tmp_path, TEXT))
    assert run.model.video == dataclasses.replace(preset("tiny").video, dim=96, heads=3, ffn=192)
    assert run.model.audio == preset("tiny").audio
    assert run.model.interaction.window == 2
    assert run.stages[0].optimizer.lr == 1e-3
    assert run.stages[0].objective.times.shift == 2.0


def test_a_run_survives_its_own_record(tmp_path):
    run = read_config(write(tmp_path, TEXT))
    assert to_run(to_record(run)) == run


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("batch: 8", "batch: 8, bacth: 9", r"config\.run has unknown field\(s\) bacth"),
        ("mode: mixed", "mode: mixxed", r"config\.stages\[0\]\.objective\.mode is one of"),
        ("dim: 96,", "dim: 96, dmi: 3,", r"config\.model\.video has unknown field\(s\) dmi"),
        ("preset: tiny", "preset: huge", r"config\.model\.preset is one of 5b, tiny, ovi-720, ovi-960, got 'huge'"),
        ("lr: 1e-3", "lr: fast", r"optimizer\.lr is float"),
        ("lr: 1e-3", "lr: -1", "positive"),
        ("kind: model", "kind: modle", r"config\.kind is one of model, codecs-video, codecs-audio"),
        ("batch: 8", "batch: 8, batch: 9", "'batch' twice"),
        ("batch: 8", "batch: 8, accumulate: 3", "does not divide"),
        ("[0.5, 0.25, 0.25]", "[0.5, 0.25, 0.5]", "sum to 1"),
        ("[0.5, 0.25, 0.25]", "[0.5, 0.5]", "has 3 values"),
        ("steps: 10", "steps: 0", "at least 1"),
        ("stages:", "stages: [", "is no YAML"),
        (
            "stages:",
            "text_encoder: umt5\nstages:",
            "text_encoder: this model has a caption encoder of its own; leave the field",
        ),
        (
            "{preset: tiny,",
            "{preset: tiny, caption: null,",
            r"config\.text_encoder is missing: this model is told captions by umT5",
        ),
    ],
)
def test_what_is_wrong_is_named(tmp_path, old, new, message):
    assert old in TEXT
    with pytest.raises(ValueError, match=message):
        read_config(write(tmp_path, TEXT.replace(old, new, 1)))


def test_a_model_of_one_prompt_takes_no_reference(tmp_path):
    text = re.sub(r"model: .*", "model: {preset: ovi-960}\ntext_encoder: umt5", TEXT)
    with pytest.raises(
        ValueError, match=r"config\.stages: this model takes no reference voice; set objective\.reference to none"
    ):
        read_config(write(tmp_path, text))
    run = read_config(write(tmp_path, text.replace("{mode: mixed", "{reference: none, mode: mixed")))
    assert run.text_encoder == "umt5"


@pytest.mark.parametrize("text", ["", "[]", "kind: 3", "!!python/object/apply:os.system ['true']", "a: &a [*a]"])
def test_what_is_no_config_is_refused(tmp_path, text):
    with pytest.raises(ValueError, match=r"run\.yaml"):
        read_config(write(tmp_path, text))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"nothing\.yaml"):
        read_config(tmp_path / "nothing.yaml")


def test_exponents_without_a_dot_are_numbers(tmp_path):
    path = write(tmp_path, TEXT.replace("lr: 1e-3", "lr: 5e-4, weight_decay: 0"))
    assert read_config(path).stages[0].optimizer == OptimizerConfig(lr=5e-4, weight_decay=0.0)
    assert yaml.safe_load("1e-3") == "1e-3"  # what the reader is there to repair


def test_the_learning_rate_rises_then_falls_to_its_end():
    config = OptimizerConfig(lr=1.0, warmup=10, final=0.1)
    rates = [config.lr_at(step, 100) for step in range(101)]
    assert rates[0] == 0.1
    assert max(rates) == rates[9] == rates[10] == 1.0
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert abs(rates[100] - 0.1) < 1e-9
    assert OptimizerConfig(lr=1.0, warmup=0, decay="constant").lr_at(99, 100) == 1.0


CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.name)
def test_committed_configs_are_read(path):
    assert read_config(path).run.output


HOSTILE = {
    "no number": "kind: !!int ''",
    "no truth": "kind: !!bool x",
    "no time": "kind: !!timestamp x",
    "no float": "kind: !!float ''",
    "no binary": "kind: !!binary '\u00e9'",
    "a number of many digits": "kind: 0x" + "f" * 20_000,
    "a key that is a list": "{[a]: 1}",
    "keys that are no texts": "kind: model\n1: 2\nnull: 3\n2020-01-01: 4",
    "a nest": "[" * 50_000,
    "half a character": 'kind: "\\ud800"',
    "aliases of aliases": "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
    + "".join(f"a{n + 1}: &a{n + 1} [{', '.join([f'*a{n}'] * 10)}]\n" for n in range(9))
    + "kind: model\nrun: *a9",
    "merges of merges": "a0: &a0 {k: v}\n"
    + "".join(f"a{n + 1}: &a{n + 1} {{<<: [{', '.join([f'*a{n}'] * 10)}]}}\n" for n in range(9))
    + "kind: model",
    "a table that holds itself": "&a {kind: *a}",
    "60,000 keys": "".join(f"k{n}: 1\n" for n in range(60_000)),
    "10,000 keys": "".join(f"k{n}: 1\n" for n in range(10_000)),
    "4,000 unknown keys": TEXT + "".join(f"k{n}: 1\n" for n in range(4_000)),
    "a long key": f"? {'k' * 100_000}\n: 1",
    "a long value": f"kind: {'k' * 100_000}",
    "many layers": TEXT.replace("dim: 96,", "layers: 1000000, dim: 96,").replace(
        "interaction:", "audio: {layers: 1000000}, interaction:"
    ),
    "a large batch": TEXT.replace("batch: 8", "batch: 100000000000"),
    "threads": TEXT.replace("threads: 1", "threads: 99999999"),
    "many clips in memory": TEXT.replace("cache: cache", "cache: cache, shard_clips: 99999999999"),
    "frames": TEXT.replace("stages:", "data: {folder: a, cache: b, fps: 1.0e-300}\nstages:").replace(
        "data: {folder: data, cache: cache}\n", ""
    ),
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_file_is_one_short_sentence(tmp_path, text):
    path = write(tmp_path, text)
    with pytest.raises(ValueError, match=r"run\.yaml|fps") as refusal:
        read_config(path).data.spec()
    assert len(str(refusal.value)) < 400
    assert "\n" not in str(refusal.value)


def test_what_is_no_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "run.yaml")
    for path in (tmp_path / "run.yaml", Path("/dev/zero"), tmp_path, tmp_path / ("n" * 300), tmp_path / "a\0b"):
        with pytest.raises(ValueError, match="cannot read"):
            read_config(path)


def test_aliases_are_fine_where_they_save_a_few_lines(tmp_path):
    text = TEXT.replace("optimizer: {lr: 1e-3}", "optimizer: &o {lr: 1e-3}") + "  - {name: more, steps: 1, optimizer: *o}\n"
    first, second = read_config(write(tmp_path, text)).stages
    assert first.optimizer == second.optimizer


def test_the_paper_s_numbers_are_in_its_config():
    """Steps, batches, learning rate, references and lambdas of three stages; speech and environment 1 : 1."""
    run = read_config(CONFIGS[0].with_name("harmony-5b-paper.yaml"))
    first, second, joint = run.stages
    assert [s.steps for s in run.stages] == [100_000, 20_000, 10_000]
    assert [s.batch or run.run.batch for s in run.stages] == [1536, 1536, 128]
    assert [s.objective.reference for s in run.stages] == ["same_clip", "same_speaker", "same_speaker"]
    assert [s.objective.streams for s in run.stages] == ["audio", "audio", "both"]
    assert first.objective.reference_seconds == second.objective.reference_seconds == (1.0, 3.0)
    assert joint.optimizer.lr == 1e-5 and joint.objective.mode == "synergy"
    assert (joint.objective.lambda_video, joint.objective.lambda_audio) == (0.1, 0.3)
    assert len({source.share for source in run.data.sources}) == 1 and len(run.data.sources) == 2
    assert run.data.fps == run.model.fps == 25.0


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("    steps: 10", "    steps: 10\n    batch: 4\n    tokens: 100", r"stage\.batch and stage\.tokens both say"),
        ("    steps: 10", "    steps: 10\n    train: interaction", r"config\.stages\[0\]\.train is a list"),
        (
            "folder: data,",
            "folder: data, fps: 25,",
            r"data\.fps 25 and model\.fps 24 differ.*set both alike, as in model: {fps: 25}",
        ),
        ("folder: data,", "sources: [{folder: a, share: 0}],", r"source\.share is positive"),
        ("folder: data,", "sources: [{folder: a, size: 3}],", r"config\.data\.sources\[0\] has unknown field\(s\) size"),
        (
            "folder: data,",
            "folder: data, buckets: [{frames: 9, height: 64}],",
            r"config\.data\.buckets\[0\] lacks field\(s\) width",
        ),
    ],
)
def test_what_is_wrong_with_stages_and_data_is_named(tmp_path, old, new, message):
    assert old in TEXT
    with pytest.raises(ValueError, match=message):
        read_config(write(tmp_path, TEXT.replace(old, new, 1)))


def test_a_codec_is_trained_on_one_folder_and_shape():
    path = CONFIGS[0].with_name("tiny-audio-vae.yaml")
    record = to_record(read_config(path))
    with pytest.raises(ValueError, match=r"data\.buckets and data\.sources are for training of a model"):
        to_run({**record, "data": {**record["data"], "buckets": [{"frames": 9, "height": 64, "width": 64}]}})


def test_a_run_of_an_older_version_without_the_new_fields_is_the_same_run(tmp_path):
    config = read_config(write(tmp_path, TEXT))
    write_record(config, tmp_path)
    record = json.loads((tmp_path / "config.json").read_text())
    for name in ("sources", "buckets", "segments", "stride"):
        del record["data"][name]
    for name in ("batch", "accumulate", "tokens", "train"):
        del record["stages"][0][name]
    (tmp_path / "config.json").write_text(json.dumps(record))
    check_same(config, tmp_path)
    other = dataclasses.replace(config, data=dataclasses.replace(config.data, segments=True))
    with pytest.raises(ValueError, match=r"another config, in data\.segments;"):
        check_same(other, tmp_path)

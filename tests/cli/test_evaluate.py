"""The evaluate command: what it writes, and how it refuses."""

import json

import pytest
from small import small_model
from world_model import save_world_checkpoint, world_judges, world_pipeline

from harmony_core.__main__ import main
from harmony_core.bench.world.measure import WorldBench
from harmony_core.media import probe
from harmony_core.weights import builtin
from harmony_core.weights.checkpoint import save_checkpoint
from harmony_core.world import judges


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    save_world_checkpoint(folder / "model.safetensors", world_pipeline())
    world_judges().save(folder / "judges.safetensors")
    return folder


def evaluate(files, *words):
    """Two clips in one step."""
    plain = ("--judges", files / "judges.safetensors", "--clips", 2, "--steps", 1, "--sampler", "euler")
    return main(["evaluate", *map(str, (files / "model.safetensors", *plain, *words))])


def test_every_figure_is_written_under_its_name(files, tmp_path, capsys):
    pytest.importorskip("espeakng_loader")
    assert evaluate(files, "--json", tmp_path / "out.json", "--save", tmp_path / "shown") == 0
    record = json.loads((tmp_path / "out.json").read_text())
    figures, meta = record["figures"], record["meta"]
    for name in (
        "impact.truth.event_f1",
        "impact.codec.event_f1_share",
        "impact.joint_sync_cfg.event_f1_gain",
        "impact.video_driven.map_hit",
        "impact.video_driven.map_chance",
        "impact.audio_driven.map_hit",
        "talk.audio_driven.sync_c",
        "talk.audio_driven.sync_c_share",
        "talk.codec.sync_c_share",
        "talk.audio_driven_unseen.sync_c",
        "talk.shuffled_unseen.sync_c",
        "talk.shuffled.words",
        "talk.shuffled.voice",
        "anchors.silence.motion",
        "anchors.true_still.motion",
        "anchors.audio_driven.motion",
        "anchors.still.loudness",
        "anchors.video_driven.loudness",
        "anchors.truth.loudness",
    ):
        assert {name, f"{name}.low", f"{name}.high"} <= set(figures), name
    assert figures["anchors.true_still.loudness"] == pytest.approx(-100)
    assert meta["clips"] == 2
    assert (meta["steps"], meta["shift"], meta["sampler"], meta["seed"]) == (1, 5.0, "euler", 0)
    assert len(meta["checkpoint"]["sha256"]) == 64
    assert meta["told"] == ["captions", "transcripts", "references"]
    assert meta["seconds"]["audio_driven"] >= 0
    printed = capsys.readouterr().out
    assert "impact: 2 clips" in printed
    assert "audio_driven_unseen" in printed
    shown = {path.name for path in (tmp_path / "shown").iterdir()}
    assert {"impact_joint.png", "talk_audio_driven_1000001.mp4"} <= shown
    info = probe(tmp_path / "shown" / "talk_audio_driven_1000001.mp4")
    assert info.video is not None
    assert info.audio is not None


def test_the_same_command_gives_the_same_figures(files, tmp_path):
    for name in ("one.json", "two.json"):
        assert evaluate(files, "--kinds", "impact", "--rows", "joint,silence", "--json", tmp_path / name) == 0
    one, two = (json.loads((tmp_path / name).read_text())["figures"] for name in ("one.json", "two.json"))
    assert one == two
    assert {name.split(".")[1] for name in one if name.startswith("impact")} == {
        "truth", "shuffled", "joint", "joint_shuffled", "silence"
    }  # fmt: skip


def test_parts_are_put_together_as_one_run(files, tmp_path, capsys):
    only = ("--kinds", "impact", "--rows", "codec")
    for first in (0, 2):
        assert evaluate(files, *only, "--first", first, "--values", tmp_path / f"{first}.json") == 0
    parts = [str(tmp_path / f"{first}.json") for first in (2, 0)]
    capsys.readouterr()
    assert main(["evaluate", "--merge", *parts, "--json", str(tmp_path / "out.json")]) == 0
    assert "impact: 4 clips, easy, 1 steps of euler" in capsys.readouterr().out
    record = json.loads((tmp_path / "out.json").read_text())
    assert record["meta"]["ranges"] == [[0, 2], [2, 2]]
    assert {"impact.codec.event_f1", "impact.codec.event_f1.low", "impact.codec.event_f1_share"} <= set(record["figures"])
    (tmp_path / "text.json").write_text("[1]")
    for words, message in (
        ([parts[0], parts[0]], "clips in common"),
        ([str(tmp_path / "none.json")], "cannot read"),
        ([str(tmp_path / "text.json")], "holds no values of clips"),
        ([str(tmp_path / "out.json")], "holds no values of clips"),
    ):
        assert main(["evaluate", "--merge", *words]) == 1
        captured = capsys.readouterr()
        assert message in captured.err
        assert captured.err.count("\n") == 1
    assert main(["evaluate", "model.safetensors", "--merge", *parts]) == 1
    assert "leave the checkpoint out" in capsys.readouterr().err
    assert main(["evaluate"]) == 1
    assert "give a checkpoint to measure" in capsys.readouterr().err


def test_gamma_parts_the_times_of_the_streams(files, tmp_path):
    found = {}
    for gamma in (1, 4):
        out = tmp_path / f"{gamma}.json"
        assert evaluate(files, "--kinds", "impact", "--rows", "joint", "--steps", 3, "--gamma", gamma, "--json", out) == 0
        record = json.loads(out.read_text())
        assert record["meta"]["gamma"] == gamma
        found[gamma] = {name: value for name, value in record["figures"].items() if name.startswith("impact.joint.")}
    assert found[1] != found[4]


def test_hard_clips_are_measured_with_the_truth_and_the_codecs_in_their_rows(files, tmp_path):
    pytest.importorskip("espeakng_loader")
    kinds = ("--kinds", "impact,talk,complex", "--split", "hard", "--rows", "codec,joint_sync_cfg,audio_driven")
    assert evaluate(files, *kinds, "--json", tmp_path / "out.json") == 0
    record = json.loads((tmp_path / "out.json").read_text())
    assert record["meta"]["split"] == "hard"
    figures = record["figures"]
    assert figures["impact.truth.event_f1"] > 0.9
    assert figures["talk.truth.events_seen"] > 2
    assert figures["talk.audio_driven.words"] == figures["talk.truth.words"]
    assert {f"{kind}.joint_sync_cfg.av_align" for kind in ("impact", "talk", "complex")} <= set(figures)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--clips", 1), "2 to 1000000 clips"),
        (("--first", -1), "the first of 2 clips is number 0 to 999998, got -1"),
        (("--values", "nowhere/out.json"), "cannot write nowhere/out.json: there is no folder"),
        (("--kinds", "impact,rain"), "the kinds to measure are among impact, talk, complex"),
        (("--rows", "nonsense"), "the rows are truth, "),
        (("--split", "odd"), "the splits of the world are"),
        (("--sampler", "odd"), "no sampler 'odd'"),
        (("--steps", 0), "a whole number of steps"),
        (("--shift", -1), "shift is a positive number"),
        (("--gamma", 0), "gamma is a positive number"),
        (("--sync-video", -1), "a guidance scale is a number from 0 up"),
        (("--threads", 0), "--threads is a whole number from 1 to 1024"),
        (("--device", "abacus"), "--device abacus cannot be used"),
        (("--json", "nowhere/out.json"), "cannot write nowhere/out.json: there is no folder"),
        (("--json", "."), "it is a folder"),
        (("--judges", "none.safetensors"), "there is no file none.safetensors with judges"),
    ],
)
def test_what_is_wrong_is_one_sentence_before_any_work(files, tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    assert evaluate(files, *words) == 1
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_no_such_checkpoint_is_refused(tmp_path, capsys):
    assert main(["evaluate", str(tmp_path / "none.safetensors")]) == 1
    assert "there is no checkpoint" in capsys.readouterr().err
    model = small_model()
    save_checkpoint(tmp_path / "bare.safetensors", model.config, model.state_dict())
    assert main(["evaluate", str(tmp_path / "bare.safetensors")]) == 1
    assert "has no video codec in it" in capsys.readouterr().err


def test_where_no_judges_are_built_in_they_are_trained_and_that_is_said(files, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(builtin, "ASSETS", tmp_path / "nothing")
    monkeypatch.setattr(judges, "train_judges", lambda **_: world_judges())
    command = ["evaluate", str(files / "model.safetensors"), "--kinds", "impact", "--rows", "truth", "--clips", "2"]
    assert main([*command, "--json", str(tmp_path / "out.json")]) == 0
    assert "they are trained now" in capsys.readouterr().err
    assert json.loads((tmp_path / "out.json").read_text())["meta"]["judges"] == "trained for this run"
    assert main([*command, "--train-judges", str(tmp_path / "kept.safetensors")]) == 0
    assert judges.Judges.load(tmp_path / "kept.safetensors")


def test_a_stopped_measurement_leaves_no_figures(files, tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(WorldBench, "anchors", stop)
    assert evaluate(files, "--kinds", "impact", "--rows", "truth", "--json", tmp_path / "out.json") == 130
    assert not list(tmp_path.iterdir())

"""Data that people have: long files, short ones, broken ones, sound alone, several shapes, several folders."""

import dataclasses
import json
import logging

import pytest
import torch

from harmony_core.geometry import ClipSpec, Grid
from harmony_core.media import write_video, write_wav
from harmony_core.training.cache import LatentCache, build_cache
from harmony_core.training.config import BucketConfig, DataConfig, ObjectiveConfig, OptimizerConfig, SourceConfig, StageConfig
from harmony_core.training.data import open_source, pack_clips
from harmony_core.training.model import stage_orders, train_model
from harmony_core.training.order import Order
from harmony_core.training.segments import best_shape
from harmony_core.training.store import Entry, writing
from harmony_core.training.tasks import draw_batch
from harmony_core.types import Audio, Video

GRID = Grid(patch=1)
SPEC = ClipSpec(frames=9, height=32, width=32, grid=GRID)


def film(path, frames: int, *, size=(32, 32), sound=True, loudness=0.5):
    """A video of noise at 24 fps."""
    wave = Audio((torch.rand(1, 1, round(frames * 16_000 / 24)) * 2 - 1) * loudness, 16_000)
    write_video(path, Video(torch.rand(1, 3, frames, *size) * 2 - 1, 24.0), wave if sound else None)


def ramp(seconds: float) -> torch.Tensor:
    """A sound of which no two samples are alike, in 16 bits."""
    return (torch.arange(round(seconds * 16_000)) - 30_000) / 32_768


@pytest.fixture
def folder(tmp_path):
    """Makes a folder of media: pairs of a manifest's line and what makes its file."""

    def make(lines, name="clips"):
        (tmp_path / name).mkdir()
        for line, *film_of in lines:
            if film_of:
                film_of[0](tmp_path / name / line["file"])
        (tmp_path / name / "manifest.jsonl").write_text("\n".join(json.dumps(line) for line, *_ in lines))
        return tmp_path / name

    return make


def skipped(cache) -> dict[str, str]:
    lines = (cache.folder / "skipped.jsonl").read_text().splitlines()
    return {line["file"]: line["reason"] for line in map(json.loads, lines)}


MIXED = [
    ({"file": "good.mp4"}, lambda path: film(path, 12)),
    ({"file": "short.mp4"}, lambda path: film(path, 5)),
    ({"file": "damaged.mp4"}, lambda path: path.write_bytes(b"no video at all")),
    ({"file": "empty.mp4"}, lambda path: path.write_bytes(b"")),
    ({"file": "sound.wav"}, lambda path: write_wav(path, Audio(ramp(1.0)[None, None], 16_000))),
    ({"file": "mute.mp4"}, lambda path: film(path, 9, sound=False)),
    ({"file": "still.mp4", "null": True}, lambda path: film(path, 9, sound=False)),
    ({"file": "silent.mp4", "transcript": "hi"}, lambda path: film(path, 9, loudness=0)),
    ({"file": "quiet.mp4"}, lambda path: film(path, 9, loudness=0)),
    ({"file": "part.mp4", "start": 0.2, "end": 0.4}, lambda path: film(path, 24)),
]


def test_what_cannot_be_used_is_skipped_and_listed_and_the_rest_goes_on(folder, codecs, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        cache = build_cache(open_source(folder(MIXED), SPEC), tmp_path / "c", *codecs, null_pairs=0.5)
    assert [e.file for e in cache.entries if not e.null] == ["good.mp4", "quiet.mp4"]
    assert "still.mp4" in [e.file for e in cache.entries]
    reasons = skipped(cache)
    assert set(reasons) == {f"{n}.mp4" for n in ("short", "damaged", "empty", "mute", "silent", "part")} | {"sound.wav"}
    assert "too short" in reasons["short.mp4"] and "has no pictures" in reasons["sound.wav"]
    assert 'says "null": true' in reasons["mute.mp4"] and "transcript says" in reasons["silent.mp4"]
    assert "from 0.2 to 0.4 s" in reasons["part.mp4"]
    told = caplog.text
    assert "7 of 10 clips are skipped, listed in" in told and reasons["short.mp4"] in told
    assert "more than half of the data set is skipped" in told
    assert LatentCache(tmp_path / "c").entries == cache.entries


def test_lines_whose_files_are_missing_are_skipped_and_said_at_once(folder, caplog):
    lines = [*MIXED[:1], ({"file": "gone.mp4"},), ({"file": "good.mp4", "reference": "lost.wav"},)]
    with caplog.at_level(logging.WARNING):
        source = open_source(folder(lines), SPEC)
    assert [e.file for e in source.entries] == ["good.mp4"]
    assert [one.reason.split()[0] for one in source.skipped] == ["gone.mp4", "lost.wav"]
    assert "names 2 missing file(s): gone.mp4, lost.wav; the 2 line(s) with them are skipped" in caplog.text


@pytest.mark.parametrize("pack", [False, True])
def test_a_data_set_of_which_nothing_is_left_is_one_sentence_and_leaves_nothing(folder, codecs, tmp_path, pack):
    source = open_source(folder(MIXED[1:4]), SPEC)
    with pytest.raises(ValueError, match=r"none of the data set's 3 clip\(s\) can be used: .*short\.mp4.*") as caught:
        if pack:
            pack_clips(source, tmp_path / "c")
        else:
            build_cache(source, tmp_path / "c", *codecs)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "c").exists() and not list(tmp_path.glob(".c*"))


def test_packed_clips_skip_too_and_take_sound_files_for_a_codec_of_sound(folder, tmp_path):
    source = open_source(folder(MIXED[:5]), SPEC)
    seen, heard = (pack_clips(source, tmp_path / str(n), pictures=n) for n in (True, False))
    assert [e.file for e in seen.entries] == ["good.mp4"]
    assert seen.having("frames") == seen.having("wave") == [0]
    assert [e.file for e in heard.entries] == ["good.mp4", "sound.wav"]
    assert heard.having("frames") == [0] and heard.having("wave") == [0, 1]
    assert heard.clip(1).frames is None and heard.clip(1).wave.shape == (SPEC.samples,)


@pytest.mark.bitwise("copy")
def test_a_long_file_is_cut_into_clips_that_share_no_sample(folder):
    lines = [
        ({"file": "long.wav"}, lambda path: write_wav(path, Audio(ramp(2.0)[None, None], 16_000))),
        ({"file": "part.wav", "start": 0.5, "end": 1.5}, lambda path: write_wav(path, Audio(ramp(2.0)[None, None], 16_000))),
        ({"file": "said.wav", "transcript": "hi"}, lambda path: write_wav(path, Audio(ramp(2.0)[None, None], 16_000))),
        ({"file": "short.wav"}, lambda path: write_wav(path, Audio(ramp(0.2)[None, None], 16_000))),
    ]
    source = open_source(folder(lines), SPEC, segments=True)
    places = [(e.file, round(e.start, 3)) for e in source.entries]
    assert places == [
        (n, s) for n, starts in (("long.wav", (0, 0.375, 0.75, 1.125, 1.5)), ("part.wav", (0.5, 0.875))) for s in starts
    ] + [("said.wav", 0)]
    assert [one.file for one in source.skipped] == ["short.wav"] and "too short" in source.skipped[0].reason
    waves = [source.clip(n).wave for n in range(5)]
    assert torch.equal(torch.cat(waves), (ramp(2.0) * 32_768).round()[: 5 * SPEC.samples] / 32_768)
    stepped = open_source(source.folder, SPEC, segments=True, stride=0.8)
    assert [round(e.start, 3) for e in stepped.entries if e.file == "long.wav"] == [0, 0.8, 1.6]


def test_no_reference_in_a_folder_of_long_files_shares_a_sample_with_its_target(tmp_path, model_config):
    """Segments that overlap, of files with a speaker, with a source of sound, with neither; every latent is another number."""
    kinds = [{}, {"speaker": "ann"}, {"sound_source": "rain"}, {"speaker": "ann"}, {}]
    length = SPEC.audio_latents
    with writing(tmp_path / "c", kind="latents", spec=SPEC) as writer:
        for file, kind in enumerate(kinds):
            for start in range(0, 5 * length if file < 4 else 1, length // 2):
                entry = Entry(file=f"{'./' * (start % 2)}{file}.mp4", start=start / GRID.audio_rate, **kind)
                audio = (torch.arange(length) + 1.0 + start + 200 * file).expand(20, -1).contiguous()
                writer.add(entry, {"video": torch.zeros(SPEC.video_shape()[1:]), "audio": audio})
    cache, drawn, files = LatentCache(tmp_path / "c"), 0, set()
    config = ObjectiveConfig(reference_seconds=(0.05, 0.3), no_reference=0.0)
    for step in range(80):
        batch = draw_batch(cache, model_config, config, step=step, batch=20, seed=1)
        for row in range(20):
            alone = batch.names[row] == "4.mp4"
            assert bool(batch.has_reference[row]) is not alone
            if alone:
                continue
            assert not torch.isin(batch.reference[row, 0], batch.data.audio[row, 0]).any()
            source, target = (int((x - 1) // 200) for x in (batch.reference[row, 0, 0], batch.data.audio[row, 0, 0]))
            assert kinds[source] == kinds[target] and (source == target or kinds[target])
            files.add((source, target))
            drawn += 1
    assert drawn > 1000
    assert {(0, 0), (1, 3), (3, 1), (1, 1), (2, 2)} <= files


@pytest.mark.parametrize(("start", "seconds", "left"), [(1.5, 4.0, "after"), (2.5, 4.0, "before"), (0.1, 0.6, None)])
def test_a_reference_that_is_the_clip_s_own_file_is_another_part_of_it(folder, start, seconds, left):
    line = {"file": "a.wav", "reference": "./a.wav", "start": start}
    source = open_source(folder([(line, lambda path: write_wav(path, Audio(ramp(seconds)[None, None], 16_000)))]), SPEC)
    clip = source.clip(0)
    if left is None:
        assert clip.reference is None
        return
    assert not torch.isin(clip.reference, clip.wave).any()
    assert (clip.reference.mean() > clip.wave.mean()) == (left == "after")
    assert len(clip.reference) == round((start if left == "before" else seconds - start - SPEC.seconds) * 16_000)


def test_a_long_reference_is_read_in_part(folder):
    line = {"file": "a.wav", "reference": "b.wav"}
    made = folder([(line, lambda path: write_wav(path, Audio(ramp(1.0)[None, None], 16_000)))])
    write_wav(made / "b.wav", Audio(torch.rand(1, 1, 40 * 16_000) - 0.5, 16_000))
    assert len(open_source(made, SPEC).clip(0).reference) == 30 * 16_000


SHAPES = [ClipSpec(frames=f, height=h, width=w, grid=GRID) for f, h, w in ((9, 32, 64), (9, 64, 32), (17, 32, 32), (9, 32, 32))]


@pytest.mark.parametrize(
    ("seconds", "size", "shape"),
    [
        (1.0, (64, 64), 2),  # long enough for the longest
        (0.4, (1080, 1920), 0),
        (0.4, (1920, 1080), 1),
        (0.4, (40, 50), 3),  # the others would enlarge it
        (0.375, (16, 16), 3),  # all would: least
        (0.3, (64, 64), None),
        (1.0, None, 2),
    ],
)
def test_a_clip_goes_into_the_largest_shape_it_fits(seconds, size, shape):
    assert best_shape(SHAPES, seconds, size) is (None if shape is None else SHAPES[shape])


def test_shapes_sources_and_sound_alone_are_trained_together(folder, codecs, make_run, tmp_path):
    """Two folders of two shapes and of sound files: the sound's stage draws all, the joint stage what has pictures."""
    speech = [
        ({"file": f"{n}.wav", "speaker": "ann"}, lambda path: write_wav(path, Audio(ramp(1.0)[None, None], 16_000)))
        for n in range(3)
    ]
    speech += [({"file": f"{n}.mp4", "speaker": "ann"}, lambda path: film(path, 9)) for n in range(2)]
    world = [({"file": f"wide{n}.mp4"}, lambda path: film(path, 12, size=(32, 64))) for n in range(3)]
    world += [({"file": f"long{n}.mp4"}, lambda path: film(path, 17)) for n in range(2)]
    folders = folder(speech, "speech"), folder(world, "world")
    data = DataConfig(
        sources=tuple(SourceConfig(folder=str(f)) for f in folders),
        cache=str(tmp_path / "caches"),
        buckets=(
            BucketConfig(frames=9, height=32, width=32),
            BucketConfig(frames=9, height=32, width=64, batch=2),
            BucketConfig(frames=17, height=32, width=32, batch=2),
        ),
    )
    specs = data.specs(make_run().model)
    caches = [
        build_cache(open_source(f, specs[0], specs=specs), cache, *codecs, sound_alone=True, null_pairs=0.2)
        for f, (_, cache) in zip(folders, data.parts(), strict=True)
    ]
    cache = LatentCache(*(one.folder for one in caches))
    assert cache.sources == 2 and len(cache) == 12
    assert {cache.spec_of(n).frames for n, e in enumerate(cache.entries) if e.file.startswith("long")} == {17}
    assert sum(not cache.has_pictures(n) for n in range(len(cache))) == 3
    objective = ObjectiveConfig(reference_seconds=(0.05, 0.2))
    stages = tuple(
        StageConfig(
            name=name, steps=6, optimizer=OptimizerConfig(lr=1e-3), objective=dataclasses.replace(objective, **streams), batch=b
        )
        for name, streams, b in (("sound", {"streams": "audio"}, 4), ("both", {}, None))
    )
    config = dataclasses.replace(make_run(stages=stages, save_every=6), data=data)
    made = Order(stage_orders(config, cache), seed=0)
    steps = [made.clips(step) for step in range(12)]
    assert {len(batch) for batch in steps[:6]} == {4}
    heard = {clip for batch in steps[:6] for clip in batch}
    assert any(not cache.has_pictures(clip) for clip in heard)
    assert all(cache.has_pictures(clip) for batch in steps[6:] for clip in batch)
    assert all(len({cache.spec_of(clip) for clip in batch}) == 1 for batch in steps)
    assert {len(batch) for batch in steps[6:]} <= {4, 2}
    train_model(config, cache)


@pytest.mark.bitwise("draw")
def test_each_process_reads_its_own_rows_of_what_one_would_draw(cache, model_config):
    config = ObjectiveConfig(reference_seconds=(0.05, 0.2), mode="mixed", caption_drop=0.3, text_drop=0.3)
    whole = draw_batch(cache, model_config, config, step=2, batch=6, seed=4)
    parts = [draw_batch(cache, model_config, config, step=2, batch=6, seed=4, rank=rank, size=3) for rank in range(3)]
    assert sum((part.names for part in parts), ()) == whole.names
    for name in ("times", "data", "noise", "captions"):
        for m in (0, 1):
            values = [tuple(getattr(part, name))[m] for part in parts]
            assert torch.equal(torch.cat(values), tuple(getattr(whole, name))[m]), name
    for name in ("first", "dropped", "reference", "has_reference", "transcript"):
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(whole, name)), name


def test_one_process_reads_no_more_than_its_rows(cache, model_config, monkeypatch):
    read = []
    row = LatentCache.row
    monkeypatch.setattr(LatentCache, "row", lambda self, clip, name: read.append(name) or row(self, clip, name))
    config = ObjectiveConfig(reference="none")
    draw_batch(cache, model_config, config, step=0, batch=6, seed=0, rank=1, size=3)
    assert sorted(read) == ["audio"] * 2 + ["video"] * 2
    read.clear()
    draw_batch(cache, model_config, ObjectiveConfig(reference="none", streams="audio"), step=0, batch=6, seed=0)
    assert read == ["audio"] * 6


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "data.folder or data.sources says where the clips are"),
        ({"folder": "a", "sources": (SourceConfig(folder="b"),)}, "give one of them"),
        ({"sources": (SourceConfig(folder="a/x"), SourceConfig(folder="b/x"))}, "different names"),
        ({"folder": "a", "frames": 17, "buckets": (BucketConfig(frames=9, height=32, width=32),)}, "leave data.frames"),
        ({"folder": "a", "buckets": (BucketConfig(frames=9, height=32, width=32),) * 2}, "different shapes"),
    ],
)
def test_contradicting_data_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        DataConfig(cache="c", **fields)

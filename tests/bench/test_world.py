"""The measurement of a checkpoint on the small world: its properties, on random weights."""

import numpy as np
import pytest
import torch
from rounding import CHANGED, ROUNDING, away
from world_model import world_config, world_judges, world_pipeline

from harmony_core.bench.world.maps import Target, Targets, fixed_figures, map_figures, seen_targets, touching, true_targets
from harmony_core.bench.world.measure import WorldBench
from harmony_core.bench.world.plan import TASKS, Plan
from harmony_core.bench.world.record import together
from harmony_core.bench.world.runs import Runner, noise_seed, world_spec
from harmony_core.bench.world.values import Part, merge, read_part, tables_of, write_part
from harmony_core.geometry import Grid
from harmony_core.sample import Schedule
from harmony_core.types import AV, Modality
from harmony_core.world.dataset import Recipe, make_clip
from harmony_core.world.evaluation import standard_rows

SHORT = Schedule(steps=2, sampler="euler")


@pytest.fixture(scope="module")
def pipeline():
    return world_pipeline()


@pytest.fixture(scope="module")
def judges():
    return world_judges()


@pytest.fixture(scope="module")
def clips():
    return {kind: true_clips(kind, 3) for kind in ("impact", "talk")}


def true_clips(kind, count):
    if kind != "impact":
        pytest.importorskip("espeakng_loader")
    return [make_clip(Recipe(kind=kind, seed=1_000_000 + n)) for n in range(count)]


def plan(**changes):
    return Plan(**{"clips": 3, "batch": 2, "kinds": ("impact",), "schedule": SHORT, **changes})


def same(one, two):
    """Equal figures, where nothing is as good as nothing."""
    return one.clips == two.clips and np.allclose(
        (one.value, one.low, one.high), (two.value, two.low, two.high), equal_nan=True, atol=1e-6
    )


def test_true_rows_are_the_standard_rows(pipeline, judges, clips):
    names = ("truth", "shuffled", "late_1", "late_2", "late_4")
    rows = WorldBench(pipeline, judges, plan(rows=names)).kind("impact")
    wanted = standard_rows(clips["impact"], judges)
    assert tuple(rows) == names
    for name in names:
        for figure, value in wanted[name].items():
            assert same(rows[name][figure], value), (name, figure)


@pytest.mark.parametrize("kind", ["impact", "talk"])
@pytest.mark.bitwise("locked")
def test_a_driver_comes_back_exactly_and_is_what_is_judged(pipeline, clips, kind):
    runner = Runner(pipeline, plan())
    batch = runner.encode(clips[kind])
    by_sound, by_sight = (runner.run(batch, TASKS[name]) for name in ("audio_driven", "video_driven"))
    assert torch.equal(by_sound.latents.audio, batch.latents.audio)
    assert torch.equal(by_sight.latents.video, batch.latents.video)
    for n, clip in enumerate(clips[kind]):
        assert torch.equal(by_sound.wave[n], clip.samples)
        assert torch.equal(by_sight.frames[n], clip.frames)
    assert by_sound.frames.shape == by_sight.frames.shape
    assert away(by_sound.frames, by_sight.frames) > CHANGED
    assert by_sound.maps.shape == by_sight.maps.shape == (3, 13, 4, 4)


@pytest.mark.bitwise("locked")
def test_anchors_are_silence_and_the_first_picture_held(pipeline, clips):
    runner = Runner(pipeline, plan())
    batch = runner.encode(clips["impact"])
    silence, still = (runner.run(batch, TASKS[name]) for name in ("silence", "still"))
    first = clips["impact"][1].first_frame
    anchors = pipeline.anchors(runner.spec, first[None])
    assert not silence.wave.any()
    assert away(silence.latents.audio[0], anchors.audio[0]) <= ROUNDING
    assert torch.equal(still.frames[1], first.expand_as(still.frames[1]))
    assert torch.allclose(still.latents.video[1], anchors.video[0], atol=1e-5)


@pytest.mark.parametrize("task", ["joint", "joint_sync_cfg", "audio_driven", "video_driven_sync_cfg"])
def test_a_clip_is_the_same_alone_and_in_a_batch(pipeline, clips, task):
    runner = Runner(pipeline, plan())
    together_ = runner.run(runner.encode(clips["talk"]), TASKS[task])
    for n, clip in enumerate(clips["talk"]):
        alone = runner.run(runner.encode([clip]), TASKS[task])
        for m in Modality:
            assert torch.allclose(alone.latents[m][0], together_.latents[m][n], atol=1e-4)


def test_clips_have_noise_of_their_own_in_every_task(clips):
    seeds = {noise_seed(clip, seed) for group in clips.values() for clip in group for seed in (0, 1)}
    assert len(seeds) == 12
    assert all(0 <= seed < 2**32 for seed in seeds)


def test_a_map_on_the_ball_hits_and_chance_is_the_share_of_cells(clips):
    spec = world_spec(world_pipeline(), "easy")
    for clip in clips["impact"]:
        targets = true_targets(clip, spec)
        maps = torch.rand(13, 4, 4, generator=torch.Generator().manual_seed(0))
        shares = []
        for target in targets.placed:
            cells = torch.zeros(4, 4, dtype=torch.bool)
            for row in range(64):  # pixel by pixel
                for column in range(64):
                    if np.hypot(row + 0.5 - target.y, column + 0.5 - target.x) < target.radius - 0.8:
                        cells[row // 16, column // 16] = True
            assert not (cells & ~torch.from_numpy(touching(target, 4, 4, 16))).any()
            shares.append(touching(target, 4, 4, 16).mean())
            maps[target.latent, int(target.y // 16), int(target.x // 16)] = 2
        figures = map_figures(maps, targets, 16)
        count = len(clip.events)
        assert figures["map_hit"] == (count, count)
        assert figures["map_chance"] == (pytest.approx(sum(shares)), count)
        assert figures["map_seen"] == (count, count)


def test_a_map_elsewhere_does_not_hit_and_nothing_placed_says_nothing():
    maps = torch.zeros(13, 4, 4)
    maps[:, 3, 3] = 1
    assert map_figures(maps, Targets((Target(2, 8.0, 8.0, 5.0),), 2), 16)["map_hit"] == (0, 1)
    assert map_figures(maps, Targets((Target(2, 8.0, 8.0, 5.0),), 2), 16)["map_seen"] == (1, 2)
    assert map_figures(maps, Targets((), 1), 16)["map_hit"] == (0, 0)
    assert touching(Target(0, 16.0, 16.0, 2.0), 4, 4, 16).sum() == 4


def test_the_best_fixed_cell_is_the_floor_of_maps(clips):
    spec = world_spec(world_pipeline(), "easy")
    targets = [true_targets(clip, spec) for clip in clips["talk"]]
    fixed = fixed_figures(targets, 4, 4, 16)
    assert sum(clip["map_fixed"][0] for clip in fixed) == sum(clip["map_fixed"][1] for clip in fixed) > 0
    targets = [true_targets(clip, spec) for clip in clips["impact"]]
    best = sum(clip["map_fixed"][0] for clip in fixed_figures(targets, 4, 4, 16))
    for cell in range(16):
        maps = torch.nn.functional.one_hot(torch.tensor(cell), 16).view(1, 4, 4).expand(13, 4, 4)
        assert sum(map_figures(maps, own, 16)["map_hit"][0] for own in targets) <= best


@pytest.mark.parametrize("kind", ["impact", "talk"])
def test_what_sounds_is_seen_where_it_truly_is(clips, kind):
    spec = world_spec(world_pipeline(), "easy")
    for clip in clips[kind]:
        true = true_targets(clip, spec).placed
        seen = seen_targets([(e.time, e.material) for e in clip.events], clip.frames, spec).placed
        assert len(seen) == len(true) > 0
        for one, other in zip(seen, true, strict=True):
            assert one.latent == other.latent
            assert np.hypot(one.x - other.x, one.y - other.y) < 3
            assert kind == "talk" or abs(one.radius - other.radius) < 1
    grey = torch.zeros(3, 49, 64, 64)
    assert seen_targets([(0.5, "glass"), (0.7, "")], grey, spec) == Targets((), 2)


def test_latents_hold_the_pictures_of_their_events():
    clip = make_clip(Recipe(kind="impact", seed=1_000_000))
    spec = world_spec(world_pipeline(), "easy")
    spans = spec.timeline.video_spans()
    for event, target in zip(clip.events, true_targets(clip, spec).placed, strict=True):
        assert spans[target.latent, 0] <= event.time < spans[target.latent, 1]


def test_every_row_of_talk_has_its_figures(pipeline, judges):
    pytest.importorskip("espeakng_loader")
    ticks = []
    bench = WorldBench(pipeline, judges, plan(kinds=("talk",), clips=2), progress=lambda *at: ticks.append(at))
    rows = bench.kind("talk")
    anchors = bench.anchors()
    assert {"truth", "codec", "shuffled", "joint", "joint_sync_cfg", "audio_driven", "video_driven", "late_4"} <= set(rows)
    assert {"audio_driven_unseen", "shuffled_unseen", "truth_unseen", "audio_driven_shuffled"} <= set(rows)
    assert "audio_driven_sync_cfg" not in rows
    assert {"sync_c", "sync_d", "words", "voice", "closure_f1", "motion", "loudness"} <= set(rows["audio_driven"])
    assert {"sync_c_share", "map_hit", "map_chance", "map_fixed", "map_shuffled", "map_seen"} <= set(rows["audio_driven"])
    assert "sync_c_share" in rows["codec"]
    assert "sync_c_gain" in rows["joint_sync_cfg"]
    assert set(rows["silence"]) == {"motion"}
    assert set(rows["still"]) == {"loudness"}
    # The driver's own stream is the truth's.
    assert same(rows["audio_driven"]["words"], rows["truth"]["words"])
    assert same(rows["video_driven"]["motion"], rows["truth"]["motion"])
    assert set(anchors) == {"truth", "silence", "audio_driven", "still", "video_driven", "true_still", "codec_still"}
    assert anchors["true_still"]["loudness"].value == pytest.approx(-100)
    assert anchors["true_still"]["motion"].value < 0.01
    assert ticks[-1][0] == ticks[-1][1]
    assert [done for done, _ in ticks] == sorted(done for done, _ in ticks)
    assert bench.seconds["audio_driven"] > 0


def test_figures_do_not_depend_on_the_batch(pipeline, judges):
    rows = ("codec", "audio_driven", "joint")
    one, three = (WorldBench(pipeline, judges, plan(rows=rows, batch=batch)).kind("impact") for batch in (1, 3))
    assert list(one) == list(three)
    for name, figures in one.items():
        for figure, value in figures.items():
            assert value.value == pytest.approx(three[name][figure].value, abs=1e-3, nan_ok=True), (name, figure)


def test_parts_put_together_are_the_measurement_of_all_their_clips(pipeline, judges, tmp_path):
    rows = ("joint", "silence")
    whole = WorldBench(pipeline, judges, plan(rows=rows, clips=5))
    whole.kind("impact")
    whole.anchors()
    parts = []
    for first, clips in ((2, 3), (0, 2)):
        bench = WorldBench(pipeline, judges, plan(rows=rows, clips=clips, first=first))
        bench.kind("impact")
        bench.anchors()
        part = Part({"first": first, "clips": clips, "seed": 0, "steps": 2, "split": "easy", "sampler": "euler"}, bench.values)
        write_part(tmp_path / f"{first}.json", part)
        parts.append(read_part(tmp_path / f"{first}.json"))
        assert parts[-1].values == bench.values
    merged = merge(parts)
    assert merged.meta["clips"] == 5
    for row in ("truth", "joint", "silence"):
        one, two = merged.values["impact"][row], whole.values["impact"][row]
        for clip, same_clip in zip(one, two, strict=True):
            for name in set(clip) - {"map_fixed", "map_shuffled"}:  # these are of a part
                assert clip[name] == pytest.approx(same_clip[name], abs=1e-4), (row, name)
    figures = tables_of(merged)
    assert figures["impact"]["joint"]["events_heard"].clips == 5
    assert set(figures["anchors"]) == {"truth", "silence", "true_still", "codec_still"}
    with pytest.raises(ValueError, match="clips in common, from number 2 on"):
        merge([parts[0], parts[0]])
    with pytest.raises(ValueError, match="their steps differ"):
        merge([parts[0], Part({**parts[1].meta, "steps": 3}, parts[1].values)])
    with pytest.raises(ValueError, match="other rows"):
        merge([parts[0], Part(parts[1].meta, {"impact": {}})])


def test_a_share_is_0_at_the_floor_and_1_at_the_truth():
    rng = np.random.default_rng(0)
    low, high = ([{"a": (value, 1.0)} for value in rng.normal(mean, 0.3, 60)] for mean in (1.0, 4.0))
    middle = [{"a": ((x["a"][0] + y["a"][0]) / 2, 1.0)} for x, y in zip(low, high, strict=True)]

    def share(value, floor, ceiling):
        return (value - floor) / (ceiling - floor)

    for row, wanted in ((low, 0), (middle, 0.5), (high, 1)):
        found = together(share, [row, low, high], "a")
        assert found.value == pytest.approx(wanted)
        # The same clips are drawn in all three rows, so that what they have in common leaves no spread.
        assert found.high - found.low < 1e-9
    assert together(share, [low, low, low], "a").clips == 0


def test_a_measurement_can_be_stopped(pipeline, judges):
    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        WorldBench(pipeline, judges, plan(rows=("joint",)), progress=stop).kind("impact")


def test_a_model_without_frame_wise_attention_has_no_maps(judges, clips):
    pipeline = world_pipeline(world_config(kind="global"))
    rows = WorldBench(pipeline, judges, plan(rows=("video_driven",), clips=2)).kind("impact")
    assert "map_hit" not in rows["video_driven"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kinds": ("impact", "rain")}, "among impact, talk, complex, each once, got impact, rain"),
        ({"kinds": ("still",)}, "among impact, talk, complex"),
        ({"kinds": ()}, "among impact"),
        ({"rows": ("joint", "truthy")}, "the rows are truth, .*, got truthy"),
        ({"rows": ("audio_driven_unseen",)}, "measured on talk clips only"),
        ({"clips": 1}, "2 to 1000000 clips of a kind are measured, got 1"),
        ({"first": -1}, "the first of 3 clips is number 0 to 999997, got -1"),
        ({"first": 999_998}, "the first of 3 clips"),
        ({"batch": 0}, "at least one clip"),
        ({"split": "odd"}, "splits of the world are easy and hard"),
        ({"sync_scale": AV(-1.0, 2.0)}, "a guidance scale is a number from 0 up"),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        plan(**changes)


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        (Grid(patch=8), "cannot make the world's clips of 64 x 64: .*not a multiple of 128"),
        (Grid(patch=1, sample_rate=24_000), "sound has 16000 Hz, this checkpoint's 24000"),
        (Grid(patch=1, hop=256), "codecs do not fit its model"),
    ],
)
def test_a_checkpoint_of_another_grid_is_refused(grid, message):
    with pytest.raises(ValueError, match=message):
        world_spec(world_pipeline(world_config(grid)), "easy")


def test_hard_clips_are_measured_too(pipeline, judges):
    rows = WorldBench(pipeline, judges, plan(rows=("audio_driven",), split="hard", clips=2)).kind("impact")
    assert rows["truth"]["event_f1"].value > 0.8
    assert rows["audio_driven"]["map_chance"].clips <= 2

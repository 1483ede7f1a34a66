"""Two systems on one list: made or found, measured, cut and gone on with, compared."""

import json
import math

import pytest
import torch

from harmony_core.__main__ import main
from harmony_core.evaluation.benchmark import Result, differences, means, read_results, run
from harmony_core.evaluation.benchmark_report import by_set, table
from harmony_core.evaluation.clip_metrics import measure_clip
from harmony_core.evaluation.generators import ClipFolder, of_sets, world_items
from harmony_core.evaluation.items import Item
from harmony_core.media import write_video
from harmony_core.types import Audio, Video

ITEMS = tuple(Item(id=f"clip-{n}", set="even" if n % 2 == 0 else "odd", video_caption=f"flash {n}") for n in range(4))


def flashing(*, late: float = 0.0) -> tuple[Video, Audio]:
    """A second and a half in which a square jumps and a click sounds at the same times, or later."""
    frames = torch.full((1, 3, 36, 64, 64), -0.5)
    wave = torch.zeros(1, 1, 24_000)
    for n, time in enumerate((0.25, 0.6, 0.8, 1.2)):
        frames[:, :, round(time * 24) :, 8 + 8 * n : 24 + 8 * n, 20:50] = 0.9 - 0.4 * n
        first = round((time + late) * 16_000)
        wave[..., first : first + 800] = 0.5 * torch.sin(torch.arange(min(800, 24_000 - first)) * 0.6)
    return Video(frames, 24.0), Audio(wave, 16_000)


@pytest.fixture
def folder(tmp_path):
    """Clips of three of the items, one without sound; one file is damaged."""
    made = tmp_path / "clips"
    made.mkdir()
    write_video(made / "clip-0.mp4", *flashing())
    write_video(made / "clip-1.mp4", flashing()[0], None)
    (made / "clip-2.mp4").write_bytes(b"no video")
    return made


def test_a_folder_is_scored_as_far_as_it_can_be(folder, tmp_path):
    results = run(ITEMS, ClipFolder(folder), tmp_path / "out")
    assert [bool(r.error) for r in results] == [False, False, True, True]
    assert results[0].figures["sync_score"] > 0.5
    assert results[1].figures["has_sound"] == 0
    assert "sync_score" not in results[1].figures
    assert "clip-2.mp4" in results[2].error
    assert f"there is no clip clip-3.mp4 in {folder}" in results[3].error
    assert set(by_set(results)) == {"even", "odd", "all"}
    assert means(results)["has_sound"].count == 2


def test_a_run_goes_on_where_it_was_cut_and_tries_failures_again(folder, tmp_path):
    out = tmp_path / "out"
    first = run(ITEMS[:1], ClipFolder(folder), out)
    stamp = (out / "results" / "clip-0.json").stat().st_mtime_ns
    write_video(folder / "clip-3.mp4", *flashing())
    results = run(ITEMS, ClipFolder(folder), out)
    assert (out / "results" / "clip-0.json").stat().st_mtime_ns == stamp
    assert results[0] == first[0]
    assert not results[3].error
    assert read_results(out) == results


def test_results_of_another_list_are_kept(folder, tmp_path):
    out = tmp_path / "out"
    run(ITEMS[:1], ClipFolder(folder), out)
    other = Item(id="clip-0", set="even", video_caption="something else")
    with pytest.raises(ValueError, match="holds results of another list: its item clip-0 asks for something else"):
        run([other], ClipFolder(folder), out)
    (out / "results" / "clip-0.json").write_text("{}")
    with pytest.raises(ValueError, match=r"clip-0.json is no result of this command"):
        read_results(out)


def test_late_sound_lowers_the_score():
    right, late = (measure_clip(*flashing(late=by))["sync_score"] for by in (0.0, 0.17))
    assert right > late + 0.3


def test_means_and_differences_are_of_pairs():
    def results(shift):
        return [Result(item=item, figures={"x": n + shift, **({"y": 1.0} if n else {})}) for n, item in enumerate(ITEMS)]

    found = means(results(0))
    assert found["x"].value == 1.5
    assert found["x"].low < 1.5 < found["x"].high
    assert found["y"].count == 3
    gained = differences(results(0), results(2))
    assert (gained["x"].value, gained["x"].low, gained["x"].high) == (2, 2, 2)  # item by item: no spread
    with pytest.raises(ValueError, match="no item in common"):
        differences(results(0), [Result(item=Item(id="z"))])
    assert "| 4 | 1.5 ±" in table({"all": found})


def test_the_small_world_s_list_is_of_clips_no_evaluation_takes():
    items = world_items(2)
    assert [item.set for item in items] == ["impact"] * 2 + ["talk"] * 2 + ["complex"] * 2
    assert all(item.transcript for item in items[2:])
    assert items == world_items(2)
    with pytest.raises(ValueError, match="this list has no set 'music'; it has impact, talk, complex"):
        of_sets(items, ["music"])


def test_a_checkpoint_is_benchmarked_and_compared(tmp_path, capsys):
    for name, steps in (("a", "2"), ("b", "3")):
        args = ["world", "--sets", "talk", "--limit", "1", "--checkpoint", "harmony-tiny", "--steps", steps]
        assert main(["benchmark", *args, "--out", str(tmp_path / name)]) == 0
    page = (tmp_path / "a" / "index.html").read_text()
    assert page.count("<video controls") == 1
    (clip,) = (tmp_path / "a" / "clips").iterdir()
    assert f"clips/{clip.name}" in page
    figures = json.loads(next((tmp_path / "a" / "results").iterdir()).read_text())["figures"]
    assert all(math.isfinite(value) for value in figures.values())
    capsys.readouterr()
    assert main(["benchmark", "--compare", str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    assert "| b less a | 1 |" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "give a list of items: harmony-bench, world, or a file or folder"),
        (["nothing.json", "--clips", "."], "cannot read nothing.json"),
        (["harmony-bench", "--clips", "nowhere"], "--clips: there is no folder nowhere"),
        (["harmony-bench"], "who makes the clips?"),
        (["harmony-bench", "--clips", "."], "--out is missing"),
        (["harmony-bench", "--clips", ".", "--limit", "0"], "--limit is a whole number from 1 on, got 0"),
        (["harmony-bench", "--checkpoint", "none.safetensors"], "there is no checkpoint none.safetensors"),
        (["--compare", "nowhere", "."], "nowhere holds no results of this command"),
    ],
)
def test_wrong_options_are_one_sentence(args, message, capsys):
    assert main(["benchmark", *args]) == 1
    assert message in capsys.readouterr().err

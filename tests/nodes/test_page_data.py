"""What the pack's part of the page asks the server, and is sent."""

import json
import urllib.error
from urllib.parse import quote, urlencode

import av
import pytest
import torch
from bounces import FPS, bouncing, clicks
from comfy_events import Events
from comfy_server import Failed
from graphs import clip_graph, node, sampled, sampled_by_parts, sampled_by_stock
from safetensors.torch import save_file

from harmony_core.geometry import Grid
from harmony_core.measure.sync import measure_sync

CHECKPOINT = "small.safetensors"
BUILT_IN = "harmony-tiny (built in)"
PREVIEW = "harmony.preview"


def about(server, name: str) -> dict:
    return server.get(f"/harmony/checkpoint?name={quote(name)}")


def read(server, transcript: str, *, checkpoint: str = CHECKPOINT, language: str = "automatic") -> dict:
    asked = {"checkpoint": checkpoint, "transcript": transcript, "language": language}
    return json.loads(server.post("/harmony/transcript", asked))


def test_a_checkpoints_grid_is_told_without_loading_it(server):
    told = about(server, CHECKPOINT)
    assert Grid(**told["grid"]) == Grid(patch=1)
    assert told["size_multiple"] == 16
    assert told["symbols"] == 6
    assert about(server, BUILT_IN)["symbols"] > 6


@pytest.mark.parametrize("name", ["", "none.safetensors", "../../log-1.txt", "/etc/passwd", "none (built in)"])
def test_no_other_file_is_told_of(server, name):
    assert set(about(server, name)) == {"error"}


def test_a_transcript_is_read_as_harmony_encode_reads_it(server):
    told = {"picture": "", "sound": "", "transcript": "Cab a"}
    graph = {
        "load": node("HarmonyLoadCheckpoint", checkpoint=CHECKPOINT),
        "told": node("HarmonyEncode", model=["load", 0], clip=["load", 1], **told),
        "seen": node("PreviewAny", source=["told", 1]),
    }
    outputs = server.run(graph)
    found = read(server, "Cab a")
    assert outputs["seen"]["text"] == [found["symbols"]]
    report = "".join(outputs["told"]["text"])
    assert f"{found['count']} of {found['length']} symbols, about {found['seconds']:.1f} s" in report


def test_what_is_refused_of_a_transcript_is_a_sentence(server):
    assert "6" in read(server, "abcabcabc")["error"]
    assert "xyz" in read(server, "xyz", language="Mandarin")["error"]
    assert read(server, "")["count"] == 0
    with pytest.raises(Failed, match="are asked for, as JSON"):
        server.post("/harmony/transcript", {"transcript": "abc"})


def memory(server, **changes) -> dict:
    asked = {"name": CHECKPOINT, "weight_dtype": "default", "pictures": 25, "width": 64, "height": 48, "fps": 24, "batch": 1}
    return server.get(f"/harmony/memory?{urlencode(asked | changes)}")


def test_memory_is_more_for_larger_clips_and_less_for_smaller_weights(server):
    first = memory(server)
    for larger in ({"pictures": 49}, {"width": 128}, {"height": 96}, {"batch": 2}):
        assert memory(server, **larger)["step"] > 1.2 * first["step"]
        assert memory(server, **larger)["weights"] == first["weights"]
    assert memory(server, weight_dtype="fp8_e4m3fn")["weights"] < first["weights"]
    assert memory(server, name=BUILT_IN)["weights"] > 10 * first["weights"]


@pytest.mark.parametrize(
    "wrong",
    [{"name": "none"}, {"weight_dtype": "int3"}, {"pictures": 24}, {"width": 65}, {"fps": 0}, {"fps": "nan"}, {"batch": 0}],
)
def test_of_no_such_clip_or_checkpoint_is_memory_told(server, wrong):
    assert set(memory(server, **wrong)) == {"error"}


def test_memory_is_asked_for_in_numbers(server):
    with pytest.raises(urllib.error.HTTPError, match="400"):
        memory(server, pictures="many")


@pytest.fixture(scope="module")
def clips(server):
    """The outputs of a report of two clips, odd in size, the second silent."""
    pictures = bouncing((45, 71))
    sound = clicks(rate=44_100, channels=1).waveform
    given = {
        "images": torch.cat([pictures, pictures]).movedim(1, -1).contiguous(),
        "wave": torch.cat([sound, torch.zeros_like(sound)]).contiguous(),
    }
    save_file(given, server.base / "input" / "page.safetensors")
    graph = {
        "given": node("ProbeInputs", file="page.safetensors", frames=1000, rate=44_100),
        "report": node("HarmonySyncReport", images=["given", 0], audio=["given", 1], fps=FPS),
    }
    return pictures, server.run(graph)["report"]["harmony_clips"]


def test_the_player_is_sent_what_was_measured(clips):
    pictures, (first, second) = clips
    found = measure_sync(pictures, clicks(rate=44_100), FPS)
    assert first["seen"] == pytest.approx(found.seen.times.tolist(), abs=1e-3)
    assert first["heard"] == pytest.approx(found.heard.times.tolist(), abs=1e-3)
    assert [tuple(pair) for pair in first["pairs"]] == list(found.events.pairs)
    assert first["score"] == pytest.approx(found.score, abs=1e-3)
    assert second["heard"] == second["pairs"] == []
    assert all(low == high == 0 for low, high in second["peaks"])
    assert max(high for _, high in first["peaks"]) == 127 or min(low for low, _ in first["peaks"]) == -127


def test_the_preview_is_a_clip_with_sound_of_the_same_length(server, clips):
    _, sent = clips
    for clip in sent:
        with av.open(str(server.base / "temp" / clip["filename"])) as file:
            video, audio = file.streams.video[0], file.streams.audio[0]
            assert (video.width, video.height) == (72, 44) or (video.width % 2, video.height % 2) == (0, 0)
            assert float(video.duration * video.time_base) == pytest.approx(clip["seconds"], abs=0.01)
            assert float(audio.duration * audio.time_base) == pytest.approx(clip["seconds"], abs=0.05)


def decoded(server, *, on: bool | None, scale: float) -> dict:
    """The outputs of a graph that decodes and measures a clip, for a browser that said whether it wants to play it."""
    graph = sampled_by_stock(clip_graph(), f"played {scale}", cfg=scale)
    graph["clip"] = node("HarmonyDecode", latent=["sampled", 0], video_vae=["load", 2], audio_vae=["load", 3])
    graph["report"] = node("HarmonySyncReport", images=["clip", 0], audio=["clip", 1], fps=["clip", 2])
    with Events(server.port) as events:
        if on is not None:
            server.post("/harmony/player", {"client": events.name, "on": on})
        return server.finish(server.queue(graph, events.name))


def test_what_is_decoded_is_played_where_that_is_wanted_and_written_once(server):
    before = len(list((server.base / "temp").glob("harmony_*.mp4")))
    outputs = decoded(server, on=True, scale=1.1)
    (clip,), (report,) = (outputs[name]["harmony_clips"] for name in ("clip", "report"))
    assert clip == {key: report[key] for key in clip}
    assert "score" not in clip
    assert len(list((server.base / "temp").glob("harmony_*.mp4"))) == before + 1
    with av.open(str(server.base / "temp" / clip["filename"])) as file:
        assert (len(file.streams.video), len(file.streams.audio)) == (1, 1)


@pytest.mark.parametrize(("on", "scale"), [(None, 1.2), (False, 1.3)])
def test_nothing_is_written_of_what_is_decoded_where_nobody_asks(server, on, scale):
    outputs = decoded(server, on=on, scale=scale)
    assert "clip" not in outputs
    assert outputs["report"]["harmony_clips"]


def test_a_browser_may_change_its_mind(server):
    with Events(server.port) as events:
        for on in (True, False, True):
            server.post("/harmony/player", {"client": events.name, "on": on})
    with pytest.raises(Failed, match="are asked for, as JSON"):
        server.post("/harmony/player", {"on": True})


def previews(events: Events, number: str):
    """What is shown until a graph ends."""
    for kind, data in events:
        if kind == PREVIEW:
            yield data
        if kind in {"execution_success", "execution_error"} and data["prompt_id"] == number:
            return


@pytest.mark.parametrize("sampler", [sampled, sampled_by_stock, sampled_by_parts])
def test_both_streams_are_shown_whatever_samples(server, sampler):
    graph = sampler(clip_graph(), f"shown {sampler.__name__}")
    with Events(server.port) as events:
        number = server.queue(graph, events.name)
        shown = list(previews(events, number))
    assert shown
    assert shown[-1]["step"] == shown[-1]["steps"]
    assert {data["node"] for data in shown} == {"sampled"}
    for data in shown:
        assert data["count"] == 4
        assert data["pictures"].startswith("data:image/jpeg;base64,")
        assert data["spectrum"].startswith("data:image/png;base64,")
        assert len(json.dumps(data)) < 20_000


def test_a_model_saved_by_modelsave_is_shown_as_before(server):
    def shown(graph) -> list[dict]:
        with Events(server.port) as events:
            return list(previews(events, server.queue(graph, events.name)))

    graph = sampled_by_stock(clip_graph(), "before it is saved")
    graph["save"] = node("ModelSave", model=["load", 0], filename_prefix="diffusion_models/shown")
    graph["told"]["inputs"]["transcript"] = "cab"
    before = shown(graph)
    (written,) = (server.base / "output" / "diffusion_models").glob("shown*.safetensors")
    again = sampled_by_stock(clip_graph(checkpoint=written.name), "saved and shown")
    again["told"]["inputs"]["transcript"] = "cab"
    after = shown(again)
    assert after[-1]["count"] == 4
    assert after[-1]["known"]
    for key in ("pictures", "spectrum", "seconds"):
        assert after[-1][key] == before[-1][key]
    # Saved again, it still is.
    again["save"] = node("ModelSave", model=["load", 0], filename_prefix="diffusion_models/twice")
    again["sampled"]["inputs"]["seed"] += 1
    server.run(again)
    (twice,) = (server.base / "output" / "diffusion_models").glob("twice*.safetensors")
    third = sampled_by_stock(clip_graph(checkpoint=twice.name), "saved twice")
    assert shown(third)[-1]["known"]

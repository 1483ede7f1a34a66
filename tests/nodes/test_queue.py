"""The pack in a ComfyUI that lives long: what is run again, what is cancelled, what fails, and what is left of it.

A latent goes through ProbeAgain on its way to the sampler: with a new number, sampling and decoding are run again, and every
test that compares two runs sees that they were.
"""

import itertools
import json
import statistics
import time
from typing import Any

import pytest
import torch
from all_in_one import save_all_in_one
from comfy_events import Events
from comfy_server import Failed, Server
from comfyui import find_comfy
from graphs import TOLD, Graph, clip_graph, node, sampled

SMALL, TINY, BROKEN = "small.safetensors", "harmony-tiny (built in)", "broken.safetensors"
PROMPTS, WARM = 10, 2
MEBIBYTE = 1 << 20
GROWTH = 2 * MEBIBYTE
OF_A_RUN = {"Run", "Question", "_Guiding"}

Tensors = dict[str, torch.Tensor]

numbers = itertools.count()


def whole(checkpoint: str = SMALL, **changes: Any) -> Graph:
    """From words to pictures and sound; all tensors are kept under its number."""
    number = next(numbers)
    graph = clip_graph(checkpoint=checkpoint)
    graph["told"]["inputs"] |= {"transcript": TOLD["transcript"] if checkpoint == SMALL else ""}
    if checkpoint == TINY:
        graph["latent"]["inputs"] |= {"width": 64, "height": 64}
    graph["again"] = node("ProbeAgain", latent=["latent", 0], number=number)
    graph = sampled(graph, f"kept-{number}", **changes)
    graph["sampled"]["inputs"]["latent"] = ["again", 0]
    graph["clip"] = node("HarmonyDecode", latent=["sampled", 0], video_vae=["load", 2], audio_vae=["load", 3])
    graph["keep"]["inputs"] |= {"images": ["clip", 0], "audio": ["clip", 1]}
    return graph


def watched_alive(graph: Graph) -> Graph:
    """The same, counting what is alive at its end."""
    name = f"alive-{graph['again']['inputs']['number']}"
    return graph | {"alive": node("ProbeAlive", name=name, latent=["sampled", 0], images=["clip", 0], audio=["clip", 1])}


def executed(server: Server, graph: Graph) -> list[str]:
    """Run a graph; the nodes that were not taken from a cache."""
    with Events(server.port) as events:
        number = server.queue(graph, events.name)
        nodes = events.executed(number)
        server.finish(number)
    return nodes


def made(server: Server, graph: Graph) -> Tensors:
    """Run a graph, sampling and decoding too; what it kept."""
    assert {"sampled", "clip", "keep"} <= set(executed(server, graph))
    return server.kept(graph["keep"]["inputs"]["name"])


def alive(server: Server, graph: Graph) -> dict[str, Any]:
    return json.loads((server.base / "output" / graph["alive"]["inputs"]["name"]).read_text())


def same(one: Tensors, other: Tensors) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    find_comfy()
    server = Server(tmp_path_factory.mktemp("queue") / "base")
    try:
        checkpoints = server.base / "models" / "checkpoints"
        written = save_all_in_one(checkpoints / SMALL).read_bytes()
        (checkpoints / BROKEN).write_bytes(written[: len(written) // 2])
        server.wait()
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="module")
def reference(server):
    """What the small checkpoint makes, and the built-in one."""
    return {name: made(server, whole(name, steps=2)) for name in (TINY, SMALL)}


SAMPLED = {"sampled", "clip", "keep"}
CHANGES = {
    "nothing": (lambda graph: graph, set()),
    "the words": (lambda graph: graph["told"]["inputs"].update(picture="a cube"), {"told", *SAMPLED}),
    "the seed": (lambda graph: graph["sampled"]["inputs"].update(seed=8), SAMPLED),
    "the length": (lambda graph: graph["latent"]["inputs"].update(seconds=0.375), {"latent", "again", *SAMPLED}),
}


@pytest.mark.parametrize("change", CHANGES)
def test_only_what_depends_on_a_change_is_run_again(server, change):
    alter, wanted = CHANGES[change]
    graph = whole()
    made(server, graph)
    alter(graph)
    assert set(executed(server, graph)) == wanted


def cancel(server: Server, graph: Graph, where: str) -> None:
    """Run a graph and cancel it while a node is at work."""
    with Events(server.port) as events:
        number = server.queue(graph, events.name)
        events.until_under_way(where)
        server.post("/interrupt", {})
        with pytest.raises(Failed, match="interrupted"):
            server.finish(number)
    assert server.messages(number)["execution_interrupted"]["node_id"] == where


def check_next(server: Server, wanted: Tensors) -> None:
    """The next run equals the one before, and nothing of any run before it is alive."""
    graph = watched_alive(whole(steps=2))
    assert same(made(server, graph), wanted)
    assert not OF_A_RUN & alive(server, graph)["objects"].keys()


@pytest.mark.parametrize("where", ["sampled", "clip"])
@pytest.mark.bitwise("program")
def test_cancelling_leaves_the_next_run_identical(server, reference, where):
    long = whole(steps=1000 if where == "sampled" else 1, sync_video=1.0, sync_audio=1.0)
    long["latent"]["inputs"]["seconds"] = 193 / 24
    cancel(server, long, where)
    check_next(server, reference[SMALL])


def with_failing_step(graph: Graph) -> None:
    graph["failing"] = node("ProbeFail", model=["load", 0], step=1)
    graph["sampled"]["inputs"]["model"] = ["failing", 0]


FAILURES = {
    "refused": (lambda graph: graph["sampled"]["inputs"].update(sampler_name="none"), "sampler_name"),
    "file": (lambda graph: graph["load"]["inputs"].update(checkpoint=BROKEN), "HarmonyLoadCheckpoint: "),
    "words": (lambda graph: graph["told"]["inputs"].update(transcript="xyz"), "HarmonyEncode: "),
    "latent": (lambda graph: graph["latent"]["inputs"].update(width=50), "HarmonyEmptyLatent: "),
    "codecs": (lambda graph: graph["sampled"]["inputs"].pop("video_vae"), "HarmonyKSampler: "),
    "step": (with_failing_step, "HarmonyKSampler: the probe fails"),
    "decoding": (lambda graph: graph["clip"]["inputs"].update(video_vae=["load", 3]), "HarmonyDecode: "),
}


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.bitwise("program")
def test_a_failure_leaves_the_next_run_identical(server, reference, failure):
    break_it, message = FAILURES[failure]
    graph = whole(steps=3)
    break_it(graph)
    with pytest.raises(Failed, match=message):
        server.run(graph)
    check_next(server, reference[SMALL])


@pytest.mark.bitwise("program")
def test_two_models_take_turns(server, reference):
    for name in (TINY, SMALL, TINY):
        assert same(made(server, whole(name, steps=2)), reference[name])


@pytest.mark.bitwise("program")
def test_freed_and_loaded_again_it_makes_the_same(server, reference):
    server.post("/free", {"unload_models": True, "free_memory": True})
    for _ in range(10):
        graph = whole(steps=2)
        nodes = executed(server, graph)
        assert same(server.kept(graph["keep"]["inputs"]["name"]), reference[SMALL])
        # A graph that comes before ComfyUI has seen to it is run first.
        if "load" in nodes:
            return
        time.sleep(0.2)
    pytest.fail("ComfyUI did not free its memory")


@pytest.fixture(scope="module")
def restarted(server, reference):
    """Another process, which keeps nothing of a graph that the next one does not use; the last tests have it."""
    del reference
    server.restart("--cache-classic")
    return server


@pytest.mark.bitwise("program")
def test_another_process_makes_the_same_bits(restarted, reference):
    assert same(made(restarted, whole(steps=2)), reference[SMALL])


def test_prompts_in_a_row_take_the_same_time_and_no_more_memory(restarted):
    graphs = [watched_alive(whole(TINY, steps=2, seed=seed)) for seed in range(PROMPTS)]
    queued = [restarted.queue(graph) for graph in graphs]
    for number in queued:
        restarted.finish(number)
    found = [alive(restarted, graph) for graph in graphs]
    assert found[WARM]["objects"]["HarmonyModel"] == 1
    for key in ("tensors", "objects"):
        assert {json.dumps(one[key]) for one in found[WARM:]} == {json.dumps(found[WARM][key])}
    assert max(one["resident"] for one in found[WARM:]) - found[WARM - 1]["resident"] < GROWTH
    # Of the processor, not of the clock: what else runs on the machine does not count.
    times = [after["seconds"] - before["seconds"] for before, after in itertools.pairwise(found)][WARM - 1 :]
    half = len(times) // 2
    assert statistics.median(times[half:]) < 1.5 * statistics.median(times[:half])

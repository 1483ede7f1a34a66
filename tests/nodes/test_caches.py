"""ComfyUI's step caches on a model that works: harmony-tiny, 24 steps."""

import re

import pytest
from graphs import clip_graph, node, sampled_by_stock

TINY = "harmony-tiny (built in)"
STEPS = 24
SKIPPED = re.compile(r"(?:Easy|Lazy)Cache - skipped (\d+)/24 steps")
SYNC = {"sync_video": 3.0, "sync_audio": 2.0, "sync_text": "same", "text_video": 1.0, "text_audio": 1.0}
CACHES = {
    "EasyCache": {"reuse_threshold": 0.2, "start_percent": 0.15, "end_percent": 0.95, "verbose": False},
    "LazyCache": {"reuse_threshold": 0.2, "start_percent": 0.15, "end_percent": 0.95, "verbose": False},
}


def graph_of(*, cache: str | None, sync: bool, first: bool = True) -> dict:
    """A talking face by KSampler; the cache before or after SyncCFG."""
    graph = clip_graph(checkpoint=TINY)
    graph["told"]["inputs"] |= {
        "picture": "a blue ball bouncing in a room",
        "sound": "low knocks of wood",
        "transcript": "",
    }
    graph["latent"]["inputs"] |= {"seconds": 2.0417, "width": 64, "height": 64}
    graph = sampled_by_stock(graph, "made")
    graph["sampled"]["inputs"]["steps"] = STEPS
    model = ["load", 0]
    added = [("cache", node(cache, **CACHES[cache]))] if cache else []
    if sync:
        guided = ("sync", node("HarmonySyncCFG", video_vae=["load", 2], audio_vae=["load", 3], **SYNC))
        added = [*added, guided] if first else [guided, *added]
    for name, one in added:
        one["inputs"]["model"] = model
        graph[name], model = one, [name, 0]
    graph["sampled"]["inputs"]["model"] = model
    return graph


@pytest.fixture(scope="module")
def made(server):
    kept: dict = {}

    def run(**which):
        key = tuple(sorted(which.items(), key=str))
        if key not in kept:
            before = len(server.text())
            server.run(graph_of(**which))
            found = server.kept("made")
            skipped = SKIPPED.findall(server.text()[before:])
            kept[key] = {m: found[f"after.{m}"] for m in ("video", "audio")}, int(skipped[-1]) if skipped else 0
        return kept[key]

    return run


def apart(one, two) -> float:
    return max(float((one[m] - two[m]).norm() / one[m].norm()) for m in one)


# Largest relative distance of the latents from those without a cache. EasyCache keeps velocities, LazyCache finished answers;
# with the first the anchors are computed at every step, and guidance multiplies what the joint answer is off by. Measured:
# 0.12, 0.40, 0.08, 0.09, with 10 to 13 of 24 steps skipped. With the answers of all passes under one name it was 6.1.
FAR = {("EasyCache", False): 0.25, ("EasyCache", True): 0.6, ("LazyCache", False): 0.2, ("LazyCache", True): 0.2}


@pytest.mark.parametrize(
    ("cache", "sync", "first"), [(c, s, f) for c in CACHES for s, f in ((False, True), (True, True), (True, False))]
)
def test_a_cache_skips_steps_and_keeps_the_clip(made, cache, sync, first):
    right, _ = made(cache=None, sync=sync)
    cached, skipped = made(cache=cache, sync=sync, first=first)
    assert skipped >= 6
    assert apart(right, cached) < FAR[cache, sync]
    if sync:  # it is the guided clip that is near, not the plain one
        plain, _ = made(cache=None, sync=False)
        assert apart(plain, cached) > 2 * apart(right, cached)


@pytest.mark.parametrize("kind", ["APG", "FreSca"])
@pytest.mark.parametrize("first", [True, False])
def test_what_changes_the_answer_before_cfg_adds_to_sync_cfg(server, kind, first):
    """One step: what the node changes is the same with SyncCFG beside it, not multiplied by its scales."""
    settings = {
        "APG": {"eta": 0.5, "norm_threshold": 5.0, "momentum": 0.0},
        "FreSca": {"scale_low": 1.0, "scale_high": 1.5, "freq_cutoff": 20},
    }[kind]

    def run(*, change: bool, sync: bool) -> dict:
        graph = graph_of(cache=None, sync=sync)
        graph["sampled"]["inputs"] |= {"steps": 1, "cfg": 3.0}
        if change:
            one = node(kind, model=["load", 0] if first else graph["sampled"]["inputs"]["model"], **settings)
            graph["change"] = one
            if first and sync:
                graph["sync"]["inputs"]["model"] = ["change", 0]
            else:
                graph["sampled"]["inputs"]["model"] = ["change", 0]
        server.run(graph)
        return {m: server.kept("made")[f"after.{m}"] for m in ("video", "audio")}

    plain, changed, guided, both = (run(change=c, sync=s) for s in (False, True) for c in (False, True))
    for m in ("video", "audio"):
        alone, beside = changed[m] - plain[m], both[m] - guided[m]
        assert float((beside - alone).norm()) < 1e-3 * float(alone.norm()), m
    assert max(float((changed[m] - plain[m]).norm()) for m in plain) > 0.1  # it does something

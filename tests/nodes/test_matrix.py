"""Three samplers' nodes, five tasks, four ways to walk: each cell on a real ComfyUI."""

from functools import cache

import pytest
import torch
from graphs import SEED, TASKS, clip_graph, node, sampled, sampled_by_parts, sampled_by_stock
from rounding import CHANGED, ROUNDING, away
from standalone import far, standalone

from harmony_core.flow import draw_noise
from harmony_core.guidance import Guidance, sync_guidance
from harmony_core.pipeline import Pipeline
from harmony_core.types import AV, Modality

NODES = ("KSampler", "SamplerCustomAdvanced", "HarmonyKSampler")
GUIDER = "SamplerCustomAdvanced with HarmonySyncGuider"
WALKS = ("euler", "dpmpp_2m", "uni_pc", "res_multistep")
STEPS = 4
SHIFT = 5.0
SYNC = sync_guidance(AV(3.0, 2.0))
NEAR = 1e-4


@pytest.fixture(scope="module")
def pipeline(server):
    return Pipeline.load(server.base / "models" / "checkpoints" / "small.safetensors")


def as_ksampler_spaces(walk: str) -> dict:
    """The sigmas of KSampler with the scheduler ``simple``; for uni_pc it leaves out the last but one of a step more."""
    if walk != "uni_pc":
        return node("BasicScheduler", model=["load", 0], scheduler="simple", steps=STEPS, denoise=1.0)
    even = torch.arange(1, 1001) / 1000
    table = SHIFT * even / (1 + (SHIFT - 1) * even)
    kept = [float(table[-(1 + int(i * 1000 / (STEPS + 1)))]) for i in range(STEPS)]
    return node("ManualSigmas", sigmas=", ".join(map(repr, [*kept, 0.0])))


def graph_of(kind: str, task: str, walk: str, name: str) -> dict:
    """One cell."""
    if kind == "KSampler":
        graph = sampled_by_stock(clip_graph(task), name, sampler_name=walk)
        graph["sampled"]["inputs"]["steps"] = STEPS
        return graph
    if kind == "HarmonyKSampler":
        return sampled(clip_graph(task), name, sampler_name=walk, steps=STEPS)
    graph = sampled_by_parts(clip_graph(task), name)
    graph["walk"] = node("KSamplerSelect", sampler_name=walk)
    if kind == GUIDER:
        graph["guider"]["inputs"]["latent"] = ["latent", 0]
        graph["sigmas"] = as_ksampler_spaces(walk)
    else:
        graph["guider"] = node("BasicGuider", model=["load", 0], conditioning=["told", 0])
        graph["sigmas"] = as_ksampler_spaces(walk)
    return graph


@pytest.fixture(scope="module")
def cell(server):
    """Runs a cell once; what it was given and what it made."""

    @cache
    def run(kind: str, task: str, walk: str) -> dict[str, torch.Tensor]:
        name = f"{kind}-{task}-{walk}"
        server.run(graph_of(kind, task, walk, name))
        return server.kept(name)

    return run


def given(task: str, kept: dict[str, torch.Tensor], side: str) -> torch.Tensor | None:
    """What of a task is given; None where nothing of the clip is."""
    if task == "first":
        return kept[f"{side}.video"][:, :, :1]
    return kept[f"{side}.{task}"] if task in {"audio", "video"} else None


@pytest.mark.parametrize("walk", WALKS)
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("kind", NODES)
@pytest.mark.bitwise("locked")
def test_cell(cell, pipeline, inputs, kind, task, walk):
    kept = cell(kind, task, walk)
    before = given(task, kept, "before")
    assert before is None or torch.equal(before, given(task, kept, "after"))
    noise = draw_noise(AV(*(kept[f"after.{m.value}"].shape for m in Modality)), [SEED])
    for m in Modality:
        made = kept[f"after.{m.value}"]
        assert torch.isfinite(made).all()
        if task != m.value:
            assert (made - noise[m]).abs().mean() > 0.1
            assert (made - kept[f"before.{m.value}"]).abs().mean() > 0.1
    if walk == "euler":
        guidance = SYNC if kind == "HarmonyKSampler" else Guidance()
        assert far(kept, standalone(pipeline, inputs, task, guidance, steps=STEPS)) <= NEAR
    if kind == "SamplerCustomAdvanced":
        stock = cell("KSampler", task, walk)
        assert away(kept, stock) <= ROUNDING
    if kind == "HarmonyKSampler":
        parts = cell(GUIDER, task, walk)
        assert far(kept, AV(parts["after.video"], parts["after.audio"])) <= NEAR


@pytest.mark.parametrize("walk", WALKS)
@pytest.mark.bitwise("program")
def test_the_same_seed_gives_the_same_clip_and_another_one_another(server, cell, walk):
    kept = cell("HarmonyKSampler", "first", walk)
    graph = graph_of("HarmonyKSampler", "first", walk, "same")
    graph["sampled"]["inputs"]["latent"] = ["again", 0]
    graph["again"] = node("ProbeAgain", latent=["latent", 0], number=WALKS.index(walk))
    server.run(graph)
    same = server.kept("same")
    graph["sampled"]["inputs"]["seed"] = SEED + 1
    server.run(graph)
    other = server.kept("same")
    for key in kept:
        assert torch.equal(kept[key], same[key])
        if key.startswith("after"):
            assert away(kept[key], other[key]) > CHANGED


def test_every_sampler_takes_the_same_steps_in_both_nodes(server):
    """Some of ComfyUI's go without the last but one sigma of a step more; the set of them is ComfyUI's own."""
    names = server.get("/object_info/HarmonyKSampler")["HarmonyKSampler"]["input"]["required"]["sampler_name"][1]["options"]
    assert len(names) > 30
    apart = {}
    for name in names:
        stock = sampled_by_stock(clip_graph("joint"), "stock", sampler_name=name)
        stock["sampled"]["inputs"]["steps"] = STEPS
        ours = sampled(clip_graph("joint"), "ours", sampler_name=name, steps=STEPS, sync_video=1.0, sync_audio=1.0)
        for graph in (stock, ours):
            server.run(graph)
        one, two = server.kept("stock"), server.kept("ours")
        apart[name] = max(float((one[key] - two[key]).norm() / one[key].norm()) for key in ("after.video", "after.audio"))
    assert {name: far for name, far in apart.items() if not far < 1e-4} == {}


@pytest.mark.parametrize("task", ["joint", "first"])
def test_the_ways_to_walk_differ_and_come_near_each_other(server, task):
    """They are different solvers of one equation, so that more steps bring them together."""
    apart = {}
    for steps in (STEPS, 8 * STEPS):
        made = {}
        for walk in ("euler", "res_multistep"):
            graph = graph_of("HarmonyKSampler", task, walk, "walked")
            graph["sampled"]["inputs"] |= {"steps": steps, "sync_video": 1.0, "sync_audio": 1.0}
            server.run(graph)
            made[walk] = server.kept("walked")["after.audio"]
        apart[steps] = (made["euler"] - made["res_multistep"]).abs().mean().item()
    assert 1e-3 < apart[8 * STEPS] < 0.5 * apart[STEPS]

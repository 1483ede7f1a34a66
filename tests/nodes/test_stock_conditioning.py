"""What ComfyUI's own nodes make of conditions, in a real ComfyUI."""

import pytest
import torch
from comfy_server import Failed
from graphs import Graph, clip_graph, node, sampled

from harmony_core.types import AV, Modality

NEAR = 1e-5
CHANGES = {
    "combined": {"kind": "ConditioningCombine", "conditioning_1": ["told", 0], "conditioning_2": ["told", 0]},
    "timed": {"kind": "ConditioningSetTimestepRange", "conditioning": ["told", 0], "start": 0.0, "end": 1.0},
    "averaged": {
        "kind": "ConditioningAverage",
        "conditioning_to": ["told", 0],
        "conditioning_from": ["other", 0],
        "conditioning_to_strength": 1.0,
    },
    "whole": {
        "kind": "ConditioningSetAreaPercentage",
        "conditioning": ["told", 0],
        "width": 1.0,
        "height": 1.0,
        "x": 0.0,
        "y": 0.0,
        "strength": 1.0,
    },
    "strong": {"kind": "ConditioningSetAreaStrength", "conditioning": ["told", 0], "strength": 2.0},
    "propertied": {"kind": "ConditioningSetProperties", "cond_NEW": ["told", 0], "strength": 1.0, "set_cond_area": "default"},
}


def graph_of(name: str, task: str = "joint", **negative) -> Graph:
    graph = sampled(clip_graph(task), name, sync_video=1.0, sync_audio=1.0, sync_text="same", text_video=3.0, text_audio=2.0)
    graph["away"] = node("HarmonyEncode", model=["load", 0], clip=["load", 1], **negative)
    graph["sampled"]["inputs"]["negative"] = ["away", 0]
    return graph


def changed(name: str, kind: str, **inputs) -> Graph:
    """The positive conditions, changed by a stock node."""
    graph = graph_of(name, picture="", sound="", transcript="")
    graph["other"] = node("CLIPTextEncode", clip=["load", 1], text="rain")
    graph["mask"] = node("SolidMask", value=1.0, width=48, height=32)
    graph["changed"] = node(kind, **inputs)
    graph["sampled"]["inputs"]["positive"] = ["changed", 0]
    return graph


def latents(server, graph: Graph) -> AV[torch.Tensor]:
    server.run(graph)
    kept = server.kept(graph["keep"]["inputs"]["name"])
    return AV(kept["after.video"], kept["after.audio"])


def far(one: AV[torch.Tensor], other: AV[torch.Tensor]) -> float:
    return max(((one[m] - other[m]).abs().max() / other[m].abs().max()).item() for m in Modality)


def test_zeroed_conditions_tell_nothing(server):
    words = {"picture": "rain", "sound": "hum", "transcript": "abc"}
    zeroed = graph_of("zeroed", **words)
    zeroed["zeroed"] = node("ConditioningZeroOut", conditioning=["away", 0])
    zeroed["sampled"]["inputs"]["negative"] = ["zeroed", 0]
    empty = latents(server, graph_of("empty", picture="", sound="", transcript=""))
    assert far(latents(server, zeroed), empty) <= NEAR
    assert far(latents(server, graph_of("words", **words)), empty) > 100 * NEAR


@pytest.mark.parametrize("name", CHANGES)
def test_what_changes_nothing_changes_nothing(server, name):
    plain = latents(server, graph_of("plain", picture="", sound="", transcript=""))
    assert far(latents(server, changed(name, **CHANGES[name])), plain) <= NEAR


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        ("ConditioningConcat", {"conditioning_to": ["told", 0], "conditioning_from": ["other", 0]}),
        (
            "ConditioningSetMask",
            {"conditioning": ["told", 0], "mask": ["mask", 0], "strength": 1.0, "set_cond_area": "default"},
        ),
        ("ConditioningSetArea", {"conditioning": ["told", 0], "width": 64, "height": 64, "x": 0, "y": 0, "strength": 1.0}),
        (
            "ConditioningSetAreaPercentage",
            {"conditioning": ["told", 0], "width": 1.0, "height": 0.5, "x": 0.0, "y": 0.0, "strength": 1.0},
        ),
    ],
)
def test_what_cannot_be_told_names_input_and_node(server, kind, given):
    with pytest.raises(Failed) as failed:
        server.run(changed(kind, kind, **given))
    assert len(str(failed.value).splitlines()) == 1
    assert "positive: " in str(failed.value)
    assert kind in str(failed.value)

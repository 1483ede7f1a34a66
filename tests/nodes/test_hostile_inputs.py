"""Whatever a graph holds: a node refuses it in one sentence, and ComfyUI's worker runs the next graph.

The inputs are those that ComfyUI tells of: a new node, or a new input, is tried without a change here.
"""

import json
import re

import pytest
from comfy_server import Failed
from graphs import Graph, clip_graph, node, sampled

LINKS = {
    "MODEL": ["load", 0],
    "CLIP": ["load", 1],
    "CONDITIONING": ["told", 0],
    "LATENT": ["latent", 0],
    "IMAGE": ["inputs", 0],
}
LINKS |= {"AUDIO": ["inputs", 1]}
VAES = {"video_vae": ["load", 2], "audio_vae": ["load", 3]}
TEXTS = {
    "half a character": "9, \ud800",
    "5 kB": "x" * 5000,
    "control characters": "".join(map(chr, range(1, 32))) + "\x7f\x9b",
    "null": "a\0b",
    "turned": "\u202egnp.exe",
    "a path": "../../../../etc/passwd",
}
LONGEST = 600
NODES = [
    "HarmonyDecode",
    "HarmonyDemoMedia",
    "HarmonyDriveWithAudio",
    "HarmonyDriveWithVideo",
    "HarmonyEmptyLatent",
    "HarmonyEncode",
    "HarmonyFirstFrame",
    "HarmonyKSampler",
    "HarmonyKeepSpan",
    "HarmonyLoadCheckpoint",
    "HarmonyLoadLatent",
    "HarmonyLoadLora",
    "HarmonySampler",
    "HarmonySaveLatent",
    "HarmonySoundSourceMap",
    "HarmonySyncCFG",
    "HarmonySyncGuider",
    "HarmonySyncReport",
]


def inputs_of(server, kind: str) -> dict[str, tuple]:
    """Type and options of every input of a node."""
    told = server.get(f"/object_info/{kind}")[kind]["input"]
    return {name: (spec[0], spec[1] if len(spec) > 1 else {}) for part in told.values() for name, spec in part.items() if part}


def graph_with(server, kind: str) -> Graph:
    """A graph around a node with all that it needs, its widgets at their defaults."""
    told = server.get(f"/object_info/{kind}")[kind]["input"]
    given = {}
    for name, (type_, options) in inputs_of(server, kind).items():
        if type_ in LINKS or type_ == "VAE":
            if name in told.get("required", {}):
                given[name] = LINKS.get(type_) or VAES[name]
        elif name not in told.get("hidden", {}):
            choices = options.get("options") or [""]
            given[name] = options.get("default", choices[0])
    graph = clip_graph()
    graph["inputs"] = node("ProbeInputs", file="inputs.safetensors", frames=15, rate=44_100)
    graph["tried"] = node(kind, **given)
    if kind == "HarmonyLoadCheckpoint":
        graph["tried"]["inputs"]["checkpoint"] = "small.safetensors"
    if not server.get(f"/object_info/{kind}")[kind]["output_node"]:
        graph["shown"] = node("PreviewAny", source=["tried", 0])
    return graph


def check(server, graph: Graph, name: str, *, refused: bool) -> None:
    """Run it: a good end, or one short sentence that names the input."""
    try:
        server.run(graph)
    except Failed as failed:
        said = re.sub(r"^\w+: ", "", str(failed))
        if said.startswith("{"):  # ComfyUI itself refuses it when it is queued
            return
        assert said.isprintable(), repr(said)
        assert len(said) < LONGEST, said
        if refused:
            assert said.startswith(f"{name}: "), said
    else:
        assert not refused, f"{name} was taken"


@pytest.fixture
def lora(server):
    folder = server.base / "models" / "loras"
    folder.mkdir(exist_ok=True)
    (folder / "tried.safetensors").write_bytes(b"")


@pytest.mark.parametrize("kind", NODES)
def test_whatever_an_input_holds_the_next_graph_runs(server, lora, kind):
    for name, (type_, _) in inputs_of(server, kind).items():
        wrong: dict[str, object] = {}
        if type_ == "FLOAT":
            wrong = {"nan": float("nan"), "a text": "nan", "inf": float("inf"), "-inf": float("-inf"), "1e400": "1e400"}
        elif type_ in {"STRING", "COMBO"} or isinstance(type_, list):
            wrong = TEXTS
        for what, value in wrong.items():
            graph = graph_with(server, kind)
            graph["tried"]["inputs"][name] = value
            check(server, graph, name, refused=type_ == "FLOAT" or what == "half a character")
        if type_ == "FLOAT":
            for text in ("nan", "-inf"):
                graph = graph_with(server, kind)
                graph["number"] = node("ProbeNumber", text=text)
                graph["tried"]["inputs"][name] = ["number", 0]
                check(server, graph, name, refused=True)
    good = sampled(clip_graph(), f"after {kind}", steps=1, sync_video=1.0, sync_audio=1.0)
    server.run(good)
    assert server.kept(f"after {kind}")["after.video"].isfinite().all()


def test_no_node_is_left_out(server):
    ours = {name for name, info in server.get("/object_info").items() if info["category"] == "Harmony"}
    assert ours == set(NODES)


def test_what_was_refused_is_in_the_log_and_in_the_history(server):
    """Both are written with it, which a half of a character would break."""
    graph = graph_with(server, "HarmonySyncCFG")
    graph["tried"]["inputs"]["skip_layers"] = "9, \ud800"
    number = server.queue(graph)
    with pytest.raises(Failed, match=r"skip_layers: it holds half of a character, \\ud800"):
        server.finish(number)
    assert "half of a character" in server.text()
    assert "skip_layers" in json.dumps(server.messages(number))

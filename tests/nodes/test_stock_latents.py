"""What ComfyUI's own nodes do with a joint latent is what docs/troubleshooting.md says."""

import json
import re
from pathlib import Path

import pytest
from comfy_server import Failed
from graphs import Graph, clip_graph, node, sampled_by_parts

PAGE = Path(__file__).parents[2] / "docs" / "troubleshooting.md"
ROW = re.compile(r"^\| ((?:`\w+` ?)+)\| ([^|]*)\|", re.MULTILINE)
TABLE = {name: row[2].strip() for row in ROW.finditer(PAGE.read_text()) for name in re.findall(r"`(\w+)`", row[1])}
JOINT = [[1, 48, 4, 2, 3], [1, 20, 17]]
LINKS = {
    "MODEL": ["load", 0], "CONDITIONING": ["told", 0], "LATENT": ["sampled", 0], "MASK": ["mask", 0], "NOISE": ["noise", 0],
    "SIGMAS": ["sigmas", 0], "GUIDER": ["guider", 0], "SAMPLER": ["walk", 0],
}  # fmt: skip
# Nodes for latents of one model, or that take apart and join.
OTHERS = re.compile(
    "Hunyuan|LTXV|MiniMax|SeedVR2|Trellis|WanSound|LatentApplyOperation|NormalizeVideoLatentStart|ResolutionBucket"
)


def base() -> Graph:
    graph = sampled_by_parts(clip_graph(), "unused")
    del graph["keep"]
    graph["mask"] = node("SolidMask", value=1.0, width=48, height=32)
    return graph


def described(server, kind: str) -> dict:
    return server.get(f"/object_info/{kind}")[kind]


def with_stock_node(server, kind: str) -> Graph:
    """Its widgets at their defaults, its latents joint ones."""
    known, graph = described(server, kind), base()
    given = {}
    optional = {name: spec for name, spec in known["input"].get("optional", {}).items() if spec[0] == "LATENT"}
    for name, (type_, *more) in {**known["input"]["required"], **optional}.items():
        options = more[0] if more else {}
        if type_ == "VAE":
            given[name] = ["load", 3 if "Audio" in kind else 2]
        elif isinstance(type_, str) and type_ in LINKS:
            given[name] = LINKS[type_]
        else:
            choices = type_ if isinstance(type_, list) else (options.get("options") or [""])
            given[name] = 2 if name == "steps" else options.get("default", choices[0])
    graph["tried"] = node(kind, **given)
    for at, type_ in enumerate(known["output"]):
        shapes = node("ProbeShapes", latent=["tried", at])
        graph[f"shown {at}"] = shapes if type_ == "LATENT" else node("PreviewAny", source=["tried", at])
    return graph


@pytest.mark.parametrize("kind", TABLE)
def test_a_stock_node_does_what_is_written(server, kind):
    graph = with_stock_node(server, kind)
    if TABLE[kind] == "fails":
        with pytest.raises(Failed, match=f"^{kind}: "):
            server.run(graph)
        return
    outputs = server.run(graph)
    latents = [at for at, type_ in enumerate(described(server, kind)["output"]) if type_ == "LATENT"]
    shapes = [json.loads(outputs[f"shown {at}"]["text"][0]) for at in latents]
    assert shapes == ([[one] for one in JOINT] if kind == "LTXVSeparateAVLatent" else [JOINT] * len(latents))


def test_no_stock_node_for_latents_is_left_out(server):
    known = server.get("/object_info")
    stock = {name for name, info in known.items() if info["python_module"].startswith(("nodes", "comfy_extras."))}
    takes = {
        name
        for name in stock
        if any(spec and spec[0] == "LATENT" for spec in known[name]["input"].get("required", {}).values())
        and ("LATENT" in known[name]["output"] or not known[name]["output"])
    }
    assert len(takes) > 20
    assert {name for name in takes - TABLE.keys() if not OTHERS.search(name)} <= {"SaveTrainingDataset"}


def test_trimming_takes_latents_of_sound_as_of_picture(server):
    """One latent of picture is four pictures, one of sound 0.032 s."""
    graph = with_stock_node(server, "TrimVideoLatent")
    graph["tried"]["inputs"]["trim_amount"] = 1
    assert json.loads(server.run(graph)["shown 0"]["text"][0]) == [[1, 48, 3, 2, 3], [1, 20, 16]]


APART = {
    "RepeatLatentBatch": ({"amount": 2}, [[4, 48, 4, 2, 3], [4, 20, 17]]),
    "LatentFromBatch": ({"batch_index": 1, "length": 1}, JOINT),
    "LatentBatch": ({}, [[4, 48, 4, 2, 3], [4, 20, 17]]),
    "LatentUpscaleBy": ({"upscale_method": "bilinear", "scale_by": 2.0}, [[2, 48, 4, 4, 6], [2, 20, 17]]),
}


@pytest.mark.parametrize("kind", APART)
def test_taken_apart_a_latent_goes_through_stock_nodes_and_is_joined(server, kind):
    widgets, wanted = APART[kind]
    graph = base()
    graph["latent"]["inputs"]["batch"] = 2
    graph["apart"] = node("LTXVSeparateAVLatent", av_latent=["sampled", 0])
    halves = [["apart", 0], ["apart", 1]]
    for at in (0,) if kind == "LatentUpscaleBy" else (0, 1):
        names = ("samples1", "samples2") if kind == "LatentBatch" else ("samples",)
        graph[f"half {at}"] = node(kind, **{key: ["apart", at] for key in names}, **widgets)
        halves[at] = [f"half {at}", 0]
    graph["joined"] = node("LTXVConcatAVLatent", video_latent=halves[0], audio_latent=halves[1])
    graph["shown"] = node("ProbeShapes", latent=["joined", 0])
    told = {"positive": ["told", 0], "negative": ["told", 0]}
    walk = {"seed": 1, "steps": 1, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple", "denoise": 0.5}
    graph["again"] = node("KSampler", model=["load", 0], latent_image=["joined", 0], **told, **walk)
    graph["clip"] = node("HarmonyDecode", latent=["again", 0], video_vae=["load", 2], audio_vae=["load", 3])
    graph["seen"] = node("PreviewAny", source=["clip", 2])
    outputs = server.run(graph)
    assert json.loads(outputs["shown"]["text"][0]) == wanted
    assert outputs["seen"]["text"] == ["24.0"]

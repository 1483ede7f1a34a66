"""Masks of ComfyUI's own nodes that say other than all or nothing of a latent in time: what is made is a picture, not noise."""

from pathlib import Path

import pytest
import torch
from comfy_server import Server
from comfyui import run_beside_comfy
from graphs import Graph, node, sampled_by_stock
from rounding import CHANGED, away
from safetensors.torch import save_file

TINY = "harmony-tiny (built in)"
TOLD = {"picture": "a tan face with long brown hair, talking", "sound": "", "transcript": "mama"}


def made(server: Server, name: str, mask: torch.Tensor | None) -> dict[str, torch.Tensor]:
    """Latents of a clip, made anew, or made again under a mask of (64, 64)."""
    graph: Graph = {
        "load": node("HarmonyLoadCheckpoint", checkpoint=TINY),
        "told": node("HarmonyEncode", model=["load", 0], clip=["load", 1], **TOLD),
        "latent": node("HarmonyEmptyLatent", model=["load", 0], seconds=1.0417, width=64, height=64, fps=24.0, batch=1),
    }
    graph = sampled_by_stock(graph, f"{name} clip")
    graph["sampled"]["inputs"]["steps"] = 12
    if mask is not None:
        tensors = {"images": mask[None, ..., None].expand(-1, -1, -1, 3).contiguous(), "wave": torch.zeros(1, 1, 0)}
        save_file(tensors, server.base / "input" / f"{name}.safetensors")
        graph["first"] = graph["sampled"]
        graph["picture"] = node("ProbeInputs", file=f"{name}.safetensors", frames=1, rate=16_000)
        graph["mask"] = node("ImageToMask", image=["picture", 0], channel="red")
        graph["latent masked"] = node("SetLatentNoiseMask", samples=["first", 0], mask=["mask", 0])
        again = {**graph["first"]["inputs"], "latent_image": ["latent masked", 0], "seed": 8}
        graph["sampled"] = {**graph["first"], "inputs": again}
    graph["keep"] = node("ProbeKeep", name=name, after=["sampled", 0])
    server.run(graph)
    return server.kept(name)


def roughness(video: torch.Tensor) -> float:
    """How much neighbours differ, in space and in time."""
    steps = [video.diff(dim=dim) for dim in (2, 3, 4) if video.shape[dim] > 1]
    return torch.stack([step.square().mean() for step in steps]).mean().sqrt().item()


@pytest.fixture(scope="module")
def clip(server):
    return made(server, "whole", None)["after.video"]


def test_all_of_a_latent_in_time_has_the_noise_of_its_time():
    found = run_beside_comfy(Path(__file__).with_name("beside_masks.py"))
    assert found["video"] < 1e-6 and found["audio"] < 1e-6
    assert found["given_is_clean"]


@pytest.mark.bitwise("locked")
def test_what_is_made_beside_a_kept_half_is_no_noise(server, clip):
    mask = torch.ones(64, 64)
    mask[:, :32] = 0
    half = made(server, "half", mask)["after.video"]
    assert torch.equal(half[..., :2], clip[..., :2])
    # The built-in checkpoint makes no noise of a wrong mixture either; that the mixture is right is tested above.
    assert roughness(half[..., 2:]) < 1.5 * roughness(clip[..., 2:])


@pytest.mark.parametrize("share", [0.25, 0.5, 0.75])
def test_a_soft_mask_leaves_no_noise(server, clip, share):
    soft = made(server, f"soft {share}", torch.full((64, 64), share))["after.video"]
    assert away(soft, clip) > CHANGED
    assert roughness(soft) < 1.1 * roughness(clip)

"""Graphs in ComfyUI's API format."""

from typing import Any

Graph = dict[str, dict[str, Any]]

FRAMES, WIDTH, HEIGHT, STEPS, SEED = 13, 48, 32, 5, 7
TOLD = {"picture": "a ball", "sound": "knock", "transcript": "abc"}
TASKS = ("joint", "audio", "video", "first", "voice")
SAMPLING = {
    "seed": SEED,
    "steps": STEPS,
    "sampler_name": "euler",
    "sync_video": 3.0,
    "sync_audio": 2.0,
    "sync_text": "same",
    "text_video": 1.0,
    "text_audio": 1.0,
}


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    """One node."""
    return {"class_type": kind, "inputs": inputs}


def clip_graph(task: str = "joint", *, checkpoint: str = "small.safetensors") -> Graph:
    """Everything up to the latent of a task; ``latent`` is its name, ``told`` the conditions'."""
    graph = {
        "load": node("HarmonyLoadCheckpoint", checkpoint=checkpoint),
        "told": node("HarmonyEncode", model=["load", 0], clip=["load", 1], **TOLD),
        "latent": node("HarmonyEmptyLatent", model=["load", 0], seconds=0.5417, width=WIDTH, height=HEIGHT, fps=24.0, batch=1),
    }
    if task != "joint":
        graph["inputs"] = node("ProbeInputs", file="inputs.safetensors", frames=15, rate=44_100)
    if task == "voice":
        graph["told"]["inputs"] |= {"voice": ["inputs", 1], "audio_vae": ["load", 3], "voice_seconds": 0.5}
    elif task != "joint":
        graph["empty"] = graph.pop("latent")
    if task == "audio":
        graph["latent"] = node(
            "HarmonyDriveWithAudio", latent=["empty", 0], audio_vae=["load", 3], audio=["inputs", 1], start=0.0
        )
    if task in {"video", "first"}:
        kind = "HarmonyDriveWithVideo" if task == "video" else "HarmonyFirstFrame"
        graph["latent"] = node(kind, latent=["empty", 0], video_vae=["load", 2], images=["inputs", 0])
    return graph


def sampled(graph: Graph, name: str, **changes: Any) -> Graph:
    """With Harmony KSampler, and both latents kept."""
    graph["sampled"] = node(
        "HarmonyKSampler",
        model=["load", 0],
        positive=["told", 0],
        latent=["latent", 0],
        video_vae=["load", 2],
        audio_vae=["load", 3],
        **SAMPLING | changes,
    )
    graph["keep"] = node("ProbeKeep", name=name, before=["latent", 0], after=["sampled", 0])
    return graph


def sampled_by_stock(graph: Graph, name: str, *, sampler_name: str = "euler", cfg: float = 1.0) -> Graph:
    """With ComfyUI's own KSampler."""
    graph["nothing"] = node("CLIPTextEncode", clip=["load", 1], text="")
    graph["sampled"] = node(
        "KSampler",
        model=["load", 0],
        seed=SEED,
        steps=STEPS,
        cfg=cfg,
        sampler_name=sampler_name,
        scheduler="simple",
        positive=["told", 0],
        negative=["nothing", 0],
        latent_image=["latent", 0],
        denoise=1.0,
    )
    graph["keep"] = node("ProbeKeep", name=name, before=["latent", 0], after=["sampled", 0])
    return graph


def sampled_by_parts(graph: Graph, name: str) -> Graph:
    """With the guider and SamplerCustomAdvanced."""
    graph["guider"] = node(
        "HarmonySyncGuider",
        model=["load", 0],
        positive=["told", 0],
        video_vae=["load", 2],
        audio_vae=["load", 3],
        **{key: value for key, value in SAMPLING.items() if key.startswith(("sync", "text"))},
    )
    graph["noise"] = node("RandomNoise", noise_seed=SEED)
    graph["walk"] = node("KSamplerSelect", sampler_name="euler")
    graph["sigmas"] = node("BasicScheduler", model=["load", 0], scheduler="simple", steps=STEPS, denoise=1.0)
    graph["sampled"] = node(
        "SamplerCustomAdvanced",
        noise=["noise", 0],
        guider=["guider", 0],
        sampler=["walk", 0],
        sigmas=["sigmas", 0],
        latent_image=["latent", 0],
    )
    graph["keep"] = node("ProbeKeep", name=name, before=["latent", 0], after=["sampled", 0])
    return graph

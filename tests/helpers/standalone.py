"""What harmony_core makes of a test's task without ComfyUI: the reference of what is sampled in it."""

import torch
from graphs import FRAMES, HEIGHT, SEED, STEPS, TOLD, WIDTH

from harmony_core.geometry import ClipSpec
from harmony_core.guidance import Guidance
from harmony_core.pipeline import Pipeline, Request, generate
from harmony_core.sample import Schedule
from harmony_core.types import AV, Audio, Modality, Video


def standalone(
    pipeline: Pipeline,
    inputs: dict[str, torch.Tensor],
    task: str = "joint",
    guidance: Guidance | None = None,
    *,
    fps: float = 24.0,
    **schedule,
) -> AV[torch.Tensor]:
    """The latents of a task, raw as ComfyUI has them; ``schedule`` are fields of the schedule."""
    spec = ClipSpec(frames=FRAMES, height=HEIGHT, width=WIDTH, fps=fps, grid=pipeline.model.config.grid)
    pictures = inputs["images"].movedim(-1, 0)[None] * 2 - 1
    sound = Audio(inputs["wave"], 44_100)
    given = {
        "joint": {},
        "audio": {"drive": sound},
        "video": {"drive": Video(pictures, 24.0)},
        "first": {"image": pictures[:, :, :1]},
        "voice": {"voice": Audio(sound.waveform[..., : 44_100 // 2], 44_100)},
    }
    captions = {"video_caption": TOLD["picture"], "audio_caption": TOLD["sound"], "transcript": TOLD["transcript"]}
    request = Request(spec=spec, **captions, **given[task])
    walk = Schedule(**{"steps": STEPS, "sampler": "euler", **schedule})
    latents = generate(pipeline, request, seeds=[SEED], guidance=guidance or Guidance(), schedule=walk).latents
    return AV(pipeline.video_vae.denormalise(latents.video), latents.audio)


def far(kept: dict[str, torch.Tensor], wanted: AV[torch.Tensor]) -> float:
    """The largest difference of a kept result from the reference."""
    return max((kept[f"after.{m.value}"] - wanted[m]).abs().max().item() for m in Modality)

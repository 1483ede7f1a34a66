"""Ovi, as its own code computes it, against ours on the same small random weights.

The fixture holds what Ovi's FusionModel gave for the cases of ``ovi_files``; ``make_ovi_fixture.py`` makes it again.
"""

from pathlib import Path

import numpy as np
import ovi_files as ovi
import pytest
import torch

from harmony_core.canvas import Canvas
from harmony_core.conditioning import Conditioning
from harmony_core.config import preset
from harmony_core.denoiser import Denoiser, Setting
from harmony_core.flow import shifted_schedule
from harmony_core.geometry import ClipSpec
from harmony_core.guidance import text_guidance
from harmony_core.models.harmony import Harmony
from harmony_core.runtime import Runtime
from harmony_core.sampling import sampler
from harmony_core.types import AV, Modality
from harmony_core.weights.ovi import load_ovi, to_harmony, to_ovi

FIXTURE = Path(__file__).parent / "fixtures" / "ovi.npz"
PUBLISHED = {"width": 3072, "layers": 30, "ffn": 14336, "text": 4096, "freq": 256}
CLOSE = 1e-4


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Harmony:
    return load_ovi(ovi.save_ovi(tmp_path_factory.mktemp("ovi") / "model_960x960.safetensors"))


@pytest.fixture(scope="module")
def theirs() -> dict[str, torch.Tensor]:
    with np.load(FIXTURE) as file:
        return {key: torch.from_numpy(file[key]) for key in file.files}


def ours(model: Harmony, name: str, *, batch: int = 1) -> AV[torch.Tensor]:
    case, given = ovi.CASES[name], ovi.inputs(name)
    told = Conditioning(video_caption=given["video_text"][None], audio_caption=given["audio_text"][None])
    told = Conditioning(**{k: v.expand(batch, -1, -1) for k, v in vars(told).items() if v is not None})
    sigma = case["t"] / 1000
    times = AV(torch.full((1, 1), sigma), torch.full((1, 1), sigma))
    if case.get("first_frame"):
        times = times.replace(Modality.VIDEO, torch.tensor([[0.0, *[sigma] * (ovi.FRAMES - 1)]]))
    latents = AV(given["video"][None], given["audio"].T[None]).map(lambda x: x.expand(batch, *x.shape[1:]))
    skip = (case["skip"],) if "skip" in case else ()
    return model(latents, times, model.prepare(told, batch), skip_layers=skip)


@pytest.mark.parametrize("name", ovi.CASES)
def test_a_joint_pass_equals_ovis(name, model, theirs):
    out = ours(model, name)
    assert (out.video[0] - theirs[f"{name}: video"]).abs().max() <= CLOSE
    assert (out.audio[0].T - theirs[f"{name}: audio"]).abs().max() <= CLOSE


def test_a_whole_run_equals_ovis(model, theirs):
    """UniPC, guidance by the text with a layer skipped, the first frame kept: all of it together."""
    given = ovi.run_inputs()
    noise = AV(given["video"][None], given["audio"].T[None])
    canvas = Canvas.blank(ClipSpec(frames=9, height=64, width=96)).with_first_frame(given["first"][None])
    setting = Setting(
        canvas=canvas,
        told=Conditioning(video_caption=given["text"][None], audio_caption=given["text"][None]),
        untold=Conditioning(video_caption=given["video_negative"][None], audio_caption=given["audio_negative"][None]),
        guidance=text_guidance(AV(ovi.SCALES["video"], ovi.SCALES["audio"]), skip_layers=(ovi.SKIP,)),
    )
    sigmas = theirs["run: sigmas"].tolist()
    end = canvas.compose(sampler("unipc")(Denoiser(model, setting), noise, AV(sigmas, sigmas)))
    assert (end.video[0] - theirs["run: video"]).abs().max() <= CLOSE
    assert (end.audio[0].T - theirs["run: audio"]).abs().max() <= CLOSE


def test_our_schedule_is_ovis_but_for_where_it_begins(theirs):
    ours, published = shifted_schedule(ovi.STEPS, shift=ovi.SHIFT), theirs["run: sigmas"].tolist()
    assert len(ours) == len(published)
    assert max(abs(a - b) for a, b in zip(ours, published, strict=True)) < 1e-3


def test_the_cases_differ_from_each_other(theirs):
    """A fixture in which a skipped layer or a clean frame changed nothing would prove nothing."""
    for one, other in (("plain", "early"), ("first frame", "first frame, a layer skipped"), ("plain", "a layer skipped")):
        assert (theirs[f"{one}: video"] - theirs[f"{other}: video"]).abs().max() > 0.1


def test_the_published_keys_and_shapes_are_those_of_our_model_both_ways():
    model = Harmony(preset("ovi-720"), Runtime(device="meta"))
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    published = ovi.shapes(**PUBLISHED)
    assert to_ovi(shapes) == published
    assert to_harmony(published) == shapes
    assert sum(parameter.numel() for parameter in model.parameters()) == 11_660_753_108

"""What is said of a training's memory is what a step keeps, and what its weights are."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from small import small_branch
from torch.autograd.graph import saved_tensors_hooks

from harmony_core.config import HarmonyConfig, InteractionConfig, SymbolEncoderConfig
from harmony_core.geometry import ClipSpec, Grid
from harmony_core.layers.rope import split_channels
from harmony_core.models.harmony import Harmony
from harmony_core.plan.training import BETWEEN_BYTES, HIDDEN_BYTES, INSIDE_BYTES, training_memory
from harmony_core.training.config import ObjectiveConfig
from harmony_core.training.objective import Objective
from harmony_core.training.tasks import Batch
from harmony_core.types import AV

ROOT = Path(__file__).parents[2]
PREFIX = 8


def config(layers: int, dim: int = 48, ffn: int = 64) -> HarmonyConfig:
    size = {"text_len": 12, "dim": dim, "ffn": ffn, "layers": layers}
    return HarmonyConfig(
        video=small_branch(48, (1, 1, 1), rope_axes=split_channels(dim // 2), **size),
        audio=small_branch(20, (1,), rope_axes=(dim // 2,), **size),
        interaction=InteractionConfig(style_tokens=2, reference_gap=4),
        speech=SymbolEncoderConfig(symbols=" abc", length=8, dim=16, blocks=1),
        caption=SymbolEncoderConfig(length=12, dim=16, blocks=1),
        grid=Grid(patch=1),
    )


SPEC = ClipSpec(frames=33, height=256, width=256, grid=Grid(patch=1))
TOKENS = SPEC.video_tokens + SPEC.audio_latents + PREFIX


def step(model: Harmony) -> None:
    """The forward pass of a joint step in bfloat16."""
    data = AV(torch.zeros(SPEC.video_shape(1)), torch.zeros(SPEC.audio_shape(1)))
    none = torch.zeros(1, dtype=torch.bool)
    batch = Batch(
        names=("a",), objective=ObjectiveConfig(mode="joint"), driver=None, data=data, noise=data,
        times=AV.both(torch.zeros(1)), first=none,
        captions=AV.both(torch.zeros(1, 12, dtype=torch.long)), untold=AV(None, None),
        transcript=torch.zeros(1, 8, dtype=torch.long), dropped=none, reference=torch.zeros(1, 20, PREFIX), has_reference=None,
    )  # fmt: skip
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        Objective(model)(batch)


def kept(layers: int, **size: int) -> int:
    """Bytes kept for the gradient, weights aside."""
    model = Harmony(config(layers, **size))
    model.initialize(0)
    weights = {p.untyped_storage()._cdata for p in model.parameters()}
    found: dict[int, torch.UntypedStorage] = {}

    def keep(value: torch.Tensor) -> torch.Tensor:
        storage = value.untyped_storage()
        found[storage._cdata] = storage
        return value

    with saved_tensors_hooks(keep, lambda value: value):
        step(model)
    return sum(storage.nbytes() for key, storage in found.items() if key not in weights)


@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")
@pytest.mark.parametrize("size", [{}, {"ffn": 192}, {"dim": 96, "ffn": 128}])
def test_what_is_kept_inside_of_a_layer_is_what_is_counted(size):
    dim, ffn = size.get("dim", 48), size.get("ffn", 64)
    counted = TOKENS * (INSIDE_BYTES * dim + HIDDEN_BYTES * ffn)
    assert kept(2, **size) - kept(1, **size) == pytest.approx(counted, rel=0.1)


@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")
def test_between_layers_there_is_one_value_in_bfloat16_for_each_channel(monkeypatch):
    seen = []
    layer = Harmony._layer
    monkeypatch.setattr(
        Harmony, "_layer", lambda self, i, s, w: seen.append({m: x.x for m, x in s.items()}) or layer(self, i, s, w)
    )
    model = Harmony(config(3))
    model.initialize(0)
    step(model)
    for streams in seen[1:]:
        assert sum(x.untyped_storage().nbytes() for x in streams.values()) == TOKENS * 48 * BETWEEN_BYTES
    assert len(seen) == 3


def test_parts_and_weights_are_those_of_the_model():
    model = Harmony(config(2))
    values = sum(p.numel() for p in model.parameters())
    one, two, four = (training_memory(config(2), SPEC, n, prefix=PREFIX) for n in (1, 2, 4))
    assert one.parts == 20 * values
    assert abs(two.parts - one.parts / 2) <= 1
    assert abs(four.parts - one.parts / 4) <= 1
    assert one.activations == two.activations
    assert one.gathered == 0
    assert 0 < two.gathered == four.gathered < one.parts / 2


def test_the_documents_figures_are_the_commands():
    """docs/checkpoints.md says what `harmony plan --training` prints for the config of 5B."""
    command = [sys.executable, "-m", "harmony_core", "plan", "--training", "configs/harmony-5b-finetune.yaml", "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    page = (ROOT / "docs" / "checkpoints.md").read_text(encoding="utf-8")
    for count, memory in json.loads(done.stdout)["gpus"].items():
        row = [f"{memory[key] / 1e9:.1f}" for key in ("parts", "gathered", "activations", "together")]
        assert f"| {count} | {' | '.join(row)} |" in page

"""Weights in parts, gathered layer by layer: the gradients are those of one process, in whatever order processes keep sets."""

import json

import pytest
from processes import together, unlike_seeds, written

from harmony_core.types import Modality

GRADIENTS = """
    import json, sys, torch
    from torch import nn
    from torch.distributed.tensor import DTensor
    from small import small_branch
    from harmony_core.config import HarmonyConfig, InteractionConfig, SymbolEncoderConfig
    from harmony_core.geometry import Grid
    from harmony_core.models.harmony import Harmony
    from harmony_core.training.config import LoraConfig, ObjectiveConfig
    from harmony_core.training.distributed import connected, wrap
    from harmony_core.training.lora import Pairs
    from harmony_core.training.objective import Objective
    from harmony_core.training.tasks import Batch
    from harmony_core.types import AV, Modality
    torch.set_num_threads(1)
    B = 4
    CONFIG = HarmonyConfig(
        video=small_branch(48, (1, 1, 1), text_len=12), audio=small_branch(20, (1,), text_len=12, embedding="conv_mlp"),
        interaction=InteractionConfig(kind=sys.argv[1], style_tokens=2, reference_gap=4),
        speech=SymbolEncoderConfig(symbols=" abcdefghijklmnopqrstuvwxyz", length=8, dim=16, blocks=1),
        caption=SymbolEncoderConfig(length=12, dim=16, blocks=1), grid=Grid(patch=1),
    )
    DRIVERS = {"synergy": None, "joint": None, "a2v": Modality.AUDIO, "v2a": Modality.VIDEO, "audio": None}

    def objective(checkpointing, lora):
        model = Harmony(CONFIG)
        model.initialize(0)
        source = torch.Generator().manual_seed(1)
        with torch.no_grad():  # the interaction and the heads, which start at zero, speak too
            for name, p in model.named_parameters():
                if "interaction" in name or name.endswith("head.head.weight"):
                    p.copy_(torch.randn(p.shape, generator=source) * 0.15 + ("norm" in name and name.endswith("weight")))
        model.gradient_checkpointing = checkpointing
        made = Objective(model)
        if lora:
            made.add_module("lora", Pairs(model, LoraConfig(rank=2), 0))
            with torch.no_grad():
                for p in made.lora.parameters():
                    p.copy_(torch.randn(p.shape, generator=source) * 0.1)
        return made

    def batch(mode):
        torch.manual_seed(3)
        data = AV(torch.randn(B, 48, 3, 2, 2), torch.randn(B, 20, 12))
        streams = {"streams": "audio"} if mode == "audio" else {}
        return Batch(
            names=tuple("abcd"), objective=ObjectiveConfig(mode="synergy" if mode == "synergy" else "mixed", **streams),
            driver=DRIVERS[mode], data=data, noise=data.map(torch.randn_like), times=AV.of(lambda _: torch.rand(B)),
            first=torch.tensor([True, False, True, False]), captions=AV.of(lambda _: torch.randint(0, 50, (B, 12))),
            untold=AV(None, None), transcript=torch.randint(0, 20, (B, 8)), dropped=torch.tensor([False, True, False, False]),
            reference=torch.randn(B, 20, 4), has_reference=torch.tensor([True, True, False, False]),
        )

    def gradients(made):
        trained = {n: p for n, p in made.named_parameters() if p.requires_grad}
        found = {n: torch.zeros(p.shape) if p.grad is None else p.grad for n, p in trained.items()}
        return {n: g.full_tensor() if isinstance(g, DTensor) else g for n, g in found.items()}

    said = {"order": [m.value for m in frozenset(Modality)]}
    with connected("cpu") as world:
        for key in sys.argv[2:]:
            mode, checkpointing, lora = key.split()[0], "checkpointing" in key, "lora" in key
            one = objective(checkpointing, lora)
            one(batch(mode))["loss"].backward()
            want = gradients(one)
            parts = wrap(objective(checkpointing, lora), world, "fsdp")
            layers = [m for m in parts.modules() if isinstance(m, nn.Linear | nn.Conv1d)]
            assert all(isinstance(m.weight, DTensor) and hasattr(m, "unshard") for m in layers)
            parts(batch(mode).part(world.rank, world.size))["loss"].backward()
            got = gradients(parts)
            assert want.keys() == got.keys()
            largest = max(float(g.abs().max()) for g in want.values())
            assert largest > 0.01
            said[key] = max(float((got[n] - want[n]).abs().max()) for n in want) / largest
    print(json.dumps(said))
"""
PAIRS = 3
SEEDS = unlike_seeds([m.name for m in Modality], PAIRS)  # an Enum's members are hashed by their names


TASKS = ("joint", "synergy", "a2v", "v2a", "audio")
CASES = (*TASKS, *(f"{task} checkpointing" for task in TASKS), "synergy lora", "synergy checkpointing lora")


def largest_errors(tmp_path, kind: str, seeds: tuple[int, int], cases: tuple[str, ...]) -> dict[str, float]:
    """Of all gradients of either process, over the largest gradient."""
    first, other = (json.loads(out) for out in together(written(tmp_path, GRADIENTS), [kind, *cases], hash_seeds=seeds))
    assert first.pop("order") != other.pop("order"), "two seeds with the same order of sets test nothing"
    return {case: max(first[case], other[case]) for case in cases}


@pytest.mark.parametrize("seeds", SEEDS, ids=[f"pair-{n}" for n in range(PAIRS)])
def test_gradients_are_those_of_one_process_whatever_the_order_of_sets(tmp_path, seeds):
    errors = largest_errors(tmp_path, "frame_wise", seeds, CASES)
    print(errors)
    assert max(errors.values()) <= 1e-6, errors


@pytest.mark.parametrize("kind", ["global", "cmc_pe", "fused"])
def test_so_are_those_of_other_interactions(tmp_path, kind):
    errors = largest_errors(tmp_path, kind, SEEDS[0], ("synergy checkpointing", "v2a"))
    assert max(errors.values()) <= 1e-6, errors


HELD = """
    import json, torch
    from live_bytes import highest_allocated
    from harmony_core.training.distributed import connected, wrap
    from torch.distributed.fsdp import fully_shard
    from torch import nn
    torch.set_num_threads(1)

    def step(module):
        x = module(torch.ones(2, 256))
        x.square().mean().backward()

    def model():
        return nn.Sequential(*(nn.Linear(256, 256) for _ in range(16)))

    with connected("cpu") as world:
        weights = sum(4 * p.numel() for p in model().parameters())
        layers, whole = wrap(model(), world, "fsdp"), fully_shard(model(), mesh=world.mesh)
        step(layers), step(whole)  # what is made once
        print(json.dumps([highest_allocated(lambda: step(one)) / weights for one in (layers, whole)]))
"""


def test_no_process_ever_holds_all_weights(tmp_path):
    """Half of the gradients and a few layers at a time, where one group of all layers takes the weights and gradients."""
    for out in together(written(tmp_path, HELD)):
        layers, whole = json.loads(out)
        assert layers < 0.9
        assert whole > 1.5

import pytest
import torch
from rounding import CHANGED, ROUNDING, away
from torch import nn

from harmony_core.codecs.video_vae import PRESETS as VIDEO_PRESETS
from harmony_core.codecs.video_vae import VideoVAE
from harmony_core.config import PRESETS
from harmony_core.models.harmony import Harmony
from harmony_core.progress import Cancelled
from harmony_core.training.config import ObjectiveConfig, OptimizerConfig, StageConfig
from harmony_core.training.distributed import World
from harmony_core.training.loop import make_optimizer, read_log
from harmony_core.training.model import train_model
from harmony_core.training.muon import MATCH, is_matrix, orthogonal

COMMON = {"reference_seconds": (0.05, 0.2)}


def stages(*kinds) -> tuple[StageConfig, ...]:
    """Four steps of the sound with the first optimizer, four of both streams with the second."""
    objectives = ObjectiveConfig(streams="audio", **COMMON), ObjectiveConfig(mode="mixed", **COMMON)
    return tuple(
        StageConfig(name=name, steps=4, optimizer=OptimizerConfig(kind=kind, lr=1e-3, warmup=1), objective=objective)
        for name, kind, objective in zip(("sound", "both"), kinds, objectives, strict=True)
    )


@pytest.mark.parametrize("shape", [(48, 16), (16, 48), (24, 24)])
def test_singular_values_become_about_one_and_directions_stay(shape):
    rows, columns = shape
    small = min(shape)
    source = torch.Generator().manual_seed(0)
    u, v = (torch.linalg.qr(torch.randn(n, small, generator=source))[0] for n in (rows, columns))
    x = 7 * u @ torch.diag(torch.linspace(0.1, 1, small)) @ v.T
    turned = u.T @ orthogonal(x) @ v
    values = turned.diagonal()
    assert ((values > 0.6) & (values < 1.3)).all()
    assert (turned - torch.diag(values)).abs().max() < 1e-4
    assert torch.linalg.matrix_norm(orthogonal(x)) == pytest.approx(float(values.norm()), rel=1e-4)  # nothing beside u and v
    assert (orthogonal(x) - orthogonal(1e-3 * x)).abs().max() < 1e-3
    assert not orthogonal(torch.zeros(shape)).any()


def test_only_matrices_are_turned_and_the_rest_moves_as_under_adamw():
    shapes = {"layer.weight": (16, 4, 3), "layer.bias": (16,), "head.weight": (8, 16), "modulation": (1, 6, 16)}
    ends = {}
    for kind in ("muon", "adamw"):
        source = torch.Generator().manual_seed(0)
        parameters = {name: nn.Parameter(torch.randn(shape, generator=source)) for name, shape in shapes.items()}
        start = parameters["layer.weight"].detach().clone()
        optimizer = make_optimizer(parameters, OptimizerConfig(kind=kind, lr=1e-2, weight_decay=0.1))
        for _ in range(3):
            for parameter in parameters.values():
                parameter.grad = torch.randn(parameter.shape, generator=source)
            optimizer.step()
        ends[kind] = {name: parameter.detach() for name, parameter in parameters.items()}
    for name in shapes:
        far = away(ends["muon"][name], ends["adamw"][name])
        assert far > CHANGED if name == "layer.weight" else far <= ROUNDING, name
    moved = (ends["muon"]["layer.weight"] - (1 - 1e-3) ** 3 * start).square().mean().sqrt() / 3
    assert 0.3 < moved / (MATCH * 1e-2) < 1.3  # three steps of the size of AdamW's, not all one way


@pytest.mark.bitwise("copy")
def test_a_matrix_without_a_gradient_stays_where_it_is():
    parameters = {name: nn.Parameter(torch.ones(4, 4)) for name in ("a", "b")}
    optimizer = make_optimizer(parameters, OptimizerConfig(kind="muon", lr=1e-2))
    parameters["a"].grad = torch.eye(4)
    optimizer.step()
    assert not torch.equal(parameters["a"], torch.ones(4, 4))
    assert torch.equal(parameters["b"], torch.ones(4, 4))


def test_muon_is_for_the_matrices_inside_the_networks():
    with torch.device("meta"):
        networks = Harmony(PRESETS["tiny"]), VideoVAE(VIDEO_PRESETS["tiny"])
    for network in networks:
        turned = {name for name, parameter in network.named_parameters() if is_matrix(name, parameter)}
        sizes = {name: parameter.numel() for name, parameter in network.named_parameters()}
        assert sum(sizes[name] for name in turned) > 0.9 * sum(sizes.values())
        for word in ("embedding", "head", "bias", "gamma", "norm", "modulation", "grn", "style_tokens"):
            assert not any(word in name for name in turned), word
    assert {"blocks.0.self_attn.q.weight", "blocks.0.ffn.0.weight"} <= {
        name.removeprefix("video.") for name, p in networks[0].named_parameters() if is_matrix(name, p)
    }


@pytest.mark.parametrize(("kinds", "stopped"), [(("muon", "muon"), 2), (("muon", "adamw"), 4), (("adamw", "muon"), 4)])
@pytest.mark.bitwise("program")
def test_a_resumed_run_is_the_uninterrupted_run_bit_for_bit(make_run, cache, tmp_path, kinds, stopped):
    def losses(name):
        return [
            {k: v for k, v in line.items() if k not in {"seconds", "wait"}} for line in read_log(tmp_path / name / "log.jsonl")
        ]

    def stop(done, total):
        if done == stopped:
            raise Cancelled

    whole, parts = (make_run(stages=stages(*kinds), output=str(tmp_path / n), save_every=2) for n in ("whole", "parts"))
    train_model(whole, cache)
    with pytest.raises(Cancelled):
        train_model(parts, cache, progress=stop)
    train_model(parts, cache, resume=True)
    assert losses("parts") == losses("whole")
    assert [line["step"] for line in losses("parts")] == list(range(1, 9))


def test_muon_with_weights_in_parts_is_refused(make_run, cache):
    config = make_run(stages=stages("adamw", "muon"), sharding="fsdp")
    with pytest.raises(ValueError, match=r"muon turns whole matrices.*set run\.sharding to ddp"):
        train_model(config, cache, world=World(0, 2))

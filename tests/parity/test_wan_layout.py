"""The published layout of Wan2.2-TI2V-5B, written out, against our video branch on the meta device."""

import torch

from harmony_core.config import preset
from harmony_core.models.branch import Branch
from harmony_core.runtime import Runtime

DIM, FFN, TEXT, FREQ, LAYERS = 3072, 14336, 4096, 256, 30


def published() -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}

    def linear(name: str, inputs: int, outputs: int) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (outputs, inputs), (outputs,)

    shapes["patch_embedding.weight"], shapes["patch_embedding.bias"] = (DIM, 48, 1, 2, 2), (DIM,)
    linear("text_embedding.0", TEXT, DIM)
    linear("text_embedding.2", DIM, DIM)
    linear("time_embedding.0", FREQ, DIM)
    linear("time_embedding.2", DIM, DIM)
    linear("time_projection.1", DIM, 6 * DIM)
    for n in range(LAYERS):
        for attention in ("self_attn", "cross_attn"):
            for projection in "qkvo":
                linear(f"blocks.{n}.{attention}.{projection}", DIM, DIM)
            shapes[f"blocks.{n}.{attention}.norm_q.weight"] = shapes[f"blocks.{n}.{attention}.norm_k.weight"] = (DIM,)
        shapes[f"blocks.{n}.norm3.weight"] = shapes[f"blocks.{n}.norm3.bias"] = (DIM,)
        linear(f"blocks.{n}.ffn.0", DIM, FFN)
        linear(f"blocks.{n}.ffn.2", FFN, DIM)
        shapes[f"blocks.{n}.modulation"] = (1, 6, DIM)
    linear("head.head", DIM, 4 * 48)
    shapes["head.modulation"] = (1, 2, DIM)
    return shapes


def test_the_video_branch_of_5b_has_the_published_keys_and_shapes():
    with torch.device("meta"):
        branch = Branch(preset("5b").video, Runtime())
    assert {k: tuple(v.shape) for k, v in branch.state_dict().items()} == published()
    assert sum(p.numel() for p in branch.parameters()) == 4_999_787_712

"""Run beside ComfyUI: the stock torch.compile node on our MODEL; prints how far its latents are from the others."""

import json
import sys
from pathlib import Path

import comfy.cli_args

comfy.cli_args.args.cpu = True

import torch  # noqa: E402
from beside_nodes import ROUNDING, away, load_pack, sample  # noqa: E402
from comfy_extras.nodes_torch_compile import TorchCompileModel  # noqa: E402
from torch._dynamo.utils import counters  # noqa: E402
from torch._inductor.cpp_builder import get_cpp_compiler  # noqa: E402
from torch._inductor.exc import InvalidCxxCompiler  # noqa: E402


def without_compiler(run) -> str:
    """What is said where there is no C++ compiler."""
    torch._dynamo.reset()
    with torch._inductor.config.patch({"cpp.cxx": ("/nowhere/c++",), "force_disable_caches": True}):
        try:
            run()
        except ValueError as error:
            return str(error)
    return ""


@torch.inference_mode()
def main(path: Path) -> dict:
    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        return {"compiler": False}
    load_pack()
    from pack.nodes.bridge import latent, loader  # noqa: PLC0415 - exists from here on

    patcher, clip, _, _ = loader.load_all(path)
    empty = latent.empty_latent(patcher.model.config, seconds=13 / 24, width=48, height=32, fps=24.0, batch=1)
    plain = sample(patcher, clip, empty)
    compiled = TorchCompileModel.execute(patcher, "inductor").result[0]
    found, graphs = [], []
    # A clone of the node's MODEL is what the next node makes of it; it is not compiled again.
    for model in (compiled, compiled.clone(), compiled):
        found.append(sample(model, clip, empty))
        graphs.append(counters["stats"]["unique_graphs"])
    return {
        "compiler": True,
        "away": max(float((a - b).abs().max()) for latents in found for a, b in zip(latents, plain, strict=True)),
        "graphs": graphs,
        "plain_again": away(sample(patcher, clip, empty), plain) <= ROUNDING,
        "graphs_after": counters["stats"]["unique_graphs"],
        "said": without_compiler(lambda: sample(compiled, clip, empty)),
    }


if __name__ == "__main__":
    result = main(Path(sys.argv[1]))
    sys.stdout.write(f"\n{json.dumps(result)}\n")

"""One ComfyUI for all tests of the nodes; without a checkout they are skipped."""

import pytest
import torch
from all_in_one import save_all_in_one
from comfy_server import Server
from comfyui import find_comfy
from safetensors.torch import save_file

CHECKPOINT = "small.safetensors"


@pytest.fixture(scope="session")
def inputs():
    """Fifteen pictures and a second of stereo sound, the same every time."""
    generator = torch.Generator().manual_seed(1)
    return {
        "images": torch.rand(15, 32, 48, 3, generator=generator),
        "wave": torch.rand(1, 2, 40_000, generator=generator) - 0.5,
    }


@pytest.fixture(scope="session")
def server(tmp_path_factory, inputs):
    find_comfy()
    server = Server(tmp_path_factory.mktemp("comfyui") / "base")
    try:
        save_all_in_one(server.base / "models" / "checkpoints" / CHECKPOINT)
        save_file(inputs, server.base / "input" / "inputs.safetensors")
        server.wait()
        yield server
    finally:
        server.stop()

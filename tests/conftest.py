"""Shared by all tests: one thread, since tests run side by side."""

import sys
from pathlib import Path

import pytest
import torch

# Helpers shared by tests are plain modules beside this file (``from small import ...``).
sys.path.insert(0, str(Path(__file__).parent / "helpers"))

torch.set_num_threads(1)
from small import small_model  # noqa: E402 - after the path


@pytest.fixture
def model():
    """A model whose interaction speaks."""
    return small_model()

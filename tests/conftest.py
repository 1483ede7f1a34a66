"""Shared by all tests: one thread, since tests run side by side."""

import signal
import sys
from collections.abc import Iterator
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


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Ctrl-C interrupts: a shell's background job, as this process may be, is started with it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)

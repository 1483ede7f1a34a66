"""Shared by all tests: one thread, since tests run side by side; another machine's rounding where it is asked for."""

import signal
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

# Helpers shared by tests are plain modules beside this file (``from small import ...``).
sys.path.insert(0, str(Path(__file__).parent / "helpers"))

from rounding import OtherRounding
from small import small_model


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--rounding", type=int, metavar="SEED", help="round as another machine might, another one for each seed")
    parser.addoption("--threads", type=int, default=1, metavar="N", help="threads torch computes with in a test's own process")


def pytest_configure(config: pytest.Config) -> None:
    torch.set_num_threads(config.getoption("--threads"))


@pytest.fixture(autouse=True)
def _other_rounding(request: pytest.FixtureRequest) -> Iterator[None]:
    """One program on one machine rounds alike each time."""
    seed, same = request.config.getoption("--rounding"), request.node.get_closest_marker("bitwise")
    with nullcontext() if seed is None or (same and same.args == ("program",)) else OtherRounding(seed):
        yield


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

"""Shared by all tests: one thread, since tests run side by side."""

import sys
from pathlib import Path

import torch

# Helpers shared by tests are plain modules beside this file (``from small import ...``).
sys.path.insert(0, str(Path(__file__).parent / "helpers"))

torch.set_num_threads(1)

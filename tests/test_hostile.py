"""Hostile files and numbers, from a seed: each is read or refused in one sentence, in little time and memory.

More of them: ``python tests/helpers/hostile.py KIND,KIND FIRST COUNT``.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PROGRAM = Path(__file__).parent / "helpers" / "hostile.py"
KINDS = ("safetensors", "pickles", "indexes", "yamls", "manifests", "packed", "runs", "latents", "values", "numbers")
COUNT = 40

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the limits are Linux's")


@pytest.fixture(scope="module")
def tallies() -> dict[str, Any]:
    words = [sys.executable, str(PROGRAM), ",".join(KINDS), "0", str(COUNT)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.mark.parametrize("kind", KINDS)
def test_hostile_input_is_read_or_refused_in_one_sentence(tallies, kind):
    found = tallies[kind]
    assert not found["odd"], "\n".join(found["odd"])
    assert found["accepted"] + found["refused"] == COUNT
    assert found["refused"]

"""Commands in processes of their own: the largest memory they took, and a disk that is full."""

import subprocess
import sys
from pathlib import Path

MIB = 1 << 20
LARGE = {"width": 1024, "layers": 4, "ffn": 4096, "text": 512, "freq": 256}
"""Sizes of a file of 400 MB; see :func:`public_parts.save_large_ovi`."""
FULL_DISK = """
import resource, sys
from harmony_core.__main__ import main
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
sys.exit(main(sys.argv[1:]))
"""
"""A ``harmony`` command; the limit on a file's size stands for the full disk."""
_PEAK = """
import sys
from pathlib import Path
from harmony_core.__main__ import main
status = main(sys.argv[1:])
peak = next(line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
print("peak", peak)
sys.exit(status)
"""
STATUS = Path("/proc/self/status")
"""Of a process, on Linux: its largest resident size is its own, where a child's ``getrusage`` begins at its parent's."""


def peak_bytes(*command: str | Path) -> int:
    """Run a ``harmony`` command; its largest resident size, everything imported with it."""
    done = subprocess.run([sys.executable, "-c", _PEAK, *map(str, command)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return int(done.stdout.splitlines()[-1].split()[1]) * 1024


_BOUNDED = """
import resource, sys
from harmony_core.__main__ import main
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
import torch, harmony_core.pipeline, harmony_core.weights.convert
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + int(sys.argv[1]), used + int(sys.argv[1])))
sys.exit(main(sys.argv[2:]))
"""
LONGEST_SENTENCE = 400
"""Characters of an error, names of files in it included."""


def refused_within(limit: int, *command: str | Path, seconds: float = 60) -> str:
    """Run a ``harmony`` command that is to be refused, in ``limit`` bytes beyond its libraries; the sentence it ends in."""
    words = [sys.executable, "-c", _BOUNDED, str(limit), *map(str, command)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=seconds)
    assert done.returncode == 1, (done.returncode, done.stderr[-2000:])
    sentence = done.stderr.strip().splitlines()
    assert len(sentence) == 1, done.stderr
    assert sentence[0].startswith("harmony: "), done.stderr
    assert len(sentence[0]) <= LONGEST_SENTENCE, done.stderr
    return sentence[0]

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

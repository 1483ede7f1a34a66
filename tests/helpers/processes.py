"""Processes that train together, each with its own order of sets, and without torchrun, which ends all when one ends."""

import os
import socket
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]


def free_port() -> int:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return int(opened.getsockname()[1])


def unlike_seeds(names: Sequence[str], count: int) -> list[tuple[int, int]]:
    """Pairs of hash seeds with which a set of these names has two orders."""
    code = f"print(list({{{', '.join(map(repr, names))}}}))"
    orders: dict[str, list[int]] = {}
    for seed in range(8 * count):
        environment = {**os.environ, "PYTHONHASHSEED": str(seed)}
        done = subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True)
        orders.setdefault(done.stdout, []).append(seed)
    one, other = list(orders.values())
    return list(zip(one, other, strict=False))[:count]


def begin(program: Path, arguments: Sequence[str], hash_seeds: Sequence[int]) -> list[subprocess.Popen]:
    """Start a process for each hash seed, by rank."""
    port = str(free_port())
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "helpers")])
    common = {**os.environ, "OMP_NUM_THREADS": "1", "WORLD_SIZE": str(len(hash_seeds)), "PYTHONPATH": path}
    common |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [
        subprocess.Popen(
            [sys.executable, str(program), *arguments],
            env=common | {"RANK": str(rank), "LOCAL_RANK": str(rank), "PYTHONHASHSEED": str(seed)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, seed in enumerate(hash_seeds)
    ]


def written(folder: Path, code: str) -> Path:
    program = folder / "program.py"
    program.write_text(textwrap.dedent(code))
    return program


def results(started: Sequence[subprocess.Popen], *, timeout: float = 500) -> list[tuple[int, str, str]]:
    """Exit status, output and errors of each, by rank; none is left running."""
    try:
        ended = []
        for one in started:
            out, errors = one.communicate(timeout=timeout)
            ended.append((one.returncode, out, errors))
        return ended
    finally:
        for one in started:
            if one.poll() is None:
                one.kill()
                one.wait()


def together(
    program: Path, arguments: Sequence[str] = (), *, hash_seeds: Sequence[int] = (0, 1), timeout: float = 500
) -> list[str]:
    """What each prints; all of them end well."""
    ended = results(begin(program, arguments, hash_seeds), timeout=timeout)
    for status, _, errors in ended:
        assert status == 0, errors[-3000:]
    return [out for _, out, _ in ended]

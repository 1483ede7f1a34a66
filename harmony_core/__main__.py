"""The command line: ``harmony COMMAND ...`` or ``python -m harmony_core COMMAND ...``."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

COMMANDS = (
    "assemble",
    "bench",
    "benchmark",
    "convert",
    "demo",
    "evaluate",
    "generate",
    "inspect",
    "plan",
    "roundtrip",
    "train",
    "world",
)
INTERRUPTED = 130
"""Exit status of a command that was stopped by Ctrl-C, as shells have it."""
UNREAD = 141
"""Likewise of one whose output nobody reads any more, as in ``harmony inspect FILE | head -1``."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the process's exit status."""
    parser = argparse.ArgumentParser(prog="harmony", description="Video and sound, generated together.")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in COMMANDS:
        module = importlib.import_module(f".cli.{name}", package=__package__)
        sub = subparsers.add_parser(name, help=module.SUMMARY, description=module.__doc__)
        module.add_arguments(sub)
        sub.set_defaults(run=module.run)
    args = parser.parse_args(argv)
    try:
        args.run(args)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python would flush it again at its end
        return UNREAD
    except ValueError as error:
        print(f"harmony: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("harmony: stopped", file=sys.stderr)
        return INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""What ComfyUI's registry would publish of this project: the files git knows but those of ``.comfyignore``."""

import shutil
import subprocess

import pytest
from comfyui import ROOT


def published() -> list[str]:
    """Paths below the project's root; files not yet committed count too. Skips the test outside of a git checkout."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("this is no git checkout: the registry publishes what git knows")
    known = _git("ls-files", "-z", "--cached", "--others", "--exclude-standard")
    ignored = {*_git("-c", "core.excludesFile=.comfyignore", "check-ignore", "--no-index", "-z", "--stdin", given=known)}
    return [name for name in known if name not in ignored and (ROOT / name).is_file()]


def _git(*command: str, given: list[str] | None = None) -> list[str]:
    done = subprocess.run(
        ["git", *command], cwd=ROOT, input="\0".join(given or []), capture_output=True, text=True, encoding="utf-8", check=False
    )
    assert done.returncode == 0, done.stderr
    return [name for name in done.stdout.split("\0") if name]

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from harmony_core.__main__ import main

ROOT = Path(__file__).parents[2]


def test_a_reader_that_goes_away_ends_the_command_quietly():
    """As `harmony inspect FILE | head -1` does."""
    reader = [sys.executable, "-c", "import sys; sys.stdin.readline()"]
    talks_on = (
        "import sys; from harmony_core import __main__ as m; from harmony_core.cli import inspect\n"
        "def run(args):\n    for _ in range(20000): print('x' * 100)\n"
        "inspect.run = run; sys.exit(m.main(['inspect', 'f']))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", talks_on], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        assert writer.stderr is not None
        subprocess.run(reader, stdin=writer.stdout, check=True, timeout=60)
        writer.stdout.close()
        assert writer.stderr.read() == ""
        assert writer.wait(timeout=60) == 141


def test_sigterm_ends_a_command_as_ctrl_c_does(tmp_path):
    command = [sys.executable, "-m", "harmony_core", "generate", "--out", str(tmp_path / "b.mp4"), "--steps", "1000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        while "sampling" not in process.stderr.read(1) + process.stderr.readline():
            pass
        process.terminate()
        _, said = process.communicate(timeout=60)
    assert process.returncode == 143
    assert said.endswith("harmony: stopped\n")
    assert "Traceback" not in said
    assert not list(tmp_path.iterdir())


STOPPED_WHILE_WRITING = """
import signal, sys
from harmony_core import __main__ as m
from harmony_core.cli import progress_line
def stop(self, done, total):
    signal.raise_signal(signal.SIGTERM)
progress_line.ProgressLine.__call__ = stop
sys.exit(m.main(sys.argv[1:]))
"""


def test_sigterm_leaves_nothing_half_written(tmp_path):
    words = ["convert", "harmony-tiny", str(tmp_path / "o.safetensors"), "--to", "bf16"]
    done = subprocess.run([sys.executable, "-c", STOPPED_WHILE_WRITING, *words], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (143, "harmony: stopped\n")
    assert not list(tmp_path.iterdir())


def test_sigterm_is_somebody_elses_again_after_a_command(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    assert main(["inspect", str(tmp_path / "nothing.safetensors")]) == 1
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no full device")
@pytest.mark.parametrize("words", [["inspect", "harmony_core/assets/harmony-tiny.safetensors"], ["plan", "--tflops", "1"]])
def test_standard_output_on_a_full_disk_is_one_sentence(words):
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "harmony_core", *words],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            cwd=ROOT,
        )
    assert done.returncode == 1
    assert done.stderr == "harmony: cannot write the output: No space left on device\n"


LONG, HALF = "n" * 300, "\udcff"


@pytest.mark.parametrize("name", [LONG, f"{HALF}.pt", "/dev/zero", f"{LONG}/x.safetensors", ""], ids=range(5))
@pytest.mark.parametrize(
    "command",
    [
        ["inspect", "NAME"],
        ["convert", "NAME", "o.safetensors", "--to", "bf16"],
        ["convert", "harmony-tiny", "NAME.safetensors", "--to", "bf16"],
        ["assemble", "--video", "NAME", "--audio", "NAME", "--out", "o.safetensors"],
        ["train", "NAME"],
        ["plan", "--checkpoint", "NAME"],
        ["evaluate", "NAME"],
        ["evaluate", "harmony-tiny", "--judges", "NAME"],
        ["evaluate", "harmony-tiny", "--json", "NAME/a.json"],
        ["evaluate", "--merge", "NAME"],
        ["roundtrip", "NAME", "--out", "o.wav", "--audio-codec", "NAME"],
        ["world", "--out", "NAME/x", "--count", "1"],
        ["demo", "--out", "NAME/x"],
        *(
            ["generate", "--out", "o.mp4", f"--{option}", "NAME"]
            for option in ("voice", "image", "audio", "video", "checkpoint", "lora", "text-encoder", "audio-vae", "video-vae")
        ),
        ["generate", "--out", "NAME/o.mp4"],
        ["generate", "--out", "NAME.mp4"],
        ["generate", "--out", "o.mp4", "--save-latents", "NAME.safetensors"],
    ],
    ids=lambda words: "-".join(words[:1] + [word for word in words if "-" in word][:1]),
)
def test_names_that_cannot_be_are_one_sentence(tmp_path, monkeypatch, capsys, command, name):
    if name in {"", "/dev/zero", f"{HALF}.pt"} and any("NAME." in word or "NAME/" in word for word in command):
        pytest.skip("the disk takes that name")
    monkeypatch.chdir(tmp_path)
    try:
        status = main([word.replace("NAME", name) for word in command])
    except SystemExit as error:
        status = error.code
    said = capsys.readouterr().err.splitlines()
    assert status in {1, 2}
    assert len(said[-1]) < 400
    assert said[-1].isprintable()
    assert status == 2 or [line for line in said if not line.startswith("note: ")] == said[-1:]
    assert not list(tmp_path.iterdir())

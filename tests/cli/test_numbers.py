"""Numbers of the command line have ends, and say where."""

import pytest

from harmony_core.__main__ import main

COMMANDS = {
    "generate": (
        ["--out", "o.mp4"],
        [
            "seconds",
            "fps",
            "seed",
            "count",
            "steps",
            "shift",
            "gamma",
            "threads",
            "tile",
            "skip-layers",
            "sync-video",
            "text-audio",
        ],
    ),
    "generate --audio a.wav": (["--out", "o.mp4"], ["start"]),
    "plan": (["--tflops", "1"], ["seconds", "fps", "steps", "tflops"]),
    "demo": (["--out", "o"], ["steps", "seed", "threads"]),
    "evaluate harmony-tiny": (
        [],
        ["clips", "first", "steps", "shift", "gamma", "sync-video", "sync-audio", "batch", "seed", "threads"],
    ),
    "roundtrip a.mp4": (["--out", "o.mp4", "--video-vae", "v.pth"], ["start", "seconds", "fps"]),
    "world": (["--out", "o"], ["count", "seed"]),
    "assemble": (["--video", "v.safetensors", "--audio", "a.safetensors", "--out", "o.safetensors"], ["seed"]),
}
NUMBERS = ["-1", str(10**12), "9" * 30, "9" * 5000, "1e308", "1e999", "1e-300", "nan", "-inf", "9" * 40 + ".5", "x" * 5000]

GOOD = {str(10**12): {"seed"}, "1e-300": {"start", "sync-video", "sync-audio", "text-audio"}}
"""Numbers that these options take as any other: a seed of many digits, a scale or a start of almost nothing."""
CASES = [
    (command, option, number)
    for command, (_, options) in COMMANDS.items()
    for option in options
    for number in NUMBERS
    if option not in GOOD.get(number, ())
]


@pytest.mark.parametrize(
    ("command", "option", "number"), CASES, ids=[f"{command} {option} {number[:12]}" for command, option, number in CASES]
)
def test_a_number_that_is_none_is_one_sentence(tmp_path, monkeypatch, capsys, command, option, number):
    monkeypatch.chdir(tmp_path)
    try:
        status = main([*command.split(), *COMMANDS[command][0], f"--{option}={number}"])
    except SystemExit as error:
        status = error.code
    said = capsys.readouterr().err.splitlines()[-1]
    assert status in {1, 2}
    assert len(said) < 400
    assert (
        option in said
        or {"shift", "gamma", "steps", "fps", "clips", "first", "seed", "guidance"} & set(said.split())
        or "clip" in said
    )
    assert not list(tmp_path.iterdir())


def test_the_most_steps_are_said(tmp_path, capsys):
    assert main(["generate", "--out", str(tmp_path / "o.mp4"), "--steps", str(10**12)]) == 1
    assert "at most 1000 steps, got 1000000000000" in capsys.readouterr().err

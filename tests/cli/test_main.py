import subprocess
import sys


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

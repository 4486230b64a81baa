"""`tidegate demo`: its printed examples work when they are pasted into a shell."""

import os
import re
import signal
import subprocess
import tempfile
from pathlib import Path

import pytest

SDK = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def demo():
    """The greeting of the demo."""
    with tempfile.TemporaryDirectory() as folder:
        command = [os.environ["BINARY"], "demo", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]
        env = {**os.environ, "TMPDIR": folder}
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env)
        greeting = ""
        for line in process.stdout:
            greeting += line
            if line.startswith("Press Ctrl-C"):
                break
        yield greeting
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=5) == 0
        # No process of a demo outlives it.
        assert os.listdir(folder) == []


@pytest.mark.parametrize("title", ["curl", "openai-python", "openai-node"])
def test_an_example(demo, title, tmp_path):
    # The example is the text from the line after the title to the next paragraph.
    example = re.search(rf"^# {title}\b.*\n((?:.+\n)+)", demo, re.MULTILINE)[1]
    (tmp_path / "node_modules").symlink_to(SDK / "node_modules")
    path = [str(SDK / ".venv/bin"), str(Path(os.environ["NODE"]).parent), os.environ["PATH"]]
    env = {**os.environ, "PATH": os.pathsep.join(path)}
    done = subprocess.run(["bash"], input=example, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    assert "Say hello" in done.stdout, done.stdout + done.stderr

"""`tidegate demo`: what it prints works when it is pasted into a shell as it stands."""

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
    """The demo's greeting."""
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
        # Nothing of a demo outlives it.
        assert os.listdir(folder) == []


@pytest.mark.parametrize("title", ["curl", "openai-python", "openai-node"])
def test_an_example(demo, title, tmp_path):
    # From the line after the title to the next line that begins a paragraph.
    example = re.search(rf"^# {title}\b.*\n((?:.+\n)+)", demo, re.MULTILINE)[1]
    (tmp_path / "node_modules").symlink_to(SDK / "node_modules")
    path = [str(SDK / ".venv/bin"), str(Path(os.environ["NODE"]).parent), os.environ["PATH"]]
    env = {**os.environ, "PATH": os.pathsep.join(path)}
    done = subprocess.run(["bash"], input=example, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    assert "Say hello" in done.stdout, done.stdout + done.stderr

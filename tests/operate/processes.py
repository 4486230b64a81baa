"""The processes: gateways, the upstream, the healthy client."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import client
import script

HERE = Path(__file__).resolve().parent
TICKS = os.sysconf("SC_CLK_TCK")

CONFIGURATION = """
[server]
listen = "{listen}"
admin_listen = "127.0.0.1:0"
data_dir = "{folder}"
workers = 2

[timeouts]
first_byte_s = {first_byte_s}
head_s = 3
keep_alive_idle_s = {keep_alive_idle_s}
write_stall_s = 3
drain_delay_s = {drain_delay_s}
drain_timeout_s = 30

[[upstreams]]
name = "scripted"
base_url = "http://127.0.0.1:{upstream}/v1"
max_idle_connections = {max_idle_connections}

[[models]]
name = "m"
targets = [{{ upstream = "scripted" }}]

[[keys]]
name = "operate"
secret = {{ env = "OPERATE_KEY" }}
"""


class Gateway:
    """A gateway in a folder of its own. It can be started again at the same address."""

    def __init__(self, binary, folder, upstream, host="127.0.0.1", pipe=False, limit=None, secrets=None, **settings):
        self.binary, self.folder, self.upstream, self.limit = binary, Path(folder), upstream, limit
        # Whether the log goes to a pipe. The pipe is read until the gateway is ready, and never again.
        self.pipe = pipe
        # Variables of its environment, in addition to the one key.
        self.secrets = secrets or {}
        self.settings = {"first_byte_s": 3, "keep_alive_idle_s": 75, "drain_delay_s": 0, "max_idle_connections": 64, **settings}
        self.folder.mkdir(parents=True)
        self.address, self.process = (host, 0), None
        self.log = self.folder / "log"

    def configure(self, more=""):
        text = CONFIGURATION.format(listen="%s:%d" % self.address, folder=self.folder, upstream=self.upstream.port, **self.settings)
        # The new file is renamed into place, as editors do: the gateway never sees half a file.
        (self.folder / "new.toml").write_text(text + more)
        (self.folder / "new.toml").rename(self.folder / "tidegate.toml")

    async def start(self):
        self.configure()
        before = ["prlimit", f"--nofile={self.limit}"] if self.limit else []
        command = [*before, self.binary, "serve", "--config", self.folder / "tidegate.toml"]
        # A session of its own, so that the test finds every process that is left behind.
        env = {"OPERATE_KEY": script.KEY, **self.secrets}
        with self.log.open("ab") as log:
            start = log.tell()
            out = subprocess.PIPE if self.pipe else log
            self.process = subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=log, start_new_session=True)
        await asyncio.to_thread(self._announced, start)

    def _announced(self, start):
        deadline, text = time.monotonic() + 20, ""
        while time.monotonic() < deadline and self.process.poll() is None:
            text = text + self.process.stdout.readline().decode() if self.pipe else self.said(start)
            if found := re.search(r'"listen":"([^"]+):(\d+)","admin_listen":"([^"]+):(\d+)"', text):
                self.address, self.admin = (found[1], int(found[2])), (found[3], int(found[4]))
                return
            time.sleep(0.01)
        raise RuntimeError(f"the gateway did not start: {text}")

    def said(self, start):
        return self.log.read_bytes()[start:].decode()

    def signal(self, number):
        self.process.send_signal(number)

    async def stop(self):
        """Stops the gateway gracefully. Returns the exit code, or what is wrong with the end."""
        self.signal(signal.SIGTERM)
        try:
            code = await asyncio.to_thread(self.process.wait, 60)
        except subprocess.TimeoutExpired:
            self.kill()
            return "killed after 60 s"
        try:
            os.killpg(self.process.pid, 0)
            return "left a process behind"
        except ProcessLookupError:
            return code

    def kill(self):
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        if self.process and self.pipe:
            self.process.stdout.close()

    def rss(self):
        """In KiB."""
        return int(re.search(r"VmRSS:\s+(\d+)", self._proc("status").read_text())[1])

    def files(self):
        return len(os.listdir(self._proc("fd")))

    def cpu(self):
        """In seconds."""
        fields = self._proc("stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def _proc(self, name):
        return Path("/proc", str(self.process.pid), name)

    async def metric(self, name):
        """The sum of the metric lines that begin with `name`."""
        _, text = await client.get(self.admin, "/metrics")
        return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(name))


class Helper:
    """A script of this folder that runs until its input is closed."""

    def __init__(self, name, *arguments):
        command = [sys.executable, "-B", HERE / name, *map(str, arguments)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def close(self):
        self.process.stdin.close()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Upstream(Helper):
    def __init__(self):
        super().__init__("upstream.py")
        self.port = int(self.process.stdout.readline())

    async def stats(self):
        return json.loads((await client.get(("127.0.0.1", self.port), "/stats"))[1])

    async def at_rest(self):
        """Whether no request is in progress, except perhaps one of the healthy client."""
        return (await self.stats())["under_way"] <= 1


class Healthy(Helper):
    def __init__(self, address):
        super().__init__("healthy.py", *address)

    async def mark(self):
        """The figures since the last mark."""
        self.process.stdin.write("mark\n")
        self.process.stdin.flush()
        return json.loads(await asyncio.to_thread(self.process.stdout.readline))

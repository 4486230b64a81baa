"""PostgreSQL and Redis for one test: in a folder, on a free port, ended by the process that started them."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path


def program(name):
    places = [os.environ["PATH"], "/usr/sbin", *map(str, sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True))]
    found = shutil.which(name, path=":".join(places))
    if not found:
        raise RuntimeError(f"{name} is missing (Debian: postgresql, redis-server)")
    return found


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


class Server:
    """A process that can be stopped, killed, paused and started again at the same address."""

    def __init__(self, folder):
        self.folder, self.port, self.process = folder, free_port(), None
        folder.mkdir()
        self.log = (folder / "log").open("ab")

    def _start(self, command, **how):
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log, **how)
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and self.process.poll() is None:
            if self._answers():
                return
            time.sleep(0.05)
        raise RuntimeError(f"{command[0]} did not start: {(self.folder / 'log').read_text()}")

    def _answers(self):
        raise NotImplementedError

    def stop(self, number=signal.SIGTERM):
        if self.process and self.process.poll() is None:
            self.process.send_signal(number)
            self.process.wait(20)

    def close(self):
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.log.close()


class Redis(Server):
    def start(self):
        self._start([program("redis-server"), "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir", str(self.folder)])

    def _answers(self):
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as asking:
                asking.sendall(b"PING\r\n")
                return asking.recv(7) == b"+PONG\r\n"
        except OSError:
            return False

    def pause(self):
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self):
        self.process.send_signal(signal.SIGCONT)


class Postgres(Server):
    """PostgreSQL refuses to run as root: as root, the test runs it as another user."""

    def __init__(self, folder):
        super().__init__(folder)
        self.who = {}
        if os.geteuid() == 0:
            who = pwd.getpwnam("postgres")
            self.who = {"user": who.pw_uid, "group": who.pw_gid, "extra_groups": []}
            os.chown(folder, who.pw_uid, who.pw_gid)
        self.data = folder / "data"
        made = [program("initdb"), "-D", self.data, "-U", "tidegate", "-A", "trust", "--no-sync", "-E", "UTF8", "--locale=C"]
        subprocess.run(made, check=True, cwd=folder, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log, **self.who)

    def start(self):
        settings = {"listen_addresses": "127.0.0.1", "port": self.port, "unix_socket_directories": "", "max_connections": 20}
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        self._start([program("postgres"), "-D", self.data, *options], cwd=self.folder, **self.who)

    def _answers(self):
        asked = [program("pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        return subprocess.run(asked, check=False, stdin=subprocess.DEVNULL).returncode == 0

    @property
    def url(self):
        return f"postgres://tidegate@127.0.0.1:{self.port}/postgres"

    def stop(self, number=signal.SIGINT):
        """Stops the server without waiting for its clients. SIGKILL also kills the processes that serve them."""
        for child in self._children() if number == signal.SIGKILL else ():
            self._tell(child, number)
        super().stop(number)

    def _children(self):
        """The server's children: each has a session of its own."""
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                if int(stat.read_text().rsplit(")", 1)[1].split()[1]) == self.process.pid:
                    yield int(stat.parent.name)
            except OSError:
                pass

    def _tell(self, process, number):
        try:
            os.kill(process, number)
        except ProcessLookupError:
            pass

    def _all(self, number):
        for process in [self.process.pid, *self._children()]:
            self._tell(process, number)

    def pause(self):
        self._all(signal.SIGSTOP)

    def go_on(self):
        self._all(signal.SIGCONT)

    def close(self):
        if self.process and self.process.poll() is None:
            self._all(signal.SIGKILL)
        super().close()

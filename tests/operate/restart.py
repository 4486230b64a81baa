"""Restarts that no client notices: three gateways behind HAProxy, and one gateway alone."""

import asyncio
import os
import random
import shutil
import socket
import subprocess
import time

import client
from client import Client, soon
from processes import HERE, Gateway

REQUESTS = 10_000
# This many of the requests are streams, of 1 to 3 s.
STREAMS = 600
# All requests begin within this many seconds, evenly.
SECONDS = 32
RESTARTS = 4
NAMES = {"first": "127.0.0.2", "second": "127.0.0.3", "third": "127.0.0.4"}
# HAProxy notices a failed readiness within 1 s and the duration of a check.
DRAIN_DELAY = 2


class HAProxy:
    def __init__(self, folder, gateways):
        folder.mkdir()
        self.log, self.socket = folder / "log", folder / "socket"
        with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener, self.log.open("wb") as log:
            self.address = listener.getsockname()
            servers = ("%s:%d" % gateway.address for gateway in gateways)
            env = dict(zip(("FIRST", "SECOND", "THIRD"), servers, strict=True)) | {"BIND": f"fd@{listener.fileno()}"}
            program = shutil.which("haproxy", path=os.environ["PATH"] + ":/usr/sbin")
            if not program:
                raise RuntimeError("HAProxy is missing (Debian: haproxy)")
            command = [program, "-db", "-f", self._configuration(folder), "-f", HERE.parent.parent / "deploy" / "haproxy.cfg"]
            self.process = subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=[listener.fileno()])

    def _configuration(self, folder):
        """The settings for the test alone: HAProxy's state, available without its log."""
        more = folder / "more.cfg"
        more.write_text(f"global\n    stats socket {self.socket} level operator\n")
        return more

    async def is_up(self, server):
        try:
            reader, writer = await asyncio.open_unix_connection(self.socket)
        except OSError:
            return False
        writer.write(b"show stat\n")
        lines = (await reader.read()).decode().splitlines()
        writer.close()
        status = lines[0].split(",").index("status")
        return any(line.startswith(f"gateways,{server},") and line.split(",")[status] == "UP" for line in lines)

    def odd(self):
        """Log lines of requests that did not end normally."""
        return [line for line in self.log.read_text().splitlines() if " ---- " not in line]

    def close(self):
        self.process.terminate()
        self.process.wait()


class Load:
    """The requests, each at its time."""

    def __init__(self, address):
        self.address, self.began = address, time.monotonic()
        self.done, self.faults, self.slowest = 0, [], 0.0

    async def run(self):
        # Kind, kept, connections, requests: a quarter of the requests use new connections.
        shorts = REQUESTS - STREAMS
        streams = [self._ask("stream", kept, STREAMS // 60, number) for kept in (True, False) for number in range(30)]
        kept = [self._ask("short", True, shorts * 3 // 4 // 30, number) for number in range(30)]
        new = [self._ask("short", False, shorts // 4 // 10, number) for number in range(10)]
        await asyncio.gather(*streams, *kept, *new)

    async def _ask(self, kind, kept, count, number):
        chance = random.Random(f"{kind} {number} {kept}")
        asking = Client(self.address, kept)
        # The starts are spread evenly, and no two are at the same time.
        await asyncio.sleep(chance.random() * SECONDS / count)
        for turn in range(count):
            await asyncio.sleep(self.began + SECONDS * turn / count - time.monotonic())
            answer = await asking.ask(kind, number * 1000 + turn, chance.randrange(1000, 3000))
            self.done += 1
            self.slowest = max(self.slowest, answer.first_byte)
            if answer.fault:
                self.faults.append(f"{time.monotonic() - self.began:.3f} s: {kind}, {'kept' if kept else 'new'} connection: {answer.fault}")
        asking.close()


async def rolling(report, binary, folder, upstream):
    # An address for each gateway: on 127.0.0.1, another connection could take the port while the gateway restarts.
    gateways = [
        Gateway(binary, folder / name, upstream, host, drain_delay_s=DRAIN_DELAY) for name, host in NAMES.items()
    ]
    haproxy = None
    try:
        for gateway in gateways:
            await gateway.start()
        haproxy = HAProxy(folder / "haproxy", gateways)
        await soon("HAProxy", 10, lambda: haproxy.is_up("third"))
        load = Load(haproxy.address)
        loading = asyncio.create_task(load.run())
        codes, events = [], []
        while not loading.done() and load.done < REQUESTS * 0.9:
            name, gateway = list(NAMES)[len(codes) % 3], gateways[len(codes) % 3]
            events.append(f"{time.monotonic() - load.began:.3f} s: SIGTERM to {name}")
            codes.append(await gateway.stop())
            events.append(f"{time.monotonic() - load.began:.3f} s: {name} has ended")
            await gateway.start()
            if await soon(f"HAProxy to see {name}", 20, lambda name=name: haproxy.is_up(name)) is None:
                break
        await loading
        if load.faults:
            print("\n".join(["failed:", *load.faults[:20], "events:", *events, "HAProxy:", *haproxy.odd()[:40]]))
        report.check(f"rolling restarts behind HAProxy: {len(codes)} of at least {RESTARTS}, each with exit code 0", len(codes) >= RESTARTS and not any(codes), "" if not any(codes) else codes)
        report.check(f"rolling restarts behind HAProxy: {load.done} requests, {len(load.faults)} failed", load.done == REQUESTS and not load.faults)
        figures = {"requests": load.done, "of_them_streams": STREAMS, "restarts": len(codes), "failed": len(load.faults)}
        report.row("rolling restart", **figures, longest_time_to_first_byte=f"{load.slowest:.3f} s", seconds=f"{time.monotonic() - load.began:.0f}")
        report.check("rolling restarts: the gateways end with 0", [await gateway.stop() for gateway in gateways] == [0, 0, 0])
    finally:
        if haproxy:
            haproxy.close()
        for gateway in gateways:
            gateway.kill()


async def alone(report, binary, folder, upstream):
    """SIGTERM for a gateway with 50 open streams and no proxy in front."""
    gateway = Gateway(binary, folder / "alone", upstream, drain_delay_s=3)
    try:
        await gateway.start()
        streams = [asyncio.create_task(Client(gateway.address).ask("stream", number, 4000 + 40 * number)) for number in range(50)]

        async def all_under_way():
            return (await upstream.stats())["under_way"] == 50

        await soon("50 streams", 20, all_under_way)
        began = time.monotonic()
        ending = asyncio.create_task(gateway.stop())
        unready = await soon("readiness to fail", 5, lambda: unready_at(gateway.address))
        served = await Client(gateway.address).ask("short", 1)
        code = await ending
        ended = time.monotonic() - began
        answers = await asyncio.gather(*streams)
        faults = [answer.fault for answer in answers if answer.fault]
        report.check("SIGTERM: readiness fails while requests are still served", unready is not None and not served.fault, served.fault)
        report.check("SIGTERM: 50 open streams, all whole", not faults, "; ".join(faults[:3]))
        report.check("SIGTERM: exit code 0", code == 0, "" if code == 0 else code)
        report.row("SIGTERM, 50 streams", whole=50 - len(faults), exit_code=code, not_ready_after=f"{1000 * (unready or 0):.0f} ms", ended_after=f"{ended:.2f} s")
    finally:
        gateway.kill()


async def unready_at(address):
    return (await client.get(address, "/readyz"))[0] == 503

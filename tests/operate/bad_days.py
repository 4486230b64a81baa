"""Bad days: clients that never read, slow heads, cancelled streams, too few files, a log that no process reads.

Each part has a gateway of its own and runs three equal rounds, to find what a round leaves behind. A healthy client sends
requests throughout.
"""

import asyncio
import select
import socket
import struct
import time

import script
from client import Client, soon
from processes import Gateway, Healthy
from report import mib, times

QUIET = 2
ROUNDS = 3
# GROWTH: the factor by which the last round may exceed the round before. PIECES: the KiB by which equal rounds differ. The
# second round still adds more than the third, because the C library's allocator keeps freed memory in fragments. That growth
# ends after some rounds, unlike a leak: with 10,000 streams, a leak of half a KiB each would show.
GROWTH, PIECES = 1.05, 3072
# The promise is 2 s; a busy machine may take longer.
BACK = 5
# The slowest request of the healthy client, in milliseconds, while the bad clients use the same two cores.
SLOWEST = 5000


class Day:
    """A gateway with its healthy client, and the figures of both."""

    def __init__(self, report, name, gateway, upstream):
        self.report, self.name, self.gateway, self.upstream = report, name, gateway, upstream

    def check(self, what, good, why=""):
        self.report.check(f"{self.name}: {what}", good, why)

    async def run(self, bad):
        await self.gateway.start()
        healthy = Healthy(self.gateway.address)
        try:
            await warm_up(self.gateway.address)
            await healthy.mark()
            await asyncio.sleep(QUIET)
            quiet = await healthy.mark()
            self.report.row(self.name, healthy_client_alone=f"{times(quiet)} ms", RSS_MiB=mib(self.gateway.rss()), files=self.gateway.files())
            peaks = [await self._round(bad, healthy, number) for number in range(1, ROUNDS + 1)]
        finally:
            healthy.close()
        growth = [" and ".join(f"{100 * now / before - 100:+.1f} %" for before, now in zip(*two)) for two in zip(peaks, peaks[1:])]
        fits = all(now <= before * GROWTH + PIECES for before, now in zip(*peaks[-2:]))
        self.check(f"the last round adds {growth[-1]} RSS (at the peak and after it)", fits)
        self.report.row("  RSS added", **{f"by_round_{number}": grown for number, grown in enumerate(growth, 2)})
        panics = await self.gateway.metric("tidegate_panics_total")
        self.check("no panic", panics == 0, "" if panics == 0 else panics)
        code = await self.gateway.stop()
        self.check("ends with 0 and leaves nothing behind", code == 0, "" if code == 0 else code)

    async def _round(self, bad, healthy, number):
        """The peak of RSS, and RSS after the round."""
        gateway, baseline, before, cpu = self.gateway, self.gateway.files(), self.gateway.rss(), self.gateway.cpu()
        began = time.monotonic()
        peak = {"rss": 0, "files": 0}
        sampling = asyncio.create_task(self._sample(peak))
        more = await bad(self, before, peak) or {}
        seconds = time.monotonic() - began

        async def files_are_back():
            return abs(gateway.files() - baseline) <= 2

        back = await soon("files", BACK, files_are_back)
        sampling.cancel()
        beside = await healthy.mark()
        after = gateway.rss()
        self.check(f"round {number}: open files are back at {baseline}", back is not None, f"{gateway.files()} after {BACK} s" if back is None else f"{back:.2f} s")
        at_rest = await soon("the upstream", BACK, self.upstream.at_rest)
        self.check(f"round {number}: no request is in progress upstream", at_rest is not None, "" if at_rest is not None else await self.upstream.stats())
        good = not beside["faults"] and beside["requests"] > 0 and beside["most"] < SLOWEST
        self.check(f"round {number}: all {beside['requests']} requests of the healthy client succeed", good, "; ".join(beside["faults"][:3]) or ("" if good else beside))
        self.report.row(
            f"  round {number}",
            healthy_client_beside=f"{times(beside)} ms",
            RSS_before_most_after="/".join(map(mib, (before, peak["rss"], after))),
            files_before_most_after=f"{baseline}/{peak['files']}/{gateway.files()}",
            CPU_s=f"{gateway.cpu() - cpu:.2f}",
            seconds=f"{seconds:.1f}",
            **more,
        )
        return peak["rss"], after

    async def _sample(self, peak):
        while True:
            peak["rss"] = max(peak["rss"], self.gateway.rss())
            peak["files"] = max(peak["files"], self.gateway.files())
            await asyncio.sleep(0.05)


async def warm_up(address):
    """Sends requests of every kind, so that the program's own pages are in memory and do not count for streams."""
    for turn in range(20):
        await Client(address, kept=False).ask("short", turn)
    flooded = [await asyncio.to_thread(connect, address, script.request("flood")) for _ in range(4)]
    await asyncio.sleep(0.5)
    for one in flooded:
        one.close()
    await asyncio.sleep(0.5)


def connect(address, request):
    """A client that sends a request and reads nothing. Its receive buffer is small, or the test would mostly fill it."""
    asking = socket.socket()
    asking.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32 * 1024)
    asking.settimeout(20)
    asking.connect(address)
    asking.sendall(request)
    return asking


# The KiB that each client may cost in the first round (later rounds use what earlier ones freed). The aim is 64; 61 to 64 were
# measured, on a busy machine.
NEVER_READ, AIM, STALLED = 200, 64, 80


async def never_read(day, before, peak):
    """The clients ask for an endless stream and do not read it."""
    cut = await day.gateway.metric('tidegate_connections_cut_total{deadline="write_stall"}')
    clients = [await asyncio.to_thread(connect, day.gateway.address, script.request("flood")) for _ in range(NEVER_READ)]
    asked = time.monotonic()
    poll = select.poll()
    for one in clients:
        poll.register(one, 0)  # only the end of the connection is reported
    gone, deadline = set(), asked + 40
    while len(gone) < NEVER_READ and time.monotonic() < deadline:
        for file, _ in poll.poll(0):
            gone.add(file)
            poll.unregister(file)
        await asyncio.sleep(0.02)
    seconds = time.monotonic() - asked
    cut = await day.gateway.metric('tidegate_connections_cut_total{deadline="write_stall"}') - cut
    for one in clients:
        one.close()
    day.check(f"{len(gone)} of {NEVER_READ} are cut by write_stall_s (3 s)", len(gone) == cut == NEVER_READ, f"the last after {seconds:.1f} s")
    each = (peak["rss"] - before) / NEVER_READ
    day.check(f"{each:.1f} KiB each, of at most {STALLED} (the aim is {AIM})", each <= STALLED)
    return {"KiB_each": f"{each:.1f}"}


SLOW = 1000


async def slow_heads(day, *_):
    """Half of the clients send a head byte by byte, half stop in the middle of it."""
    answers = await asyncio.gather(*(slow_head(day.gateway.address, number % 2 == 0) for number in range(SLOW)))
    status, seconds = zip(*answers)
    refused = status.count(b"HTTP/1.1 408 ")
    others = sorted({other for other in status if other != b"HTTP/1.1 408 "})
    day.check(f"{refused} of {SLOW} get 408", refused == SLOW, f"between {min(seconds):.1f} and {max(seconds):.1f} s" + (f", others {others}" if others else ""))
    day.check("none is cut before head_s (3 s)", min(seconds) >= 2.9)
    return {"answered_after": f"{min(seconds):.1f} to {max(seconds):.1f} s"}


async def slow_head(address, drips):
    """The received bytes, and the seconds from the first byte to the end."""
    head = script.request("short")
    writer = None
    try:
        async with asyncio.timeout(40):
            reader, writer = await asyncio.open_connection(*address)
            began = time.monotonic()
            writer.write(head[:1] if drips else head[:60])
            answer = asyncio.ensure_future(reader.read())
            for byte in head[1:] if drips else ():
                if answer in (await asyncio.wait([answer], timeout=0.25))[0]:
                    break
                writer.write(bytes([byte]))
            return (await answer)[:13], time.monotonic() - began
    except OSError as error:
        return repr(error).encode(), 0.0
    finally:
        if writer:
            writer.transport.abort()


CANCELLED, AT_ONCE = 10_000, 50


async def cancelled(day, *_):
    """The clients leave in the middle of a stream, some with a normal close and some with a reset."""
    name = 'tidegate_requests_total{upstream="scripted",end="client_gone"}'
    before = await day.gateway.metric(name)
    turns = iter(range(CANCELLED))
    faults = [fault for faults in await asyncio.gather(*(cancel(day.gateway.address, turns) for _ in range(AT_ONCE))) for fault in faults]
    day.check(f"{CANCELLED} streams begin", not faults, "; ".join(faults[:3]))

    async def counted():
        return await day.gateway.metric(name) - before == CANCELLED

    good = await soon("the records", 5, counted) is not None
    day.check(f"{CANCELLED} records say client_gone", good, "" if good else await day.gateway.metric(name) - before)


async def cancel(address, turns):
    faults = []
    for turn in turns:
        try:
            async with asyncio.timeout(20):
                reader, writer = await asyncio.open_connection(*address)
                writer.write(script.request("endless", turn))
                head = await reader.readuntil(b"\r\n\r\n")
                if not head.startswith(b"HTTP/1.1 200 "):
                    faults.append(repr(head))
                await reader.readuntil(b"\n\n")  # an event
                if turn % 2:
                    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                writer.close()
        except (OSError, EOFError) as error:
            faults.append(repr(error))
    return faults


FILES, CONNECTIONS = 128, 500


async def few_files(day, *_):
    """Many more connections than files: half of the clients send a request, half send nothing."""
    start = day.gateway.log.stat().st_size
    began = time.monotonic()
    ends = await asyncio.gather(*(knock(day.gateway.address, number) for number in range(CONNECTIONS)))
    seconds = time.monotonic() - began
    hang = ends.count("hangs")
    answered = ends.count("answered")
    day.check(f"none of {CONNECTIONS} connections with {FILES} files hangs", hang == 0, f"the last was over after {seconds:.1f} s")
    day.check(f"all {CONNECTIONS // 2} clients with a request are answered", answered == CONNECTIONS // 2, "" if answered == CONNECTIONS // 2 else f"{answered}, {sorted(set(ends))}")
    after = await Client(day.gateway.address).ask("short", 5)
    day.check("a new client is served at once after the others are gone", not after.fault and after.first_byte < 5, after.fault)
    lines = sum('"tidegate::request"' not in line for line in day.gateway.said(start).splitlines())
    day.check("the log reports it in at most two lines a second", lines <= 2 * seconds + 4, f"{lines} in {seconds:.0f} s")
    return {"log_lines": lines}


async def knock(address, number):
    """How the connection ends."""
    asks = number % 2 == 0
    writer = None
    try:
        async with asyncio.timeout(60):
            reader, writer = await asyncio.open_connection(*address)
            if asks:
                writer.write(script.request("short", number, more="connection: close\r\n"))
            text = await reader.read()
            good = text.startswith(b"HTTP/1.1 200 ") and text.endswith(script.short(number))
            return "answered" if good else text[:60].decode() if asks else "closed"
    except TimeoutError:
        return "hangs"
    except OSError as error:
        return repr(error)
    finally:
        if writer:
            writer.close()


UNREAD, ASKING = 5000, 20


async def full_pipe(day, before, peak):
    turns = iter(range(UNREAD))
    answers = [answer for answers in await asyncio.gather(*(ask_all(day.gateway.address, turns) for _ in range(ASKING))) for answer in answers]
    faults = [answer.fault for answer in answers if answer.fault]
    day.check(f"all {len(answers)} requests are answered", not faults and len(answers) == UNREAD, "; ".join(faults[:3]))
    grown = peak["rss"] - before
    day.check("at most 16 MiB more", grown <= 16 * 1024, f"{mib(grown)} MiB")


async def ask_all(address, turns):
    asking = Client(address)
    answers = [await asking.ask("short", turn) for turn in turns]
    asking.close()
    return answers


async def bad_days(report, binary, folder, upstream):
    # Idle connections to the upstream would look like a leak: one per worker.
    kept = {"max_idle_connections": 1}
    days = {
        "200 that never read": (never_read, kept),
        "1,000 slow heads": (slow_heads, kept),
        "10,000 cancelled streams": (cancelled, kept),
        "500 with 128 files": (few_files, {**kept, "limit": FILES, "first_byte_s": 1}),
        "full stdout pipe": (full_pipe, {**kept, "pipe": True}),
    }
    for number, (name, (bad, settings)) in enumerate(days.items()):
        gateway = Gateway(binary, folder / f"day-{number}", upstream, **settings)
        try:
            await Day(report, name, gateway, upstream).run(bad)
        finally:
            gateway.kill()

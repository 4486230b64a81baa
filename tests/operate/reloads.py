"""Reloads that no client notices: by SIGHUP and by a changed file alone. Every third configuration is broken."""

import asyncio
import signal
import time

from client import Client, soon
from processes import Gateway, Healthy
from report import times

RELOADS = 100
# One of this many reloads happens by the changed file alone, which takes two looks at the file, a second apart.
BY_FILE = 8
# The number of connections with short requests one after the other, and of as many with streams.
CONNECTIONS = 8
BROKEN = ("[routing\n", "[routing]\nmax_atempts = 1\n", '[[models]]\nname = "other"\ntargets = [{ upstream = "nobody" }]\n')
QUIET = 8


async def load(address, kind, number, over):
    """Sends requests until `over` is set. Returns the number of requests and the failures."""
    asking, count, faults = Client(address), 0, []
    while not over.is_set():
        count += 1
        answer = await asking.ask(kind, number * 100_000 + count, 300)
        faults += [answer.fault] if answer.fault else []
        await asyncio.sleep(0.05)
    asking.close()
    return count, faults


async def reloads(report, binary, folder, upstream):
    gateway, healthy = Gateway(binary, folder / "reloads", upstream), None
    try:
        await gateway.start()
        over = asyncio.Event()
        loading = [asyncio.create_task(load(gateway.address, kind, number, over)) for kind in ("short", "stream") for number in range(CONNECTIONS)]
        healthy = Healthy(gateway.address)
        await asyncio.sleep(1)
        await healthy.mark()
        await asyncio.sleep(QUIET)
        quiet = await healthy.mark()
        began, cpu = time.monotonic(), gateway.cpu()
        missed = 0
        for turn in range(1, RELOADS + 1):
            missed += not await reload(gateway, turn)
        during, seconds, cpu = await healthy.mark(), time.monotonic() - began, gateway.cpu() - cpu
        over.set()
        done = await asyncio.gather(*loading)
        requests = sum(count for count, _ in done) + quiet["requests"] + during["requests"]
        faults = [fault for _, faults in done for fault in faults] + quiet["faults"] + during["faults"]
        counts = {result: int(await gateway.metric(f'tidegate_config_reloads_total{{result="{result}"}}')) for result in ("ok", "refused", "unchanged")}
        report.check(f"reloads: {counts['ok']} taken and {counts['refused']} refused of {RELOADS}", not missed and counts == {"ok": RELOADS - RELOADS // 3, "refused": RELOADS // 3, "unchanged": 0}, "" if not missed else f"{missed} not noticed")
        report.check(f"reloads: {requests} requests, {len(faults)} failed", not faults, "; ".join(faults[:3]))
        report.check("reloads: no panic", await gateway.metric("tidegate_panics_total") == 0)
        code = await gateway.stop()
        report.check("reloads: ends with 0", code == 0, "" if code == 0 else code)
        report.row("100 reloads", requests=requests, failed=len(faults), seconds=f"{seconds:.0f}", CPU_s=f"{cpu:.2f}", p50_and_p99_without=times(quiet), with_reloads=f"{times(during)} ms")
    finally:
        if healthy:
            healthy.close()
        gateway.kill()


async def reload(gateway, turn):
    """Changes the file, and returns whether the gateway noticed it."""
    broken = turn % 3 == 0
    result = f'tidegate_config_reloads_total{{result="{"refused" if broken else "ok"}"}}'
    before = await gateway.metric(result)
    # Each file has a new value, or the reload would change nothing.
    gateway.configure(BROKEN[turn // 3 % 3] if broken else f'[[models]]\nname = "turn-{turn}"\ntargets = [{{ upstream = "scripted" }}]\n')
    if turn % BY_FILE:
        gateway.signal(signal.SIGHUP)

    async def noticed():
        return await gateway.metric(result) == before + 1

    return await soon(f"reload {turn}", 20, noticed) is not None

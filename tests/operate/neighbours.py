"""Two tenants of one gateway: for a minute, one of them does all that could block the other."""

import asyncio

import attack
from client import soon
from processes import Gateway, Healthy, Helper
from report import mib, times

ALONE, ELSEWHERE, BESIDE = 10, 20, 60

CONFIGURATION = """
[server]
listen = "127.0.0.1:0"
admin_listen = "127.0.0.1:0"
data_dir = "{folder}"
workers = 2

[[upstreams]]
name = "scripted"
base_url = "http://127.0.0.1:{port}/v1"
credentials = [{{ env = "NORTH", account = "north" }}, {{ env = "SOUTH", account = "south" }}]

[[models]]
name = "m"
targets = [{{ upstream = "scripted" }}]

[[models]]
name = "any-*"
targets = [{{ upstream = "scripted" }}]

[[keys]]
name = "victim"
secret = {{ env = "OPERATE_KEY" }}

[[keys]]
name = "attacker"
secret = {{ env = "ATTACKER_KEY" }}
"""

SECRETS = {"NORTH": "sk-north-0123456789abcdef", "SOUTH": "sk-south-0123456789abcdef", "ATTACKER_KEY": attack.KEY}


class Shared(Gateway):
    def configure(self, more=""):
        text = CONFIGURATION.format(folder=self.folder, port=self.upstream.port)
        (self.folder / "tidegate.toml").write_text(text + more)


async def attacked(healthy, address, seconds):
    """The figures of the other tenant while the attacker uses `address`, and how often each attack ran."""
    attacker = Helper("attack.py", *address, seconds)
    await asyncio.sleep(seconds)
    fared = await healthy.mark()
    told = await asyncio.to_thread(attacker.process.stdout.read)
    attacker.close()
    return fared, told


async def neighbours(report, binary, folder, upstream):
    """The requests of the other tenant succeed, to the byte, as if the tenant had no neighbour.

    Attacker and upstream use the processors of the gateway. So the times during the attack are compared with the times while
    the attacker uses a second gateway of the same kind, which shares nothing but the machine.
    """
    gateway = Shared(binary, folder / "neighbours", upstream, secrets=SECRETS)
    second = Shared(binary, folder / "elsewhere", upstream, secrets=SECRETS)
    await gateway.start()
    await second.start()
    healthy = Healthy(gateway.address)
    try:
        await healthy.mark()
        await asyncio.sleep(ALONE)
        alone = await healthy.mark()
        elsewhere, _ = await attacked(healthy, second.address, ELSEWHERE)
        await second.stop()
        await healthy.mark()
        beside, told = await attacked(healthy, gateway.address, BESIDE)
        good = not beside["faults"] and beside["requests"] > 0
        report.check(f"neighbours: all {beside['requests']} requests of the other tenant succeed", good, "; ".join(beside["faults"][:3]))
        report.check(f"neighbours: the attacker ran every attack ({told.strip()})", all(kind in told for kind in attack.KINDS))
        ejections = await gateway.metric("tidegate_ejections_total{")
        report.check("neighbours: no account was ejected for the attacker's requests", ejections == 0, "" if ejections == 0 else ejections)
        rest = await soon("the upstream", 20, upstream.at_rest)
        report.check("neighbours: no request is in progress upstream afterwards", rest is not None)
        rows = {"alone": alone, "attacker elsewhere": elsewhere, "attacker beside": beside}
        report.row("neighbours", **{name: f"{times(row)} ms" for name, row in rows.items()}, most=f"{beside['most']:.1f} ms", RSS_MiB=mib(gateway.rss()))
    finally:
        healthy.close()
        code = await gateway.stop()
    report.check("neighbours: the gateway ends with 0", code == 0, "" if code == 0 else code)

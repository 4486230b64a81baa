"""The attacker, a process of its own: `attack.py HOST PORT SECONDS`. Runs all attacks at once and prints how often each ran."""

import asyncio
import collections
import json
import sys
import time

KEY = "tg-attacker-0123456789abcdef0123456789"

done = collections.Counter()


def head(length, more="content-type: application/json\r\n"):
    line = f"POST /v1/responses HTTP/1.1\r\nhost: operate\r\nauthorization: Bearer {KEY}\r\nconnection: close\r\n"
    return f"{line}{more}content-length: {length}\r\n\r\n".encode()


async def ask(address, body, more="content-type: application/json\r\n"):
    reader, writer = await asyncio.open_connection(*address)
    try:
        writer.write(head(len(body), more) + body)
        await writer.drain()
        await reader.read(-1)
    finally:
        writer.close()


def told(kind, model="m"):
    """A request that the upstream answers with this kind of error."""
    return json.dumps({"model": model, "input": f"{kind} 0 0"}).encode()


async def made_up_names(address, turn):
    await ask(address, told("missing", f"any-{turn}"))
    await ask(address, told("missing"))


async def refused_contents(address, turn):
    await ask(address, told(["forbidden", "page", "payment"][turn % 3]))


async def faults(address, turn):
    await ask(address, told(["broken", "reset"][turn % 2]))


async def slow_uploads(address, _):
    """A body of 64 MiB at 2 KiB a second."""
    _, writer = await asyncio.open_connection(*address)
    try:
        writer.write(head(64 << 20) + b'{"model":"m","input":"')
        for _ in range(20):
            writer.write(b"x" * 1024)
            await asyncio.sleep(0.5)
    finally:
        writer.close()


BIG = b'{"model":"nowhere","x":{' + "".join(f'"名前{number}":"{"y" * 40}",' for number in range(300_000)).encode() + b'"z":1}}'


async def big_bodies(address, _):
    """A body of 20 MB with names that are not ASCII."""
    await ask(address, BIG)


async def references(address, turn):
    """As many references as a request may have, all of them unknown."""
    items = [{"type": "item_reference", "id": f"msg_{turn}_{number}"} for number in range(1024)]
    await ask(address, json.dumps({"model": "m", "input": items}).encode())


async def smuggled(address, turn):
    body = b'{"model":"cheap","input":"&model=dear&previous_response_id=resp_1&z="}'
    kinds = ["application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "application/json; charset=utf-7"]
    await ask(address, body, f"content-type: {kinds[turn % 3]}\r\n")
    await ask(address, told("short", "m\u200b"))
    await ask(address, told("short"), "content-type: application/json\r\ncontent-type: text/plain\r\n")


# The number of concurrent requests of each kind.
KINDS = {"made_up_names": 1, "refused_contents": 1, "faults": 1, "slow_uploads": 8, "big_bodies": 1, "references": 8, "smuggled": 1}


async def go_on(name, address, end):
    turn = 0
    while time.monotonic() < end:
        try:
            async with asyncio.timeout_at(asyncio.get_running_loop().time() + max(0.1, end - time.monotonic())):
                await globals()[name](address, turn)
        except (OSError, TimeoutError):
            pass
        done[name] += 1
        turn += 1
        await asyncio.sleep(0.02)


async def main():
    address, end = (sys.argv[1], int(sys.argv[2])), time.monotonic() + float(sys.argv[3])
    await asyncio.gather(*(go_on(name, address, end) for name, count in KINDS.items() for _ in range(count)))
    print(" ".join(f"{name}={count}" for name, count in sorted(done.items())), flush=True)


if __name__ == "__main__":
    asyncio.run(main())

#!/usr/bin/env python3
"""Count the CPU instructions that Tidegate spends on one request, with valgrind's callgrind.

Instruction counts hardly depend on how busy the machine is, so two builds can be compared on any machine:

    python3 benches/instructions.py target/release/tidegate [OTHER_BINARY ...]
    python3 benches/instructions.py target/release/tidegate --budget benches/instructions.json
    python3 benches/instructions.py target/release/tidegate --write benches/instructions.json

Each case sends the same request one after the other over one connection: first some that are not counted, then ROUNDS times COUNT
that are. Printed is the median of the rounds, in thousands of instructions for each request (all threads: worker, journal, ledger,
log), and beside the median how far the rounds lie apart. Python, valgrind, and nothing else is needed.

--budget compares with the counts in a file, and fails if one is more than 3 % higher: the medians of two runs of one build lie up to 2 %
apart. --write writes the file. If a change needs more instructions for a good reason, write the file again, and give the reason in the
commit.
"""

import argparse
import asyncio
import hashlib
import json
import os
import random
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

KEY = "sk-bench-client"
ROUNDS = 3
RISE = 1.03
# The threads that wake up by time take a tenth of these instructions, and not always as many. They are printed, but have no budget.
UNSTEADY = ["50 events, one each 20 ms"]

CONFIG = """
[server]
listen = "127.0.0.1:{port}"
admin_listen = "127.0.0.1:0"
data_dir = "{run}/data"
workers = 1

[timeouts]
drain_timeout_s = 0

[[upstreams]]
name = "bench"
base_url = "http://127.0.0.1:{upstream}/v1"
credentials = [{{ env = "BENCH_KEY" }}]

[[models]]
name = "bench-model"
targets = [{{ upstream = "bench", model = "upstream-model" }}]

[[keys]]
name = "bench"
sha256 = "{sha256}"
rpm = 1000000
tpm = 1000000000
"""


def words(count):
    return " ".join(f"word{n % 97}" for n in range(count))


def small():
    return {"model": "bench-model", "input": "Say this is a test.", "instructions": words(20)}


def conversation():
    """About 100 KB of plain conversation."""
    turns = [{"role": ("user", "assistant")[n % 2], "content": words(70)} for n in range(200)]
    return {"model": "bench-model", "input": turns}


def history():
    """About 100 KB of an agent's history: many short items with ids, arguments and sealed reasoning."""
    items = [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": words(30)}]}]
    for n in range(90):
        digest = hashlib.sha256(str(n).encode()).hexdigest()
        items += [
            {"type": "reasoning", "summary": [], "encrypted_content": digest * 6},
            {"type": "function_call", "name": "shell", "call_id": f"call_{digest[:24]}",
             "arguments": json.dumps({"command": ["bash", "-lc", f"sed -n {n},200p src/{digest[:8]}.rs"]})},
            {"type": "function_call_output", "call_id": f"call_{digest[:24]}", "output": words(40)},
        ]
    return {"model": "bench-model", "input": items, "store": False, "include": ["reasoning.encrypted_content"]}


def stream():
    return {**small(), "stream": True}


def slow_stream():
    """50 events, one each 20 ms."""
    return {**stream(), "user": "slow"}


CASES = {"small": (small, 100), "100 KB conversation": (conversation, 20), "100 KB agent history": (history, 20),
         "stream of 200 events": (stream, 20), "50 events, one each 20 ms": (slow_stream, 5)}


def answer():
    return json.dumps({
        "id": "resp_%s" % ("0123456789abcdef" * 3), "object": "response", "status": "completed", "model": "upstream-model",
        "output": [{"type": "message", "id": "msg_%s" % ("0123456789abcdef" * 3), "role": "assistant", "status": "completed",
                    "content": [{"type": "output_text", "text": words(120), "annotations": []}]}],
        "usage": {"input_tokens": 36, "output_tokens": 87, "total_tokens": 123}}).encode()


def events():
    id_ = "resp_%s" % ("0123456789abcdef" * 3)
    item = "msg_%s" % ("0123456789abcdef" * 3)
    yield "response.created", {"response": {"id": id_, "object": "response", "status": "in_progress", "output": []}}
    yield "response.output_item.added", {"output_index": 0, "item": {"id": item, "type": "message", "content": []}}
    for n in range(196):
        yield "response.output_text.delta", {"item_id": item, "output_index": 0, "content_index": 0, "delta": f" word{n}"}
    yield "response.output_item.done", {"output_index": 0, "item": {"id": item, "type": "message", "content": []}}
    yield "response.completed", {"response": {"id": id_, "object": "response", "status": "completed", "output": [],
                                              "usage": {"input_tokens": 36, "output_tokens": 196, "total_tokens": 232}}}


ANSWER = answer()
EVENTS = [f"event: {name}\ndata: {json.dumps({'type': name, 'sequence_number': n, **body})}\n\n".encode()
          for n, (name, body) in enumerate(events())]


async def upstream(reader, writer):
    """Answers each request, streams in one chunk an event."""
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(re.search(rb"content-length: (\d+)", head, re.I)[1])
            body = await reader.readexactly(length)
            if b'"stream": true' in body:
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
                slow = b'"user": "slow"' in body
                for event in EVENTS[:50] if slow else EVENTS:
                    writer.write(b"%x\r\n%s\r\n" % (len(event), event))
                    if slow:
                        await asyncio.sleep(0.02)
                writer.write(b"0\r\n\r\n")
            else:
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(ANSWER))
                writer.write(ANSWER)
            await writer.drain()
    except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
        writer.close()


async def ask(reader, writer, request):
    writer.write(request)
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    if not head.startswith(b"http/1.1 200"):
        raise SystemExit(f"not served: {head.decode()} {await reader.read(2000)}")
    if b"chunked" not in head:
        await reader.readexactly(int(re.search(rb"content-length: (\d+)", head)[1]))
        return
    while size := int(await reader.readline(), 16):
        await reader.readexactly(size + 2)
    await reader.readline()


def request_of(body, port):
    text = json.dumps(body).encode()
    return (b"POST /v1/responses HTTP/1.1\r\nhost: 127.0.0.1:%d\r\nauthorization: Bearer %s\r\nuser-agent: bench/1\r\n"
            b"content-type: application/json\r\naccept: application/json\r\ncontent-length: %d\r\n\r\n%s"
            % (port, KEY.encode(), len(text), text))


def free_port():
    """A port below those that the system gives to others, as the gateway takes seconds to listen."""
    while True:
        port = random.randrange(20000, 30000)
        with socket.socket() as listener:
            if listener.connect_ex(("127.0.0.1", port)) != 0:
                return port


async def control(pid, *arguments):
    process = await asyncio.create_subprocess_exec(
        "callgrind_control", *arguments, str(pid), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    await process.wait()


def total(run):
    """The instructions in the newest dump."""
    newest = max(run.glob("callgrind.out*"), key=lambda path: path.stat().st_mtime_ns)
    found = re.search(r"^(?:totals|summary): (\d+)", newest.read_text(), re.M)
    for path in run.glob("callgrind.out*"):
        path.unlink()
    return int(found[1])


async def measure(binary):
    server = await asyncio.start_server(upstream, "127.0.0.1", 0, limit=1 << 24)
    with tempfile.TemporaryDirectory() as folder:
        run, port = Path(folder), free_port()
        config = run / "tidegate.toml"
        config.write_text(CONFIG.format(
            port=port, run=run, upstream=server.sockets[0].getsockname()[1], sha256=hashlib.sha256(KEY.encode()).hexdigest()))
        gateway = subprocess.Popen(
            ["valgrind", "--tool=callgrind", f"--callgrind-out-file={run}/callgrind.out", "--", binary, "serve", "--config", config],
            env={**os.environ, "BENCH_KEY": "sk-bench-Kq7ZxT2mVw9RbLp4"}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            result = {}
            for name, (body, count) in CASES.items():
                reader, writer = await connect(gateway, port)
                request = request_of(body(), port)
                for _ in range(min(30, count)):
                    await ask(reader, writer, request)
                counts = []
                for _ in range(ROUNDS):
                    # The threads for journal, ledger and log finish the work of the requests before.
                    await asyncio.sleep(1)
                    await control(gateway.pid, "-z")
                    for _ in range(count):
                        await ask(reader, writer, request)
                    await asyncio.sleep(1)
                    await control(gateway.pid, "-d")
                    counts.append(total(run) / count)
                writer.close()
                result[name] = counts
            return result
        finally:
            gateway.send_signal(signal.SIGTERM)
            gateway.wait()
            server.close()


async def connect(gateway, port):
    for _ in range(600):
        if gateway.poll() is not None:
            raise SystemExit("the gateway ended: run it without valgrind to see why")
        try:
            return await asyncio.open_connection("127.0.0.1", port, limit=1 << 24)
        except ConnectionRefusedError:
            time.sleep(0.1)
    raise SystemExit("the gateway does not listen")


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("binaries", nargs="+")
    arguments.add_argument("--budget", type=Path, help="fail if the last binary needs more than the counts in this file")
    arguments.add_argument("--write", type=Path, help="write the counts of the last binary to this file")
    arguments = arguments.parse_args()
    results = [asyncio.run(measure(binary)) for binary in arguments.binaries]
    print("thousands of instructions a request: median (largest less smallest of the rounds)")
    for name in CASES:
        columns = []
        for result in results:
            counts = [count / 1000 for count in result[name]]
            columns.append(f"{statistics.median(counts):10.1f} ({max(counts) - min(counts):.1f})")
        change = statistics.median(results[-1][name]) / statistics.median(results[0][name]) - 1
        print(f"{name:24}", *columns, f"{change:+.1%}" if len(results) > 1 else "")
    medians = {name: round(statistics.median(counts) / 1000, 1) for name, counts in results[-1].items() if name not in UNSTEADY}
    if arguments.write:
        arguments.write.write_text(json.dumps(medians, indent=2) + "\n")
    if arguments.budget:
        budget = json.loads(arguments.budget.read_text())
        over = [f"{name}: {medians[name]} for a budget of {most}" for name, most in budget.items() if medians[name] > most * RISE]
        if over or budget.keys() != medians.keys():
            raise SystemExit("more instructions than the budget, or other cases:\n" + "\n".join(over))
        print(f"all {len(budget)} counts are within the budget")


if __name__ == "__main__":
    main()

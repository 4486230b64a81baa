"""The healthy client: `healthy.py HOST PORT`. It sends one small request every 20 ms.

It is a process of its own, so that its times show the gateway and not the other clients. For each line of input it prints the
figures since the last one.
"""

import json
import select
import socket
import sys
import time

import script

EVERY = 0.02
DEADLINE = 20


def ask(stream, number):
    """Sends a request on a connection, and returns what is wrong with the answer."""
    stream.write(script.request("short", number))
    stream.flush()
    status = stream.readline()
    length = 0
    while (line := stream.readline()) not in (b"\r\n", b""):
        name, _, value = line.partition(b":")
        length = int(value) if name.lower() == b"content-length" else length
    body = stream.read(length)
    if not status.startswith(b"HTTP/1.1 200 ") or body != script.short(number):
        raise ConnectionError(f"{status!r} {body[:200]!r}")


def main():
    address = sys.argv[1], int(sys.argv[2])
    stream, times, faults, number = None, [], [], 0
    due = time.monotonic()
    while True:
        readable = select.select([sys.stdin], [], [], max(0, due - time.monotonic()))[0]
        if readable:
            if not sys.stdin.readline():
                return
            ordered = sorted(times) or [0]
            share = {f"p{part}": 1000 * ordered[len(ordered) * part // 100] for part in (50, 99)}
            print(json.dumps({"requests": len(times), "faults": faults, "most": 1000 * ordered[-1], **share}), flush=True)
            times, faults = [], []
            continue
        start = time.monotonic()
        # A late request does not make the next ones earlier: a pause would be followed by a burst.
        due = max(due + EVERY, start)
        number += 1
        try:
            if stream is None:
                stream = socket.create_connection(address, DEADLINE).makefile("rwb")
            ask(stream, number)
        except (OSError, ValueError) as error:
            faults.append(f"{type(error).__name__}: {error} after {time.monotonic() - start:.3f} s")
            stream = None
        times.append(time.monotonic() - start)


main()

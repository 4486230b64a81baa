"""The scripted upstream, a process of its own: prints its port, then answers by `script` until its input ends.

GET /stats returns the number of requests so far, and the number in progress.
"""

import asyncio
import json
import os
import socket
import sys

import script

JSON = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
# Deltas as providers send them, four in a chunk.
DELTA = b'data: {"type":"response.output_text.delta","delta":"%s"}\n\n' % (b"x" * 200)
# The bytes that are sent and not read. A larger buffer would only use memory of the kernel, which the test does not measure.
SEND_BUFFER = 256 * 1024

# Errors, by the kind of the request.
ERRORS = {
    "missing": ("503 Service Unavailable", b'{"error":{"message":"No available channel for this model","type":"new_api_error","param":"","code":"model_not_found"}}'),
    "forbidden": ("403 Forbidden", b'{"code":"permission-denied","error":"Content violates usage guidelines."}'),
    "payment": ("403 Forbidden", b'{"error":{"message":"Moderation refused the request","type":"invalid_request_error","param":null,"code":null}}'),
    "page": ("403 Forbidden", b"<!DOCTYPE html><title>Attention Required! | Cloudflare</title>"),
    "broken": ("500 Internal Server Error", b'{"error":{"message":"broken","type":"server_error","param":null,"code":null}}'),
}

stats = {"requests": 0, "under_way": 0}


def chunk(data):
    return b"%x\r\n%s\r\n" % (len(data), data)


async def answer(reader, writer, body):
    kind, number, milliseconds = json.loads(body)["input"].split()
    if kind == "reset":
        raise ConnectionError("reset")
    if error := ERRORS.get(kind):
        status, text = error
        writer.write(b"HTTP/1.1 %s\r\ncontent-length: %d\r\n\r\n" % (status.encode(), len(text)) + text)
        return
    number, pause = int(number), int(milliseconds) / 1000 / script.EVENTS
    if kind == "short":
        text = script.short(number)
        writer.write(JSON % len(text) + text)
        return
    writer.write(STREAM)
    if kind == "stream":
        for event in script.events(number):
            await asyncio.sleep(pause)
            writer.write(chunk(event))
            await writer.drain()
        writer.write(b"0\r\n\r\n")
    elif kind == "flood":
        flood = chunk(DELTA * 4) * 16
        while True:
            writer.write(flood)
            await writer.drain()
    elif kind == "endless":
        # From here on, the client sends nothing more except the end of the connection.
        end = asyncio.ensure_future(reader.read(1))
        end.add_done_callback(lambda end: end.cancelled() or end.exception())
        while not end.done():
            writer.write(chunk(next(script.events(number))))
            await asyncio.wait([end], timeout=0.05)
        raise ConnectionError("closed")


async def serve(reader, writer):
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            if head.startswith(b"GET"):
                text = json.dumps(stats).encode()
                writer.write(JSON % len(text) + text)
                continue
            length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            body = await reader.readexactly(int(length.split(b":")[1]))
            stats["requests"] += 1
            stats["under_way"] += 1
            try:
                await answer(reader, writer, body)
                await writer.drain()
            finally:
                stats["under_way"] -= 1
    except (ConnectionError, asyncio.IncompleteReadError):
        pass
    finally:
        writer.close()


async def main():
    listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
    # asyncio sets this only on sockets that name TCP as their protocol: Nagle's algorithm would delay events by 40 ms.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    await asyncio.start_server(serve, sock=listener, backlog=4096)
    print(listener.getsockname()[1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    # No client waits for requests in progress any more.
    os._exit(0)


if __name__ == "__main__":
    asyncio.run(main())

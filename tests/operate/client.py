"""A client without retries: a request that fails here would fail for a user."""

import asyncio
import time
from dataclasses import dataclass

import script

DEADLINE = 60


@dataclass
class Answer:
    status: int = 0
    body: bytes = b""
    first_byte: float = 0.0
    fault: str = ""


class Client:
    """One connection, opened at its first request."""

    def __init__(self, address, kept=True):
        self.address, self.kept, self.writer = address, kept, None

    async def ask(self, kind, number, milliseconds=0):
        """Sends a request, and compares the answer with the expected one."""
        answer = Answer()
        began = time.monotonic()
        try:
            async with asyncio.timeout(DEADLINE):
                if self.writer is None:
                    self.reader, self.writer = await asyncio.open_connection(*self.address)
                await self._ask(answer, script.request(kind, number, milliseconds, "" if self.kept else "connection: close\r\n"), began)
        except (OSError, EOFError, ValueError, asyncio.LimitOverrunError) as error:  # a timeout is an OSError
            answer.fault = f"{type(error).__name__} {error}"
            self.close()
        if not answer.fault and answer.status != 200:
            answer.fault = f"status {answer.status}: {answer.body[:200]!r}"
        elif not answer.fault and answer.body != script.expected(kind, number):
            answer.fault = f"other bytes: {answer.body[:200]!r}"
        if answer.fault:
            answer.fault += f" after {time.monotonic() - began:.3f} s"
        return answer

    async def _ask(self, answer, request, began):
        self.writer.write(request)
        head = (await self.reader.readuntil(b"\r\n\r\n")).lower()
        answer.first_byte = time.monotonic() - began
        answer.status = int(head.split(b" ", 2)[1])
        if b"\r\ntransfer-encoding: chunked\r\n" in head:
            while length := int(await self.reader.readuntil(b"\r\n"), 16):
                answer.body += (await self.reader.readexactly(length + 2))[:-2]
            await self.reader.readexactly(2)
        else:
            length = head.split(b"\r\ncontent-length:")[1].split(b"\r\n")[0]
            answer.body = await self.reader.readexactly(int(length))
        if not self.kept or b"\r\nconnection: close\r\n" in head:
            self.close()

    def close(self):
        if self.writer is not None:
            self.writer.close()
            self.writer = None


async def get(address, path):
    """The body of an answer from a trusted server."""
    async with asyncio.timeout(DEADLINE):
        reader, writer = await asyncio.open_connection(*address)
        writer.write(f"GET {path} HTTP/1.1\r\nhost: operate\r\nconnection: close\r\n\r\n".encode())
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = head.lower().split(b"content-length:")[1].split(b"\r\n")[0]
            return int(head.split(b" ", 2)[1]), (await reader.readexactly(int(length))).decode()
        finally:
            writer.close()


async def soon(what, seconds, condition):
    """Waits until the condition holds. Returns the seconds that it took, or None."""
    began = time.monotonic()
    while not await condition():
        if time.monotonic() > began + seconds:
            print(f"       waited {seconds} s in vain for {what}", flush=True)
            return None
        await asyncio.sleep(0.02)
    return time.monotonic() - began

"""A relay between Codex and the gateway, which shows what Codex really sends."""

import socket
import threading
from contextlib import suppress
from dataclasses import dataclass, field


@dataclass
class Request:
    method: str
    target: str
    headers: dict
    body: bytes


@dataclass
class Connection:
    sent: bytearray = field(default_factory=bytearray)
    got: bytearray = field(default_factory=bytearray)


class Relay:
    """Passes bytes on unchanged and remembers them."""

    def __init__(self, host, port):
        self.target = (host, port)
        self.connections = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = "http://127.0.0.1:%d" % self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self):
        # A thread that waits in accept() does not notice close() alone.
        with suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()

    def requests(self):
        """Every request so far, in the order of the connections."""
        return [request for connection in self.connections for request in parse(bytes(connection.sent))]

    def _accept(self):
        with suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                server = socket.create_connection(self.target)
                connection = Connection()
                self.connections.append(connection)
                for pair in [(client, server, connection.sent), (server, client, connection.got)]:
                    threading.Thread(target=self._pass_on, args=pair, daemon=True).start()

    @staticmethod
    def _pass_on(source, sink, seen):
        with suppress(OSError):
            while data := source.recv(65536):
                seen += data
                sink.sendall(data)
        with suppress(OSError):
            sink.shutdown(socket.SHUT_WR)


def parse(data):
    """The requests of a connection. Codex sends every body with its length."""
    while data:
        head, _, data = data.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        method, target, _ = first.split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        assert "transfer-encoding" not in headers
        length = int(headers.get("content-length", 0))
        yield Request(method, target, headers, data[:length])
        data = data[length:]

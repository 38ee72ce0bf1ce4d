"""An HTTP server that does what a test tells it to, bytes and all: what engines elsewhere may do at their worst."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

Act = Callable[[socket.socket], None]


@dataclass
class Stub:
    """`acts` are done one for each POST, the last one again and again; `bodies` and `heads` are what came."""

    acts: list[Act]
    models: bytes
    listener: socket.socket = field(default_factory=lambda: socket.create_server(("127.0.0.1", 0)))
    bodies: list[dict[str, object]] = field(default_factory=list)
    heads: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.listener.getsockname()[1]}"

    def run(self) -> None:
        while True:
            try:
                line, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(line,), daemon=True).start()

    def _answer(self, line: socket.socket) -> None:
        with line, suppress(OSError):
            content = b""
            while b"\r\n\r\n" not in content:
                content += line.recv(65536) or b"\r\n\r\n"
            head, _, body = content.partition(b"\r\n\r\n")
            if head.startswith(b"GET"):
                line.sendall(answer(self.models))
                return
            if not head:
                return
            fields = dict(row.lower().split(": ", 1) for row in head.decode().split("\r\n")[1:])
            while len(body) < int(fields.get("content-length", 0)):
                body += line.recv(65536)
            self.heads.append(head.decode())
            self.bodies.append(json.loads(body))
            act = self.acts[min(len(self.bodies), len(self.acts)) - 1]
            act(line)


def answer(body: bytes, status: str = "200 OK", kind: str = "application/json", extra: str = "") -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n{extra}\r\n"
    return head.encode() + body


def says(body: bytes, status: str = "200 OK", extra: str = "") -> Act:
    return lambda line: line.sendall(answer(body, status, extra=extra))


def streams(*pieces: bytes, end: bool = True) -> Act:
    """Chunks as they are given; without `end`, the connection breaks in the middle."""

    def act(line: socket.socket) -> None:
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        line.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        for piece in pieces:
            line.sendall(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
        if end:
            line.sendall(b"0\r\n\r\n")

    return act


def hangs_up(line: socket.socket) -> None:
    line.shutdown(socket.SHUT_RDWR)


@contextmanager
def stub(*acts: Act, owner: str = "somebody", model: str = "m") -> Iterator[Stub]:
    listed = json.dumps({"object": "list", "data": [{"id": model, "object": "model", "owned_by": owner}]}).encode()
    made = Stub(list(acts), listed)
    thread = threading.Thread(target=made.run, daemon=True)
    thread.start()
    try:
        yield made
    finally:
        made.listener.shutdown(socket.SHUT_RDWR)
        made.listener.close()
        thread.join()

"""A proxy before a real memcached or Redis that does to its answers what networks and middleboxes do.

A fault is a function from the way back to the client and one answer; it sends of it what it likes.
Requests go on untouched, but for those that ``refuse`` answers in the server's place. Threads; each
connection has one, and ends with either side of it.
"""

from __future__ import annotations

import random
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

Fault = Callable[[socket.socket, bytes], None]
Ends = Callable[[bytes], list[int]]  # where the whole messages in what was received end
RECEIVE = 1 << 20
WATCH = b"watch "
HEAD = 60  # bytes of an answer that hold all but the limit's log


class Closed(Exception):
    """The fault ends the connection."""


def pass_on(client: socket.socket, answer: bytes) -> None:
    """Do no harm."""
    client.sendall(answer)


def swallow(client: socket.socket, answer: bytes) -> None:
    """Say nothing."""


def delay(seconds: float) -> Fault:
    """Answer, late."""

    def delayed(client: socket.socket, answer: bytes) -> None:
        threading.Event().wait(seconds)
        client.sendall(answer)

    return delayed


def dribble(client: socket.socket, answer: bytes) -> None:
    """Answer a byte at a time: never silent for long, and done after many timeouts of a client."""
    for index in range(len(answer)):
        client.sendall(answer[index : index + 1])
        threading.Event().wait(0.1)


def cut(client: socket.socket, answer: bytes) -> None:
    """Answer the first half, and stay."""
    client.sendall(answer[: len(answer) // 2])


def close(client: socket.socket, answer: bytes) -> None:
    """Answer the first half, and leave."""
    client.sendall(answer[: len(answer) // 2])
    raise Closed


def garble(client: socket.socket, answer: bytes) -> None:
    """Answer with one byte near the beginning altered."""
    spoilt = bytearray(answer)
    spoilt[random.randrange(min(len(answer), HEAD))] ^= 0x15
    client.sendall(spoilt)


def repeat(client: socket.socket, answer: bytes) -> None:
    """Answer twice, the second time a little later: to whatever is asked next."""
    client.sendall(answer)
    threading.Event().wait(0.01)
    client.sendall(answer)


def now_and_then(share: float, *faults: Fault) -> Fault:
    """Return a fault that does no harm, but for a share of all answers, which meet one of ``faults``."""

    def mixed(client: socket.socket, answer: bytes) -> None:
        (random.choice(faults) if random.random() < share else pass_on)(client, answer)

    return mixed


def received(connection: socket.socket, ends: Ends, count: int = 1) -> bytes:
    """Return so many whole requests or answers at least, and nothing half; b"" at the end."""
    got = connection.recv(RECEIVE)
    while got and not (len(ends(got)) >= count and ends(got)[-1] == len(got)):
        more = connection.recv(RECEIVE)
        got = got + more if more else b""
    return got


def memcached(data: bytes) -> list[int]:
    """Return the end of a request or an answer of memcached's, its value included."""
    head, _, _ = data.partition(b"\r\n")
    words = [*head.split(), b"", b"", b"", b"", b""]
    at = {b"ms": 2, b"set": 4, b"add": 4, b"cas": 4, b"VA": 1, b"VALUE": 3}.get(words[0])
    length = len(head) + 2 + (int(words[at]) + 2 if at else 0) + (5 if words[0] == b"VALUE" else 0)
    return [len(data)] if length <= len(data) else []


def redis(data: bytes) -> list[int]:
    """Return the ends of requests or answers of Redis': a client sends several of its own at once as it connects."""
    found, at = list[int](), 0
    while at := _end(data, at):
        found.append(at)
    return found


def _end(data: bytes, at: int) -> int:
    """Return the end of the one message that begins at ``at``, or 0 where it is not whole."""
    line = data.find(b"\r\n", at)
    if line < 0:
        return 0
    kind, end = data[at : at + 1], line + 2
    if kind in (b"$", b"="):
        size = int(data[at + 1 : line])
        end += size + 2 if size >= 0 else 0
    elif kind in (b"*", b"%", b"~", b">"):
        for _ in range(int(data[at + 1 : line]) * (2 if kind == b"%" else 1)):
            end = _end(data, end) if end else 0
    return end if end <= len(data) else 0


class Proxy:
    """Listens on ``port`` before the server on another. ``fault`` meets the answers to requests like ``only``."""

    def __init__(self, upstream: int, tls: ssl.SSLContext | None = None, ends: Ends = memcached) -> None:
        self.upstream, self.tls, self.ends = upstream, tls, ends
        self.fault: Fault = pass_on
        self.only = b""
        self.refuse: Callable[[bytes], bytes | None] = lambda request: None
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self.listener.getsockname()[1])
        self.open: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    def shut(self) -> None:
        """Stop listening, and end all connections."""
        with suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for client in list(self.open):
            with suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        self.open.add(client)
        with suppress(OSError, Closed), client, socket.create_connection(("127.0.0.1", self.upstream), 10) as server:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            way = self.tls.wrap_socket(client, server_side=True) if self.tls else client
            with way:
                while request := received(way, self.ends):
                    self._answer(way, server, request)
        self.open.discard(client)

    def _answer(self, client: socket.socket, server: socket.socket, request: bytes) -> None:
        refusal = self.refuse(request)
        if refusal is not None:
            client.sendall(refusal)
            return
        server.sendall(request)
        fault = self.fault if request.startswith(self.only) else pass_on
        if request.startswith(WATCH):  # memcached's log: what tells its clock is a stream of lines, not one answer
            while lines := server.recv(RECEIVE):
                fault(client, lines)
        fault(client, received(server, self.ends, len(self.ends(request))))


@contextmanager
def proxy(upstream: int, tls: ssl.SSLContext | None = None, ends: Ends = memcached) -> Iterator[Proxy]:
    """Run a proxy for a while."""
    running = Proxy(upstream, tls, ends)
    try:
        yield running
    finally:
        running.shut()

"""A web of this machine: a site that does what a path says and remembers what it was asked, and a proxy."""

from __future__ import annotations

import base64
import gzip
import json
import select
import socket
import ssl
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import BaseServer
from typing import Any, TypeVar
from urllib.parse import urlsplit

TIMEOUT = 30.0

S = TypeVar("S", bound=BaseServer)


@dataclass(frozen=True, slots=True)
class Hit:
    """A request that arrived: ``connection`` counts from 1 in the order of first use."""

    method: str
    path: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    connection: int


class Listener(ThreadingHTTPServer):
    """A server on a free port of this machine."""

    daemon_threads = True

    def __init__(self, handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(("127.0.0.1", 0), handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a client that left early, or that trusts no certificate of ours."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


@contextmanager
def running(server: S) -> Iterator[S]:
    """Serve in a thread inside the block."""
    with server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.005})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join(TIMEOUT)


class Answering(BaseHTTPRequestHandler):
    """Answers on connections that stay open, and says nothing of it."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def answer(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def tunnel(self) -> None:
        """Tie the connection to the one that a CONNECT asks for, until an end of either."""
        host, _, port = self.path.partition(":")
        with socket.create_connection((host, int(port)), TIMEOUT) as beyond:
            self.send_response(200)
            self.end_headers()
            ends = {self.connection: beyond, beyond: self.connection}
            while all(relay(end, ends[end]) for end in select.select(list(ends), [], [], TIMEOUT)[0]):
                pass
        self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the base class's name
        """Say nothing."""


def relay(source: socket.socket, target: socket.socket) -> bool:
    """Pass on what has come; False at the end."""
    data = source.recv(65536)
    if data:
        target.sendall(data)
    return bool(data)


class SiteHandler(Answering):
    """Answer with what the path asks for; ``/flaky/K/x``: the first K requests for it get a 503."""

    server: Site
    body = b""

    def do_GET(self) -> None:
        if self.headers.get("Transfer-Encoding") == "chunked":
            self.body = self._chunks()
        else:
            self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.remember(self)
        kind, _, rest = urlsplit(self.path).path.strip("/").partition("/")
        getattr(self, f"answer_{kind}", self.answer_any)(rest)

    do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = do_OPTIONS = do_GET  # noqa: N815  as http.server asks

    def answer_any(self, rest: str) -> None:
        self.answer(200, {"Content-Type": "text/plain"}, b"hello")

    def answer_echo(self, rest: str) -> None:
        told = {"method": self.command, "path": self.path, "headers": dict(self.headers), "body": self.body.hex()}
        self.answer(200, {"Content-Type": "application/json"}, json.dumps(told).encode())

    def answer_redirect(self, rest: str) -> None:
        left = int(rest)
        self.answer(302, {"Location": f"/redirect/{left - 1}"}) if left else self.answer_any("")

    def answer_moved(self, rest: str) -> None:
        self.answer(int(rest), {"Location": "/echo"})

    def answer_status(self, rest: str) -> None:
        self.answer(int(rest), {"Retry-After": "7"}, b"so it is")

    def answer_flaky(self, rest: str) -> None:
        if self._asked_before() < int(rest.partition("/")[0]):
            self.answer(503, {"Retry-After": "7"} if "retry-after" in rest else {}, b"busy")
        else:
            self.answer_any("")

    def answer_broken(self, rest: str) -> None:
        if self._asked_before() < int(rest.partition("/")[0]):
            self.close_connection = True
        else:
            self.answer_any("")

    def answer_digest(self, rest: str) -> None:
        challenge = {"WWW-Authenticate": 'Digest realm="r", nonce="n", qop="auth", algorithm=MD5'}
        self.answer_any("") if "Authorization" in self.headers else self.answer(401, challenge)

    def answer_basic(self, rest: str) -> None:
        expected = "Basic " + base64.b64encode(b"user:secret").decode()
        self.answer(200 if self.headers.get("Authorization") == expected else 401, {}, b"basic")

    def answer_cookie(self, rest: str) -> None:
        self.answer(200, {"Set-Cookie": f"{rest}; Path=/"}, b"cookie")

    def answer_gzip(self, rest: str) -> None:
        self.answer(200, {"Content-Encoding": "gzip", "Content-Type": "text/plain"}, gzip.compress(b"squeezed" * 99))

    def answer_latin(self, rest: str) -> None:
        self.answer(200, {"Content-Type": "text/plain; charset=iso-8859-1"}, "déjà vu".encode("latin-1"))

    def answer_large(self, rest: str) -> None:
        self.answer(200, {}, b"x" * 100_000)

    def answer_short(self, rest: str) -> None:
        self.answer(200, {"Content-Length": "100"}, b"less than promised")
        self.close_connection = True

    def answer_silent(self, rest: str) -> None:
        self.server.stopped.wait(TIMEOUT)
        self.close_connection = True

    def _asked_before(self) -> int:
        return sum(hit.path == self.path for hit in self.server.hits) - 1

    def _chunks(self) -> bytes:
        whole = b""
        while size := int(self.rfile.readline(), 16):
            whole += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return whole


class Site(Listener):
    """A site, over TLS if given a context; ``hits``: what arrived, in order."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(SiteHandler)
        self.hits: list[Hit] = []
        self.stopped = threading.Event()
        self._tls, self._open, self._lock = tls, dict[int, socket.socket](), threading.Lock()
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.server_port}"

    @property
    def asked(self) -> list[tuple[str, str]]:
        """The methods and paths of what arrived."""
        return [(hit.method, hit.path) for hit in self.hits]

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Shake hands in the connection's own thread."""
        if self._tls is None:
            return super().finish_request(request, client_address)
        with self._tls.wrap_socket(request, server_side=True) as wrapped:
            return super().finish_request(wrapped, client_address)

    def remember(self, asked: SiteHandler) -> None:
        """Note a request, and number its connection."""
        with self._lock:
            self._open[asked.client_address[1]] = asked.connection
            connection = list(self._open).index(asked.client_address[1]) + 1
            self.hits.append(
                Hit(asked.command, asked.path, tuple(asked.headers.items()), asked.body, connection),
            )

    def forget(self) -> None:
        """Start afresh."""
        with self._lock:
            self.hits.clear()
            self._open.clear()

    def hang_up(self) -> None:
        """End all connections from this side."""
        with self._lock:
            for held in self._open.values():
                with suppress(OSError):
                    held.shutdown(socket.SHUT_RDWR)

    def shutdown(self) -> None:
        self.stopped.set()
        super().shutdown()


class ProxyHandler(Answering):
    """Pass a request on, or tie two connections together."""

    server: Proxy

    def do_GET(self) -> None:
        self.server.passed.append(f"{self.command} {self.path}")
        parts = urlsplit(self.path)
        there = HTTPConnection(parts.hostname or "", parts.port, timeout=TIMEOUT)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        headers = {name: value for name, value in self.headers.items() if not name.startswith("Proxy-")}
        try:
            there.request(self.command, parts.path or "/", body, headers)
            answer = there.getresponse()
            content = answer.read()
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)
        finally:
            there.close()

    do_POST = do_GET  # noqa: N815  as http.server asks

    def do_CONNECT(self) -> None:
        self.server.passed.append(f"CONNECT {self.path}")
        self.tunnel()


class Proxy(Listener):
    """A proxy for HTTP, and by CONNECT for HTTPS; ``passed``: what it was asked for."""

    def __init__(self) -> None:
        super().__init__(ProxyHandler)
        self.passed: list[str] = []
        self.url = f"http://127.0.0.1:{self.server_port}"


def wait_until(condition: Any) -> None:
    """Return once ``condition()`` holds, which another thread brings about; fail after a long time."""
    end = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < end, "it never came about"
        time.sleep(0.001)

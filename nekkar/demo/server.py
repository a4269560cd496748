"""A strict HTTP server: 200 within the limit, 429 with Retry-After past it.

- A call's time is taken when its first line has been read, before anything else is done about it, on a
  clock that never steps.
- A refused call does not count. Nothing is forgotten: a demo is short.
- ``GET /ready`` is answered 204 and does not count, so that workers can connect before they begin.
- Connections are kept alive, each has a thread, and small packets are not held back.
"""

from __future__ import annotations

import sys
import threading
from bisect import insort
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from multiprocessing.connection import Connection
from socketserver import TCPServer, ThreadingMixIn
from typing import Any, cast

from nekkar.core.clock import monotonic
from nekkar.core.quota import SECOND
from nekkar.demo.window import Rates, fits, free_at

READY = "/ready"


class StrictServer(ThreadingMixIn, TCPServer):
    """A server on a free port of this machine that keeps ``rates`` exactly."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, rates: Rates) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self._rates, self._lock, self._accepted = rates, threading.Lock(), list[int]()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a client that went away; tell of everything else."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)

    def offer(self, at_us: int) -> int:
        """Accept a call that arrived at ``at_us`` and return 0, or return whole seconds to wait, at least 1."""
        with self._lock:
            if fits(self._accepted, at_us, self._rates):
                insort(self._accepted, at_us)
                return 0
            return max(1, -(-(free_at(self._accepted, self._rates) - at_us) // SECOND))


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    arrived_us = 0

    def parse_request(self) -> bool:
        """Take the time first: the base class calls this as soon as it has read a request's first line."""
        self.arrived_us = round(monotonic() * SECOND)
        return super().parse_request()

    def do_GET(self) -> None:
        if self.path == READY:
            return self._answer(HTTPStatus.NO_CONTENT, {})
        wait = cast(StrictServer, self.server).offer(self.arrived_us)
        if wait:
            return self._answer(HTTPStatus.TOO_MANY_REQUESTS, {"Retry-After": str(wait)})
        return self._answer(HTTPStatus.OK, {})

    def log_message(self, *args: object) -> None:
        """Say nothing: the demo counts."""

    def _answer(self, status: HTTPStatus, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in (headers if status == HTTPStatus.NO_CONTENT else headers | {"Content-Length": "0"}).items():
            self.send_header(name, value)
        self.end_headers()


def serve(pipe: Connection, rates: Rates) -> None:
    """Send the server's port down the pipe, then serve until the pipe's other end is closed. Blocks."""
    sys.setswitchinterval(0.0005)  # an arrival's time must not wait long for another thread
    with StrictServer(rates) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        pipe.send(server.server_address[1])
        with suppress(EOFError, OSError):
            pipe.recv()
        server.shutdown()

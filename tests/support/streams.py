"""Answers sent piece by piece, and one way to stream them with requests, httpx and httpx2, sync and async."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio
import requests

import nekkar.requests
from nekkar.core.limiter import Nekkar
from nekkar.rules import Rule, RuleTable
from tests.support.faces import FACES, Face, done, entered
from tests.support.http_server import Handler, Server
from tests.support.web import TIMEOUT

FREE = RuleTable([Rule("*", False)])
JSON = {"Content-Type": "application/json"}
EVENTS = {"Content-Type": "text/event-stream"}


@dataclass
class Reply:
    """What a server answers: in chunks; or all at once, with a length; or up to the end of the connection.

    ``is_paced``: after its first piece the server waits until the test has said ``go``. ``promised``: bytes that never
    come. ``more``: headers that are sent as well, of the same names perhaps.
    """

    pieces: list[bytes]
    status: int = 200
    headers: dict[str, str] = field(default_factory=lambda: dict(JSON))
    how: str = "chunked"
    is_paced: bool = False
    promised: int = 0
    more: list[tuple[str, str]] = field(default_factory=list)


class StreamHandler(Handler):
    """Answers every request with the next reply of its server, the last one again and again."""

    def answer_echo(self) -> None:
        assert isinstance(self.server, StreamServer)
        self.server.bodies.append(self.body)
        replies = self.server.replies
        reply = replies.pop(0) if len(replies) > 1 else replies[0]
        self.send_response(reply.status)
        for name, value in [*(reply.headers | self._framing(reply)).items(), *reply.more]:
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        for number, piece in enumerate(reply.pieces):
            if number == 1 and reply.is_paced:
                assert self.server.go.wait(TIMEOUT)
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece) if reply.how == "chunked" else piece)
        if reply.how == "chunked" and not reply.promised:
            self.wfile.write(b"0\r\n\r\n")
        self.close_connection = self.close_connection or bool(reply.promised) or reply.how == "closed"

    def _framing(self, reply: Reply) -> dict[str, str]:
        if reply.how == "chunked":
            return {"Transfer-Encoding": "chunked"}
        if reply.how == "closed":
            return {"Connection": "close"}
        return {"Content-Length": str(sum(map(len, reply.pieces)) + reply.promised)}


class StreamServer(Server):
    handler = StreamHandler

    def __init__(self) -> None:
        super().__init__()
        self.replies = [Reply([b"{}"])]
        self.bodies: list[bytes] = []
        self.go = threading.Event()


@dataclass
class Streamed:
    """A response whose body is still to be read."""

    response: Any
    status: int
    admission: Any
    pieces: Callable[[], AsyncIterator[bytes]]
    close: Callable[[], Any]

    async def read(self) -> list[bytes]:
        """Return the body in its pieces, encoded as it came."""
        return [piece async for piece in self.pieces()]


class Kind:
    """A library, sync or under an event loop; a test's body runs on each."""

    def __init__(self, face: Face | None) -> None:
        self.face = face

    def __str__(self) -> str:
        return str(self.face or "requests")

    def run(self, body: Callable[[], Any]) -> None:
        self.face.run(body) if self.face else anyio.run(body)

    @asynccontextmanager
    async def client(self, limiter: Nekkar, rules: RuleTable, **options: Any) -> AsyncIterator[Any]:
        """Enter a limited client."""
        if self.face is None:
            with requests.Session() as session:
                session.trust_env = False
                yield nekkar.requests.limit(session, limiter, rules, **options)
        else:
            plain = self.face.client(trust_env=False, verify=False)  # to load certificates takes long
            async with entered(self.face.limit(plain, limiter, rules, **options)) as client:
                yield client

    async def send(self, client: Any, url: str, body: Any = b"{}", method: str = "POST") -> Streamed:
        """Send a request, and return its response before its body is read."""
        if self.face is None:
            response = client.request(method, url, data=body, stream=True, timeout=TIMEOUT)
            return Streamed(response, response.status_code, response.nekkar, _pieces_of(response), response.close)
        request = client.build_request(method, url, content=body, timeout=TIMEOUT)
        response = await done(client.send(request, stream=True))
        admission = response.extensions["nekkar"]
        pieces = response.aiter_raw if self.face.is_async else _async(response.iter_raw)
        close = response.aclose if self.face.is_async else response.close
        return Streamed(response, response.status_code, admission, pieces, close)

    @asynccontextmanager
    async def sent(self, limiter: Nekkar, rules: RuleTable, url: str, **options: Any) -> AsyncIterator[Streamed]:
        """Send one request with a client of its own, and close its response."""
        how = {key: options.pop(key) for key in ("body", "method") if key in options}
        async with self.client(limiter, rules, **options) as client:
            streamed = await self.send(client, url, **how)
            try:
                yield streamed
            finally:
                await done(streamed.close())


KINDS = [Kind(None), *map(Kind, FACES)]
FEW_KINDS = [KINDS[0], KINDS[1], KINDS[5]]  # requests, httpx sync, httpx2 under asyncio: for tests of many cases


def _pieces_of(response: requests.Response) -> Callable[[], AsyncIterator[bytes]]:
    return _async(lambda: response.raw.stream(2**17, decode_content=False))


def _async(pieces: Callable[[], Iterator[bytes]]) -> Callable[[], AsyncIterator[bytes]]:
    async def passed() -> AsyncIterator[bytes]:
        for piece in pieces():
            yield piece

    return passed

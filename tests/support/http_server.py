"""A local HTTP server for the tests of HTTP clients: it answers as its paths say, and remembers what it was asked.

/echo tells what came; /status/N, /redirect/N, /cookies, /gzip, /latin, /stream, /basic, /digest, /slow, /drop and
/garbled are what their names say. It is a proxy too: a whole URL is answered with ``Via``, CONNECT makes a tunnel.
"""

from __future__ import annotations

import gzip
import json
import ssl
import time
from typing import Any
from urllib.parse import urlsplit

from tests.support.web import Answering, Listener

DIGEST = 'Digest realm="r", nonce="n", qop="auth", algorithm=MD5'


class Handler(Answering):
    """Answers one connection; a request with any method goes to the method named for its path."""

    server: Server

    def handle_request(self) -> None:
        self.body = self.read_body()
        url = urlsplit(self.path)
        self.extra = {"Via": "1.1 proxy"} if url.scheme else {}
        self.server.seen.append((self.command, url.path))
        self.server.connections.add(self.client_address)
        kind, _, self.rest = url.path.strip("/").partition("/")
        getattr(self, f"answer_{kind}", self.answer_echo)()

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = do_QUERY = handle_request  # noqa: N815

    def do_CONNECT(self) -> None:  # noqa: N802  as http.server asks
        self.server.tunnels += 1
        self.tunnel()

    def read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        pieces = []
        while size := int(self.line(), 16):
            pieces.append(self.rfile.read(size))
            self.line()
        self.line()
        return b"|".join(pieces)

    def line(self) -> bytes:
        if line := self.rfile.readline():
            return line
        raise ConnectionError("the client left in the middle of its body")

    def answer(self, status: int = 200, headers: dict[str, str] | None = None, body: bytes = b"") -> None:
        super().answer(status, self.extra | (headers or {}), body)

    def answer_echo(self) -> None:
        told = {"method": self.command, "path": self.path, "headers": dict(self.headers), "body": self.body.decode()}
        self.answer(headers={"Content-Type": "application/json"}, body=json.dumps(told).encode())

    def answer_status(self) -> None:
        self.answer(int(self.rest), {"Retry-After": "7"}, b"so it is")

    def answer_redirect(self) -> None:
        hops = int(self.rest)
        self.answer(307, {"Location": f"/redirect/{hops - 1}" if hops > 1 else "/echo"})

    def answer_cookies(self) -> None:
        self.answer(302, {"Location": "/echo", "Set-Cookie": "flavour=oat; Path=/"})

    def answer_gzip(self) -> None:
        self.answer(headers={"Content-Encoding": "gzip"}, body=gzip.compress(b"small" * 1000, mtime=0))

    def answer_garbled(self) -> None:
        self.answer(headers={"Content-Encoding": "gzip"}, body=b"no gzip at all")

    def answer_latin(self) -> None:
        self.answer(headers={"Content-Type": "text/plain; charset=iso-8859-1"}, body="übel".encode("latin-1"))

    def answer_stream(self) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for piece in (b"one", b"two", b"three"):
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        self.wfile.write(b"0\r\n\r\n")

    def answer_basic(self) -> None:
        known = self.headers.get("Authorization") == "Basic dTpw"  # u:p
        self.answer(200 if known else 401, {"WWW-Authenticate": "Basic"})

    def answer_digest(self) -> None:
        known = self.headers.get("Authorization", "").startswith('Digest username="u"')
        self.answer(200 if known else 401, {"WWW-Authenticate": DIGEST})

    def answer_slow(self) -> None:
        time.sleep(0.2)
        self.close_connection = True

    def answer_drop(self) -> None:
        self.close_connection = True


class Server(Listener):
    """A server on a free port of this machine that remembers what it was asked, and on which connections."""

    handler: type[Handler] = Handler

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(self.handler)
        self.seen: list[tuple[str, str]] = []
        self.connections: set[Any] = set()
        self.tunnels = 0
        self.scheme = "https" if tls else "http"
        if tls:
            self.socket = tls.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.server_port}"

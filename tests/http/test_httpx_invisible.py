"""A limited client behaves as one without limits: each call of a table, with and without, has one outcome.

The calls go to real local servers, through httpx and httpx2, sync and async. Beyond the outcome, what reached
the servers is the same, and is what was admitted.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import trustme

from nekkar.core.limiter import Nekkar
from nekkar.rules import Rule, RuleTable
from nekkar.testing import FakeClock
from tests.support.faces import FACES, Face, done, entered, pieces
from tests.support.h2_server import H2Server
from tests.support.http_server import Server
from tests.support.web import running

EVERYTHING = RuleTable([Rule("*", "all")], {"all": "1000/hour"})
METERED = RuleTable([Rule("*", "all")], {"all": {"rate": "1000/hour; 1000000 tokens/hour", "meter": "openai"}})


@dataclass
class World:
    """The servers of one call, and a way to make its client."""

    face: Face
    plain: Server
    secure: Server
    h2: H2Server
    authority: trustme.CA
    limiter: Nekkar | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def client(self, **arguments: Any) -> Any:
        """Return a client, for a ``with`` that any face may use; limited if this world is."""
        client = self.face.client(**{"trust_env": False} | arguments)
        return entered(
            self.face.limit(client, self.limiter, **{"rules": EVERYTHING} | self.options) if self.limiter else client
        )

    @property
    def trust(self) -> ssl.SSLContext:
        context = ssl.create_default_context()
        self.authority.configure_trust(context)
        return context

    @property
    def seen(self) -> list[tuple[str, str]]:
        return [*self.plain.seen, *self.secure.seen, *self.h2.seen]


def told(response: Any) -> Any:
    """Return all of a response that does not change from time to time."""
    headers = [(name, value) for name, value in response.headers.multi_items() if name not in ("date", "server")]
    hops = [(hop.status_code, hop.url.path) for hop in response.history]
    body = re.sub(r"127\.0\.0\.1:\d+", "host", response.text)
    headers = [(name, re.sub(r"^\d+$", "number", value)) for name, value in headers]
    extensions = sorted(set(response.extensions) - {"nekkar"})
    return response.status_code, response.http_version, headers, body, response.encoding, hops, extensions


async def one(world: World, method: str, path: str, client: dict[str, Any] | None = None, **arguments: Any) -> Any:
    """Return what one request on the plain server comes to."""
    async with world.client(**client or {}) as made:
        return told(await done(made.request(method, world.plain.url + path, **arguments)))


async def verbs(world: World) -> Any:
    names = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "QUERY")
    return [await one(world, name, "/echo?a=1&b=%20c") for name in names]


async def bodies(world: World) -> Any:
    kinds: list[dict[str, Any]] = [
        {"json": {"a": [1, None]}},
        {"data": {"a": "ä b"}},
        {"content": "text"},
        {"files": {"f": ("n.txt", b"in it")}, "headers": {"Content-Type": "multipart/form-data; boundary=b"}},
    ]
    return [await one(world, "POST", "/echo", **kind) for kind in kinds]


async def streamed_body(world: World) -> Any:
    return await one(world, "POST", "/echo", content=world.face.body([b"one", b"two"]))


async def streamed_response(world: World) -> Any:
    async with world.client() as client:
        response = await done(client.send(client.build_request("GET", f"{world.plain.url}/stream"), stream=True))
        closed = response.is_closed
        return closed, b"".join(await pieces(response)), response.is_closed


async def a_stream_left_early(world: World) -> Any:
    async with world.client() as client:
        for _ in range(2):
            response = await done(client.send(client.build_request("GET", f"{world.plain.url}/gzip"), stream=True))
            await done(response.aclose() if world.face.is_async else response.close())
    return response.is_closed, len(world.plain.connections)


async def statuses(world: World) -> Any:
    return [await one(world, "GET", f"/status/{status}") for status in (204, 404, 429, 503)]


async def raised_statuses(world: World) -> Any:
    async with world.client() as client:
        (await done(client.get(f"{world.plain.url}/status/500"))).raise_for_status()


async def redirects(world: World) -> Any:
    sent = await one(world, "POST", "/redirect/3", content=b"again", follow_redirects=True)
    return sent, await one(world, "GET", "/redirect/1")


async def too_many_redirects(world: World) -> Any:
    return await one(world, "GET", "/redirect/9", {"follow_redirects": True, "max_redirects": 3})


async def a_redirect_of_a_stream(world: World) -> Any:
    return await one(world, "POST", "/redirect/1", content=world.face.body([b"once"]), follow_redirects=True)


async def cookies(world: World) -> Any:
    async with world.client(cookies={"own": "1"}, follow_redirects=True) as client:
        found = [told(await done(client.get(world.plain.url + path))) for path in ("/cookies", "/echo")]
        return found, sorted(client.cookies.items())


async def defaults(world: World) -> Any:
    arguments = {"base_url": f"{world.plain.url}/echo/", "params": {"p": "1"}, "headers": {"X-Own": "yes"}}
    async with world.client(**arguments) as client:
        return told(await done(client.get("below", params={"q": "2"})))


async def encodings(world: World) -> Any:
    return [await one(world, "GET", path) for path in ("/gzip", "/latin")]


async def garbled(world: World) -> Any:
    return await one(world, "GET", "/garbled")


async def basic(world: World) -> Any:
    return await one(world, "GET", "/basic", auth=("u", "p")), await one(world, "GET", "/basic", auth=("u", "wrong"))


async def digest(world: World) -> Any:
    async with world.client(auth=world.face.library.DigestAuth("u", "p")) as client:
        return [told(await done(client.get(f"{world.plain.url}/digest"))) for _ in range(2)]


async def reuse(world: World) -> Any:
    async with world.client() as client:
        for _ in range(5):
            await done(client.get(f"{world.plain.url}/echo"))
    return len(world.plain.connections)


async def hooks(world: World) -> Any:
    heard: list[Any] = []
    request = world.face.function(lambda request: heard.append((request.method, request.url.path)))
    response = world.face.function(lambda response: heard.append(response.status_code))
    async with world.client(event_hooks={"request": [request], "response": [response]}) as client:
        await done(client.get(f"{world.plain.url}/redirect/1", follow_redirects=True))
    return heard


async def trace(world: World) -> Any:
    heard: list[Any] = []
    hook = world.face.function(lambda name, info: heard.append(name))
    await one(world, "GET", "/echo", extensions={"trace": hook})
    return heard


async def a_read_timeout(world: World) -> Any:
    return await one(world, "GET", "/slow", timeout=0.05)


async def a_lost_connection(world: World) -> Any:
    return await one(world, "GET", "/drop")


async def no_server(world: World) -> Any:
    async with world.client() as client:
        return told(await done(client.get("http://127.0.0.1:1/")))


async def no_protocol(world: World) -> Any:
    async with world.client() as client:
        return told(await done(client.get("gopher://127.0.0.1/")))


async def a_closed_client(world: World) -> Any:
    async with world.client() as client:
        pass
    return told(await done(client.get(world.plain.url)))


async def proxied(world: World) -> Any:
    async with world.client(proxy=world.plain.url) as client:
        return told(await done(client.get("http://nowhere.example/echo")))


async def proxied_by_the_environment(world: World) -> Any:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("HTTP_PROXY", world.plain.url)
        environment.setenv("NO_PROXY", "127.0.0.1")
        async with world.client(trust_env=True) as client:
            urls = ("http://nowhere.example/echo", f"{world.plain.url}/echo")
            return [told(await done(client.get(url))) for url in urls]


async def tunnelled(world: World) -> Any:
    async with world.client(proxy=world.plain.url, verify=world.trust) as client:
        return told(await done(client.get(f"{world.secure.url}/echo"))), world.plain.tunnels


async def secure(world: World) -> Any:
    async with world.client(verify=world.trust) as client:
        return told(await done(client.get(f"{world.secure.url}/echo")))


async def unverified(world: World) -> Any:
    async with world.client(verify=False) as client:
        return told(await done(client.get(f"{world.secure.url}/echo")))


async def untrusted(world: World) -> Any:
    async with world.client() as client:
        return told(await done(client.get(f"{world.secure.url}/echo")))


async def http2(world: World) -> Any:
    async with world.client(http1=False, http2=True) as client:
        return [told(await done(client.post(f"{world.h2.url}/{number}", content=b"x" * 100))) for number in range(2)]


async def mounts(world: World) -> Any:
    library = world.face.library
    handler = world.face.function(lambda request: library.Response(200, json={"mounted": True}))
    async with world.client(mounts={"all://mounted.example": library.MockTransport(handler)}) as client:
        return told(await done(client.get("http://mounted.example/")))


CALLS: list[tuple[Callable[[World], Awaitable[Any]], int, int, str]] = [
    # each call; how many requests were admitted; how many reached a server; the error that it comes to
    (verbs, 8, 8, ""),
    (bodies, 4, 4, ""),
    (streamed_body, 1, 1, ""),
    (streamed_response, 1, 1, ""),
    (a_stream_left_early, 2, 2, ""),
    (statuses, 4, 4, ""),
    (raised_statuses, 1, 1, "HTTPStatusError"),
    (redirects, 5, 5, ""),
    (too_many_redirects, 4, 4, "TooManyRedirects"),
    (a_redirect_of_a_stream, 2, 1, "StreamConsumed"),
    (cookies, 3, 3, ""),
    (defaults, 1, 1, ""),
    (encodings, 2, 2, ""),
    (garbled, 1, 1, "DecodingError"),
    (basic, 2, 2, ""),
    (digest, 3, 3, ""),
    (reuse, 5, 5, ""),
    (hooks, 2, 2, ""),
    (trace, 1, 1, ""),
    (a_read_timeout, 1, 1, "ReadTimeout"),
    (a_lost_connection, 1, 1, "RemoteProtocolError"),
    (no_server, 1, 0, "ConnectError"),
    (no_protocol, 1, 0, "UnsupportedProtocol"),
    (a_closed_client, 0, 0, "RuntimeError"),
    (proxied, 1, 1, ""),
    (proxied_by_the_environment, 2, 2, ""),
    (tunnelled, 1, 1, ""),
    (secure, 1, 1, ""),
    (unverified, 1, 1, ""),
    (untrusted, 1, 0, "ConnectError"),
    (http2, 2, 2, ""),
    (mounts, 1, 0, ""),
]


async def outcome(call: Callable[[World], Awaitable[Any]], world: World) -> Any:
    """Return what a call comes to: its result, or the type, the words and the request of its error."""
    try:
        return await call(world)
    except Exception as error:
        request = getattr(error, "_request", None)
        return type(error).__name__, re.sub(r":\d+", "", str(error)), request and (request.method, request.url.path)


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def worlds(face: Face, authority: trustme.CA) -> Callable[..., tuple[Any, World]]:
    """Run a call in a world of its own servers, so that both begin alike."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)

    def run(call: Callable[[World], Awaitable[Any]], limiter: Nekkar | None, **options: Any) -> tuple[Any, World]:
        with running(Server()) as plain, running(Server(context)) as secured, H2Server() as h2:
            world = World(face, plain, secured, h2, authority, limiter, options)
            return face.run(outcome, call, world), world

    return run


# Where httpx gives up on a garbled body, with limits and without, trio warns of generators of httpcore's.
@pytest.mark.filterwarnings("ignore:Exception ignored in. <async_generator object:Warning")
@pytest.mark.parametrize("face", FACES, ids=str)
@pytest.mark.parametrize(("call", "admitted", "reached", "error"), CALLS, ids=[row[0].__name__ for row in CALLS])
def test_a_limited_call_is_as_without(
    call: Any, admitted: int, reached: int, error: str, face: Face, worlds: Any
) -> None:
    """Same result, or same error in the same words, and the same requests on the wire; each was admitted."""
    limiter = Nekkar(clock=FakeClock())
    plainly, plain = worlds(call, None)
    outcome, limited = worlds(call, limiter)
    assert outcome == plainly
    assert limited.seen == plain.seen
    assert len(limited.seen) == reached
    assert limiter("all", "1000/hour").status().windows[0].used == admitted
    assert not error or outcome[0] == error


# A stream that is left early needs no other connection where it was read ahead.
READ = [row[0] for row in CALLS if row[0].__name__ != "a_stream_left_early"]


@pytest.mark.filterwarnings("ignore:Exception ignored in. <async_generator object:Warning")
@pytest.mark.parametrize("face", [FACES[0], FACES[5]], ids=str)
@pytest.mark.parametrize("call", READ, ids=lambda call: call.__name__)
def test_a_call_whose_bodies_are_read_is_as_without(call: Any, face: Face, worlds: Any) -> None:
    """For a meter, and for ``refused=``."""
    plainly, plain = worlds(call, None)
    outcome, limited = worlds(call, Nekkar(clock=FakeClock()), rules=METERED, refused=lambda response: None)
    assert outcome == plainly
    assert limited.seen == plain.seen

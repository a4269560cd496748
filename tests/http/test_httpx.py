"""httpx and httpx2, sync and async: each request waits for its slot; errors are what their users catch."""

from __future__ import annotations

import pickle
import socket
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import httpx
import httpx2
import pytest

import nekkar.httpx
import nekkar.httpx2
from nekkar.core.cache import MemoryCache
from nekkar.core.errors import CacheError, ConfigurationError, CorruptLog, NekkarError, WaitTooLong
from nekkar.core.limiter import Admission, Nekkar
from nekkar.rules import Rule, RuleTable
from nekkar.testing import START_US, FakeClock
from tests.support.calls import calls
from tests.support.faces import FACES, Face, done, entered, pieces
from tests.support.http_server import Server
from tests.support.web import TIMEOUT, running

START = START_US / 1e6
EVERYTHING = RuleTable([Rule("*", "all")], {"all": {"rate": 2, "period": 10.0, "margin": 0.05}})
URL = "http://example.com/a"

each_face = pytest.mark.parametrize("face", FACES, ids=str)


@pytest.fixture
def server() -> Iterator[Server]:
    with running(Server()) as served:
        yield served


def stub(face: Face, error: Exception | None = None) -> Any:
    """Return a transport that sends nothing, and remembers what it was told to do in ``told``."""
    base: Any = face.base

    class Stub(base):  # type: ignore[misc]
        def __init__(self) -> None:
            self.told: list[Any] = []

        def handle_request(self, request: Any) -> Any:
            self.told.append(request)
            if error:
                raise error
            return face.library.Response(200, text="hello", extensions={"stub": 1})

        async def handle_async_request(self, request: Any) -> Any:
            return self.handle_request(request)

        def __enter__(self) -> Any:
            self.told.append("enter")
            return self

        def __exit__(self, *args: Any) -> None:
            self.told.append("exit")

        async def __aenter__(self) -> Any:
            return self.__enter__()

        async def __aexit__(self, *args: Any) -> None:
            self.__exit__()

        def close(self) -> None:
            self.told.append("close")

        async def aclose(self) -> None:
            self.close()

    return Stub()


def over(face: Face, transport: Any, limiter: Nekkar, rules: RuleTable = EVERYTHING, **options: Any) -> Any:
    """Return a client that sends through a limited transport."""
    return face.client(transport=face.transport(limiter, rules, transport, **options))


# What is limited.


@each_face
def test_requests_wait_for_their_slot(face: Face, server: Server, clock: FakeClock) -> None:
    """Each request on a limited URL takes a slot; the response carries its admission."""

    async def body() -> None:
        async with entered(over(face, None, Nekkar(clock=clock), trust_env=False)) as client:
            found = [await done(client.get(f"{server.url}/echo/{number}")) for number in range(3)]
        assert [response.extensions["nekkar"] for response in found] == [
            Admission("all", 1, START, 0.0),
            Admission("all", 1, START, 0.0),
            Admission("all", 1, START + 10.05, 10.05),
        ]
        assert server.seen == [("GET", "/echo/0"), ("GET", "/echo/1"), ("GET", "/echo/2")]

    face.run(body)


@each_face
def test_a_url_without_a_rule_is_not_limited(face: Face, clock: FakeClock) -> None:
    """No match, or a rule of False, means no wait, and an admission of None; methods and captures count."""
    rules = RuleTable(
        [
            Rule("*/free", False),
            Rule("a.com/limited", "one", methods=["GET"]),
            Rule("*/users/{user}/*", "user-{user}"),
        ],
        {"one": 1, "user-{user}": 1},
    )

    async def body() -> None:
        client = over(face, stub(face), Nekkar(clock=clock), rules, max_wait=0)
        for method, url in [("GET", "http://b.com/free"), ("GET", "http://a.com/"), ("POST", "http://a.com/limited")]:
            found = [await done(client.request(method, url)) for _ in range(3)]
            assert [response.extensions["nekkar"] for response in found] == [None] * 3
        for url in ("http://a.com/limited", "http://c.com/users/ann/x", "http://c.com/users/bob/x"):
            await done(client.get(url))
            with pytest.raises(WaitTooLong):
                await done(client.get(url))
        assert clock.now == START

    face.run(body)


@each_face
def test_redirects_and_authentication_take_a_slot_each(face: Face, server: Server, clock: FakeClock) -> None:
    """What reached the service and what was admitted is the same number, whatever a call was made of."""
    limiter = Nekkar(clock=clock)
    rules = RuleTable([Rule("*", "all")], {"all": "100/hour"})
    used = limiter("all", "100/hour").status

    async def body() -> None:
        client = over(face, None, limiter, rules, trust_env=False)
        async with entered(client):
            response = await done(client.get(f"{server.url}/redirect/3", follow_redirects=True))
            assert [hop.extensions["nekkar"].name for hop in [*response.history, response]] == ["all"] * 4
            assert used().windows[0].used == len(server.seen) == 4
            for expected in (6, 7):  # the second time it knows the challenge
                response = await done(client.get(f"{server.url}/digest", auth=digest))
                assert response.status_code == 200
                assert used().windows[0].used == len(server.seen) == expected
            await done(client.get(f"{server.url}/redirect/2", extensions={"nekkar": {"cost": 5}}))
            assert used().windows[0].used == 12

    digest = face.library.DigestAuth("u", "p")
    face.run(body)


@each_face
def test_a_refused_hop_is_not_sent(face: Face, server: Server, clock: FakeClock) -> None:
    """Where a redirect's slot lies too far off, the redirect is not followed; the error carries its request."""

    async def body() -> None:
        async with entered(over(face, None, Nekkar(clock=clock), max_wait=5, trust_env=False)) as client:
            with pytest.raises(face.library.TimeoutException) as refusal:
                await done(client.get(f"{server.url}/redirect/5", follow_redirects=True))
            assert str(refusal.value.request.url) == f"{server.url}/redirect/3"

    face.run(body)
    assert len(server.seen) == 2


@each_face
def test_retries_of_a_failed_connect_are_one_attempt(face: Face, clock: FakeClock, free_port: int) -> None:
    """``retries=`` of the library's transport repeats connects alone: nothing reached a service, one slot is taken."""
    limiter = Nekkar(clock=clock)

    async def body() -> None:
        async with entered(over(face, None, limiter, retries=1, trust_env=False)) as client:
            with pytest.raises(face.library.ConnectError) as raised:
                await done(client.get(f"http://127.0.0.1:{free_port}/"))
            assert not isinstance(raised.value, NekkarError)

    face.run(body)
    assert limiter("all", 2, period=10.0, margin=0.05).status().windows[0].used == 1


@pytest.fixture
def free_port() -> Iterator[int]:
    """A port on which connections are refused."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # bound but not listening
        yield held.getsockname()[1]


@each_face
def test_both_faces_share_a_limiters_limits(face: Face, clock: FakeClock) -> None:
    """A limiter's limits hold over all transports that were given it, and over its other faces."""
    limiter = Nekkar(clock=clock)

    async def body() -> None:
        for _ in range(2):
            await done(over(face, stub(face), limiter).get(URL))
        with pytest.raises(WaitTooLong):
            limiter("all", 2, period=10.0, margin=0.05).acquire(max_wait=0)

    face.run(body)


@pytest.mark.parametrize("face", [face for face in FACES if not face.is_async], ids=str)
def test_threads_share_one_client(face: Face, server: Server) -> None:
    """Twenty threads on one client: as many are let through as the limit holds, the rest are refused."""
    rules = RuleTable([Rule("*", "all")], {"all": {"rate": "7/hour", "max_wait": 0}})
    together, outcomes = threading.Barrier(20), list[str]()

    def call(client: Any) -> None:
        together.wait(TIMEOUT)
        try:
            outcomes.append(str(client.get(f"{server.url}/").status_code))
        except face.library.TimeoutException as error:
            outcomes.append(type(error).__name__)

    with face.limit(face.client(trust_env=False), Nekkar(clock=FakeClock(jump=False)), rules) as client:
        threads = [threading.Thread(target=call, args=(client,)) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(TIMEOUT)
    assert sorted(outcomes) == ["200"] * 7 + ["RequestWaitTooLong"] * 13
    assert len(server.seen) == 7


# The options of a call.


@each_face
def test_a_call_asks_for_its_cost_and_bounds_its_wait(face: Face, clock: FakeClock) -> None:
    """``extensions={"nekkar": …}``: the call's max_wait comes before the transport's, that before the limit's."""
    rules = RuleTable([Rule("*", "all")], {"all": {"rate": 4, "period": 10.0, "margin": 0.05, "max_wait": 0}})

    async def body() -> None:
        client = over(face, stub(face), Nekkar(clock=clock), rules, max_wait=60)
        hasty = over(face, stub(face), Nekkar(clock=clock), rules)
        response = await done(client.get(URL, extensions={"nekkar": {"cost": 3}, "trace": None}))
        assert response.extensions == {"stub": 1, "nekkar": Admission("all", 3, START, 0.0)}
        with pytest.raises(WaitTooLong):
            await done(client.get(URL, extensions={"nekkar": {"cost": 2, "max_wait": 5}}))
        assert (await done(client.get(URL, extensions={"nekkar": {"cost": 2}}))).extensions["nekkar"].waited == 10.05
        await done(hasty.get(URL, extensions={"nekkar": {"cost": 4}}))
        with pytest.raises(WaitTooLong):
            await done(hasty.get(URL))
        assert (await done(hasty.get(URL, extensions={"nekkar": {"max_wait": 30}}))).extensions["nekkar"].waited > 0

    face.run(body)


@each_face
@pytest.mark.parametrize(
    "options", [{"costs": 3}, {"cost": 0}, {"cost": 1.5}, {"cost": 99}, {"max_wait": "5"}, {"max_wait": -1}, 3, []]
)
def test_a_bad_option_sends_nothing(face: Face, options: Any, clock: FakeClock) -> None:
    """An option that is unknown, or can't be, is a ConfigurationError at the call."""

    async def body() -> None:
        transport = stub(face)
        with pytest.raises(ConfigurationError):
            await done(over(face, transport, Nekkar(clock=clock)).get(URL, extensions={"nekkar": options}))
        assert transport.told == []

    face.run(body)


# What passes through untouched. See tests/http/test_httpx_invisible.py too.


@each_face
def test_the_wrapped_transport_gets_the_request_itself(face: Face, clock: FakeClock) -> None:
    """The same object, its extensions as they were given: no copy, no change."""

    async def body() -> None:
        transport = stub(face)
        client = over(face, transport, Nekkar(clock=clock))
        request = client.build_request("POST", URL, content=b"x", extensions={"nekkar": {"cost": 2}, "own": 1})
        given = dict(request.extensions)
        await done(client.send(request))
        assert transport.told[0] is request
        assert request.extensions == given

    face.run(body)


@each_face
def test_entering_and_closing_reach_the_wrapped_transport(face: Face, clock: FakeClock) -> None:
    """A client's ``with`` enters and leaves it, its ``close`` closes it."""

    async def body() -> None:
        transport = stub(face)
        async with entered(over(face, transport, Nekkar(clock=clock))):
            pass
        client = over(face, transport, Nekkar(clock=clock))
        await done(client.aclose() if face.is_async else client.close())
        assert transport.told == ["enter", "exit", "close"]

    face.run(body)


@each_face
def test_responses_are_not_read_ahead(face: Face, clock: FakeClock) -> None:
    """A streamed body is made as it is read, piece by piece, and closed by whoever reads it."""
    made: list[int] = []

    def stream() -> Iterator[bytes]:
        for number in range(3):
            made.append(number)
            yield b"%d" % number

    sync_stream: Any = face.library.SyncByteStream
    async_stream: Any = face.library.AsyncByteStream

    class Stream(sync_stream, async_stream):  # type: ignore[misc]
        def __iter__(self) -> Iterator[bytes]:
            return stream()

        async def __aiter__(self) -> Any:
            for piece in stream():
                yield piece

    async def body() -> None:
        handler = face.function(lambda request: face.library.Response(200, stream=Stream()))
        client = over(face, face.library.MockTransport(handler), Nekkar(clock=clock))
        response = await done(client.send(client.build_request("GET", URL), stream=True))
        assert made == []
        assert await pieces(response) == [b"0", b"1", b"2"]

    face.run(body)


@pytest.mark.parametrize("library", [httpx, httpx2], ids=lambda library: str(library.__name__))
def test_apps_are_limited_too(library: Any, clock: FakeClock) -> None:
    """A WSGI or an ASGI app takes the place of a server."""

    def wsgi(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"wsgi"]

    async def asgi(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"asgi"})

    async def body(face: Face, transport: Any, text: str) -> None:
        client = over(face, transport, Nekkar(clock=clock))
        found = [await done(client.get(URL)) for _ in range(3)]
        assert [(response.text, response.extensions["nekkar"].waited) for response in found] == [
            (text, 0.0),
            (text, 0.0),
            (text, 10.05),
        ]

    for face in (face for face in FACES if face.library is library):
        if face.is_async:
            face.run(body, face, library.ASGITransport(app=asgi), "asgi")
        else:
            face.run(body, face, library.WSGITransport(app=wsgi), "wsgi")


@each_face
def test_the_wait_is_outside_the_http_timeout(face: Face, server: Server) -> None:
    """A request may wait for its slot far longer than for its answer."""
    rules = RuleTable([Rule("*", "all")], {"all": {"rate": 1, "period": 0.6, "margin": 0.05}})

    async def body() -> None:
        async with entered(over(face, None, Nekkar(), rules, trust_env=False)) as client:
            await done(client.get(server.url))
            response = await done(client.get(server.url, timeout=0.4))
            assert response.extensions["nekkar"].waited > 0.5

    face.run(body)


# Errors.


@each_face
def test_a_refusal_is_a_timeout_of_the_library(face: Face, clock: FakeClock) -> None:
    """``except TimeoutException`` catches it, and so do WaitTooLong and TimeoutError; nothing was sent."""

    async def body() -> None:
        transport = stub(face)
        client = over(face, transport, Nekkar(clock=clock), max_wait=3)
        for _ in range(2):
            await done(client.get(URL))
        with pytest.raises(face.library.TimeoutException) as raised:
            await done(client.get(f"{URL}/3"))
        error = raised.value
        for kind in (face.module.RequestWaitTooLong, WaitTooLong, TimeoutError, face.library.TransportError):
            assert isinstance(error, kind)
        assert isinstance(error, face.library.HTTPError)
        assert (error.name, error.retry_after, error.max_wait) == ("all", 10.05, 3)
        assert str(error.request.url) == f"{URL}/3"
        assert "retry after 10.050 s" in str(error)
        assert type(error.__cause__) is WaitTooLong
        assert len(transport.told) == 2

    face.run(body)


class BrokenCache(MemoryCache):
    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def gets(self, key: str) -> tuple[Any, int | None]:
        raise self.error


@each_face
@pytest.mark.parametrize("kind", [CacheError, CorruptLog])
def test_a_cache_that_fails_is_a_transport_error_of_the_library(face: Face, kind: type[CacheError]) -> None:
    """``except TransportError`` catches it, and so does nekkar's own; it is no timeout, and nothing was sent."""

    async def body() -> None:
        transport = stub(face)
        cache = BrokenCache(kind("memcached localhost:11211: no answer within 1 s; is it running?"))
        with pytest.raises(face.library.TransportError) as raised:
            await done(over(face, transport, Nekkar(cache)).get(URL))
        error = raised.value
        assert isinstance(error, kind)
        assert isinstance(error, face.module.RequestCacheError)
        assert isinstance(error, CorruptLog) == (kind is CorruptLog)
        assert not isinstance(error, face.library.TimeoutException)
        assert str(error.request.url) == URL
        assert str(error) == str(cache.error)
        assert isinstance(error.__cause__, kind)
        assert transport.told == []

    face.run(body)


@each_face
def test_what_the_wrapped_transport_raises_comes_out_as_it_is(face: Face, clock: FakeClock) -> None:
    """The very object, even where it is an error of nekkar's kind."""

    async def body() -> None:
        for error in (face.library.ReadTimeout("slow"), OSError("odd"), WaitTooLong("inner", 1, 0)):
            with pytest.raises(type(error)) as raised:
                await done(over(face, stub(face, error), Nekkar(clock=clock)).get(URL))
            assert raised.value is error

    face.run(body)


@pytest.mark.parametrize("module", [nekkar.httpx, nekkar.httpx2], ids=lambda module: str(module.__name__))
@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_errors_pickle(module: Any, protocol: int) -> None:
    """All three come back from another process with type, message, data and request."""
    request = getattr(module, module.__name__.split(".")[1]).Request("GET", URL)
    refused = pickle.loads(pickle.dumps(module.RequestWaitTooLong("all", 1.5, 0.5, request), protocol))
    assert (refused.name, refused.retry_after, refused.max_wait) == ("all", 1.5, 0.5)
    assert str(refused) == str(WaitTooLong("all", 1.5, 0.5))
    assert (type(refused), refused.request.url) == (module.RequestWaitTooLong, URL)
    for kind in (module.RequestCacheError, module.RequestCorruptLog):
        broken = pickle.loads(pickle.dumps(kind("gone", request=request), protocol))
        assert (type(broken), str(broken), broken.request.url) == (kind, "gone", URL)
    with pytest.raises(RuntimeError, match="request"):
        pickle.loads(pickle.dumps(module.RequestWaitTooLong("all", 1.5, 0.5), protocol)).request  # noqa: B018


# The transport itself.


LIMITER = Nekkar()
BAD: list[tuple[dict[str, Any], str, str]] = [
    # what is given; what of it the message shows; what the message says was expected
    ({"transport": "stub", "retries": 3}, "retries", "not both"),
    ({"transport": "stub", "http2": True, "verify": False}, "http2, verify", "not both"),
    ({"transport": "http://"}, "transport str has no", "HTTPTransport()"),
    ({"transport": httpx.HTTPTransport}, "HTTPTransport", "HTTPTransport()"),
    ({"transport": httpx2.AsyncHTTPTransport}, "HTTPTransport", "HTTPTransport()"),
    ({"limiter": None}, "None", "Nekkar()"),
    ({"limiter": "memory:"}, "got str", "Nekkar()"),
    ({"rules": None}, "None", "RuleTable("),
    ({"rules": [Rule("*", "a")]}, "got list", "RuleTable("),
    ({"max_wait": -1}, "max_wait -1", "give seconds"),
    ({"max_wait": "5"}, "'5'", "give seconds"),
]


@each_face
@pytest.mark.parametrize(("given", "told", "expected"), BAD, ids=lambda value: str(value)[:40])
def test_a_bad_transport_is_refused_in_words(face: Face, given: dict[str, Any], told: str, expected: str) -> None:
    """What a transport can't be made of is named where it is made."""
    arguments: dict[str, Any] = {"limiter": LIMITER, "rules": EVERYTHING} | given
    if arguments.get("transport") == "stub":
        arguments["transport"] = stub(face)
    with pytest.raises(ConfigurationError) as error:
        face.transport(**arguments)
    assert told in str(error.value)
    assert expected in str(error.value)


@each_face
def test_a_transport_of_the_other_kind_is_refused(face: Face) -> None:
    """A sync transport wraps no async one, nor the other way round."""
    other = face.library.HTTPTransport() if face.is_async else face.library.AsyncHTTPTransport()
    with pytest.raises(ConfigurationError, match=r"has no handle_(async_)?request"):
        face.transport(LIMITER, EVERYTHING, other)


@each_face
def test_arguments_make_the_librarys_transport(face: Face) -> None:
    """What ``HTTPTransport`` takes, the transport takes; what it does not take is its own error."""
    face.transport(LIMITER, EVERYTHING, http2=True, retries=3, limits=face.library.Limits(max_connections=3))
    with pytest.raises(TypeError, match="pool_size"):
        face.transport(LIMITER, EVERYTHING, pool_size=3)


# limit(client, ...).


@each_face
def test_limit_reaches_all_that_a_client_has(face: Face, clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """The default transport, the mounts, a proxy's and the environment's; patterns stay, None stays None."""
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "free.com")

    async def body() -> None:
        mounted = stub(face)
        client = face.client(mounts={"all://b.com": mounted, "all://none.com": None})
        before = {pattern.pattern: transport for pattern, transport in client._mounts.items()}
        default = client._transport
        assert face.limit(client, Nekkar(clock=clock), EVERYTHING, max_wait=0) is client
        after = {pattern.pattern: transport for pattern, transport in client._mounts.items()}
        assert list(after) == list(before)
        assert {"https://", "all://b.com", "all://none.com", "all://*free.com"} <= set(after)
        assert client._transport._transport is default
        for pattern, transport in after.items():
            assert transport is None if before[pattern] is None else transport._transport is before[pattern]
        for _ in range(2):
            await done(client.get("http://b.com/"))
        with pytest.raises(WaitTooLong):
            await done(client.get("https://proxied.com/"))
        with pytest.raises(WaitTooLong):
            await done(client.get("http://none.com/"))
        assert len(mounted.told) == 2

    face.run(body)


@each_face
def test_limit_takes_an_open_client(face: Face, server: Server, clock: FakeClock) -> None:
    """A client in use is limited from then on, and closes what it had opened."""

    async def body() -> None:
        transport = stub(face)
        async with entered(face.client(transport=transport)) as client:
            await done(client.get(URL))
            face.limit(client, Nekkar(clock=clock), EVERYTHING)
            assert (await done(client.get(URL))).extensions["nekkar"].name == "all"
        assert [told for told in transport.told if isinstance(told, str)] == ["enter", "exit"]

    face.run(body)


@each_face
def test_a_second_limit_is_an_error(face: Face) -> None:
    """A client whose calls would be counted twice is refused, and stays as it was."""
    limited = face.limit(face.client(), LIMITER, EVERYTHING)
    by_transport = face.client(transport=face.transport(LIMITER, EVERYTHING))
    by_mount = face.client(mounts={"all://a.com": face.transport(LIMITER, EVERYTHING)})
    for client in (limited, by_transport, by_mount):
        transports = [client._transport, *client._mounts.values()]
        with pytest.raises(ConfigurationError, match="limited already"):
            face.limit(client, LIMITER, EVERYTHING)
        assert [client._transport, *client._mounts.values()] == transports


@each_face
def test_limit_refuses_what_is_no_client(face: Face) -> None:
    """A client of the other library is named, with what is wanted."""
    other = httpx2.Client() if face.library is httpx else httpx.Client()
    for client in (other, None, face.client, face.http_transport()):
        with pytest.raises(ConfigurationError, match=rf"{face.library.__name__}\.Client"):
            face.limit(client, LIMITER, EVERYTHING)
    for bad in ({"limiter": None, "rules": EVERYTHING}, {"limiter": LIMITER, "rules": []}):
        client = face.client()
        default = client._transport
        with pytest.raises(ConfigurationError):
            face.limit(client, **bad)
        assert client._transport is default


# Event loops.


class SlowCache(MemoryCache):
    """A cache that blocks in each read, until it is let go on."""

    in_process = False

    def __init__(self) -> None:
        super().__init__()
        self.go_on = threading.Event()

    def gets(self, key: str) -> tuple[Any, int | None]:
        assert self.go_on.wait(TIMEOUT), "the event loop was blocked"
        return super().gets(key)


each_loop = pytest.mark.parametrize("face", [face for face in FACES if face.is_async], ids=str)


@each_loop
def test_a_slow_cache_does_not_block_the_loop(face: Face) -> None:
    """While a request waits for the cache's answer, another task runs, and lets the cache go on."""
    cache = SlowCache()

    async def body() -> None:
        client = over(face, stub(face), Nekkar(cache))
        with anyio.fail_after(TIMEOUT):
            async with anyio.create_task_group() as group:
                group.start_soon(client.get, URL)
                await anyio.wait_all_tasks_blocked()
                cache.go_on.set()

    face.run(body)


@each_loop
def test_a_wait_does_not_block_the_loop_and_a_cancelled_one_keeps_no_slot(face: Face) -> None:
    """A request that waits lets others through, and leaves nothing behind when it is cancelled."""
    clock = FakeClock(jump=False)
    rules = RuleTable([Rule("a.com", "a"), Rule("b.com", "b")], {"a": "1/minute", "b": "1/minute"})
    limiter = Nekkar(clock=clock)

    async def body() -> None:
        client = over(face, stub(face), limiter, rules)
        with anyio.fail_after(TIMEOUT):
            await client.get("http://a.com/")
            async with anyio.create_task_group() as group:
                group.start_soon(client.get, "http://a.com/")
                await anyio.lowlevel.checkpoint()
                await client.get("http://b.com/")
                group.cancel_scope.cancel()
            assert (limiter("a", "1/minute").status().waiting, limiter("a", "1/minute").status().windows[0].used) == (
                0,
                1,
            )

    face.run(body)


# Cost.


@pytest.mark.parametrize("face", [face for face in FACES if not face.is_async], ids=str)
def test_rules_and_transport_cost_little(face: Face) -> None:
    """Ten rules and the transport add at most 40 function calls, of a client's hundreds, to ``acquire`` by hand."""
    rules = RuleTable([Rule(f"*/{number}/*", "all") for number in range(10)], {"all": "1000000000/second"})
    limiter, url, by_hand = Nekkar(clock=FakeClock()), "http://example.com/9/x", stub(face)
    limit, send = limiter("all", "1000000000/second"), by_hand.handle_request
    by_hand.handle_request = lambda request: limit.acquire() and send(request)
    transports = [by_hand, face.transport(limiter, rules, stub(face))]
    gets = [partial(face.client(transport=transport).get, url) for transport in transports]
    acquires, limited = (min(calls(get) for _ in range(30)) for get in gets)
    assert limited - acquires <= 40


# One body.


def test_both_modules_are_one_text() -> None:
    """nekkar.httpx2 is nekkar.httpx under another name: what is mended in one is mended in both."""
    folder = Path(nekkar.httpx.__file__).parent
    assert (folder / "httpx.py").read_text().replace("httpx", "httpx2") == (folder / "httpx2.py").read_text()

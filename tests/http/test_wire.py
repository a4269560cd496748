"""The last moment: a slot that goes stale before the bytes of a request leave is exchanged, whatever it waited for.

Time is a fake clock's: what would take long (a connect, a queue, a transport inside) advances it.
"""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import anyio.to_thread
import pytest
import trustme

from nekkar.core.errors import ConfigurationError, WaitTooLong
from nekkar.core.limiter import Nekkar
from nekkar.rules import Rule, RuleTable
from nekkar.testing import START_US, FakeClock
from tests.support.faces import FACES, Face, done, entered
from tests.support.h2_server import H2Server
from tests.support.http_server import Handler, Server
from tests.support.web import TIMEOUT, running, wait_until

START = START_US / 1e6
each_face = pytest.mark.parametrize("face", FACES, ids=str)


def rules(rate: str) -> RuleTable:
    return RuleTable([Rule("*/free", False), Rule("*", "all")], {"all": {"rate": rate, "margin": 0.05}})


def used(limiter: Nekkar, rate: str) -> int:
    return limiter("all", rate, margin=0.05).status().windows[0].used


class GatedHandler(Handler):
    """``/gated`` is answered once the server's gate is open."""

    server: Gated

    def answer_gated(self) -> None:
        self.server.gate.wait(TIMEOUT)
        self.answer_echo()


class Gated(Server):
    handler = GatedHandler

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(tls)
        self.gate = threading.Event()


@pytest.fixture
def server() -> Iterator[Gated]:
    with running(Gated()) as served:
        yield served
        served.gate.set()


@pytest.fixture
def h2() -> Iterator[H2Server]:
    with H2Server() as served:
        yield served


def slow(face: Face, clock: FakeClock, seconds: float, at: str, times: int = 1) -> dict[str, Any]:
    """Return a call's extensions whose own trace takes so long at an event, the first times."""
    left = [seconds] * times

    def trace(event: str, info: dict[str, Any]) -> None:
        if event.partition(".")[2] == at and left:
            clock.advance(left.pop())

    return {"trace": face.function(trace)}


def inside(face: Face, before: Callable[[], object], attempts: int = 1, **arguments: Any) -> Any:
    """Return a transport of a user's own: it does something, and sends, as often as it is told to."""
    own = face.http_transport(trust_env=False, **arguments)
    base: Any = face.base

    class Inside(base):  # type: ignore[misc]
        def handle_request(self, request: Any) -> Any:
            for attempt in range(attempts):
                before()
                response = own.handle_request(request)
                if attempt + 1 < attempts:
                    response.read()
                    response.close()
            return response

        async def handle_async_request(self, request: Any) -> Any:
            for attempt in range(attempts):
                before()
                response = await own.handle_async_request(request)
                if attempt + 1 < attempts:
                    await response.aread()
                    await response.aclose()
            return response

        def close(self) -> None:
            own.close()

        async def aclose(self) -> None:
            await own.aclose()

    return Inside()


def over(face: Face, limiter: Nekkar, rate: str, transport: Any = None, **arguments: Any) -> Any:
    if transport is None:
        arguments = {"trust_env": False} | arguments
    return entered(face.client(transport=face.transport(limiter, rules(rate), transport, **arguments)))


# What makes a slot stale.


@each_face
@pytest.mark.parametrize("step", ["connect_tcp.started", "connect_tcp.complete", "send_request_headers.started"])
def test_a_slow_connect_does_not_age_the_slot(face: Face, step: str, server: Gated, clock: FakeClock) -> None:
    """However long a connection takes to open, the request leaves on a slot of that moment; the old slot is spent."""
    limiter = Nekkar(clock=clock)

    async def body() -> None:
        async with over(face, limiter, "5/minute") as client:
            response = await done(client.get(server.url, extensions=slow(face, clock, 2, step)))
        assert (response.extensions["nekkar"].at, response.extensions["nekkar"].waited) == (START + 2, 0.0)
        assert (used(limiter, "5/minute"), len(server.seen)) == (2, 1)

    face.run(body)


@each_face
def test_a_transport_inside_may_take_its_time(face: Face, server: Gated, clock: FakeClock) -> None:
    """A transport of a user's own that sleeps before it sends: the slot is looked at after that."""
    limiter = Nekkar(clock=clock)

    async def body() -> None:
        async with over(face, limiter, "5/minute", inside(face, lambda: clock.advance(9))) as client:
            assert (await done(client.get(server.url))).extensions["nekkar"].at == START + 9

    face.run(body)


@each_face
def test_a_queue_for_a_connection_does_not_age_the_slot(face: Face, server: Gated, clock: FakeClock) -> None:
    """Requests that queue for the only connection of a pool take slots of the moment at which they have it."""
    limiter, found = Nekkar(clock=clock), list[Any]()

    async def body() -> None:
        limits = face.library.Limits(max_connections=1)
        async with over(face, limiter, "10/second", limits=limits) as client:

            async def call(path: str) -> None:
                get: Any = client.get if face.is_async else lambda url: anyio.to_thread.run_sync(client.get, url)
                found.append((await get(f"{server.url}/{path}")).extensions["nekkar"].at)

            async with anyio.create_task_group() as group:
                group.start_soon(call, "gated")
                await anyio.to_thread.run_sync(wait_until, lambda: server.seen)
                for _ in range(4):
                    group.start_soon(call, "queued")
                await anyio.to_thread.run_sync(wait_until, lambda: used(limiter, "10/second") == 5)
                clock.advance(3)
                server.gate.set()
        assert found == [START, *[START + 3] * 4]

    face.run(body)


@each_face
def test_a_slot_just_gone_stale_is_given_back(face: Face, server: Gated, clock: FakeClock) -> None:
    """A delay within the horizon costs the limit nothing: the old slot is unbooked as the new one is booked."""
    limiter = Nekkar(clock=clock)

    async def body() -> None:
        async with over(face, limiter, "1/hour") as client:
            response = await done(client.get(server.url, extensions=slow(face, clock, 0.08, "connect_tcp.complete")))
        assert response.extensions["nekkar"].at == pytest.approx(START + 0.08)
        assert used(limiter, "1/hour") == 1

    face.run(body)


@each_face
def test_a_slot_still_good_is_kept(face: Face, server: Gated, clock: FakeClock) -> None:
    """Up to half of the margin after it."""
    limiter = Nekkar(clock=clock)

    async def body() -> None:
        async with over(face, limiter, "5/hour") as client:
            response = await done(client.get(server.url, extensions=slow(face, clock, 0.025, "connect_tcp.complete")))
        assert (response.extensions["nekkar"].at, used(limiter, "5/hour")) == (START, 1)

    face.run(body)


# Options and errors.


@each_face
def test_an_exchange_costs_what_the_call_costs_and_waits_no_longer_in_all(
    face: Face, server: Gated, clock: FakeClock
) -> None:
    """``cost`` holds for the new slot, and ``max_wait`` for both waits together; an error is as any refusal's."""
    limiter = Nekkar(clock=clock)

    async def body() -> None:
        limits = face.library.Limits(max_connections=1)
        async with over(face, limiter, "3/minute", limits=limits) as client:
            await done(client.get(server.url, extensions={"nekkar": {"cost": 3}}))
            late = slow(face, clock, 70, "connect_tcp.complete") | {"nekkar": {"cost": 2, "max_wait": 70}}
            server.gate.set()
            response = await done(client.get(server.url, extensions=late | {"nekkar": {"cost": 2, "max_wait": 70}}))
            assert (response.extensions["nekkar"].cost, response.extensions["nekkar"].waited) == (2, 60.05)
            late = slow(face, clock, 1, "send_request_headers.started") | {"nekkar": {"cost": 2, "max_wait": 70}}
            with pytest.raises(face.library.TimeoutException) as raised:  # 60 s for the first slot, then 59
                await done(client.get(server.url, extensions=late))
            error = raised.value
            assert isinstance(error, face.module.RequestWaitTooLong)
            assert (error.name, error.max_wait, type(error.__cause__)) == ("all", 70, WaitTooLong)
            assert str(error.request.url) == server.url
            assert len(server.seen) == 2
            await done(client.get(f"{server.url}/free"))
            await done(client.get(server.url))
        assert len(server.seen) == 4

    face.run(body)


@pytest.mark.parametrize("face", [face for face in FACES if face.is_async], ids=str)
def test_a_cancelled_exchange_leaves_nothing_behind(face: Face, server: Gated) -> None:
    """No caller stays in line, and the pool has its only connection to give."""
    clock = FakeClock(jump=False)
    limiter = Nekkar(clock=clock)

    async def body() -> None:
        limits = face.library.Limits(max_connections=1)
        async with over(face, limiter, "1/minute", limits=limits) as client:
            with anyio.fail_after(TIMEOUT):
                async with anyio.create_task_group() as group:
                    late = slow(face, clock, 1, "connect_tcp.complete")
                    group.start_soon(lambda: client.get(server.url, extensions=late))
                    while not limiter("all", "1/minute", margin=0.05).status().waiting:
                        await anyio.sleep(0.001)
                    group.cancel_scope.cancel()
                assert limiter("all", "1/minute", margin=0.05).status().waiting == 0
                assert (await client.get(f"{server.url}/free")).status_code == 200

    face.run(body)


# Connections.


@each_face
@pytest.mark.parametrize(("rate", "connections"), [("9/minute", 1), ("3/minute", 2)])
def test_a_pooled_connection_waits_for_a_moment_at_most(
    face: Face, rate: str, connections: int, server: Gated, clock: FakeClock
) -> None:
    """A long wait is made without a connection, which a server would close meanwhile, and others queue for."""
    limiter, delays = Nekkar(clock=clock), [0.0, 0.0, 2.0]

    async def body() -> None:
        transport = inside(face, lambda: clock.advance(delays.pop(0) if delays else 0))
        async with over(face, limiter, rate, transport) as client:
            found = [(await done(client.get(server.url))).extensions["nekkar"].at for _ in range(3)]
        assert found == [START, START, START + 2 if connections == 1 else pytest.approx(START + 60.05)]
        assert (len(server.connections), len(server.seen)) == (connections, 3)

    face.run(body)


@each_face
def test_a_service_that_is_away_is_found_out(face: Face, clock: FakeClock) -> None:
    """A request whose connects fail, slowly, raises what its library raises, also when its slot went stale."""
    limiter = Nekkar(clock=clock)
    with running(Server()) as gone:
        url = gone.url

    async def body() -> None:
        async with over(face, limiter, "1/minute", retries=2) as client:
            with pytest.raises(face.library.ConnectError):
                await done(client.get(url, extensions=slow(face, clock, 5, "connect_tcp.started", 3)))

    face.run(body)
    assert used(limiter, "1/minute") <= 1


@each_face
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_counts_for_nothing_and_may_be_slow(face: Face, scheme: str, clock: FakeClock) -> None:
    """A proxy's CONNECT is no request; a slot that goes stale before or after it is exchanged."""
    authority, limiter = trustme.CA(), Nekkar(clock=clock)
    secure, trust = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("127.0.0.1").configure_cert(secure)
    authority.configure_trust(trust)

    async def body(proxy: Server, site: Server) -> None:
        client = face.client(proxy=proxy.url, verify=trust, trust_env=False)
        async with entered(face.limit(client, limiter, rules("5/minute"))) as client:
            await done(client.get(site.url))
            assert (used(limiter, "5/minute"), len(site.seen) + len(proxy.seen)) == (1, 1)
            client = face.limit(face.client(proxy=proxy.url, verify=trust, trust_env=False), limiter, rules("5/minute"))
            async with entered(client) as client:
                step = "start_tls.started" if scheme == "https" else "connect_tcp.complete"
                response = await done(client.get(site.url, extensions=slow(face, clock, 2, step)))
            assert (response.extensions["nekkar"].at, used(limiter, "5/minute")) == (START + 2, 3)

    with running(Server()) as proxy, running(Server(secure if scheme == "https" else None)) as site:
        face.run(body, proxy, site)


# HTTP/2.


@each_face
def test_streams_of_one_connection_are_exchanged(face: Face, h2: H2Server, clock: FakeClock) -> None:
    """The first stream waits where it is; later ones wait without a stream, and no two get the same number."""
    limiter = Nekkar(clock=clock)

    async def body() -> None:
        async with over(face, limiter, "3/minute", http1=False, http2=True) as client:
            first = await done(client.get(f"{h2.url}/0", extensions=slow(face, clock, 2, "connect_tcp.complete")))
            late = slow(face, clock, 2, "send_request_headers.started")
            second = await done(client.get(f"{h2.url}/1", extensions=late))
            assert (first.text, second.text) == ("('GET', '/0')", "('GET', '/1')")
            assert first.extensions["nekkar"].at == START + 2
            assert second.extensions["nekkar"].at > START + 60
        assert h2.seen == [("GET", "/0"), ("GET", "/1")]

    face.run(body)


@pytest.mark.parametrize("face", [face for face in FACES if face.is_async], ids=str)
def test_many_stale_streams_at_once_are_all_answered(face: Face, h2: H2Server, clock: FakeClock) -> None:
    """Ten tasks on one connection, all with slots that went stale before their headers left."""
    limiter, found = Nekkar(clock=clock), dict[int, str]()

    async def body() -> None:
        async with over(face, limiter, "20/minute", http1=False, http2=True) as client:
            await client.get(f"{h2.url}/first")

            async def call(number: int) -> None:
                late = slow(face, clock, 0.2, "send_request_headers.started")
                found[number] = (await client.get(f"{h2.url}/{number}", extensions=late)).text

            async with anyio.create_task_group() as group:
                for number in range(10):
                    group.start_soon(call, number)
        assert sorted(h2.seen) == sorted([("GET", "/first"), *(("GET", f"/{number}") for number in range(10))])
        assert sorted(found) == list(range(10))

    face.run(body)


# Traces and requests of the user's own.


@each_face
def test_a_trace_of_the_users_own_goes_on(face: Face, server: Gated, clock: FakeClock) -> None:
    """It is told what it is told without nekkar, in the same order, of the body too; extensions come back as given."""
    told: dict[bool, list[str]] = {True: [], False: []}

    async def body() -> None:
        for is_limited in told:
            trace = face.function(lambda event, info, own=told[is_limited]: own.append(event))
            client = face.client(trust_env=False)
            if is_limited:
                face.limit(client, Nekkar(clock=clock), rules("9/minute"))
            async with entered(client):
                request = client.build_request("GET", f"{server.url}/stream", extensions={"trace": trace, "own": 1})
                given = request.extensions
                response = await done(client.send(request))
                assert (response.request.extensions is given, given["trace"]) == (True, trace)
        assert told[True] == told[False]
        assert "http11.receive_response_body.complete" in told[True]

    face.run(body)


@each_face
def test_a_trace_of_the_wrong_kind_is_the_librarys_error(face: Face, server: Gated, clock: FakeClock) -> None:
    """A sync trace in an async client, or the other way round, is a TypeError as without nekkar."""

    async def unawaited(event: str, info: Any) -> None: ...

    async def body() -> None:
        trace: Any = (lambda event, info: None) if face.is_async else unawaited
        async with over(face, Nekkar(clock=clock), "9/minute") as client:
            with pytest.raises(TypeError):
                await done(client.get(server.url, extensions={"trace": trace}))

    if face.is_async:
        face.run(body)
    else:
        with pytest.warns(RuntimeWarning, match="never awaited"):
            face.run(body)


@pytest.mark.parametrize("face", [face for face in FACES if face.is_async], ids=str)
def test_one_request_object_may_be_sent_twice_at_a_time(face: Face, server: Gated, clock: FakeClock) -> None:
    """Each sending has its own slot, and the object's extensions are the user's afterwards."""
    limiter = Nekkar(clock=clock)

    async def body() -> None:
        async with over(face, limiter, "9/minute") as client:
            request = client.build_request("GET", server.url, extensions={"own": 1})
            given = request.extensions
            async with anyio.create_task_group() as group:
                for _ in range(3):
                    group.start_soon(client.send, request)
            assert request.extensions is given
        assert used(limiter, "9/minute") == len(server.seen) == 3

    face.run(body)


# Transports that repeat requests.


@each_face
def test_a_transport_inside_that_repeats_takes_a_slot_for_each_attempt(
    face: Face, server: Gated, clock: FakeClock
) -> None:
    """What a transport inside nekkar's sends again is another attempt on the wire; the admission is the last one's."""
    limiter = Nekkar(clock=clock)

    async def body() -> None:
        async with over(face, limiter, "2/minute", inside(face, lambda: None, attempts=3)) as client:
            response = await done(client.get(server.url))
        assert (len(server.seen), used(limiter, "2/minute")) == (3, 1)
        assert response.extensions["nekkar"].at == pytest.approx(START + 60.05)

    face.run(body)


@each_face
def test_a_transport_inside_can_not_repeat_over_http2(face: Face, h2: H2Server, clock: FakeClock) -> None:
    """It is an error in words, not a call too many."""

    async def body() -> None:
        transport = inside(face, lambda: None, attempts=2, http1=False, http2=True)
        async with over(face, Nekkar(clock=clock), "9/minute", transport) as client:
            with pytest.raises(ConfigurationError, match=r"put the transport that repeats requests around nekkar's"):
                await done(client.get(h2.url))
        assert len(h2.seen) == 1

    face.run(body)


@each_face
def test_a_transport_around_that_repeats_is_heard_each_time(face: Face, server: Gated, clock: FakeClock) -> None:
    """Around nekkar's transport each attempt is a request: it has a slot, and its refusal pauses the fleet."""
    limiter = Nekkar(clock=clock)
    limited = face.transport(limiter, rules("9/minute"), trust_env=False)
    base: Any = face.base

    class Around(base):  # type: ignore[misc]
        def handle_request(self, request: Any) -> Any:
            limited.handle_request(request).close()
            return limited.handle_request(request)

        async def handle_async_request(self, request: Any) -> Any:
            await (await limited.handle_async_request(request)).aclose()
            return await limited.handle_async_request(request)

    async def body() -> None:
        async with entered(face.client(transport=Around())) as client:
            response = await done(client.get(f"{server.url}/status/429"))
        assert response.extensions["nekkar"].waited == pytest.approx(7, abs=0.1)
        assert used(limiter, "9/minute") == len(server.seen) == 2
        await done(limited.aclose() if face.is_async else limited.close())

    face.run(body)

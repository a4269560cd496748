"""A wire that fails in every way, between nekkar and a real server: a typed error or a right answer, in time."""

from __future__ import annotations

import asyncio
import random
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from nekkar import CacheError, Limit, Nekkar, NekkarError, WaitTooLong
from nekkar.core.cache import BaseCache, MemcachedCache
from nekkar.core.errors import CorruptLog
from nekkar.redis import RedisCache
from tests.integration import proxy as faulty
from tests.integration.proxy import Ends, Fault, Proxy
from tests.support.checks import worst_window
from tests.support.servers import Memcached, RedisServer, memcached, redis_server

HOST = "127.0.0.1"
MEMCACHED, REDIS = faulty.memcached, faulty.redis
CERTIFICATE = Path(__file__).parent / "localhost.pem"
TLS = f"rediss://127.0.0.1:{{port}}?timeout={{timeout}}&ssl_ca_certs={CERTIFICATE}"
TIMEOUT = 0.5
BOUND = 4 * TIMEOUT + 1.0  # a read, a swap, the read that tells whether it landed, another swap; and a busy machine

FAULTS: dict[str, Fault] = {
    "swallowed": faulty.swallow,
    "delayed a little": faulty.delay(0.2),
    "delayed past the timeout": faulty.delay(0.7),
    "delayed for long": faulty.delay(3.0),
    "dribbled": faulty.dribble,
    "cut": faulty.cut,
    "closed": faulty.close,
    "garbled": faulty.garble,
    "repeated": faulty.repeat,
}


@dataclass(frozen=True)
class Kind:
    """A server, how it is spoken to, and how a request to store begins there."""

    server: Callable[[], AbstractContextManager[Memcached | RedisServer]]
    cache: Callable[[int, float], BaseCache]
    ends: Ends
    stores: bytes
    tls: bool = False


def by_redis(url: str) -> Callable[[int, float], BaseCache]:
    """Return what makes a cache of a port and a timeout."""
    return lambda port, timeout: RedisCache(url.format(port=port, timeout=timeout))


KINDS = {
    "memcached": Kind(memcached, lambda port, timeout: MemcachedCache(HOST, port, timeout=timeout), MEMCACHED, b"ms"),
    "Redis": Kind(redis_server, by_redis("redis://127.0.0.1:{port}?timeout={timeout}"), REDIS, b"*8"),
    "Valkey": Kind(redis_server, by_redis("valkey://127.0.0.1:{port}?timeout={timeout}"), REDIS, b"*8"),
    "Redis by TLS": Kind(redis_server, by_redis(TLS), REDIS, b"*8", tls=True),
}
TRIALS = [(kind, fault, stores) for kind in ("memcached", "Redis") for fault in FAULTS for stores in (False, True)]
TRIALS += [("Valkey", fault, False) for fault in FAULTS] + [("Redis by TLS", "dribbled", False)]


@pytest.fixture
def kind(request: pytest.FixtureRequest) -> Kind:
    return KINDS[getattr(request, "param", "memcached")]


@pytest.fixture
def behind(kind: Kind) -> Iterator[Memcached | RedisServer]:
    """The server behind the wire."""
    with kind.server() as running:
        yield running


@pytest.fixture
def wire(kind: Kind, behind: Memcached | RedisServer) -> Iterator[Proxy]:
    tls = None
    if kind.tls:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(CERTIFICATE)
    with faulty.proxy(behind.port, tls, kind.ends) as running:
        yield running


def limit_through(kind: Kind, port: int, rate: str, margin: float, timeout: float = TIMEOUT) -> Limit:
    cache = kind.cache(port, timeout)
    return Nekkar(cache, clock="local")("wire", rate, margin=margin)  # the proxy passes no log of memcached's on


@pytest.mark.parametrize(("kind", "fault", "stores"), TRIALS, indirect=["kind"])
def test_every_call_ends_in_time_in_a_typed_error_or_a_right_answer(
    kind: Kind, fault: str, stores: bool, wire: Proxy
) -> None:
    """On a connection that had worked and on a new one; with the wire whole again, everything works at once."""
    limit = limit_through(kind, wire.port, "10/minute", 4 * TIMEOUT)  # a slot is good longer than an answer is awaited
    slots = [limit.acquire().at]
    for _ in range(2):
        wire.fault, wire.only = FAULTS[fault], kind.stores if stores else b""
        began = time.monotonic()
        errors = list[CacheError]()
        try:
            slots.append(limit.acquire(max_wait=0).at)
        except CacheError as error:
            errors.append(error)
        assert all(f"at {HOST}:{wire.port}" in str(error) or isinstance(error, CorruptLog) for error in errors)
        assert time.monotonic() - began < BOUND
        wire.fault = faulty.pass_on
    slots.append(limit.acquire(max_wait=0).at)
    used = limit.status().windows[0].used
    assert len(slots) <= used <= 2 + 2 * 2  # what was lost on the way may have been booked, each call's once or twice


both = pytest.mark.parametrize("kind", ["memcached", "Redis"], indirect=True)


@both
def test_stores_that_land_with_no_answer_for_long_are_an_error_and_do_not_fill_the_limit(
    kind: Kind, wire: Proxy
) -> None:
    """With a timeout over half the margin each slot is found too late: two are booked for a call, not all there are."""
    limit = limit_through(kind, wire.port, "100/minute", margin=TIMEOUT)
    limit.acquire()
    wire.fault, wire.only = faulty.swallow, kind.stores
    for _ in range(2):
        began = time.monotonic()
        with pytest.raises(CacheError, match="did not answer within"):
            limit.acquire()
        assert time.monotonic() - began < 2 * BOUND
    wire.fault = faulty.pass_on
    limit.acquire()
    assert limit.status().windows[0].used <= 8  # five, and more where the machine itself is late


def call_until(end: float, limit: Limit, starts: list[int], errors: list[NekkarError]) -> None:
    while time.monotonic() < end:
        try:
            limit.acquire(max_wait=3.0)
            starts.append(time.time_ns() // 1000)
        except (CacheError, WaitTooLong) as error:
            errors.append(error)


def tasks_until(end: float, limit: Limit, starts: list[int], errors: list[NekkarError]) -> None:
    """Three tasks that call in an event loop of their own; some calls are cancelled, at whatever they wait for."""

    async def call() -> None:
        while time.monotonic() < end:
            try:
                async with asyncio.timeout(random.choice((None, None, random.uniform(0.0, 0.3)))):
                    await limit.acquire_async(max_wait=3.0)
                starts.append(time.time_ns() // 1000)
            except TimeoutError:
                pass
            except (CacheError, WaitTooLong) as error:
                errors.append(error)

    async def main() -> None:
        await asyncio.gather(*(call() for _ in range(3)))

    asyncio.run(main())


Calls = Callable[[float, Limit, list[int], list[NekkarError]], None]


@pytest.mark.parametrize("kind", ["memcached", "Redis", "Valkey"], indirect=True)
def test_a_swap_that_is_told_won_twice_does_not_win_the_next(
    kind: Kind, behind: Memcached | RedisServer, wire: Proxy
) -> None:
    """The second time comes first to who swaps with a token that is good no more: an error, and nothing is written."""
    cache: Any = kind.cache(wire.port, 30.0)
    other: Any = kind.cache(behind.port, 30.0)
    token = cache.cas("key", b"one", cache.gets("key")[1], 60)
    wire.fault = faulty.repeat
    token = cache.cas("key", b"two", token, 60)
    wire.fault = faulty.pass_on
    assert other.cas("key", b"three", other.gets("key")[1], 60)
    with pytest.raises(CacheError, match="that connection is closed, and the call may be repeated"):
        cache.cas("key", b"four", token, 60)
    assert cache.gets("key")[0] == b"three"


@both
@pytest.mark.parametrize("calls", [call_until, tasks_until], ids=["threads", "tasks"])
def test_callers_behind_a_faulty_wire_and_one_beside_it_are_never_over(
    kind: Kind, behind: Memcached | RedisServer, wire: Proxy, calls: Calls
) -> None:
    """10 a second for 8 s: the worst second has 10, over what each saw start; the one beside it goes on throughout."""
    random.seed(20)
    wire.fault = faulty.now_and_then(0.25, *FAULTS.values())
    end = time.monotonic() + 8.0
    limits = [limit_through(kind, wire.port, "10/second", 0.5) for _ in range(4)]
    limits.append(limit_through(kind, behind.port, "10/second", 0.5, timeout=10.0))
    starts: list[list[int]] = [[] for _ in limits]
    errors: list[list[NekkarError]] = [[] for _ in limits]
    limits[-1].acquire()  # who comes to an empty log first must not be the one whose view is clouded
    threads = [
        threading.Thread(target=calls if limit is not limits[-1] else call_until, args=(end, limit, own, failed))
        for limit, own, failed in zip(limits, starts, errors, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    everything = sorted(start for own in starts for start in own)
    assert worst_window(everything, 1_000_000) <= 10
    assert errors[-1] == []
    assert len(starts[-1]) >= 5
    assert sum(map(len, errors[:-1])) >= 4
    assert sum(map(len, starts[:-1])) >= 4

"""What is compared: each contender is made by one function, from the servers and the terms, to a call that admits.

A contender's call returns once admitted. A peer that only answers yes or no is asked again after 10 ms, which
is what its users write. A peer that is not installed is left out, and the report says so.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from importlib.util import find_spec
from itertools import count
from typing import Any

from nekkar.core.limiter import Nekkar

POLL_S = 0.01
_numbers = count()


@dataclass(frozen=True, slots=True)
class Servers:
    """Where caches are: ports on this machine, and a folder for files."""

    memcached: int
    redis: int
    folder: str


@dataclass(frozen=True, slots=True)
class Terms:
    """``calls`` per ``period`` seconds under ``name``."""

    name: str
    calls: int
    period: float


def fresh(calls: int, period: float = 60.0) -> Terms:
    """Return terms under a name that nobody used."""
    return Terms(f"bench{os.getpid()}-{next(_numbers)}", calls, period)


Make = Callable[[Servers, Terms], Callable[[], Any]]


@dataclass(frozen=True, slots=True)
class Contender:
    """``library``: what must be installed. ``cache``: where it keeps its state. ``exact``: no window is ever over."""

    name: str
    library: str
    cache: str
    make: Make
    exact: bool = False

    @property
    def is_installed(self) -> bool:
        return find_spec(self.library) is not None


def url_of(cache: str, servers: Servers) -> str:
    """Return the address of one of nekkar's caches."""
    return {
        "memcached": f"memcached://127.0.0.1:{servers.memcached}",
        "redis": f"redis://127.0.0.1:{servers.redis}/0",
        "sqlite": f"sqlite:///{servers.folder}/nekkar.db",
        "memory": "memory:",
    }[cache]


def nekkar(cache: str) -> Make:
    """nekkar on one of its caches."""

    def make(servers: Servers, terms: Terms) -> Callable[[], Any]:
        return Nekkar(url_of(cache, servers))(terms.name, terms.calls, period=terms.period).acquire

    return make


def nekkar_async(cache: str) -> Make:
    """nekkar from a task."""

    def make(servers: Servers, terms: Terms) -> Callable[[], Any]:
        limit: Any = nekkar(cache)(servers, terms).__self__  # type: ignore[attr-defined]
        return limit.acquire_async  # type: ignore[no-any-return]

    return make


def limits(strategy: str, cache: str) -> Make:
    """limits: asked again until it says yes."""

    def make(servers: Servers, terms: Terms) -> Callable[[], Any]:
        from limits import parse, strategies
        from limits.storage import storage_from_string

        urls = {
            "memcached": f"memcached://127.0.0.1:{servers.memcached}",
            "redis": f"redis://127.0.0.1:{servers.redis}",
            "memory": "memory://",
        }
        limiter = getattr(strategies, strategy)(storage_from_string(urls[cache]))
        item = parse(f"{terms.calls} per {round(terms.period)} second")
        return _until_yes(lambda: limiter.hit(item, terms.name))

    return make


def pyrate(cache: str) -> Make:
    """PyrateLimiter: waits by itself."""

    def make(servers: Servers, terms: Terms) -> Callable[[], Any]:
        from pyrate_limiter import InMemoryBucket, Limiter, Rate, RedisBucket, SQLiteBucket

        rates = [Rate(terms.calls, round(terms.period * 1000))]
        bucket: Any
        if cache == "redis":
            from redis import Redis

            bucket = RedisBucket.init(rates, Redis(port=servers.redis), terms.name)
        elif cache == "sqlite":
            file = f"{servers.folder}/{terms.name}.db"
            bucket = SQLiteBucket.init_from_file(rates, db_path=file, use_file_lock=True)
        else:
            bucket = InMemoryBucket(rates)
        limiter = Limiter(bucket)
        return lambda: limiter.try_acquire(terms.name)

    return make


def throttled(using: str, cache: str) -> Make:
    """throttled-py: waits by itself, for as long as it is told."""

    def make(servers: Servers, terms: Terms) -> Callable[[], Any]:
        from throttled import MemoryStore, RedisStore, Throttled, per_duration

        store: Any = RedisStore(f"redis://127.0.0.1:{servers.redis}/0") if cache == "redis" else MemoryStore()
        quota = per_duration(timedelta(seconds=terms.period), terms.calls)
        limiter = Throttled(terms.name, timeout=60, using=using, quota=quota, store=store)
        return _until_yes(lambda: not limiter.limit().limited)

    return make


def aiolimiter(_servers: Servers, terms: Terms) -> Callable[[], Any]:
    """aiolimiter: a leaky bucket for tasks."""
    from aiolimiter import AsyncLimiter

    acquire: Callable[[], Any] = AsyncLimiter(terms.calls, terms.period).acquire
    return acquire


def incr(servers: Servers, terms: Terms) -> Callable[[], Any]:
    """One memcached counter."""
    client = _memcached(servers)
    client.set(terms.name, b"0", noreply=False)
    return lambda: client.incr(terms.name, 1)


def gets_cas(servers: Servers, terms: Terms) -> Callable[[], Any]:
    """Read and swap a value of the size of a small log; again, with no pause, where another came between."""
    client = _memcached(servers)
    value = b"x" * 200
    client.add(terms.name, value, noreply=False)

    def swap() -> None:
        while True:
            _, token = client.gets(terms.name)
            if client.cas(terms.name, value, token, noreply=False):
                return

    return swap


def incrby(servers: Servers, terms: Terms) -> Callable[[], Any]:
    """One Redis counter."""
    from redis import Redis

    client = Redis(port=servers.redis)
    return lambda: client.incrby(terms.name)


def aiomcache(servers: Servers, terms: Terms) -> Callable[[], Any]:
    """Read and swap from a task."""
    from aiomcache import Client

    client = Client("127.0.0.1", servers.memcached)
    key, value = terms.name.encode(), b"x" * 200

    async def swap() -> None:
        _, token = await client.gets(key)
        if token is None:
            await client.set(key, value)
        else:
            await client.cas(key, value, token)

    return swap


def pair_in_task(servers: Servers, terms: Terms) -> Callable[[], Any]:
    """Read and swap from a task, over asyncio's own streams: a bare pair without a client."""
    key, value = terms.name.encode(), b"x" * 200
    streams: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def swap() -> None:
        if not streams:
            streams.append(await asyncio.open_connection("127.0.0.1", servers.memcached))
            streams[0][1].write(b"set %b 0 0 200\r\n%b\r\n" % (key, value))
            await streams[0][0].readline()
        reader, writer = streams[0]
        writer.write(b"gets %b\r\n" % key)
        token = (await reader.readline()).split()[-1]
        await reader.readexactly(len(value) + 2)
        await reader.readline()
        writer.write(b"cas %b 0 0 200 %b\r\n%b\r\n" % (key, token, value))
        assert await reader.readline() == b"STORED\r\n"

    return swap


def spaced(servers: Servers, terms: Terms) -> Callable[[], Any]:
    """nekkar with a spacing that binds, within windows that do not."""
    limiter = Nekkar(url_of("memcached", servers))
    return limiter(terms.name, 100_000, period=1.0, spacing=terms.period / terms.calls).acquire


def _memcached(servers: Servers) -> Any:
    from pymemcache.client.base import Client

    return Client(("127.0.0.1", servers.memcached), no_delay=True)


def _until_yes(ask: Callable[[], bool]) -> Callable[[], None]:
    def admit() -> None:
        while not ask():
            time.sleep(POLL_S)

    return admit


NEKKAR = Contender("nekkar, memcached", "nekkar", "memcached", nekkar("memcached"), exact=True)
FIXED_WINDOW, MOVING_WINDOW = "FixedWindowRateLimiter", "MovingWindowRateLimiter"
FIXED = Contender("limits fixed window, memcached", "limits", "memcached", limits(FIXED_WINDOW, "memcached"))
MOVING_MEMORY = Contender("limits moving window, memory", "limits", "memory", limits(MOVING_WINDOW, "memory"))
NEKKAR_MEMORY = Contender("nekkar, memory", "nekkar", "memory", nekkar("memory"), exact=True)
INCR = Contender("floor: memcached incr", "pymemcache", "memcached", incr)
GETS_CAS = Contender("floor: memcached gets+cas", "pymemcache", "memcached", gets_cas)

PYRATE_REDIS = Contender("PyrateLimiter, redis", "pyrate_limiter", "redis", pyrate("redis"), exact=True)

SHARED = [
    NEKKAR,
    Contender("nekkar, redis", "redis", "redis", nekkar("redis"), exact=True),
    Contender("nekkar, sqlite", "nekkar", "sqlite", nekkar("sqlite"), exact=True),
    FIXED,
    Contender(
        "limits sliding counter, memcached",
        "limits",
        "memcached",
        limits("SlidingWindowCounterRateLimiter", "memcached"),
    ),
    Contender("limits moving window, redis", "limits", "redis", limits(MOVING_WINDOW, "redis")),
    PYRATE_REDIS,
    Contender("PyrateLimiter, sqlite", "pyrate_limiter", "sqlite", pyrate("sqlite"), exact=True),
    Contender("throttled-py GCRA, redis", "throttled", "redis", throttled("gcra", "redis")),
]
IN_PROCESS = [
    NEKKAR_MEMORY,
    MOVING_MEMORY,
    Contender("limits fixed window, memory", "limits", "memory", limits(FIXED_WINDOW, "memory")),
    Contender("PyrateLimiter, memory", "pyrate_limiter", "memory", pyrate("memory"), exact=True),
    Contender("throttled-py GCRA, memory", "throttled", "memory", throttled("gcra", "memory")),
]
FLOORS = [INCR, GETS_CAS, Contender("floor: redis INCRBY", "redis", "redis", incrby)]

NEKKAR_ASYNC = Contender("nekkar async, memcached", "nekkar", "memcached", nekkar_async("memcached"), exact=True)
NEKKAR_ASYNC_MEMORY = Contender("nekkar async, memory", "nekkar", "memory", nekkar_async("memory"), exact=True)
AIOMCACHE = Contender("floor: aiomcache gets+cas", "aiomcache", "memcached", aiomcache)
PAIR_IN_TASK = Contender("floor: gets+cas in a task", "nekkar", "memcached", pair_in_task)
SPACED = Contender("nekkar with a spacing, memcached", "nekkar", "memcached", spaced, exact=True)
ASYNC = [
    NEKKAR_ASYNC,
    NEKKAR_ASYNC_MEMORY,
    Contender("aiolimiter, memory", "aiolimiter", "memory", aiolimiter),
    AIOMCACHE,
    PAIR_IN_TASK,
]
BY_NAME = {each.name: each for each in [*SHARED, *IN_PROCESS, *FLOORS, *ASYNC, SPACED]}

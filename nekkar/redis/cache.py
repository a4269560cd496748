"""Redis and Valkey: a cache of a fleet on several machines, over the connections of redis-py or valkey.

Rules:

- What is stored is a version and, behind it, the value. A swap is one script that compares versions. A
  version is random in part: a key deleted and set again, on a server flushed or restarted too, never has
  an old one.
- A version also tells from which creation of its key it descends, and how many swaps on. A server can come
  back with an older state (a snapshot, a failover to a replica that lagged). Who had seen a later version
  of the same descent then reads no value: the limit's log counts as lost, as after a flush.
- A write is never sent twice: whether the first one landed nobody knows. So the library's retries are off.
- Connections are nekkar's own (pool.py says how they live and die; redis_wire.py, how long a command takes and
  what counts as its answer). Of a client that is given, only the class and the arguments of its connections are
  used; but a cluster's is used itself, with its own timeouts.
- A read that meets a kept connection which was closed meanwhile, or which holds what is not its answer, is tried
  once more, on a new one.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from secrets import token_bytes
from typing import Any, TypeVar
from zlib import crc32

from nekkar.core.cache import BaseCache
from nekkar.core.cache.base import text, too_long
from nekkar.core.cache.memcached.meta import ProtocolError
from nekkar.core.cache.pool import Pool
from nekkar.core.clock import monotonic
from nekkar.core.errors import CacheError, ConfigurationError, CorruptLog, plain, shown
from nekkar.core.quota import SECOND, to_us
from nekkar.core.window.codec import LONGEST_STATE
from nekkar.redis.client import failures, is_cluster, library_of, made, place, settings, split_timeout
from nekkar.redis.wire import (
    ADD,
    DELETE,
    GET,
    NOTHING,
    OK,
    SET,
    SWAP,
    TIME,
    TOO_LONG,
    ask,
    connected,
    sent,
    without_words,
)

__all__ = ["RedisCache"]

T = TypeVar("T")
Ask = Callable[..., bytes]  # asks for one command, returns its answer
Token = tuple[bytes, bytes]  # the version that must stand, and the descent that a swap carries on

MARK = b"nk"
# Where the parts of a version end: mark and descent, swaps since, random, CRC-32 of these.
DESCENT, COUNT, RANDOM, VERSION = 8, 16, 20, 24
LONGEST_TTL = 10**12  # seconds; Redis counts in milliseconds, in 64 bits
MOST_SEEN = 20_000

_REMEDIES = {  # by what an error's types and words contain, inside a script too; the first counts
    "ProtocolError|InvalidResponse": "that connection is closed, and the call may be repeated",
    "ReadOnlyError|READONLY": "it is a replica; give the address of its primary",
    "AskError": "it is one node of a cluster; give a redis.cluster.RedisCluster client",  # and MovedError
    "WRONGTYPE": "nekkar did not write it; delete the key",
    "MOVED": "it is one node of a cluster; give a valkey.cluster.ValkeyCluster client",  # valkey has no error for it
    r"OutOfMemoryError|\bOOM\b": "it is full; raise its maxmemory, or give limits a server of their own",
    "BusyLoadingError": "it is loading its data; call again once it is done",
    "AuthenticationError": "see the user name and the password",
    "NoPermissionError|executing the script": "allow this user EVAL, GET, GETRANGE, SET, DEL and TIME on these keys",
    "ConnectionError": "see that it runs and can be reached",
}


class RedisCache(BaseCache):
    """One Redis or Valkey: ``RedisCache("redis://localhost:6379/0")``, ``RedisCache("localhost", 6379, db=0)``.

    ``host`` may be a URL (``redis://``, ``rediss://``, ``unix://``, ``valkey://``, ``valkeys://``), or a
    client: ``redis.Redis``, ``valkey.Valkey``, or a cluster's. ``timeout``: seconds that a command may take, its
    connecting and the whole of its answer included, whatever a client has (a cluster's client keeps its own).
    ``options``: whatever else ``redis.Redis`` takes. A cache made of a client can't be pickled.
    """

    in_process = False

    def __init__(
        self, host: Any = "localhost", port: int = 6379, db: int = 0, *, timeout: float = 1.0, **options: Any
    ) -> None:
        host, self._timeout = split_timeout(host, timeout)
        to_us(self._timeout, "Redis timeout", SECOND // 1000, 3600 * SECOND)
        self._args = (host, port, db, self._timeout, options)
        self._client = made(host, port, db, options)
        self._library = library_of(self._client)
        self._failures = failures(self._library)
        self._place = place(self._client)
        self._class, self._settings = settings(self._client, self._timeout, options)
        self._pool: Pool[Any] = Pool(self._connect, lambda connection: connection.disconnect())
        self._seen: dict[str, bytes] = {}

    def __repr__(self) -> str:
        return f"RedisCache({self._place!r}, timeout={plain(self._timeout)})"

    def __reduce__(self) -> tuple[Any, ...]:
        if not isinstance(self._args[0], str):
            raise ConfigurationError(f"{self!r} was made of a client and can't be pickled; make it of a URL")
        return _remade, self._args

    def add(self, key: str, value: str) -> bool:
        """Set ``key`` only if it is not set already; return whether it was set now."""
        stored = _after(b"") + value.encode()
        return self._run(key, lambda ask: ask(ADD, stored)) == OK

    def get(self, key: str) -> str | None:
        """Return the value of ``key``, or None where there is none."""
        stored = self._stored(key)
        return None if stored is None else text(stored[1], f"Redis at {self._place}", key)

    def set(self, key: str, value: str) -> None:
        """Set ``key`` to ``value``, whatever was there."""
        stored = _after(b"") + value.encode()
        self._run(key, lambda ask: ask(SET, stored))

    def delete(self, key: str) -> None:
        """Remove ``key``; nothing happens where it is not set."""
        self._run(key, lambda ask: ask(DELETE))

    def gets(self, key: str) -> tuple[bytes | None, Token]:
        """Return the value of ``key`` (None where there is none) and a token for ``cas``."""
        seen = self._seen.get(key, b"")  # before the read is sent: its answer can't be older, or the server is
        stored = self._stored(key)
        if stored is None:
            return None, (b"", b"")
        version, value = stored
        if version[:DESCENT] == seen[:DESCENT] and version[:COUNT] < seen:
            return None, (version, b"")
        return value, self._saw(key, version)

    def cas(self, key: str, value: bytes, token: Token, ttl: int) -> Token | None:
        """Write ``value`` for ``ttl`` seconds if ``key`` is as when ``token`` was read; return its token, or None."""
        standing, descent = token
        version = _after(descent)
        won = self._run(key, lambda ask: ask(SWAP, standing, version + value, min(ttl, LONGEST_TTL)))
        return self._saw(key, version) if won == OK else None

    def tell_time(self, now: Callable[[], int]) -> tuple[int, int, int] | None:
        """Return the server's clock between two readings of ``now``, all in microseconds.

        None for a cluster, whose nodes have a clock each. Raises CacheError where the server is away.
        """

        def command(ask: Ask) -> tuple[int, int, int]:
            before = now()
            seconds, rest = ask(TIME).split()
            return before, int(seconds) * SECOND + int(rest), now()

        return None if is_cluster(self._client) else self._read("", command)

    def _stored(self, key: str) -> tuple[bytes, bytes] | None:
        """Read a version and its value; CorruptLog where the key holds anything else."""
        answer = self._read(key, lambda ask: ask(GET, LONGEST_STATE + VERSION))
        if answer == NOTHING:
            return None
        if answer.startswith(TOO_LONG):
            raise too_long(int(answer[1:]), f"Redis at {self._place}", key)
        raw = answer[1:]
        if len(raw) < VERSION or raw[RANDOM:VERSION] != _check(raw[:RANDOM]):
            raise CorruptLog(
                f"Redis at {self._place}: key {shown(key)} holds what nekkar did not write; delete the key"
            )
        return raw[:VERSION], raw[VERSION:]

    def _saw(self, key: str, version: bytes) -> Token:
        if len(self._seen) >= MOST_SEEN:
            self._seen = {}
        self._seen[key] = version[:COUNT]
        return version, version[:COUNT]

    def _connect(self, until: float) -> Any:
        return connected(self._class, self._settings, until)

    def _read(self, key: str, command: Callable[[Ask], T]) -> T:
        """Run a command that may be repeated."""
        until = monotonic() + self._timeout
        kept = self._pool.has_idle
        try:
            return self._run(key, command, until)
        except CacheError as error:
            broken = ("ConnectionError", "ProtocolError", "InvalidResponse")
            if not kept or type(error.__cause__).__name__ not in broken:
                raise
        return self._run(key, command, until)

    def _run(self, key: str, command: Callable[[Ask], T], until: float | None = None) -> T:
        until = monotonic() + self._timeout if until is None else until
        keys = (key,) if key else ()
        try:
            if is_cluster(self._client):
                return self._on_cluster(key, command)
            return self._pool.run(lambda it: command(partial(ask, partial(sent, it, until), keys)), until)
        except self._failures as error:
            failure = error
        # Raised here: a cluster's client connects inside a command, so the context could tell what the server said.
        cause = failure if not is_cluster(self._client) else without_words(failure)
        refused = isinstance(cause, self._library.exceptions.ResponseError)
        kind = CorruptLog if refused and "WRONGTYPE" in str(cause) else CacheError
        raise kind(self._told(key, cause)) from cause

    def _on_cluster(self, key: str, command: Callable[[Ask], T]) -> T:
        node = self._client.get_node_from_key(key)  # its primary; a command with a node is not retried
        try:
            return command(partial(ask, partial(self._client.execute_command, target_nodes=node), (key,)))
        except ProtocolError:
            library = getattr(node, f"{self._library.__name__}_connection")
            library.connection_pool.disconnect(inuse_connections=False)
            raise

    def _told(self, key: str, cause: BaseException) -> str:
        types = [base.__name__ for base in type(cause).__mro__]
        if "TimeoutError" in types:
            what = f"did not answer within {plain(self._timeout)} s"
            return f"Redis at {self._place} {what}; see that it runs and can be reached, or allow a longer timeout"
        signs = " ".join([*types, str(cause)])
        found = [remedy for sign, remedy in _REMEDIES.items() if re.search(sign, signs)]
        remedy = found[0] if found else "see what holds the key"
        where = f"Redis at {self._place}, key {shown(key)}" if key else f"Redis at {self._place}"
        what = f" {cause}" if isinstance(cause, ProtocolError) else f": {type(cause).__name__}: {cause}"
        return f"{where}{what}; {remedy}"


def _after(descent: bytes) -> bytes:
    """Return the version of a swap that carries on ``descent``, or of a new creation of a key."""
    count = int.from_bytes(descent[DESCENT:COUNT]) + 1
    born = descent[:DESCENT] or MARK + token_bytes(DESCENT - len(MARK))
    version = born + count.to_bytes(COUNT - DESCENT) + token_bytes(RANDOM - COUNT)
    return version + _check(version)


def _check(version: bytes) -> bytes:
    return crc32(version).to_bytes(VERSION - RANDOM)


def _remade(host: str, port: int, db: int, timeout: float, options: dict[str, Any]) -> RedisCache:
    return RedisCache(host, port, db, timeout=timeout, **options)

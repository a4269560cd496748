"""Redis and Valkey: a cache of a fleet on several machines, over the connections of redis-py or valkey.

Rules:

- What is stored is a version and, behind it, the value. A swap is one script that compares versions. A
  version is random in part: a key deleted and set again, on a server flushed or restarted too, never has
  an old one.
- A version also tells from which creation of its key it descends, and how many swaps on. A server can come
  back with an older state (a snapshot, a failover to a replica that lagged). Who had seen a later version
  of the same descent then reads no value: the limit's log counts as lost, as after a flush.
- A write is never sent twice: whether the first one landed nobody knows. So the library's retries are off.
- Connections are nekkar's own (pool.py says how they live and die), always with timeouts. Of a client that is
  given, only the class and the arguments of its connections are used; but a cluster's is used itself.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from hashlib import sha1
from secrets import token_bytes
from typing import Any, TypeVar

from nekkar.core.cache import BaseCache
from nekkar.core.cache.pool import Pool
from nekkar.core.errors import CacheError, ConfigurationError, CorruptLog, shown
from nekkar.core.rate import SECOND, micros
from nekkar.redis_client import failures, is_cluster, library_of, made, place, settings, split_timeout

__all__ = ["RedisCache"]

T = TypeVar("T")
Ask = Callable[..., Any]  # sends one command, returns its answer
Token = tuple[bytes, bytes]  # the version that must stand, and the descent that a swap carries on

MARK = b"nk"
DESCENT, COUNT, VERSION = 8, 16, 24  # where the parts of a version end: mark and descent, swaps since, random
LONGEST_TTL = 10**12  # seconds; Redis counts in milliseconds, in 64 bits
MOST_SEEN = 20_000

_SWAP = """if redis.call('GETRANGE', KEYS[1], 0, 23) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'EX', ARGV[3])
return 1"""
_SHA = sha1(_SWAP.encode(), usedforsecurity=False).hexdigest()

_REMEDIES = {
    "ReadOnlyError": "it is a replica; give the address of its primary",
    "AskError": "it is one node of a cluster; give a redis.cluster.RedisCluster client",  # and MovedError
    "WRONGTYPE": "nekkar did not write it; delete the key",
    "MOVED": "it is one node of a cluster; give a valkey.cluster.ValkeyCluster client",  # valkey has no error for it
    "OutOfMemoryError": "it is full; raise its maxmemory, or give limits a server of their own",
    "BusyLoadingError": "it is loading its data; call again once it is done",
    "AuthenticationError": "see the user name and the password",
    "NoPermissionError": "allow this user GET, SET, DEL, TIME, EVAL and EVALSHA on these keys",
}


class RedisCache(BaseCache):
    """One Redis or Valkey: ``RedisCache("redis://localhost:6379/0")``, ``RedisCache("localhost", 6379, db=0)``.

    ``host`` may be a URL (``redis://``, ``rediss://``, ``unix://``, ``valkey://``, ``valkeys://``), or a
    client: ``redis.Redis``, ``valkey.Valkey``, or a cluster's. ``timeout``: seconds that connecting, and each
    read or write on a connection, may take, whatever a client has (a cluster's client keeps its own).
    ``options``: whatever else ``redis.Redis`` takes. A cache made of a client can't be pickled.
    """

    in_process = False

    def __init__(
        self, host: Any = "localhost", port: int = 6379, db: int = 0, *, timeout: float = 1.0, **options: Any
    ) -> None:
        host, self._timeout = split_timeout(host, timeout)
        micros(self._timeout, "Redis timeout", SECOND // 1000, 3600 * SECOND)
        self._args = (host, port, db, self._timeout, options)
        self._client = made(host, port, db, options)
        self._library = library_of(self._client)
        self._failures = failures(self._library)
        self._place = place(self._client)
        self._class, self._settings = settings(self._client, self._timeout)
        self._pool: Pool[Any] = Pool(self._connect, lambda connection: connection.disconnect())
        self._seen: dict[str, bytes] = {}

    def __repr__(self) -> str:
        return f"RedisCache({self._place!r}, timeout={self._timeout:g})"

    def __reduce__(self) -> tuple[Any, ...]:
        if not isinstance(self._args[0], str):
            raise ConfigurationError(f"{self!r} was made of a client and can't be pickled; make it of a URL")
        return _remade, self._args

    def add(self, key: str, value: str) -> bool:
        """Set ``key`` only if it is not set already; return whether it was set now."""
        stored = _after(b"") + value.encode()
        return bool(self._run(key, lambda ask: ask("SET", key, stored, "NX")))

    def get(self, key: str) -> str | None:
        """Return the value of ``key``, or None where there is none."""
        stored = self._stored(key)
        return None if stored is None else stored[1].decode()

    def set(self, key: str, value: str) -> None:
        """Set ``key`` to ``value``, whatever was there."""
        stored = _after(b"") + value.encode()
        self._run(key, lambda ask: ask("SET", key, stored))

    def delete(self, key: str) -> None:
        """Remove ``key``; nothing happens where it is not set."""
        self._run(key, lambda ask: ask("DEL", key))

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
        words = (1, key, standing, version + value, min(ttl, LONGEST_TTL))

        def swap(ask: Ask) -> Any:
            try:
                return ask("EVALSHA", _SHA, *words)
            except self._library.exceptions.NoScriptError:  # flushed or restarted: nothing was run
                return ask("EVAL", _SWAP, *words)

        return self._saw(key, version) if self._run(key, swap) else None

    def tell_time(self, now: Callable[[], int]) -> tuple[int, int, int] | None:
        """Return the server's clock between two readings of ``now``, all in microseconds.

        None for a cluster, whose nodes have a clock each. Raises CacheError where the server is away.
        """

        def command(ask: Ask) -> tuple[int, int, int]:
            before = now()
            seconds, rest = ask("TIME")
            return before, int(seconds) * SECOND + int(rest), now()

        return None if is_cluster(self._client) else self._read("", command)

    def _stored(self, key: str) -> tuple[bytes, bytes] | None:
        """Read a version and its value; CorruptLog where the key holds anything else."""
        raw = self._read(key, lambda ask: ask("GET", key))
        if raw is None:
            return None
        if len(raw) < VERSION or not raw.startswith(MARK):
            raise CorruptLog(
                f"Redis at {self._place}: key {shown(key)} holds what nekkar did not write; delete the key"
            )
        return raw[:VERSION], raw[VERSION:]

    def _saw(self, key: str, version: bytes) -> Token:
        if len(self._seen) >= MOST_SEEN:
            self._seen = {}
        self._seen[key] = version[:COUNT]
        return version, version[:COUNT]

    def _connect(self) -> Any:
        connection = self._class(**self._settings)
        try:
            connection.connect()
        except BaseException:
            connection.disconnect()
            raise
        return connection

    def _read(self, key: str, command: Callable[[Ask], T]) -> T:
        """Run a command that may be repeated: once more where a kept connection had been closed meanwhile."""
        kept = self._pool.has_idle
        try:
            return self._run(key, command)
        except CacheError as error:
            if not kept or type(error.__cause__).__name__ != "ConnectionError":
                raise
        return self._run(key, command)

    def _run(self, key: str, command: Callable[[Ask], T]) -> T:
        try:
            if is_cluster(self._client):
                node = self._client.get_node_from_key(key)  # its primary; a command with a node is not retried
                return command(partial(self._client.execute_command, target_nodes=node))
            return self._pool.run(lambda connection: command(partial(_ask, connection)))
        except self._failures as cause:
            kind = CorruptLog if "WRONGTYPE" in str(cause) else CacheError
            raise kind(self._told(key, cause)) from cause

    def _told(self, key: str, cause: BaseException) -> str:
        names = [base.__name__ for base in type(cause).__mro__] + str(cause).split()[:1]
        if "TimeoutError" in names:
            what = f"did not answer within {self._timeout:g} s"
            return f"Redis at {self._place} {what}; see that it runs and can be reached, or allow a longer timeout"
        found = [_REMEDIES[name] for name in names if name in _REMEDIES]
        other = "see that it runs and can be reached" if "ConnectionError" in names else "see what holds the key"
        remedy = found[0] if found else other
        where = f"Redis at {self._place}, key {shown(key)}" if key else f"Redis at {self._place}"
        return f"{where}: {type(cause).__name__}: {cause}; {remedy}"


def _ask(connection: Any, *words: Any) -> Any:
    connection.send_command(*words)
    return connection.read_response()


def _after(descent: bytes) -> bytes:
    """Return the version of a swap that carries on ``descent``, or of a new creation of a key."""
    count = int.from_bytes(descent[DESCENT:COUNT]) + 1
    born = descent[:DESCENT] or MARK + token_bytes(DESCENT - len(MARK))
    return born + count.to_bytes(COUNT - DESCENT) + token_bytes(VERSION - COUNT)


def _remade(host: str, port: int, db: int, timeout: float, options: dict[str, Any]) -> RedisCache:
    return RedisCache(host, port, db, timeout=timeout, **options)

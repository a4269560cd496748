"""memcached: the cache of a fleet on several machines."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from typing import TYPE_CHECKING, Any, TypeVar

from nekkar.core.cache.base import BaseCache
from nekkar.core.cache.pool import Pool
from nekkar.core.cache.watch import read_clock
from nekkar.core.clock import SystemClock
from nekkar.core.errors import CacheError, ConfigurationError, shown
from nekkar.core.rate import SECOND, micros, whole

if TYPE_CHECKING:
    from pymemcache.client.base import Client

T = TypeVar("T")

RELATIVE_TTL_MAX = 30 * 86_400  # past this memcached reads an expiry as a date
LAST_DATE = 2**31 - 1


class MemcachedCache(BaseCache):
    """One memcached server: ``MemcachedCache("localhost", 11211)``, or the path of its Unix socket.

    ``timeout``: seconds that connecting, and each read or write on the connection, may take.
    """

    in_process = False

    def __init__(self, host: str = "localhost", port: int = 11211, *, timeout: float = 1.0) -> None:
        if not isinstance(host, str) or not host:
            raise ConfigurationError(f"memcached host {shown(host)} is no host name or socket path")
        micros(timeout, "memcached timeout", SECOND // 1000, 3600 * SECOND)
        self._args = (host, whole(port, "memcached port", 65_535), timeout)
        self._server: Any = host if host.startswith("/") else (host, port)
        self._pool: Pool[Client] = Pool(self._connect, lambda client: client.close())

    def __repr__(self) -> str:
        host, port, timeout = self._args
        return f"MemcachedCache({host!r}, {port}, timeout={timeout:g})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _remade, self._args

    def add(self, key: str, value: str) -> bool:
        """Set ``key`` only if it is not set already; return whether it was set now."""
        return self._run(lambda client: bool(client.add(key, value.encode(), noreply=False)))

    def get(self, key: str) -> str | None:
        """Return the value of ``key``, or None where there is none."""
        value = self._read(lambda client: client.get(key))
        return None if value is None else value.decode()

    def set(self, key: str, value: str) -> None:
        """Set ``key`` to ``value``, whatever was there."""
        if not self._run(lambda client: client.set(key, value.encode(), noreply=False)):
            raise CacheError(f"memcached at {self._where} did not store key {shown(key)}")

    def delete(self, key: str) -> None:
        """Remove ``key``; nothing happens where it is not set."""
        self._run(lambda client: client.delete(key, noreply=False))

    def gets(self, key: str) -> tuple[bytes | None, Any]:
        """Return the value of ``key`` (None where there is none) and a token for ``cas``."""

        def command(client: Client) -> tuple[bytes | None, Any]:
            generation = self._pool.generation  # before the read: later it may be a restarted server's
            value, token = client.gets(key)
            return value, (generation, token)

        return self._read(command)

    def cas(self, key: str, value: bytes, token: Any, ttl: int) -> bool:
        """Write ``value`` for ``ttl`` seconds if ``key`` is as when ``token`` was read; return whether."""
        generation, unique = token
        expire = _expiry(ttl)

        def command(client: Client) -> bool:
            if self._pool.generation != generation:
                return False
            if unique is None:
                return bool(client.add(key, value, expire=expire, noreply=False))
            return bool(client.cas(key, value, unique, expire=expire, noreply=False))

        return self._run(command)

    def tell_time(self, now: Callable[[], int]) -> tuple[int, int, int] | None:
        """Return (before, server, after): the server's clock in µs, by its log; None where that may not be watched."""

        def command(client: Client) -> tuple[int, int, int] | None:
            with closing(self._connect()) as watcher:
                return read_clock(watcher.sock, lambda key: client.set(key, b"", expire=-1), now, self._args[2])

        return self._read(command)

    def _connect(self) -> Client:
        from pymemcache.client.base import Client

        timeout = self._args[2]
        client = Client(
            self._server,
            connect_timeout=timeout,
            timeout=timeout,
            no_delay=not isinstance(self._server, str),
            default_noreply=False,
            ignore_exc=False,
        )
        try:
            client.version()  # connects: a Client left alone would do so at its first command
        except BaseException:
            client.close()
            raise
        return client

    def _read(self, command: Callable[[Client], T]) -> T:
        """Run a command that may be repeated: once more where a kept connection had been closed meanwhile."""
        kept = self._pool.has_idle
        try:
            return self._run(command)
        except CacheError as error:
            if not kept or isinstance(error.__cause__, TimeoutError):
                raise
        return self._run(command)

    def _run(self, command: Callable[[Client], T]) -> T:
        from pymemcache.exceptions import MemcacheError

        try:
            return self._pool.run(command)
        except TimeoutError as cause:
            raise CacheError(
                f"memcached at {self._where} did not answer within {self._args[2]:g} s; see that it runs and can be"
                " reached, or allow a longer timeout"
            ) from cause
        except (OSError, MemcacheError, ValueError, LookupError) as cause:
            raise CacheError(
                f"memcached at {self._where}: {type(cause).__name__}: {cause}; see that it runs and can be reached"
            ) from cause

    @property
    def _where(self) -> str:
        host, port, _ = self._args
        return host if host.startswith("/") else f"{host}:{port}"


def _remade(host: str, port: int, timeout: float) -> MemcachedCache:
    return MemcachedCache(host, port, timeout=timeout)


def _expiry(ttl: int) -> int:
    """Return seconds from now as memcached takes them: past 30 days as a date, past 2^31 as never."""
    if ttl <= RELATIVE_TTL_MAX:
        return ttl
    date = SystemClock().now_us() // SECOND + ttl
    return date if date <= LAST_DATE else 0

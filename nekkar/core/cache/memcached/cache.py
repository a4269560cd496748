"""memcached: the cache of a fleet on several machines."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

from nekkar.core.cache.base import UNREAD, BaseCache, text
from nekkar.core.cache.memcached.address import PORT, addresses, at, pick_server, ranked
from nekkar.core.cache.memcached.clock import read_clock
from nekkar.core.cache.memcached.server import Connection, Server
from nekkar.core.errors import CacheError, ConfigurationError, kind_of, plain, shown
from nekkar.core.quota import SECOND, to_us

if TYPE_CHECKING:
    import ssl
    from collections.abc import Sequence

    from nekkar.core.cache.memcached.address import Address

RELATIVE_TTL_MAX = 30 * 86_400  # past this memcached reads an expiry as a date
LAST_DATE = 2**31 - 1
LONGEST_KEY = 250
CLOCK_KEY = "nekkar:clock"  # its server tells the time; nothing is stored under it


class MemcachedCache(BaseCache):
    """One memcached server: ``MemcachedCache("localhost", 11211)``, or the path of its Unix socket; or several.

    ``servers``: several, as pymemcache names them: ``[("h1", 11211), "h2", "[::1]:11211", "/a/socket"]``. Each
    key has one of them, in whatever order they stand; write them alike in every process. One that is away is
    a CacheError for its keys alone.
    ``timeout``: seconds that a command may take, its connecting and the whole of its answer included.
    ``tls_context``: an ``ssl.SSLContext`` to connect with, or True for one that trusts what the system trusts.
    A cache with a context of yours can't be pickled, since the context can't.
    """

    in_process = False

    def __init__(
        self,
        host: str = "localhost",
        port: int = PORT,
        *,
        servers: Sequence[tuple[str, int] | str | Address] | None = None,
        timeout: float = 1.0,
        tls_context: ssl.SSLContext | bool | None = None,
    ) -> None:
        if servers is not None and (host, port) != ("localhost", PORT):
            raise ConfigurationError("memcached host is given beside servers; put it into the list")
        to_us(timeout, "memcached timeout", SECOND // 1000, 3600 * SECOND)
        found = (at(host, port),) if servers is None else addresses(servers)
        if not isinstance(tls_context, bool | None) and not hasattr(tls_context, "wrap_socket"):
            raise ConfigurationError(f"tls_context must be an ssl.SSLContext, True or None, got {kind_of(tls_context)}")
        if tls_context and any(each.port is None for each in found):
            raise ConfigurationError("a memcached socket takes no TLS; leave out tls_context")
        self.addresses: tuple[Address, ...] = found
        self.timeout, self.tls_context = timeout, tls_context or None
        self._servers = {each: Server(each, timeout, self.tls_context) for each in found}
        self._server_of = lru_cache(1024)(partial(_server_of, self._servers))

    def __repr__(self) -> str:
        host, port = self.addresses[0].host, self.addresses[0].port
        where = f"{host!r}, {port or PORT}" if len(self.addresses) == 1 else f"servers={[*map(str, self.addresses)]}"
        tls = f", tls_context={self.tls_context}" if self.tls_context else ""
        return f"MemcachedCache({where}, timeout={plain(self.timeout)}{tls})"

    def __reduce__(self) -> tuple[Any, ...]:
        if self.tls_context not in (None, True):
            raise ConfigurationError(
                "a memcached cache with an ssl.SSLContext can't be pickled, since the context can't; make the cache in"
                " the other process, or use tls_context=True (memcacheds:// in a URL)"
            )
        return _remade, (self.addresses, self.timeout, self.tls_context)

    def add(self, key: str, value: str) -> bool:
        """Set ``key`` only if it is not set already; return whether it was set now."""
        data = value.encode()
        return self._server_of(key).write(lambda connection: connection.swap(key, data, None, 0)) is not None

    def get(self, key: str) -> str | None:
        """Return the value of ``key``, or None where there is none."""
        server = self._server_of(key)
        value = server.read(lambda connection: connection.get(key))
        return None if value is None else text(value, f"memcached at {server.address}", key)

    def set(self, key: str, value: str) -> None:
        """Set ``key`` to ``value``, whatever was there."""
        data = value.encode()
        self._server_of(key).write(lambda connection: connection.set(key, data))

    def delete(self, key: str) -> None:
        """Remove ``key``; nothing happens where it is not set."""
        self._server_of(key).write(lambda connection: connection.delete(key))

    def gets(self, key: str) -> tuple[bytes | None, Any]:
        """Return the value of ``key`` (None where there is none) and a token for ``cas``."""
        server = self._server_of(key)

        def command(connection: Connection) -> tuple[bytes | None, Any]:
            generation = server.pool.generation  # before the read: later it may be a restarted server's
            value, unique = connection.gets(key)
            return value, (generation, unique)

        return server.read(command)

    def cas(self, key: str, value: bytes, token: Any, ttl: int) -> Any:
        """Write ``value`` for ``ttl`` seconds if ``key`` is as when ``token`` was read; return the new token.

        None where it was not written; UNREAD where it was, and the server tells no token (before 1.6.18).
        """
        if token is UNREAD:
            return None
        server = self._server_of(key)
        generation, unique = token
        if unique == b"0":
            raise CacheError(f"memcached at {server.address} keeps no tokens to swap by; start it without -C")

        def command(connection: Connection) -> Any:
            if server.pool.generation != generation:
                return None
            new = connection.swap(key, value, unique, _expiry(ttl, partial(server.date, connection)))
            return new if new is None or new is UNREAD else (generation, new)

        return server.write(command)

    def tell_time(self, now: Callable[[], int]) -> tuple[int, int, int] | None:
        """Return (before, server, after): a server's clock in µs, by its log; None where that may not be watched.

        Of several servers it is always the same one's, wherever it stands in the list.
        """
        return self._told_by(self._server_of(CLOCK_KEY), now)

    def tell_time_elsewhere(self, now: Callable[[], int]) -> tuple[int, int, int] | None:
        """Return what ``tell_time`` does, by the next server, in an order that all processes share, that answers.

        For a process that starts while the first is away: its limits on the others need a time. Raises CacheError.
        """
        _, *others = ranked(self.addresses, CLOCK_KEY)
        error = CacheError("no other memcached server tells the time")
        for other in others:
            try:
                return self._told_by(self._servers[other], now)
            except CacheError as away:
                error = away
        raise error

    def server_of(self, key: str) -> str:
        """Return which of several servers keeps a key, as errors name it; "" for the only one."""
        return str(self._server_of(key).address) if len(self.addresses) > 1 else ""

    def _told_by(self, server: Server, now: Callable[[], int]) -> tuple[int, int, int] | None:
        def command(connection: Connection) -> tuple[int, int, int] | None:
            with closing(server.connect()) as watcher:
                return read_clock(watcher, lambda key: connection.swap(key, b"", None, -1), now, self.timeout)

        return server.write(command)


def _remade(servers: Sequence[Any], timeout: float, tls_context: bool | None) -> MemcachedCache:
    return MemcachedCache(servers=servers, timeout=timeout, tls_context=tls_context)


def _server_of(servers: dict[Address, Server], key: str) -> Server:
    """Return the server of a key that memcached takes; ConfigurationError for any other."""
    if not (isinstance(key, str) and key.isascii() and key.isprintable() and " " not in key):
        raise ConfigurationError(f"memcached key must be printable ASCII without spaces, got {shown(key)}")
    if not 1 <= len(key) <= LONGEST_KEY:
        raise ConfigurationError(f"memcached key {shown(key)} has {len(key)} characters; give 1 to {LONGEST_KEY}")
    return servers[pick_server(tuple(servers), key)]


def _expiry(ttl: int, date: Callable[[int], int | None]) -> int:
    """Return seconds from now as memcached takes them: past 30 days as a date, past 2^31 as never.

    The date is by that very server's clock: by any other that is far off, the value would be dropped at once. Where
    the server does not tell its time, the value never expires.
    """
    if ttl <= RELATIVE_TTL_MAX:
        return ttl
    found = date(ttl)
    return found if found is not None and found <= LAST_DATE else 0

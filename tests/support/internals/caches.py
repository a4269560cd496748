"""The caches, their servers, connections and streams."""

from __future__ import annotations

import socket
import sqlite3
from collections.abc import Callable
from typing import Any

from nekkar.core.cache import MemcachedCache, SqliteCache, machine_clock, memory, pool, sqlite, stream
from nekkar.core.cache.machine_clock import MachineClock
from nekkar.core.cache.memcached import clock, meta
from nekkar.core.cache.memcached.address import Address, address, pick_server
from nekkar.core.cache.memcached.cache import CLOCK_KEY, LAST_DATE, RELATIVE_TTL_MAX, _expiry
from nekkar.core.cache.memcached.classic import Classic
from nekkar.core.cache.memcached.clock import read_clock, stamp_us
from nekkar.core.cache.memcached.meta import Meta
from nekkar.core.cache.memcached.server import Server
from nekkar.core.cache.pool import Pool
from nekkar.core.cache.redaction import SCHEMES, redacted
from nekkar.core.cache.stream import Stream


def servers_of(cache: MemcachedCache) -> dict[Address, Server]:
    """Return the servers of a cache, by address."""
    return cache._servers


def pool_of(cache: Any) -> Pool[Any]:
    """Return the connections of a SQLite or Redis cache."""
    found: Pool[Any] = cache._pool
    return found


def idle_in(connections: Pool[Any]) -> Any:
    """Return the connections of a pool that nobody uses."""
    return connections._idle


def socket_of(connected: Stream) -> socket.socket:
    """Return the socket of a stream."""
    return connected._socket


def speak_classic(cache: MemcachedCache, *, only: bool) -> None:
    """Make a cache take its servers for old ones that know no meta commands, or not."""
    for server in cache._servers.values():
        server._refuses = only


def run_sql(cache: SqliteCache, command: Callable[[sqlite3.Connection], object]) -> None:
    """Give a command the connection of a cache."""
    cache._run(command)

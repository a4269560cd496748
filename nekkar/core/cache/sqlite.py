"""SQLite: the cache of several processes on one machine, with no server.

One small table in WAL mode. A value's version is random, so that a key deleted and set again never
has its old version. The file must be on a local disk: SQLite's locks are not safe on network shares.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from secrets import randbits
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakValueDictionary

from nekkar.core.cache.base import UNREAD, BaseCache, text, too_long
from nekkar.core.cache.machine_clock import MachineClock
from nekkar.core.cache.pool import Pool
from nekkar.core.clock import monotonic
from nekkar.core.errors import CacheError, ConfigurationError, shown
from nekkar.core.quota import SECOND, micros
from nekkar.core.window.codec import LONGEST_LOG

if TYPE_CHECKING:
    import sqlite3

T = TypeVar("T")

SWEEP_EVERY = 1000
NEVER = 1 << 62

_SCHEMA = """CREATE TABLE IF NOT EXISTS nekkar
    (key TEXT PRIMARY KEY, value BLOB NOT NULL, version INTEGER NOT NULL, dies_at INTEGER NOT NULL) WITHOUT ROWID"""
# The length of a blob is known without reading it.
_GET = f"""SELECT iif(length(value) <= {LONGEST_LOG}, value, NULL), version, length(value)
    FROM nekkar WHERE key = ? AND dies_at > ?"""
_PUT = """INSERT INTO nekkar (key, value, version, dies_at) VALUES (?, ?, ?, ?) ON CONFLICT (key)
    DO UPDATE SET value = excluded.value, version = excluded.version, dies_at = excluded.dies_at"""
_ADD = _PUT + " WHERE dies_at <= ?"
_SWAP = "UPDATE nekkar SET value = ?, version = ?, dies_at = ? WHERE key = ? AND version = ? AND dies_at > ?"
_DELETE = "DELETE FROM nekkar WHERE key = ?"
_SWEEP = "DELETE FROM nekkar WHERE dies_at <= ?"


class SqliteCache(BaseCache):
    """A file: ``SqliteCache("limits.db")``; made where it is not there, its folder is not.

    ``timeout``: seconds that a command may wait for other processes' writes.
    """

    in_process = False

    def __init__(self, path: str | os.PathLike[str], *, timeout: float = 1.0) -> None:
        name = os.fspath(path) if isinstance(path, os.PathLike) else path
        if not isinstance(name, str) or not name or name == ":memory:" or "\0" in name:
            raise ConfigurationError(f"SQLite path {shown(path)} names no file; use MemoryCache() for none")
        micros(timeout, "SQLite timeout", SECOND // 1000, 3600 * SECOND)
        self._path, self._timeout = os.path.abspath(name), timeout
        self._pool: Pool[sqlite3.Connection] = Pool(self._connect, lambda connection: connection.close())
        _pools[id(self._pool)] = self._pool
        self._writes = 0
        self.machine_clock = MachineClock(lambda: self._run(lambda connection: None))

    def __repr__(self) -> str:
        return f"SqliteCache({self._path!r}, timeout={self._timeout:g})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _remade, (self._path, self._timeout)

    def add(self, key: str, value: str) -> bool:
        """Set ``key`` only if it is not set already; return whether it was set now."""
        return self._write(_ADD, key, value.encode(), randbits(62), NEVER, self._now())

    def get(self, key: str) -> str | None:
        """Return the value of ``key``, or None where there is none."""
        value, _ = self.gets(key)
        return None if value is None else text(value, f"SQLite file {self._path}", key)

    def set(self, key: str, value: str) -> None:
        """Set ``key`` to ``value``, whatever was there."""
        self._write(_PUT, key, value.encode(), randbits(62), NEVER)

    def delete(self, key: str) -> None:
        """Remove ``key``; nothing happens where it is not set."""
        self._write(_DELETE, key)

    def gets(self, key: str) -> tuple[bytes | None, int | None]:
        """Return the value of ``key`` and its version; (None, None) where there is none."""
        now = self._now()
        rows = self._run(lambda connection: connection.execute(_GET, (key, now)).fetchall())
        if not rows:
            return None, None
        value, version, size = rows[0]
        if value is None:
            raise too_long(size, f"SQLite file {self._path}", key)
        return value, version

    def cas(self, key: str, value: bytes, token: Any, ttl: int) -> int | None:
        """Write ``value`` for ``ttl`` seconds if the version of ``key`` is still ``token``; return the new version."""
        if token is UNREAD:
            return None
        now, version = self._now(), randbits(62)
        if token is None:
            won = self._write(_ADD, key, value, version, now + ttl, now)
        else:
            won = self._write(_SWAP, value, version, now + ttl, key, token, now)
        self._writes += won
        if self.machine_clock.is_to_be_seen():
            self._run(self.machine_clock.see)
        if self._writes >= SWEEP_EVERY:
            self._writes = 0
            self._write(_SWEEP, now)
        return version if won else None

    def _now(self) -> int:
        return self.machine_clock.now_us() // SECOND

    def _connect(self) -> sqlite3.Connection:
        import sqlite3

        connection = sqlite3.connect(
            self._path, timeout=self._timeout, isolation_level=None, check_same_thread=False, cached_statements=16
        )
        try:
            self._use_wal(connection)
            connection.execute("PRAGMA synchronous = NORMAL").fetchall()
            connection.execute(_SCHEMA)
            self.machine_clock.sync(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _use_wal(self, connection: sqlite3.Connection) -> None:
        """Switch to WAL; where others switch a new file at once, SQLite reports it locked without waiting."""
        import sqlite3

        deadline = monotonic() + self._timeout
        while True:
            try:
                connection.execute("PRAGMA journal_mode = WAL").fetchall()
                return
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or monotonic() > deadline:
                    raise
                threading.Event().wait(0.005)

    def _write(self, statement: str, *values: Any) -> bool:
        return self._run(lambda connection: connection.execute(statement, values).rowcount == 1)

    def _run(self, command: Callable[[sqlite3.Connection], T]) -> T:
        import sqlite3

        try:
            return self._pool.run(command)
        except sqlite3.Error as cause:
            raise CacheError(
                f"SQLite file {self._path}: {cause} (after at most {self._timeout:g} s);"
                " see that its folder exists, that it can be written and is on a local disk, or allow a longer timeout"
            ) from cause


def _remade(path: str, timeout: float) -> SqliteCache:
    return SqliteCache(path, timeout=timeout)


def _close_before_fork() -> None:
    """A child that inherits SQLite's account of the file's locks takes none itself, and loses the file."""
    for known in _pools.valuerefs():
        pool = known()
        if pool:
            pool.clear()


_pools: WeakValueDictionary[int, Pool[sqlite3.Connection]] = WeakValueDictionary()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_close_before_fork)

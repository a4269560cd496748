"""SQLite: the cache of several processes on one machine, with no server.

One small table in WAL mode. A value's version is random, so that a key deleted and set again never
has its old version. The file must be on a local disk: SQLite's locks are not safe on network shares. Rules:

- A fork copies SQLite's state: a mutex that another thread holds stays locked in the child for ever, and with an open
  connection the child takes the parent's file locks for its own. So the threads of a process call SQLite one at a
  time, under a lock that the forking thread takes first; then it closes the idle connections.
- SQLite never waits under that lock: it reports at once that the file is busy, and the command tries again later.
- When a file is removed or replaced, an open connection keeps using the old file, and processes would count apart. So
  each connection compares its files with those at its path a few times a second, and is closed if they differ.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from random import uniform
from secrets import randbits
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakValueDictionary

from nekkar.core.cache.base import UNREAD, BaseCache, text, too_long
from nekkar.core.cache.machine_clock import MachineClock
from nekkar.core.cache.pool import Pool
from nekkar.core.clock import UNSET, monotonic
from nekkar.core.errors import CacheError, ConfigurationError, kind_of, plain
from nekkar.core.quota import SECOND, to_us
from nekkar.core.runtime.fork_lock import lock_over_forks
from nekkar.core.window.codec import LONGEST_STATE

if TYPE_CHECKING:
    import sqlite3

T = TypeVar("T")
_Files = tuple[tuple[int, int] | None, ...]  # device and inode of each

SWEEP_EVERY = 1000
NEVER = 1 << 62
CHECK_EVERY_S = 0.25
SHORTEST_PAUSE_S, LONGEST_PAUSE_S = 0.001, 0.025  # SQLite's own busy handler pauses about as long
CLOSE_WITHIN_S = 1.0

_BUSY, _CORRUPT, _NOT_A_DATABASE = 5, 11, 26  # SQLite's result codes
_DAMAGED = (_CORRUPT, _NOT_A_DATABASE)

_SCHEMA = """CREATE TABLE IF NOT EXISTS nekkar
    (key TEXT PRIMARY KEY, value BLOB NOT NULL, version INTEGER NOT NULL, dies_at INTEGER NOT NULL) WITHOUT ROWID"""
# The length of a blob is known without reading it.
_GET = f"""SELECT iif(length(value) <= {LONGEST_STATE}, value, NULL), version, length(value)
    FROM nekkar WHERE key = ? AND dies_at > ?"""
_PUT = """INSERT INTO nekkar (key, value, version, dies_at) VALUES (?, ?, ?, ?) ON CONFLICT (key)
    DO UPDATE SET value = excluded.value, version = excluded.version, dies_at = excluded.dies_at"""
_ADD = _PUT + " WHERE dies_at <= ?"
_SWAP = "UPDATE nekkar SET value = ?, version = ?, dies_at = ? WHERE key = ? AND version = ? AND dies_at > ?"
_DELETE = "DELETE FROM nekkar WHERE key = ?"
_SWEEP = "DELETE FROM nekkar WHERE dies_at <= ?"


log = logging.getLogger("nekkar")


@dataclass(slots=True)
class _Opened:
    """A connection, the files that it has open, and when they were last compared with the files at the path."""

    connection: sqlite3.Connection
    files: _Files
    checked: float


class _Moved(Exception):
    """The files at the path are not those of the connection."""


class SqliteCache(BaseCache):
    """A file: ``SqliteCache("limits.db")``. A missing file is created; a missing folder is an error.

    ``timeout``: seconds that a command may wait for other processes' writes.
    """

    in_process = False

    def __init__(self, path: str | os.PathLike[str], *, timeout: float = 1.0) -> None:
        name = os.fspath(path) if isinstance(path, os.PathLike) else path
        if not isinstance(name, str):
            raise ConfigurationError(f"SQLite path must be a str or a Path, got {kind_of(path)}")
        if "://" in name:
            raise ConfigurationError("SQLite path looks like a URL; give a path such as 'limits.db', or Nekkar(url)")
        if not name or name == ":memory:" or "\0" in name:
            raise ConfigurationError(
                "SQLite path names no file; give one such as 'limits.db', or use MemoryCache() without a file"
            )
        to_us(timeout, "SQLite timeout", SECOND // 1000, 3600 * SECOND)
        self._path, self._timeout = os.path.abspath(name), timeout
        self._pool: Pool[_Opened] = Pool(self._connect, _close)
        _pools[id(self._pool)] = self._pool
        self._writes = 0
        self.machine_clock = MachineClock(lambda: self._run(lambda connection: None))

    def __repr__(self) -> str:
        return f"SqliteCache({self._path!r}, timeout={plain(self._timeout)})"

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

    def _connect(self) -> _Opened:
        import sqlite3

        before = _file(self._path)
        connection = sqlite3.connect(
            self._path, timeout=0, isolation_level=None, check_same_thread=False, cached_statements=16
        )
        try:
            connection.execute("PRAGMA journal_mode = WAL").fetchall()
            connection.execute("PRAGMA synchronous = NORMAL").fetchall()
            connection.execute(_SCHEMA)
            self.machine_clock.sync(connection)
            files = _files(self._path)
            if before and before != files[0]:  # replaced meanwhile: nobody knows which one is open
                raise _Moved
        except BaseException:
            connection.close()
            raise
        return _Opened(connection, files, monotonic())

    def _write(self, statement: str, *values: Any) -> bool:
        return self._run(lambda connection: connection.execute(statement, values).rowcount == 1)

    def _run(self, command: Callable[[sqlite3.Connection], T]) -> T:
        """Run a command, again and again while the file is busy, until the timeout."""
        import sqlite3

        until, pause = monotonic() + self._timeout, SHORTEST_PAUSE_S
        while True:
            try:
                with _one_at_a_time(until):
                    outcome = self._pool.run(partial(self._outcome, command))
                if not isinstance(outcome, sqlite3.Error):
                    return outcome
                cause: Exception = outcome
            except _Moved as moved:
                log.warning(
                    "SQLite file %s was removed or replaced while in use; limits go on in the file that is there now,"
                    " from what each process remembers; keep what removes files away from it",
                    self._path,
                )
                cause, pause = moved, 0.0
            except (sqlite3.Error, TimeoutError) as error:
                cause = error
            if not (_is_busy(cause) or isinstance(cause, _Moved)) or monotonic() >= until:
                raise CacheError(f"SQLite file {self._path}: {cause} {self._remedy(cause)}") from cause
            UNSET.wait(uniform(0, pause))
            pause = min(max(SHORTEST_PAUSE_S, 2 * pause), LONGEST_PAUSE_S)

    def _outcome(self, command: Callable[[sqlite3.Connection], T], opened: _Opened) -> T | sqlite3.Error:
        """Run a command; if the file is busy, return the error instead of raising it: the connection is still good."""
        import sqlite3

        now = monotonic()
        if now >= opened.checked + CHECK_EVERY_S:
            if opened.files != _files(self._path):
                raise _Moved
            opened.checked = now
        try:
            return command(opened.connection)
        except sqlite3.Error as error:
            if _is_busy(error):
                return error
            raise

    def _remedy(self, cause: Exception) -> str:
        if (getattr(cause, "sqlite_errorcode", 0) & 0xFF) in _DAMAGED:
            return (
                "(it is damaged, or another program's); name another file, or stop its processes and delete it together"
                f" with {os.path.basename(self._path)}-wal and -shm"
            )
        return (
            f"(after at most {plain(self._timeout)} s); see that its folder exists, that it can be written and is on a"
            " local disk with free space, or allow a longer timeout"
        )


def _remade(path: str, timeout: float) -> SqliteCache:
    return SqliteCache(path, timeout=timeout)


def _files(path: str) -> _Files:
    """Return the identities of database, WAL and index at ``path``; the last two lie where a link leads to."""
    beside = os.path.realpath(path)
    return _file(path), _file(beside + "-wal"), _file(beside + "-shm")


def _file(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _is_busy(error: Exception) -> bool:
    return (getattr(error, "sqlite_errorcode", 0) & 0xFF) == _BUSY


@contextmanager
def _one_at_a_time(until: float) -> Iterator[None]:
    waits = max(0.0, until - monotonic())
    try:
        if not _lock.acquire(timeout=waits):
            raise TimeoutError("other threads of this process still wait for their commands")
        yield
    finally:
        # An interrupt right after the acquiring tells nobody of it; one before a call made here would lose the release.
        try:  # noqa: SIM105
            _lock.release()
        except RuntimeError:  # not acquired
            pass


def _close(opened: _Opened) -> None:
    """Close a connection, in any thread; a collector that meets a stuck command does not wait for it."""
    try:
        _lock.acquire(timeout=CLOSE_WITHIN_S)
        opened.connection.close()
    finally:
        try:  # noqa: SIM105
            _lock.release()
        except RuntimeError:  # not acquired
            pass


def _close_before_fork() -> None:
    for known in _pools.valuerefs():
        pool = known()
        if pool:
            pool.clear()


_pools: WeakValueDictionary[int, Pool[_Opened]] = WeakValueDictionary()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_close_before_fork)
_lock = lock_over_forks()  # every cache's; registered later, so taken before the connections are closed

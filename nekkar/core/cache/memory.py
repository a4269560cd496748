"""A cache in this process: for one process, and for tests. Its threads and event loops share it."""

from __future__ import annotations

import logging
from itertools import count
from typing import Any, NamedTuple

from nekkar.core.cache.base import BaseCache, text
from nekkar.core.clock import SteadyClock, monotonic
from nekkar.core.rounds import Rounds
from nekkar.core.runtime.fork_lock import lock_over_forks

LOOK_EVERY_S = 15.0  # at each item, whether it is dead

log = logging.getLogger("nekkar")

_lock = lock_over_forks()  # every cache's


class _Item(NamedTuple):
    value: bytes
    version: int
    dies_at: float


class MemoryCache(BaseCache):
    """A dict behind a lock. Two of them share nothing; a pickled one comes back empty, and says so once.

    A copy, by ``copy`` or ``deepcopy``, is the cache itself: a copied limiter has the same limits.
    """

    in_process = True
    machine_clock = SteadyClock()

    def __init__(self) -> None:
        self._items: dict[str, _Item] = {}
        self._versions = count(1)
        self._rounds = Rounds(LOOK_EVERY_S)

    def __repr__(self) -> str:
        return "MemoryCache()"

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickled, ()

    def __copy__(self) -> MemoryCache:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> MemoryCache:
        return self

    def add(self, key: str, value: str) -> bool:
        """Set ``key`` only if it is not set already; return whether it was set now."""
        with _lock:
            return self._live(key) is None and bool(self._put(key, value.encode()))

    def get(self, key: str) -> str | None:
        """Return the value of ``key``, or None where there is none."""
        value, _ = self.gets(key)
        return None if value is None else text(value, "memory cache", key)

    def set(self, key: str, value: str) -> None:
        """Set ``key`` to ``value``, whatever was there."""
        with _lock:
            self._put(key, value.encode())

    def delete(self, key: str) -> None:
        """Remove ``key``; nothing happens where it is not set."""
        with _lock:
            self._items.pop(key, None)

    def gets(self, key: str) -> tuple[bytes | None, int | None]:
        """Return the value of ``key`` and its version; (None, None) where there is none."""
        item = self._live(key)
        return (item.value, item.version) if item else (None, None)

    def cas(self, key: str, value: bytes, token: Any, ttl: int) -> int | None:
        """Write ``value`` for ``ttl`` seconds if the version of ``key`` is still ``token``; return the new version."""
        with _lock:
            item = self._live(key)
            return self._put(key, value, monotonic() + ttl) if (item.version if item else None) == token else None

    def _live(self, key: str) -> _Item | None:
        item = self._items.get(key)
        return item if item and item.dies_at > monotonic() else None

    def _put(self, key: str, value: bytes, dies_at: float = float("inf")) -> int:
        version = next(self._versions)
        self._items[key] = _Item(value, version, dies_at)
        now = monotonic()
        self._rounds.add(key, now)
        if now >= self._rounds.next_at:
            self._drop_dead(now)
        return version

    def _drop_dead(self, now: float) -> None:
        for key in self._rounds.up(now):
            item = self._items.get(key)
            if item and item.dies_at > now:
                self._rounds.add(key, now)
            else:
                self._items.pop(key, None)


def _unpickled() -> MemoryCache:
    global _said
    if not _said:
        _said = True
        log.warning("a MemoryCache was unpickled: it is empty here, and limits this process alone; "
                    "use memcached or SQLite to share a limit between processes")  # fmt: skip
    return MemoryCache()


_said = False

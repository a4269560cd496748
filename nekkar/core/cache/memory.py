"""A cache in this process: for one process, and for tests. Its threads and event loops share it.

Calls take no lock. A signal handler, or a finaliser that the garbage collector runs, may call the cache while the same
thread is inside it, and would wait for itself. Instead each change is made by statements that call nothing: within such
statements CPython, with its global lock, runs no other thread and no handler.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from itertools import count
from typing import Any, NamedTuple

from nekkar.core.cache.base import BaseCache, text
from nekkar.core.clock import SteadyClock, monotonic
from nekkar.core.rounds import Rounds
from nekkar.core.runtime.fork_lock import SHARED

LOOK_EVERY_S = 15.0  # at each item, whether it is dead
FOR_EVER = float("inf")

log = logging.getLogger("nekkar")


class _Item(NamedTuple):
    value: bytes
    version: int
    dies_at: float


class MemoryCache(BaseCache):
    """A dict. Two of them share nothing; a pickled one comes back empty, and says so once.

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
        return self._swap(key, value.encode(), None, FOR_EVER) is not None

    def get(self, key: str) -> str | None:
        """Return the value of ``key``, or None where there is none."""
        value, _ = self.gets(key)
        return None if value is None else text(value, "memory cache", key)

    def set(self, key: str, value: str) -> None:
        """Set ``key`` to ``value``, whatever was there."""
        self._items[key] = _Item(value.encode(), next(self._versions), FOR_EVER)
        self._sweep(key, monotonic())

    def delete(self, key: str) -> None:
        """Remove ``key``; nothing happens where it is not set."""
        self._items.pop(key, None)

    def gets(self, key: str) -> tuple[bytes | None, int | None]:
        """Return the value of ``key`` and its version; (None, None) where there is none."""
        item = self._items.get(key)
        return (item.value, item.version) if item and item.dies_at > monotonic() else (None, None)

    def cas(self, key: str, value: bytes, token: Any, ttl: int) -> int | None:
        """Write ``value`` for ``ttl`` seconds if the version of ``key`` is still ``token``; return the new version."""
        return self._swap(key, value, token, monotonic() + ttl)

    def _swap(self, key: str, value: bytes, token: Any, dies_at: float) -> int | None:
        items, old = self._items, self._items.get(key)
        if (old.version if old and old.dies_at > monotonic() else None) != token:
            return None
        new = _Item(value, next(self._versions), dies_at)
        try:
            if old is None:
                kept = items.setdefault(key, new)
            else:
                items[key] = kept = new if items[key] is old else items[key]  # no call is in this
        except KeyError:  # deleted meanwhile
            return None
        now = monotonic()
        if now >= self._rounds.next_at or key not in self._rounds.due:
            self._sweep(key, now)
        return new.version if kept is new else None

    def _sweep(self, key: str, now: float) -> None:
        """Note a new item, and drop the expired ones among a few items that are due for a look."""
        with SHARED:
            self._rounds.add(key, now)
            for each in self._rounds.up(now):
                item = self._items.get(each)
                if item and item.dies_at > now:
                    self._rounds.add(each, now)
                    continue
                with suppress(KeyError):
                    if self._items[each].dies_at <= now:
                        del self._items[each]  # no call since it was found dead


def _unpickled() -> MemoryCache:
    global _said
    if not _said:
        _said = True
        log.warning("a MemoryCache was unpickled: it is empty here, and limits this process alone; "
                    "use memcached or SQLite to share a limit between processes")  # fmt: skip
    return MemoryCache()


_said = False

"""A cache of a user's own, four methods over a dict that a server process holds, carries a fleet's limit."""

from __future__ import annotations

import multiprocessing
import time
from multiprocessing.managers import DictProxy, SyncManager

from nekkar import Nekkar
from nekkar.core.cache import BaseCache
from tests.support.checks import worst_window
from tests.support.processes import run_to_end

PROCESSES, SECONDS = 6, 6.0


class ManagedCache(BaseCache):
    """Four methods over a ``multiprocessing.Manager`` dict; ``setdefault`` is atomic in its server."""

    def __init__(self, items: DictProxy[str, str]) -> None:
        self.items = items

    def add(self, key: str, value: str) -> bool:
        mine = f"{time.monotonic_ns()}-{multiprocessing.current_process().pid} {value}"
        return self.items.setdefault(key, mine) == mine

    def get(self, key: str) -> str | None:
        stored = self.items.get(key)
        return None if stored is None else stored.partition(" ")[2]

    def set(self, key: str, value: str) -> None:
        self.items[key] = f"set {value}"

    def delete(self, key: str) -> None:
        self.items.pop(key, None)


def call(items: DictProxy[str, str], starts: DictProxy[int, list[int]], number: int, begin: float) -> None:
    limit = Nekkar(ManagedCache(items))("fleet", "40/s")
    time.sleep(max(0.0, begin - time.time()))
    own = []
    while time.time() < begin + SECONDS:
        limit.acquire()
        own.append(time.time_ns() // 1000)
    starts[number] = own


def test_six_processes_on_a_cache_of_four_methods_are_never_over() -> None:
    """40 a second for 6 s: the worst second has 40, and nobody is left out."""
    spawn = multiprocessing.get_context("spawn")
    with SyncManager(ctx=spawn) as manager:
        items: DictProxy[str, str] = manager.dict()
        starts: DictProxy[int, list[int]] = manager.dict()
        begin = time.time() + 3.0
        workers = [spawn.Process(target=call, args=(items, starts, number, begin)) for number in range(PROCESSES)]
        run_to_end(workers)
        recorded = dict(starts)
    times = sorted(start for own in recorded.values() for start in own)
    assert all(recorded[number] for number in range(PROCESSES))
    assert worst_window(times, 1_000_000) <= 40
    assert len(times) >= 0.8 * 40 * (SECONDS / 1.05)

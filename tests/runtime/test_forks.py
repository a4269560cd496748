"""Forks: what the child must not find taken, and whose slots are whose."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import pytest

from nekkar import ConfigurationError, Nekkar
from nekkar.core.cache import SqliteCache
from nekkar.core.limiter import Limit
from nekkar.testing import FakeClock
from tests.support.internals.core import core_of
from tests.support.internals.runtime import fork_lock, this_loop
from tests.support.limits import PATIENCE, WatchedCache, booked
from tests.support.processes import done_in_child

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")


# Locks.


def test_a_fork_waits_for_a_lock_and_leaves_it_free() -> None:
    """In the child and in the parent, where it may be taken again and again."""
    lock, taken = fork_lock.lock_over_forks(), threading.Event()

    def hold() -> None:
        with lock:
            taken.set()
            threading.Event().wait(0.05)
            taken.clear()

    other = threading.Thread(target=hold)
    other.start()
    assert taken.wait(PATIENCE)
    outcome = done_in_child(lambda: (taken.is_set(), lock.acquire(timeout=1), lock.acquire(timeout=1)))
    assert outcome == "(False, True, True)"
    other.join()
    assert lock.acquire(timeout=1)
    lock.release()


def test_a_thread_that_is_stuck_with_a_lock_holds_up_no_fork_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """The child has the lock to itself; the parent's stays with the thread."""
    monkeypatch.setattr(fork_lock, "PATIENCE_S", 0.02)
    lock, taken, go_on = fork_lock.lock_over_forks(), threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            taken.set()
            assert go_on.wait(PATIENCE)

    other = threading.Thread(target=hold)
    other.start()
    assert taken.wait(PATIENCE)
    assert done_in_child(lambda: lock.acquire(timeout=1)) == "True"
    assert not lock.acquire(blocking=False)
    go_on.set()
    other.join()
    assert lock.acquire(timeout=1)
    lock.release()


def test_a_fork_by_the_thread_that_holds_a_lock_leaves_it_with_that_thread() -> None:
    """As in a signal handler: both processes release it as often as it was taken."""
    lock = fork_lock.lock_over_forks()

    def is_free() -> bool:
        lock.release()
        found: list[bool] = []
        thread = threading.Thread(target=lambda: found.append(lock.acquire(blocking=False)))
        thread.start()
        thread.join()
        return found == [True]

    lock.acquire()
    assert done_in_child(is_free) == "True"
    assert is_free()


# Event loops.


def test_a_child_goes_on_with_its_parents_event_loop(tmp_path: Path) -> None:
    """The threads that served the loop are not there; its calls work all the same, many at once too."""
    limit = Nekkar(SqliteCache(tmp_path / "limits.db", timeout=PATIENCE))("calls", 100)
    loop = asyncio.new_event_loop()
    parents = loop.run_until_complete(limit.acquire_async())

    async def many() -> int:
        return len(await asyncio.gather(*(limit.acquire_async(cost=2) for _ in range(10))))

    assert parents.name == "calls"
    assert done_in_child(lambda: loop.run_until_complete(many())) == "10"
    assert loop.run_until_complete(many()) == 10
    assert limit.status().windows[0].used == 41
    loop.close()


def test_a_child_has_new_loops_of_its_own(tmp_path: Path) -> None:
    """With threads, after loops of the parent's."""
    limit = Nekkar(SqliteCache(tmp_path / "limits.db", timeout=PATIENCE))("calls", 100)
    asyncio.run(limit.acquire_async())

    async def main() -> int:
        await limit.acquire_async()
        thread: int = await this_loop().in_thread(threading.get_ident, shielded=False)
        return thread

    assert int(done_in_child(lambda: asyncio.run(main()))) != threading.get_ident()


class Waiting:
    """Tasks that wait on a loop that stands still: for a slot each, the first with one."""

    def __init__(self, count: int) -> None:
        self.cache = WatchedCache()
        # Within the horizon of 100 ms is one slot more.
        self.limit: Limit = Nekkar(self.cache, clock=FakeClock(jump=False))("calls", 1, period=0.05, margin=0.02)
        self.limit.acquire()
        self.loop = asyncio.new_event_loop()
        self.tasks = [self.loop.create_task(self.limit.acquire_async()) for _ in range(count)]
        self.run(asyncio.sleep(0.02))
        assert len(booked(self.cache)) == 2
        assert self.limit.status().waiting == count

    def run(self, what: Awaitable[Any]) -> Any:
        return self.loop.run_until_complete(what)

    def end(self) -> None:
        for task in self.tasks:
            task.cancel()
        self.run(asyncio.gather(*self.tasks, return_exceptions=True))
        self.loop.close()


def test_a_childs_copies_of_calls_that_wait_raise_and_keep_the_parents_slots() -> None:
    """In the child they end at once, with an error that says what to do; in the parent they wait on."""
    waiting = Waiting(3)

    def go_on() -> tuple[list[str], int, int]:
        ends = waiting.run(asyncio.wait_for(asyncio.gather(*waiting.tasks, return_exceptions=True), PATIENCE))
        assert all("make a new call there" in str(end) for end in ends)
        return [type(end).__name__ for end in ends], len(booked(waiting.cache)), waiting.limit.status().waiting

    names = [ConfigurationError.__name__] * 3
    assert done_in_child(go_on) == repr((names, 2, 0))
    assert waiting.limit.status().waiting == 3
    waiting.end()


def test_a_child_that_cancels_its_copies_unbooks_none_of_the_parents_slots() -> None:
    """Or both would call in one slot's time."""
    waiting = Waiting(2)

    def cancel() -> tuple[int, int]:
        waiting.end()
        return len(booked(waiting.cache)), waiting.limit.status().waiting

    assert done_in_child(cancel) == "(2, 0)"
    waiting.end()


def test_a_child_counts_none_of_its_parents_callers() -> None:
    """Asked before anything else, and after calls of its own on a loop and in a thread."""
    waiting = Waiting(2)

    def count() -> list[int]:
        limit, counts = waiting.limit, [waiting.limit.status().waiting]
        own = asyncio.new_event_loop()
        task = own.create_task(limit.acquire_async())
        own.run_until_complete(asyncio.sleep(0.02))
        core_of(limit).thread_line()
        counts.append(limit.status().waiting)
        task.cancel()
        own.run_until_complete(asyncio.gather(task, return_exceptions=True))
        return counts

    assert done_in_child(count) == "[0, 1]"
    waiting.end()


def test_what_the_modules_of_the_core_share_has_one_lock() -> None:
    """With two, a call inside a call could wait for one while its thread holds the other, and so could a second thread.

    SQLite's own is held over its commands, and waited for no longer than these may take.
    """
    core = Path(fork_lock.__file__).parents[1]
    found = [path.name for path in sorted(core.rglob("*.py")) if "= lock_over_forks()" in path.read_text("utf-8")]
    assert found == ["sqlite.py", "fork_lock.py"]

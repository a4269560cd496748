"""The limiter's faces when things go wrong: cancelled tasks, a cache that is away, a value that is broken.

Most tests run on a clock that stands still until the test moves it (``FakeClock(jump=False)``), or that
jumps over each sleep; only what is about many loops runs on the machine's clock.
"""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import anyio
import pytest

from nekkar.core.cache import MemoryCache
from nekkar.core.errors import CacheError, CorruptLog
from nekkar.core.limiter import Limit, Nekkar
from nekkar.testing import FakeClock
from tests.support.internals.core import core_of
from tests.support.internals.runtime import this_loop
from tests.support.internals.waiting import assignments_of, turns_of
from tests.support.limits import (
    BACKENDS,
    PATIENCE,
    START,
    Crowd,
    WatchedCache,
    booked,
    eventually,
    hits,
    places,
    run_in,
    since_start,
    waiting,
)

# Cancellation.

TURNS = range(32)  # of the loop, after which one task is cancelled


@dataclass
class Tasks:
    """Five tasks on one limit, each in a scope of its own, and the slots of those that were admitted, by number."""

    limit: Limit
    admitted: dict[int, float] = field(default_factory=dict)
    scopes: list[anyio.CancelScope] = field(default_factory=lambda: [anyio.CancelScope() for _ in range(5)])
    running: list[asyncio.Task[None]] = field(default_factory=list)
    ended: set[int] = field(default_factory=set)

    async def call(self, number: int) -> None:
        with self.scopes[number]:
            try:
                self.admitted[number] = (await self.limit.acquire_async()).at
            finally:
                self.ended.add(number)

    def is_over(self, number: int) -> bool:
        """Whether a task has returned, was cancelled, or was cancelled before it began."""
        return number in self.ended or (bool(self.running) and self.running[number].done())

    async def cancel_natively(self, cancelled: int, turns: int) -> None:
        """Start all as asyncio's tasks, and cancel one after so many turns of the loop."""
        self.running = [asyncio.create_task(self.call(number)) for number in range(5)]
        for _ in range(turns):
            await asyncio.sleep(0)
        self.running[cancelled].cancel()

    async def cancel_scope(self, group: anyio.abc.TaskGroup, cancelled: int, turns: int) -> None:
        """Start all in a group, one after the other, and cancel one's scope after so many turns of the loop."""
        for number in range(5):
            group.start_soon(self.call, number)
            await anyio.lowlevel.checkpoint()
        for _ in range(turns):
            await anyio.lowlevel.checkpoint()
        self.scopes[cancelled].cancel()

    async def until(self, happened: Callable[[], bool]) -> None:
        """Wait for something, with no booking under way that outlived its leader."""
        with anyio.fail_after(PATIENCE):
            while turns_of(core_of(self.limit).loop_line(this_loop())).under_way or not happened():
                await anyio.sleep(0)


async def nobody_is_lost(tasks: Tasks, cache: WatchedCache, cancelled: int) -> None:
    """Check a free limit: all others are admitted at once, and no slot is booked for the one cancelled."""
    others = set(range(5)) - {cancelled}
    await tasks.until(lambda: tasks.is_over(cancelled) and others <= tasks.admitted.keys())
    await tasks.until(lambda: hits(cache) == len(tasks.admitted))
    assert set(tasks.admitted.values()) == {START}
    line = core_of(tasks.limit).loop_line(this_loop())
    assert (line.waiting, assignments_of(line).hand.returned) == (0, [])


async def the_order_stays(tasks: Tasks, cache: WatchedCache, clock: FakeClock, cancelled: int) -> None:
    """Check a limit that was used up: the first of the others gets the next slot, and all behind it wait."""
    line = core_of(tasks.limit).loop_line(this_loop())
    await tasks.until(lambda: tasks.is_over(cancelled))
    await tasks.until(lambda: line.waiting == 4)
    assert booked(cache) == [0]
    clock.advance(10.05)
    first = min({0, 1} - {cancelled})
    await tasks.until(lambda: first in tasks.admitted and line.waiting == 3)
    assert tasks.admitted == {first: START + 10.05}
    assert booked(cache) == [0, 10_050_000]


@pytest.mark.parametrize("in_process", [True, False])
@pytest.mark.parametrize("cancelled", range(5))
def test_a_task_cancelled_as_it_books_leaks_nothing(cancelled: int, in_process: bool) -> None:
    """``task.cancel()`` at any turn of the loop: all others are admitted, and no slot stays booked unused."""

    async def main(turns: int) -> None:
        cache = WatchedCache(in_process=in_process)
        tasks = Tasks(Nekkar(cache, clock=FakeClock(jump=False))("calls", 100))
        await tasks.cancel_natively(cancelled, turns)
        await nobody_is_lost(tasks, cache, cancelled)
        await asyncio.gather(*tasks.running, return_exceptions=True)

    for turns in TURNS:
        asyncio.run(main(turns))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("in_process", [True, False])
@pytest.mark.parametrize("cancelled", range(5))
def test_a_scope_cancelled_as_it_books_leaks_nothing(backend: str, cancelled: int, in_process: bool) -> None:
    """A cancelled anyio scope, which cancels each await anew, leaks nothing either, under asyncio and trio."""

    async def main() -> None:
        for turns in TURNS:
            cache = WatchedCache(in_process=in_process)
            tasks = Tasks(Nekkar(cache, clock=FakeClock(jump=False))("calls", 100))
            async with anyio.create_task_group() as group:
                await tasks.cancel_scope(group, cancelled, turns)
                await nobody_is_lost(tasks, cache, cancelled)

    run_in(backend, main)


@pytest.mark.parametrize("in_process", [True, False])
@pytest.mark.parametrize("cancelled", [0, 1, 4])
def test_a_task_cancelled_as_it_waits_loses_no_ones_place(cancelled: int, in_process: bool) -> None:
    """``task.cancel()`` of who leads or stands in line: the next of the others gets the next slot."""

    async def main(turns: int) -> None:
        clock, cache = FakeClock(jump=False), WatchedCache(in_process=in_process)
        tasks = Tasks(Nekkar(cache, clock=clock)("calls", "1/10 seconds; 1000/day"))
        await tasks.limit.acquire_async()
        await tasks.cancel_natively(cancelled, turns)
        await the_order_stays(tasks, cache, clock, cancelled)
        for task in tasks.running:
            task.cancel()
        await asyncio.gather(*tasks.running, return_exceptions=True)
        await tasks.until(lambda: not places(cache))
        assert booked(cache) == [0, 10_050_000]

    for turns in TURNS:
        asyncio.run(main(turns))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("in_process", [True, False])
@pytest.mark.parametrize("cancelled", [0, 1, 4])
def test_a_scope_cancelled_as_it_waits_loses_no_ones_place(backend: str, cancelled: int, in_process: bool) -> None:
    """The same holds for anyio scopes, under asyncio and trio."""

    async def main() -> None:
        for turns in TURNS:
            clock, cache = FakeClock(jump=False), WatchedCache(in_process=in_process)
            tasks = Tasks(Nekkar(cache, clock=clock)("calls", "1/10 seconds; 1000/day"))
            await tasks.limit.acquire_async()
            async with anyio.create_task_group() as group:
                await tasks.cancel_scope(group, cancelled, turns)
                await the_order_stays(tasks, cache, clock, cancelled)
                group.cancel_scope.cancel()
            await tasks.until(functools.partial(lambda cache: not places(cache), cache))
            assert booked(cache) == [0, 10_050_000]

    run_in(backend, main)


@pytest.mark.parametrize("cancelled", range(5))
def test_a_task_cancelled_between_its_slot_and_its_start_leaks_nothing(cancelled: int) -> None:
    """Over two windows, with sleeps that are jumped over: slots go by order of arrival, and none is lost."""

    async def main(turns: int) -> None:
        cache = WatchedCache()
        tasks = Tasks(Nekkar(cache, clock=FakeClock())("calls", 3, period=10.0))
        await tasks.cancel_natively(cancelled, turns)
        await tasks.until(lambda: all(tasks.is_over(number) for number in range(5)))
        assert {*tasks.admitted, cancelled} == set(range(5))
        await asyncio.gather(*tasks.running, return_exceptions=True)
        slots = [tasks.admitted[number] for number in sorted(tasks.admitted)]
        assert slots == sorted(slots)
        assert 0 <= hits(cache) - len(slots) <= 1, "at most one is booked ahead, for a call that may come"

    for turns in TURNS:
        asyncio.run(main(turns))


@pytest.mark.parametrize("in_process", [True, False])
def test_all_tasks_cancelled_at_once_leave_no_slot_booked(in_process: bool) -> None:
    """A loop that is torn down while its tasks wait gives back what they held, whenever that happens."""

    async def main(turns: int) -> None:
        cache = WatchedCache(in_process=in_process)
        tasks = Tasks(Nekkar(cache, clock=FakeClock(jump=False))("calls", "3/10 seconds"))
        await tasks.cancel_natively(0, turns)
        for task in tasks.running:
            task.cancel()
        await asyncio.gather(*tasks.running, return_exceptions=True)
        await tasks.until(lambda: hits(cache) == len(tasks.admitted) and not places(cache))
        assert core_of(tasks.limit).loop_line(this_loop()).waiting == 0

    for turns in TURNS:
        asyncio.run(main(turns))


def test_a_task_that_times_out_leaves_its_slot_to_the_next() -> None:
    """A timeout around the wait, as ``asyncio.timeout`` or ``anyio.move_on_after``, gives up slot and place."""
    clock, cache = FakeClock(jump=False), WatchedCache()
    limit = Nekkar(cache, clock=clock)("calls", 1, period=10.0, margin=0.05)

    async def main() -> None:
        await limit.acquire_async()
        for _ in range(3):
            with anyio.move_on_after(0.01):
                await limit.acquire_async()
            assert booked(cache) == [0]
            assert not places(cache)

    asyncio.run(main())


@pytest.mark.parametrize("call", [1, 2], ids=["read", "swap"])
def test_a_loop_closed_in_the_middle_of_a_booking_leaks_nothing(call: int) -> None:
    """A worker thread that still books when its loop ends takes back what nobody is left to use."""
    cache = WatchedCache(in_process=False)
    limit = Nekkar(cache, clock=FakeClock())("calls", 1, max_wait=0)
    in_call, go_on = threading.Event(), threading.Event()

    def gate(number: int) -> None:
        if number == call:
            in_call.set()
            assert go_on.wait(PATIENCE)

    cache.before = gate

    async def main() -> None:
        task = asyncio.create_task(limit.acquire_async())
        while not in_call.is_set():
            await asyncio.sleep(0)
        task.cancel()
        asyncio.get_running_loop().call_soon(go_on.set)

    asyncio.run(main())
    eventually(lambda: cache.calls > call and hits(cache) == 0)
    assert limit.acquire().waited == 0


# The cache away, or its value broken.


def test_a_cache_that_is_away_fails_all_in_line_at_once() -> None:
    """One failed call of the cache answers everybody in line: each gets an error of its own, with the cause."""
    cache, joined = WatchedCache(), threading.Event()
    limit = Nekkar(cache, clock=FakeClock(jump=False))("calls", 100)

    def away(number: int) -> None:
        assert joined.wait(PATIENCE)
        raise CacheError("no answer within 1 s") from TimeoutError()

    cache.before = away
    crowd = Crowd()
    crowd.line_up(limit, 20, lambda number: waiting(limit) == number + 1)
    joined.set()
    errors = crowd.outcomes()
    assert all(type(error) is CacheError and str(error) == "no answer within 1 s" for error in errors)
    assert len({id(error) for error in errors}) == 20
    for error in errors:
        cause = error.__cause__ if isinstance(error.__cause__, TimeoutError) else error.__cause__.__cause__
        assert isinstance(cause, TimeoutError)
    assert cache.calls <= 3
    cache.before = lambda number: None
    assert limit.acquire(max_wait=0).waited == 0
    assert hits(cache) == 1


def test_tasks_in_line_fail_together_when_the_cache_is_away() -> None:
    """The same holds for tasks."""
    cache = WatchedCache(in_process=False)
    limit = Nekkar(cache, clock=FakeClock())("calls", 100)
    joined = threading.Event()

    def away(number: int) -> None:
        assert joined.wait(PATIENCE)
        raise CacheError("no answer within 1 s")

    async def main() -> list[Any]:
        cache.before = away
        tasks = [asyncio.create_task(limit.acquire_async()) for _ in range(20)]
        while core_of(limit).loop_line(this_loop()).waiting < 20:
            await asyncio.sleep(0)
        joined.set()
        errors = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), PATIENCE)
        cache.before = lambda number: None
        await limit.acquire_async(max_wait=0)
        return errors

    errors = asyncio.run(main())
    assert all(type(error) is CacheError for error in errors)
    assert len({id(error) for error in errors}) == 20
    assert hits(cache) == 1


class VerboseCacheError(CacheError):
    """An error of somebody's own cache, whose arguments are not its message."""

    def __init__(self, server: str, seconds: float) -> None:
        super().__init__(f"{server} did not answer for {seconds} s")


def test_a_cache_errors_subclass_with_a_signature_of_its_own_reaches_the_caller() -> None:
    """A cache may raise a CacheError of its own making: that error comes out, not another about copying it."""
    cache = WatchedCache()

    def away(number: int) -> None:
        raise VerboseCacheError("server", 1.0)

    cache.before = away
    with pytest.raises(CacheError, match=r"server did not answer for 1\.0 s"):
        Nekkar(cache, clock=FakeClock())("calls", 100).acquire()


@pytest.mark.parametrize("away_at", range(1, 7))
def test_a_cache_away_for_one_call_costs_that_caller_alone(away_at: int) -> None:
    """A cache that fails once never admits too many, and never blocks what comes after."""
    clock, cache = FakeClock(), WatchedCache()

    def away(number: int) -> None:
        if number == away_at:
            raise CacheError("no answer within 1 s")

    cache.after = away
    limit = Nekkar(cache, clock=clock)("calls", 1, period=10.0, margin=0.05)
    slots: list[int] = []
    failures = 0
    while len(slots) < 4:
        try:
            slots.append(since_start(limit.acquire()))
        except CacheError:
            failures += 1
    assert failures <= 1
    assert all(after - before >= 10_050_000 for before, after in pairwise(slots))
    assert slots[-1] <= 4 * 10_050_000


@pytest.mark.parametrize("value", ["", "x", "42", "nkkr", '{"hits": []}'])
def test_a_corrupt_value_is_an_error_that_names_key_and_remedy(value: str) -> None:
    """Another program's value under the key admits nobody; deleting it makes the limit work."""
    cache = MemoryCache()
    limit = Nekkar(cache, clock=FakeClock())("calls", 100)
    cache.cas("nekkar:calls", value.encode(), None, 100)
    for _ in range(2):
        with pytest.raises(CorruptLog, match=r"cache key 'nekkar:calls': .*; delete the key to start afresh"):
            limit.acquire()
    assert cache.get("nekkar:calls") == value, "what is another program's must not be overwritten"
    cache.delete("nekkar:calls")
    limit.acquire()

"""The fake clock: time stands still but for what is slept or advanced, and nobody sleeps through it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest

from nekkar.core.clock import Clock
from nekkar.core.limiter import Nekkar
from nekkar.testing import FakeClock
from tests.support.internals.tools import threads

PATIENCE = 30.0
BACKENDS = ["asyncio", "trio"]


def run_in(backend: str, main: Callable[[], Awaitable[Any]]) -> Any:
    """Run an async function to its end under asyncio or trio."""
    if backend == "trio":
        pytest.importorskip("trio")
    return anyio.run(main, backend=backend)


def woken() -> threading.Event:
    event = threading.Event()
    event.set()
    return event


class Sleeper(threading.Thread):
    """A thread that sleeps once, and tells at what time of the clock it woke."""

    def __init__(self, clock: FakeClock, at_us: int | None) -> None:
        super().__init__(daemon=True)
        self.clock, self.at_us = clock, at_us
        self.wake, self.asleep = threading.Event(), threading.Event()
        self.woke_at: int | None = None
        self.start()
        assert self.asleep.wait(PATIENCE)

    def run(self) -> None:
        self.asleep.set()
        self.clock.sleep_until(self.at_us, self.wake)
        self.woke_at = self.clock.now_us()

    def woke(self) -> int | None:
        """Wait for the thread to end; return when it woke."""
        self.join(PATIENCE)
        assert not self.is_alive()
        return self.woke_at


def test_a_clock_is_what_a_limiter_takes() -> None:
    """The fake clock has the methods of a clock, and tells the same time in both units."""
    clock: Clock = FakeClock(start=12.5)
    assert clock.now_us() == 12_500_000
    assert FakeClock(start=12.5).now == 12.5


def test_time_stands_still_by_itself() -> None:
    """Two clocks made alike tell the same time, whatever passes outside; the default start is in 2023."""
    one = FakeClock()
    time.sleep(0.002)
    assert one.now_us() == FakeClock().now_us() == 1_700_000_000_000_000


def test_a_sleep_is_jumped_over() -> None:
    """A sleeper returns at once, at the end of its sleep to the microsecond."""
    clock = FakeClock(start=100)
    clock.sleep_until(160_000_001, threading.Event())
    assert clock.now_us() == 160_000_001


def test_a_sleep_into_the_past_moves_nothing() -> None:
    """Time never goes back by sleeping."""
    for jump in (True, False):
        clock = FakeClock(start=100, jump=jump)
        clock.sleep_until(99_000_000, threading.Event())
        assert clock.now == 100


def test_who_is_woken_already_does_not_sleep() -> None:
    """An event that is set ends the sleep before it begins: no jump, no block."""
    for jump in (True, False):
        clock = FakeClock(start=100, jump=jump)
        clock.sleep_until(160_000_000, woken())
        clock.sleep_until(None, woken())
        assert clock.now == 100


def test_advance_moves_time_either_way() -> None:
    """``advance`` adds seconds, to the microsecond; a negative number steps back."""
    clock = FakeClock(start=100)
    clock.advance(0.000001)
    assert clock.now_us() == 100_000_001
    clock.advance(-50)
    assert clock.now_us() == 50_000_001
    clock.advance(0)
    assert clock.now_us() == 50_000_001


def test_threads_sleep_until_the_test_advances_past_their_end() -> None:
    """With ``jump=False`` a sleeper wakes when its time has come, and not a microsecond before."""
    clock = FakeClock(start=100, jump=False)
    early, late = Sleeper(clock, 101_000_000), Sleeper(clock, 102_000_000)
    clock.advance(0.999999)
    early.join(0.05)
    assert early.is_alive()
    clock.advance(0.000001)
    assert early.woke() == 101_000_000
    assert late.is_alive()
    clock.advance(60)
    assert late.woke() == 161_000_000


def test_an_event_ends_a_threads_sleep() -> None:
    """A sleeper that is woken returns though its time has not come, bounded or not."""
    clock = FakeClock(start=100, jump=False)
    for sleeper in (Sleeper(clock, 200_000_000), Sleeper(clock, None), Sleeper(FakeClock(start=100), None)):
        sleeper.wake.set()
        assert sleeper.woke() == 100_000_000


def test_a_sleep_without_bound_is_not_jumped_over() -> None:
    """Who waits for an event alone waits for it, whatever the time."""
    clock = FakeClock(start=100)
    sleeper = Sleeper(clock, None)
    clock.advance(1000)
    sleeper.join(0.02)
    assert sleeper.is_alive()
    sleeper.wake.set()
    sleeper.woke()


def test_many_threads_may_jump_at_once() -> None:
    """Jumps of many threads leave the clock at the latest of their ends."""
    clock = FakeClock(start=0)
    sleepers = [Sleeper(clock, 1_000_000 * (number * 7 % 50)) for number in range(50)]
    assert all((sleeper.woke() or 0) >= (sleeper.at_us or 0) for sleeper in sleepers)
    assert clock.now == 49


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_tasks_sleep_is_jumped_over(backend: str) -> None:
    """A task's sleep takes no time, ends at its very end, and lets other tasks run."""
    clock = FakeClock(start=100)
    ran: list[str] = []

    async def sleep() -> None:
        await clock.sleep_until_async(160_000_001, anyio.Event())
        ran.append("sleeper")

    async def main() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(sleep)
            await anyio.sleep(0)
            ran.append("other")
        await clock.sleep_until_async(1, anyio.Event())
        event = anyio.Event()
        event.set()
        await clock.sleep_until_async(500_000_000, event)
        await clock.sleep_until_async(None, event)

    run_in(backend, main)
    assert sorted(ran) == ["other", "sleeper"]
    assert clock.now_us() == 160_000_001


@pytest.mark.parametrize("backend", BACKENDS)
def test_tasks_sleep_until_the_test_advances_past_their_end(backend: str) -> None:
    """With ``jump=False`` a task wakes when its time has come or its event is set, not before."""
    clock = FakeClock(start=100, jump=False)

    async def main() -> list[str]:
        woke: list[str] = []
        event = anyio.Event()

        async def sleep(name: str, at_us: int | None) -> None:
            await clock.sleep_until_async(at_us, event if name == "event" else anyio.Event())
            woke.append(name)

        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as group:
                group.start_soon(sleep, "late", 103_000_000)
                group.start_soon(sleep, "early", 102_000_000)
                group.start_soon(sleep, "event", None)
                clock.advance(1.999999)
                await anyio.sleep(0.05)
                assert woke == []
                for passing in (0.000001, 1.0):
                    clock.advance(passing)
                    count = len(woke)
                    while len(woke) == count:
                        await anyio.sleep(0)
                event.set()
        return woke

    assert run_in(backend, main) == ["early", "late", "event"]


def test_a_cancelled_task_does_not_sleep_on() -> None:
    """A task's sleep can be cancelled."""
    clock = FakeClock(start=100, jump=False)

    async def main() -> None:
        with anyio.move_on_after(0.01) as scope:
            await clock.sleep_until_async(200_000_000, anyio.Event())
        assert scope.cancelled_caught

    asyncio.run(main())
    assert clock.now == 100


def test_a_thousand_calls_take_no_time() -> None:
    """A program's limits can be tested without waiting: 1,000 calls at ten a second end 105 s later at most."""
    clock = FakeClock()
    limit = Nekkar(clock=clock)("calls", "10/second")
    start, began = clock.now, time.monotonic()
    for _ in range(1000):
        limit.acquire()
    assert clock.now - start == pytest.approx(99 * 1.05)
    assert time.monotonic() - began < PATIENCE


def test_a_free_limit_admits_at_once_on_a_standing_clock_whatever_its_margin() -> None:
    """On a clock that nobody advances, a call with ``max_wait=0`` on a free limit returns."""
    limit = Nekkar(clock=FakeClock(jump=False))("calls", 5, margin=0.002)
    caller = threading.Thread(target=limit.acquire, kwargs={"max_wait": 0}, daemon=True)
    caller.start()
    caller.join(0.5)
    assert not caller.is_alive()


def test_a_hanging_cache_does_not_hang_its_suite(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads that are not done within its patience are a failure that says so; a thread's error comes first."""
    monkeypatch.setattr(threads, "PATIENCE", 0.2)
    never = threading.Event()
    with pytest.raises(AssertionError, match=r"not done within 0\.2 s: the cache blocks without bound"):
        threads.at_once(lambda number, thread: never.wait(PATIENCE) if thread == 1 else True, threads=2)
    never.set()
    with pytest.raises(ZeroDivisionError):
        threads.at_once(lambda number, thread: 1 // thread, rounds=3, threads=4)
    assert threads.at_once(lambda number, thread: (number, thread), 2, 2) == [[(0, 0), (0, 1)], [(1, 0), (1, 1)]]

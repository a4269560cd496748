"""An interrupt at any point of a call, in a cache call or a sleep, leaves no slot booked and stops nobody else."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

import pytest

from nekkar.core.limiter import Admission, Nekkar
from nekkar.testing import FakeClock
from tests.support.checks import spans_broken
from tests.support.limits import (
    PATIENCE,
    Crowd,
    InterruptingClock,
    WatchedCache,
    booked,
    eventually,
    hits,
    interrupt_at,
    settle,
    since_start,
    waiting,
)

LAST_CALL = 11


@pytest.mark.parametrize("in_process", [True, False])
@pytest.mark.parametrize("side", ["before", "after"])
@pytest.mark.parametrize("at", range(1, LAST_CALL + 1))
def test_an_interrupted_cache_call_leaves_no_slot_booked(at: int, side: str, in_process: bool) -> None:
    """Ctrl-C in any call of the cache, before or after it took effect: the slot is free for the next caller.

    Where the swap took effect, the next caller finds the slot booked, in the name of its own process.
    """
    clock, cache = FakeClock(), WatchedCache(in_process=in_process)
    setattr(cache, side, interrupt_at(at))
    limit = Nekkar(cache, clock=clock)("calls", "2/10 seconds; 1000/day")
    slots: list[int] = []
    interrupts = 0
    while len(slots) < 5:
        try:
            slots.append(since_start(limit.acquire(max_wait=60)))
        except KeyboardInterrupt:
            interrupts += 1
        assert hits(cache) <= len(slots) + interrupts
        assert waiting(limit) == 0
    # Where a look costs something, the place of a caller stands: it is ready a millisecond after the slot, and granted.
    stands = not in_process
    assert slots == [0, 0, 10_050_000, 10_050_000 + stands * 1000, 20_100_000]
    assert hits(cache) == len(slots) + stands
    assert interrupts == (at <= cache.calls)
    assert cache.calls > 8, "the table must reach over all calls"


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("at", range(1, 9))
def test_an_interrupted_sleep_leaves_no_slot_booked(at: int, after: bool) -> None:
    """Ctrl-C in any sleep: the slot is free for the next caller, who gets the very same one."""
    clock, cache = InterruptingClock(at, after=after), WatchedCache()
    limit = Nekkar(cache, clock=clock)("calls", "1/10 seconds; 1000/day")
    slots: list[int] = []
    while len(slots) < 4:
        with suppress(KeyboardInterrupt):
            slots.append(since_start(limit.acquire()))
        assert hits(cache) == len(slots)
    assert slots == [0, 10_050_000, 20_100_000, 30_150_000]


@pytest.mark.parametrize("side", ["before", "after"])
@pytest.mark.parametrize("at", range(1, 7))
def test_threads_behind_an_interrupted_leader_go_on(at: int, side: str) -> None:
    """The one thread whose call was interrupted gets the interrupt; all behind it are admitted, no slot is lost."""
    cache = WatchedCache(in_process=False)
    limit = Nekkar(cache, clock=FakeClock(jump=False))("calls", 100, period=10.0)
    all_here = threading.Event()

    def gate(number: int) -> None:
        if number == 1:
            assert all_here.wait(PATIENCE)
        if side == "before":
            interrupt_at(at)(number)

    cache.before = gate
    if side == "after":
        cache.after = interrupt_at(at)
    crowd = Crowd()
    crowd.line_up(limit, 6, lambda number: waiting(limit) == number + 1)
    all_here.set()
    outcomes = crowd.outcomes()
    interrupted = [outcome for outcome in outcomes if isinstance(outcome, KeyboardInterrupt)]
    assert len(interrupted) == (at <= cache.calls)
    assert 6 - len(interrupted) <= hits(cache) <= 6
    assert all(since_start(outcome) == 0 for outcome in outcomes if isinstance(outcome, Admission))
    cache.before = cache.after = lambda number: None
    assert since_start(limit.acquire(max_wait=0)) == 0
    assert hits(cache) == 7 - len(interrupted)


@pytest.mark.parametrize("at", range(1, 9))
def test_threads_go_on_when_the_sleep_of_one_is_interrupted(at: int) -> None:
    """A thread that is interrupted as it sleeps passes its slot on; the others keep their order.

    Time passes only while all sleep: in the midst of a booking it would leave the booked slot unused, rightly.
    """
    clock, cache = InterruptingClock(at, after=False, jump=False), WatchedCache()
    limit = Nekkar(cache, clock=clock)("calls", "1/second; 1000/day", margin=1.0)
    limit.acquire()
    crowd = Crowd()
    crowd.line_up(limit, 4, lambda number: clock.sleeps > number)
    for _ in range(4):
        eventually(lambda: clock.are_asleep(4 - crowd.done))
        clock.advance(2)
    interrupts = sum(isinstance(outcome, KeyboardInterrupt) for outcome in crowd.outcomes())
    assert interrupts == (at <= clock.sleeps)
    assert len(crowd.admitted) == 4 - interrupts
    assert crowd.admitted == sorted(crowd.admitted)
    assert hits(cache) == 1 + len(crowd.admitted)
    assert not spans_broken(booked(cache), 1, 2_000_000)


def test_the_first_thread_of_a_line_that_leaves_passes_its_slot_on() -> None:
    """The slot of a thread interrupted in its sleep goes to the next in line: no slot is left unused."""
    clock, cache = FakeClock(jump=False), WatchedCache()
    limit = Nekkar(cache, clock=clock)("calls", 1, period=1.0, margin=1.0)
    limit.acquire()
    clock.advance(1.95)  # so that the next slot is within the horizon
    release = threading.Event()
    sleep = clock.sleep_until

    def interrupted_sleep(at_us: int | None, wake: threading.Event) -> None:
        if threading.current_thread() is first:
            assert release.wait(PATIENCE)
            raise KeyboardInterrupt
        sleep(at_us, wake)

    clock.sleep_until = interrupted_sleep  # type: ignore[method-assign]
    outcome = Future[Any]()
    first = threading.Thread(target=lambda: settle(outcome, limit.acquire), daemon=True)
    first.start()
    eventually(lambda: hits(cache) == 2 and waiting(limit) == 0)
    crowd = Crowd()
    crowd.add(limit.acquire)
    eventually(lambda: waiting(limit) == 1)
    release.set()
    assert isinstance(outcome.exception(PATIENCE), KeyboardInterrupt)
    eventually(lambda: waiting(limit) == 0)
    clock.advance(0.05)
    assert since_start(crowd.outcomes()[0]) == 2_000_000
    assert hits(cache) == 2

"""What is admitted when: slots, refusals, the order of callers, on a clock that the test moves."""

from __future__ import annotations

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import anyio
import pytest

from nekkar import Limit
from nekkar.core.cache import MemoryCache
from nekkar.core.clock import SystemClock
from nekkar.core.errors import WaitTooLong
from nekkar.core.limiter import Admission, Nekkar
from nekkar.testing import START_US, FakeClock
from tests.support.checks import spans_broken
from tests.support.internals.shared import cache_key
from tests.support.limits import (
    BACKENDS,
    PATIENCE,
    START,
    Crowd,
    WatchedCache,
    booked,
    eventually,
    hits,
    is_in_turn,
    move_to,
    run_in,
    since_start,
    waiting,
)


def is_queued(limit: Limit) -> bool:
    """Return whether one caller waits in line, and no turn is under way."""
    return waiting(limit) == 1 and not is_in_turn(limit)


Row = tuple[float, int, bool]  # at which second, a call of how many hits, is it admitted?
FIVE_PER_SECOND: dict[str, Any] = {"rate_limit": 5, "period": 1.0, "margin": 0.05}

TABLES: dict[str, tuple[dict[str, Any], list[Row]]] = {
    "a burst up to the limit, then the window": (
        FIVE_PER_SECOND,
        [(0, 1, True)] * 5 + [(0, 1, False), (1.049999, 1, False)] + [(1.05, 1, True)] * 5 + [(1.05, 1, False)],
    ),
    "each hit leaves the window one period and the margin after it came": (
        {"rate_limit": 2, "period": 1.0, "margin": 0.05},
        [(0, 1, True), (0.4, 1, True), (1.049999, 1, False), (1.05, 1, True), (1.449999, 1, False), (1.45, 1, True)],
    ),
    "a bare number is calls per minute, with a margin of 0.3 s": (
        {"rate_limit": 1},
        [(0, 1, True), (60.299999, 1, False), (60.3, 1, True)],
    ),
    "the margin is a parameter": (
        {"rate_limit": 1, "period": 1.0, "margin": 0.5},
        [(0, 1, True), (1.499999, 1, False), (1.5, 1, True)],
    ),
    "the default margin of a short period is 50 ms": (
        {"rate_limit": 1, "period": 0.2},
        [(0, 1, True), (0.249999, 1, False), (0.25, 1, True)],
    ),
    "the default margin of a long period is 1 s": (
        {"rate_limit": "1/hour"},
        [(0, 1, True), (3600.999999, 1, False), (3601, 1, True)],
    ),
    "two windows: the short one holds, then the long one": (
        {"rate_limit": "20/second; 30/3 seconds"},
        [
            *[(0, 20, True), (0, 1, False), (1.049999, 1, False), (1.05, 10, True), (1.05, 1, False)],
            *[(3.049999, 1, False), (3.05, 20, True), (3.05, 1, False), (4.099999, 1, False), (4.1, 10, True)],
        ],
    ),
    "two windows: where the long one has room, the short one alone holds": (
        {"rate_limit": "20/second; 60/3 seconds"},
        [(0, 20, True), (1.05, 20, True), (2.1, 20, True), (3.149999, 20, False), (3.15, 20, True), (3.15, 1, False)],
    ),
    "spacing in seconds": (
        {"rate_limit": 100, "spacing": 0.25},
        [(0, 1, True), (0.249999, 1, False), (0.25, 1, True), (0.499999, 1, False), (0.5, 1, True)],
    ),
    "even spacing is the period over the count, rounded up": (
        {"rate_limit": 3, "period": 1.0, "spacing": "even"},
        [(0, 1, True), (0.333333, 1, False), (0.333334, 1, True), (0.666668, 1, True), (1.049999, 1, False)],
    ),
    "even spacing of two windows is the larger of theirs": (
        {"rate_limit": "10/second; 60/minute", "spacing": "even"},
        [(0, 1, True), (0.999999, 1, False), (1, 1, True)],
    ),
    "spacing counts calls, whatever their cost": (
        {"rate_limit": 10, "spacing": 1.0},
        [(0, 5, True), (0.999999, 1, False), (1, 5, True)],
    ),
    "a call of some cost takes as many hits": (
        FIVE_PER_SECOND,
        [(0, 3, True), (0.2, 3, False), (0.2, 2, True), (1.05, 3, True), (1.05, 1, False), (1.25, 2, True)],
    ),
    "a call as large as the limit needs it empty": (
        FIVE_PER_SECOND,
        [(0, 5, True), (0.5, 1, False), (1.049999, 5, False), (1.05, 5, True)],
    ),
    "a refusal of a large call leaves the room to a small one": (
        FIVE_PER_SECOND,
        [(0, 4, True), (0, 2, False), (0, 1, True), (0, 1, False)],
    ),
    "what is not used is not saved up": (
        FIVE_PER_SECOND,
        [(0, 1, True), (100, 5, True), (100, 1, False), (101.05, 5, True)],
    ),
}


@pytest.mark.parametrize(("terms", "rows"), TABLES.values(), ids=TABLES)
def test_refused_before_the_promised_instant_and_admitted_exactly_at_it(terms: dict[str, Any], rows: list[Row]) -> None:
    """With ``max_wait=0`` a call is admitted from the promised microsecond on, and refused one earlier."""
    clock, cache = FakeClock(jump=False), WatchedCache()
    limit = Nekkar(cache, clock=clock)("calls", **terms)
    for t, n, ok in rows:
        move_to(clock, t)
        try:
            admission = limit.acquire(cost=n, max_wait=0)
        except WaitTooLong:
            assert not ok, f"a call of {n} at {t} s was refused"
        else:
            assert ok, f"a call of {n} at {t} s was admitted"
            assert admission == Admission("calls", n, (START_US + round(t * 1e6)) / 1e6, 0.0)


@pytest.mark.parametrize(("terms", "rows"), TABLES.values(), ids=TABLES)
def test_refusals_book_nothing_and_tell_exactly_when(terms: dict[str, Any], rows: list[Row]) -> None:
    """After each refusal the hits are as before, and the same call is admitted after ``retry_after``, no sooner."""
    clock, cache = FakeClock(jump=False), WatchedCache()
    limit = Nekkar(cache, clock=clock)("calls", **terms)
    last = max(index for index, (_, _, ok) in enumerate(rows) if not ok)
    for t, n, ok in rows[:last]:
        move_to(clock, t)
        if ok:
            limit.acquire(cost=n, max_wait=0)
    t, n, _ = rows[last]
    move_to(clock, t)
    before, used = booked(cache), limit.status().windows
    with pytest.raises(WaitTooLong) as refusal:
        limit.acquire(cost=n, max_wait=0)
    after = booked(cache)
    assert after == before[len(before) - len(after) :]  # what is past may be forgotten
    assert limit.status().windows == used
    clock.advance(refusal.value.retry_after - 1e-6)
    with pytest.raises(WaitTooLong):
        limit.acquire(cost=n, max_wait=0)
    clock.advance(1e-6)
    limit.acquire(cost=n, max_wait=0)


EXPECTED_US = 2000  # a caller that comes back at once is expected so long after its last slot

SLOTS: dict[str, tuple[dict[str, Any], list[int], list[float]]] = {
    # terms, the costs of calls one after the other, the slot of each
    "bursts": ({"rate_limit": 2, "period": 1.0, "margin": 0.05}, [1] * 5, [0, 0, 1.05, 1.05, 2.1]),
    "spacing": ({"rate_limit": 2, "period": 1.0, "margin": 0.05, "spacing": 0.3}, [1] * 4, [0, 0.3, 1.05, 1.35]),
    "even": ({"rate_limit": 4, "period": 1.0, "margin": 0.05, "spacing": "even"}, [1] * 5, [0, 0.25, 0.5, 0.75, 1.05]),
    "costs": ({"rate_limit": 3, "period": 1.0, "margin": 0.05}, [2, 2, 1, 3], [0, 1.05, 1.05, 2.1]),
    "windows": ({"rate_limit": "2/second; 3/4 seconds"}, [1] * 6, [0, 0, 1.05, 4.05, 4.05, 5.1]),
    "a small margin": ({"rate_limit": 1, "period": 1.0, "margin": 0.01}, [1] * 3, [0, 1.01, 2.02]),
}


@pytest.mark.parametrize(("terms", "costs", "slots"), SLOTS.values(), ids=SLOTS)
@pytest.mark.parametrize("in_process", [True, False])
def test_a_caller_that_waits_is_admitted_at_its_slot(
    terms: dict[str, Any], costs: list[int], slots: list[float], in_process: bool
) -> None:
    """A call blocks until its slot, the earliest that all windows allow, and learns how long it waited.

    Under a limit that binds, a slot may be booked before its call comes, for when it is expected.
    """
    clock, cache = FakeClock(), WatchedCache(in_process=in_process)
    limit = Nekkar(cache, clock=clock)("calls", **terms)
    for cost, slot in zip(costs, slots, strict=True):
        asked = clock.now_us()
        admission = limit.acquire(cost)
        assert 0 <= since_start(admission) - round(slot * 1e6) <= EXPECTED_US
        assert clock.now_us() == START_US + since_start(admission)
        assert admission.waited == (clock.now_us() - asked) / 1e6


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("terms", "costs", "slots"), SLOTS.values(), ids=SLOTS)
@pytest.mark.parametrize("in_process", [True, False])
def test_a_task_that_waits_is_admitted_at_its_slot(
    backend: str, terms: dict[str, Any], costs: list[int], slots: list[float], in_process: bool
) -> None:
    """Tasks get the slots that threads get, under asyncio and trio."""
    clock, cache = FakeClock(), WatchedCache(in_process=in_process)
    limit = Nekkar(cache, clock=clock)("calls", **terms)

    async def main() -> list[int]:
        return [since_start(await limit.acquire_async(cost)) for cost in costs]

    for at, slot in zip(run_in(backend, main), slots, strict=True):
        assert 0 <= at - round(slot * 1e6) <= EXPECTED_US


def test_a_wait_that_max_wait_allows_is_waited_and_a_microsecond_more_is_not() -> None:
    """``max_wait`` is inclusive: a slot exactly so far off is waited for."""
    clock = FakeClock()
    limit = Nekkar(clock=clock)("calls", 1, period=10.0, margin=0.05)
    limit.acquire()
    with pytest.raises(WaitTooLong, match=r"10\.050 s away, and max_wait is 10\.049999 s") as refusal:
        limit.acquire(max_wait=10.049999)
    assert clock.now == START, "a refusal must come at once"
    error = refusal.value
    assert (error.name, error.retry_after, error.max_wait) == ("calls", 10.05, 10.049999)
    assert since_start(limit.acquire(max_wait=10.05)) == 10_050_000


def test_the_max_wait_of_the_call_comes_before_that_of_the_limit() -> None:
    """A call may be more patient than its limit, or less, and else waits as long as the limit says."""
    clock = FakeClock()
    limit = Nekkar(clock=clock)("calls", 1, period=10.0, max_wait=20)
    limit.acquire()
    with pytest.raises(WaitTooLong):
        limit.acquire(max_wait=0)
    assert limit.acquire().waited == 10.05
    impatient = Nekkar(clock=clock)("calls", 1, period=10.0, max_wait=0)
    impatient.acquire()
    with pytest.raises(WaitTooLong):
        impatient.acquire()
    assert impatient.acquire(max_wait=20).waited == 10.05


def test_max_wait_0_works_for_many_threads_at_once_on_a_free_limit() -> None:
    """Threads that would not wait at all are admitted together while there is room, and no more of them."""
    cache = WatchedCache()
    limit = Nekkar(cache, clock=FakeClock(jump=False))("calls", 50, max_wait=0)
    together = threading.Barrier(60)
    crowd = Crowd()
    for _ in range(60):
        crowd.add(lambda: (together.wait(PATIENCE), limit.acquire()))
    outcomes = crowd.outcomes()
    assert sum(not isinstance(outcome, BaseException) for outcome in outcomes) == 50
    assert sum(isinstance(outcome, WaitTooLong) for outcome in outcomes) == 10
    assert hits(cache) == 50


def test_a_refused_thread_behind_a_long_line_learns_it_at_once() -> None:
    """Whoever joins a line whose slots lie too far off is refused without any call of the cache."""
    clock, cache = FakeClock(jump=False), WatchedCache()
    limit = Nekkar(cache, clock=clock)("calls", 1, period=10.0, margin=1.0)
    limit.acquire()
    crowd = Crowd()
    crowd.line_up(limit, 3, lambda number: waiting(limit) == number + 1 and not is_in_turn(limit))
    calls = cache.calls
    with pytest.raises(WaitTooLong) as refusal:
        limit.acquire(max_wait=43)
    assert refusal.value.retry_after == 44.0
    assert cache.calls == calls
    for turn in range(3):
        clock.advance(11)
        crowd.until(turn + 1)
    assert [since_start(admission) for admission in crowd.outcomes()] == [11_000_000, 22_000_000, 33_000_000]


def test_threads_are_admitted_in_the_order_in_which_they_joined() -> None:
    """First come, first served: 20 threads under a limit of one call per period."""
    clock = FakeClock(jump=False)
    limit = Nekkar(clock=clock)("calls", 1, period=1.0, margin=1.0)
    crowd = Crowd()
    crowd.line_up(limit, 20, lambda number: crowd.done == 1 and waiting(limit) == number)
    for number in range(20):
        crowd.until(number + 1)
        clock.advance(2)
    assert crowd.admitted == list(range(20))
    assert [since_start(admission) for admission in crowd.outcomes()] == [2_000_000 * number for number in range(20)]


def test_real_threads_are_never_over_and_use_all_of_the_limit() -> None:
    """On the machine's clock, starts of 12 threads keep every window, and no slot is lost."""
    limit = Nekkar()("calls", 10, period=0.1, margin=0.2)
    starts: list[int] = []

    def call() -> None:
        for _ in range(5):
            limit.acquire()
            starts.append(time.time_ns() // 1000)

    with ThreadPoolExecutor(12) as pool:
        for future in [pool.submit(call) for _ in range(12)]:
            future.result(PATIENCE)
    assert len(starts) == 60
    assert not spans_broken(starts, 10, 100_000)


# Places in line.


class FarClock(SystemClock):
    """A clock that is half a minute behind until it is read, which takes some time or other."""

    def __init__(self) -> None:
        self.reads = 0

    def now_us(self) -> int:
        return super().now_us() + 30_000_000 * (self.reads > 0)

    def is_due(self) -> bool:
        return not self.reads

    def read(self) -> None:
        threading.Event().wait(0.01 * random.random())
        self.reads += 1


class SetClock(SystemClock):
    """A clock that is set as one thread reads it, and a call in another thread notices that meanwhile."""

    def __init__(self, reading: int) -> None:
        self.ahead_us, self.readings, self.reader = 0, reading, threading.get_ident()
        self.limit: Limit | None = None

    def now_us(self) -> int:
        if self.limit and threading.get_ident() == self.reader:
            self.readings -= 1
            if self.readings == 0:
                self.ahead_us = 10_000_000
                other = threading.Thread(target=self.limit.acquire, daemon=True)
                other.start()
                other.join(0.2)
        return super().now_us() + self.ahead_us


@pytest.mark.parametrize("reading", range(1, 13))
def test_a_call_goes_on_where_the_clock_is_set_at_one_of_its_readings(reading: int) -> None:
    """Its slot means nothing then: the thread that notices takes it away, and the call is booked again."""
    clock = SetClock(reading)
    limit = Nekkar(MemoryCache(), clock=clock)("calls", 1000, period=60.0)
    limit.acquire()
    clock.limit = limit
    assert limit.acquire().waited < 1
    assert clock.ahead_us or clock.readings > 0


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("in_process", [True, False])
def test_the_first_tasks_to_call_are_the_first_to_start_on_a_clock_that_must_be_read_first(
    backend: str, in_process: bool
) -> None:
    """As at a program's start: none overtakes while another waits for the clock, or lets other tasks run."""
    clock = FarClock()
    limit = Nekkar(WatchedCache(in_process=in_process), clock=clock)("calls", 1, period=0.02, margin=0.12)
    called, started = list[int](), list[int]()

    async def call(number: int) -> None:
        called.append(number)
        await limit.acquire_async()
        started.append(number)

    async def main() -> None:
        async with anyio.create_task_group() as group:
            for number in range(6):
                group.start_soon(call, number)

    run_in(backend, main)
    assert started == called
    assert clock.reads == 1


@pytest.mark.parametrize("in_process", [True, False])
def test_a_wait_is_bounded_from_the_call_on_whatever_the_clock_shows_once_it_is_read(in_process: bool) -> None:
    """It is half a minute ahead then, and that is no wait: a call of ``max_wait=1`` is admitted, the next refused."""
    limit = Nekkar(WatchedCache(in_process=in_process), clock=FarClock())("calls", 1, period=10.0)

    async def call() -> Admission:
        return await limit.acquire_async(max_wait=1)

    assert run_in("asyncio", call).waited < 1
    with pytest.raises(WaitTooLong):
        limit.acquire(max_wait=1)
    threads = Nekkar(WatchedCache(in_process=in_process), clock=FarClock())("calls", 1, period=10.0)
    assert threads.acquire(max_wait=1).waited < 1


def test_threads_have_their_places_before_the_clock_is_read() -> None:
    """The first to come reads it for all; the others stand in line meanwhile, and start in order."""
    read, go_on = threading.Event(), threading.Event()

    class Gated(FarClock):
        def read(self) -> None:
            read.set()
            assert go_on.wait(PATIENCE)
            super().read()

    clock = Gated()
    limit, crowd = Nekkar(WatchedCache(), clock=clock)("calls", 1, period=0.02, margin=0.12), Crowd()
    crowd.line_up(limit, 4, lambda number: waiting(limit) == number + 1)
    assert read.wait(PATIENCE)
    go_on.set()
    ats = [admission.at for admission in crowd.outcomes()]
    assert ats == sorted(ats)
    assert clock.reads == 1


# Deadlines.


@pytest.mark.parametrize("costs", [(1, 1), (1, 3)])
def test_a_call_that_will_not_wait_is_admitted_while_there_is_room(costs: tuple[int, int]) -> None:
    """Whatever the calls before it asked for: a limit that bound a moment ago, a caller that came back regularly."""
    clock = FakeClock()
    limit = Nekkar(clock=clock)("calls", 8, period=1.0, margin=0.05)
    for _ in range(8 * 6 + 1):
        limit.acquire()
    clock.advance(0.1)
    first, second = costs
    limit.acquire(first)
    assert limit.acquire(second, max_wait=0).waited == 0


def test_a_call_under_a_close_spacing_that_comes_sooner_than_usual_finds_room_at_once(clock: FakeClock) -> None:
    """Its process has a place, since a call had to wait; that is ready when calls usually come back."""
    limit = Nekkar(WatchedCache(in_process=False), clock=clock)("calls", "100000/second", spacing=0.001)
    assert [limit.acquire().waited for _ in range(2)] == [0, 0.001]
    for pause in (0.08, 0.08, 0.01, 0.005, 0.03):
        clock.advance(pause)
        assert limit.acquire().waited == 0


def test_a_call_of_some_cost_is_refused_only_where_its_spacing_forbids_it() -> None:
    """Spacing counts calls: four hits of one call ahead are one step, here and for those in line behind it."""
    clock = FakeClock(jump=False)
    limit, crowd = Nekkar(clock=clock)("calls", 100, spacing=1.0), Crowd()
    limit.acquire(cost=10)
    crowd.add(lambda: limit.acquire(cost=10))
    eventually(lambda: waiting(limit) == 1 and not is_in_turn(limit))
    crowd.add(lambda: limit.acquire(cost=10, max_wait=2))
    eventually(lambda: waiting(limit) == 2)
    with pytest.raises(WaitTooLong) as refusal:
        limit.acquire(max_wait=2.9)
    assert refusal.value.retry_after == 3
    for turn in range(2):
        clock.advance(1)
        crowd.until(turn + 1)
    assert [since_start(admission) for admission in crowd.outcomes()] == [1_000_000, 2_000_000]


def test_a_caller_in_line_is_refused_in_time_though_the_cache_does_not_answer() -> None:
    """Who leads waits for the cache; who is behind it and has a deadline waits a horizon longer at most."""
    clock, cache = FakeClock(jump=False), WatchedCache(in_process=False)
    limit, crowd, go_on = Nekkar(cache, clock=clock)("calls", 5), Crowd(), threading.Event()
    limit.acquire()
    cache.before = lambda number: go_on.wait(PATIENCE)
    crowd.add(limit.acquire)
    eventually(lambda: waiting(limit) == 1)
    crowd.add(lambda: limit.acquire(max_wait=0.05))
    eventually(lambda: waiting(limit) == 2)
    clock.advance(0.05 + 0.1)
    crowd.until(1)
    go_on.set()
    admitted, refused = crowd.outcomes()
    assert isinstance(refused, WaitTooLong)
    assert since_start(admitted) == 150_000
    eventually(lambda: hits(cache) == 2)


def test_a_caller_whose_turn_moves_behind_its_deadline_is_refused_at_the_next_look() -> None:
    """Another process holds the limit: who can't wait so long hears of it within a second, others stay in line."""
    clock, cache = FakeClock(jump=False), WatchedCache()
    limit, other = (Nekkar(cache, clock=clock)("calls", 1, period=10.0) for _ in range(2))
    limit.acquire()
    crowd = Crowd()
    crowd.add(lambda: limit.acquire(max_wait=11))
    eventually(lambda: waiting(limit) == 1 and not is_in_turn(limit))
    crowd.add(lambda: limit.acquire(max_wait=60))
    eventually(lambda: waiting(limit) == 2)
    other.hold(30)
    clock.advance(1)
    crowd.until(1)
    (refused,) = (future.exception(PATIENCE) for future in crowd.futures[:1])
    assert isinstance(refused, WaitTooLong)
    assert refused.retry_after == 29
    assert waiting(limit) == 1
    clock.advance(29)
    assert since_start(crowd.outcomes()[1]) == 30_000_000


def test_a_caller_with_a_deadline_uses_a_slot_that_another_process_granted() -> None:
    """Its place has credit, so whoever writes first books for both; it only looks, and starts by its deadline."""
    clock, cache = FakeClock(jump=False), WatchedCache()
    mine, other = (Nekkar(cache, clock=clock)("calls", 2, period=10.0) for _ in range(2))
    for limit in (mine, other):
        limit.acquire()
    crowd = Crowd()
    for limit in (other, mine):
        crowd.add(partial(limit.acquire, max_wait=10.05))
        eventually(partial(is_queued, limit))
    blocked, go_on = threading.Event(), threading.Event()
    read = cache.memory.gets
    looking = set[int]()

    def gated(key: str) -> Any:  # the first of them to look writes for both before the other one looks
        looking.add(threading.get_ident())
        if len(looking) > 1 and not blocked.is_set():
            blocked.set()
            assert go_on.wait(PATIENCE)
        return read(key)

    cache.memory.gets = gated  # type: ignore[method-assign]
    clock.advance(10.03)
    assert blocked.wait(PATIENCE)
    eventually(lambda: booked(cache) == [0, 0, 10_050_000, 10_050_000])
    go_on.set()
    eventually(lambda: not any(waiting(limit) or is_in_turn(limit) for limit in (mine, other)))
    assert booked(cache) == [0, 0, 10_050_000, 10_050_000]
    clock.advance(0.02)
    assert [since_start(admission) for admission in crowd.outcomes()] == [10_050_000] * 2


@pytest.mark.parametrize("stands_in_line", [False, True])
def test_who_loses_each_swap_is_refused_soon_after_its_deadline(stands_in_line: bool, clock: FakeClock) -> None:
    """A cache 60 ms away, and others write between any two of its commands: no call goes on for 500 tries."""
    cache = WatchedCache(in_process=False)
    limit = Nekkar(cache, clock=clock)("calls", 5, period=1.0, margin=0.05)
    for _ in range(5 if stands_in_line else 1):
        limit.acquire()
    if stands_in_line:
        clock.advance(0.8)
    calls = cache.calls

    def others_write(number: int) -> None:
        clock.advance(0.06)
        value, token = cache.memory.gets(booked_key)
        if value and number > calls + (2 if stands_in_line else 0):
            cache.memory.cas(booked_key, value, token, 60)

    booked_key = cache_key("calls")
    cache.before = others_write
    began = clock.now_us()
    with pytest.raises(WaitTooLong):
        limit.acquire(max_wait=0.5)
    assert clock.now_us() - began < 500_000 + 3 * 120_000
    cache.before = lambda number: None
    clock.advance(2)
    assert limit.acquire(max_wait=0).cost == 1

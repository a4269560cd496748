"""The limiter's faces: what a caller may rely on, in threads, in tasks, and when things go wrong.

Most tests run on a clock that stands still until the test moves it (``FakeClock(jump=False)``), or that
jumps over each sleep; only what is about processes or many loops runs on the machine's clock.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import anyio
import pytest

from nekkar.core.cache import BaseCache, MemoryCache, SqliteCache
from nekkar.core.codec import decode
from nekkar.core.errors import CacheError, ConfigurationError, CorruptLog, WaitTooLong, shown
from nekkar.core.key import cache_key
from nekkar.core.limiter import Admission, Limit, Nekkar
from nekkar.core.loops import this_loop
from nekkar.testing import START_US, FakeClock
from tests.checks import spans_broken

ROOT = Path(__file__).parent.parent
START = START_US / 1e6
PATIENCE = 30.0  # seconds that a test waits for what must come
BACKENDS = ["asyncio", "trio"]


# Tools: a cache that can be watched and broken, clocks that interrupt, and ways to wait for others.


class WatchedCache(BaseCache):
    """A memory cache that counts its calls; ``before`` and ``after`` are told each one's number, and may raise."""

    def __init__(self, *, in_process: bool = True) -> None:
        self.in_process = in_process
        self.memory = MemoryCache()
        self.calls = 0
        self.before: Callable[[int], object] = lambda number: None
        self.after: Callable[[int], object] = lambda number: None
        self._lock = threading.Lock()

    def add(self, key: str, value: str) -> bool:
        return bool(self._watched(self.memory.add, key, value))

    def get(self, key: str) -> str | None:
        value = self._watched(self.memory.get, key)
        return None if value is None else str(value)

    def set(self, key: str, value: str) -> None:
        self._watched(self.memory.set, key, value)

    def delete(self, key: str) -> None:
        self._watched(self.memory.delete, key)

    def gets(self, key: str) -> tuple[bytes | None, Any]:
        value, token = self._watched(self.memory.gets, key)
        return value, token

    def cas(self, key: str, value: bytes, token: Any, ttl: int) -> Any:
        return self._watched(self.memory.cas, key, value, token, ttl)

    def _watched(self, call: Callable[..., Any], *args: Any) -> Any:
        with self._lock:
            self.calls += 1
            number = self.calls
        self.before(number)
        result = call(*args)
        self.after(number)
        return result


class InterruptingClock(FakeClock):
    """A clock whose ``at``-th sleep raises KeyboardInterrupt, before or after the sleep."""

    def __init__(self, at: int, *, after: bool, jump: bool = True) -> None:
        super().__init__(jump=jump)
        self.at, self.is_after, self.sleeps = at, after, 0
        self._asleep: dict[int, tuple[int | None, threading.Event]] = {}
        self._counting = threading.Lock()

    def sleep_until(self, at_us: int | None, wake: threading.Event) -> None:
        with self._counting:
            self.sleeps += 1
            number = self.sleeps
        if number == self.at and not self.is_after:
            raise KeyboardInterrupt
        self._asleep[number] = (at_us, wake)
        super().sleep_until(at_us, wake)
        del self._asleep[number]
        if number == self.at:
            raise KeyboardInterrupt

    def are_asleep(self, threads: int) -> bool:
        """Whether so many threads sleep, and nothing has come yet for which one wakes."""
        asleep, now = list(self._asleep.values()), self.now_us()
        return len(asleep) == threads and not any(wake.is_set() or (at or now + 1) <= now for at, wake in asleep)


def interrupt_at(number: int) -> Callable[[int], object]:
    """Return what raises KeyboardInterrupt at one call of a cache, and at no other."""

    def interrupt(call: int) -> None:
        if call == number:
            raise KeyboardInterrupt

    return interrupt


def hits(cache: WatchedCache | MemoryCache, name: str = "calls") -> int:
    """Return how many hits the log of a limit holds."""
    memory = cache.memory if isinstance(cache, WatchedCache) else cache
    raw, _ = memory.gets(cache_key(name))
    return 0 if raw is None else sum(count for _, count in decode(raw).hits())


def booked(cache: WatchedCache, name: str = "calls") -> list[int]:
    """Return the times of all hits of a limit, in µs after the fake clock's start."""
    raw, _ = cache.memory.gets(cache_key(name))
    assert raw is not None
    return [at - START_US for at, count in decode(raw).hits() for _ in range(count)]


def waiting(limit: Limit) -> int:
    """Return how many threads stand in line without a slot."""
    return limit._shared.thread_line().waiting


def eventually(happened: Callable[[], bool], what: str = "what must come") -> None:
    """Wait until something has happened in other threads."""
    deadline = time.monotonic() + PATIENCE
    while not happened():
        assert time.monotonic() < deadline, f"{what} did not come"
        time.sleep(0.0005)


def move_to(clock: FakeClock, seconds: float) -> None:
    """Set a clock to so many seconds after its start."""
    clock.advance((START_US + round(seconds * 1e6) - clock.now_us()) / 1e6)


def since_start(admission: Admission) -> int:
    """Return an admission's slot, in µs after the fake clock's start."""
    return round(admission.at * 1e6) - START_US


def settle(future: Future[Any], action: Callable[[], Any]) -> None:
    """Do something, and put what came of it in a future."""
    try:
        future.set_result(action())
    except BaseException as error:
        future.set_exception(error)


@dataclass
class Crowd:
    """Threads that each do one thing; what they returned or raised, in order of their start."""

    futures: list[Future[Any]] = field(default_factory=list)
    admitted: list[int] = field(default_factory=list)

    def add(self, action: Callable[[], Any]) -> None:
        future = Future[Any]()
        threading.Thread(target=settle, args=(future, action), daemon=True).start()
        self.futures.append(future)

    def line_up(self, limit: Limit, count: int, ready: Callable[[int], bool]) -> None:
        """Start threads that acquire, each when the one before is ready; ``admitted`` tells who was, in order."""
        for number in range(count):
            self.add(functools.partial(self._acquire, limit, number))
            eventually(functools.partial(ready, number))

    @property
    def done(self) -> int:
        """How many have returned or raised."""
        return sum(future.done() for future in self.futures)

    def until(self, count: int) -> None:
        """Wait until so many have returned or raised."""
        eventually(lambda: self.done >= count)

    def _acquire(self, limit: Limit, number: int) -> Admission:
        admission = limit.acquire()
        self.admitted.append(number)
        return admission

    def outcomes(self) -> list[Any]:
        """Wait for all; return results, and errors as values."""
        return [future.exception(PATIENCE) or future.result() for future in self.futures]


# What is admitted when.

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
    """After each refusal the log is as before, and the same call is admitted after ``retry_after``, no sooner."""
    clock, cache = FakeClock(jump=False), WatchedCache()
    limit = Nekkar(cache, clock=clock)("calls", **terms)
    last = max(index for index, (_, _, ok) in enumerate(rows) if not ok)
    for t, n, ok in rows[:last]:
        move_to(clock, t)
        if ok:
            limit.acquire(cost=n, max_wait=0)
    t, n, _ = rows[last]
    move_to(clock, t)
    before = booked(cache)
    with pytest.raises(WaitTooLong) as refusal:
        limit.acquire(cost=n, max_wait=0)
    assert booked(cache) == before
    clock.advance(refusal.value.retry_after - 1e-6)
    with pytest.raises(WaitTooLong):
        limit.acquire(cost=n, max_wait=0)
    clock.advance(1e-6)
    limit.acquire(cost=n, max_wait=0)


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
    """A call blocks until its slot, the earliest that all windows allow, and learns how long it waited."""
    clock, cache = FakeClock(), WatchedCache(in_process=in_process)
    limit = Nekkar(cache, clock=clock)("calls", **terms)
    for cost, slot in zip(costs, slots, strict=True):
        asked = clock.now_us()
        admission = limit.acquire(cost)
        assert since_start(admission) == round(slot * 1e6)
        assert clock.now_us() - START_US == round(slot * 1e6)
        assert admission.waited == (clock.now_us() - asked) / 1e6
    assert hits(cache) == sum(costs)


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

    assert run_in(backend, main) == [round(slot * 1e6) for slot in slots]


def run_in(backend: str, main: Callable[[], Awaitable[Any]]) -> Any:
    """Run an async function to its end under asyncio or trio."""
    if backend == "trio":
        pytest.importorskip("trio")
    return anyio.run(main, backend=backend)


def test_a_wait_that_max_wait_allows_is_waited_and_a_microsecond_more_is_not() -> None:
    """``max_wait`` is inclusive: a slot exactly so far off is waited for."""
    clock = FakeClock()
    limit = Nekkar(clock=clock)("calls", 1, period=10.0, margin=0.05)
    limit.acquire()
    with pytest.raises(WaitTooLong, match=r"10\.050 s away, and max_wait is 10\.05 s") as refusal:
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
    crowd.line_up(limit, 3, lambda number: hits(cache) == 2 and waiting(limit) == number)
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
    clock, cache = FakeClock(jump=False), WatchedCache()
    limit = Nekkar(cache, clock=clock)("calls", 1, period=1.0, margin=1.0)
    crowd = Crowd()
    crowd.line_up(limit, 20, lambda number: hits(cache) == min(number + 1, 2) and waiting(limit) == max(number - 1, 0))
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


# The decorator and the blocks.


def test_a_decorated_function_waits_then_runs() -> None:
    """Each call of a decorated function starts at its slot, and returns or raises what the function does."""
    clock = FakeClock()
    started: list[float] = []

    @Nekkar(clock=clock)("calls", 1, period=1.0)
    def call(number: int) -> int:
        started.append(round(clock.now - START, 6))
        return 100 // number

    assert [call(1), call(2)] == [100, 50]
    with pytest.raises(ZeroDivisionError):
        call(0)
    assert started == [0.0, 1.05, 2.1]


def test_a_refused_call_does_not_run() -> None:
    """Where ``acquire`` would raise, the decorated function raises, and its body does not start."""
    runs: list[int] = []
    call = Nekkar(clock=FakeClock())("calls", 1, max_wait=0)(lambda: runs.append(1))
    call()
    with pytest.raises(WaitTooLong):
        call()
    assert runs == [1]


def test_a_decorated_function_keeps_its_name_its_words_and_its_signature() -> None:
    """Decorating changes nothing that tools see of a function."""

    def call(data: bytes, /, times: int = 3, *rest: str, flag: bool = False, **more: object) -> list[str]:
        """Say it again."""
        return [*rest, str((data, times, flag, more))]

    limited = Nekkar()("calls", 100)(call)
    assert (limited.__name__, limited.__qualname__) == (call.__name__, call.__qualname__)
    assert (limited.__doc__, limited.__module__) == ("Say it again.", __name__)
    assert limited.__wrapped__ is call  # type: ignore[attr-defined]
    assert inspect.signature(limited) == inspect.signature(call)
    assert limited(b"x", 5, "a", flag=True, z=1) == call(b"x", 5, "a", flag=True, z=1)


def test_methods_keep_self_class_and_state() -> None:
    """A limit below @classmethod, @staticmethod and @property, and on plain methods, limits all instances as one."""
    limit = Nekkar(clock=FakeClock())("calls", 5, max_wait=0)

    class Counter:
        made = 0

        def __init__(self) -> None:
            self.total = 0

        @limit
        def add(self, number: int) -> int:
            self.total += number
            return self.total

        @classmethod
        @limit
        def make(cls) -> Counter:
            cls.made += 1
            return cls()

        @staticmethod
        @limit
        def double(number: int) -> int:
            return 2 * number

        @property
        @limit
        def doubled(self) -> int:
            return 2 * self.total

    one, two = Counter(), Counter.make()
    assert [one.add(3), two.add(4), one.double(3), one.doubled] == [3, 4, 6, 6]
    assert (one.total, two.total, Counter.made) == (3, 4, 1)
    with pytest.raises(WaitTooLong):
        two.add(1)


def of_class(cls: type[object]) -> str:
    return cls.__name__


@pytest.mark.parametrize(
    "thing",
    [property(len), None, 42, "function", [len], object()],
    ids=lambda thing: type(thing).__name__,
)
def test_what_can_not_be_called_can_not_be_decorated(thing: Any) -> None:
    """The error shows the thing, and says where the limit belongs."""
    limit = Nekkar()("calls", 5)
    with pytest.raises(ConfigurationError, match="not callable; put the limit below @property") as error:
        limit(thing)
    assert repr(thing)[:40] in str(error.value)


def test_static_and_class_methods_stay_what_they_are_above_and_below_the_limit() -> None:
    """In either order, from the class and from an instance, and each call counts once."""
    limit = Nekkar(clock=FakeClock())("calls", 8, max_wait=0)

    class Tool:
        base = 10

        @limit
        @staticmethod
        def double(number: int) -> int:
            return 2 * number

        @staticmethod
        @limit
        def triple(number: int) -> int:
            return 3 * number

        @limit
        @classmethod
        def plus(cls, number: int) -> int:
            return cls.base + number

        @classmethod
        @limit
        def minus(cls, number: int) -> int:
            return cls.base - number

    for tool in (Tool, Tool()):
        assert (tool.double(2), tool.triple(2), tool.plus(2), tool.minus(2)) == (4, 6, 12, 8)
    with pytest.raises(WaitTooLong):
        Tool.double(2)


def test_a_generator_takes_its_slot_at_its_first_item() -> None:
    """Made it has booked nothing; it stays a generator function, and values go in, out and back."""
    limit = Nekkar(clock=FakeClock())("calls", 1, max_wait=0)

    @limit
    def echo(first: str) -> Generator[str, str, str]:
        """Say what was sent."""
        told = yield first
        while told != "end":
            told = yield told
        return "ended"

    assert inspect.isgeneratorfunction(echo)
    assert (echo.__name__, echo.__doc__) == ("echo", "Say what was sent.")
    one, two = echo("a"), echo("b")
    assert (next(one), one.send("x")) == ("a", "x")
    with pytest.raises(StopIteration, match="ended"):
        one.send("end")
    with pytest.raises(WaitTooLong):
        next(two)


def test_an_async_generator_takes_its_slot_at_its_first_item_and_is_closed() -> None:
    """It waits in its task, and whoever leaves early closes what runs inside."""
    limit = Nekkar(clock=FakeClock())("calls", 1, max_wait=0)
    closed = []

    @limit
    async def count() -> AsyncGenerator[int, None]:
        try:
            for number in range(3):
                yield number
        finally:
            closed.append(True)

    async def main() -> None:
        assert inspect.isasyncgenfunction(count)
        async with aclosing(count()) as numbers:
            async for number in numbers:
                assert number == 0
                break
        assert closed == [True]
        with pytest.raises(WaitTooLong):
            await anext(count())

    asyncio.run(main())


@pytest.mark.parametrize("function", [len, functools.partial(int, base=2), str.upper, dict], ids=str)
def test_any_callable_can_be_decorated(function: Callable[..., Any]) -> None:
    """Builtins, partials and classes have no all of a function's metadata, and are limited all the same."""
    limit = Nekkar(clock=FakeClock())("calls", 1, max_wait=0)
    limited = limit(function)
    argument: Any = [] if function in (len, dict) else "11"
    assert limited(argument) == function(argument)
    with pytest.raises(WaitTooLong):
        limited(argument)


def test_a_decorated_coroutine_function_stays_one_and_waits_in_its_task() -> None:
    """Async functions and methods, and partials of them, are limited without blocking the event loop."""
    clock = FakeClock()
    limit = Nekkar(clock=clock)("calls", 1, period=1.0)

    @limit
    async def call(number: int) -> float:
        """Tell when."""
        return round(clock.now - START, 6) + number

    class Service:
        base = 10

        @limit
        async def call(self, number: int) -> float:
            return round(clock.now - START, 6) + self.base + number

    partial = limit(functools.partial(call.__wrapped__, 7))  # type: ignore[attr-defined]
    assert all(inspect.iscoroutinefunction(function) for function in (call, Service.call, Service().call, partial))
    assert (call.__name__, call.__doc__, list(inspect.signature(call).parameters)) == ("call", "Tell when.", ["number"])

    async def main() -> list[float]:
        return [await call(0), await Service().call(0), await call(number=0), await partial()]

    assert asyncio.run(main()) == [0.0, 11.05, 2.1, 10.15]


def test_a_coroutine_takes_its_slot_when_it_is_awaited() -> None:
    """A coroutine that was made but not awaited has booked nothing."""
    cache = WatchedCache()

    @Nekkar(cache, clock=FakeClock())("calls", 1)
    async def call() -> None:
        return None

    coroutine = call()
    assert cache.calls == 0
    asyncio.run(coroutine)
    assert hits(cache) == 1


class AsyncCallable:
    async def __call__(self) -> None:
        return None


async def ticks() -> AsyncIterator[int]:
    yield 1


@pytest.mark.parametrize("function", [AsyncCallable(), ticks], ids=["async __call__", "async generator"])
def test_nothing_async_blocks_the_event_loop(function: Callable[[], Any]) -> None:
    """Whatever is async is limited as async: its wait never blocks the loop."""

    class NoSyncSleep(FakeClock):
        def sleep_until(self, at_us: int | None, wake: threading.Event) -> None:
            raise AssertionError("the event loop was blocked")

    limited = Nekkar(clock=NoSyncSleep())("calls", 1)(function)

    async def use() -> None:
        made = limited()
        if inspect.isawaitable(made):
            await made
        else:
            async for _ in made:
                pass

    async def main() -> None:
        await use()
        await use()

    asyncio.run(main())


def test_a_block_waits_on_entry_and_lets_exceptions_out() -> None:
    """``with limit:`` gives the admission, swallows nothing, and may be entered again and again."""
    clock = FakeClock()
    limit = Nekkar(clock=clock)("calls", 1, period=1.0)
    with limit as admission:
        assert admission == Admission("calls", 1, START, 0.0)
    with pytest.raises(KeyError, match="inside"), limit:
        raise KeyError("inside")
    with limit as third:
        assert since_start(third) == 2_100_000


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_async_block_waits_on_entry_and_lets_exceptions_out(backend: str) -> None:
    """``async with limit:`` does what ``with limit:`` does."""
    limit = Nekkar(clock=FakeClock())("calls", 1, period=1.0)

    async def main() -> Admission:
        with pytest.raises(KeyError, match="inside"):
            async with limit:
                raise KeyError("inside")
        async with limit as admission:
            return admission

    assert since_start(run_in(backend, main)) == 1_050_000


def test_an_admission_tells_name_cost_slot_and_wait() -> None:
    """An admission is a frozen record: the limit's name, the cost, the slot's Unix time, the seconds waited."""
    limit = Nekkar(clock=FakeClock(start=1000.5))("calls", 3, period=2.0, margin=0.5)
    assert limit.acquire(cost=3) == Admission(name="calls", cost=3, at=1000.5, waited=0.0)
    admission = limit.acquire(cost=2, max_wait=5)
    assert admission == Admission(name="calls", cost=2, at=1003.0, waited=2.5)
    with pytest.raises(AttributeError):
        admission.cost = 1  # type: ignore[misc]


def test_threads_and_tasks_of_one_process_share_one_log() -> None:
    """A limit used from threads and from several event loops is still one limit."""
    cache = WatchedCache()
    limit = Nekkar(cache, clock=FakeClock())("calls", 3, max_wait=0)

    async def main() -> None:
        await limit.acquire_async()

    limit.acquire()
    asyncio.run(main())
    asyncio.run(main())
    with pytest.raises(WaitTooLong):
        limit.acquire()
    with pytest.raises(WaitTooLong):
        asyncio.run(main())
    assert hits(cache) == 3


SNIPPET = """
from nekkar import Admission, Nekkar

limiter = Nekkar()


@limiter(name="calls", rate_limit=100)
def plain(data: bytes, times: int = 1) -> list[bytes]:
    return [data] * times


@limiter("calls", "10/second; 300/minute", spacing=0.05, max_wait=30)
async def later(data: bytes, *, times: int = 1) -> list[bytes]:
    return [data] * times


class Service:
    @limiter("calls", 100)
    def call(self, number: int) -> str:
        return str(number)


async def main() -> None:
    good_1: list[bytes] = plain(b"x", times=2)
    good_2: list[bytes] = await later(b"x", times=2)
    good_3: str = Service().call(1)
    good_4: Admission = limiter("calls", 100).acquire(cost=3, max_wait=5)
    plain("x")  # expect: arg-type
    plain(b"x", often=2)  # expect: call-arg
    bad_1: int = plain(b"x")  # expect: assignment
    later(b"x", 2)  # expect: call-arg, misc, unused-coroutine
    await later()  # expect: call-arg
    Service().call("1")  # expect: arg-type
    limiter("calls", 1.5)  # expect: arg-type
    limiter("calls", 100)(42)  # expect: arg-type
"""


def test_type_checkers_see_through_the_decorator(tmp_path: Path) -> None:
    """mypy accepts right calls of decorated functions, and refuses wrong ones, as if they were not decorated."""
    pytest.importorskip("mypy")
    (tmp_path / "snippet.py").write_text(SNIPPET)
    options = ["--follow-imports=silent", "--config-file=", "--show-error-codes", "--no-error-summary"]
    options += ["--enable-error-code=unused-coroutine", f"--cache-dir={tmp_path / 'cache'}"]
    found = subprocess.run(
        [sys.executable, "-m", "mypy", *options, str(tmp_path / "snippet.py")],
        cwd=ROOT,
        env={**os.environ, "MYPYPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    lines = SNIPPET.splitlines()
    errors = [line for line in found.stdout.splitlines() if ": error:" in line]
    told = {int(error.split(":")[1]) for error in errors}
    assert told == {number for number, line in enumerate(lines, 1) if "# expect" in line}, found.stdout + found.stderr
    for error in errors:
        assert error.rsplit("[", 1)[1].rstrip("]") in lines[int(error.split(":")[1]) - 1], error


# One name, one limit.


def test_one_name_is_one_limit_however_often_it_is_written() -> None:
    """The same name with the same terms, in whatever notation, shares one line; ``max_wait`` is each one's own."""
    limiter = Nekkar(clock=FakeClock())
    first = limiter("calls", 2, max_wait=0)
    second = limiter("calls", "2 per minute", max_wait=100)
    assert first._shared is second._shared
    first.acquire()
    second.acquire()
    with pytest.raises(WaitTooLong):
        first.acquire()
    assert second.acquire().waited == 60.3
    assert (first.name, repr(first)) == ("calls", "<Limit 'calls': 2 per 60 s>")


@pytest.mark.parametrize(
    ("terms", "words"),
    [
        ({"rate_limit": 99}, "99 per 60 s with spacing 0 s and margin 0.3 s"),
        ({"rate_limit": 100, "period": 30}, "100 per 30 s with spacing 0 s and margin 0.15 s"),
        ({"rate_limit": "100/minute; 5/second"}, "5 per 1 s; 100 per 60 s"),
        ({"rate_limit": 100, "spacing": 0.1}, "spacing 0.1 s"),
        ({"rate_limit": 100, "spacing": "even"}, "spacing 0.6 s"),
        ({"rate_limit": 100, "margin": 0.5}, "margin 0.5 s"),
    ],
)
def test_one_name_with_other_terms_is_an_error_that_names_both(terms: dict[str, Any], words: str) -> None:
    """A second definition that contradicts the first is refused where it is written, and the first one stays."""
    limiter = Nekkar(clock=FakeClock())
    limit = limiter("calls", 100)
    with pytest.raises(ConfigurationError) as error:
        limiter("calls", **terms)
    text = str(error.value)
    assert "'calls' is defined already, as 100 per 60 s with spacing 0 s and margin 0.3 s, not" in text
    assert words in text
    assert "give both the same terms, or another name" in text
    limit.acquire()
    assert limiter("calls", 100)._shared is limit._shared


def test_two_limiters_share_nothing() -> None:
    """Each ``Nekkar()`` has a memory of its own: same names, other terms, other hits."""
    clock = FakeClock()
    one, two = Nekkar(clock=clock)("calls", 1, max_wait=0), Nekkar(clock=clock)("calls", 1, max_wait=0)
    one.acquire()
    two.acquire()
    Nekkar(clock=clock)("calls", 99).acquire(cost=99)


def test_other_names_share_nothing() -> None:
    """Names are told apart whatever is in them."""
    limiter = Nekkar(clock=FakeClock())
    for name in ("a", "A", "a ", "ä", "a\n", "a" * 300, "a" * 301, "nekkar:a", "\ud800"):
        limiter(name, 1, max_wait=0).acquire()


def test_limiters_over_one_file_share_their_limits(tmp_path: Path) -> None:
    """A SQLite file carries a limit between limiters, by path or by URL."""
    clock = FakeClock()
    one = Nekkar(SqliteCache(tmp_path / "limits.db"), clock=clock)("calls", 2, max_wait=0)
    two = Nekkar(f"sqlite:///{tmp_path}/limits.db", clock=clock)("calls", 2, max_wait=0)
    one.acquire()
    two.acquire()
    for limit in (one, two):
        with pytest.raises(WaitTooLong):
            limit.acquire()


# Interrupts.

LAST_CALL = 11


@pytest.mark.parametrize("in_process", [True, False])
@pytest.mark.parametrize("side", ["before", "after"])
@pytest.mark.parametrize("at", range(1, LAST_CALL + 1))
def test_an_interrupted_cache_call_leaves_no_slot_booked(at: int, side: str, in_process: bool) -> None:
    """Ctrl-C in any call of the cache, before or after it took effect: the slot is free for the next caller."""
    clock, cache = FakeClock(), WatchedCache(in_process=in_process)
    setattr(cache, side, interrupt_at(at))
    limit = Nekkar(cache, clock=clock)("calls", "2/10 seconds; 1000/day")
    slots: list[int] = []
    interrupts = 0
    while len(slots) < 5:
        try:
            slots.append(since_start(limit.acquire()))
        except KeyboardInterrupt:
            interrupts += 1
        assert hits(cache) == len(slots)
        assert waiting(limit) == 0
    assert slots == [0, 0, 10_050_000, 10_050_000, 20_100_000]
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
    assert hits(cache) == 6 - len(interrupted)
    assert all(since_start(outcome) == 0 for outcome in outcomes if isinstance(outcome, Admission))
    cache.before = cache.after = lambda number: None
    assert since_start(limit.acquire(max_wait=0)) == 0


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
    clock.advance(2)
    assert since_start(crowd.outcomes()[0]) == 2_000_000
    assert hits(cache) == 2


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
            while self.limit._shared.loop_line(this_loop())._booking or not happened():
                await anyio.sleep(0)


async def nobody_is_lost(tasks: Tasks, cache: WatchedCache, cancelled: int) -> None:
    """Check a free limit: all others are admitted at once, and no slot is booked for the one cancelled."""
    others = set(range(5)) - {cancelled}
    await tasks.until(lambda: tasks.is_over(cancelled) and others <= tasks.admitted.keys())
    await tasks.until(lambda: hits(cache) == len(tasks.admitted))
    assert set(tasks.admitted.values()) == {START}
    line = tasks.limit._shared.loop_line(this_loop())
    assert (line.waiting, line._places.returned) == (0, [])


async def the_order_stays(tasks: Tasks, cache: WatchedCache, clock: FakeClock, cancelled: int) -> None:
    """Check a limit that was used up: the first of the others holds the next slot, and all behind it wait."""
    line = tasks.limit._shared.loop_line(this_loop())
    await tasks.until(lambda: tasks.is_over(cancelled))
    await tasks.until(lambda: line.waiting == 3 and booked(cache) == [0, 10_050_000])
    clock.advance(10.05)
    first = min({0, 1} - {cancelled})
    await tasks.until(lambda: first in tasks.admitted and hits(cache) == 3)
    assert tasks.admitted == {first: START + 10.05}


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
    """``task.cancel()`` of who holds a slot, leads or stands in line: the next of the others gets that slot."""

    async def main(turns: int) -> None:
        clock, cache = FakeClock(jump=False), WatchedCache(in_process=in_process)
        tasks = Tasks(Nekkar(cache, clock=clock)("calls", "1/10 seconds; 1000/day"))
        await tasks.limit.acquire_async()
        await tasks.cancel_natively(cancelled, turns)
        await the_order_stays(tasks, cache, clock, cancelled)
        for task in tasks.running:
            task.cancel()
        await asyncio.gather(*tasks.running, return_exceptions=True)
        await tasks.until(lambda: hits(cache) == 2)

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
            await tasks.until(functools.partial(lambda cache: hits(cache) == 2, cache))

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
        assert hits(cache) == len(slots)

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
        await tasks.until(lambda: hits(cache) == len(tasks.admitted))
        assert tasks.limit._shared.loop_line(this_loop()).waiting == 0

    for turns in TURNS:
        asyncio.run(main(turns))


def test_a_task_that_times_out_leaves_its_slot_to_the_next() -> None:
    """A timeout around the wait, as ``asyncio.timeout`` or ``anyio.move_on_after``, gives the slot back."""
    clock, cache = FakeClock(jump=False), WatchedCache()
    limit = Nekkar(cache, clock=clock)("calls", 1, period=10.0, margin=0.05)

    async def main() -> None:
        await limit.acquire_async()
        for _ in range(3):
            with anyio.move_on_after(0.01):
                await limit.acquire_async()
            assert booked(cache) == [0]

    asyncio.run(main())


def test_a_loop_closed_in_the_middle_of_a_booking_leaks_nothing() -> None:
    """A worker thread that still books when its loop ends unbooks what nobody is left to use."""
    cache = WatchedCache(in_process=False)
    limit = Nekkar(cache, clock=FakeClock())("calls", 1, max_wait=0)
    in_call, go_on = threading.Event(), threading.Event()

    def gate(number: int) -> None:
        if number == 1:
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
    eventually(lambda: cache.calls >= 4 and hits(cache) == 0)
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
        while limit._shared.loop_line(this_loop()).waiting < 20:
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


# Other processes.


def test_a_limit_over_a_file_pickles(tmp_path: Path) -> None:
    """A limiter and a limit come back from pickling with the same file, terms and patience."""
    limiter = Nekkar(SqliteCache(tmp_path / "limits.db", timeout=7))
    limit = limiter("calls", "3/hour", spacing=0.01, max_wait=0.5, margin=0.2)
    limit.acquire()
    twin = pickle.loads(pickle.dumps(limit))
    assert (twin.name, repr(twin)) == (limit.name, repr(limit))
    assert repr(twin._limiter) == repr(limiter)
    twin.acquire()
    other = pickle.loads(pickle.dumps(limiter))("calls", "3/hour", spacing=0.01, max_wait=0, margin=0.2)
    other.acquire(max_wait=1)
    for each in (limit, twin, other):
        with pytest.raises(WaitTooLong) as refusal:
            each.acquire()
        assert refusal.value.max_wait in (0.5, 0)


def test_limits_pickled_together_stay_together(tmp_path: Path) -> None:
    """Two limits of one limiter, pickled as one, still share their limiter and their line."""
    limiter = Nekkar(f"sqlite:///{tmp_path}/limits.db")
    one, two, made = pickle.loads(pickle.dumps((limiter("calls", 5), limiter("calls", 5, max_wait=1), limiter)))
    assert one._limiter is two._limiter is made
    assert one._shared is two._shared is made("calls", 5)._shared


def acquire_elsewhere(limit: Limit, times: int) -> list[str]:
    """Acquire in another process; return what came of it."""
    outcomes = []
    for _ in range(times):
        try:
            outcomes.append(limit.acquire(max_wait=0).name)
        except WaitTooLong as refusal:
            outcomes.append(type(refusal).__name__)
    return outcomes


def test_a_spawned_process_uses_the_limit_it_is_given(tmp_path: Path) -> None:
    """A limit sent to a worker process counts there what was used here, and the other way round."""
    limit = Nekkar(SqliteCache(tmp_path / "limits.db", timeout=10))("calls", "3/hour")
    limit.acquire()
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(acquire_elsewhere, (limit, 3)) == ["calls", "calls", "WaitTooLong"]
    with pytest.raises(WaitTooLong):
        limit.acquire(max_wait=0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system can't fork")
def test_a_forked_child_starts_with_an_empty_line() -> None:
    """A fork in the middle of the parent's booking leaves the child free to book, and the parent undisturbed."""
    cache = WatchedCache()
    limit = Nekkar(cache, clock=FakeClock(jump=False))("calls", 100)
    in_call, go_on = threading.Event(), threading.Event()

    def gate(number: int) -> None:
        in_call.set()
        assert go_on.wait(PATIENCE)

    cache.before = gate
    crowd = Crowd()
    crowd.line_up(limit, 3, lambda number: waiting(limit) == number + 1)
    assert in_call.wait(PATIENCE)
    child = fork(lambda: use_in_child(limit, cache))
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert waiting(limit) == 3
    go_on.set()
    assert all(since_start(admission) == 0 for admission in crowd.outcomes())
    assert hits(cache) == 3


def use_in_child(limit: Limit, cache: WatchedCache) -> bool:
    cache.before = lambda number: None
    before = waiting(limit)
    limit.acquire(max_wait=0)
    return before == 0 and hits(cache) == 1


def fork(action: Callable[[], bool]) -> int:
    """Run an action in a forked child, which ends with status 0 where it returned True; return its pid."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # a fork beside threads is what is tested
        child = os.fork()
    if child:
        return child
    status = 1
    try:
        status = 0 if action() else 2
    finally:
        os._exit(status)


# Bad input.

NUMBER, SECONDS = "from 1 to 1000000000", "give seconds from"
BAD_LIMITERS: list[tuple[dict[str, Any], str, str]] = [
    # what is given; what of it the message shows; what the message says was expected
    ({"cache": 42}, "42", "BaseCache"),
    ({"cache": MemoryCache}, "class 'nekkar.core.cache.memory.MemoryCache'", "BaseCache"),
    ({"cache": {}}, "{}", "BaseCache"),
    ({"cache": b"memory:"}, "b'memory:'", "BaseCache"),
    ({"cache": ""}, "''", "memcached://host:11211"),
    ({"cache": "localhost:11211"}, "localhost:11211", "memcached://host:11211"),
    ({"cache": "memcache://localhost"}, "memcache://localhost", "memcached://host:11211"),
    ({"cache": "memcached://localhost:port"}, "localhost:port", "memcached://host:11211"),
    ({"cache": "memory://x"}, "memory://x", "write 'memory:'"),
    ({"cache": "sqlite://file.db"}, "sqlite://file.db", "sqlite:///file.db"),
    ({"cache": "sqlite:///f.db?timeout=soon"}, "soon", "sqlite:///file.db"),
    ({"cache": "sqlite:///f.db?timeout=-1"}, "-1", "give seconds"),
    ({"clock": "utc"}, "'utc'", "'auto', 'local' or a Clock"),
    ({"clock": None}, "None", "'auto', 'local' or a Clock"),
    ({"clock": time}, "time", "'auto', 'local' or a Clock"),
    ({"clock": []}, "[]", "'auto', 'local' or a Clock"),
]
BAD_LIMITS: list[tuple[dict[str, Any], str, str]] = [
    ({"name": ""}, "''", "non-empty str"),
    ({"name": None}, "None", "non-empty str"),
    ({"name": b"calls"}, "b'calls'", "non-empty str"),
    ({"name": 7}, "7", "non-empty str"),
    ({"name": ["calls"]}, "['calls']", "non-empty str"),
    ({"rate_limit": 0}, "0", NUMBER),
    ({"rate_limit": -3}, "-3", NUMBER),
    ({"rate_limit": 1.5}, "1.5", NUMBER),
    ({"rate_limit": True}, "True", NUMBER),
    ({"rate_limit": None}, "None", NUMBER),
    ({"rate_limit": [5]}, "[5]", NUMBER),
    ({"rate_limit": "five"}, "'five'", "COUNT/UNIT"),
    ({"rate_limit": "5/m"}, "'5/m'", "write 'min' or 'month'"),
    ({"rate_limit": "5/s", "period": 1}, "period=1", "leave one out"),
    ({"period": 0}, "period 0", SECONDS),
    ({"period": -1}, "period -1", SECONDS),
    ({"period": "60"}, "'60'", SECONDS),
    ({"period": [60]}, "[60]", SECONDS),
    ({"period": float("nan")}, "nan", SECONDS),
    ({"spacing": -0.1}, "-0.1", SECONDS),
    ({"spacing": "odd"}, "'odd'", "'even'"),
    ({"spacing": None}, "None", SECONDS),
    ({"spacing": {}}, "{}", SECONDS),
    ({"margin": 0}, "margin 0", SECONDS),
    ({"margin": "50ms"}, "'50ms'", SECONDS),
    ({"margin": float("inf")}, "inf", SECONDS),
    ({"max_wait": -1}, "max_wait -1", SECONDS),
    ({"max_wait": "30"}, "'30'", SECONDS),
    ({"max_wait": True}, "True", SECONDS),
    ({"max_wait": float("nan")}, "nan", SECONDS),
    ({"max_wait": [1]}, "[1]", SECONDS),
]
BAD_CALLS: list[Any] = [
    ({"cost": 0}, "cost 0", NUMBER),
    ({"cost": -1}, "cost -1", NUMBER),
    ({"cost": 6}, "cost 6", "at most 5"),
    ({"cost": 10**5000}, "too large to show", NUMBER),
    ({"cost": 2.0}, "2.0", NUMBER),
    ({"cost": 1.0}, "1.0", NUMBER),
    ({"cost": Fraction(1)}, "Fraction(1, 1)", NUMBER),
    ({"cost": True}, "True", NUMBER),
    ({"cost": "1"}, "'1'", NUMBER),
    ({"cost": None}, "None", NUMBER),
    ({"cost": [1]}, "[1]", NUMBER),
    ({"max_wait": -0.001}, "-0.001", SECONDS),
    ({"max_wait": "5"}, "'5'", SECONDS),
    ({"max_wait": False}, "False", SECONDS),
    ({"max_wait": float("nan")}, "nan", SECONDS),
    ({"max_wait": float("inf")}, "inf", SECONDS),
    ({"max_wait": 1e10}, "10000000000.0", SECONDS),
]


def refused(call: Callable[[], Any], told: str, expected: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        call()
    assert isinstance(error.value, ValueError)
    assert told in str(error.value)
    assert expected in str(error.value)


@pytest.mark.parametrize(("given", "told", "expected"), BAD_LIMITERS, ids=shown)
def test_a_bad_limiter_is_refused_in_words(given: dict[str, Any], told: str, expected: str) -> None:
    """What ``Nekkar`` can't work with is named, with what it expects."""
    refused(lambda: Nekkar(**given), told, expected)


def test_a_clock_class_in_place_of_a_clock_is_refused_in_words() -> None:
    """Forgotten parentheses are told where they were forgotten."""
    not_made: Any = FakeClock
    refused(lambda: Nekkar(clock=not_made)("calls", 5).acquire(), "FakeClock", "a Clock")


@pytest.mark.parametrize(("given", "told", "expected"), BAD_LIMITS, ids=shown)
def test_a_bad_limit_is_refused_in_words(given: dict[str, Any], told: str, expected: str) -> None:
    """What a limit can't be made of is named where it is written, with what is expected."""
    terms: dict[str, Any] = {"name": "calls", "rate_limit": 5} | given
    refused(lambda: Nekkar()(**terms), told, expected)
    if "name" not in given:
        refused(lambda: Nekkar()(**terms), "'calls'", expected)


@pytest.mark.parametrize(("given", "told", "expected"), BAD_CALLS, ids=shown)
def test_a_bad_call_is_refused_in_words_and_books_nothing(given: dict[str, Any], told: str, expected: str) -> None:
    """What ``acquire`` can't work with is named with the limit, sync and async, before the cache is asked."""
    cache = WatchedCache()
    limit = Nekkar(cache, clock=FakeClock())("calls", 5)
    refused(lambda: limit.acquire(**given), told, expected)
    refused(lambda: asyncio.run(started(limit.acquire_async(**given))), "limit 'calls': ", expected)
    assert cache.calls == 0


async def started(coroutine: Coroutine[Any, Any, Any]) -> Any:
    return await coroutine


@pytest.mark.parametrize("setting", ["period", "spacing", "margin", "max_wait"])
def test_a_number_of_seconds_beyond_any_float_is_refused_in_words(setting: str) -> None:
    """However large a number, it is out of bounds, not an OverflowError."""
    refused(lambda: Nekkar()("calls", 5, **{setting: 10**400}), setting, SECONDS)

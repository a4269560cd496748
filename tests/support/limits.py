"""What the tests of limits share: a cache to watch and to break, clocks that interrupt, ways to wait for others."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import anyio
import pytest

from nekkar.core.cache import BaseCache, MemoryCache
from nekkar.core.limiter import Admission, Limit
from nekkar.testing import START_US, FakeClock
from tests.support.internals.core import core_of
from tests.support.internals.shared import cache_key
from tests.support.internals.waiting import turns_of
from tests.support.internals.window import Place, decode

START = START_US / 1e6
PATIENCE = 30.0  # seconds that a test waits for what must come
BACKENDS = ["asyncio", "trio"]


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
    return 0 if raw is None else sum(count for _, count in decode(raw).hits.entries())


def booked(cache: WatchedCache, name: str = "calls") -> list[int]:
    """Return the times of all hits of a limit, in µs after the fake clock's start."""
    raw, _ = cache.memory.gets(cache_key(name))
    assert raw is not None
    return [at - START_US for at, count in decode(raw).hits.entries() for _ in range(count)]


def places(cache: WatchedCache, name: str = "calls") -> list[Place]:
    """Return the places of a limit: the lines that wait beyond the horizon, or stand for their next caller."""
    raw, _ = cache.memory.gets(cache_key(name))
    return [] if raw is None else list(decode(raw).places)


def waiting(limit: Limit) -> int:
    """Return how many threads stand in line without a slot."""
    return core_of(limit).thread_line().waiting


def is_in_turn(limit: Limit) -> bool:
    """Return whether the line of threads changes the state, or looks at it, just now."""
    return turns_of(core_of(limit).thread_line()).under_way is not None


def eventually(happened: Callable[[], bool], what: str = "what must come") -> None:
    """Wait until something has happened in other threads."""
    deadline = time.monotonic() + PATIENCE
    while not happened():
        assert time.monotonic() < deadline, f"{what} did not come"
        time.sleep(0.0005)


def move_to(clock: FakeClock, seconds: float) -> None:
    """Set a clock to so many seconds after its start."""
    clock.advance((START_US + round(seconds * 1e6) - clock.now_us()) / 1e6)


def let_pass(clock: FakeClock, threads: list[threading.Thread]) -> None:
    """Let time pass in steps of 10 ms until threads have ended."""
    while any(thread.is_alive() for thread in threads):
        clock.advance(0.01)
        time.sleep(0.001)


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


def run_in(backend: str, main: Callable[[], Awaitable[Any]]) -> Any:
    """Run an async function to its end under asyncio or trio."""
    if backend == "trio":
        pytest.importorskip("trio")
    return anyio.run(main, backend=backend)

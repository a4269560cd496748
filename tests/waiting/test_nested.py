"""A limited call inside a call of the same thread works: in handlers of signals and logs, listeners, finalisers."""

from __future__ import annotations

import gc
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from types import FrameType
from typing import Any

import pytest

from nekkar.core.cache import BaseCache, MemoryCache
from nekkar.core.errors import CacheError, ConfigurationError
from nekkar.core.events import CacheLost, Event, Held, Waiting
from nekkar.core.limiter import Limit, Nekkar
from nekkar.testing import FakeClock
from tests.support.internals.core import limiter_of
from tests.support.internals.runtime import is_nested, run, run_steps
from tests.support.limits import BACKENDS, PATIENCE, Crowd, WatchedCache, eventually, hits, run_in


class Once:
    """Makes a call the first time it is called."""

    def __init__(self, call: Callable[[], object]) -> None:
        self.call, self.done = call, 0

    def __call__(self, *args: object) -> None:
        if not self.done:
            self.done = 1
            self.call()
            self.done = 2


def in_thread(call: Callable[[], object]) -> Any:
    """Make a call in a thread that nothing waits for if it hangs; return what it returned."""
    crowd = Crowd()
    crowd.add(call)
    (outcome,) = crowd.outcomes()
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome


@pytest.fixture
def cache() -> WatchedCache:
    return WatchedCache(in_process=False)


@pytest.fixture
def limit(cache: WatchedCache) -> Limit:
    return Nekkar(cache, clock=FakeClock())("calls", 2, period=10.0)


@pytest.mark.parametrize("side", ["before", "after"])
@pytest.mark.parametrize("at", range(1, 5))
def test_a_call_while_its_thread_talks_to_the_cache(cache: WatchedCache, limit: Limit, side: str, at: int) -> None:
    """SIGTERM in a booking or a look: the handler's call books beside it."""
    nested = Once(limit.acquire)
    setattr(cache, side, lambda number: nested() if number >= at else None)
    for _ in range(3):
        in_thread(limit.acquire)
    assert nested.done == 2
    assert hits(cache) >= 4
    assert limit.status().waiting == 0


@pytest.mark.parametrize("kind", [Waiting, Held, CacheLost])
def test_a_call_in_a_listener(cache: WatchedCache, kind: type[Event]) -> None:
    """An alert that goes through the limited client itself, whatever the event, and wherever it was met."""
    limiter = Nekkar(cache, clock=FakeClock(), on_cache_error="open")
    limit, told = limiter("calls", 2, period=10.0), list[Event]()
    nested = Once(limit.acquire)

    def listen(event: Event) -> None:
        if isinstance(event, kind):
            told.append(event)
            nested()

    limiter.listen(listen)
    limit.acquire()
    if kind is Held:
        Nekkar(cache.memory, clock=FakeClock())("calls", 2, period=10.0).hold(5)
    elif kind is CacheLost:

        def away(number: int) -> None:
            raise CacheError("away")

        cache.before = away
    for _ in range(3):
        in_thread(limit.acquire)
    assert nested.done == 2
    assert len(told) == 1 or kind is Waiting
    assert limit.status().waiting == 0 if kind is not CacheLost else True


def test_a_listener_is_not_told_of_calls_that_it_makes_itself(limit: Limit) -> None:
    """A callback that calls at each event does so once for each call of others, and without end."""
    calls: list[Event] = []

    def listen(event: Event) -> None:
        calls.append(event)
        limit.acquire()

    with limiter_of(limit).listen(listen):
        in_thread(limit.acquire)
        assert len(calls) == 1
        in_thread(limit.acquire)
    assert len(calls) == 3, "it had to wait, and was admitted"


def test_calls_that_nest_without_end_are_an_error_that_says_so(cache: WatchedCache) -> None:
    """A timer's handler that waits for longer than the timer; once it has stopped, all is as before."""

    class Timer(FakeClock):
        def __init__(self) -> None:
            super().__init__()
            self.is_set, self.handled = True, 0

        def sleep_until(self, at_us: int | None, wake: threading.Event) -> None:
            if self.is_set:
                self.handled += 1
                calls.acquire()
            super().sleep_until(at_us, wake)

    clock = Timer()
    calls = Nekkar(cache, clock=clock)("calls", 2, period=10.0)
    calls.acquire(cost=2)
    with pytest.raises(ConfigurationError, match="32 limited calls wait inside each other in one thread: a signal"):
        in_thread(calls.acquire)
    assert clock.handled == 32
    clock.is_set = False
    assert calls.acquire().waited > 9


class CallsItsLimit(BaseCache):
    """A user's cache of which each command makes a call of its own limit, ``most`` inside each other; errors hidden."""

    def __init__(self, most: int) -> None:
        self.memory, self.most, self.depth = MemoryCache(), most, 0
        self.limit = Nekkar(self)("calls", 10**6, period=1.0)

    def add(self, key: str, value: str) -> bool:
        self.call()
        return self.memory.add(key, value)

    def get(self, key: str) -> str | None:
        self.call()
        return self.memory.get(key)

    def set(self, key: str, value: str) -> None:
        self.call()
        self.memory.set(key, value)

    def delete(self, key: str) -> None:
        self.call()
        self.memory.delete(key)

    def call(self) -> None:
        if self.depth < self.most:
            self.depth += 1
            with suppress(ConfigurationError):
                self.limit.acquire()
            self.depth -= 1


@pytest.mark.parametrize("most", [1, 100])
def test_a_cache_that_calls_its_own_limit_is_an_error_that_says_so(most: int) -> None:
    """Each call inside a command writes, so the one outside would start over without end."""
    cache = CallsItsLimit(most)
    with pytest.raises(
        ConfigurationError, match=r"CallsItsLimit\.get would be its next one; never call a limit in a command"
    ):
        in_thread(cache.limit.acquire)


@pytest.mark.parametrize("backend", BACKENDS)
def test_so_is_one_that_a_task_uses(backend: str) -> None:
    """Its commands run in a worker thread."""
    cache = CallsItsLimit(100)
    with pytest.raises(
        ConfigurationError, match=r"CallsItsLimit\.get would be its next one; never call a limit in a command"
    ):
        in_thread(lambda: run_in(backend, cache.limit.acquire_async))


def test_a_cache_may_call_another_limit_in_each_command(cache: WatchedCache) -> None:
    """Such as that of the service that keeps it."""
    own = Nekkar(clock=FakeClock())("the cache's", 5, period=1.0)
    cache.before = lambda number: own.acquire()
    limit = Nekkar(cache, clock=FakeClock())("calls", 100, period=1.0)
    for _ in range(300):
        limit.acquire()
    assert limit.status().waiting == 0


def test_a_call_between_any_two_instructions_of_the_driver() -> None:
    """A handler of a timer runs between two instructions of one line, too: what it leaves is what it found."""
    traced = [function.__code__ for function in (run, run_steps, is_nested)]
    limit = Nekkar()("calls", 1000, period=10.0)
    limit.acquire()

    def call_within(at: int) -> int:
        count = 0

        def step(frame: FrameType, event: str, _: object) -> Any:
            nonlocal count
            frame.f_trace_opcodes = True
            if event == "opcode":
                count += 1
                if count == at:
                    assert limit.acquire()
            return step

        try:
            sys.settrace(lambda frame, *_: step if frame.f_code in traced else None)
            assert limit.acquire()
        finally:
            sys.settrace(None)
        assert not is_nested()
        return count

    instructions = in_thread(lambda: call_within(0))
    assert instructions > 50
    for at in range(1, instructions + 1):
        in_thread(partial(call_within, at))


def test_a_call_in_a_logging_handler(cache: WatchedCache, limit: Limit) -> None:
    """A handler that sends the log through the limited client: the line is written inside a look at the log."""
    nested = Once(limit.acquire)

    class Sender(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            nested()

    handler = Sender()
    limit.acquire()
    Nekkar(cache.memory, clock=FakeClock())("calls", 2, period=10.0).hold(5)
    logging.getLogger("nekkar").addHandler(handler)
    try:
        for _ in range(3):
            in_thread(limit.acquire)
    finally:
        logging.getLogger("nekkar").removeHandler(handler)
    assert nested.done == 2


@pytest.mark.parametrize("in_process", [False, True])
def test_others_go_on_while_a_booking_stands_still(in_process: bool) -> None:
    """The thread that books for all stands in a signal handler, for however long: another one books beside it."""
    cache, gone_on = WatchedCache(in_process=in_process), threading.Event()
    limit = Nekkar(cache)("calls", 100, period=1.0)
    stands = threading.Event()

    def handler() -> None:
        stands.set()
        assert gone_on.wait(PATIENCE)

    nested = Once(handler)
    cache.before = nested
    leader, others = Crowd(), Crowd()
    leader.add(limit.acquire)
    assert stands.wait(PATIENCE)
    for _ in range(3):
        others.add(limit.acquire)
    assert not [outcome for outcome in others.outcomes() if isinstance(outcome, BaseException)]
    assert not leader.done
    gone_on.set()
    leader.outcomes()
    assert limit.status().waiting == 0


@pytest.fixture
def collector() -> Iterator[None]:
    """Put the garbage collector back to how often it ran."""
    threshold = gc.get_threshold()
    yield
    gc.set_threshold(*threshold)


@pytest.mark.usefixtures("collector")
@pytest.mark.parametrize("policy", ["raise", "local"])
def test_calls_in_finalisers_that_run_at_any_allocation(policy: Any) -> None:
    """Objects in cycles whose ``__del__`` logs out, of several limits, in several threads, while limits are made."""
    cache = WatchedCache()
    limiter = Nekkar(cache, on_cache_error=policy)
    if policy == "local":

        def away(number: int) -> None:
            raise CacheError("away")

        cache.before = away
    inside = threading.local()
    logged_out: list[int] = []

    class Session:
        def __init__(self) -> None:
            self.me = self

        def __del__(self) -> None:
            if not getattr(inside, "now", False):  # one deep, or it goes on while there is garbage
                inside.now = True
                limiter(f"log out {len(logged_out)}", 10**6, period=1.0).acquire()
                logged_out.append(1)
                inside.now = False

    def work(thread: int) -> None:
        for number in range(60):
            gc.set_threshold(1 + number % 30)
            Session()
            limiter(f"tenant {thread} {number}", 10**6, period=1.0).acquire()
            Session()
            limiter("all", 10**6, period=1.0).acquire()

    crowd = Crowd()
    for thread in range(3):
        crowd.add(partial(work, thread))
    assert crowd.outcomes() == [None] * 3
    assert len(logged_out) > 10


@pytest.mark.skipif(not hasattr(__import__("signal"), "setitimer"), reason="needs setitimer")
def test_calls_in_a_signal_handler_at_random(request: pytest.FixtureRequest) -> None:
    """An alarm every few milliseconds, whose handler makes a limited call; other threads use the limit too."""
    import signal

    if threading.current_thread() is not threading.main_thread():
        pytest.skip("signals come to the main thread")
    limit = Nekkar()("calls", 10**6, period=1.0, margin=0.2)
    handled: list[int] = []
    counts = [0, 0]
    stopped = threading.Event()

    def handler(*_: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0.003)
        limit.acquire()
        handled.append(1)

    def work(thread: int) -> None:
        while not stopped.is_set():
            limit.acquire()
            counts[thread] += 1

    before = signal.signal(signal.SIGALRM, handler)
    crowd = Crowd()
    try:
        for thread in range(2):
            crowd.add(partial(work, thread))
        signal.setitimer(signal.ITIMER_REAL, 0.003)
        deadline = time.monotonic() + PATIENCE
        while len(handled) < 50 and time.monotonic() < deadline:
            limit.acquire()
        signal.setitimer(signal.ITIMER_REAL, 0)
        known = list(counts)
        eventually(lambda: all(now > then for now, then in zip(counts, known, strict=True)), "the others' calls")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        stopped.set()
    assert crowd.outcomes() == [None, None]
    assert len(handled) >= 50

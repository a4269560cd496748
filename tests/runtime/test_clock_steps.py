"""Clocks that are set while calls wait: no call is early, none waits for longer than it would have, none hangs."""

from __future__ import annotations

import asyncio
import itertools
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from nekkar.core.cache import MemoryCache, SqliteCache
from nekkar.core.clock import SystemClock
from nekkar.core.errors import CacheError, WaitTooLong
from nekkar.core.limiter import Limit, Nekkar
from nekkar.testing import FakeClock
from tests.support.handlers import handled
from tests.support.internals.caches import MachineClock
from tests.support.internals.caches import machine_clock as boots
from tests.support.internals.core import SECOND, ClockWatch, SteadyClock, core_of
from tests.support.internals.shared import fallback
from tests.support.limits import Crowd, eventually, waiting

HOUR, DAY = 3600, 86_400


class SetClock(FakeClock):
    """A clock that stands still and can be set; sleeps take as long as they were to take when they began."""

    def __init__(self) -> None:
        super().__init__(jump=False)
        self.set_by = 0

    def now_us(self) -> int:
        return super().now_us() + self.set_by

    def steady_us(self) -> int:
        return super().now_us()

    def set(self, seconds: float) -> None:
        self.set_by += round(seconds * SECOND)

    def sleep_until(self, at_us: int | None, wake: threading.Event) -> None:
        super().sleep_until(None if at_us is None else at_us - self.set_by, wake)


class Wall:
    """The machine's wall clock, which a test sets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.set_by, real = 0.0, time.time_ns
        monkeypatch.setattr(time, "time_ns", lambda: real() + round(self.set_by * 1e9))


@pytest.fixture
def wall(monkeypatch: pytest.MonkeyPatch) -> Wall:
    return Wall(monkeypatch)


def most_admitted(limit: Limit) -> int:
    """Return how many calls are admitted at once."""
    for count in range(100):
        try:
            limit.acquire(max_wait=0)
        except WaitTooLong:
            return count
    return 100


# To notice.


@pytest.mark.parametrize("by", [-HOUR, -1.5, 1.5, HOUR])
def test_a_step_is_noticed_once_by_how_far_the_clock_was_set(by: float) -> None:
    """In either direction, and all who follow are told."""
    clock, told = SetClock(), list[int]()
    watch = ClockWatch(clock, told.append)
    assert watch.keep() == 0
    clock.advance(5 * HOUR)
    assert watch.keep() == 0
    clock.set(by)
    assert [watch.keep(), watch.keep()] == [by * SECOND] * 2
    assert told == [by * SECOND]


def test_what_a_clock_gains_bit_by_bit_is_no_step() -> None:
    """NTP slews a clock, and a server's clock is made up for little by little."""
    clock = SetClock()
    watch = ClockWatch(clock)
    for _ in range(100):
        clock.set(0.9)
        assert watch.keep() == 0


def test_a_thread_that_stands_still_between_two_looks_sees_no_step() -> None:
    """The clock's time and the steady one can't be read at one instant."""
    clock, stalls = SetClock(), [0, 0, 30, 30, 0, 0]

    class Stalled(SetClock):
        def steady_us(self) -> int:
            clock.advance(stalls.pop(0))
            return clock.steady_us()

        def now_us(self) -> int:
            return clock.now_us()

    watch = ClockWatch(Stalled())
    assert watch.keep() == 0
    stalls[:] = [0, 0]
    assert watch.keep() == 0


def test_a_clock_of_a_users_own_is_never_taken_for_set() -> None:
    """It has no steady time to compare it with: a test that sets a fake clock back means to."""
    clock = FakeClock(jump=False)
    watch = ClockWatch(clock)
    clock.advance(-HOUR)
    assert watch.keep() == 0


class Stop(Exception):
    """What a signal handler raises."""


def stop() -> None:
    raise Stop


def looked(watch: ClockWatch, at: int, handler: Callable[[], object]) -> bool:
    """Look at a clock, and run a signal handler at the ``at``-th line of that; return whether there is such a line."""
    return handled(watch.keep, at, handler, watch.keep.__code__.co_filename)


def interrupted_watches() -> Iterator[tuple[SetClock, list[int], ClockWatch]]:
    """Yield a watch for each line of a look at a clock that was set: an exception has cut that look short there."""
    for at in itertools.count():
        clock, told = SetClock(), list[int]()
        watch = ClockWatch(clock, told.append, told.append)
        clock.set(HOUR)
        try:
            looked(watch, at, stop)
        except Stop:
            yield clock, told, watch
        else:
            return


def test_an_exception_at_any_line_of_a_look_ends_no_watch_and_loses_no_step() -> None:
    lines = 0
    for clock, told, watch in interrupted_watches():
        lines += 1
        assert watch.keep() == HOUR * SECOND
        assert len(told) >= 1  # at most the one that the interrupted look was about to call is not told
        clock.set(-5)
        assert watch.keep() == (HOUR - 5) * SECOND
        assert told[-2:] == [-5 * SECOND] * 2
    assert lines > 10


def test_a_look_at_any_line_of_another_counts_a_step_once() -> None:
    """A signal handler, or another thread, looks at the clock too."""

    def told_within(at: int) -> bool:
        clock, told, seen = SetClock(), list[int](), list[int]()
        watch = ClockWatch(clock, told.append, told.append)
        clock.set(HOUR)
        is_within = looked(watch, at, lambda: seen.append(watch.keep()))
        assert seen == [HOUR * SECOND] * is_within
        assert watch.keep() == HOUR * SECOND
        assert told == [HOUR * SECOND] * 2
        return is_within

    assert sum(1 for _ in itertools.takewhile(told_within, itertools.count())) > 10


# The machine's wall clock.


@pytest.mark.parametrize("by", [-HOUR, 5, 40 * DAY])
@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_no_step_of_the_wall_clock_moves_a_limit_of_one_machine(
    kind: str, by: float, wall: Wall, tmp_path: Path
) -> None:
    """Forward it admits none too many and drops no log, backward nobody waits for an hour; two limiters agree."""
    memory = MemoryCache()
    make: Callable[[], Any] = lambda: memory if kind == "memory" else SqliteCache(tmp_path / "limits.db", timeout=30)  # noqa: E731
    first = Nekkar(make())("calls", "5/minute")
    assert most_admitted(first) == 5
    wall.set_by = by
    second = Nekkar(make())("calls", "5/minute")
    for limit in (first, second):
        with pytest.raises(WaitTooLong) as refusal:
            limit.acquire(max_wait=0)
        assert 0 < refusal.value.retry_after < 61.5
        assert limit.status().windows[0].used == 5


def test_times_of_one_machine_are_unix_times() -> None:
    """As far as the wall clock was right when the process started."""
    assert abs(Nekkar()("calls", 5).acquire().at - time.time()) < 20
    assert SteadyClock().now_us() <= SteadyClock().now_us()


def boot(path: Path, wall: Wall, monkeypatch: pytest.MonkeyPatch, name: str | None, ticks: int) -> SqliteCache:
    """Return the cache of a process that starts in a boot of this name, in which so many seconds have passed."""
    monkeypatch.setattr(boots, "boot_name", lambda: name)
    monkeypatch.setattr(boots, "ticks", lambda: ticks * SECOND)
    monkeypatch.setattr(boots, "OFFSET_US", time.time_ns() // 1000 - ticks * SECOND)
    return SqliteCache(path, timeout=30)


@pytest.mark.parametrize(("by", "ahead"), [(60, 60), (-HOUR, 0)])
def test_after_a_boot_time_goes_on_by_the_wall_clock_but_never_back(
    by: int, ahead: int, wall: Wall, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Ticks start anew. A machine that keeps no time while it is off goes on from when it was last seen."""
    before = boot(tmp_path / "limits.db", wall, monkeypatch, "first", 10**6)
    limit = Nekkar(before)("calls", "5/hour")
    limit.acquire()
    at = before.machine_clock.now_us()
    wall.set_by = by
    after = boot(tmp_path / "limits.db", wall, monkeypatch, "second", 7)
    assert Nekkar(after)("calls", "5/hour").status().windows[0].used == 1
    assert abs(after.machine_clock.now_us() - at - ahead * SECOND) < 20 * SECOND


def test_where_nothing_counts_any_more_a_boot_goes_by_the_wall_clock(
    wall: Wall, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A wall clock that was once far ahead does not stay so for ever."""
    wall.set_by = 1000 * DAY
    ahead = boot(tmp_path / "limits.db", wall, monkeypatch, "first", 10**6)
    Nekkar(ahead)("calls", 5).acquire()
    wall.set_by = 0
    with closing(sqlite3.connect(tmp_path / "limits.db")) as connection, connection:
        connection.execute("DELETE FROM nekkar")
    after = boot(tmp_path / "limits.db", wall, monkeypatch, "second", 7)
    after.gets("key")
    assert abs(after.machine_clock.now_us() / SECOND - time.time()) < 20


def test_where_the_system_names_no_boot_the_wall_clock_is_used(
    wall: Wall, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As on macOS and Windows: nothing is kept in the file."""
    cache = boot(tmp_path / "limits.db", wall, monkeypatch, None, 7)
    assert not cache.machine_clock.is_due()
    Nekkar(cache)("calls", 5).acquire()
    wall.set_by = 50
    assert abs(cache.machine_clock.now_us() / SECOND - time.time_ns() / 1e9) < 20


def test_a_file_that_can_not_be_opened_is_a_cache_error_of_the_first_call(tmp_path: Path) -> None:
    """As without a clock to read; once the folder is there, calls go on."""
    limit = Nekkar(SqliteCache(tmp_path / "none" / "limits.db", timeout=0.05))("calls", 5)
    with pytest.raises(CacheError, match="unable to open"):
        limit.acquire()
    (tmp_path / "none").mkdir()
    limit.acquire()


def test_only_a_read_file_ends_that_its_time_is_due(tmp_path: Path) -> None:
    """A clock whose file is read says so."""
    cache = SqliteCache(tmp_path / "limits.db")
    assert isinstance(cache.machine_clock, MachineClock)
    cache.gets("key")
    assert not cache.machine_clock.is_due()


# While calls wait.


def caller_in_line(clock: SetClock, max_wait: float) -> tuple[Limit, Future[Any]]:
    """Return a limit with one call just made, and one that waits 14 s for its slot."""
    limit, crowd = Nekkar(MemoryCache(), clock=clock)("calls", "1/10 seconds", margin=4), Crowd()
    limit.acquire()
    crowd.add(lambda: limit.acquire(max_wait=max_wait))

    def has_a_place() -> bool:
        state = core_of(limit).ledger.state
        return waiting(limit) == 1 and state is not None and bool(state.places)

    eventually(has_a_place)
    return limit, crowd.futures[0]


def pass_time(clock: SetClock, seconds: int, caller: Future[Any]) -> None:
    """Let time pass, second by second, until a caller is done."""
    for _ in range(seconds):
        if not caller.done():
            clock.advance(1)
            time.sleep(0.02)


def test_a_clock_set_back_makes_no_caller_wait_past_its_patience() -> None:
    """The call before lies an hour ahead by then, and counts until it is past: who would not wait that long is told."""
    clock = SetClock()
    _, caller = caller_in_line(clock, max_wait=25)
    clock.set(-HOUR)
    pass_time(clock, 60, caller)
    assert isinstance(caller.exception(5), WaitTooLong)


def test_a_clock_set_back_makes_who_waits_without_bound_no_later_than_the_log_says() -> None:
    """Its slot is booked again by the time as it is now, and none of the calls is early."""
    clock = SetClock()
    limit, caller = caller_in_line(clock, max_wait=2 * HOUR)
    clock.set(-HOUR)
    pass_time(clock, 15, caller)
    assert not caller.done()
    clock.advance(HOUR - 30)
    pass_time(clock, 60, caller)
    assert caller.result(5).waited < HOUR + 30
    assert limit.status().windows[0].used == 1


def test_a_clock_set_forward_ends_no_callers_patience() -> None:
    """An hour that did not pass is no wait."""
    clock = SetClock()
    _, caller = caller_in_line(clock, max_wait=25)
    clock.set(HOUR)
    pass_time(clock, 60, caller)
    assert caller.result(5).waited < 26


class Away(MemoryCache):
    """A cache away, whose server's clock is so many seconds ahead of this machine's."""

    in_process = False

    def __init__(self, ahead: float) -> None:
        super().__init__()
        self.ahead_us, self.is_away = round(ahead * SECOND), True

    def tell_time(self, now: Callable[[], int]) -> tuple[int, int, int] | None:
        self._ask()
        before = now()
        return before, SystemClock().now_us() + self.ahead_us, now()

    def gets(self, key: str) -> tuple[bytes | None, int | None]:
        self._ask()
        return super().gets(key)

    def cas(self, key: str, value: bytes, token: Any, ttl: int) -> int | None:
        self._ask()
        return super().cas(key, value, token, ttl)

    def _ask(self) -> None:
        if self.is_away:
            raise CacheError("away")


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("policy", ["open", "local"])
@pytest.mark.parametrize("ahead", [-600, 600])
def test_a_worker_that_starts_in_an_outage_shares_the_limit_soon_after_it(
    ahead: int, policy: Any, asynchronous: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own clock is ten minutes off: it neither goes on alone for as long, nor hangs, nor forgets its own calls."""
    monkeypatch.setattr(fallback, "RETRY_US", SECOND // 50)
    cache = Away(ahead)
    limit = Nekkar(cache, on_cache_error=policy)("calls", "5/hour")

    def call() -> str:
        async def acquire() -> Any:
            return await limit.acquire_async(max_wait=0)

        try:
            return "call" if (asyncio.run(acquire()) if asynchronous else limit.acquire(max_wait=0)) else ""
        except WaitTooLong as refusal:
            return "refusal" if refusal.retry_after < HOUR + 20 else f"refusal for {refusal.retry_after} s"

    assert [call() for _ in range(3)] == ["call"] * 3
    cache.is_away = False
    time.sleep(0.05)
    outcomes = [call() for _ in range(10)]
    assert outcomes[-1] == "refusal"
    if policy == "local":
        assert outcomes.count("call") <= 2
    assert abs(limit.status().at - time.time() - ahead) < 20
    assert cache.gets("nekkar:calls")[0] is not None

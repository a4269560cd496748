"""The clock of a cache's server: when it is read, what callers wait for, and what a failed reading does."""

from __future__ import annotations

import asyncio
import logging
import os
import pickle
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import nekkar
from nekkar import CacheError, ConfigurationError, Nekkar, WaitTooLong
from nekkar.core.cache import MemcachedCache, MemoryCache
from nekkar.core.clock import ReadClock, SystemClock
from nekkar.testing import FakeClock
from tests.support.internals.core import SECOND, core_of, quota
from tests.support.internals.runtime import READ_EVERY_US, RETRY_US, STALE_US, TRIES, ServerClock
from tests.support.internals.shared import Ledger, notices, store_of
from tests.support.servers import Memcached, memcached

AHEAD = 1_000 * SECOND
PATIENCE = 30.0


class Server:
    """A server's clock, ``ahead`` of ticks that a test counts, read in brackets of ``width``.

    ``away``: it does not answer. ``mute``: it can't tell. ``gate``: what a reading waits for.
    """

    def __init__(self) -> None:
        self.ticks, self.ahead, self.width, self.readings = 5 * SECOND, AHEAD, 100, 0
        self.away = self.mute = False
        self.gate = threading.Event()
        self.gate.set()

    def tick(self) -> int:
        return self.ticks

    def tell_time(self, now: Callable[[], int]) -> tuple[int, int, int] | None:
        self.readings += 1
        assert self.gate.wait(PATIENCE)
        if self.away:
            raise CacheError("away")
        if self.mute:
            return None
        before = now()
        self.ticks += self.width
        return before, before + self.width // 2 + self.ahead, now()

    def clock(self, insist: bool = False) -> ServerClock:
        return ServerClock(self.tell_time, insist=insist, tick=self.tick)


class TellingCache(MemoryCache):
    """A cache whose server tells a clock, by the machine's plus ``ahead_us``."""

    in_process = False

    def __init__(self, ahead_us: int = 0, away: bool = False, mute: bool = False) -> None:
        super().__init__()
        self.ahead_us, self.away, self.mute, self.readings = ahead_us, away, mute, 0

    def tell_time(self, now: Callable[[], int]) -> tuple[int, int, int] | None:
        self.readings += 1
        if self.away:
            raise CacheError("away")
        before = now()
        return None if self.mute else (before, SystemClock().now_us() + self.ahead_us, now())


def settled(clock: ServerClock) -> None:
    """Wait until a reading beside the callers has ended."""
    if clock._reader:
        clock._reader.join(PATIENCE)
        assert not clock._reader.is_alive()


# When it is read.


def test_the_first_reading_is_here_and_now() -> None:
    """Before it the time is not known; after it the server's time is told, tick by tick."""
    server = Server()
    clock = server.clock()
    assert clock.is_due()
    clock.read()
    assert clock.now_us() == server.ticks + AHEAD
    server.ticks += 1
    assert clock.now_us() == server.ticks + AHEAD
    assert not clock.is_due()
    assert clock._reader is None


def test_a_later_reading_delays_nobody() -> None:
    """It runs beside the callers, even where the cache hangs; what it brings counts from then on."""
    server = Server()
    clock = server.clock()
    clock.read()
    server.ticks += READ_EVERY_US
    assert clock.is_due()
    server.ahead += 2_000
    server.gate.clear()
    clock.read()  # returns, though the reading can't go on
    assert clock.now_us() == server.ticks + AHEAD
    server.gate.set()
    settled(clock)
    assert clock.now_us() == server.ticks + AHEAD + 2_000
    assert not clock.is_due()


def test_many_callers_that_find_a_reading_due_start_one() -> None:
    """One at a time."""
    server = Server()
    clock = server.clock()
    clock.read()
    server.ticks += READ_EVERY_US
    server.gate.clear()
    for _ in range(20):
        clock.read()
    server.gate.set()
    settled(clock)
    assert server.readings == 2


def test_many_callers_before_the_first_reading_wait_for_the_same() -> None:
    """A program that starts with sixty threads asks the server once."""
    server = Server()
    clock = server.clock()
    server.gate.clear()
    callers = [threading.Thread(target=clock.read) for _ in range(20)]
    for caller in callers:
        caller.start()
    server.gate.set()
    for caller in callers:
        caller.join(PATIENCE)
    assert server.readings == 1


def test_who_comes_back_after_long_waits_for_a_reading() -> None:
    """Its quartz has drifted meanwhile, and it has no slots: nobody is delayed on the way."""
    server = Server()
    clock = server.clock()
    clock.read()
    server.ticks += 100 * STALE_US
    server.ahead += 50_000
    clock.read()
    assert clock.now_us() == server.ticks + server.ahead
    assert clock._reader is None


def test_a_wide_bracket_is_tried_again_and_the_narrowest_counts() -> None:
    """A reading that took long is a poor one."""
    server, widths = Server(), [90_000, 30_000, 3_000, 1]
    tell_time = server.tell_time

    def varied(now: Callable[[], int]) -> tuple[int, int, int] | None:
        server.width = widths.pop(0)
        told = tell_time(now)
        assert told
        return told[0], told[1] + server.width // 3, told[2]  # as wrong as it is wide

    clock = ServerClock(varied, tick=server.tick)
    clock.read()
    assert abs(clock.now_us() - server.ticks - AHEAD) <= 1_000
    assert server.readings == 3


@pytest.mark.parametrize(
    ("widths", "readings"),
    [((60_000, 61_000), 2), ((90_000, 61_000, 60_000), 3), ((90_000, 60_000, 40_000, 20_000), TRIES)],
)
def test_two_brackets_alike_are_as_wide_as_the_way_is_long(widths: tuple[int, ...], readings: int) -> None:
    """A far server's first caller waits for each reading, and a third would be no narrower. Bookings start from it."""
    server, left = Server(), list(widths)

    def varied(now: Callable[[], int]) -> tuple[int, int, int] | None:
        server.width = left.pop(0)
        return server.tell_time(now)

    clock = ServerClock(varied, tick=server.tick)
    assert clock.round_trip_us is None
    clock.read()
    assert server.readings == readings
    assert clock.round_trip_us == min(widths)


# What goes wrong.


def test_a_server_away_at_the_first_reading_is_an_error_and_is_asked_again() -> None:
    """As with any other call to the cache; nothing is latched."""
    server = Server()
    clock = server.clock()
    server.away = True
    for _ in range(2):
        with pytest.raises(CacheError):
            clock.read()
    server.away = False
    assert clock.is_due()
    clock.read()
    assert clock.now_us() == server.ticks + AHEAD


@pytest.mark.parametrize("failure", ["away", "mute"])
@pytest.mark.parametrize("idle", [READ_EVERY_US, 2 * STALE_US])
def test_a_later_reading_that_fails_changes_nothing_and_is_tried_again(failure: str, idle: int) -> None:
    """The ticks go on; who comes to book hears of the cache soon enough."""
    server = Server()
    clock = server.clock()
    clock.read()
    server.ticks += idle
    setattr(server, failure, True)
    clock.read()
    settled(clock)
    assert clock.now_us() == server.ticks + AHEAD
    assert not clock.is_due()
    server.ticks += RETRY_US
    setattr(server, failure, False)
    server.ahead += 100
    assert clock.is_due()
    clock.read()
    settled(clock)
    assert clock.now_us() == server.ticks + AHEAD + 100


def test_where_the_server_can_not_tell_the_machines_clock_goes_on() -> None:
    """It is asked twice at once, since a starved server shows its log late, and again later on."""
    server = Server()
    clock = server.clock()
    server.mute = True
    clock.read()
    assert abs(clock.now_us() - SystemClock().now_us()) < SECOND
    assert not clock.is_due()
    assert server.readings == 2


def test_a_server_that_tells_its_clock_later_is_followed_from_then_on() -> None:
    """It was starved, or is started again without -W: no process keeps the machine's clock for good."""
    server = Server()
    clock = server.clock()
    server.mute = True
    for _ in range(5):
        clock.read()
        settled(clock)
        for _ in range(10):
            assert not clock.is_due()
        server.ticks += READ_EVERY_US
        assert clock.is_due()
    assert server.readings == 10
    server.away = True
    clock.read()
    settled(clock)
    assert abs(clock.now_us() - SystemClock().now_us()) < SECOND
    server.away = server.mute = False
    server.ticks += RETRY_US
    clock.read()  # beside its caller
    settled(clock)
    assert clock.now_us() == server.ticks + AHEAD


def test_one_silent_answer_is_not_taken_for_a_server_that_can_not_tell() -> None:
    """The next try counts."""
    server = Server()
    answers = [None]
    clock = ServerClock(lambda now: answers.pop() if answers else server.tell_time(now), tick=server.tick)
    clock.read()
    assert clock.now_us() == server.ticks + AHEAD


# The next of several servers.


def pair() -> tuple[Server, Server, ServerClock]:
    """Return two servers whose clocks are 3 ms apart, and the clock of both."""
    first, other = Server(), Server()
    other.tick = first.tick  # type: ignore[method-assign]
    other.ahead = AHEAD + 3_000
    other.width = 0
    return first, other, ServerClock(first.tell_time, elsewhere=other.tell_time, tick=first.tick)


def test_a_process_that_starts_while_the_first_server_is_away_goes_by_the_next(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Its limits on the others need a time; it is said once that the clocks must be together."""
    first, other, clock = pair()
    first.away = True
    other.ticks = first.ticks
    clock.read()
    assert clock.now_us() == first.ticks + other.ahead
    assert "another one's clock is used" in caplog.text
    caplog.clear()
    first.away = False
    first.ticks += READ_EVERY_US
    clock.read()
    settled(clock)
    assert clock._slewed
    assert clock._slewed.behind == -3_000  # never back: made up at half speed
    first.ticks += SECOND
    assert clock.now_us() == first.ticks + AHEAD
    assert caplog.text == ""


def test_a_process_that_knows_the_time_keeps_it_while_the_first_server_is_away() -> None:
    """It turns to the next only where its ticks may have drifted, and nobody waits for that."""
    first, other, clock = pair()
    clock.read()
    first.away = True
    first.ticks += READ_EVERY_US
    other.ticks = first.ticks
    clock.read()
    settled(clock)
    assert other.readings == 0
    assert clock.now_us() == first.ticks + AHEAD
    first.ticks += READ_EVERY_US
    other.ticks = first.ticks
    clock.read()
    settled(clock)
    assert other.readings == 1


def test_where_all_servers_are_away_the_first_ones_error_is_told() -> None:
    """It is the one that everybody's time depends on."""

    def away(now: Callable[[], int]) -> tuple[int, int, int] | None:
        raise CacheError("the next is away")

    server = Server()
    server.away = True
    with pytest.raises(CacheError, match=r"^away$"):
        ServerClock(server.tell_time, elsewhere=away, tick=server.tick).read()


# Sleeps, when the clock is set.


def test_a_sleep_is_no_longer_than_it_was_when_the_clock_was_set_back() -> None:
    """A first reading may set it back by any time: the sleeper looks again."""
    server = Server()
    clock = server.clock()
    server.away = True
    with pytest.raises(CacheError):
        clock.read()

    class Sleeper(threading.Event):
        naps = 0

        def wait(self, timeout: float | None = None) -> bool:
            assert timeout is not None
            self.naps += 1
            assert self.naps < 5
            server.ticks += round(timeout * SECOND)
            if server.away:
                server.away = False
                clock.read()
            return False

    clock.sleep_until(clock.now_us() + SECOND, Sleeper())
    assert clock.now_us() == server.ticks + AHEAD


def test_who_insists_on_a_server_that_can_not_tell_gets_an_error() -> None:
    """In words, with the remedy."""
    server = Server()
    server.mute = True
    with pytest.raises(ConfigurationError, match=r"clock 'server'.*-W.*'auto'"):
        server.clock(insist=True).read()


@pytest.mark.parametrize(("step", "text"), [(-5 * SECOND, "-5.0 s"), (5 * SECOND, "+5.0 s")])
def test_a_step_of_the_servers_clock_is_said_and_never_goes_back(
    step: int, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Somebody should know; calls go on, none of them early after a step back."""
    server = Server()
    clock = server.clock()
    clock.read()
    before = clock.now_us()
    server.ticks += READ_EVERY_US
    server.ahead += step
    clock.read()
    settled(clock)
    assert clock.now_us() >= before + READ_EVERY_US
    assert text in caplog.text
    if step < 0:
        at = clock.now_us()
        server.ticks += SECOND
        assert clock.now_us() - at == SECOND // 2


# Sleeps.


def test_a_sleep_ends_at_an_instant_of_the_servers_clock() -> None:
    """Not of the machine's, which is somewhere else."""
    cache = TellingCache(ahead_us=-AHEAD)
    clock = ServerClock(cache.tell_time)
    clock.read()
    until = clock.now_us() + 30_000
    clock.sleep_until(until, threading.Event())
    assert clock.now_us() >= until
    until = clock.now_us() + 30_000

    async def sleep() -> None:
        import anyio

        await clock.sleep_until_async(until, anyio.Event())

    asyncio.run(sleep())
    assert until <= clock.now_us() < until + 20 * SECOND


def test_a_sleep_ends_when_it_is_woken() -> None:
    """Whatever its instant."""
    clock = ServerClock(TellingCache().tell_time)
    clock.read()
    wake = threading.Event()
    wake.set()
    for until in (None, clock.now_us() + 3600 * SECOND):
        clock.sleep_until(until, wake)

    async def sleep() -> None:
        import anyio

        woken = anyio.Event()
        woken.set()
        for until in (None, clock.now_us() + 3600 * SECOND):
            await clock.sleep_until_async(until, woken)

    asyncio.run(sleep())


def test_a_long_sleep_reads_the_clock_shortly_before_its_end() -> None:
    """A caller that sleeps an hour is on time for its slot, whatever its quartz did."""
    server = Server()
    clock = server.clock()
    clock.read()

    class Sleeper(threading.Event):
        """Lets an hour's sleep pass in no time, and notes how long each of its parts was to be."""

        naps: list[float] = []  # noqa: RUF012 -- one test's own

        def wait(self, timeout: float | None = None) -> bool:
            assert timeout is not None
            self.naps.append(timeout)
            server.ticks += round(timeout * SECOND)
            return False

    server.ahead += 100_000
    clock.sleep_until(clock.now_us() + 3600 * SECOND, Sleeper())
    settled(clock)
    assert Sleeper.naps[0] == pytest.approx(3598)
    assert sum(Sleeper.naps) == pytest.approx(3600, abs=0.2)
    assert server.readings >= 2
    assert clock.now_us() == server.ticks + server.ahead


def test_a_clock_is_read_inside_a_reading() -> None:
    """A signal handler makes a limited call while its thread reads the clock for the first time: both are told."""
    server, told = Server(), list[int]()
    tell_time = server.tell_time

    def interrupted(now: Callable[[], int]) -> tuple[int, int, int] | None:
        server.tell_time = tell_time  # type: ignore[method-assign]
        clock.read()
        told.append(clock.now_us())
        return tell_time(now)

    clock = ServerClock(lambda now: server.tell_time(now), tick=server.tick)
    server.tell_time = interrupted  # type: ignore[method-assign]
    thread = threading.Thread(target=clock.read, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    assert told
    assert clock.now_us() == server.ticks + server.ahead


def test_nobody_waits_long_for_another_thread_that_reads() -> None:
    """Its signal handler may take its time; a second reading does no harm."""
    server = Server()
    clock = server.clock()
    server.gate.clear()
    stuck = threading.Thread(target=clock.read, daemon=True)
    stuck.start()
    while not server.readings:
        time.sleep(0.001)
    other = threading.Thread(target=clock.read, daemon=True)
    other.start()
    while server.readings < 2:
        time.sleep(0.01)
    assert stuck.is_alive()
    server.gate.set()
    for thread in (stuck, other):
        thread.join(PATIENCE)
    assert clock.now_us() == server.ticks + server.ahead


# Under a limiter.


@pytest.mark.parametrize("ahead_us", [-AHEAD, 0, AHEAD])
@pytest.mark.parametrize("asynchronous", [False, True])
def test_slots_are_booked_by_the_servers_clock(ahead_us: int, asynchronous: bool) -> None:
    """However far off the machine's is, from the first call on: waits and deadlines are not disturbed."""
    limit = Nekkar(TellingCache(ahead_us))("calls", "1/10 seconds")

    async def acquire() -> Any:
        return await limit.acquire_async(max_wait=1)

    admission = asyncio.run(acquire()) if asynchronous else limit.acquire(max_wait=1)
    assert abs(admission.at - time.time() - ahead_us / SECOND) < 20
    assert admission.waited < 20
    with pytest.raises(WaitTooLong) as caught:
        limit.acquire(max_wait=1)
    assert caught.value.retry_after < 10.05


def test_status_and_levers_read_the_servers_clock_first() -> None:
    """A hold by a process that never called ends when it should for all others."""
    cache = TellingCache(AHEAD)
    Nekkar(cache)("calls", 10).hold(60)
    held = Nekkar(cache)("calls", 10).status().hold_until
    assert held is not None
    assert abs(held - time.time() - AHEAD / SECOND - 60) < 20


def test_a_cache_away_at_the_first_call_is_a_cache_error_and_later_calls_go_on() -> None:
    """As with any other call."""
    cache = TellingCache(AHEAD, away=True)
    limit = Nekkar(cache)("calls", 10)
    for _ in range(2):
        with pytest.raises(CacheError):
            limit.acquire()
    cache.away = False
    assert abs(limit.acquire().at - time.time() - AHEAD / SECOND) < 20
    assert core_of(limit).waiting == 0


def test_auto_goes_by_the_machine_where_the_server_can_not_tell() -> None:
    """And server insists."""
    cache = TellingCache(AHEAD, mute=True)
    assert abs(Nekkar(cache)("calls", 10).acquire().at - time.time()) < 20
    with pytest.raises(ConfigurationError, match="clock 'server'"):
        Nekkar(cache, clock="server")("calls", 10).acquire()


def test_local_never_asks() -> None:
    """It trusts the machine."""
    cache = TellingCache(AHEAD)
    assert abs(Nekkar(cache, clock="local")("calls", 10).acquire().at - time.time()) < 20
    assert cache.readings == 0


def test_a_cache_without_a_server_can_not_be_insisted_on(tmp_path: Path) -> None:
    """The error comes where the limiter is made; auto takes the machine's clock, which all share."""
    with pytest.raises(ConfigurationError, match=r"clock 'server': MemoryCache has no server.*'auto'"):
        Nekkar(clock="server")
    assert isinstance(Nekkar()._clock, SystemClock)
    assert isinstance(Nekkar(f"sqlite:///{tmp_path / 'limits.db'}")._clock, SystemClock)


def test_clocks_of_users_need_no_reading() -> None:
    """FakeClock, and any clock with the three methods, go on as before."""
    assert not isinstance(FakeClock(), ReadClock)
    assert not isinstance(SystemClock(), ReadClock)
    assert isinstance(Server().clock(), ReadClock)
    ledger = Ledger(store_of(MemoryCache(), FakeClock()), "key", quota(10), FakeClock())
    assert not ledger.clock_is_due()
    assert list(ledger.sync_clock()) == []


def test_a_limiter_comes_back_from_pickling_with_its_clock() -> None:
    """It reads the server anew."""
    limiter = Nekkar("memcached://127.0.0.1:1", clock="server")
    again = pickle.loads(pickle.dumps(limiter))
    assert isinstance(again._clock, ServerClock)
    assert again._clock._insist


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_child_forked_during_a_reading_reads_for_itself() -> None:
    """The lock that the parent's reader held is not the child's; the time goes on there too."""
    server = Server()
    clock = server.clock()
    clock.read()
    server.ticks += READ_EVERY_US
    server.gate.clear()
    clock.read()
    while server.readings < 2:
        time.sleep(0.001)
    child = os.fork()
    if child == 0:
        with suppress(BaseException):
            server.gate.set()
            server.ticks += RETRY_US
            server.ahead += 7
            clock.read()
            settled(clock)
            os._exit(0 if clock.now_us() == server.ticks + AHEAD + 7 else 1)
        os._exit(2)
    _, status = os.waitpid(child, 0)
    server.gate.set()
    settled(clock)
    assert os.waitstatus_to_exitcode(status) == 0


# A real memcached.


def test_memcached_is_the_clock_of_its_limits(server: Memcached) -> None:
    """Auto and server read it, on one machine as good as the machine's own."""
    for choice in ("auto", "server"):
        limiter = Nekkar(server.url, clock=choice)
        admission = limiter("calls", 100).acquire()
        assert abs(admission.at - time.time()) < 20
        clock = limiter._clock
        assert isinstance(clock, ServerClock)
        assert clock._slewed is not None


def test_memcached_with_W_leaves_the_machines_clock_or_an_error() -> None:  # noqa: N802 -- the option's name
    """Auto goes on; server says what is wrong."""
    with memcached("-W") as server:
        assert abs(Nekkar(server.url)("calls", 100).acquire().at - time.time()) < 20
        with pytest.raises(ConfigurationError, match="-W"):
            Nekkar(server.url, clock="server")("calls", 100).acquire()


def test_a_clock_ahead_of_ours_is_said_once(
    server: Memcached, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the machines' own clocks are used: by a second and more, which no network explains."""
    monkeypatch.setattr(notices, "_said_skew", False)
    cache, clock = MemcachedCache("127.0.0.1", server.port), FakeClock()
    Nekkar(cache, clock=clock)("calls", 100).acquire()
    clock.advance(-0.9)
    with caplog.at_level(logging.WARNING, "nekkar"):
        Nekkar(cache, clock=clock)("calls", 100).status()
        assert caplog.records == []
        clock.advance(-0.5)
        for _ in range(3):
            Nekkar(cache, clock=clock)("calls", 100).status()
    (record,) = caplog.records
    assert "1.4 s ahead of this one" in record.getMessage()
    assert "NTP" in record.getMessage()


def test_only_clock_py_reads_the_machines_clocks() -> None:
    """Every other file takes the time from a clock."""
    core = Path(nekkar.__file__).parent / "core"
    assert [path.name for path in core.rglob("*.py") if "\nimport time" in path.read_text()] == ["clock.py"]

"""Prefetched slots: few swaps for many calls, and not one call over the limit for them."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from nekkar.core.cache import MemoryCache
from nekkar.core.limiter import Limit, Nekkar
from nekkar.testing import FakeClock
from tests.support.internals.core import Quota, core_of
from tests.support.internals.waiting import prefetch as prefetch_module
from tests.support.internals.window import booking as booking_module
from tests.support.simulation import Story, World
from tests.support.stories import FAST
from tests.support.stories import STORIES as ALL

NAMES = ("crowd", "flushed", "storm", "tasks", "busy", "held")
STORIES = {name: replace(ALL[name], limits=("40/s",), busy=True, latency_us=FAST) for name in NAMES}


class CountingCache(MemoryCache):
    """A cache that counts swaps."""

    def __init__(self) -> None:
        super().__init__()
        self.swaps = 0

    def cas(self, key: str, value: bytes, token: int | None, ttl: int) -> Any:
        self.swaps += 1
        return super().cas(key, value, token, ttl)


class CrowdedCache(CountingCache):
    """A cache whose swaps take 8 ms, as in a crowd that pauses so as not to meet."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__()
        self.clock = clock

    def cas(self, key: str, value: bytes, token: int | None, ttl: int) -> Any:
        self.clock.advance(0.008)
        return super().cas(key, value, token, ttl)


def hot(limit: Limit, clock: FakeClock, calls: int = 200) -> None:
    """Call often, so that there are prefetched slots."""
    for _ in range(calls):
        limit.acquire()
        clock.advance(0.0001)


def left(limit: Limit) -> int:
    return core_of(limit).thread_line().prefetched.left


class InterruptedClock(FakeClock):
    """A clock at whose next reading, once it is armed, a signal handler makes a call of the limit."""

    armed: Limit | None = None

    def now_us(self) -> int:
        limit, self.armed = self.armed, None
        if limit:
            limit.acquire()
        return super().now_us()


def test_a_signal_handler_and_the_call_that_it_interrupts_do_not_share_the_last_slot() -> None:
    """The handler's call takes the last prefetched slot; the other one has looked at it, and books for itself."""
    clock = InterruptedClock()
    limit = Nekkar(MemoryCache(), clock=clock)("some_id_a", 100_000)
    hot(limit, clock)
    calls = 200
    while left(limit) != 1:
        limit.acquire()
        calls += 1
    clock.armed = limit
    limit.acquire()
    state = core_of(limit).ledger.state
    assert state is not None
    assert state.hits.total - left(limit) == calls + 2


class TestSchedules:
    """Random schedules in which small limits have spares too; see tests/support/simulation.py."""

    @pytest.fixture(autouse=True)
    def many(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(booking_module, "PREFETCH_PART", 2)
        monkeypatch.setattr(prefetch_module, "LEAST", 0)

    @pytest.mark.parametrize("story", STORIES.values(), ids=STORIES)
    def test_what_is_promised_holds(self, story: Story) -> None:
        """Kills, freezes, flushes, lost answers, cancellations, holds: prefetched slots are slots like all others."""
        for seed in range(20):
            problems = World(story, seed).run().problems
            assert [problem for problem in problems if not problem.startswith("dead")] == [], seed

    def test_the_schedules_have_prefetched_slots(self) -> None:
        """What the test above asserts is asserted of them: one call in twenty or more took one."""
        worlds = [World(STORIES["tasks"], seed).run() for seed in range(20)]
        assert sum(world.prefetched for world in worlds) > sum(len(world.starts) for world in worlds) // 20

    def test_a_prefetched_slot_taken_late_is_found(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Planted: a slot is good for as long as it is there."""
        monkeypatch.setattr(Quota, "good_until", lambda self, slot: slot + 10**12)
        assert any(World(STORIES["tasks"], seed).run().problems for seed in range(150))


def test_a_hot_caller_swaps_seldom(clock: FakeClock) -> None:
    """Two thousand calls in 0.2 s cost a tenth as many swaps, or fewer."""
    cache = CountingCache()
    hot(Nekkar(cache, clock=clock)("jobs", 10**6), clock, 2000)
    assert cache.swaps < 200


def test_a_hot_caller_in_a_crowd_swaps_seldom(clock: FakeClock) -> None:
    """How often it calls is told by the time between swaps: eight such processes stayed at 9 % of a limit for good."""
    cache = CrowdedCache(clock)
    hot(Nekkar(cache, clock=clock)("jobs", 10**6, period=2), clock, 2000)
    assert cache.swaps < 250


def test_a_caller_now_and_then_has_no_prefetched_slots(clock: FakeClock) -> None:
    """A hundred calls, 50 ms apart, book nothing but themselves."""
    cache = CountingCache()
    limit = Nekkar(cache, clock=clock)("jobs", 10**6)
    for _ in range(100):
        limit.acquire()
        clock.advance(0.05)
        assert left(limit) == 0
    assert cache.swaps == 100


def test_a_small_limit_has_no_prefetched_slots(clock: FakeClock) -> None:
    """Under 64 calls there are none, however hot the caller."""
    limit = Nekkar(clock=clock)("jobs", 63)
    for _ in range(60):
        limit.acquire()
        assert left(limit) == 0


def test_a_hot_caller_uses_all_of_the_limit(clock: FakeClock) -> None:
    """A thousand a minute are a thousand: near the end no prefetched slots are left booked."""
    limit = Nekkar(clock=clock)("jobs", 1000)
    before = clock.now
    hot(limit, clock, 1000)
    assert clock.now - before < 1
    assert limit.status().windows[0].remaining == left(limit) == 0


def test_prefetched_slots_go_back_with_the_next_swap(clock: FakeClock) -> None:
    """What was not called for within half the margin is free again."""
    limit = Nekkar(clock=clock)("jobs", 100_000)
    hot(limit, clock)
    used = limit.status().windows[0].used
    assert used == 200
    clock.advance(0.09)
    limit.acquire()
    assert limit.status().windows[0].used == 201


def test_status_tells_of_calls_not_of_prefetched_slots(clock: FakeClock) -> None:
    """At every moment ``used`` is what was called for."""
    limit = Nekkar(clock=clock)("jobs", 100_000)
    for calls in range(1, 300):
        limit.acquire()
        assert limit.status().windows[0].used == calls


def test_a_hold_ends_prefetched_slots(clock: FakeClock) -> None:
    """A process that holds a limit does not go on calling on its prefetched slots."""
    limit = Nekkar(clock=clock)("jobs", 100_000)
    hot(limit, clock)
    while not left(limit):
        limit.acquire()
    limit.hold(5)
    assert limit.acquire().waited >= 5


def test_calls_that_count_more_take_no_prefetched_slot(clock: FakeClock) -> None:
    """A prefetched slot is one hit; a call of three books three."""
    limit = Nekkar(clock=clock)("jobs", 100_000)
    hot(limit, clock)
    while not left(limit):
        limit.acquire()
    used = limit.status().windows[0].used
    limit.acquire(cost=3)
    assert limit.status().windows[0].used == used + 3


def test_spaced_slots_stay_spaced(clock: FakeClock) -> None:
    """Where slots are spaced each call has its own, however hot the caller."""
    limit = Nekkar(clock=clock)("jobs", 100_000, spacing=0.001)
    ats = [round(limit.acquire().at * 1e6) for _ in range(100)]
    assert all(after - before >= 1000 for before, after in pairwise(ats))


def test_a_hold_elsewhere_ends_prefetched_slots_within_a_horizon(clock: FakeClock) -> None:
    """A prefetched slot is good for half a second here, but no later than 100 ms after the newest look."""
    cache = MemoryCache()
    limit, other = (Nekkar(cache, clock=clock)("jobs", 500_000, period=3600, margin=1.0) for _ in range(2))
    hot(limit, clock)
    while left(limit) < 10:
        limit.acquire()
    other.hold(5)
    assert limit.acquire().waited == 0
    clock.advance(0.11)
    assert left(limit)
    assert limit.acquire().waited >= 4.8

"""Holds, releases and resets: a hold stops all, and its end is heard by all, within a look."""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from functools import partial, reduce
from operator import and_
from typing import Any

import pytest

from nekkar.core.cache import MemoryCache
from nekkar.core.errors import WaitTooLong
from nekkar.core.limiter import Nekkar
from nekkar.testing import FakeClock
from tests.support.internals.core import cache_of, core_of, limiter_of
from tests.support.internals.shared import Replica
from tests.support.internals.waiting import LOOK_EVERY_US, alone
from tests.support.internals.window import BookingRequest, LimitState, _Planner, booked_alone
from tests.support.limits import BACKENDS, Crowd, WatchedCache, eventually, is_in_turn, run_in, since_start, waiting
from tests.support.simulation import MS, Story, World
from tests.support.stories import FAST, STORIES

HEARD_S = 1.3  # a look, two horizons, and some answers
HELD = Story(limits=("6/s",), callers=5, refusals=0.05, kills=1, cancels=3, busy=True, latency_us=FAST)


def started_inside(world: World) -> list[int]:
    """Return the starts inside a pause that all knew of: a horizon, half a margin and a late wake after it was told."""
    horizon = max(process.ledger.latency.horizon_us for process in world.processes)
    grace = horizon + world.limits[0].margin_us // 2 + 5 * MS
    return [start.at for start in world.starts for told, until in world.pauses if told + grace < start.at < until]


@pytest.mark.parametrize("name", ["crowd", "storm", "tasks", "busy", "refused"])
def test_what_is_promised_holds_where_a_service_refuses(name: str) -> None:
    """Pauses and a margin that grows, with all else that may happen: never over, and nobody is stuck."""
    for seed in range(25):
        assert World(dataclasses.replace(STORIES[name], refusals=0.05), seed).run().problems == [], seed


def test_nobody_starts_inside_a_pause() -> None:
    """Whoever heard of it: but for those within the horizon, all wait for its end, and there are pauses enough."""
    pauses = 0
    for seed in range(60):
        world = World(HELD, seed).run()
        pauses += sum(until - told > 200 * MS for told, until in world.pauses)
        assert not started_inside(world), seed
        assert not world.stuck(), seed
    assert pauses > 45


def test_a_plan_that_does_not_keep_a_hold_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: slots are booked through a hold."""
    begin = _Planner.__init__

    def heedless(self: _Planner, state: LimitState, ask: BookingRequest, exact: Any) -> None:
        begin(self, replace(state, hold_until=0), ask, exact)
        self.state = state

    def heedless_alone(state: LimitState, *of: Any) -> LimitState | None:
        booked = booked_alone(replace(state, hold_until=0), *of)
        return booked and replace(booked, hold_until=state.hold_until)

    monkeypatch.setattr(_Planner, "__init__", heedless)
    monkeypatch.setattr(alone, "booked_alone", heedless_alone)
    monkeypatch.setattr(Replica, "confirms", lambda self, epoch, slot: self.state is not None)
    assert any(started_inside(World(HELD, seed).run()) for seed in range(60))


class Held:
    """A limit that is held for a minute, a thread that waits for it, and another process."""

    def __init__(self) -> None:
        self.clock, self.cache = FakeClock(jump=False), WatchedCache()
        self.limit, self.other = (Nekkar(self.cache, clock=self.clock)("calls", 5, period=10.0) for _ in range(2))
        self.other.hold(60)
        self.waiter = Crowd()
        self.waiter.add(self.limit.acquire)
        eventually(lambda: waiting(self.limit) == 1 and not is_in_turn(self.limit))

    def is_admitted_within(self, seconds: float) -> bool:
        """Let time pass in small steps; return whether the thread is admitted by then."""
        for _ in range(round(seconds * 10)):
            self.clock.advance(0.1)
            eventually(lambda: not is_in_turn(self.limit))
        return self.waiter.done == 1


class TestRelease:
    """``release`` and ``reset``, in another process."""

    @pytest.mark.parametrize("ends", ["release", "reset"])
    def test_a_waiter_in_another_process_starts_within_a_look(self, ends: str) -> None:
        """It looks each second, whatever it waits for."""
        held = Held()
        assert not held.is_admitted_within(1.5)
        getattr(held.other, ends)()
        held.clock.advance(HEARD_S)
        held.waiter.until(1)
        assert since_start(held.waiter.outcomes()[0]) == round((1.5 + HEARD_S) * 1e6)

    @pytest.mark.parametrize("ends", ["release", "reset"])
    def test_a_new_caller_starts_at_once(self, ends: str) -> None:
        """In any process: its own look, or its own line, tells it."""
        held = Held()
        getattr(held.other, ends)()
        assert held.other.acquire(max_wait=0).waited == 0
        third = Nekkar(cache_of(limiter_of(held.limit)), clock=held.clock)("calls", 5, period=10.0)
        assert third.acquire(max_wait=0).waited == 0

    @pytest.mark.parametrize("ends", ["release", "reset"])
    def test_a_waiter_of_the_process_that_released_starts_at_once(self, ends: str) -> None:
        """No time passes at all."""
        held = Held()
        getattr(held.limit, ends)()
        held.waiter.until(1)
        assert since_start(held.waiter.outcomes()[0]) == 0

    @pytest.mark.parametrize("ends", ["release", "reset"])
    @pytest.mark.parametrize("among", [1, 2])
    @pytest.mark.parametrize("backend", [None, *BACKENDS])
    def test_so_does_a_call_there_that_costs_nothing(self, backend: str | None, among: int, ends: str) -> None:
        """It stands in no line, whether it is a thread or a task, and under one limit or two: no time passes either."""
        held, waiter = Held(), Crowd()
        names = ["calls", "others"][:among]
        limit = reduce(and_, [limiter_of(held.limit)(name, 5, period=10.0) for name in names])
        read = held.cache.calls
        acquire = partial(limit.acquire, {"calls": 0})
        waiter.add(partial(run_in, backend, partial(limit.acquire_async, {"calls": 0})) if backend else acquire)
        eventually(lambda: held.cache.calls > read)
        getattr(held.limit, ends)()
        waiter.until(1)
        assert since_start(waiter.outcomes()[0]) == 0

    def test_a_hold_is_heard_by_who_waits_for_a_slot(self) -> None:
        """A hold from elsewhere keeps a waiter back whose slot comes later than a horizon after the hold."""
        clock, cache = FakeClock(jump=False), MemoryCache()
        limit, other = (Nekkar(cache, clock=clock)("calls", 1, period=5.0) for _ in range(2))
        limit.acquire()
        waiter = Crowd()
        waiter.add(limit.acquire)
        eventually(lambda: waiting(limit) == 1 and not is_in_turn(limit))
        other.hold(20)
        clock.advance(5.05)
        eventually(lambda: not is_in_turn(limit))
        assert waiter.done == 0
        clock.advance(15)
        assert 20 <= since_start(waiter.outcomes()[0]) / 1e6 <= 20.1


class TestRefusals:
    """What a caller with ``max_wait`` is refused by: no state older than a horizon, if another process changed it."""

    @pytest.mark.parametrize("ends", ["release", "reset"])
    def test_one_behind_a_waiter_is_not_refused_by_what_was_so_before(self, ends: str) -> None:
        """The state that its process read half a second before shows no slot; it looks, and starts with the waiter."""
        held = Held()
        held.clock.advance(0.5)
        getattr(held.other, ends)()
        assert held.limit.acquire(max_wait=1).waited == 0
        held.waiter.until(1)

    @pytest.mark.parametrize(("age", "commands"), [(0.1, 0), (0.2, 1)])
    def test_a_refusal_behind_a_waiter_takes_a_read_where_the_newest_is_old(self, age: float, commands: int) -> None:
        """None within a horizon of 100 ms; whether the state is still the same, one read tells."""
        held = Held()
        held.clock.advance(age)
        eventually(lambda: not is_in_turn(held.limit))
        before = held.cache.calls
        for _ in range(3):
            with pytest.raises(WaitTooLong):
                held.limit.acquire(max_wait=1)
        assert held.cache.calls == before + commands

    def test_the_only_process_that_writes_reads_before_it_refuses(self) -> None:
        """It swaps without a read while it is alone; a reset by another process may have come since."""
        cache, clock = WatchedCache(), FakeClock(jump=False)
        limit, other = (Nekkar(cache, clock=clock)("calls", 4, period=10.0) for _ in range(2))
        for _ in range(4):
            limit.acquire()
        other.reset()
        before = cache.calls
        for _ in range(4):
            assert limit.acquire(max_wait=0).waited == 0
        assert cache.calls == before + 2 + 2 + 1 + 1  # each by a read, until it is the only one again
        with pytest.raises(WaitTooLong):
            limit.acquire(max_wait=1)
        assert cache.calls == before + 7

    def test_a_place_that_stands_does_not_keep_a_caller_from_its_look(self) -> None:
        """Its process said that it would look in a second; a caller that does not wait so long looks at once."""
        cache, clock = WatchedCache(in_process=False), FakeClock()
        limit, other = (Nekkar(cache, clock=clock)("calls", 4, period=1.0) for _ in range(2))
        for _ in range(20):
            limit.acquire()
        state = core_of(limit).ledger.state
        assert state is not None
        assert state.places
        other.reset()
        assert limit.acquire(max_wait=0).waited == 0


def test_a_fleet_hears_of_releases_and_resets_within_a_look() -> None:
    """Five processes that are held for up to five seconds: the simulation asks after each release who still waits."""
    assert LOOK_EVERY_US <= HEARD_S * 1e6
    heard = 0
    for seed in range(30):
        world = World(STORIES["held"], seed).run()
        assert world.problems == [], seed
        heard += len(world.held)
    assert heard > 15

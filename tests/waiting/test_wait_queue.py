"""The line, in random schedules of whole processes: what it promises, each rule broken on purpose, and its figures."""

from __future__ import annotations

import dataclasses
from collections.abc import Generator
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from itertools import pairwise
from statistics import fmean
from typing import Any, NamedTuple
from unittest.mock import patch

import pytest

from nekkar.core.errors import WaitTooLong
from tests.support.internals.core import SECOND, Quota, hits_in, quota
from tests.support.internals.shared import latency, replica
from tests.support.internals.waiting import assignments, turn
from tests.support.internals.window import booking, checks, entries, hits, order, plan, recovery, settled, state
from tests.support.planted import Fault
from tests.support.simulation import MS, Cancelled, Store, Story, World
from tests.support.stories import FAST, SCHEDULES, STORIES, limit


class TestStories:
    """Each story of tests/support/stories.py, with many seeds."""

    @pytest.mark.parametrize("name", STORIES)
    def test_what_is_promised_holds(self, name: str) -> None:
        """Never over, no room left empty, nobody starves, is stuck or starts through a hold; the dead get little."""
        void = 0
        for seed in range(SCHEDULES):
            world = World(STORIES[name], seed).run()
            assert world.problems == [], (name, seed)
            void += world.void
        assert void <= 2 + SCHEDULES // 10, "too few schedules tell anything"

    def test_the_schedules_contain_what_they_are_for(self) -> None:
        """Cancellations and refusals happened, and swaps were lost."""
        worlds = [World(STORIES[name], seed).run() for name in ("storm", "tasks") for seed in range(100)]
        outcomes = [error for world in worlds for error in world.outcomes]
        assert sum(isinstance(error, Cancelled) for error in outcomes) > 100
        assert sum(isinstance(error, WaitTooLong) for error in outcomes) > 100
        assert sum(world.lost_swaps for world in worlds) > 500


def _far_horizon() -> AbstractContextManager[object]:
    stack = ExitStack()
    for module, name in ((latency, "LEAST_HORIZON_US"), (latency, "MOST_HORIZON_US"), (checks, "MOST_HORIZON_US")):
        stack.enter_context(patch.object(module, name, 3 * SECOND))
    return stack


def _with_young_hits(known: Any, log: Any, read_at: int) -> list[tuple[int, int]]:
    return [hit for hit in log.entries() if hit[0] <= read_at - known.margin_us]


def _as_it_was(known: Any, read_at: int, now: int, epoch: int) -> Any:
    return dataclasses.replace(known, epoch=epoch, grants=(), serial=0, is_fresh=False)


def _taken_back_by_time(hits: Any, grants: Any, returned: Any) -> Any:
    for back in returned:
        hits = hits.remove(back.grant.slot, back.grant.cost - back.keep)
    gone = {back.grant.serial for back in returned if not back.keep}
    return hits, tuple(grant for grant in grants if grant.serial not in gone)


_pick_up = assignments.Assignments.pick_up
_entries_of = entries.entries_of
_planned = plan.planned


def _picked_up_again(self: Any, state: Any, read_at: int, now: int) -> None:
    self.hand.picked_up = max(0, min(self.hand.picked_up, state.serial - 3))
    _pick_up(self, state, read_at, now)


def _own_first(*args: Any) -> list[Any]:
    return sorted(_entries_of(*args), key=lambda entry: not isinstance(entry, entries.OwnEntry))


def _all_by_own_terms(state: Any, ask: Any) -> Any:
    places = tuple(place._replace(terms=ask.terms) for place in state.places)
    return _planned(dataclasses.replace(state, places=places), ask)


def _settled_twice(state: Any, settlement: Any, now: int) -> Any:
    return settled(settled(state, settlement, now), settlement, now)


def _settled_in_any_epoch(state: Any, settlement: Any, now: int) -> Any:
    return settled(state, settlement._replace(epoch=state.epoch), now)


def _settled_at_the_end(self: Any, at: int, unit: str, count: int) -> Any:
    log = self.of(unit)
    last = log.time_offset_us + log.times[-1] if log.times else at
    return self.with_timeline(unit, log._insert([(last, count)]) if count > 0 else log._remove(last, -count))


def _slot_without_spacing(log: Any, limit: Any, *more: Any) -> int:
    return booking.earliest_slot(log, dataclasses.replace(limit, spacing_us=0), *more)


def _free_of_known(state: Any, rate: Any, end: int) -> int:
    return int(max(0, rate.count - state.hits.of(rate.unit).count_since(end - rate.period_us)))


FAULTS = {
    "a call starts however late": Fault(
        lambda: patch.object(Quota, "good_until", lambda self, slot: slot + 10**12), "storm", 5
    ),
    "slots are booked a period apart, without the margin": Fault(
        lambda: patch.object(state.LimitState, "margin", lambda self, quota, now: 0), "flushed", 0
    ),
    "the horizon is three seconds": Fault(_far_horizon, "flushed", 10),
    "a survivor keeps hits that may have been taken back": Fault(
        lambda: patch.object(recovery, "certain_hits", _with_young_hits), "young", 15
    ),
    "a survivor writes its copy as it is": Fault(
        lambda: patch.object(replica, "rebuild_after_loss", _as_it_was), "flushed", 6
    ),
    "a survivor assumes that others start now at the latest": Fault(
        lambda: patch.object(recovery, "latest_start", lambda known, now: max(now, known.hits.last_at or 0)),
        "flushed",
        429,
    ),
    "a survivor assumes the horizon of its copy": Fault(
        lambda: patch.object(
            recovery, "latest_start", lambda known, now: max(now + known.horizon_us, known.hits.last_at or 0)
        ),
        "far",
        1034,
    ),
    "a newcomer's state is trusted": Fault(
        lambda: patch.object(replica, "_began_unseen", lambda found, known: False), "newcomers", 66
    ),
    "slots go back by their time, not by their name": Fault(
        lambda: patch.object(booking, "taken_back", _taken_back_by_time), "loop", 341
    ),
    "a grant is picked up twice": Fault(
        lambda: patch.object(assignments.Assignments, "pick_up", _picked_up_again), "deaf", 0
    ),
    "hits are forgotten after a period": Fault(
        lambda: patch.object(
            state.LimitState,
            "retention_us",
            property(lambda self: self.rates[-1].period_us if self.rates else 0),
        ),
        "storm",
        123,
    ),
    "places under other terms are granted by one's own": Fault(
        lambda: patch.object(turn, "planned", _all_by_own_terms), "mixed", 0
    ),
    "places never lapse": Fault(lambda: patch.object(booking, "lapsed_before", lambda state, now: 0), "heavy", 1),
    "credit never ends": Fault(lambda: patch.object(plan, "spent", lambda place: place), "dying", 0),
    "a line that waits does not look each second": Fault(
        lambda: patch.object(turn, "LOOK_EVERY_US", 10**12), "held", 0
    ),
    "a settlement counts twice": Fault(lambda: patch.object(turn, "settled", _settled_twice), "tokens", 0),
    "a settlement of another epoch counts": Fault(
        lambda: patch.object(turn, "settled", _settled_in_any_epoch), "overdue", 550
    ),
    "a settlement is sent again after a lost answer": Fault(
        lambda: patch.object(turn.Turn, "unanswered", lambda self: None), "metered", 0
    ),
    "a settlement takes hits of others": Fault(
        lambda: patch.object(hits.HitLog, "settle", _settled_at_the_end), "metered", 0
    ),
    "a survivor trusts hits that a settlement may have given back": Fault(
        lambda: patch.object(recovery, "_free", _free_of_known), "failures", 537
    ),
    "lines share a name": Fault(lambda: patch.object(assignments, "randbits", lambda bits: 7), "lines", 0),
    "slots are booked without their spacing": Fault(
        lambda: patch.object(order, "earliest_slot", _slot_without_spacing), "spaced", 0
    ),
    "who writes goes first": Fault(lambda: patch.object(plan, "entries_of", _own_first), "fair", 18),
}


class TestPlantedFaults:
    """Each rule broken on purpose is found: the stories and their checks are worth something."""

    @pytest.mark.parametrize("name", FAULTS)
    def test_a_broken_rule_is_found(self, name: str) -> None:
        """By its story, within some seeds."""
        assert FAULTS[name].is_found(lambda story, seed: World(STORIES[story], seed).run().problems)


class TestDeadlines:
    """Callers with ``max_wait``."""

    def test_nobody_is_told_to_wait_longer_than_its_deadline(self) -> None:
        """A caller with a deadline starts, or is refused, by then, but for one horizon in which a swap answers."""
        story = dataclasses.replace(STORIES["plain"], max_wait=0.2, latency_us=FAST)
        waits = []
        for seed in range(100):
            waits += World(story, seed).run().bounded_waits
        assert len(waits) > 300
        assert max(waits) <= 200 * MS + 110 * MS


class TestCallersThatLeave:
    """Cancellations."""

    @pytest.mark.parametrize("costs", [(1,), (1, 2, 3)])
    def test_cancelled_callers_leave_no_slot_unused(self, costs: tuple[int, ...]) -> None:
        """Slots of callers that left go to others, or back: no more hits are left unused than where nobody leaves."""
        story = Story(callers=5, costs=costs, tasks=True, latency_us=FAST, busy=True)
        unused, _ = self._unused_and_cancelled(story)
        beside, cancelled = self._unused_and_cancelled(dataclasses.replace(story, cancels=40))
        assert cancelled > 1000
        assert beside <= unused + cancelled // 25

    def _unused_and_cancelled(self, story: Story) -> tuple[int, int]:
        unused = cancelled = 0
        for seed in range(80):
            world = World(story, seed).run()
            known = world.store.state()
            assert known is not None
            unused += known.hits.total - sum(start.calls for start in world.starts)
            cancelled += sum(isinstance(error, Cancelled) for error in world.outcomes)
        return unused, cancelled


class TestHeavyCalls:
    """Calls that cost much of the limit."""

    @pytest.mark.parametrize("cost", [25, 50])
    def test_heavy_calls_do_not_starve_among_many_light_ones(self, cost: int) -> None:
        """One process asks for half of the limit, or all of it: it starts again and again beside five that fill it."""
        story = Story(limits=("50/s",), processes=6, callers=4, busy=True, latency_us=FAST[:1], periods=24)
        world = World(story, 1)
        heavy = world.processes[0]
        for actor in heavy.actors:
            actor.stack = [_calls_of(world, heavy, cost)]
        world.run()
        assert world.problems == []
        starts = [start.at for start in world.starts if start.process is heavy]
        assert len(starts) >= 4
        gaps = [after - before for before, after in pairwise(starts)]
        assert max(gaps) <= 7 * world.period_us

    def test_a_heavy_caller_that_dies_stops_nobody(self) -> None:
        """Killed while it waits for all of the limit: within its turn and a look the others go on."""
        for seed in range(10):
            story = Story(limits=("20/s",), processes=5, callers=2, busy=True, latency_us=FAST[:1], periods=8)
            world = World(story, seed)
            heavy = world.processes[0]
            for actor in heavy.actors:
                actor.stack = [_calls_of(world, heavy, 20)]
            world.at(world.now + 2 * SECOND + seed * 100 * MS, partial(world._kill, heavy))
            world.run()
            assert world.problems == [], seed
            assert world.starts[-1].at >= world.until - world.period_us


def _calls_of(world: World, process: Any, cost: int) -> Generator[Any, Any, None]:
    """The calls of one caller, all of one cost, until the story ends."""
    while world.now < world.until:
        slot, _ = yield from process.line.acquire(cost, None)
        world.record_start(process, slot)


def test_a_stricter_worker_holds_up_nobody() -> None:
    """Processes under 20 per second use all of theirs beside one that keeps to 2 per second, and waits all the time."""
    story = Story(limits=("20/s", "20/s", "2/s"), processes=3, callers=3, exact=True, latency_us=FAST[:1], periods=12)
    for seed in range(5):
        world = World(story, seed).run()
        assert world.problems == [], seed
        wide = sum(start.calls for start in world.starts if start.process.number < 3)
        windows = (world.until - min(start.at for start in world.starts)) / (world.period_us + 50 * MS)
        assert wide >= 0.9 * 20 * windows, seed


class Figures(NamedTuple):
    """What one fleet used of its limit (1: all), and how many commands it sent a call."""

    used: float
    commands: float


def figures_of(story: Story, seconds: int = 24, seed: int = 1) -> Figures:
    """Run a fleet for some seconds, and measure whole windows after the first two."""
    story = dataclasses.replace(story, exact=True)
    (terms,) = story.limits
    assert not isinstance(terms, str)
    (rate,) = terms.rates
    world = World(dataclasses.replace(story, periods=seconds * SECOND // rate.period_us), seed)
    begin, window = world.now, rate.period_us + terms.margin_us
    world.run()
    assert world.problems == []
    warm, ends = begin + 2 * window, begin + (world.until - begin) // window * window
    hits = sum(start.calls for start in world.starts if warm <= start.at < ends)
    assert isinstance(world.store, Store)
    return Figures(hits / (rate.count * (ends - warm) / window), world.store.commands / len(world.starts))


def fleet(count: int, period: int, processes: int, callers: int = 1, way_us: int = 150, **more: Any) -> Story:
    """Return a fleet that calls all the time; a command takes ``way_us`` to the cache, and as long back."""
    return Story(limits=(quota(count, period),), processes=processes, callers=callers, latency_us=(way_us,), **more)


FLEETS = {
    # the fleet, the least that it uses, the most commands a call
    "8 singles": (fleet(100, 2, 8), 0.97, 1.0),
    "64 singles": (fleet(100, 2, 64), 0.97, 2.6),
    "20 processes 80 ms away": (fleet(50, 1, 20, way_us=40 * MS), 0.96, 2.0),
    "8 singles, calls of 80 ms": (fleet(100, 2, 8, call_us=80 * MS), 0.97, 1.6),
    "20 processes 80 ms away, calls of 0.2 s": (fleet(50, 1, 20, way_us=40 * MS, call_us=200 * MS), 0.8, 2.0),
    "a loop of 100 tasks": (fleet(100, 2, 1, 100, loop_us=MS, tasks=True), 0.97, 1.0),
    "four loops of 50 tasks": (fleet(100, 2, 4, 50, loop_us=MS, tasks=True), 0.97, 1.0),
    "four loops of 50 tasks, 3 ms of work each": (fleet(100, 2, 4, 50, loop_us=3 * MS, tasks=True), 0.9, 1.0),
}


@pytest.mark.parametrize("name", FLEETS)
def test_a_fleet_uses_its_limit_and_spares_the_cache(name: str) -> None:
    """All of the limit is used, for few commands a call, whatever the fleet is made of."""
    story, used, commands = FLEETS[name]
    figures = figures_of(story)
    assert figures.used >= used
    assert figures.commands <= commands


def test_a_fleet_uses_its_limit_where_one_call_in_twenty_costs_half_of_it() -> None:
    """On average: how well the costs fit is a matter of luck. Room for half of a limit is kept for the call in turn."""
    figures = [figures_of(fleet(100, 2, 8, 2, costs=(1,) * 19 + (50,)), seed=seed) for seed in range(1, 7)]
    assert fmean(each.used for each in figures) >= 0.9
    assert fmean(each.commands for each in figures) <= 2.5


def test_hot_processes_use_each_window_at_once() -> None:
    """Places stand after the limit bound, but not while a window has much room: two hot callers prefetch again."""
    assert figures_of(fleet(2000, 1, 2, way_us=60, call_us=100), seconds=5).used >= 0.97


@pytest.mark.parametrize(("processes", "used"), [(1, 0.9), (2, 0.97), (4, 0.97)])
def test_hot_processes_use_close_slots_and_mostly_read(processes: int, used: float) -> None:
    """Whoever writes grants some slots ahead: a read, a swap and a call take longer than one slot is from the next."""
    story = Story(
        limits=(limit("100000/s", 500),), processes=processes, callers=1, exact=True, latency_us=(150,), call_us=200,
        periods=1,
    )  # fmt: skip
    world = World(story, 1).run()
    assert world.problems == []
    starts = sorted(start.at for start in world.starts)[len(world.starts) // 4 :]
    assert (len(starts) - 1) * 500 >= used * (starts[-1] - starts[0])
    assert isinstance(world.store, Store)
    assert world.store.commands <= 0.6 * len(world.starts)


METERED = Story(limits=("100/2s; 10000 tokens/2s",), tokens=(200,), lasts_us=100 * MS, settles=1.0, uses=(0.25, 0.75))
CALLS_ALONE = Story(limits=("100/2s",))


@pytest.mark.parametrize("processes", [4, 16])
def test_room_that_settlements_give_back_is_used_at_once(processes: int) -> None:
    """Of N per P + margin 96 % of the tokens are used, though calls in flight hold more than they use."""
    fleet_of_sixteens = dataclasses.replace(METERED, processes=processes, callers=16, exact=True, latency_us=FAST[:1])
    world = World(dataclasses.replace(fleet_of_sixteens, periods=8), 1)
    warm, ends = world.now + 4 * SECOND, world.now + 16 * SECOND
    world.run()
    assert world.problems == []
    used = [
        hits_in(world.used[number][1] if number in world.used else start.cost, "tokens")
        for number, start in enumerate(world.starts)
        if warm <= start.at < ends
    ]
    assert sum(used) >= 0.96 * 10_000 / 2.05 * 12


@pytest.mark.parametrize("story", [CALLS_ALONE, METERED], ids=["calls", "tokens"])
@pytest.mark.parametrize(("processes", "callers"), [(4, 16), (8, 1)])
def test_a_newcomer_gets_its_share_of_a_saturated_fleet_in_the_second_period(
    story: Story, processes: int, callers: int
) -> None:
    """It starts within a period, and in the second one has at least seven tenths of what each of the others has."""
    many = dataclasses.replace(story, processes=processes, callers=callers, exact=True, latency_us=FAST[:1], periods=8)
    world = World(many, 1)
    window, joined = world.period_us + 50 * MS, world.now + 8370 * MS
    world.at(joined, lambda: world._join())
    world.run()
    assert world.problems == []
    newcomer = world.processes[-1]
    starts = [start for start in world.starts if joined + window <= start.at < joined + 2 * window]
    own = [start.at for start in world.starts if start.process is newcomer]
    assert own[0] < joined + window
    assert sum(start.process is newcomer for start in starts) >= 0.7 * len(starts) / (processes + 1)

"""Calls under several limits, in random schedules and in fleets: never over in any of them, and nobody starves."""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from statistics import fmean
from typing import Any, NamedTuple
from unittest.mock import patch

import pytest

from tests.support.internals.core import CALLS, SECOND, Quota, hits_in, quota
from tests.support.internals.waiting import exact as exact_slots
from tests.support.internals.waiting import together
from tests.support.internals.window import booking, exact, order, plan
from tests.support.joint_stories import STORIES
from tests.support.joint_world import Group, JointStory, JointWorld
from tests.support.planted import Fault
from tests.support.simulation import MS, START_US
from tests.support.stories import SCHEDULES


@pytest.mark.parametrize("name", STORIES)
def test_no_schedule_breaks_a_promise(name: str) -> None:
    """No limit is over, room does not stay empty, nobody is left behind, and nothing unused stays booked."""
    for seed in range(SCHEDULES):
        assert JointWorld(STORIES[name], seed).run().problems == [], seed


def test_the_schedules_have_contention() -> None:
    """Calls are refused by another limit, swaps are lost, and callers leave: else the stories would show nothing."""
    rounds = lost = 0
    for seed in range(5):
        world = JointWorld(STORIES["both"], seed).run()
        rounds += sum(more - 1 for _, _, more in world.waits[0])
        lost += sum(limit.store.lost_swaps for limit in world.shared)
    assert rounds > 0
    assert lost > 0
    assert any(JointWorld(STORIES["storm"], seed).run().outcomes for seed in range(5))


# Rules broken on purpose.


def _later(self: Any, entry: Any, slot: int) -> None:
    """Book an exact slot whenever its turn comes."""
    self.open.remove(entry)
    self.ahead.add(slot, entry.cost)
    self._book(entry.exact.owner, slot, entry.cost)
    if entry.place:
        self.entries.remove(entry)


def _no_headroom_left() -> AbstractContextManager[object]:
    stack = ExitStack()
    for module in (plan, order):
        stack.enter_context(patch.object(module, "leaving", lambda limit, headroom: limit))
    return stack


def _look_back(state: Any, one: Any, limit: Any, part: Any, margin_us: int) -> bool:
    """Look whether there is room before a slot, and not behind it."""
    hits = state.hits
    return all(
        hits.count_between(one.at - rate.period_us - margin_us, one.at) + one.cost <= rate.count for rate in limit.rates
    )


_fits_between = exact._fits_between


def _unspaced(state: Any, one: Any, limit: Any, part: Any, margin_us: int) -> bool:
    """Look whether there is room around a slot, and not how far its neighbours are."""
    return _fits_between(replace(state, spacing_us=0), one, replace(limit, spacing_us=0), part, margin_us)


def _by_time(hits: Any, grants: Any, returned: Any) -> Any:
    for back in returned:
        hits = hits.remove(back.grant.slot, back.grant.cost - back.keep)
    gone = {back.grant.serial for back in returned}
    return hits, tuple(grant for grant in grants if grant.serial not in gone)


FAULTS = {
    "a call starts however late": Fault(
        lambda: patch.object(Quota, "good_until", lambda self, slot: slot + 10**12), "storm", 0
    ),
    "a call starts though another limit refused its slot": Fault(
        lambda: patch.object(together.JointCall, "is_good", lambda self, slot: True), "deaf", 0
    ),
    "a slot is not given back": Fault(
        lambda: patch.object(exact_slots.ExactSlots, "withdraw", lambda self, request: None), "returned", 0
    ),
    "another limit books later than asked": Fault(
        lambda: patch.object(plan._Planner, "_book_exact", _later), "both", 0
    ),
    "a slot between hits looks back only": Fault(lambda: patch.object(exact, "_fits_between", _look_back), "both", 0),
    "a slot between hits is not spaced": Fault(lambda: patch.object(exact, "_fits_between", _unspaced), "spaced", 0),
    "a slot between hits is booked without looking": Fault(
        lambda: patch.object(exact, "_fits_between", lambda *args: True), "plain", 0
    ),
    "slots go back by their time, not by their name": Fault(
        lambda: patch.object(booking, "taken_back", _by_time), "deaf", 0
    ),
    "a slot is not booked so far ahead that the others can be asked": Fault(
        lambda: patch.object(together.JointCall, "lead_us", 0), "far", 0
    ),
    "headroom is not left": Fault(_no_headroom_left, "batch", 0),
    "no place is kept in the others": Fault(
        lambda: patch.object(together.JointCall, "follow", lambda self, turn_at, is_first: None), "both", 0
    ),
}


class TestPlantedFaults:
    """Each rule broken on purpose is found."""

    @pytest.mark.parametrize("name", FAULTS)
    def test_a_broken_rule_is_found(self, name: str) -> None:
        """By its story, within some seeds."""
        assert FAULTS[name].is_found(lambda story, seed: JointWorld(STORIES[story], seed).run().problems)


# Fleets.

ENDPOINT, ACCOUNT = quota("10/s"), quota("30 per 3 s")
BOTH = Group((0, 1), 4, 4)


def fleet(*groups: Group, quotas: Any = (ENDPOINT, ACCOUNT), away: Any = ((150,),)) -> JointStory:
    return JointStory(quotas=quotas, groups=groups, away_us=away, exact=True, seconds=24)


class Figures(NamedTuple):
    """What was used of each limit (1: all), rounds and commands a call, and the longest joint wait, in fair shares."""

    used: list[float]
    rounds: float
    commands: float
    wait: float


def means_of(story: JointStory, seeds: int = 3) -> Figures:
    """Return the means of some seeds, and the longest wait: one schedule alone has too few joint calls."""
    each = [figures_of(story, seed) for seed in range(1, seeds + 1)]
    used = [fmean(shares) for shares in zip(*(figures.used for figures in each), strict=True)]
    rounds, commands = fmean(figures.rounds for figures in each), fmean(figures.commands for figures in each)
    return Figures(used, rounds, commands, max(figures.wait for figures in each))


def figures_of(story: JointStory, seed: int) -> Figures:
    """Run a fleet, and measure whole windows after the first two."""
    world = JointWorld(story, seed).run()
    assert world.problems == []
    used = []
    for limit in world.shared:
        (rate,) = limit.quota.rates
        window = rate.period_us + limit.quota.margin_us
        since, ends = START_US + 2 * window, START_US + (world.until - START_US) // window * window
        hits = sum(hits_in(start.cost, CALLS) for start in limit.starts if since <= start.at < ends)
        used.append(hits / (rate.count * (ends - since) / window))
    joint = world.waits[0]
    calls = sum(map(len, world.waits.values()))
    return Figures(
        used,
        sum(rounds for *_, rounds in joint) / len(joint),
        sum(limit.store.commands for limit in world.shared) / calls,
        max(wait for _, wait, _ in joint) / world.fair_share(story.groups[0]),
    )


FLEETS = {
    # the fleet, the limits that bind and the least that is used of each, the most rounds and commands a call, and the
    # longest joint wait, in fair shares
    "all take both": (fleet(BOTH), (0, 1), 0.95, 1.1, 3.5, 1.5),
    "others take the account alone": (fleet(BOTH, Group((1,), 2, 1, 4)), (1,), 0.95, 1.6, 6.5, 4),
    "many others take the account alone": (fleet(BOTH, Group((1,), 2, 8, 4)), (1,), 0.95, 1.6, 4.5, 4),
    "two alike": (fleet(BOTH, quotas=(ENDPOINT, ENDPOINT)), (0, 1), 0.95, 1.1, 4, 2.5),
    "two alike, and others take each alone": (
        fleet(BOTH, Group((0,), 2, 4, 4), Group((1,), 2, 4, 6), quotas=(ENDPOINT, ENDPOINT)), (0, 1), 0.95, 1.3, 5, 4,
    ),
    "roles that change": (
        fleet(BOTH, Group((0,), 2, 4, 4, phase=0), Group((1,), 2, 4, 6, phase=1), quotas=(ENDPOINT, ENDPOINT)),
        (0,), 0.7, 1.3, 6, 4,
    ),
    "an account 20 ms away": (fleet(BOTH, Group((1,), 2, 4, 4), away=((150,), (10 * MS,))), (1,), 0.95, 2.0, 6.5, 4),
    "costs": (fleet(Group((0, 1), 4, 4, 0, (1, 1, 3)), Group((1,), 2, 4, 4, (1, 5))), (1,), 0.95, 1.6, 10, 4.5),
    "both full": (fleet(BOTH, Group((0,), 2, 4, 4), Group((1,), 2, 4, 6)), (0, 1), 0.96, 1.8, 6, 5),
}  # fmt: skip


@pytest.mark.parametrize("name", FLEETS)
def test_a_fleet_uses_the_limits_that_bind(name: str) -> None:
    """In few rounds and commands a call; and no call under both waits for many fair shares."""
    story, binds, least, rounds, commands, shares = FLEETS[name]
    figures = means_of(story)
    assert min(figures.used[limit] for limit in binds) >= least
    assert figures.rounds <= rounds
    assert figures.commands <= commands
    assert figures.wait <= shares


@pytest.mark.parametrize("live", [Group((0,), 8, 4, rest=1.0), Group((0,), 4, 20, rest=3.0)], ids=["steady", "bursts"])
def test_batch_beside_live_calls_delays_none_by_more_than_a_period(live: Group) -> None:
    """The longest wait of live calls is that without batch, plus one period and margin; and batch uses what is left."""
    batch = Group((0,), 3, 8, 2, (1, 1, 2), headroom=3000)
    alone, beside = (fleet(*groups, quotas=(quota("50/s"),)) for groups in ((live,), (live, batch)))
    before, after = JointWorld(alone, 1).run(), JointWorld(beside, 1).run()
    assert before.problems == after.problems == []
    longest = [max(wait for _, wait, _ in world.waits[0]) for world in (before, after)]
    assert longest[1] <= longest[0] + 1.05 * SECOND
    assert _calls(after) >= 1.1 * _calls(before)


def test_batch_alone_uses_its_part() -> None:
    """All of it, 35 of 50, and no more."""
    world = JointWorld(fleet(Group((0,), 3, 8, headroom=3000), quotas=(quota("50/s"),)), 1).run()
    assert world.problems == []
    assert 0.97 * 35 <= _calls(world) / 24 * 1.05 <= 36.5


def _calls(world: JointWorld) -> int:
    return sum(hits_in(start.cost, CALLS) for limit in world.shared for start in limit.starts)

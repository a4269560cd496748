"""The state of a limit: what its users keep, how long what matters, what is forgotten and thinned."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.checks import each_hit
from tests.support.internals.core import Quota, Rate, quota
from tests.support.internals.window import (
    EXACT_ENTRIES,
    GRID,
    LINGER_US,
    MAX_RATES,
    MOST_LINGER_US,
    LimitState,
    Place,
    Rejections,
    encode,
)
from tests.window.drawing import (
    DAY,
    HORIZON,
    HOUR,
    MINUTE,
    MS,
    NOW,
    STARTS,
    STEPS,
    S,
    check_kept,
    hit_log,
    new_state,
    next_slots,
    scaled_quotas,
    slot_of,
)


def booked_evenly(limit: Quota, count: int, step: int) -> LimitState:
    return new_state(limit, *((NOW + index * step, 1) for index in range(count)))


# What its users keep.


def test_the_largest_margin_in_use_counts() -> None:
    """A caller with a small margin keeps the larger one of those it shares with."""
    small, large = quota(1, 60, margin=0.05), quota(1, 60, margin=2)
    state = new_state(large, (NOW, 1)).with_quota(small, HORIZON)
    assert slot_of(state, small, 1, NOW) == NOW + 62 * S


def test_a_quota_widens_what_is_kept_and_a_known_one_changes_nothing() -> None:
    """The state knows all rates in use, the largest margin, spacing and horizon."""
    one, two = quota("3/second", spacing=0.5, margin=2), quota("100/hour", spacing=0.1, margin=1)
    state = LimitState(1).with_quota(one, 2 * HORIZON).with_quota(two, HORIZON)
    assert state.rates == (Rate(S, 3), Rate(HOUR, 100))
    assert (state.margin_us, state.spacing_us, state.horizon_us) == (2 * S, S // 2, 2 * HORIZON)
    assert state.with_quota(one, 3 * HORIZON) == replace(state, horizon_us=3 * HORIZON)
    assert state.with_quota(one, HORIZON).with_quota(two, HORIZON) is state
    assert state.retention_us >= HOUR + 2 * S


def test_a_state_names_at_most_sixteen_rates_the_longest() -> None:
    """However many limits share a state, its header stays small, and the longest period is kept."""
    state = LimitState(1)
    for seconds in range(1, 40):
        state = state.with_quota(quota(5, seconds), HORIZON)
    assert state.rates == tuple(Rate(seconds * S, 5) for seconds in range(40 - MAX_RATES, 40))


@pytest.mark.parametrize(("learned", "margin"), [(0, 50 * MS), (200 * MS, 200 * MS), (HOUR, 500 * MS)])
def test_a_learned_margin_counts_up_to_a_quarter_of_the_shortest_period(learned: int, margin: int) -> None:
    """Whatever a limit of a year, under the same name elsewhere, may have learned."""
    limit = quota("10/2s; 100/hour")
    state = replace(new_state(limit), rejections=Rejections(NOW, 0, learned))
    assert state.margin(limit, NOW) == margin


# How long it matters.


def test_a_state_matters_as_long_as_a_hit_a_hold_or_a_place_in_it() -> None:
    """From ``matters_until`` on all its hits are forgotten; the cache keeps it for longer than that."""
    limit = quota(3, 60)
    state = new_state(limit, (NOW, 3))
    terms = (limit.rates, 0)
    assert state.matters_until >= slot_of(state, limit, 1, NOW)
    assert state.forget(state.matters_until).hits.entries() == []
    assert replace(state, hold_until=NOW + DAY).matters_until > NOW + DAY
    assert replace(state, places=(Place(1, 1, NOW + DAY, 0, 0, terms),)).matters_until > NOW + DAY
    assert replace(state, written_at=NOW + DAY).matters_until > NOW + DAY
    for each in (state, replace(state, hold_until=NOW + DAY)):
        assert each.expires_at >= each.matters_until


@pytest.mark.parametrize(
    ("limit", "lingers"), [("5/s", LINGER_US), ("5/20 s", 200 * S), ("5/hour", MOST_LINGER_US), ("5/year", 600 * S)]
)
def test_a_state_lingers_ten_periods_at_least_a_minute_and_at_most_ten(limit: str, lingers: int) -> None:
    """In that time a process that finds nothing, and knows of something, knows that it was lost."""
    state = new_state(quota(limit), (NOW, 1))
    assert state.expires_at == NOW + state.retention_us + lingers


# Forgetting.


@settings(deadline=None, max_examples=150)
@given(scaled_quotas(), STARTS, STEPS, STEPS)
def test_forgetting_changes_no_later_decision(
    scaled: tuple[int, Quota], start: int, before: list[tuple[int, int]], after: list[tuple[int, int]]
) -> None:
    """A state that forgets at each step gives the slots of one that never does, from a second before on."""
    scale, limit = scaled
    state, now = new_state(limit), start
    for jump, wanted in before:
        cost = min(wanted, limit.most("calls"))
        now += abs(jump) * scale
        state = replace(state, hits=state.hits.book([(slot_of(state, limit, cost, now), cost)]))
    forgetful = state
    for jump, wanted in after:
        cost = min(wanted, limit.most("calls"))
        now += abs(jump) * scale
        forgetful = forgetful.forget(now)
        for asked in (max(0, now - S), now):
            assert slot_of(forgetful, limit, cost, asked) == slot_of(state, limit, cost, asked)
        slot = [(slot_of(state, limit, cost, now), cost)]
        state, forgetful = (
            replace(state, hits=state.hits.book(slot)),
            replace(forgetful, hits=forgetful.hits.book(slot)),
        )
    assert forgetful.hits.total == state.hits.total


def test_forgetting_drops_what_is_older_than_a_period_the_margin_and_a_second() -> None:
    """A hit is kept as long as it matters and a second more, and then it is gone."""
    limit = quota(3, 60)
    state = new_state(limit, (NOW, 1), (NOW + S, 2))
    kept = 60 * S + limit.margin_us + S
    assert state.forget(NOW + kept) is state
    assert state.forget(NOW + kept + 1).hits.entries() == [(NOW + S, 2)]
    assert state.forget(NOW + kept + S + 1).hits.entries() == []


def test_a_state_with_only_a_spacing_to_keep_keeps_it() -> None:
    """A spacing longer than every period is no reason to forget the last hit early."""
    limit = quota("10/second", spacing=30)
    state = new_state(limit, (NOW, 1)).forget(NOW + 29 * S)
    assert slot_of(state, limit, 1, NOW + 29 * S) == NOW + 30 * S


def test_hits_are_kept_for_as_long_as_a_learned_margin_counts_them() -> None:
    """A hit of 23 s ago still holds back a window of 20 s whose learned margin is 5 s."""
    limit = quota("1/20s")
    state = replace(new_state(limit, (NOW, 1)), rejections=Rejections(NOW + 23 * S, 0, 5 * S, NOW))
    assert slot_of(state.forget(NOW + 23 * S), limit, 1, NOW + 23 * S) == NOW + 25 * S


# Thinning.


def check_thinned(state: LimitState, thinned: LimitState, now: int) -> None:
    """No hit earlier, none settled moved as far as a cell, none that somebody may take back moved at all."""
    hits, found = state.hits, thinned.hits
    assert (found.total, found.last_at) == (hits.total, hits.last_at)
    spans = [rate.period_us + state.margin_us for rate in state.rates]
    for before, after in zip(each_hit(hits.entries()), each_hit(found.entries()), strict=True):
        cell = next((span for span in spans if now - before <= span), state.retention_us) // GRID
        assert 0 <= after - before < max(1, cell)
        assert before == after or after < now - state.horizon_us


def test_a_state_is_exact_up_to_1024_entries_and_thinned_past_them() -> None:
    """Nothing is merged before the 1,025th entry, and then past hits are."""
    limit = quota(5000, 60)
    state = booked_evenly(limit, EXACT_ENTRIES, 1000)
    now = (state.hits.last_at or 0) + 1
    assert state.forget(now) is state
    state = replace(state, hits=state.hits.book([(now, 1)]))
    thinned = state.forget(now + 1)
    assert len(state.hits.times) == EXACT_ENTRIES + 1
    assert len(thinned.hits.times) < 20 + HORIZON // 1000
    check_thinned(state, thinned, now + 1)


@settings(deadline=None, max_examples=40)
@given(
    st.sampled_from(["9/100 s", "9/10 s; 9/1000 s", "9/s; 9/minute; 9/hour"]),
    st.lists(st.integers(1, 12), min_size=1, max_size=40),
    st.sampled_from([100, 1000, 10_000]),
    st.integers(0, 400),
)
def test_thinning_moves_no_hit_by_a_cell_and_none_that_may_be_taken_back(
    rate: str, gaps: list[int], unit: int, later: int
) -> None:
    """A grant names the time of its hits for one horizon, so those hits stay where they are."""
    limit, at = quota(rate), NOW
    booked = []
    for index in range(EXACT_ENTRIES + 50):
        at += gaps[index % len(gaps)] * unit
        booked.append((at, 1 + index % 3))
    state, now = new_state(limit, *booked), at + later * MS
    kept = state.hits.forget(now - state.retention_us)
    check_thinned(replace(state, hits=kept), state.forget(now), now)


def test_hits_to_come_are_not_thinned_for_nothing() -> None:
    """Where most entries are not settled there is little to merge, and each swap would try."""
    limit = quota("10000/minute")
    state = booked_evenly(limit, 3000, 1000)
    assert state.forget(NOW + 1_400_000 + HORIZON) is state
    assert len(state.forget(NOW + 1_600_000 + HORIZON).hits.times) < 1600


def test_a_thinned_state_never_admits_earlier() -> None:
    """Every slot of a thinned state is that of the exact one, or later by less than a cell."""
    limit = quota(3000, 60)
    state = booked_evenly(limit, 3000, 20_000)
    now = state.hits.last_at or 0
    thinned = state.forget(now)
    assert len(thinned.hits.times) <= GRID + 10
    for exact, later in zip(
        next_slots(state.hits, limit, now, 3000), next_slots(thinned.hits, limit, now, 3000), strict=True
    ):
        assert 0 <= later - exact < MINUTE // GRID


LOADS: list[tuple[Quota, str, int, int, int]] = [
    # limit, arrivals, cost of each, hits in all, most entries
    (quota("10000/minute"), "even", 1, 30_000, EXACT_ENTRIES + 20),
    (quota("10000/minute"), "random", 1, 30_000, EXACT_ENTRIES + 50),
    (quota("100000/hour"), "random", 4, 200_000, EXACT_ENTRIES + 20),
    (quota("100000/day"), "random", 10, 300_000, EXACT_ENTRIES + 10),
    (quota("5000/second"), "even", 1, 20_000, 2 * EXACT_ENTRIES),
    (quota("100000/second", spacing=0.0004), "even", 40, 200_000, 2 * EXACT_ENTRIES),
    (quota(20_000, 0.1, spacing=0.00003), "even", 4, 40_000, 8 * EXACT_ENTRIES),
    (quota("3000/second; 100000/minute"), "even", 4, 120_000, 2 * EXACT_ENTRIES),
    (quota("20000/minute; 400000/hour"), "random", 40, 800_000, 2 * EXACT_ENTRIES),
]


@pytest.mark.parametrize(
    ("limit", "arrivals", "cost", "hits", "most"), LOADS, ids=[f"{load[0]}, {load[1]}" for load in LOADS]
)
def test_a_busy_state_stays_small_and_loses_at_most_one_percent(
    limit: Quota, arrivals: str, cost: int, hits: int, most: int
) -> None:
    """Under load, over many periods and hits, the entries stay bounded and 99 % of N per P + margin is used."""
    rng = random.Random(1)
    state, now, largest, booked = new_state(limit), NOW, 0, list[tuple[int, int]]()
    pace = max(rate.period_us * cost // rate.count for rate in limit.rates)
    for _ in range(hits // cost):
        at = slot_of(state, limit, cost, now)
        state = replace(state, hits=state.hits.book([(at, cost)]))
        booked.append((at, cost))
        largest = max(largest, len(state.hits.times))
        state = state.forget(at)
        now = now + (pace if arrivals == "even" else int(rng.expovariate(1) * pace * 0.98))
        now = max(now, at - limit.rates[-1].period_us // 10)  # callers wait, but no endless number of them
    assert largest <= most
    assert len(encode(state)) <= 160 + 16 * len(limit.rates) + 12 * most
    times = each_hit(booked)
    check_kept(times, limit, limit.margin_us)
    tightest = max(limit.rates, key=lambda rate: (rate.period_us + limit.margin_us) / rate.count)
    ideal = (hits - tightest.count) * (tightest.period_us + limit.margin_us) / tightest.count
    waited = times[-1] - times[tightest.count]
    assert waited <= ideal * 1.01


def test_a_lone_hit_is_never_thinned() -> None:
    """Few entries are exact, however many hits each of them has."""
    state = new_state(quota("1000000/minute"), (NOW, 500_000), (NOW + 1, 1))
    assert state.forget(NOW + S) is state
    assert state.hits == hit_log((NOW, 500_000), (NOW + 1, 1))

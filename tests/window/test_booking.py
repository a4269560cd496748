"""Booking: the slot that a log allows, the bound for those behind, what is given back, and what lapses."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.internals.core import Quota, quota
from tests.support.internals.window import (
    MOST_CREDIT,
    BookingRequest,
    Grant,
    HitLog,
    Place,
    Returned,
    earliest_slot,
    earliest_slot_behind,
    most_credit,
    spaced_after,
    taken_back,
    tidied,
)
from tests.window.drawing import (
    HORIZON,
    HOUR,
    JUMPS,
    NOW,
    STARTS,
    STEPS,
    S,
    hit_log,
    new_state,
    next_slots,
    scaled_quotas,
)

TEN = quota(10, 1.0)


# Bounds told in advance.


@settings(deadline=None, max_examples=200)
@given(scaled_quotas(), STARTS, STEPS, st.lists(st.integers(1, 5), max_size=12), st.integers(1, 5), JUMPS)
def test_nobody_behind_others_gets_a_slot_before_the_bound(
    scaled: tuple[int, Quota], start: int, steps: list[tuple[int, int]], ahead: list[int], wanted: int, jump: int
) -> None:
    """``earliest_slot_behind`` is a lower bound of the slot of any call once the hits of those ahead were booked."""
    scale, limit = scaled
    hits, now, margin = HitLog(), start, limit.margin_us
    for step, cost in steps:
        now = max(0, now + step * scale)
        cost = min(cost, limit.most("calls"))
        hits = hits.book([(earliest_slot(hits, limit, margin, cost, now), cost)])
    now = max(0, now + jump * scale)
    limit = replace(limit, spacing_us=0)  # spacing is kept between calls, and the bound counts hits
    ahead, wanted = [min(cost, limit.most("calls")) for cost in ahead], min(wanted, limit.most("calls"))
    bound = earliest_slot_behind(hits, sum(ahead), limit, margin, now)
    for cost in ahead:
        hits = hits.book([(earliest_slot(hits, limit, margin, cost, now), cost)])
    assert now <= bound <= earliest_slot(hits, limit, margin, wanted, now)


@pytest.mark.parametrize("start", [0, NOW])
@pytest.mark.parametrize("spacing", [0.0, 0.05])
def test_an_empty_log_promises_no_wait(start: int, spacing: float) -> None:
    """With no hit booked, the first is told of no wait, at whatever instant time begins."""
    limit = quota(10, spacing=spacing)
    assert earliest_slot_behind(HitLog(), 0, limit, limit.margin_us, start) == start
    forgotten = hit_log((start, 1)).forget(start + 1)
    assert earliest_slot_behind(forgotten, 0, limit, limit.margin_us, start + HOUR) == start + HOUR


@pytest.mark.parametrize("ahead", [0, 1, 9, 10, 11, 25, 1000])
def test_the_bound_behind_a_burst_is_exact(ahead: int) -> None:
    """Behind a full window and equal calls, the bound is the slot itself."""
    limit = quota(10, 60)
    hits = hit_log((NOW, 10))
    assert earliest_slot_behind(hits, ahead, limit, limit.margin_us, NOW) == next_slots(hits, limit, NOW, ahead + 1)[-1]


def test_the_bound_behind_many_windows_of_calls_is_far_where_hardly_a_hit_is_booked() -> None:
    """A bound that is now would have each light call behind heavy ones look at the state again and again."""
    limit = quota(10, 60)
    hits = hit_log((NOW - 30 * S, 1))
    bound = earliest_slot_behind(hits, 220, limit, limit.margin_us, NOW)
    assert NOW + 20 * limit.rates[0].period_us < bound <= next_slots(hits, limit, NOW, 221)[-1]


@pytest.mark.parametrize("ahead", [0, 1, 5])
def test_the_bound_of_spaced_slots_is_exact(ahead: int) -> None:
    """Behind calls of one hit each, the bound is the slot itself."""
    limit = quota(100, spacing=0.5)
    hits = hit_log((NOW, 1))
    soonest = max(NOW, spaced_after(hits, limit, ahead + 1))
    assert (
        earliest_slot_behind(hits, ahead, limit, limit.margin_us, soonest)
        == next_slots(hits, limit, NOW, ahead + 1)[-1]
    )


# Credit.


@pytest.mark.parametrize(("limit", "cost", "credit"), [(100, 1, 8), (16, 1, 8), (9, 1, 4), (1, 1, 0), (100, 20, 2)])
def test_others_grant_a_dead_line_at_most_eight_slots_and_half_of_a_window(limit: int, cost: int, credit: int) -> None:
    """A dead process costs no more than that."""
    assert most_credit(quota(limit), cost) == credit <= MOST_CREDIT
    assert credit * cost <= limit / 2


# Giving back.

GRANTS = (Grant(4, 7, NOW, 1), Grant(5, 8, NOW, 2), Grant(6, 7, NOW + 5, 3))
HITS = hit_log((NOW, 3), (NOW + 5, 3))


def test_what_is_given_back_is_taken_out_of_hits_and_grants() -> None:
    """All of a grant, or what its owner does not keep of it."""
    hits, grants = taken_back(HITS, GRANTS, [Returned(GRANTS[0], 0), Returned(GRANTS[2], 1)])
    assert hits.entries() == [(NOW, 2), (NOW + 5, 1)]
    assert grants == (GRANTS[1], Grant(6, 7, NOW + 5, 1))


def test_a_grant_is_taken_back_once_whatever_answers_were_lost() -> None:
    """Its name is gone after the first time, and other hits at its time are left alone."""
    for returned in (Returned(GRANTS[0], 0), Returned(GRANTS[2], 1)):
        once = taken_back(HITS, GRANTS, [returned])
        assert taken_back(*once, [returned]) == once


@pytest.mark.parametrize(
    "other", [Grant(7, 7, NOW, 1), Grant(4, 8, NOW, 1), Grant(4, 7, NOW + 1, 1), Grant(5, 7, NOW, 2)]
)
def test_what_has_another_name_is_not_taken_back(other: Grant) -> None:
    """Serial, owner and slot all fit, or nothing is taken: a new epoch counts serials from the start."""
    assert taken_back(HITS, GRANTS, [Returned(other, 0)]) == (HITS, GRANTS)


# Tidying.


def asked(now: int, owner: int = 1) -> BookingRequest:
    return BookingRequest(owner, TEN, (), now)


def test_grants_keep_their_names_for_one_horizon_past_their_slots() -> None:
    """So long an owner may pick one up or give it back; its hits stay, for they may be used."""
    state = replace(
        new_state(TEN, (NOW, 2), (NOW + 5, 1)), serial=6, grants=(Grant(5, 7, NOW, 2), Grant(6, 7, NOW + 5, 1))
    )
    assert tidied(state, asked(NOW + HORIZON)) is state
    later = tidied(state, asked(NOW + HORIZON + 1))
    assert later.grants == state.grants[1:]
    assert later.hits == state.hits


def test_a_place_lapses_a_horizon_after_it_was_ready() -> None:
    """Its owner did not look when it said: it is dead, or finds no place and asks anew. One's own place stays."""
    terms = (TEN.rates, 0)
    places = tuple(Place(owner, 1, ready, 1, 0, terms) for owner, ready in [(7, NOW - 1), (1, NOW - 1), (8, NOW)])
    state = replace(new_state(TEN), places=places)
    assert tidied(state, asked(NOW - 1 + HORIZON)) is state
    assert [place.owner for place in tidied(state, asked(NOW + HORIZON)).places] == [1, 8]


def test_tidying_forgets_old_hits() -> None:
    """With each write, so that a state never grows beyond its longest window."""
    state = new_state(TEN, (NOW, 2), (NOW + S, 1))
    assert tidied(state, asked(NOW + state.retention_us + 1)).hits.entries() == [(NOW + S, 1)]

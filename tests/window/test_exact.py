"""Exact slots: between hits or behind them, no N + 1 hits ever span less than a period and the margin."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.checks import each_hit, spans_broken
from tests.support.internals.core import Quota, leaving, quota
from tests.support.internals.window import BookingRequest, ExactSlot, LimitState, Place, Plan, decode, encode, planned
from tests.window.drawing import HORIZON, MS, NOW, Caller, new_state

ME, OTHER, WISH = 1, 7, 99
TEN = quota(10, 1.0)
SPAN = TEN.rates[0].period_us + TEN.margin_us


def asked(state: LimitState, *slots: ExactSlot, limit: Quota = TEN, callers: int = 0, **more: Any) -> Plan:
    return planned(state, BookingRequest(ME, limit, [Caller(1)] * callers, NOW, callers, exact=slots, **more))


def booked(plan: Plan, owner: int = WISH) -> list[int]:
    return [grant.slot for grant in plan.state.grants if grant.owner == owner]


def place(owner: int, ready: int = NOW, cost: int = 1, **more: Any) -> Place:
    return Place(owner, cost, ready, 0, 0, (TEN.rates, TEN.spacing_us), **more)


@given(
    hits=st.lists(st.integers(-1200, 100), max_size=40),
    wishes=st.lists(st.tuples(st.integers(-10, 100), st.integers(1, 4)), max_size=8),
    callers=st.integers(0, 4),
)
def test_no_window_is_ever_over(hits: list[int], wishes: list[tuple[int, int]], callers: int) -> None:
    """Whatever is asked for, and wherever it lies: each N + 1 hits that hold a new one span the period and margin."""
    kept: list[tuple[int, int]] = []
    for at in sorted(NOW + hit * MS for hit in hits):
        if sum(other > at - SPAN for other, _ in kept) < 10:
            kept.append((at, 1))
    state = new_state(TEN, *kept)
    slots = [ExactSlot(WISH + i, NOW + at * MS, cost) for i, (at, cost) in enumerate(wishes)]
    plan = asked(state, *slots, callers=callers)
    assert spans_broken(each_hit(plan.state.hits.entries()), 10, SPAN) == []
    for slot in slots:
        assert booked(plan, slot.owner) in ([], [slot.at])


def test_a_slot_behind_the_last_hit_is_booked_at_that_instant() -> None:
    """Not before, and not later."""
    plan = asked(new_state(TEN, (NOW - 5 * MS, 3)), ExactSlot(WISH, NOW + 20 * MS, 2))
    assert booked(plan) == [NOW + 20 * MS]
    assert plan.state.hits.total == 5


def test_a_slot_between_hits_is_booked_where_there_is_room_on_both_sides() -> None:
    """Nine hits ahead leave room for one; ten leave none, though before the slot all is free."""
    for ahead, expected in ((9, [NOW]), (10, [])):
        state = new_state(TEN, (NOW + 50 * MS, ahead))
        assert booked(asked(state, ExactSlot(WISH, NOW, 1))) == expected


def test_spacing_is_kept_to_both_neighbours() -> None:
    """Between two hits 100 ms apart, only the middle is far enough from both."""
    spaced = replace(TEN, spacing_us=50 * MS)
    state = new_state(spaced, (NOW - 50 * MS, 1), (NOW + 50 * MS, 1))
    assert booked(asked(state, ExactSlot(WISH, NOW, 1), limit=spaced)) == [NOW]
    assert booked(asked(state, ExactSlot(WISH, NOW + 10 * MS, 1), limit=spaced)) == []
    assert booked(asked(state, ExactSlot(WISH, NOW - 10 * MS, 1), limit=spaced)) == []


@pytest.mark.parametrize(("past", "is_booked"), [(12, True), (13, False)])
def test_a_slot_far_past_is_refused(past: int, is_booked: bool) -> None:
    """A quarter of the margin, 12.5 ms: later its call could hardly start in time."""
    assert bool(booked(asked(new_state(TEN), ExactSlot(WISH, NOW - past * MS, 1)))) is is_booked


def test_a_slot_in_a_hold_is_refused() -> None:
    """From the end of the hold on it is booked."""
    state = replace(new_state(TEN), hold_until=NOW + 50 * MS)
    assert booked(asked(state, ExactSlot(WISH, NOW + 49 * MS, 1))) == []
    assert booked(asked(state, ExactSlot(WISH, NOW + 50 * MS, 1))) == [NOW + 50 * MS]


def test_what_waits_comes_first() -> None:
    """One hit is free at the instant: it is that of the place that waits, not of the wish."""
    state = replace(new_state(TEN, (NOW - SPAN + 20 * MS, 1), (NOW - 5 * MS, 9)), places=(place(OTHER),))
    assert booked(asked(state, ExactSlot(WISH, NOW + 20 * MS, 1))) == []
    assert booked(asked(replace(state, places=()), ExactSlot(WISH, NOW + 20 * MS, 1))) == [NOW + 20 * MS]


def test_a_kept_place_is_not_passed_over() -> None:
    """The last room before it is ready waits for it; with room to spare others go before it."""
    ready = NOW + 60 * MS
    full = replace(new_state(TEN, (NOW - 5 * MS, 9)), places=(place(OTHER, ready, is_kept=True),))
    assert len(asked(full, callers=1).own_slots) == 0
    spare = replace(new_state(TEN, (NOW - 5 * MS, 8)), places=full.places)
    assert len(asked(spare, callers=2).own_slots) == 1


def test_a_kept_place_gets_its_instant() -> None:
    """Its owner's wish is booked there, and the place is gone."""
    ready = NOW + 60 * MS
    state = replace(new_state(TEN, (NOW - 5 * MS, 9)), places=(place(OTHER, ready, is_kept=True), place(8)))
    plan = asked(state, ExactSlot(WISH, ready, 1, OTHER))
    assert booked(plan) == [ready]
    assert [each.owner for each in plan.state.places] == [8]


def test_a_line_takes_over_a_place_that_was_kept_for_its_call() -> None:
    """Where it has none of its own, it stands there: in front of those behind."""
    state = replace(new_state(TEN, (NOW - 5 * MS, 10)), places=(place(OTHER, is_kept=True), place(8)))
    plan = asked(state, callers=1, gone={OTHER})
    assert [each.owner for each in plan.state.places] == [ME, 8]
    assert not plan.state.places[0].is_kept


class TestHeadroom:
    """Calls that leave a part of each window free."""

    def test_a_part_is_rounded_down(self) -> None:
        """0.3 of 10 leaves 7; of 3 it leaves 2."""
        assert [rate.count for rate in leaving(quota("10/s; 3/min"), 3000).rates] == [7, 2]

    @given(used=st.integers(0, 10), headroom=st.sampled_from([1000, 3000, 9000]))
    def test_it_starts_only_where_so_much_is_left(self, used: int, headroom: int) -> None:
        """All hits count, of calls with and without headroom."""
        state = new_state(TEN, *([(NOW - 5 * MS, used)] if used else []))
        free = 10 * (10_000 - headroom) // 10_000 - used
        assert len(asked(state, callers=10, headroom=headroom).own_slots) == max(0, free)

    def test_it_comes_behind_all_with_less(self) -> None:
        """However long it stands already."""
        waiting = (place(OTHER, headroom=3000), place(8))
        state = replace(new_state(TEN, (NOW - 5 * MS, 10)), places=waiting)
        plan = asked(state, callers=1)
        assert [each.owner for each in plan.state.places] == [8, ME, OTHER]

    def test_it_takes_no_turn_of_a_heavier_call(self) -> None:
        """One that waits for room is not delayed; but what it leaves free until then is used."""
        for heavy, granted in ((10, 0), (9, 1)):
            state = replace(new_state(TEN, (NOW - SPAN + 50 * MS, 3)), places=(place(OTHER, cost=heavy),))
            assert len(asked(state, callers=2, headroom=3000).own_slots) == granted

    def test_what_it_asks_elsewhere_leaves_as_much(self) -> None:
        """It is refused where the part is used: behind hits, and between them, where those behind it count as well."""
        for at, behind, most in ((NOW + 90 * MS, 0, 6), (NOW, 1, 5)):
            for used, expected in ((most, [at]), (most + 1, [])):
                state = new_state(TEN, (NOW - 5 * MS, used), (NOW + 50 * MS, behind))
                plan = asked(state, ExactSlot(WISH, at, 1), headroom=3000)
                assert booked(plan) == expected


def test_kept_places_and_headroom_are_encoded() -> None:
    """And come back as they were."""
    places = (place(1, is_kept=True), place(2, headroom=5000), place(3, is_kept=True, headroom=1), place(4))
    state = replace(new_state(TEN, (NOW, 3)), places=places, horizon_us=HORIZON)
    assert decode(encode(state)) == state

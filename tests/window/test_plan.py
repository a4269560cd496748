"""The plan: slots never break a window, turns go in order, and places cost others nothing that the rules do not give.

Numbers of rules are those of plan.py.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.checks import each_hit
from tests.support.internals.core import CALLS, Hits, Quota, Rate, cost_of, hits_in, quota
from tests.support.internals.window import (
    CLOCKS_APART_US,
    MOST_CREDIT,
    PLANNED_AHEAD,
    PREFETCH_PART,
    BookingRequest,
    Grant,
    HitLog,
    LimitState,
    Place,
    Plan,
    Returned,
    Terms,
    decode,
    earliest_slot,
    earliest_slot_behind,
    encode,
    most_credit,
    next_slot,
    planned,
)
from tests.window.drawing import (
    HORIZON,
    MS,
    NOW,
    Caller,
    S,
    check_kept,
    new_state,
    next_slots,
    quotas,
    sequences,
)

ME, A, B, C = 1, 7, 8, 9
TEN = quota(10, 1.0)
FULL = TEN.rates[0].period_us + TEN.margin_us  # from the first hit of a full window to the next


def terms_of(limit: Quota) -> Terms:
    return limit.rates, limit.spacing_us


def place(owner: int, cost: int = 1, ready: int = NOW, credit: int = 0, back: int = 0, limit: Quota = TEN) -> Place:
    return Place(owner, cost, ready, credit, back, terms_of(limit))


def asks(*callers: Caller | int, limit: Quota = TEN, now: int = NOW, **more: Any) -> BookingRequest:
    """Return what a line asks for its callers, given by cost or whole."""
    line = [caller if isinstance(caller, Caller) else Caller(caller) for caller in callers]
    return BookingRequest(ME, limit, line, now, waiting=len(line), **more)


def with_places(limit: Quota, hits: Sequence[tuple[int, int]], *places: Place) -> LimitState:
    return replace(new_state(limit, *hits), places=places)


def new_grants(plan: Plan, before: LimitState) -> list[tuple[int, int, Any]]:
    """Return (owner, slot, cost) of each grant of this write."""
    return [grant[1:] for grant in plan.state.grants if grant.serial > before.serial]


def owners(state: LimitState) -> list[int]:
    return [each.owner for each in state.places]


# Any plan.


@st.composite
def fleets(draw: st.DrawFn) -> tuple[list[Quota], LimitState, list[tuple[BookingRequest, int]]]:
    """Draw quotas that share a state, some hits, and asks of lines one after another."""
    scale = draw(st.sampled_from([10 * MS, 100 * MS]))
    limits = draw(st.lists(quotas(scale), min_size=1, max_size=2))
    state = LimitState(1)
    for limit in limits:
        state = state.with_quota(limit, HORIZON)
    now, steps = NOW, []
    for gap, owner, costs, credit, back, stands, prefetch, wait in draw(
        sequences(
            st.tuples(
                st.integers(0, 12),
                st.integers(1, 5),
                st.lists(st.integers(1, 5), max_size=5),
                st.integers(0, MOST_CREDIT),
                st.integers(0, 400),
                st.booleans(),
                st.integers(0, 40),
                st.none() | st.integers(0, 400),
            ),
            14,
        )
    ):
        now += gap * scale // 4
        limit = limits[owner % len(limits)]
        deadline = None if wait is None else now + wait * MS
        callers = [Caller(min(cost, limit.most("calls")), deadline) for cost in costs]
        # As the line does: it stands with the credit that its cost allows, and only for a single caller.
        most = most_credit(limit, callers[0].cost if callers else 1)
        may_stand = stands and len(callers) == 1 and bool(most)
        ask = BookingRequest(
            owner, limit, callers, now, len(callers), credit=min(credit, most), back_us=back * MS, stands=may_stand,
            prefetch=prefetch,
        )  # fmt: skip
        steps.append((ask, draw(st.integers(0, 2))))
    return limits, state, steps


@settings(deadline=None, max_examples=200)
@given(fleets())
def test_no_plan_breaks_a_window_books_past_the_horizon_or_grants_out_of_order(
    fleet: tuple[list[Quota], LimitState, list[tuple[BookingRequest, int]]],
) -> None:
    """Whatever a state holds: rule 1 for each grant, by the terms of its own place, and hits are only appended."""
    _, state, steps = fleet
    margin, slots = state.margin_us, list[tuple[int, int]]()
    for ask, _ in steps:
        plan = planned(state, ask)
        made = new_grants(plan, state)
        for _, slot, cost in made:
            assert max(ask.now, slots[-1][0] if slots else 0) <= slot <= ask.now + state.horizon_us
            slots.append((slot, cost))
            before = each_hit(slots[:-1])
            for rate in ask.quota.rates:  # nobody grants under other terms (13)
                assert sum(hit > slot - rate.period_us - margin for hit in before) + cost <= rate.count
        check_plan(state, ask, plan, made)
        state = decode(encode(plan.state))
        assert state == plan.state
    assert each_hit(state.hits.entries()) == each_hit(slots)[state.hits.forgotten :]


def check_plan(before: LimitState, ask: BookingRequest, plan: Plan, made: list[tuple[int, int, int]]) -> None:
    """Check what holds of each plan by itself."""
    state, callers = plan.state, list(ask.callers)
    # Own callers are served in order; those whose deadline is sooner than their slot are left out.
    late = [caller for caller, _ in plan.too_late]
    served = [cost for owner, _, cost in made if owner == ask.owner]
    left = list(callers)
    for caller in late:
        left.remove(caller)
    assert sum(served) >= sum(hits_in(caller.cost, CALLS) for caller in left[: len(plan.own_slots)])
    assert all(slot > (caller.deadline or 0) for caller, slot in plan.too_late)
    # The place: one for who has callers left, by the cost of the first of them, at a turn behind the horizon.
    own = state.place_of(ask.owner)
    rest = left[len(plan.own_slots) :]
    if rest:
        assert own is not None
        assert (own.cost, own.terms) == (rest[0].cost, ask.terms)
        assert plan.turn == own.ready > ask.now + state.horizon_us
    else:
        assert plan.turn is None
        assert own is None or ask.stands
    assert len(set(owners(state))) == len(state.places)
    # Others: at most their credit, and of those under other terms nothing changes.
    for each in before.places:
        grants = [grant for grant in made if grant[0] == each.owner]
        if each.owner != ask.owner:
            assert len(grants) <= each.credit
            assert not grants or each.terms == ask.terms
    assert {each for each in state.places if each.terms != ask.terms and each.owner != ask.owner} <= set(before.places)
    assert state.hits.total - before.hits.total == sum(cost for _, _, cost in made)


# Own callers.


def test_callers_are_granted_in_order_up_to_the_horizon_and_the_next_has_a_turn() -> None:
    """Twelve callers of ten: two are left, with a place at their turn, and credit for both."""
    state = new_state(TEN)
    plan = planned(state, asks(*[1] * 12))
    assert new_grants(plan, state) == [(ME, NOW, 10)]
    assert (len(plan.own_slots), plan.turn, plan.is_bound) == (10, NOW + FULL, True)
    (own,) = plan.state.places
    assert (own.owner, own.cost, own.ready) == (ME, 1, NOW + FULL)
    assert own.credit >= 2


def test_a_dear_caller_is_not_overtaken_by_those_behind_it_in_its_line() -> None:
    """First come, first served inside a process, whatever the costs."""
    state = new_state(TEN, (NOW - S // 2, 8))
    plan = planned(state, asks(5, 1, 1))
    assert len(plan.own_slots) == 0
    assert plan.turn == NOW - S // 2 + FULL


def test_room_for_the_next_call_is_no_bound_limit() -> None:
    """``is_bound`` tells whether the next call waits: so a line knows whether to stand."""
    assert not planned(new_state(TEN), asks(1)).is_bound
    assert planned(new_state(TEN, (NOW, 9)), asks(1)).is_bound


def test_no_slot_before_the_hold_ends_or_the_swap_is_answered() -> None:
    """The lead of a far cache, and a hold."""
    state = new_state(TEN)
    assert new_grants(planned(state, asks(1, lead_us=20 * MS)), state) == [(ME, NOW + 20 * MS, 1)]
    held = replace(state, hold_until=NOW + HORIZON)
    assert new_grants(planned(held, asks(1)), held) == [(ME, NOW + HORIZON, 1)]
    held = replace(state, hold_until=NOW + S)
    plan = planned(held, asks(1))
    assert (plan.turn, new_grants(plan, held)) == (NOW + S, [])


# Deadlines.


def test_who_is_too_late_is_left_out_and_the_next_one_served() -> None:
    """A caller of five that won't wait is refused, with the slot that it would have; the one behind it starts now."""
    state = new_state(TEN, (NOW - S // 2, 8))
    dear = Caller(5, NOW + 10 * MS)
    plan = planned(state, asks(dear, 1))
    assert plan.too_late == [(dear, NOW - S // 2 + FULL)]
    assert new_grants(plan, state) == [(ME, NOW, 1)]
    assert plan.state.places == ()


def test_if_all_are_too_late_no_place_is_left() -> None:
    """Nobody waits for what nobody wants any more."""
    state = with_places(TEN, [(NOW, 10)], place(ME, ready=NOW + FULL), place(A, ready=NOW + FULL))
    callers = [Caller(1, NOW + index) for index in range(3)]
    plan = planned(state, asks(*callers))
    assert [caller for caller, _ in plan.too_late] == callers
    assert (plan.turn, owners(plan.state)) == (None, [A])


def test_a_deadline_at_the_slot_is_met() -> None:
    """Only a slot later than the deadline is too late."""
    state = new_state(TEN, (NOW, 10))
    assert planned(state, asks(Caller(1, NOW + FULL))).too_late == []
    late = Caller(1, NOW + FULL - 1)
    assert planned(state, asks(late)).too_late == [(late, NOW + FULL)]


def test_slots_are_told_with_their_callers() -> None:
    """A caller that is too late has none: the next one's is not its own."""
    state = new_state(TEN, (NOW, 9))
    late, next_one = Caller(2, NOW), Caller(1)
    plan = planned(state, asks(late, next_one))
    assert (plan.own_slots, [caller for caller, _ in plan.too_late]) == ([(next_one, NOW)], [late])


def test_the_expected_time_of_a_swap_is_no_wait() -> None:
    """``max_wait=0`` works though the cache is far."""
    state = new_state(TEN)
    plan = planned(state, asks(Caller(1, NOW), lead_us=80 * MS))
    assert (len(plan.own_slots), plan.too_late) == (1, [])


def test_a_hit_by_a_clock_a_little_ahead_is_none_to_wait_for() -> None:
    """Who won't wait at all is admitted beside the newest hit, though that lies some ms ahead of its own clock."""
    state = new_state(TEN, (NOW + CLOCKS_APART_US, 1))
    assert new_grants(planned(state, asks(Caller(1, NOW))), state) == [(ME, NOW + CLOCKS_APART_US, 1)]


def test_a_hit_well_ahead_is_one_to_wait_for() -> None:
    """A slot that another booked for later is not now."""
    state, caller = new_state(TEN, (NOW + CLOCKS_APART_US + 1, 1)), Caller(1, NOW)
    assert planned(state, asks(caller)).too_late == [(caller, NOW + CLOCKS_APART_US + 1)]


# Turns and backfilling.


def test_places_are_served_in_order_and_who_writes_waits_for_those_before_it() -> None:
    """Room for three: two places with credit get theirs, then the writer; its second caller waits (2, 4)."""
    state = with_places(TEN, [(NOW - S // 2, 7)], place(A, credit=1), place(B, credit=1))
    plan = planned(state, asks(1, 1))
    assert new_grants(plan, state) == [(A, NOW, 1), (B, NOW, 1), (ME, NOW, 1)]
    assert plan.turn == NOW - S // 2 + FULL
    assert owners(plan.state) == [ME]


def test_the_turn_of_a_place_without_credit_is_kept_free_and_not_booked() -> None:
    """Its owner is awake, and books it itself; the writer comes behind (4)."""
    state = with_places(TEN, [(NOW - S // 2, 8)], place(A), place(B))
    plan = planned(state, asks(1))
    assert new_grants(plan, state) == []
    assert plan.turn == NOW - S // 2 + FULL
    assert owners(plan.state) == [A, B, ME]
    room = with_places(TEN, [(NOW - S // 2, 8)], place(A))
    assert new_grants(planned(room, asks(1)), room) == [(ME, NOW, 1)]


def test_a_place_that_is_not_ready_yet_is_passed_over() -> None:
    """Its owner is not back before: who is ready by now goes first, and the place stays where it stood (2)."""
    state = with_places(TEN, [(NOW - S // 2, 9)], place(A, ready=NOW + 1, credit=1))
    plan = planned(state, asks(1))
    assert new_grants(plan, state) == [(ME, NOW, 1)]
    assert owners(plan.state) == [A]


def test_one_that_will_be_ready_soon_is_granted_at_that_time() -> None:
    """Within the horizon, where there is room: no slot before ``ready``."""
    state = with_places(TEN, [], place(A, ready=NOW + 50 * MS, credit=1))
    assert new_grants(planned(state, asks()), state) == [(A, NOW + 50 * MS, 1)]
    far = with_places(TEN, [], place(A, ready=NOW + HORIZON + 1, credit=1))
    assert new_grants(planned(far, asks()), far) == []


def test_a_cheap_call_goes_before_a_dear_one_that_it_does_not_delay() -> None:
    """Of ten, eight are used now and leave together: five wait, two are free. One of them may go (3)."""
    state = with_places(TEN, [(NOW - S // 2, 8)], place(A, cost=5))
    assert new_grants(planned(state, asks(1)), state) == [(ME, NOW, 1)]


def test_no_call_goes_before_one_that_it_would_delay() -> None:
    """Of ten, eight are used: three leave soon, five much later. Five need those three and both that are free (3)."""
    state = with_places(TEN, [(NOW - 900 * MS, 3), (NOW - 100 * MS, 5)], place(A, cost=5))
    plan = planned(state, asks(1))
    assert new_grants(plan, state) == []
    assert plan.turn == NOW - 100 * MS + FULL


@settings(deadline=None, max_examples=200)
@given(
    sequences(st.tuples(st.integers(0, 300), st.integers(1, 4)), 8),
    st.integers(2, 10),
    st.lists(st.integers(1, 4), min_size=1, max_size=8),
    st.integers(0, 8),
)
def test_backfilling_never_moves_the_next_turn(
    before: list[tuple[int, int]], dear: int, costs: list[int], credit: int
) -> None:
    """However many cheap calls go first, the slot of the first place in order stays what it was."""
    at, hits = NOW - S, new_state(TEN).hits
    for gap, cost in before:
        at = earliest_slot(hits, TEN, TEN.margin_us, cost, max(at, NOW - S) + gap * MS)
        hits = hits.book([(at, cost)])
    now = max(NOW, at)
    turn = earliest_slot(hits, TEN, TEN.margin_us, dear, now)
    first = place(A, cost=dear, ready=now)
    state = replace(with_places(TEN, [], first, place(B, ready=now, credit=credit)), hits=hits)
    plan = planned(state, asks(*costs, now=now))
    after = earliest_slot(plan.state.hits, TEN, TEN.margin_us, dear, now)
    assert after == turn or turn <= now + HORIZON  # a turn within the horizon is planned, and others come behind it


# Places.


def test_a_granted_place_goes_to_the_tail_and_loses_a_credit() -> None:
    """With credit left it stands behind all others, ready when the tail has its turn; with none it is gone (5)."""
    state = with_places(TEN, [(NOW - S // 2, 8)], place(A, credit=2), place(B, ready=NOW + 5, credit=1))
    plan = planned(state, asks())
    assert new_grants(plan, state) == [(A, NOW, 1), (B, NOW + 5, 1)]
    (tail,) = plan.state.places
    assert (tail.owner, tail.credit) == (A, 1)
    assert tail.ready > NOW + 5


def test_a_granted_place_is_ready_when_its_owner_is_back() -> None:
    """No slot is granted to it while its owner is known to be away."""
    state = with_places(TEN, [], place(A, credit=3, back=70 * MS))
    plan = planned(state, asks())
    assert new_grants(plan, state) == [(A, NOW, 1), (A, NOW + 70 * MS, 1)]
    (tail,) = plan.state.places
    assert (tail.ready, tail.credit) == (NOW + 140 * MS, 1)


def test_a_place_that_would_be_back_after_its_turn_is_gone() -> None:
    """It would be passed over; its owner asks again when it comes (5)."""
    soon = with_places(TEN, [(NOW - S // 2, 9)], place(A, credit=3, back=300 * MS))
    assert owners(planned(soon, asks()).state) == [A]
    late = with_places(TEN, [(NOW - S // 2, 9)], place(A, credit=3, back=900 * MS))
    assert owners(planned(late, asks()).state) == []


def test_a_slot_behind_a_gap_is_booked_only_as_far_ahead_as_the_writer_must() -> None:
    """Room before it could be used by a call that comes meanwhile; a hit is a floor for all that come later (4)."""
    state = with_places(TEN, [], place(A, ready=NOW + 20 * MS, credit=1), place(B, ready=NOW + 80 * MS, credit=1))
    near = planned(state, asks(gap_us=50 * MS))
    assert new_grants(near, state) == [(A, NOW + 20 * MS, 1)]
    assert owners(near.state) == [B]
    far = planned(state, asks())
    assert new_grants(far, state) == [(A, NOW + 20 * MS, 1), (B, NOW + 80 * MS, 1)]
    full = with_places(TEN, [(NOW + 80 * MS - FULL, 10)], place(A, ready=NOW + 80 * MS, credit=1))
    assert new_grants(planned(full, asks(gap_us=50 * MS)), full) == [(A, NOW + 80 * MS, 1)]


class TestCloseSlots:
    """Slots spaced by less than 1.5 ms: one that passes unused is lost (2, 4, 5)."""

    CLOSE = Quota(TEN.rates, MS, 50 * MS)
    LAST = ((NOW - MS, 1),)

    def granted(self, ready: int, limit: Quota = CLOSE, **more: Any) -> list[tuple[int, int, int]]:
        """Return what a place is granted that is ready then, the last hit a millisecond ago."""
        state = with_places(limit, self.LAST, place(A, ready=ready, credit=1, limit=limit))
        return new_grants(planned(state, asks(limit=limit, **more)), state)

    def test_an_owner_that_is_back_soon_after_the_next_slot_is_granted_it(self) -> None:
        """It starts late, by less than half the margin; the slot is used."""
        assert self.granted(NOW + 12 * MS, gap_us=1) == [(A, NOW, 1)]
        assert self.granted(NOW + 13 * MS) == [(A, NOW + 13 * MS, 1)]
        assert self.granted(NOW + 13 * MS, gap_us=1) == []

    def test_slots_further_apart_wait_for_their_owner(self) -> None:
        """Calls keep their distance there."""
        wide = replace(self.CLOSE, spacing_us=2 * MS)
        assert self.granted(NOW + 3 * MS, wide) == [(A, NOW + 3 * MS, 1)]

    def test_a_wide_margin_makes_no_owner_later(self) -> None:
        """A worker of a narrow one may own the slot: it would find it void."""
        assert replace(self.CLOSE, margin_us=S).late_us == self.CLOSE.late_us == 12_500

    def test_an_owner_falls_behind_by_a_quarter_of_the_margin_at_most(self) -> None:
        """Each slot is a millisecond after the one before, and its owner two behind it: the sixth is 12 ms early."""
        state = with_places(self.CLOSE, self.LAST)
        plan = planned(state, asks(1, limit=self.CLOSE, stands=True, credit=8, back_us=3 * MS, gap_us=1))
        assert [slot - NOW for _, slot, _ in new_grants(plan, state)] == [n * MS for n in range(7)]
        assert [place.credit for place in plan.state.places] == [2]

    def test_such_a_limit_binds_where_a_call_had_to_wait(self) -> None:
        """The next call always has to: that says nothing."""
        free = with_places(self.CLOSE, self.LAST)
        assert not planned(free, asks(1, limit=self.CLOSE)).is_bound
        busy = with_places(self.CLOSE, [(NOW, 1)])
        assert planned(busy, asks(1, limit=self.CLOSE)).is_bound


def test_a_dead_owner_is_granted_no_more_than_its_credit() -> None:
    """Others write on and on: it gets its credit in all, and lapses."""
    state, now, hits = with_places(TEN, [], place(A, credit=3)), NOW, 0
    for _ in range(40):
        plan = planned(state, asks(1, now=now))
        hits += sum(cost for owner, _, cost in new_grants(plan, state) if owner == A)
        state, now = plan.state, now + 100 * MS
    assert hits == 3
    assert A not in owners(state)


def test_the_place_of_callers_left_stays_where_it_stood() -> None:
    """Renewed, it keeps its rank before those who came later (6)."""
    limit = [(NOW, 10)]
    state = with_places(TEN, limit, place(A, ready=NOW + FULL), place(ME, ready=NOW + FULL), place(B, ready=NOW + FULL))
    plan = planned(state, asks(1, 1))
    assert owners(plan.state) == [A, ME, B]
    assert plan.turn == NOW + FULL


def test_after_a_grant_the_own_place_goes_behind_those_who_wait() -> None:
    """Two of two lines each: they take turns, whoever writes (4)."""
    state = with_places(TEN, [(NOW - S // 2, 8)], place(ME), place(A, credit=8))
    plan = planned(state, asks(1, 1))
    assert new_grants(plan, state) == [(ME, NOW, 1), (A, NOW, 1)]
    assert owners(plan.state) == [ME, A]


def test_a_line_whose_only_caller_is_served_stands_with_its_credit() -> None:
    """So others grant its next slot, and it need not write; without ``stands`` it leaves nothing."""
    state = new_state(TEN, (NOW - S // 2, 9))
    plan = planned(state, asks(1, stands=True, credit=4, back_us=20 * MS))
    (own,) = plan.state.places
    assert (own.owner, own.credit, own.back_us) == (ME, 4, 20 * MS)
    assert own.ready == NOW - S // 2 + FULL
    assert plan.turn is None
    assert planned(state, asks(1)).state.places == ()


def test_a_line_that_takes_over_a_kept_place_is_granted_in_its_own_name() -> None:
    """The place was kept for a call that now waits here: it stands first, and its slot must not have a dead name."""
    kept = place(A)._replace(is_kept=True)
    state = with_places(TEN, [(NOW - S // 2, 9)], kept, place(B))
    plan = planned(state, asks(1, gone=[A]))
    assert new_grants(plan, state) == [(ME, NOW, 1)]
    assert owners(plan.state) == [B]


def test_a_line_whose_limit_was_changed_stands_under_the_new_terms() -> None:
    """Under the old ones nobody would plan its place."""
    state = with_places(TEN, [(NOW - S // 2, 9)], place(ME, credit=2, limit=quota(5, 1.0)))
    plan = planned(state, asks(1, stands=True, credit=4, back_us=20 * MS))
    assert [each.terms for each in plan.state.places] == [terms_of(TEN)]


def test_a_line_with_no_callers_gives_up_its_place() -> None:
    """The last one was cancelled."""
    state = with_places(TEN, [(NOW, 10)], place(A, ready=NOW + FULL), place(ME, ready=NOW + FULL))
    plan = planned(state, asks())
    assert (owners(plan.state), plan.turn) == ([A], None)


def test_the_place_of_a_dead_owner_lapses_and_holds_nobody_up() -> None:
    """A dear place that was ready over a horizon ago no longer keeps its turn free (12)."""
    state = with_places(TEN, [(NOW - S // 2, 5)], place(A, cost=5, ready=NOW - HORIZON - 1))
    plan = planned(state, asks(*[1] * 5))
    assert (len(plan.own_slots), owners(plan.state)) == (5, [])
    alive = with_places(TEN, [(NOW - S // 2, 5)], place(A, cost=5, ready=NOW - HORIZON))
    assert len(planned(alive, asks(*[1] * 5)).own_slots) == 0


def test_places_under_other_terms_are_left_alone() -> None:
    """Neither planned, nor granted, nor waited for; the shared hits keep all of them (13)."""
    other = quota(5, 1.0)
    spaced = quota(10, 1.0, spacing=0.01)
    strangers = (place(A, credit=8, limit=other), place(B, cost=4, limit=spaced))
    state = with_places(TEN, [(NOW - S // 2, 9)], *strangers)
    plan = planned(state, asks(1))
    assert new_grants(plan, state) == [(ME, NOW, 1)]
    assert plan.state.places == strangers
    lapsed = replace(state, places=(place(A, ready=NOW - HORIZON - 1, limit=other),))
    assert planned(lapsed, asks(1)).state.places == ()


def test_what_is_given_back_makes_room_in_the_same_write() -> None:
    """A hit that its owner does not use goes to the next who waits."""
    grant = Grant(3, ME, NOW, 10)
    state = replace(new_state(TEN, (NOW, 10)), serial=3, grants=(grant,), places=(place(A, credit=1),))
    plan = planned(state, asks(returned=[Returned(grant, 8)]))
    assert new_grants(plan, state) == [(A, NOW, 1)]
    assert plan.state.hits.entries() == [(NOW, 9)]


# Prefetching.

MANY = quota(6400, 1.0)


def test_prefetched_hits_are_at_most_a_64th_of_what_is_free() -> None:
    """They are part of the writer's grant, and no caller of its own."""
    state = new_state(MANY)
    plan = planned(state, asks(1, limit=MANY, prefetch=20))
    assert (new_grants(plan, state), len(plan.own_slots)) == ([(ME, NOW, 21)], 1)
    plan = planned(state, asks(1, limit=MANY, prefetch=1000))
    assert new_grants(plan, state) == [(ME, NOW, 1 + 6399 // PREFETCH_PART)]
    used = new_state(MANY, (NOW - 1, 6400 - 65))
    assert new_grants(planned(used, asks(1, limit=MANY, prefetch=1000)), used) == [(ME, NOW, 2)]


@pytest.mark.parametrize(
    ("state", "ask"),
    [
        (new_state(TEN), asks(1, prefetch=20)),
        (new_state(MANY, (NOW - 1, 6400 - 64)), asks(1, limit=MANY, prefetch=20)),
        (new_state(MANY, (NOW + 1, 1)), asks(1, limit=MANY, prefetch=20)),
        (with_places(MANY, [], place(A, ready=NOW + S, limit=MANY)), asks(1, limit=MANY, prefetch=20)),
        (with_places(MANY, [], place(A, limit=MANY)), asks(1, limit=MANY, prefetch=20)),
        (new_state(replace(MANY, spacing_us=1)), asks(1, limit=replace(MANY, spacing_us=1), prefetch=20)),
        (new_state(MANY, (NOW, 1)), asks(limit=MANY, prefetch=20)),
    ],
    ids=["a small limit", "nearly full", "not now", "somebody waits", "somebody's turn", "spaced", "nobody asks"],
)
def test_nothing_is_prefetched_where_it_could_bind(state: LimitState, ask: BookingRequest) -> None:
    """Far from binding only, and only for calls that start now."""
    plan = planned(state, ask)
    assert sum(cost for _, _, cost in new_grants(plan, state)) == len(list(ask.callers))


def test_who_has_no_callers_books_nothing_under_a_smaller_limit_than_others_used() -> None:
    """Three hits now under a limit of 1: room of less than nothing takes no hit out."""
    small = quota(1, 1.0)
    state = new_state(quota(3, 1.0), (NOW, 3)).with_quota(small, HORIZON)
    assert planned(state, asks(limit=small, prefetch=9)).state.hits == state.hits


# The slot of one more call.


def test_the_next_slot_is_the_one_that_a_call_would_get() -> None:
    """Now where there is room, else where the window has room behind all that wait."""
    assert next_slot(new_state(TEN), TEN, 1, NOW) == NOW
    assert next_slot(new_state(TEN, (NOW, 10)), TEN, 3, NOW) == NOW + FULL
    waiting = with_places(TEN, [(NOW, 10)], *(place(10 + index, ready=NOW + FULL) for index in range(10)))
    assert next_slot(waiting, TEN, 1, NOW) == NOW + 2 * FULL
    assert next_slot(replace(new_state(TEN), hold_until=NOW + S), TEN, 1, NOW) == NOW + S


def test_the_next_slot_of_a_light_call_is_behind_a_heavy_one_that_waits() -> None:
    """Nine of ten are free, and kept for a call of ten: now would be a lie."""
    turn = NOW - S // 2 + FULL
    state = with_places(TEN, [(NOW - S // 2, 1)], place(A, cost=10, ready=turn))
    assert next_slot(state, TEN, 1, NOW) == turn + FULL


def test_the_next_slot_reckons_with_no_lapsed_place_and_with_none_under_other_terms() -> None:
    """Its owner is dead; or nobody waits for it."""
    lapsed = with_places(TEN, [(NOW, 1)], place(A, cost=10, ready=NOW - HORIZON - 1))
    assert next_slot(lapsed, TEN, 1, NOW) == NOW
    other = with_places(TEN, [(NOW, 1)], place(A, cost=10, limit=quota(20, 1.0)))
    assert next_slot(other, TEN, 1, NOW) == NOW


def test_the_next_slot_of_a_call_with_headroom_leaves_that_free() -> None:
    """A fifth of ten is free, and left so."""
    state = new_state(TEN, (NOW, 8))
    assert (next_slot(state, TEN, 1, NOW), next_slot(state, TEN, 1, NOW, 2000)) == (NOW, NOW + FULL)


# Size.


HUNDRED = quota(100, 1.0)
METERED = Quota((Rate(S, 100), Rate(S, 10_000, "tokens")), 0, HUNDRED.margin_us)


def tokens(hits: int) -> Hits:
    return cost_of({CALLS: 1, "tokens": hits})


def crowd(count: int, limit: Quota = HUNDRED, costs: Sequence[Hits] = (1,), headroom: int = 0) -> LimitState:
    """Return a full limit of 100 for which so many lines wait, each of them with credit."""
    turns = next_slots(new_state(HUNDRED, (NOW, 100)).hits, HUNDRED, NOW, count)
    waiting = [
        Place(1 << 60 | index, costs[index % len(costs)], turn, 1, 5 * MS, terms_of(limit), headroom=headroom)
        for index, turn in enumerate(turns)
    ]
    hits = HitLog().book([(NOW, limit.largest_cost)])
    return replace(new_state(limit), hits=hits, places=tuple(waiting))


CROWDS: dict[str, tuple[Quota, Sequence[Hits], int]] = {
    "equal": (HUNDRED, [1], 0),
    "costs": (HUNDRED, [7, 1, 2, 3, 5], 0),
    "headroom": (HUNDRED, [1, 2, 3, 5], 1000),
    "tokens": (METERED, [tokens(100), tokens(150), tokens(50), tokens(300)], 0),
    "as many costs as places": (METERED, [tokens(100 + index) for index in range(1000)], 0),
}


def fastest(name: str, count: int) -> float:
    """Return the CPU seconds of the fastest of some plans over a crowd, with its window about to come free."""
    limit, costs, headroom = CROWDS[name]
    state, best = crowd(count, limit, costs, headroom), 1e9
    ask = asks(Caller(costs[0]), Caller(costs[0]), limit=limit, now=NOW + FULL - HORIZON // 2)  # type: ignore[arg-type]
    for _ in range(7):
        began = time.process_time()
        for _ in range(3):
            planned(state, ask)
        best = min(best, time.process_time() - began)
    return best


@pytest.mark.parametrize("name", CROWDS)
def test_a_plan_over_a_thousand_places_takes_no_longer_than_in_proportion(name: str) -> None:
    """1,000 places in less than 20 times the time of 50, whatever they cost: planning never looks at all pairs."""
    assert fastest(name, 1000) < 20 * fastest(name, 50)


@pytest.mark.parametrize("name", ["costs", "tokens", "as many costs as places"])
def test_a_plan_over_different_costs_takes_a_few_times_that_over_equal_ones(name: str) -> None:
    """Where not even the smallest cost may go before the next turn, no place is looked at."""
    assert fastest(name, 1000) < 12 * fastest("equal", 1000)


def test_a_state_with_a_thousand_places_stays_small() -> None:
    """Under 20 kB."""
    plan = planned(crowd(1000), asks(1, limit=HUNDRED))
    assert len(plan.state.places) == 1001
    assert len(encode(plan.state)) < 20_000


@pytest.mark.parametrize("count", [PLANNED_AHEAD, PLANNED_AHEAD + 1, 60, 250])
def test_behind_many_places_the_turn_is_a_bound(count: int) -> None:
    """Not later than the slot that planning all of them would give, and that very slot where all cost one hit."""
    state = crowd(count)
    limit = quota(100, 1.0)
    plan = planned(state, asks(1, limit=limit))
    exact = earliest_slot_behind(state.hits, count, limit, limit.margin_us, NOW)
    assert plan.turn == next_slots(state.hits, limit, NOW, count + 1)[-1] == exact


def test_rates_of_any_order_of_size_are_planned() -> None:
    """A window of ms beside one of a year: a plan ends, and both are kept."""
    limit = Quota((Rate(MS, 2), Rate(365 * 86_400 * S, 30)), 0, MS)
    state = new_state(limit)
    for index in range(20):
        state = planned(state, asks(1, 1, 1, limit=limit, now=NOW + index * 30 * MS)).state
    check_kept(each_hit(state.hits.entries()), limit, limit.margin_us)
    assert state.hits.total == 30

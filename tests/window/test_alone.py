"""A call that comes alone is booked in one step, and as the plan would book it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.internals.core import CALLS, Hits, Quota, Rate, cost_of
from tests.support.internals.window import (
    BookingRequest,
    Grant,
    LimitState,
    Place,
    ReportedRates,
    alone,
    booked_alone,
    planned,
)
from tests.window.drawing import HORIZON, MS, NOW, Caller, S, new_state, quotas, sequences

ME, OTHER = 1, 7
TOKENS = "tokens"


@st.composite
def arrivals(draw: st.DrawFn) -> tuple[LimitState, Quota, Hits, int]:
    """Draw a state, a quota, a cost, and how many hits its line could prefetch."""
    limit = draw(quotas(draw(st.sampled_from([10 * MS, 100 * MS])), most=300))
    costs: list[Hits] = [1, min(2, limit.most("calls")), limit.most("calls")]
    if draw(st.booleans()):
        limit = Quota((*limit.rates, Rate(5 * S, 500, TOKENS)), limit.spacing_us, limit.margin_us)
        costs = [cost_of({CALLS: calls, TOKENS: 20 * calls + 1}) for calls in (0, 1, min(2, limit.most("calls")))]
    if draw(st.integers(0, 3)):
        limit = replace(limit, spacing_us=0)
    state, at = LimitState(1).with_quota(limit, HORIZON), NOW - draw(st.sampled_from([0, 1, 100, 3000])) * MS
    for gap, cost, is_named in draw(
        sequences(st.tuples(st.integers(0, 60), st.sampled_from(costs), st.booleans()), 12)
    ):
        at += gap * MS
        grant = Grant(state.serial + 1, OTHER, at, cost)
        named = (*state.grants, grant) if is_named else state.grants
        state = replace(state, hits=state.hits.book([(at, cost)]), grants=named, serial=grant.serial)
    state = replace(state, hold_until=draw(st.sampled_from([0, 0, 0, NOW - 1, NOW, NOW + 1])))
    if not draw(st.integers(0, 5)):
        state = replace(state, places=(Place(OTHER, 1, NOW, 1, 0, (limit.rates, limit.spacing_us)),))
    if not draw(st.integers(0, 5)):
        state = replace(state, reported=ReportedRates(((limit.rates[0].period_us, Rate(S, 300), NOW + S),)))
    return state, limit, draw(st.sampled_from(costs)), draw(st.sampled_from([0, 0, 5, 2000]))


def plan_and_step(state: LimitState, limit: Quota, cost: Hits, prefetch: int) -> tuple[bool, LimitState | None]:
    """Return whether the plan starts the call now and has room for another, and what one step books."""
    booked = booked_alone(state, ME, limit, cost, NOW, lambda: prefetch)
    plan = planned(state, BookingRequest(ME, limit, [Caller(cost)], NOW, waiting=1, prefetch=prefetch))  # type: ignore[arg-type]
    starts = len(plan.own_slots) == 1 and plan.state.grants[-1].slot == NOW and not plan.is_bound
    if booked is not None:
        assert booked == replace(plan.state, written_at=NOW)
        assert plan.turn is None
        assert starts
    return starts and not (state.places or state.reported.rates or limit.spacing_us), booked


@settings(deadline=None, max_examples=500)
@given(arrivals())
def test_what_is_booked_in_one_step_is_what_the_plan_books(arrival: tuple[LimitState, Quota, Hits, int]) -> None:
    """The same state; and whatever the plan starts at once, beside no place, is booked in one step."""
    starts, booked = plan_and_step(*arrival)
    assert starts == (booked is not None)


@pytest.mark.parametrize(
    "state",
    [
        pytest.param(new_state(Quota((Rate(S, 2),), 0, MS), (NOW, 1)), id="no room behind it"),
        pytest.param(new_state(Quota((Rate(S, 2),), 0, MS), (NOW, 2)), id="no room for it"),
        pytest.param(new_state(Quota((Rate(S, 2),), 0, MS), (NOW + 1, 1)), id="a later hit"),
        pytest.param(replace(new_state(Quota((Rate(S, 2),), 0, MS)), hold_until=NOW + 1), id="a hold"),
    ],
)
def test_a_call_that_is_not_alone_is_left_to_the_plan(state: LimitState) -> None:
    assert booked_alone(state, ME, Quota((Rate(S, 2),), 0, MS), 1, NOW) is None


def test_one_hit_more_than_there_is_room_for_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: the room for the call behind is not looked at. Then the limit binds, and nobody takes note."""
    monkeypatch.setattr(alone, "earliest_slot", lambda *of: NOW)
    full = new_state(Quota((Rate(S, 2),), 0, MS), (NOW, 1))
    with pytest.raises(AssertionError):
        plan_and_step(full, Quota((Rate(S, 2),), 0, MS), 1, 0)

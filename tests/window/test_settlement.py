"""Settlements, as properties: in any window of any unit, what started is within the limit, as settled by then."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.internals.core import (
    CALLS,
    SECOND,
    Cost,
    Hits,
    Quota,
    Rate,
    as_mapping,
    cost_of,
    fits,
    hits_in,
    is_smaller,
    largest,
    merged,
    quota,
)
from tests.support.internals.window import (
    EXACT_ENTRIES,
    HitLog,
    LimitState,
    Settlement,
    decode,
    earliest_slot,
    encode,
    rebuild_after_loss,
    settled,
)

NOW = 1_790_000_000 * SECOND
MS = SECOND // 1000
RATES = [
    "5/second; 100 tokens/second",
    "100 tokens/second; 300 tokens/10 seconds",
    "4/second; 50 tokens/2 seconds; 9 points/s",
]
COSTS = st.builds(
    lambda calls, tokens, points: {CALLS: calls, "tokens": tokens, "points": points},
    st.integers(0, 3),
    st.integers(0, 60),
    st.integers(0, 9),
)


@dataclass
class Call:
    """A call that started: at its slot, with what it costs: what it reserved, or what it used once it is settled."""

    epoch: int
    slot: int
    cost: Hits
    is_settled: bool = False


class Limiter:
    """One process with one state; it may lose it."""

    def __init__(self, limit: Quota) -> None:
        self.limit, self.now = limit, NOW
        self.state = LimitState(1).with_quota(limit, 100 * MS)
        self.calls: list[Call] = []

    def book(self, costs: dict[str, int]) -> None:
        cost = cost_of({unit: min(costs[unit], self.limit.most(unit)) for unit in self.limit.units})
        slot = earliest_slot(self.state.hits, self.limit, self.limit.margin_us, cost, self.now)
        self.now = slot
        self.state = replace(
            self.state.forget(self.now), hits=self.state.hits.book([(slot, cost)]), written_at=self.now
        )
        self.calls.append(Call(self.state.epoch, slot, cost))

    def most_used(self, rate: Rate) -> int:
        """Return the hits in the window that ends with the newest call, as settled by now."""
        since = self.calls[-1].slot - rate.period_us
        return sum(hits_in(call.cost, rate.unit) for call in self.calls if call.slot > since)

    def settle(self, which: int, share: float) -> None:
        unsettled = [call for call in self.calls if not call.is_settled]
        if not unsettled:
            return
        call = unsettled[which % len(unsettled)]
        used = {unit: int(hits * share) for unit, hits in as_mapping(call.cost).items()}
        changes = tuple((unit, hits - hits_in(call.cost, unit)) for unit, hits in used.items())
        self.state = settled(self.state, Settlement(call.epoch, call.slot, changes), self.now)
        call.cost, call.is_settled = cost_of(used), True

    def lose(self) -> None:
        read_at = self.now
        self.now += 20 * MS
        self.state = rebuild_after_loss(self.state, read_at, self.now, self.state.epoch + 1)


STEPS = st.lists(
    st.tuples(st.just("book"), COSTS)
    | st.tuples(st.just("settle"), st.integers(0, 9), st.floats(0, 1))
    | st.tuples(st.just("pass"), st.integers(0, 3 * SECOND))
    | st.tuples(st.just("back"), st.integers(0, SECOND // 2))
    | st.tuples(st.just("lose")),
    max_size=40,
)


@settings(deadline=None, max_examples=300)
@given(st.sampled_from(RATES), STEPS)
def test_no_window_of_any_unit_is_over_as_settled_by_then(rate: str, steps: Sequence[tuple[object, ...]]) -> None:
    """Over any bookings, settlements, losses and steps of the clock."""
    limiter = Limiter(quota(rate))
    for name, *arguments in steps:
        if name == "pass":
            limiter.now += arguments[0]  # type: ignore[operator]
        elif name == "back":
            limiter.now -= arguments[0]  # type: ignore[operator]
        else:
            getattr(limiter, str(name))(*arguments)
        if name == "book":
            assert all(limiter.most_used(rate_of) <= rate_of.count for rate_of in limiter.limit.rates)


@settings(deadline=None, max_examples=200)
@given(st.lists(st.tuples(st.integers(0, 300 * MS), COSTS, st.floats(0, 1)), min_size=1, max_size=12), COSTS)
def test_settled_and_never_reserved_are_equal_for_later_callers(
    calls: Sequence[tuple[int, dict[str, int], float]], next_costs: dict[str, int]
) -> None:
    """The slot of the next call is that of a log in which the calls had reserved what they used."""
    limit = quota("5/second; 100 tokens/second; 20 points/second")
    reserved, exact, now, made = HitLog(), HitLog(), NOW, list[tuple[int, dict[str, int], dict[str, int]]]()
    for gap, costs, share in calls:
        now = earliest_slot(reserved, limit, limit.margin_us, cost_of(costs), now + gap)
        reserved = reserved.book([(now, cost_of(costs))])
        made.append((now, costs, {unit: int(hits * share) for unit, hits in costs.items()}))
    state = replace(LimitState(1).with_quota(limit, 0), hits=reserved)
    for at, costs, used in made:
        changes = tuple((unit, used[unit] - costs[unit]) for unit in costs)
        state = settled(state, Settlement(1, at, changes), now)
        exact = exact.book([(at, cost_of(used))])
    cost = cost_of(next_costs)
    assert earliest_slot(state.hits, limit, limit.margin_us, cost, now) == earliest_slot(
        exact, limit, limit.margin_us, cost, now
    )


def test_settling_after_thinning_never_admits_earlier_than_without() -> None:
    """Thinning moves hits later: what goes back leaves the entry that holds them, not one before it."""
    limit = quota("2000/second; 100000 tokens/second")
    hits, slots = HitLog(), [NOW + index * 400 for index in range(EXACT_ENTRIES + 200)]
    for slot in slots:
        hits = hits.book([(slot, Cost(1, (("tokens", 50),)))])
    state = replace(LimitState(1).with_quota(limit, 0), hits=hits)
    now = slots[-1] + 200 * MS
    thin = state.forget(now)
    assert len(thin.hits.of("tokens").times) < len(hits.of("tokens").times)
    for slot in slots[100:600]:
        settlement = Settlement(1, slot, (("tokens", -40),))
        state, thin = settled(state, settlement, now), settled(thin, settlement, now)
    for tokens in (1, 30_000, 60_000, 90_000):
        cost = Cost(1, (("tokens", tokens),))
        assert earliest_slot(thin.hits, limit, 0, cost, now) >= earliest_slot(state.hits, limit, 0, cost, now)
    assert thin.hits.of("tokens").total == state.hits.of("tokens").total


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("epoch", [1, 2])
def test_a_settlement_of_another_epoch_changes_nothing(epoch: int, late: bool) -> None:
    """Nor one of hits that do not matter any more."""
    limit = quota("1000 tokens/second")
    state = replace(LimitState(1).with_quota(limit, 0), hits=HitLog().book([(NOW, Cost(0, (("tokens", 9),)))]))
    after = settled(state, Settlement(epoch, NOW, (("tokens", -9),)), NOW + (3 * SECOND if late else 0))
    assert (after is state) == (epoch == 2 or late)
    assert after.hits.of("tokens").total == (9 if epoch == 2 or late else 0)
    assert decode(encode(after)) == after


def test_more_than_was_reserved_counts_at_the_slot() -> None:
    """Later calls reckon with it; it may be over, which no client can help."""
    limit = quota("100 tokens/second")
    state = replace(LimitState(1).with_quota(limit, 0), hits=HitLog().book([(NOW, Cost(0, (("tokens", 60),)))]))
    state = settled(state, Settlement(1, NOW, (("tokens", 90),)), NOW + 10 * MS)
    assert state.hits.of("tokens").entries() == [(NOW, 150)]
    cost = Cost(0, (("tokens", 1),))
    assert earliest_slot(state.hits, limit, 0, cost, NOW + 20 * MS) == NOW + SECOND


UNIT_COSTS = st.dictionaries(st.sampled_from([CALLS, "tokens", "points"]), st.integers(0, 9)).map(cost_of)


@given(UNIT_COSTS, UNIT_COSTS, UNIT_COSTS)
def test_costs_add_subtract_and_compare_unit_by_unit(one: Hits, two: Hits, three: Hits) -> None:
    """A cost without other units is an int, so that most limits pay for none."""
    assert one + two == two + one
    assert (one + two) - two == one
    assert one + (two + three) == (one + two) + three
    assert isinstance(one, Cost) == any(hits_in(one, unit) for unit in ("tokens", "points"))
    assert fits(one, one + two)
    assert fits(one, largest([one, two]))
    assert is_smaller(one, two) == (fits(one, two) and one != two)


def test_the_first_cost_that_names_a_unit_counts() -> None:
    """A call's own comes before its rule's, and that before its meter's."""
    assert merged({"tokens": 5}, 3, {"tokens": 9, "points": 1}) == {"tokens": 5, "calls": 3, "points": 1}
    assert merged(None, None) == {}

"""What the tests of the window share: quotas and sequences as hypothesis draws them, and the obvious way to check.

Small numbers first: a failure then reads well. One sequence is run at several scales, from microseconds to months, and
from several first instants.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeVar

from hypothesis import strategies as st

from tests.support.checks import spans_broken, worst_window
from tests.support.internals.core import MAX_MARGIN, Quota, Rate
from tests.support.internals.window import HitLog, LimitState, earliest_slot

T = TypeVar("T")

MS, S = 1000, 1_000_000
MINUTE, HOUR, DAY, YEAR = 60 * S, 3600 * S, 86_400 * S, 31_536_000 * S
NOW = 1_790_000_000 * S
YEAR_2200 = 7_258_118_400 * S
HORIZON = S // 10

SCALES = [1, 1000, S, 1000 * S]
STARTS = st.sampled_from([0, NOW, YEAR_2200])
JUMPS = st.integers(-40, 40) | st.sampled_from([0, 0, 0, 1, -1000, 300])


def sequences(items: st.SearchStrategy[T], most: int) -> st.SearchStrategy[list[T]]:
    """Lists of any length up to ``most`` alike; a plain list is mostly too short to break a rule."""
    return st.integers(0, most).flatmap(lambda size: st.lists(items, min_size=size, max_size=size))


STEPS = sequences(st.tuples(JUMPS, st.integers(1, 5)), 30)


@st.composite
def quotas(draw: st.DrawFn, scale: int = 1, most: int = 5) -> Quota:
    windows = draw(st.lists(st.tuples(st.integers(1, 30), st.integers(1, most)), min_size=1, max_size=3))
    spacing, margin = draw(st.integers(0, 6)), draw(st.integers(1, 6))
    rates = tuple(sorted({Rate(period * scale, count) for period, count in windows}))
    return Quota(rates, spacing * scale, min(margin * scale, MAX_MARGIN))


@st.composite
def scaled_quotas(draw: st.DrawFn, least: int = 1) -> tuple[int, Quota]:
    scale = draw(st.sampled_from([scale for scale in SCALES if scale >= least]))
    return scale, draw(quotas(scale))


class Caller(NamedTuple):
    """A caller that wants ``cost`` hits by ``deadline``."""

    cost: int = 1
    deadline: int | None = None


def legal(hits: Sequence[int], limit: Quota, margin: int, at: int, cost: int) -> bool:
    """Whether ``cost`` hits more at ``at``, which no hit follows, keep every window: the obvious way."""
    return all(
        sum(1 for hit in hits if at - rate.period_us - margin < hit) + cost <= rate.count for rate in limit.rates
    )


def check_kept(hits: list[int], limit: Quota, margin: int = 0) -> None:
    for rate in limit.rates:
        assert spans_broken(hits, rate.count, rate.period_us + margin) == []
        assert worst_window(hits, rate.period_us + margin) <= rate.count


def hit_log(*hits: tuple[int, int]) -> HitLog:
    """Return a log with (time, hits) booked in this order."""
    return HitLog().book(hits)


def new_state(limit: Quota, *hits: tuple[int, int], horizon: int = HORIZON) -> LimitState:
    """Return a state with (time, hits) booked, that one user of the limit shares."""
    return LimitState(1, hits=hit_log(*hits)).with_quota(limit, horizon)


def slot_of(state: LimitState, limit: Quota, cost: int, now: int) -> int:
    """Return the slot of the next call, by all that the state says."""
    return earliest_slot(state.hits, limit, state.margin(limit, now), cost, max(now, state.hold_until))


def next_slots(hits: HitLog, limit: Quota, now: int, count: int, margin: int | None = None) -> list[int]:
    """Return the next ``count`` slots of a caller that books as soon as it can."""
    slots = []
    for _ in range(count):
        now = earliest_slot(hits, limit, limit.margin_us if margin is None else margin, 1, now)
        hits = hits.book([(now, 1)])
        slots.append(now)
    return slots

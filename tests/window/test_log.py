"""The hit log: never over, all of it, and nothing that is done to a log admits more.

Every claim of "never over" is checked on the plain list of what was booked, by checks.py, which
knows nothing of logs; every slot against a reference that looks at all hits ever, one by one.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nekkar.core.errors import ConfigurationError
from tests.support.checks import each_hit, spans_broken, worst_window
from tests.support.internals import (
    EXACT_ENTRIES,
    GRID,
    LONG_PERIOD_US,
    MAX_MARGIN,
    MAX_WINDOWS,
    HitLog,
    Quota,
    Rate,
    column,
    decode,
    encode,
    quota,
)

T = TypeVar("T")

S = 1_000_000
MINUTE, HOUR, DAY, YEAR = 60 * S, 3600 * S, 86_400 * S, 31_536_000 * S
NOW = 1_790_000_000 * S
YEAR_2200 = 7_258_118_400 * S
HORIZON = S // 10

# Quotas and sequences, as hypothesis draws them. Small numbers first: a failure then reads well. One
# sequence is run at several scales, from microseconds to months, and from several first instants.

SCALES = [1, 1000, S, 1000 * S]
STARTS = st.sampled_from([0, NOW, YEAR_2200])
JUMPS = st.integers(-40, 40) | st.sampled_from([0, 0, 0, 1, -1000, 300])


def sequences(items: st.SearchStrategy[T], most: int) -> st.SearchStrategy[list[T]]:
    """Lists of any length up to ``most`` alike; a plain list is mostly too short to break a rule."""
    return st.integers(0, most).flatmap(lambda size: st.lists(items, min_size=size, max_size=size))


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


def legal(hits: Sequence[int], limit: Quota, margin: int, at: int, cost: int) -> bool:
    """Whether ``cost`` hits more at ``at``, which no hit follows, keep every window: the obvious way."""
    return all(
        sum(1 for hit in hits if at - rate.period_us - margin < hit) + cost <= rate.count for rate in limit.rates
    )


def check_kept(hits: list[int], limit: Quota, margin: int = 0) -> None:
    for rate in limit.rates:
        assert spans_broken(hits, rate.count, rate.period_us + margin) == []
        assert worst_window(hits, rate.period_us + margin) <= rate.count


def new_log(limit: Quota, *hits: tuple[int, int]) -> HitLog:
    log = HitLog(1).joined(limit, HORIZON)
    for at, cost in hits:
        log = log.book(at, cost)
    return log


def booked_evenly(limit: Quota, count: int, step: int, start: int = NOW) -> HitLog:
    return new_log(limit, *((start + index * step, 1) for index in range(count)))


def next_slots(log: HitLog, limit: Quota, now: int, count: int) -> list[int]:
    """Return the next ``count`` slots of a caller that books as soon as it can."""
    slots = []
    for _ in range(count):
        now = log.earliest(limit, 1, now)
        log = log.book(now, 1)
        slots.append(now)
    return slots


# The checkers check.


def test_the_checkers_find_a_planted_violation() -> None:
    """One hit a microsecond too early is found, by both, and a hit in time is not."""
    kept, broken = [0, 10, 100, 110, 200], [0, 10, 100, 109, 200]
    assert (worst_window(kept, 100), spans_broken(kept, 2, 100)) == (2, [])
    assert (worst_window(broken, 100), spans_broken(broken, 2, 100)) == (3, [(10, 109)])
    assert spans_broken(each_hit([(5, 2), (0, 1)]), 2, 6) == [(0, 5)]
    assert worst_window([], 100) == 0


@given(st.lists(st.integers(0, 60), max_size=12), st.integers(1, 20), st.integers(1, 6))
def test_the_checkers_agree_with_counting_every_window(times: list[int], period: int, count: int) -> None:
    """Both say what a count of each window's hits says."""
    worst = max((sum(start <= time < start + period for time in times) for start in range(-20, 61)), default=0)
    assert worst_window(times, period) == worst
    assert bool(spans_broken(times, count, period)) == (worst > count)


def test_a_fault_planted_in_the_log_is_found() -> None:
    """Were a slot given a microsecond too early, the check of the booked hits would say so."""
    limit, now, hits = quota(3, 1), NOW, list[tuple[int, int]]()
    log = new_log(limit)
    for _ in range(9):
        now = max(now, log.earliest(limit, 1, now) - (1 if len(hits) == 6 else 0))
        log = log.book(now, 1)
        hits.append((now, 1))
    with pytest.raises(AssertionError):
        check_kept(each_hit(hits), limit, limit.margin_us)


# Booking.

STEPS = sequences(st.tuples(JUMPS, st.integers(1, 5)), 30)


@settings(deadline=None, max_examples=300)
@given(scaled_quotas(), STARTS, STEPS, st.integers(0, 8), st.integers(-5, 50))
def test_each_slot_is_the_earliest_legal_one_and_no_window_is_ever_over(
    scaled: tuple[int, Quota], start: int, steps: list[tuple[int, int]], others_margin: int, hold: int
) -> None:
    """Whatever the costs, windows, spacing, hold and jumps of the clock: N + 1 hits span P + margin or more."""
    scale, limit = scaled
    margin = max(limit.margin_us, others_margin * scale)
    held = max(0, start + hold * scale)
    log = replace(new_log(limit), margin_us=margin, hold_until=held)
    now, hits, slots = start, list[int](), list[int]()
    for jump, wanted in steps:
        now, cost = max(0, now + jump * scale), min(wanted, limit.max_cost)
        at = log.earliest(limit, cost, now)
        soonest = max(now, held, hits[-1] + limit.spacing_us if hits else 0)
        assert legal(hits, limit, margin, at, cost)
        assert at == soonest or (at > soonest and not legal(hits, limit, margin, at - 1, cost))
        log = log.book(at, cost)
        hits += [at] * cost
        slots.append(at)
    check_kept(hits, limit, margin)
    assert all(later - sooner >= limit.spacing_us for sooner, later in pairwise(slots))
    assert each_hit(log.hits()) == hits
    assert log.total == len(hits)
    assert log.last == (hits[-1] if hits else None)
    assert [log.time_of(number) for number in range(-1, len(hits) + 1)] == [None, None, *hits]


@pytest.mark.parametrize("start", [0, NOW, YEAR_2200])
@pytest.mark.parametrize("rate", ["1/s", "100/minute", "5000/hour", "7/year", "1000000000/100 years"])
def test_a_burst_fits_at_once_and_the_next_call_waits_a_period_and_the_margin(rate: str, start: int) -> None:
    """N calls start at the first instant; call N + 1 is refused a microsecond before P + margin, and no later."""
    limit = quota(rate)
    (window,) = limit.rates
    log = new_log(limit)
    for cost in [1] * min(100, window.count - 1) + [max(0, window.count - 1 - 100)] + [1]:
        if cost:
            assert log.earliest(limit, cost, start) == start
            log = log.book(start, cost)
    assert log.total == window.count
    free = start + window.period_us + limit.margin_us
    assert log.earliest(limit, 1, start) == free
    assert log.earliest(limit, 1, free - 1) == free
    assert log.earliest(limit, window.count, free) == free
    assert log.earliest(limit, 1, free + 5) == free + 5


def test_windows_hold_together() -> None:
    """On '3/second; 6/minute', row by row as one sequence: a call of that cost, then, gets that slot."""
    limit, log = quota("3/second; 6/minute"), HitLog(1)
    for now, cost, slot in [
        (0, 1, 0),
        (0, 2, 0),  # the second is full
        (0, 1, 1_050_000),
        (1_060_000, 2, 1_060_000),  # the second is full, and the minute too
        (1_060_000, 1, 60_050_000),  # the minute's first three are free
        (60_050_000, 2, 60_050_000),
        (60_050_000, 1, 61_100_000),  # the minute's fourth is free, and just so the second
        (0, 1, 61_110_000),  # the clock steps back, the slots don't; the minute's fifth
        (70_000_000, 2, 120_100_000),  # the minute's sixth was free long since: the seventh and eighth count
    ]:
        assert log.earliest(limit, cost, now) == slot, (now, cost)
        log = log.book(slot, cost)


def test_spacing_keeps_slots_apart_whatever_the_cost() -> None:
    """With spacing, each slot is that much after the last, in a window with room to spare."""
    limit = quota(100, spacing=0.25)
    log = new_log(limit, (NOW, 7))
    assert log.earliest(limit, 1, NOW) == NOW + 250_000
    assert log.earliest(limit, 90, NOW + 249_999) == NOW + 250_000
    assert log.earliest(limit, 1, NOW + 250_001) == NOW + 250_001


def test_a_hold_lets_nobody_before_its_end() -> None:
    """No slot before ``hold_until``, and the first exactly then."""
    limit = quota(100)
    log = replace(new_log(limit), hold_until=NOW + 5)
    assert [log.earliest(limit, 1, NOW + now) for now in (0, 4, 5, 6)] == [NOW + 5, NOW + 5, NOW + 5, NOW + 6]


def test_the_largest_margin_in_the_log_counts() -> None:
    """A caller with a small margin keeps the larger one of those it shares with."""
    small, large = quota(1, 60, margin=0.05), quota(1, 60, margin=2)
    log = new_log(large, (NOW, 1)).joined(small, HORIZON)
    assert log.earliest(small, 1, NOW) == NOW + 62 * S


def test_a_cost_that_no_window_can_hold_is_refused() -> None:
    """A cost over the smallest count names itself and the most that can be asked."""
    limit = quota("10/second; 5/minute")
    assert new_log(limit).earliest(limit, 5, NOW) == NOW
    with pytest.raises(ConfigurationError, match=r"cost 6 .* at most 5"):
        new_log(limit).earliest(limit, 6, NOW)


def test_different_limits_are_each_kept_against_the_shared_hits() -> None:
    """In a rolling deploy old and new limit count the same hits, and each keeps its own windows."""
    old, new = quota(4, 10), quota("2/s; 6/20 s")
    log, now, hits = HitLog(1).joined(old, HORIZON).joined(new, HORIZON), NOW, list[int]()
    for index in range(40):
        limit = (old, new)[index % 2]
        at = log.earliest(limit, 1, now)
        margin = max(old.margin_us, new.margin_us)
        assert legal(hits, limit, margin, at, 1)
        assert at == max([now, *hits[-1:]]) or not legal(hits, limit, margin, at - 1, 1)
        log, now = log.book(at, 1), now + S
        hits.append(at)


@pytest.mark.parametrize("zero", [2**32 - 3, 2**62 - 3, 2**62])
def test_totals_past_any_width_go_on_as_before(zero: int) -> None:
    """Hits are numbered on past 32 bits, and near 2**62, and slots stay exact."""
    limit = quota(3, 60)
    log = replace(new_log(limit), base=zero, zero=zero)
    assert next_slots(log, limit, NOW, 7) == next_slots(new_log(limit), limit, NOW, 7)
    log = log.book(NOW, 3)
    assert log.total == zero + 3
    assert [log.time_of(zero + number) for number in range(4)] == [None, NOW, NOW, NOW]
    assert decode(encode(log)) == log


def test_numbers_wider_than_four_bytes_are_kept() -> None:
    """Costs that sum to over 2**32 within one log are counted exactly."""
    limit = quota("1000000000/s; 1000000000/second")
    log = new_log(limit, *((NOW + index, 10**9) for index in range(10)))
    assert log.total == 10**10
    assert log.time_of(10**10 - 1) == NOW + 9
    assert log.time_of(10**9) == NOW
    assert decode(encode(log)) == log
    at_once = new_log(limit, (NOW - 1, 1), *[(NOW, 10**9)] * 10)
    assert at_once.hits() == [(NOW - 1, 1), (NOW, 10**10)]


@pytest.mark.parametrize("gap", [2**32 - 1, 2**32, 2**32 + 1, 2**40, 100 * YEAR])
def test_gaps_wider_than_four_bytes_are_kept(gap: int) -> None:
    """Hits any time apart, up to the longest period, keep their exact times."""
    limit = quota("3/100 years")
    log = new_log(limit, (NOW, 1), (NOW + gap, 1), (NOW + gap + 1, 1))
    assert log.hits() == [(NOW, 1), (NOW + gap, 1), (NOW + gap + 1, 1)]
    assert log.earliest(limit, 1, NOW) == max(NOW + gap + 1, NOW + 100 * YEAR + S)
    assert decode(encode(log)) == log


def test_a_log_is_never_changed_in_place() -> None:
    """Every method gives a new log; whoever holds the old one still holds what it read."""
    limit = quota("3/second; 1000/minute")
    log = booked_evenly(limit, EXACT_ENTRIES + 10, 1000)
    before = encode(log)
    log.book(log.last or 0, 1)
    log.book((log.last or 0) + 1, 1)
    log.unbook(NOW, 1)
    log.forget(NOW + 30 * S)
    log.thin(NOW + 30 * S)
    log.merge(log.thin(NOW + 30 * S))
    log.recovered(NOW, NOW + S, 2)
    log.joined(quota("7/hour"), HORIZON)
    assert encode(log) == before


# Bounds told in advance.


@settings(deadline=None, max_examples=300)
@given(
    scaled_quotas(),
    STARTS,
    STEPS,
    st.lists(st.integers(1, 5), max_size=12),
    st.integers(1, 5),
    JUMPS,
    st.integers(0, 9),
)
def test_nobody_behind_others_gets_a_slot_before_the_bound_told(
    scaled: tuple[int, Quota],
    start: int,
    steps: list[tuple[int, int]],
    ahead: list[int],
    wanted: int,
    jump: int,
    hold: int,
) -> None:
    """``no_slot_before`` is a lower bound of the slot had after those ahead were booked."""
    scale, limit = scaled
    log, now = replace(new_log(limit), hold_until=start + hold * scale if hold else 0), start
    for step, cost in steps:
        now = max(0, now + step * scale)
        cost = min(cost, limit.max_cost)
        log = log.book(log.earliest(limit, cost, now), cost)
    now = max(0, now + jump * scale)
    log = log.forget(now)
    ahead, wanted = [min(cost, limit.max_cost) for cost in ahead], min(wanted, limit.max_cost)
    bound = log.no_slot_before(limit, wanted, sum(ahead), len(ahead))
    for cost in ahead:
        log = log.book(log.earliest(limit, cost, now), cost)
    assert bound <= log.earliest(limit, wanted, now)


@pytest.mark.parametrize("start", [0, NOW])
@pytest.mark.parametrize("spacing", [0.0, 0.05])
def test_an_empty_log_promises_no_wait(start: int, spacing: float) -> None:
    """With no hit booked, the first in line is told of no wait, at whatever instant time begins."""
    limit = quota(10, spacing=spacing)
    assert new_log(limit).no_slot_before(limit, 1, 0, 0) <= start
    assert new_log(limit, (start, 1)).forget(start + HOUR).no_slot_before(limit, 1, 0, 0) <= start + HOUR


@pytest.mark.parametrize("ahead", [0, 1, 9, 10, 11, 25, 1000])
def test_the_bound_told_behind_a_burst_is_exact(ahead: int) -> None:
    """Behind a full window and a line of equal calls, the bound is the slot itself."""
    limit = quota(10, 60)
    log = new_log(limit, (NOW, 10))
    assert log.no_slot_before(limit, 1, ahead, ahead) == next_slots(log, limit, NOW, ahead + 1)[-1]


# What may be done to a log besides.


@dataclass
class World:
    """Callers of one limit and the log they share; whatever slot is not given up is started."""

    limit: Quota
    log: HitLog
    now: int
    soonest: int = 0
    started: list[tuple[int, int]] = field(default_factory=list)
    phantoms: int = 0
    seen: list[HitLog] = field(default_factory=list)

    def do(self, action: str, number: int, scale: int) -> None:
        getattr(self, action)(number, scale)
        assert list(self.log.times) == sorted(set(self.log.times))
        assert list(self.log.numbers) == sorted(set(self.log.numbers))
        assert all(count > 0 for _, count in self.log.hits())

    def wait(self, number: int, scale: int) -> None:
        self.now = max(self.soonest, self.now + (number - 4) * scale)

    def book(self, number: int, scale: int) -> None:
        cost = 1 + number % self.limit.max_cost
        at = self.log.earliest(self.limit, cost, self.now)
        assert at >= self.now
        self.log = self.log.book(at, cost)
        self.started.append((at, cost))

    def unbook(self, number: int, scale: int) -> None:
        if self.started:
            self.log = self.log.unbook(*self.started.pop(-1 - number % len(self.started)))

    def forget(self, number: int, scale: int) -> None:
        """Clocks may be a second apart when a log forgets; a later call has a clock no worse than that."""
        self.soonest = max(self.soonest, self.now - S)
        self.log = self.log.forget(self.now)

    def thin(self, number: int, scale: int) -> None:
        self.log = self.log.thin(self.now)

    def remember(self, number: int, scale: int) -> None:
        self.seen.append(self.log)

    def merge(self, number: int, scale: int) -> None:
        if self.seen:
            other = self.seen[number % len(self.seen)]
            self.log = self.log.merge(other) if number % 2 else other.merge(self.log)

    def fork(self, number: int, scale: int) -> None:
        """A copy goes its own way: its bookings are never started, and it is merged back."""
        fork = self.log
        for index in range(number % 4):
            fork = fork.book(fork.earliest(self.limit, 1, self.now + index * scale), 1)
        fork = fork.thin(self.now + number * scale) if number % 2 else fork
        self.log = self.log.merge(fork) if number % 3 else fork.merge(self.log)

    def join(self, number: int, scale: int) -> None:
        self.log = self.log.joined(
            Quota((Rate((number + 1) * scale, number + 1),), 0, min(number * scale, MAX_MARGIN)), number
        )

    def carry(self, number: int, scale: int) -> None:
        self.log = decode(encode(self.log))


ACTIONS = ["book", "book", "book", "book", "wait", "wait", "unbook", "forget", "thin"]
ACTIONS += ["remember", "merge", "fork", "join", "carry"]


@settings(deadline=None, max_examples=600)
@given(scaled_quotas(1000), STARTS, sequences(st.tuples(st.sampled_from(ACTIONS), st.integers(0, 40)), 50))
def test_no_mix_of_changes_admits_more(scaled: tuple[int, Quota], start: int, actions: list[tuple[str, int]]) -> None:
    """Unbooked, forgotten, thinned, merged, forked or carried as bytes: what was started never breaks a window."""
    scale, limit = scaled
    world = World(limit, new_log(limit), start)
    for action, number in actions:
        world.do(action, number, scale)
    check_kept(each_hit(world.started), limit, limit.margin_us)
    slots = sorted(at for at, _ in world.started)
    assert all(later - sooner >= limit.spacing_us for sooner, later in pairwise(slots))


def test_a_log_never_reset_takes_all_that_another_remembers() -> None:
    """Its hits at the very beginning of time too; one that was reset takes what came after alone."""
    limit = quota(3, 60)
    known = new_log(limit, (0, 1), (5, 1), (6, 1))
    assert new_log(limit).merge(known).hits() == [(0, 1), (5, 1), (6, 1)]
    assert replace(new_log(limit), reset_at=5).merge(known).hits() == [(6, 1)]


def test_an_unbooked_hit_makes_room_for_another() -> None:
    """After unbook the slots are as if the hit had never been, among others at its time too."""
    limit = quota(3, 60)
    log = new_log(limit, (NOW, 1), (NOW + 5, 2))
    assert log.unbook(NOW + 5, 2) == new_log(limit, (NOW, 1))
    assert log.unbook(NOW + 5, 1).hits() == [(NOW, 1), (NOW + 5, 1)]
    assert log.unbook(NOW, 1).hits() == [(NOW + 5, 2)]
    assert log.unbook(NOW, 1).earliest(limit, 1, NOW + 6) == NOW + 6
    assert log.unbook(NOW, 1).unbook(NOW + 5, 2).earliest(limit, 3, NOW) == NOW


@pytest.mark.parametrize(("at", "cost"), [(NOW, 2), (NOW + 1, 1), (NOW - 1, 1), (NOW + 5, 3)])
def test_hits_that_are_not_there_are_not_unbooked(at: int, cost: int) -> None:
    """Where there are fewer hits at the time than asked for, the log stays as it is."""
    log = new_log(quota(3, 60), (NOW, 1), (NOW + 5, 2))
    assert log.unbook(at, cost) == log


@settings(deadline=None, max_examples=300)
@given(scaled_quotas(), STARTS, STEPS, STEPS)
def test_forgetting_changes_no_later_decision(
    scaled: tuple[int, Quota], start: int, before: list[tuple[int, int]], after: list[tuple[int, int]]
) -> None:
    """A log that forgets at each step gives the slots of one that never does, from a second before on."""
    scale, limit = scaled
    log, now = new_log(limit), start
    for jump, wanted in before:
        cost = min(wanted, limit.max_cost)
        now += abs(jump) * scale
        log = log.book(log.earliest(limit, cost, now), cost)
    forgetful = log
    for jump, wanted in after:
        cost = min(wanted, limit.max_cost)
        now += abs(jump) * scale
        forgetful = forgetful.forget(now)
        for asked in (max(0, now - S), now):
            assert forgetful.earliest(limit, cost, asked) == log.earliest(limit, cost, asked)
        at = log.earliest(limit, cost, now)
        log, forgetful = log.book(at, cost), forgetful.book(at, cost)
    assert forgetful.total == log.total


def test_forgetting_drops_what_is_older_than_a_period_the_margin_and_a_second() -> None:
    """A hit is kept as long as it matters and a second more, and then it is gone."""
    limit = quota(3, 60)
    log = new_log(limit, (NOW, 1), (NOW + S, 2))
    kept = 60 * S + limit.margin_us + S
    assert log.forget(NOW + kept) == log
    assert log.forget(NOW + kept + 1).hits() == [(NOW + S, 2)]
    assert (log.forget(NOW + kept + 1).base, log.forget(NOW + kept + 1).total) == (1, 3)
    empty = log.forget(NOW + kept + S + 1)
    assert (empty.hits(), empty.base, empty.total, empty.last) == ([], 3, 3, None)
    assert empty.book(NOW + HOUR, 1).time_of(4) == NOW + HOUR


def test_a_log_with_only_a_spacing_to_keep_keeps_it() -> None:
    """A spacing longer than every period is no reason to forget the last hit early."""
    limit = quota("10/second", spacing=30)
    log = new_log(limit, (NOW, 1)).forget(NOW + 29 * S)
    assert log.earliest(limit, 1, NOW + 29 * S) == NOW + 30 * S


def test_a_log_outlives_all_that_it_keeps() -> None:
    """Until ``dies_at`` a hit or a hold may matter; a log is not missed after."""
    limit = quota(3, 60)
    log = new_log(limit, (NOW, 3))
    assert log.dies_at >= log.earliest(limit, 1, NOW)
    assert log.forget(log.dies_at).hits() == []
    assert replace(log, hold_until=NOW + DAY).dies_at > NOW + DAY


def test_joining_widens_what_is_kept_and_is_idempotent() -> None:
    """The log knows all windows in use, the largest margin, spacing and horizon; a known quota changes nothing."""
    one, two = quota("3/second", spacing=0.5, margin=2), quota("100/hour", spacing=0.1, margin=1)
    log = HitLog(1).joined(one, 2 * HORIZON).joined(two, HORIZON)
    assert log.windows == (Rate(S, 3), Rate(HOUR, 100))
    assert (log.margin_us, log.spacing_us, log.horizon_us) == (2 * S, S // 2, 2 * HORIZON)
    assert log.joined(one, 3 * HORIZON) == replace(log, horizon_us=3 * HORIZON)
    assert log.joined(one, HORIZON).joined(two, HORIZON) is log
    assert log.keep_us >= HOUR + 2 * S


def test_a_log_names_at_most_sixteen_windows_the_longest() -> None:
    """However many limits share a log, its header stays small, and the longest period is kept."""
    log = HitLog(1)
    for seconds in range(1, 40):
        log = log.joined(quota(5, seconds), HORIZON)
    assert log.windows == tuple(Rate(seconds * S, 5) for seconds in range(40 - MAX_WINDOWS, 40))
    assert log.merge(HitLog(1).joined(quota(5, 100), HORIZON)).windows[-1] == Rate(100 * S, 5)
    assert len(log.merge(HitLog(1).joined(quota(5, 100), HORIZON)).windows) == MAX_WINDOWS


def test_merging_takes_the_union_of_hits_and_the_larger_of_the_rest() -> None:
    """A merged log knows all hits of both, and is as strict as the stricter in all else."""
    limit, other = quota(9, 60, margin=1), quota(9, 30, margin=2, spacing=0.5)
    one = replace(new_log(limit, (NOW, 2), (NOW + 5, 1)), hold_until=NOW)
    two = replace(new_log(other, (NOW, 1), (NOW + 3, 4), (NOW + 9, 1)), hold_until=NOW + 7, epoch=2, horizon_us=S)
    merged = one.merge(two)
    assert merged.hits() == [(NOW, 2), (NOW + 3, 4), (NOW + 5, 1), (NOW + 9, 1)]
    assert (merged.epoch, merged.hold_until, merged.total) == (1, NOW + 7, 8)
    assert (merged.margin_us, merged.spacing_us, merged.horizon_us) == (2 * S, S // 2, S)
    assert merged.windows == (Rate(30 * S, 9), Rate(60 * S, 9))
    assert merged.merge(one).merge(two) == merged


def test_merging_forgets_what_either_forgot() -> None:
    """The merged log's numbers go on from the larger base, and what is left counts as before."""
    limit = quota(2, 60)
    log = new_log(limit, (NOW, 2), (NOW + 100 * S, 1))
    forgetful = log.forget(NOW + 100 * S)
    for merged in (forgetful.merge(log.unbook(NOW, 2)), log.unbook(NOW, 2).merge(forgetful)):
        assert (merged.base, merged.total, merged.hits()) == (2, 3, [(NOW + 100 * S, 1)])


# Thinning.


def check_thinned(log: HitLog, thinned: HitLog, now: int) -> None:
    """No hit earlier, none in the past moved as far as a cell, none in the future moved at all."""
    assert (thinned.total, thinned.base, thinned.last) == (log.total, log.base, log.last)
    for before, after in zip(each_hit(log.hits()), each_hit(thinned.hits()), strict=True):
        spans = [window.period_us + log.margin_us for window in log.windows]
        cell = next((span for span in spans if now - before <= span), log.keep_us) // GRID
        assert 0 <= after - before < max(1, cell)
        assert before == after or after < now


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(["9/100 s", "9/10 s; 9/1000 s", "9/s; 9/minute; 9/hour"]),
    st.lists(st.tuples(st.integers(0, 12), st.integers(1, 3)), min_size=1, max_size=60),
    st.sampled_from([1000, 10_000, S, 10 * S]),
    st.integers(-3, 20),
)
def test_thinning_moves_no_hit_earlier_and_none_by_a_cell(
    rate: str, steps: list[tuple[int, int]], unit: int, later: int
) -> None:
    """Each hit stays, or moves later by less than P/512, by number; nothing from now on is moved."""
    limit, at = quota(rate), NOW
    log = new_log(limit)
    for gap, cost in steps:
        at += gap * unit // 3
        log = log.book(at, cost)
    now = at + later * unit
    check_thinned(log, log.thin(now), now)
    assert log.thin(now).thin(now) == log.thin(now)


def test_a_log_is_exact_up_to_1024_entries_and_thinned_past_them() -> None:
    """Nothing is merged before the 1,025th entry, and then past hits are."""
    limit = quota(5000, 60)
    log = booked_evenly(limit, EXACT_ENTRIES, 1000)
    now = (log.last or 0) + 1
    assert log.forget(now) is log
    log = log.book(now, 1)
    thinned = log.forget(now + 1)
    assert len(log.times) == EXACT_ENTRIES + 1
    assert len(thinned.times) < 20
    check_thinned(log, thinned, now + 1)


def test_hits_to_come_are_not_thinned_for_nothing() -> None:
    """Thousands of processes that wait, each with a slot ahead: there is little to merge, and each swap would try."""
    limit = quota("10000/minute")
    log = booked_evenly(limit, 3000, 1000)
    assert log.forget(NOW + 1_400_000) is log
    assert len(log.forget(NOW + 1_600_000).times) < 1600


def test_a_thinned_log_never_admits_earlier() -> None:
    """Every slot of a thinned log is that of the exact one, or later by less than a cell."""
    limit = quota(3000, 60)
    log = booked_evenly(limit, 3000, 20_000)
    now = log.last or 0
    thinned = log.forget(now)
    assert len(thinned.times) <= GRID + 2
    for exact, later in zip(next_slots(log, limit, now, 3000), next_slots(thinned, limit, now, 3000), strict=True):
        assert 0 <= later - exact < 60 * S // GRID


LOADS: list[tuple[Quota, str, int, int, int]] = [
    # limit, arrivals, cost of each, hits in all, most entries
    (quota("10000/minute"), "even", 1, 100_000, EXACT_ENTRIES + 1),
    (quota("10000/minute"), "random", 1, 50_000, EXACT_ENTRIES + 1),
    (quota("100000/hour"), "random", 4, 400_000, EXACT_ENTRIES + 1),
    (quota("100000/day"), "random", 10, 500_000, EXACT_ENTRIES + 1),
    (quota("5000/second"), "even", 1, 30_000, EXACT_ENTRIES + 8),
    (quota("100000/second", spacing=0.0002), "even", 20, 200_000, EXACT_ENTRIES + 8),
    (quota(20_000, 0.1, spacing=0.00003), "even", 4, 40_000, EXACT_ENTRIES + 8),
    (quota("3000/second; 100000/minute"), "even", 4, 120_000, 2 * EXACT_ENTRIES),
    (quota("20000/minute; 400000/hour"), "random", 40, 1_200_000, 2 * EXACT_ENTRIES),
]


@pytest.mark.parametrize(
    ("limit", "arrivals", "cost", "hits", "most"), LOADS, ids=[f"{load[0]}, {load[1]}" for load in LOADS]
)
def test_a_busy_log_stays_small_and_loses_at_most_one_percent(
    limit: Quota, arrivals: str, cost: int, hits: int, most: int
) -> None:
    """Under load, over many periods and hits, the entries stay bounded and 99 % of N per P + margin is used."""
    rng = random.Random(1)
    log, now, largest, booked = new_log(limit), NOW, 0, list[tuple[int, int]]()
    pace = max(rate.period_us * cost // rate.count for rate in limit.rates)
    for _ in range(hits // cost):
        at = log.earliest(limit, cost, now)
        log = log.book(at, cost)
        booked.append((at, cost))
        largest = max(largest, len(log.times))
        log = log.forget(at)
        now = now + (pace if arrivals == "even" else int(rng.expovariate(1) * pace * 0.98))
        now = max(now, at - limit.rates[-1].period_us // 10)  # a line of callers, but no endless one
    assert largest <= most
    assert len(encode(log)) <= 98 + 16 * len(limit.rates) + 12 * most
    times = each_hit(booked)
    check_kept(times, limit, limit.margin_us)
    tightest = max(limit.rates, key=lambda rate: (rate.period_us + limit.margin_us) / rate.count)
    ideal = (hits - tightest.count) * (tightest.period_us + limit.margin_us) / tightest.count
    waited = times[-1] - times[tightest.count]
    assert waited <= ideal * 1.01


# Loss.

FLEET = ["book", "book", "book", "book late", "wait", "wait", "move", "look", "loss", "loss"]


@settings(deadline=None, max_examples=600)
@given(
    st.lists(st.tuples(st.integers(1, 30), st.integers(1, 5)), min_size=1, max_size=3),
    sequences(st.tuples(st.sampled_from(FLEET), st.integers(0, 40)), 40),
    st.sampled_from([HORIZON, 3 * S]),
    st.sampled_from([S, 7 * S, HORIZON]),
)
def test_after_any_loss_the_survivor_and_all_others_keep_every_window(
    windows: list[tuple[int, int]], actions: list[tuple[str, int]], horizon: int, scale: int
) -> None:
    """Others book, move and start as they like while the survivor does not look; then the log is lost."""
    rates = tuple(sorted({Rate(period * scale, count) for period, count in windows}))
    limit = Quota(rates, 0, 50_000)
    log, now = HitLog(1).joined(limit, horizon), NOW
    mirror, looked, slots = log, now, list[tuple[int, int]]()
    for action, number in actions:
        cost = 1 + number % limit.max_cost
        if action == "wait":
            now += number * scale // 8
        elif action == "look":
            mirror, looked = log, now
        elif action in ("book", "book late"):
            at = log.earliest(limit, cost, now + (horizon if action == "book late" else 0))
            log = log.book(at, cost)
            slots.append((at, cost))
        elif action == "move":
            movable = [slot for slot in slots if slot[0] >= now - horizon]
            if movable:
                slot = movable[number % len(movable)]
                slots.remove(slot)
                log = log.unbook(*slot)
        else:
            # Slots within the horizon may be started without another look; others find a new epoch.
            slots = [(at, cost) for at, cost in slots if at <= now + horizon]
            log = mirror.recovered(looked, now, log.epoch + 1)
            mirror, looked = log, now
    check_kept(each_hit(slots), limit, limit.margin_us)


@dataclass(frozen=True)
class Loss:
    """A survivor's last look, and what it finds missing when it looks again."""

    limit: Quota
    mirror: HitLog
    looked: int
    now: int

    def others(self, *instants: int) -> list[tuple[int, int]]:
        """Return all hits if the others moved what they could, and took all that was free at these instants."""
        log = self.mirror
        for at, cost in self.mirror.hits():
            if at >= self.looked - HORIZON:
                log = log.unbook(at, cost)
        for instant in instants:
            while log.earliest(self.limit, 1, instant) == instant:
                log = log.book(instant, 1)
        return log.hits()

    def survivors(self, count: int) -> list[tuple[int, int]]:
        recovered = self.mirror.recovered(self.looked, self.now, 2)
        return [(at, 1) for at in next_slots(recovered, self.limit, self.now, count)]


UNSEEN = [0, 1, HORIZON, S, 29 * S, 31 * S, 59 * S, 60 * S, 61 * S, 90 * S, 600 * S]


@pytest.mark.parametrize("rate", ["1/minute", "100/minute", "20/second; 100/minute", "7/10 minutes"])
@pytest.mark.parametrize("used", [0, 1, 5])
@pytest.mark.parametrize("age", [0, HORIZON, HORIZON + 1, 2 * HORIZON, 5 * S])
def test_the_survivor_counts_all_that_others_could_have_taken(rate: str, used: int, age: int) -> None:
    """Others took all that was free, at the last instant, or the first, or in parts: no window is over."""
    limit = quota(rate)
    log = new_log(limit, *[(NOW, min(used, limit.max_cost))] if used else [])
    looked = NOW + age
    for unseen in UNSEEN:
        loss = Loss(limit, log, looked, looked + unseen)
        last = loss.now + HORIZON
        survivors = loss.survivors(250)
        for instants in [(last,), (loss.now,), (looked,), (looked, last), (looked, looked + unseen // 2, last)]:
            check_kept(each_hit(loss.others(*instants) + survivors), limit, limit.margin_us)


def test_calls_unseen_late_in_the_window_are_not_counted_as_early_ones() -> None:
    """99 calls of 100 at 29 s of the minute, unseen: after a loss at 60 s no window holds 198."""
    limit = quota(100, 60)
    loss = Loss(limit, new_log(limit, (NOW, 1)), NOW + S, NOW + 60 * S)
    taken = [(NOW + 29 * S, 1)] * 99
    times = each_hit(loss.mirror.hits() + taken + loss.survivors(300))
    check_kept(times, limit, limit.margin_us)


def test_hits_younger_than_two_horizons_at_the_look_are_not_certain() -> None:
    """A hit seen just before its caller moved it later is counted late, not where it was seen."""
    limit = quota(2, 60)
    looked = NOW + 2 * HORIZON - 1
    recovered = new_log(limit, (NOW, 1)).recovered(looked, looked + S, 2)
    assert recovered.hits() == [(looked + S + HORIZON, 2)]
    kept = new_log(limit, (NOW, 1)).recovered(looked + 1, looked + 1 + S, 2)
    assert kept.hits() == [(NOW, 1), (looked + 1 + S + HORIZON, 1)]


@pytest.mark.parametrize("used", [0, 1, 50, 100])
def test_a_loss_costs_at_most_a_period(used: int) -> None:
    """Whatever was assumed, a period and the margin after the block all of the limit is there again."""
    limit = quota(100, 60)
    log = new_log(limit, *[(NOW, used)] if used else [])
    now = NOW + 10 * S
    recovered = log.recovered(NOW + S, now, 2)
    assert recovered.epoch == 2
    free = now + HORIZON + 60 * S + limit.margin_us
    assert recovered.earliest(limit, 100, now) <= free


def test_a_lost_log_of_an_idle_long_window_blocks_no_more_than_was_seen() -> None:
    """In a window over ten minutes the block is at most twice the most hits of a span as long as unseen."""
    limit = quota("5000/hour")
    assert limit.rates[0].period_us > LONG_PERIOD_US
    log = new_log(limit, *((NOW + index * S, 1) for index in range(100)))
    looked = NOW + 99 * S
    recovered = log.recovered(looked, looked + 10 * S, 2)
    certain = [hit for hit in log.hits() if hit[0] <= looked - 2 * HORIZON]
    assert recovered.hits() == [*certain, (looked + 10 * S + HORIZON, 22)]
    assert recovered.earliest(limit, 1, looked + 10 * S) == looked + 10 * S + HORIZON


def test_after_a_second_loss_assumed_hits_take_no_room() -> None:
    """Whoever did not know them may have called instead; hits booked since are certain."""
    limit = quota(10, 60)
    once = new_log(limit, (NOW, 4)).recovered(NOW + S, NOW + 2 * S, 2)
    assert once.hits() == [(NOW, 4), (NOW + 2 * S + HORIZON, 6)]
    assert once.unsure_until == NOW + 2 * S + HORIZON
    again = once.book(NOW + 3 * S, 1).recovered(NOW + 4 * S, NOW + 5 * S, 3)
    assert again.hits() == [*once.hits(), (NOW + 3 * S, 1), (NOW + 5 * S + HORIZON, 9)]


def test_hits_of_an_epoch_that_ended_take_no_room_after_the_next_loss() -> None:
    """Some were void: a merge can't tell which."""
    limit = quota(10, 60)
    merged = new_log(limit, (NOW, 4)).merge(new_log(limit, (NOW + S, 3)))
    assert merged.unsure_until == NOW + S
    recovered = merged.book(NOW + 2 * S, 1).recovered(NOW + 3 * S, NOW + 4 * S, 3)
    assert recovered.hits()[-1] == (NOW + 4 * S + HORIZON, 9)


def test_in_a_long_window_losses_do_not_add_up() -> None:
    """There assumed hits do take room, and one loss after another assumes no more each time."""
    limit = quota("5000/hour")
    log = new_log(limit, (NOW, 10))
    for loss in range(1, 31):
        now = NOW + loss * 60 * S
        log = log.book(now - 10 * S, 1).recovered(now - 5 * S, now, loss + 1)
    assert log.total == 10 + 30 * (20 + 1)
    small = new_log(quota("100/hour"), (NOW, 60))
    for loss in range(1, 6):
        small = small.recovered(NOW + loss * 10 * S, NOW + loss * 10 * S + S, loss + 1)
    assert small.total == 100


def test_recovery_keeps_the_hold_and_the_windows() -> None:
    """A hold outlives a loss, and so do the windows, margin and spacing in use."""
    limit = quota("5/second; 10/minute", spacing=0.1)
    log = replace(new_log(limit, (NOW, 1)), hold_until=NOW + 30 * S)
    recovered = log.recovered(NOW + S, NOW + 2 * S, 2)
    assert recovered.hold_until == NOW + 30 * S
    assert (recovered.windows, recovered.margin_us, recovered.spacing_us) == (
        log.windows,
        log.margin_us,
        log.spacing_us,
    )


@pytest.mark.parametrize("horizon", [HORIZON, 0])
@pytest.mark.parametrize("back", [0, 1, HORIZON, S, 30 * S, DAY])
def test_recovery_stands_a_clock_that_stepped_back_since_the_look(back: int, horizon: int) -> None:
    """A loss met at an instant before the last look counts from the look: never early, never a crash."""
    limit = quota(3, 60)
    log = replace(new_log(limit, (NOW, 1)), horizon_us=horizon)
    looked = NOW + 10 * S
    taken = [(looked, 2)]
    slots = next_slots(log.recovered(looked, looked - back, 2), limit, looked - back, 9)
    check_kept(each_hit([(NOW, 1), *taken, *((at, 1) for at in slots)]), limit, limit.margin_us)


@given(st.lists(st.integers(0, 2**40), max_size=20))
def test_columns_are_as_narrow_as_their_largest_value(values: list[int]) -> None:
    """Four bytes where all fit, eight where they do not, the same values either way."""
    packed: Any = column(sorted(values))
    assert packed.tolist() == sorted(values)
    assert packed.itemsize == (8 if values and max(values) >= 2**32 else 4)

"""The hit log: never over, all of it, and nothing that is done to a log admits more.

Every claim of "never over" is checked on the plain list of what was booked, by checks.py, which knows nothing of logs;
every slot against a reference that looks at all hits ever, one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.checks import each_hit, spans_broken, worst_window
from tests.support.internals.core import Quota, quota
from tests.support.internals.window import HitLog, LimitState, Timeline, column, decode, earliest_slot, encode
from tests.window.drawing import (
    HOUR,
    NOW,
    STARTS,
    STEPS,
    YEAR,
    YEAR_2200,
    S,
    check_kept,
    hit_log,
    legal,
    next_slots,
    scaled_quotas,
    sequences,
)


def carried(hits: HitLog) -> HitLog:
    """Return a log as it comes out of a cache."""
    return decode(encode(LimitState(1, hits=hits))).hits


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
    log = HitLog()
    for _ in range(9):
        now = max(now, earliest_slot(log, limit, limit.margin_us, 1, now) - (1 if len(hits) == 6 else 0))
        log = log.book([(now, 1)])
        hits.append((now, 1))
    with pytest.raises(AssertionError):
        check_kept(each_hit(hits), limit, limit.margin_us)


# Booking.


@settings(deadline=None, max_examples=300)
@given(scaled_quotas(), STARTS, STEPS, st.integers(0, 8), st.integers(-5, 50))
def test_each_slot_is_the_earliest_legal_one_and_no_window_is_ever_over(
    scaled: tuple[int, Quota], start: int, steps: list[tuple[int, int]], others_margin: int, hold: int
) -> None:
    """Whatever the costs, windows, spacing, hold and jumps of the clock: N + 1 hits span P + margin or more."""
    scale, limit = scaled
    margin = max(limit.margin_us, others_margin * scale)
    held = max(0, start + hold * scale)
    log, now, hits, slots = HitLog(), start, list[int](), list[int]()
    for jump, wanted in steps:
        now, cost = max(0, now + jump * scale), min(wanted, limit.most("calls"))
        at = earliest_slot(log, limit, margin, cost, max(now, held))
        soonest = max(now, held, hits[-1] + limit.spacing_us if hits else 0)
        assert legal(hits, limit, margin, at, cost)
        assert at == soonest or (at > soonest and not legal(hits, limit, margin, at - 1, cost))
        log = log.book([(at, cost)])
        hits += [at] * cost
        slots.append(at)
    check_kept(hits, limit, margin)
    assert all(later - sooner >= limit.spacing_us for sooner, later in pairwise(slots))
    assert each_hit(log.entries()) == hits
    assert log.total == len(hits)
    assert log.last_at == (hits[-1] if hits else None)
    assert [log.time_of(number) for number in range(-1, len(hits) + 1)] == [None, None, *hits]


@pytest.mark.parametrize("start", [0, NOW, YEAR_2200])
@pytest.mark.parametrize("rate", ["1/s", "100/minute", "5000/hour", "7/year", "1000000000/100 years"])
def test_a_burst_fits_at_once_and_the_next_call_waits_a_period_and_the_margin(rate: str, start: int) -> None:
    """N calls start at the first instant; call N + 1 starts P + margin after it, and not a microsecond before."""
    limit = quota(rate)
    (window,) = limit.rates
    log, margin = HitLog(), limit.margin_us
    for cost in [1] * min(100, window.count - 1) + [max(0, window.count - 1 - 100)] + [1]:
        if cost:
            assert earliest_slot(log, limit, margin, cost, start) == start
            log = log.book([(start, cost)])
    assert log.total == window.count
    free = start + window.period_us + margin
    assert earliest_slot(log, limit, margin, 1, start) == free
    assert earliest_slot(log, limit, margin, 1, free - 1) == free
    assert earliest_slot(log, limit, margin, window.count, free) == free
    assert earliest_slot(log, limit, margin, 1, free + 5) == free + 5


def test_windows_hold_together() -> None:
    """On '3/second; 6/minute', row by row as one sequence: a call of that cost, then, gets that slot."""
    limit, log = quota("3/second; 6/minute"), HitLog()
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
        assert earliest_slot(log, limit, limit.margin_us, cost, now) == slot, (now, cost)
        log = log.book([(slot, cost)])


def test_spacing_keeps_slots_apart_whatever_the_cost() -> None:
    """With spacing, each slot is that much after the last, in a window with room to spare."""
    limit = quota(100, spacing=0.25)
    log = hit_log((NOW, 7))
    assert earliest_slot(log, limit, limit.margin_us, 1, NOW) == NOW + 250_000
    assert earliest_slot(log, limit, limit.margin_us, 90, NOW + 249_999) == NOW + 250_000
    assert earliest_slot(log, limit, limit.margin_us, 1, NOW + 250_001) == NOW + 250_001


def test_different_limits_are_each_kept_against_the_shared_hits() -> None:
    """In a rolling deploy old and new limit count the same hits, and each keeps its own windows."""
    old, new = quota(4, 10), quota("2/s; 6/20 s")
    log, now, hits = HitLog(), NOW, list[int]()
    margin = max(old.margin_us, new.margin_us)
    for index in range(40):
        limit = (old, new)[index % 2]
        at = earliest_slot(log, limit, margin, 1, now)
        assert legal(hits, limit, margin, at, 1)
        assert at == max([now, *hits[-1:]]) or not legal(hits, limit, margin, at - 1, 1)
        log, now = log.book([(at, 1)]), now + S
        hits.append(at)


@pytest.mark.parametrize("offset", [2**32 - 3, 2**62 - 3, 2**62])
def test_numbers_past_any_width_go_on_as_before(offset: int) -> None:
    """Hits are numbered on past 32 bits, and near 2**62, and slots stay exact."""
    limit = quota(3, 60)
    log = HitLog(forgotten=offset, number_offset=offset)
    assert next_slots(log, limit, NOW, 7) == next_slots(HitLog(), limit, NOW, 7)
    log = log.book([(NOW, 3)])
    assert log.total == offset + 3
    assert [log.time_of(offset + number) for number in range(4)] == [None, NOW, NOW, NOW]
    assert carried(log) == log


def test_numbers_wider_than_four_bytes_are_kept() -> None:
    """Costs that sum to over 2**32 within one log are counted exactly."""
    log = hit_log(*((NOW + index, 10**9) for index in range(10)))
    assert log.total == 10**10
    assert log.time_of(10**10 - 1) == NOW + 9
    assert log.time_of(10**9) == NOW
    assert carried(log) == log
    at_once = hit_log((NOW - 1, 1), *[(NOW, 10**9)] * 10)
    assert at_once.entries() == [(NOW - 1, 1), (NOW, 10**10)]


@pytest.mark.parametrize("gap", [2**32 - 1, 2**32, 2**32 + 1, 2**40, 100 * YEAR])
@pytest.mark.parametrize("in_one_write", [True, False])
def test_gaps_wider_than_four_bytes_are_kept(gap: int, in_one_write: bool) -> None:
    """Hits any time apart, up to the longest period, keep their exact times, booked at once or one by one."""
    limit, hits = quota("3/100 years"), [(NOW, 1), (NOW + gap, 1), (NOW + gap + 1, 1)]
    log = HitLog()
    for slots in [hits] if in_one_write else [[hit] for hit in hits]:
        log = log.book(slots)
    assert log.entries() == hits
    assert earliest_slot(log, limit, limit.margin_us, 1, NOW) == max(NOW + gap + 1, NOW + 100 * YEAR + S)
    assert carried(log) == log


def test_a_log_is_never_changed_in_place() -> None:
    """Every method returns a new log; whoever holds the old one still holds what it read."""
    log = hit_log(*((NOW + index, 2) for index in range(100)))
    before = log.entries()
    last = log.last_at or 0
    log.book([(last, 1)])
    log.book([(last + 1, 1)])
    log.remove(NOW + 5, 1)
    log.remove(NOW + 5, 2)
    log.forget(NOW + 30)
    log.thin(NOW + 30, lambda time: 7)
    log.with_entries([])
    Timeline(log).add(last, 1)
    assert log.entries() == before


@settings(deadline=None)
@given(sequences(st.tuples(st.integers(0, 3), st.integers(1, 3)), 12), st.integers(1, 9), st.integers(-2, 30))
def test_counts_and_the_most_within_a_span_are_those_of_the_plain_list(
    steps: list[tuple[int, int]], span: int, start: int
) -> None:
    """``count_since`` and ``count_between`` leave out their first instant; ``most_within`` is the worst window."""
    at, booked = 0, list[tuple[int, int]]()
    for gap, cost in steps:
        at += gap
        booked.append((at, cost))
    log, hits = hit_log(*booked), each_hit(booked)
    assert log.count_since(start) == sum(hit > start for hit in hits)
    assert log.count_between(start, start + span) == sum(start < hit <= start + span for hit in hits)
    assert log.most_within(span, start) == worst_window([hit for hit in hits if hit > start], span)


# Planned hits.


@settings(deadline=None)
@given(sequences(st.tuples(st.integers(0, 3), st.integers(1, 3)), 12), st.integers(0, 12))
def test_planned_hits_read_as_booked_ones(steps: list[tuple[int, int]], booked: int) -> None:
    """A timeline over a log, and a view of it with one more hit, tell what the log would tell with all booked."""
    at, slots = NOW, list[tuple[int, int]]()
    for gap, cost in steps:
        at += gap
        slots.append((at, cost))
    log, whole = hit_log(*slots[:booked]), hit_log(*slots)
    timeline = Timeline(log)
    for slot in slots[booked:]:
        timeline.add(*slot)
    longer, extended = whole.book([(at + 1, 2)]), timeline.plus(at + 1, 2)
    assert [timeline.time_of(number) for number in range(whole.total + 1)] == [
        whole.time_of(number) for number in range(whole.total + 1)
    ]
    assert (timeline.total, timeline.last_at) == (whole.total, whole.last_at)
    assert [extended.time_of(number) for number in range(longer.total + 1)] == [
        longer.time_of(number) for number in range(longer.total + 1)
    ]
    assert (extended.total, extended.last_at) == (longer.total, longer.last_at)
    assert timeline.total == whole.total


# What may be done to a log besides.


@dataclass
class World:
    """Callers of one limit and the log they share; whatever slot is not given up is started."""

    limit: Quota
    log: HitLog
    now: int
    soonest: int = 0
    started: list[tuple[int, int]] = field(default_factory=list)

    def do(self, action: str, number: int, scale: int) -> None:
        getattr(self, action)(number, scale)
        assert list(self.log.times) == sorted(set(self.log.times))
        assert list(self.log.cumulative) == sorted(set(self.log.cumulative))
        assert all(count > 0 for _, count in self.log.entries())

    def wait(self, number: int, scale: int) -> None:
        self.now = max(self.soonest, self.now + (number - 4) * scale)

    def book(self, number: int, scale: int) -> None:
        """Book one call, or two in one write."""
        costs = [1 + number % self.limit.most("calls")] * (1 + number % 2)
        slots = list[tuple[int, int]]()
        timeline = Timeline(self.log)
        for cost in costs:
            at = earliest_slot(timeline, self.limit, self.limit.margin_us, cost, self.now)
            assert at >= self.now
            timeline.add(at, cost)
            slots.append((at, cost))
        self.log = self.log.book(slots)
        self.started += slots

    def remove(self, number: int, scale: int) -> None:
        if self.started:
            self.log = self.log.remove(*self.started.pop(-1 - number % len(self.started)))

    def forget(self, number: int, scale: int) -> None:
        """Clocks may be a second apart when a log forgets; a later call has a clock no worse than that."""
        self.soonest = max(self.soonest, self.now - S)
        longest = max(self.limit.rates[-1].period_us, self.limit.spacing_us)
        self.log = self.log.forget(self.now - longest - self.limit.margin_us - S)

    def thin(self, number: int, scale: int) -> None:
        """Merge hits in cells that are the wider, the older the hits, as a state does."""
        self.log = self.log.thin(self.now, lambda time: scale if time > self.now - 20 * scale else 3 * scale)

    def carry(self, number: int, scale: int) -> None:
        self.log = carried(self.log)


ACTIONS = ["book", "book", "book", "book", "wait", "wait", "remove", "forget", "thin", "carry"]


@settings(deadline=None, max_examples=600)
@given(scaled_quotas(1000), STARTS, sequences(st.tuples(st.sampled_from(ACTIONS), st.integers(0, 40)), 50))
def test_no_mix_of_changes_admits_more(scaled: tuple[int, Quota], start: int, actions: list[tuple[str, int]]) -> None:
    """Removed, forgotten, thinned or carried as bytes: what was started never breaks a window."""
    scale, limit = scaled
    world = World(limit, HitLog(), start)
    for action, number in actions:
        world.do(action, number, scale)
    check_kept(each_hit(world.started), limit, limit.margin_us)
    slots = sorted(at for at, _ in world.started)
    assert all(later - sooner >= limit.spacing_us for sooner, later in pairwise(slots))


def test_a_removed_hit_makes_room_for_another() -> None:
    """After a removal the slots are as if the hit had never been, among others at its time too."""
    limit = quota(3, 60)
    log = hit_log((NOW, 1), (NOW + 5, 2))
    assert log.remove(NOW + 5, 2).entries() == [(NOW, 1)]
    assert log.remove(NOW + 5, 1).entries() == [(NOW, 1), (NOW + 5, 1)]
    assert log.remove(NOW, 1).entries() == [(NOW + 5, 2)]
    assert earliest_slot(log.remove(NOW, 1), limit, limit.margin_us, 1, NOW + 6) == NOW + 6
    assert earliest_slot(log.remove(NOW, 1).remove(NOW + 5, 2), limit, limit.margin_us, 3, NOW) == NOW


@pytest.mark.parametrize(("at", "hits"), [(NOW, 2), (NOW + 1, 1), (NOW - 1, 1), (NOW + 5, 3), (NOW + 9, 1)])
def test_hits_that_are_not_there_are_not_removed(at: int, hits: int) -> None:
    """Where there are fewer hits at the time than asked for, the log stays as it is."""
    log = hit_log((NOW, 1), (NOW + 5, 2))
    assert log.remove(at, hits) is log
    assert HitLog().remove(at, hits) == HitLog()


def test_forgotten_hits_stay_numbered() -> None:
    """What is dropped still counts in the numbers, and the next hit goes on from them."""
    log = hit_log((NOW, 1), (NOW + S, 2))
    assert log.forget(NOW) is log
    kept = log.forget(NOW + 1)
    assert (kept.entries(), kept.forgotten, kept.total, kept.time_of(1)) == ([(NOW + S, 2)], 1, 3, None)
    empty = log.forget(NOW + S + 1)
    assert (empty.entries(), empty.forgotten, empty.total, empty.last_at) == ([], 3, 3, None)
    assert empty.book([(NOW + HOUR, 1)]).time_of(4) == NOW + HOUR


def thinned_as_listed(hits: Sequence[tuple[int, int]], until: int, cell: int) -> list[tuple[int, int]]:
    """Return what thinning to one cell width makes of a list."""
    cells = dict[int, tuple[int, int]]()
    for time, count in hits:
        if time < until:
            cells[time // cell] = (time, cells.get(time // cell, (0, 0))[1] + count)
    return [*cells.values(), *(hit for hit in hits if hit[0] >= until)]


@settings(deadline=None)
@given(sequences(st.tuples(st.integers(1, 9), st.integers(1, 3)), 30), st.integers(0, 200), st.integers(1, 20))
def test_thinning_merges_the_hits_of_a_cell_into_its_latest(
    steps: list[tuple[int, int]], until: int, cell: int
) -> None:
    """No hit moves earlier, none by a cell, none from ``until`` on at all; to thin again changes nothing."""
    at, booked = 0, list[tuple[int, int]]()
    for gap, cost in steps:
        at += gap
        booked.append((at, cost))
    log = hit_log(*booked)
    thinned = log.thin(until, lambda time: cell)
    assert thinned.entries() == thinned_as_listed(booked, until, cell)
    assert (thinned.total, thinned.forgotten) == (log.total, log.forgotten)
    for before, after in zip(each_hit(booked), each_hit(thinned.entries()), strict=True):
        assert 0 <= after - before < cell
        assert before == after or after < until
    assert thinned.thin(until, lambda time: cell).entries() == thinned.entries()


@given(st.lists(st.integers(0, 2**40), max_size=20))
def test_columns_are_as_narrow_as_their_largest_value(values: list[int]) -> None:
    """Four bytes where all fit, eight where they do not, the same values either way."""
    packed: Any = column(sorted(values))
    assert packed.tolist() == sorted(values)
    assert packed.itemsize == (8 if values and max(values) >= 2**32 else 4)

"""What a service says, and what the log makes of it: pauses, a learned margin, foreign hits. Pure, no clock."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nekkar.core.heard import Budget, Word, heard
from nekkar.core.log import HitLog
from nekkar.core.rate import Quota, Rate, quota
from nekkar.core.refusals import EASES_US, MARGIN_PART, Refusals
from tests.checks import spans_broken

MS, S = 1000, 1_000_000
HOUR = 3600 * S
NOW = 1_790_000_000 * S
LIMIT = quota("10/2s")
PERIOD = 2 * S


def log_of(limit: Quota, *hits: tuple[int, int]) -> HitLog:
    """A log of hits at offsets from now."""
    log = HitLog(1).joined(limit, 100 * MS)
    for offset, count in hits:
        log = log.book(NOW + offset, count)
    return log


def refusal(sent_at: int, pause_us: int | None = None, most_us: int = HOUR) -> Word:
    return Word(sent_at, most_us, is_refusal=True, pause_us=pause_us)


# Pauses.


def test_a_pause_holds_from_the_answer() -> None:
    """Refused or away: as long as the service says, from when it was heard."""
    for word in (refusal(NOW, 3 * S), Word(NOW, HOUR, pause_us=3 * S)):
        assert heard(log_of(LIMIT, (0, 1)), LIMIT, word, NOW + 5).hold_until == NOW + 5 + 3 * S


@given(st.integers(0, 10**18), st.integers(1, HOUR), st.booleans())
def test_no_pause_is_over_the_longest(asked: int, most: int, is_refusal: bool) -> None:
    """``most_us`` caps whatever a service asks for."""
    log = heard(HitLog(1), LIMIT, Word(NOW, most, is_refusal, asked), NOW)
    assert log.hold_until <= NOW + most


def test_a_longer_hold_stays() -> None:
    """A short pause does not end a long one."""
    log = replace(log_of(LIMIT), hold_until=NOW + 60 * S)
    assert heard(log, LIMIT, refusal(NOW - 1, 3 * S), NOW) is log


def test_refusals_in_a_row_double_the_pause() -> None:
    """Without a word of how long: a period, two, four, …, at most the longest; each call goes as a pause ends."""
    log, now, pauses = log_of(LIMIT), NOW, []
    for _ in range(8):
        log = heard(log, LIMIT, refusal(now, most_us=100 * S), now)
        pauses.append((log.hold_until - now) // S)
        now = log.hold_until
    assert pauses == [2, 4, 8, 16, 32, 64, 100, 100]


def test_a_refusal_later_than_a_period_after_a_pause_starts_a_new_row() -> None:
    """Calls went through in between."""
    log = heard(log_of(LIMIT), LIMIT, refusal(NOW), NOW)
    log = heard(log, LIMIT, refusal(log.hold_until), log.hold_until)
    later = log.hold_until + PERIOD
    assert heard(log, LIMIT, refusal(later), later).hold_until == later + PERIOD


@given(st.lists(st.integers(0, 200 * MS), min_size=1, max_size=30))
def test_a_burst_of_refusals_counts_once(delays: list[int]) -> None:
    """Calls that were let go before the pause tell nothing new, in whatever order they are heard."""
    once = heard(log_of(LIMIT, (0, 10)), LIMIT, refusal(NOW), NOW)
    for delay in delays:
        assert heard(once, LIMIT, refusal(NOW + delay), NOW + delay + 1) is once


# The margin.


def refused_fully_used(log: HitLog, now: int) -> tuple[HitLog, int]:
    """Use the window as soon as may be, and have its last call refused; return the log, and when that was."""
    for _ in range(10):
        now = log.earliest(LIMIT, 1, now)
        log = log.book(now, 1)
    return heard(log, LIMIT, refusal(now, 1), now), now


def test_each_refusal_of_a_kept_limit_doubles_the_margin_up_to_a_quarter_of_the_period() -> None:
    """50 ms, then 100, 200, 400, 500."""
    log, now, margins = log_of(LIMIT), NOW, []
    for _ in range(6):
        log, now = refused_fully_used(log, now)
        margins.append(round(log.margin(LIMIT, now) / MS))
        now += PERIOD
    assert margins == [100, 200, 400, 500, 500, 500]


def test_the_margin_doubles_once_within_a_period() -> None:
    """Calls sent within a period of the last doubling do not double it again, pause or none."""
    log, now = refused_fully_used(log_of(LIMIT), NOW)
    for offset in (2, PERIOD // 2, PERIOD - 1):
        log = heard(log, LIMIT, refusal(now + offset, 1), now + offset)
        assert log.refusals.margin_us <= 100 * MS
    assert heard(log, LIMIT, refusal(now + PERIOD, 1), now + PERIOD).refusals.margin_us > 190 * MS


def test_a_refusal_far_below_the_limit_teaches_no_margin() -> None:
    """Half the window was free: a wider margin would have held nothing back, so somebody else is counted."""
    log = heard(log_of(LIMIT, (-S, 5)), LIMIT, refusal(NOW), NOW)
    assert log.margin(LIMIT, NOW) == LIMIT.margin_us
    assert log.hold_until


def test_a_refusal_of_a_limit_not_kept_teaches_no_margin() -> None:
    """Another process has a larger limit, and used it."""
    log = heard(log_of(LIMIT, (-S, 15)), LIMIT, refusal(NOW), NOW)
    assert log.margin(LIMIT, NOW) == LIMIT.margin_us


def test_a_learned_margin_eases_within_an_hour() -> None:
    """All of it at first, half of it after half an hour, none after an hour; never less than the limit's own."""
    log, now = refused_fully_used(log_of(LIMIT), NOW)
    log = replace(log, refusals=replace(log.refusals, margin_us=400 * MS))
    eased = [log.margin(LIMIT, now + part * EASES_US // 4) // MS for part in (-1, 0, 1, 2, 3, 4, 5)]
    assert eased == [400, 400, 300, 200, 100, 50, 50]


@st.composite
def stories(draw: st.DrawFn) -> tuple[Quota, list[tuple[int, int, int]]]:
    """A limit, and calls: how long after the one before, whether refused, and the pause asked for."""
    limit = Quota((Rate(draw(st.integers(100, 400)), draw(st.integers(1, 5))),), 0, draw(st.integers(1, 120)))
    step = st.tuples(st.integers(0, 500), st.integers(0, 2), st.integers(0, 300))
    return limit, draw(st.lists(step, max_size=40))


@given(stories())
def test_whatever_is_refused_the_limit_is_kept_and_the_margin_bounded(
    story: tuple[Quota, list[tuple[int, int, int]]],
) -> None:
    """Every window is booked with at least its own margin; what is learned is at most a quarter of the period."""
    limit, steps = story
    rate, log, now, slots = limit.rates[0], HitLog(1).joined(story[0], 1), NOW, []
    for wait, refused, pause in steps:
        before, now = log, now + wait
        at = log.earliest(limit, 1, now)
        log = log.book(at, 1)
        slots.append(at)
        if refused:
            log = heard(log, limit, refusal(at, pause if refused == 2 else None), at)
            now = max(now, at)
        assert log.refusals.margin_us <= max(limit.margin_us, rate.period_us // MARGIN_PART)
        assert log.margin(limit, now) >= limit.margin_us
        assert at >= replace(before, refusals=Refusals(), hold_until=0).earliest(limit, 1, now - wait)
    assert not spans_broken(slots, rate.count, rate.period_us + limit.margin_us)


def test_a_merge_keeps_what_was_learned_last_but_for_a_reset() -> None:
    """After a loss the survivors still know; a limit that was reset starts afresh."""
    early, late = Refusals(NOW, 1, 100 * MS, NOW), Refusals(NOW + S, 0, 50 * MS, NOW)
    one, other = replace(HitLog(1), refusals=early), replace(HitLog(2), refusals=late)
    assert one.merge(other).refusals == other.merge(one).refusals == late
    assert replace(HitLog(3), reset_at=NOW).merge(other).refusals == Refusals()


# Foreign hits.


def told(*budgets: Budget, sent_at: int = NOW, most_us: int = HOUR) -> Word:
    return Word(sent_at, most_us, budgets=budgets)


HUNDRED = quota("100/60s")


def test_what_others_used_is_booked() -> None:
    """The log has 10, the service 30: 20 are foreign, and count until the reset."""
    log = heard(log_of(HUNDRED, (0, 10)), HUNDRED, told(Budget(70, 100, reset_us=20 * S)), NOW + MS)
    assert log.since(NOW - 60 * S) == 30
    assert log.since(NOW + 20 * S + 2 * MS - 60 * S) == 10
    assert log.hold_until == 0


def test_what_was_booked_is_not_booked_again() -> None:
    """The same answer again, or an earlier one that comes late, changes nothing."""
    log = heard(log_of(HUNDRED, (0, 10)), HUNDRED, told(Budget(70)), NOW)
    assert heard(log, HUNDRED, told(Budget(70)), NOW + MS) is log
    assert heard(log, HUNDRED, told(Budget(75)), NOW + MS) is log


@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 40))
def test_calls_on_the_wire_are_not_booked_twice(counted: int, flying: int, foreign: int) -> None:
    """Before the service has counted them fewer are seen as foreign; afterwards all, and each once."""
    log = log_of(HUNDRED, (-S, counted), (0, flying)) if flying else log_of(HUNDRED, (-S, counted))
    soon = heard(log, HUNDRED, told(Budget(max(0, 100 - counted - foreign))), NOW)
    assert soon.since(NOW - 60 * S) <= max(counted + flying, counted + foreign)
    left = max(0, 100 - counted - flying - foreign)
    late = heard(soon, HUNDRED, told(Budget(left)), NOW + MS)
    assert left // 64 >= 100 - late.since(NOW - 60 * S) - left or late.since(NOW - 60 * S) == 100


def test_hits_older_than_the_window_at_the_service_are_not_foreign() -> None:
    """A slow answer counts what has left the log's window since: 10 of it are ours."""
    log = log_of(HUNDRED, (-59 * S, 10), (0, 1))
    assert heard(log, HUNDRED, told(Budget(89)), NOW + 5 * S) is log


def test_a_small_difference_waits_until_it_matters() -> None:
    """One hit of 4,999 that remain is no swap; one of 50 is."""
    large = quota("5000/hour")
    log = log_of(large, (0, 1))
    assert heard(log, large, told(Budget(4998)), NOW) is log
    log = log_of(large, (0, 4950))
    assert heard(log, large, told(Budget(49)), NOW).since(NOW - S) == 4951


def test_nothing_left_holds_until_the_reset() -> None:
    """The log thought that 99 remain: nobody calls for 30 s; told no reset, nobody for a period."""
    log = heard(log_of(HUNDRED, (0, 1)), HUNDRED, told(Budget(0, 100, reset_us=30 * S)), NOW)
    assert log.hold_until == NOW + 30 * S
    log = heard(log_of(HUNDRED, (0, 1)), HUNDRED, told(Budget(0)), NOW)
    assert log.hold_until == 0
    assert log.earliest(HUNDRED, 1, NOW) == NOW + 60 * S + HUNDRED.margin_us


def test_a_window_that_is_all_ours_is_no_reason_to_hold() -> None:
    """Nothing remains, and the log knows: its own slots say when to go on; unless the service's window is longer."""
    log = log_of(HUNDRED, (0, 100))
    assert heard(log, HUNDRED, told(Budget(0, 100, reset_us=60 * S)), NOW) is log
    assert heard(log, HUNDRED, told(Budget(0, 100, reset_us=90 * S)), NOW).hold_until == NOW + 90 * S


@pytest.mark.parametrize(
    ("budget", "period"),
    [
        (Budget(0, 10), S),
        (Budget(0, 300), 60 * S),
        (Budget(0, 999, 1 * S), S),
        (Budget(0, 10, 60 * S), 60 * S),
        (Budget(0, 10_000), 60 * S),
        (Budget(0), 60 * S),
    ],
)
def test_a_budget_is_of_the_window_that_it_fits(budget: Budget, period: int) -> None:
    """By its length, else by its calls, else the longest."""
    limit = quota("10/s; 300/min")
    log = heard(HitLog(1).joined(limit, 1), limit, told(budget), NOW)
    assert log.hits() == [(NOW, 10 if period == S else 300)]


BUDGETS = st.builds(
    Budget, st.integers(0, 400), st.none() | st.integers(1, 400), st.none() | st.integers(1, 10**14),
    st.none() | st.integers(0, 10**17),
)  # fmt: skip


@given(st.lists(BUDGETS, max_size=3), st.sampled_from(["100/60s", "10/s; 300/min", "200/week"]), st.integers(1, 10**10))
def test_no_budget_stops_a_limit_for_longer_than_the_longest_hold(budgets: list[Budget], rate: str, most: int) -> None:
    """Whatever a service says, a slot comes within ``max_hold`` and the margin, or a second and it."""
    limit = quota(rate)
    log = heard(HitLog(1).joined(limit, 1), limit, told(*budgets, most_us=most), NOW)
    assert log.earliest(limit, 1, NOW) <= NOW + most + limit.margin_us + S


@given(
    st.lists(st.tuples(st.integers(0, 3 * S), st.integers(0, 2), st.integers(0, 2 * S)), min_size=5, max_size=60),
    st.booleans(),
)
def test_no_hit_of_others_is_booked_that_there_was_not(steps: list[tuple[int, int, int]], fixed: bool) -> None:
    """A service of 20 per 10 s, fixed or sliding, tells whole seconds, and answers late and out of order.

    Of what the log has for others, the service has counted as many in its window.
    """
    limit, period = quota("20/10s"), 10 * S
    log, now = HitLog(1).joined(limit, 1), NOW
    own, others, booked = list[int](), list[int](), list[tuple[int, int]]()
    answers: list[tuple[int, int, Budget]] = []
    for wait, outside, latency in steps:
        now += wait
        others += [now] * outside
        at = log.earliest(limit, 1, now)
        log = log.book(at, 1)
        now = at
        own.append(now)
        begin = now - now % period if fixed else now - period
        counted = sorted(time for time in own + others if time >= begin)
        reset = begin + period - now if fixed else counted[0] + period - now
        budget = Budget(max(0, 20 - len(counted)), 20, None, -(-reset // S) * S, is_window=True)
        answers.append((now + latency, now, budget))
        due = sorted((answer for answer in answers if answer[0] <= now), key=lambda answer: answer[0])
        answers = [answer for answer in answers if answer[0] > now]
        for _, sent_at, budget in due:
            before = log.total
            log = heard(log, limit, told(budget, sent_at=sent_at), now)
            booked.append((now - period + (budget.reset_us or 0), log.total - before))
        live = sum(count for time, count in booked if time >= begin)
        assert live <= sum(time >= begin - 4 * S for time in others)  # late by two, told in whole seconds


def test_hits_before_a_services_window_are_not_set_against_it() -> None:
    """40 of ours lie before the window's beginning: the service has counted 1 of ours, and 20 of others."""
    limit = quota("60/10s")
    log = log_of(limit, (-5 * S, 40), (0, 1))
    log = heard(log, limit, told(Budget(39, 60, reset_us=9 * S, is_window=True)), NOW)
    assert log.since(NOW - 2 * S) == 21
    assert heard(log, limit, told(Budget(39, 60, reset_us=10 * S, is_window=True)), NOW) is log


def test_hits_are_kept_for_as_long_as_a_learned_margin_counts_them() -> None:
    """A hit of 23 s ago still holds a window of 20 s back, whose learned margin is 5 s."""
    limit = quota("1/20s")
    log = replace(log_of(limit, (0, 1)), refusals=Refusals(NOW + 23 * S, 0, 5 * S, NOW))
    assert log.forget(NOW + 23 * S).earliest(limit, 1, NOW + 23 * S) == NOW + 25 * S

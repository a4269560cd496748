"""What a service says, and what the log makes of it: pauses, a learned margin, foreign hits. Pure, no clock."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.support.checks import spans_broken
from tests.support.internals.core import Quota, Rate, quota
from tests.support.internals.window import (
    EASES_US,
    MARGIN_PART,
    Feedback,
    Grant,
    LimitState,
    Place,
    Rejections,
    ReportedQuota,
    apply_feedback,
)
from tests.window.drawing import new_state, slot_of

MS, S = 1000, 1_000_000
HOUR = 3600 * S
NOW = 1_790_000_000 * S
LIMIT = quota("10/2s")
PERIOD = 2 * S


def log_of(limit: Quota, *hits: tuple[int, int]) -> LimitState:
    """Return a state with hits at offsets from now."""
    return new_state(limit, *((NOW + offset, count) for offset, count in hits))


def booked(state: LimitState, at: int, hits: int) -> LimitState:
    """Return the state with hits at its end."""
    return replace(state, hits=state.hits.book([(at, hits)]))


def refusal(sent_at: int, pause_us: int | None = None, most_us: int = HOUR) -> Feedback:
    return Feedback(sent_at, most_us, is_refusal=True, pause_us=pause_us)


# Pauses.


def test_a_pause_holds_from_the_answer() -> None:
    """Refused or away: as long as the service says, from when it was heard."""
    for word in (refusal(NOW, 3 * S), Feedback(NOW, HOUR, pause_us=3 * S)):
        assert apply_feedback(log_of(LIMIT, (0, 1)), LIMIT, word, NOW + 5).hold_until == NOW + 5 + 3 * S


@given(st.integers(0, 10**18), st.integers(1, HOUR), st.booleans())
def test_no_pause_is_over_the_longest(asked: int, most: int, is_refusal: bool) -> None:
    """``most_us`` caps whatever a service asks for."""
    log = apply_feedback(LimitState(1), LIMIT, Feedback(NOW, most, is_refusal, asked), NOW)
    assert log.hold_until <= NOW + most


def test_a_longer_hold_stays() -> None:
    """A short pause does not end a long one."""
    log = replace(log_of(LIMIT), hold_until=NOW + 60 * S)
    assert apply_feedback(log, LIMIT, refusal(NOW - 1, 3 * S), NOW) is log


@pytest.mark.parametrize(
    ("limit", "most", "pauses"),
    [
        ("10/2s", HOUR, [2, 4, 8, 16, 32, 60, 60, 60]),
        ("10/2s", 20 * S, [2, 4, 8, 16, 20, 20, 20, 20]),
        ("10/40s", HOUR, [40, 60, 60, 60, 60, 60, 60, 60]),
        ("10/5 minutes; 50/hour", HOUR, [300] * 8),
    ],
)
def test_refusals_in_a_row_double_the_pause_up_to_a_minute_or_a_period(
    limit: str, most: int, pauses: list[int]
) -> None:
    """Each call goes as a pause ends, and the service does not say how long to wait: it may have banned the fleet."""
    terms = quota(limit)
    log, now, found = log_of(terms), NOW, []
    for _ in range(8):
        log = apply_feedback(log, terms, refusal(now, most_us=most), now)
        found.append((log.hold_until - now) // S)
        now = log.hold_until
    assert found == pauses


def success(sent_at: int) -> Feedback:
    return Feedback(sent_at, HOUR, is_success=True)


def in_a_row(refusals: int) -> LimitState:
    """A log after so many refusals, each of a call that went as a pause ended, the last of them at NOW."""
    log = log_of(LIMIT)
    for _ in range(refusals - 1):
        at = max(NOW - HOUR, log.hold_until)
        log = apply_feedback(log, LIMIT, refusal(at), at)
    return apply_feedback(replace(log, hold_until=NOW), LIMIT, refusal(NOW), NOW + 30 * MS)


def test_a_success_after_the_pause_ends_the_row() -> None:
    """The refusal after it pauses for a period again."""
    log = in_a_row(5)
    now = log.hold_until
    log = apply_feedback(log, LIMIT, success(now), now + MS)
    assert apply_feedback(log, LIMIT, refusal(now + MS), now + MS).hold_until == now + MS + PERIOD


@pytest.mark.parametrize("offset", [-100 * MS, 0, 20 * MS, S])
def test_a_success_among_the_calls_of_which_one_was_refused_ends_the_row(offset: int) -> None:
    """A refusal is often heard before the successes of the same burst: at a service that counts calls at once, always.

    Else the row would go on though most of each burst is served.
    """
    assert apply_feedback(in_a_row(5), LIMIT, success(NOW + offset), NOW + S).rejections.row == 0


def test_a_success_of_a_call_from_before_the_pause_does_not_end_the_row() -> None:
    """It was served before the refusals began, and answered late."""
    log = in_a_row(5)
    for sent_at in (NOW - PERIOD, NOW - HOUR):
        assert apply_feedback(log, LIMIT, success(sent_at), NOW + S) is log


def test_a_success_where_nothing_was_refused_changes_nothing() -> None:
    """So it costs no write; nor does a second success after a row."""
    for log in (log_of(LIMIT, (0, 1)), apply_feedback(in_a_row(5), LIMIT, success(NOW), NOW + S)):
        assert apply_feedback(log, LIMIT, success(NOW + S), NOW + S) is log


def test_a_refusal_that_says_how_long_to_wait_makes_no_row() -> None:
    """However many of them: a later one that does not say pauses for a period."""
    log = log_of(LIMIT)
    for index in range(50):
        log = apply_feedback(log, LIMIT, refusal(NOW + index, pause_us=0), NOW + index)
    assert apply_feedback(log, LIMIT, refusal(NOW + S), NOW + S).hold_until == NOW + S + PERIOD


def test_a_wait_of_no_time_holds_nothing() -> None:
    """``Retry-After: 0``: refused or away, the next slot is as near as before."""
    log = log_of(LIMIT, (0, 1))
    assert apply_feedback(log, LIMIT, Feedback(NOW, HOUR, pause_us=0), NOW) is log
    assert apply_feedback(log, LIMIT, refusal(NOW, pause_us=0), NOW + S).hold_until == log.hold_until


@given(st.lists(st.integers(0, 99), min_size=300, max_size=300))
def test_one_refusal_in_a_hundred_costs_a_period_each(draws: list[int]) -> None:
    """Bursts of 100 a second whose refusals are heard first: each pauses for a period or two, however many come."""
    limit = quota("100/s")
    log, now = LimitState(1), NOW
    refused = 0
    for draw in draws[::10]:
        at = slot_of(log, limit, 100, now)
        log = booked(log, at, 100)
        now = at + 100 * MS
        if draw < 63:  # some call of a hundred
            refused += 1
            log = apply_feedback(log, limit, Feedback(at, HOUR, is_refusal=True), at + MS)
        log = apply_feedback(log, limit, success(at), now)
    assert now - NOW <= (len(draws[::10]) * 1.3 + refused * 2) * S


def test_a_refusal_later_than_a_period_after_a_pause_starts_a_new_row() -> None:
    """Nobody told of successes in between."""
    log = apply_feedback(log_of(LIMIT), LIMIT, refusal(NOW), NOW)
    log = apply_feedback(log, LIMIT, refusal(log.hold_until), log.hold_until)
    later = log.hold_until + PERIOD
    assert apply_feedback(log, LIMIT, refusal(later), later).hold_until == later + PERIOD


@given(st.lists(st.integers(0, 200 * MS), min_size=1, max_size=30))
def test_a_burst_of_refusals_counts_once(delays: list[int]) -> None:
    """Calls that were let go before the pause tell nothing new, in whatever order they are heard."""
    once = apply_feedback(log_of(LIMIT, (0, 10)), LIMIT, refusal(NOW), NOW)
    for delay in delays:
        assert apply_feedback(once, LIMIT, refusal(NOW + delay), NOW + delay + 1) is once


# The margin.


def refused_fully_used(log: LimitState, now: int) -> tuple[LimitState, int]:
    """Use the window as soon as may be, and have its last call refused; return the log, and when that was."""
    for _ in range(10):
        now = slot_of(log, LIMIT, 1, now)
        log = booked(log, now, 1)
    return apply_feedback(log, LIMIT, refusal(now, 1), now), now


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
        log = apply_feedback(log, LIMIT, refusal(now + offset, 1), now + offset)
        assert log.rejections.margin_us <= 100 * MS
    assert apply_feedback(log, LIMIT, refusal(now + PERIOD, 1), now + PERIOD).rejections.margin_us > 190 * MS


def test_a_refusal_far_below_the_limit_teaches_no_margin() -> None:
    """Half the window was free: a wider margin would have held nothing back, so somebody else is counted."""
    log = apply_feedback(log_of(LIMIT, (-S, 5)), LIMIT, refusal(NOW), NOW)
    assert log.margin(LIMIT, NOW) == LIMIT.margin_us
    assert log.hold_until


def test_a_refusal_of_a_limit_not_kept_teaches_no_margin() -> None:
    """Another process has a larger limit, and used it."""
    log = apply_feedback(log_of(LIMIT, (-S, 15)), LIMIT, refusal(NOW), NOW)
    assert log.margin(LIMIT, NOW) == LIMIT.margin_us


def test_a_learned_margin_eases_within_an_hour() -> None:
    """All of it at first, half of it after half an hour, none after an hour; never less than the limit's own."""
    log, now = refused_fully_used(log_of(LIMIT), NOW)
    log = replace(log, rejections=replace(log.rejections, margin_us=400 * MS))
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
    rate, log, now, slots = limit.rates[0], new_state(story[0]), NOW, []
    for wait, refused, pause in steps:
        before, now = log, now + wait
        at = slot_of(log, limit, 1, now)
        log = booked(log, at, 1)
        slots.append(at)
        if refused:
            log = apply_feedback(log, limit, refusal(at, pause if refused == 2 else None), at)
            now = max(now, at)
        assert log.rejections.margin_us <= max(limit.margin_us, rate.period_us // MARGIN_PART)
        assert log.margin(limit, now) >= limit.margin_us
        assert at >= slot_of(replace(before, rejections=Rejections(), hold_until=0), limit, 1, now - wait)
    assert not spans_broken(slots, rate.count, rate.period_us + limit.margin_us)


# Foreign hits.


def told(*budgets: ReportedQuota, sent_at: int = NOW, most_us: int = HOUR) -> Feedback:
    return Feedback(sent_at, most_us, budgets=budgets)


HUNDRED = quota("100/60s")


def test_what_others_used_is_booked() -> None:
    """The log has 10, the service 30: 20 are foreign, and count until the reset."""
    log = apply_feedback(log_of(HUNDRED, (0, 10)), HUNDRED, told(ReportedQuota(70, 100, reset_us=20 * S)), NOW + MS)
    assert log.hits.count_since(NOW - 60 * S) == 30
    assert log.hits.count_since(NOW + 20 * S + 2 * MS - 60 * S) == 10
    assert log.hold_until == 0


def test_what_was_booked_is_not_booked_again() -> None:
    """The same answer again, or an earlier one that comes late, changes nothing."""
    log = apply_feedback(log_of(HUNDRED, (0, 10)), HUNDRED, told(ReportedQuota(70)), NOW)
    assert apply_feedback(log, HUNDRED, told(ReportedQuota(70)), NOW + MS) is log
    assert apply_feedback(log, HUNDRED, told(ReportedQuota(75)), NOW + MS) is log


@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 40))
def test_calls_on_the_wire_are_not_booked_twice(counted: int, flying: int, foreign: int) -> None:
    """Before the service has counted them fewer are seen as foreign; afterwards all, and each once."""
    log = log_of(HUNDRED, (-S, counted), (0, flying)) if flying else log_of(HUNDRED, (-S, counted))
    soon = apply_feedback(log, HUNDRED, told(ReportedQuota(max(0, 100 - counted - foreign))), NOW)
    assert soon.hits.count_since(NOW - 60 * S) <= max(counted + flying, counted + foreign)
    left = max(0, 100 - counted - flying - foreign)
    late = apply_feedback(soon, HUNDRED, told(ReportedQuota(left)), NOW + MS)
    assert left // 64 >= 100 - late.hits.count_since(NOW - 60 * S) - left or late.hits.count_since(NOW - 60 * S) == 100


def test_hits_older_than_the_window_at_the_service_are_not_foreign() -> None:
    """A slow answer counts what has left the log's window since: 10 of it are ours."""
    log = log_of(HUNDRED, (-59 * S, 10), (0, 1))
    assert apply_feedback(log, HUNDRED, told(ReportedQuota(89)), NOW + 5 * S) is log


def test_a_small_difference_waits_until_it_matters() -> None:
    """One hit of 4,999 that remain is no swap; one of 50 is."""
    large = quota("5000/hour")
    log = log_of(large, (0, 1))
    assert apply_feedback(log, large, told(ReportedQuota(4998)), NOW) is log
    log = log_of(large, (0, 4950))
    assert apply_feedback(log, large, told(ReportedQuota(49)), NOW).hits.count_since(NOW - S) == 4951


def test_what_others_used_without_a_reset_counts_in_no_shorter_window() -> None:
    """When they called is not told; in a second they may have used nothing. With a reset it is known."""
    limit = quota("20/s; 100/120s")
    log = apply_feedback(log_of(limit, (0, 1)), limit, told(ReportedQuota(60, 100, 120 * S)), NOW)
    assert [log.hits.count_since(NOW - period) for period in (S, 120 * S)] == [1, 40]
    assert slot_of(log, limit, 1, NOW) == NOW
    log = apply_feedback(log_of(limit, (0, 1)), limit, told(ReportedQuota(60, 100, reset_us=120 * S)), NOW)
    assert log.hits.count_since(NOW - S) == 40


def test_nothing_left_holds_until_the_reset() -> None:
    """The log thought that 99 remain: nobody calls for 30 s; told no reset, nobody for a period."""
    log = apply_feedback(log_of(HUNDRED, (0, 1)), HUNDRED, told(ReportedQuota(0, 100, reset_us=30 * S)), NOW)
    assert log.hold_until == NOW + 30 * S
    log = apply_feedback(log_of(HUNDRED, (0, 1)), HUNDRED, told(ReportedQuota(0)), NOW)
    assert log.hold_until == 0
    assert slot_of(log, HUNDRED, 1, NOW) == NOW + 60 * S + HUNDRED.margin_us


def test_a_window_that_is_all_ours_is_no_reason_to_hold() -> None:
    """Nothing remains, and the log knows: its own slots say when to go on; unless the service's window is longer."""
    log = log_of(HUNDRED, (0, 100))
    assert apply_feedback(log, HUNDRED, told(ReportedQuota(0, 100, reset_us=60 * S)), NOW) is log
    assert apply_feedback(log, HUNDRED, told(ReportedQuota(0, 100, reset_us=90 * S)), NOW).hold_until == NOW + 90 * S


@pytest.mark.parametrize(
    ("budget", "period"),
    [
        (ReportedQuota(0, 10), S),
        (ReportedQuota(0, 300), 60 * S),
        (ReportedQuota(0, 999, 1 * S), S),
        (ReportedQuota(0, 10, 60 * S), 60 * S),
        (ReportedQuota(0, 300, 3600 * S), 60 * S),
        (ReportedQuota(0, None, 60 * S), 60 * S),
        (ReportedQuota(0), S),
        (ReportedQuota(0, reset_us=S), S),
        (ReportedQuota(0, reset_us=2 * S), S),  # whole seconds, rounded up
        (ReportedQuota(0, reset_us=3 * S), 60 * S),
        (ReportedQuota(0, reset_us=900 * S), 60 * S),
    ],
)
def test_a_budget_is_of_the_window_that_it_fits(budget: ReportedQuota, period: int) -> None:
    """By its length, else by its calls, else the shortest that it can fit."""
    limit = quota("10/s; 300/min")
    log = apply_feedback(new_state(limit), limit, told(budget), NOW)
    assert log.hits.total == (10 if period == S or budget.limit == 10 else 300)


def test_a_budget_without_a_limit_is_of_the_shortest_window_with_room_for_it() -> None:
    """11 that remain are not of 10."""
    limit = quota("10/s; 300/min")
    assert apply_feedback(new_state(limit), limit, told(ReportedQuota(11)), NOW).hits.total == 289


@pytest.mark.parametrize(
    "budget",
    [
        ReportedQuota(0, 10_000, reset_us=S),
        ReportedQuota(29, 30, reset_us=60 * S),
        ReportedQuota(0, 30, 3600 * S, 60 * S),
        ReportedQuota(0, None, 3600 * S, 60 * S),
        ReportedQuota(301, reset_us=60 * S),
    ],
    ids=str,
)
def test_what_fits_no_window_changes_nothing(budget: ReportedQuota) -> None:
    """It is of another bucket: GitHub's search (30 a minute) under its core limit, say."""
    limit = quota("10/s; 300/min")
    log = new_state(limit, (NOW, 1))
    assert apply_feedback(log, limit, told(budget), NOW) is log


BUDGETS = st.builds(
    ReportedQuota, st.integers(0, 400), st.none() | st.integers(1, 400), st.none() | st.integers(1, 10**14),
    st.none() | st.integers(0, 10**17),
)  # fmt: skip


@given(st.lists(BUDGETS, max_size=3), st.sampled_from(["100/60s", "10/s; 300/min", "200/week"]), st.integers(1, 10**10))
def test_no_budget_stops_a_limit_for_longer_than_the_longest_hold(
    budgets: list[ReportedQuota], rate: str, most: int
) -> None:
    """Whatever a service says, a slot comes within ``max_hold`` and the margin, or a second and it."""
    limit = quota(rate)
    log = apply_feedback(new_state(limit), limit, told(*budgets, most_us=most), NOW)
    assert slot_of(log, limit, 1, NOW) <= NOW + most + limit.margin_us + S


@example([ReportedQuota(0, 300), ReportedQuota(0)], "10/s; 300/min", 0)
@given(st.lists(BUDGETS, max_size=3), st.sampled_from(["100/60s", "10/s; 300/min", "200/week"]), st.integers(0, 20))
def test_no_window_is_booked_beyond_what_its_budget_leaves(budgets: list[ReportedQuota], rate: str, own: int) -> None:
    """Of others at most the window's count less what remains; of a budget without a period, its limit less that."""
    limit = quota(rate)
    log = new_state(limit, (NOW, own)) if own else new_state(limit)
    after = apply_feedback(log, limit, told(*budgets), NOW)
    most = 0
    for budget in budgets:
        left = budget.remaining or 0
        fits = {one.count - left for one in limit.rates if one.period_us == budget.period_us}
        if not fits and budget.limit in [one.count for one in limit.rates]:
            fits = {(budget.limit or 0) - left}
        elif not fits and budget.limit is budget.period_us is None:
            fits = {one.count - left for one in limit.rates}
        most = max([most, *fits])
    assert after.hits.total - log.hits.total <= max(0, most - own)
    assert most or after.reported.rates or (after is log)


LATE = 2 * S  # the latest answer
STEPS = st.lists(
    st.tuples(st.integers(0, 3 * S), st.integers(0, 2), st.integers(0, LATE)), min_size=5, max_size=60
)  # the wait before a call, calls of others before it, how late its answer is heard
TWENTY = quota("20/10s")


class Shared:
    """A fleet's log, and a service of 20 per 10 s that counts others too: what it has counted, and what was booked.

    ``begins``: from when of its window on it counts, given a call's time. ``grain``: to what its resets are rounded up.
    """

    def __init__(self, begins: Callable[[int], int], is_fixed: bool, grain: int) -> None:
        self.begins, self.is_fixed, self.grain = begins, is_fixed, grain
        self.log, self.now = new_state(TWENTY), NOW
        self.own, self.others = list[int](), list[int]()
        self.booked, self.answers = list[tuple[int, int]](), list[tuple[int, int, ReportedQuota]]()

    def call(self, wait: int, others: int, late: int) -> None:
        """Let others call, then the fleet as soon as it may; its answer is heard late, and in no order."""
        self.pass_to(self.now + wait)
        self.others += [self.now] * others
        at = slot_of(self.log, TWENTY, 1, self.now)
        self.log = booked(self.log, at, 1)
        self.pass_to(at)
        self.own.append(at)
        self.answers.append((at + late, at, self.answer()))

    def answer(self) -> ReportedQuota:
        begin = self.begins(self.now)
        counted = [time for time in self.own + self.others if time >= begin]
        reset = (begin if self.is_fixed else min(counted)) + 10 * S - self.now
        told = -(-reset // self.grain) * self.grain
        return ReportedQuota(max(0, 20 - len(counted)), 20, None, told, is_window=True, grain_us=self.grain)

    def pass_to(self, instant: int) -> None:
        due = sorted((answer for answer in self.answers if answer[0] <= instant), key=lambda answer: answer[:2])
        self.answers = [answer for answer in self.answers if answer[0] > instant]
        for heard_at, sent_at, budget in due:
            before = self.log.hits.total
            self.log = apply_feedback(self.log, TWENTY, told(budget, sent_at=sent_at), heard_at)
            self.booked.append((heard_at - 10 * S + (budget.reset_us or 0), self.log.hits.total - before))
        self.now = instant

    def count(self, start: int) -> int:
        return sum(time >= start for time in self.others)

    def live(self) -> int:
        """What counts in the log for others, of this window."""
        return sum(count for time, count in self.booked if time >= self.begins(self.now))


@given(STEPS, st.sampled_from([S, MS]))
def test_no_hit_of_others_is_booked_that_there_was_not(steps: list[tuple[int, int, int]], grain: int) -> None:
    """A service of fixed windows: of what the log has for others, it has counted as many in its window.

    However late and out of order its answers come. A hit is booked at the window's beginning, and later by the
    answer's lateness and the rounding up of the reset: that is how long it counts past the window's end.
    """
    shared = Shared(lambda now: now - now % (10 * S), is_fixed=True, grain=grain)
    for step in steps:
        shared.call(*step)
        assert shared.live() <= shared.count(shared.begins(shared.now))
        end = shared.begins(shared.now) + LATE + grain
        assert all(time < end for time, count in shared.booked if count)


@given(STEPS, st.sampled_from([S, MS]))
def test_a_sliding_window_is_taken_for_fixed_ones_at_a_bounded_cost(
    steps: list[tuple[int, int, int]], grain: int
) -> None:
    """Its reset is when the oldest hit leaves, so a booked one stands at most the answer's lateness and the rounding,
    together D, after a hit of others that the service had counted as its oldest, or that was younger.

    With B for the beginning of the window now: bookings whose oldest hit lay before B come at most D after it. Each
    that still counts, at B or later, is later than any of their windows began: so none of them is booked twice, and
    they are at most the others since B - D. Bookings whose oldest hit lay at B or later have that hit in common, and
    are at most the others since B. The sum is the bound; it is 2 s of lateness and a second, not less.
    """
    shared = Shared(lambda now: now - 10 * S, is_fixed=False, grain=grain)
    for step in steps:
        shared.call(*step)
        begin = shared.begins(shared.now)
        assert shared.live() <= shared.count(begin - LATE - grain) + shared.count(begin)


@given(st.lists(st.integers(0, 3 * S), min_size=5, max_size=60), st.sampled_from([S, MS]))
def test_a_service_that_fills_bit_by_bit_is_no_others(waits: list[int], grain: int) -> None:
    """GCRA, 20 per 10 s, all of it ours; its reset is when it is full: nothing is booked, nothing held.

    Under a sliding log it is full once in each period at least; so what it has left to fill tells of no call that
    lies before its last moment full, and a reset read as a window's end leaves none of ours out.
    """
    log, now, empty_at = new_state(TWENTY), NOW, NOW
    for wait in waits:
        now = slot_of(log, TWENTY, 1, now + wait)
        log = booked(log, now, 1)
        empty_at = max(empty_at, now) + S // 2
        left = (now + 10 * S - empty_at) * 2 // S
        reset = -(-(empty_at - now) // grain) * grain
        assert (
            apply_feedback(log, TWENTY, told(ReportedQuota(left, 20, None, reset, True, grain), sent_at=now), now)
            is log
        )


def test_hits_before_a_services_window_are_not_set_against_it() -> None:
    """40 of ours lie before the window's beginning: the service has counted 1 of ours, and 20 of others."""
    limit = quota("60/10s")
    log = log_of(limit, (-5 * S, 40), (0, 1))
    log = apply_feedback(log, limit, told(ReportedQuota(39, 60, reset_us=9 * S, is_window=True)), NOW)
    assert log.hits.count_since(NOW - 2 * S) == 21
    assert apply_feedback(log, limit, told(ReportedQuota(39, 60, reset_us=10 * S, is_window=True)), NOW) is log


def test_a_reset_told_closely_hides_no_others_behind_our_last_window() -> None:
    """60 per 3 s, our 40 in a window's last second: of the next one's 21, told at its beginning, 20 are of others.

    A second of grace, right for whole seconds, hid them from one window to the next, and 20 calls of each were refused.
    """
    limit = quota("60/3s")
    log = log_of(limit, (-500 * MS, 40), (0, 1))
    close = ReportedQuota(39, 60, reset_us=2_900 * MS, is_window=True, grain_us=MS)
    assert apply_feedback(log, limit, told(close), NOW + MS).hits.count_since(NOW - 200 * MS) == 21
    assert apply_feedback(log, limit, told(replace(close, reset_us=3 * S, grain_us=S)), NOW + MS) is log


def test_a_reset_past_the_period_is_no_end_of_a_window_of_this_length() -> None:
    """The 30 that we used 10 s ago still count: none is of others."""
    log = log_of(HUNDRED, (-10 * S, 30), (0, 1))
    assert apply_feedback(log, HUNDRED, told(ReportedQuota(69, 100, reset_us=90 * S, is_window=True)), NOW) is log


def test_a_reset_of_0_in_whole_seconds_may_be_a_second_off() -> None:
    """Some services round down: nobody calls for that second. Told in ms, it is over."""
    log = log_of(HUNDRED, (0, 1))
    for grain in (S, MS):
        budget = ReportedQuota(0, 100, reset_us=0, is_window=True, grain_us=grain)
        assert apply_feedback(log, HUNDRED, told(budget), NOW).hold_until == NOW + grain


@pytest.mark.parametrize(
    ("limit", "grain", "later"), [("100 per 20 s", S, S), ("100 per 19 s", S, 0), ("100 per 20 s", S // 10, 0)]
)
def test_a_reset_in_whole_seconds_is_waited_for_to_its_end(limit: str, grain: int, later: int) -> None:
    """A service that rounds down would refuse those who come at its beginning. Where a second is much, it is not."""
    terms = quota(limit)
    budget = ReportedQuota(0, 100, reset_us=5 * S, is_window=True, grain_us=grain)
    assert apply_feedback(log_of(terms, (0, 1)), terms, told(budget), NOW).hold_until == NOW + 5 * S + later


def test_what_is_booked_for_later_was_not_counted_yet() -> None:
    """Four callers wait for a slot a second off: 20 are foreign, not 16."""
    log = log_of(HUNDRED, (0, 10), (S, 4))
    assert apply_feedback(log, HUNDRED, told(ReportedQuota(70)), NOW + MS).hits.count_since(NOW - 60 * S) == 34


def test_a_refusal_with_nothing_left_is_believed() -> None:
    """The log may think what it likes: nobody calls until the reset; unless the refusal says how long to wait."""
    log = log_of(HUNDRED, (-30 * S, 100), (0, 5))
    nothing = ReportedQuota(0, 100, reset_us=20 * S, is_window=True)
    assert apply_feedback(log, HUNDRED, told(nothing), NOW) is log
    for pause, hold in ((0, 21 * S), (3 * S, 3 * S), (30 * S, 30 * S)):
        word = Feedback(NOW, HOUR, is_refusal=True, pause_us=pause, budgets=(nothing,))
        assert apply_feedback(log, HUNDRED, word, NOW).hold_until == NOW + hold


def test_a_refusal_that_says_how_long_pauses_for_so_long_whoever_used_the_window() -> None:
    """Of the window, 99 calls are others': they count until its reset, but the pause is that of the refusal."""
    nothing = ReportedQuota(0, 100, reset_us=90 * S, is_window=True)
    word = Feedback(NOW, HOUR, is_refusal=True, pause_us=5 * S, budgets=(nothing,))
    after = apply_feedback(log_of(HUNDRED, (0, 1)), HUNDRED, word, NOW)
    assert after.hold_until == NOW + 5 * S
    assert after.hits.count_since(NOW - 60 * S) == 100


def test_a_call_refused_is_none_of_those_that_the_service_counted() -> None:
    """Its 10 did not have room for it: 9 are ours, so one is of others, and a wider margin would not have helped."""
    log = log_of(LIMIT, (-S, 9), (0, 1))
    nothing = ReportedQuota(0, 10, reset_us=S, is_window=True, grain_us=MS)
    word = Feedback(NOW, HOUR, is_refusal=True, pause_us=1, budgets=(nothing,))
    after = apply_feedback(log, LIMIT, word, NOW)
    assert after.hits.count_since(NOW - 2 * S) == 11
    assert after.margin(LIMIT, NOW) == LIMIT.margin_us
    ours = log_of(LIMIT, (-S, 10), (0, 1))
    assert apply_feedback(ours, LIMIT, word, NOW).hits.count_since(NOW - 2 * S) == 11


def test_a_refusal_of_a_window_that_is_all_ours_still_teaches_the_margin() -> None:
    """Ten before it, all ours, the first of them late on its way: the window ends at once."""
    log = log_of(LIMIT, (-PERIOD - LIMIT.margin_us, 1), (-S, 9), (0, 1))
    nothing = ReportedQuota(0, 10, reset_us=MS, is_window=True, grain_us=MS)
    word = Feedback(NOW, HOUR, is_refusal=True, pause_us=1, budgets=(nothing,))
    after = apply_feedback(log, LIMIT, word, NOW)
    assert after.hits.total == log.hits.total
    assert after.margin(LIMIT, NOW) == 2 * LIMIT.margin_us


def test_what_is_heard_leaves_those_who_wait_and_their_slots_alone() -> None:
    """Hits of others are booked among them, and a pause holds; grants still name their hits, places their order."""
    grant = Grant(1, 7, NOW + 5, 2)
    places = (Place(8, 1, NOW + S, 1, 0, (HUNDRED.rates, 0)),)
    state = replace(log_of(HUNDRED, (0, 10), (5, 2)), serial=1, grants=(grant,), places=places)
    after = apply_feedback(state, HUNDRED, told(ReportedQuota(40, 100, reset_us=60 * S)), NOW + MS)
    assert after.hits.total == 60
    assert (after.serial, after.grants, after.places, after.epoch) == (1, (grant,), places, state.epoch)
    assert after.hits.remove(grant.slot, grant.cost).total == 58
    held = apply_feedback(state, HUNDRED, refusal(NOW, 3 * S), NOW)
    assert (held.grants, held.places) == ((grant,), places)

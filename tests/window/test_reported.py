"""Limits that a service tells with their period: kept for a period beside our own, for all, and never higher."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from nekkar.core.cache import MemoryCache
from nekkar.core.limiter import Nekkar
from nekkar.requests import NekkarAdapter
from nekkar.rules import Rule, RuleTable
from nekkar.testing import FakeClock
from tests.http.test_feedback import Canned
from tests.support.checks import spans_broken
from tests.support.internals.core import Rate, give_feedback, quota
from tests.support.internals.window import (
    MOST_REPORTED,
    Feedback,
    LimitState,
    ReportedQuota,
    ReportedRates,
    apply_feedback,
    decode,
    encode,
    lower_rate,
)
from tests.window.drawing import new_state, slot_of

S = 1_000_000
NOW = 1_790_000_000 * S
HOUR = 3600 * S
LIMIT = quota("10/s; 300/min")
TEN = ReportedQuota(None, 10, 60 * S)


def after_report(state: LimitState, *budgets: ReportedQuota, at: int = NOW) -> LimitState:
    return apply_feedback(state, LIMIT, Feedback(at, HOUR, budgets=budgets), at)


@pytest.mark.parametrize(
    ("told", "lower"),
    [
        (TEN, Rate(60 * S, 10)),
        (ReportedQuota(7, 10, 60 * S), Rate(60 * S, 10)),
        (ReportedQuota(None, 5, S), Rate(S, 5)),
        (ReportedQuota(7, 300, 60 * S), None),
        (ReportedQuota(7, 5000, 60 * S), None),
        (ReportedQuota(7, 10), None),  # without its period
        (ReportedQuota(7, 10, HOUR), Rate(HOUR, 10)),  # the count of one window, in a longer period
        (ReportedQuota(7, 10, S // 2), None),
        (ReportedQuota(7, 11, HOUR), None),  # of another bucket
        (ReportedQuota(None, 10, 2 * HOUR), Rate(HOUR, 10)),  # at most as long as the longest hold
        (ReportedQuota(7, None, 60 * S), None),
        (ReportedQuota(None, 10, 60 * S, unit="tokens"), None),
        (ReportedQuota(None, 1, S, is_pace=True), Rate(300 * S, 300)),
        (ReportedQuota(None, 1, S // 5, is_pace=True), None),
        (ReportedQuota(None, 1, S // 6, is_pace=True), None),
        (ReportedQuota(None, 1, 10**18, is_pace=True), Rate(HOUR, 300)),
    ],
    ids=str,
)
def test_a_limit_lowers_a_window_only_together_with_its_period(told: ReportedQuota, lower: Rate | None) -> None:
    """A pace is lower where the window takes longer at it."""
    assert lower_rate(told, LIMIT, HOUR) == lower


def test_a_lower_limit_is_kept_for_a_period() -> None:
    """Beside our own; then ours alone counts again, unless it was told again."""
    state = after_report(new_state(LIMIT), TEN)
    assert state.reported.kept(LIMIT, NOW) == replace(LIMIT, rates=(Rate(S, 10), Rate(60 * S, 10), Rate(60 * S, 300)))
    assert state.reported.kept(LIMIT, NOW + 60 * S) is LIMIT
    again = after_report(state, TEN, at=NOW + 30 * S)
    assert again.reported.kept(LIMIT, NOW + 89 * S) != LIMIT


def test_what_is_told_again_at_once_is_no_news() -> None:
    """So it costs no write; nor does a limit that is no lower, where none was told before."""
    state = after_report(new_state(LIMIT), TEN)
    assert after_report(state, TEN, at=NOW + 7 * S) is state
    assert after_report(state, TEN, at=NOW + 8 * S) is not state
    same = new_state(LIMIT)
    assert after_report(same, ReportedQuota(None, 300, 60 * S)) is same


@given(
    st.builds(
        ReportedQuota,
        st.none() | st.integers(0, 1),
        st.sampled_from([1, 5, 10, 300]),
        st.integers(1, 10**18) | st.just(60 * S),
        is_pace=st.booleans(),
    ),
    st.integers(0, 300),
    st.integers(1, 10**10),
)
def test_no_told_limit_stops_ours_for_longer_than_the_longest_hold(told: ReportedQuota, own: int, most: int) -> None:
    """However low it is: a call a century, say."""
    state = new_state(LIMIT, (NOW - 30 * S, own)) if own else new_state(LIMIT)
    state = apply_feedback(state, LIMIT, Feedback(NOW, most, budgets=(told,)), NOW)
    assert decode(encode(state)) == state
    later = NOW + max(most, 60 * S)
    assert slot_of(state, state.reported.kept(LIMIT, later), 1, later) <= later + LIMIT.margin_us


def test_the_newest_word_counts() -> None:
    """Lower, higher, or ours again; it never raises ours."""
    state = new_state(LIMIT)
    for limit, kept in ((10, 10), (5, 5), (50, 50), (5000, None), (20, 20), (300, None)):
        state = after_report(state, ReportedQuota(None, limit, 60 * S))
        assert [rate.count for _, rate, _ in state.reported.rates] == ([] if kept is None else [kept])


def test_what_remains_of_it_is_booked_as_of_others() -> None:
    """Seven of ten are left: three are used, and not 293."""
    state = after_report(new_state(LIMIT), ReportedQuota(7, 10, 60 * S))
    assert state.hits.total == 3


def test_what_is_used_of_a_window_counts_too() -> None:
    """Binance tells no limit: 40 used of ours."""
    assert after_report(new_state(LIMIT), ReportedQuota(None, None, 60 * S, used=40)).hits.total == 40


RATES = st.builds(Rate, st.integers(10**6, 10**9), st.integers(1, 10**6), st.sampled_from(["calls", "tokens"]))


@given(st.lists(st.tuples(RATES, RATES | st.none(), st.integers(0, 10**8)), max_size=40))
def test_it_is_part_of_the_state(words: list[tuple[Rate, Rate | None, int]]) -> None:
    """Bounded, and the same after a way through the cache."""
    reported, now = ReportedRates(), NOW
    for window, lower, wait in words:
        now += wait
        reported = reported.with_report(window, lower, now, HOUR)
    assert len(reported.rates) <= MOST_REPORTED
    assert decode(encode(LimitState(1, reported=reported))).reported == reported


@given(st.lists(st.integers(0, 3 * S), min_size=20, max_size=60))
def test_a_fleet_keeps_to_a_lower_limit(waits: list[int]) -> None:
    """It is told in each answer: no eleven calls in a minute after the first."""
    state, now, slots = new_state(LIMIT), NOW, []
    for wait in waits:
        kept = state.reported.kept(LIMIT, now + wait)
        now = slot_of(state, kept, 1, now + wait)
        slots.append(now)
        state = after_report(replace(state, hits=state.hits.book([(now, 1)])), TEN, at=now)
    assert not spans_broken(slots, 10, 60 * S)


RULES = RuleTable([Rule("*", "all")], {"all": {"rate": "100/10s", "headers": True}})


@pytest.mark.parametrize(
    "headers",
    [
        {"X-RateLimit-Limit": "5", "X-RateLimit-Period": "10"},
        {"RateLimit-Policy": '"default";q=5;w=10'},  # and nothing else
        {"RateLimit-Policy": "5;w=10"},
    ],
)
def test_all_workers_keep_to_it_and_it_is_said_once(headers: dict[str, str], caplog: pytest.LogCaptureFixture) -> None:
    """Through the cache; ``status`` counts what is over it as used."""
    clock, cache = FakeClock(), MemoryCache()
    limiter, other = (Nekkar(cache, clock=clock) for _ in range(2))
    answer = Canned(200, headers)
    with requests.Session() as session, caplog.at_level(logging.WARNING, "nekkar"):
        session.mount("https://", NekkarAdapter(limiter, RULES, answer))
        for _ in range(2):
            session.get("https://example.com/")
        (window,) = other("all", "100/10s").status().windows
        assert (window.limit, window.used, window.remaining) == (100, 97, 3)
        waits = [other("all", "100/10s").acquire().waited for _ in range(4)]
    assert [round(wait) for wait in waits] == [0, 0, 0, 10]
    (line,) = [record.getMessage() for record in caplog.records]
    assert line == (
        "limit 'all': its service tells 'a limit of 5 per 10 s', lower than 100 per 10 s, which is kept for a period;"
        " write the service's own limit in the rate; said once"
    )
    clock.advance(30)
    assert other("all", "100/10s").status().windows[0].remaining == 100


def test_amazons_pace_stretches_a_window() -> None:
    """0.5 a second: 10 take 20 s, and not 10."""
    clock = FakeClock()
    limiter = Nekkar(clock=clock)
    rules = RuleTable([Rule("*", "orders")], {"orders": {"rate": "10/10s", "headers": "amazon-sp-api"}})
    begin = clock.now
    with requests.Session() as session:
        session.mount("https://", NekkarAdapter(limiter, rules, Canned(200, {"x-amzn-RateLimit-Limit": "0.5"})))
        for _ in range(21):
            session.get("https://example.com/")
    assert clock.now - begin == pytest.approx(36.4, abs=1)


def test_a_call_that_costs_more_than_a_told_limit_waits_until_the_window_is_empty(clock: FakeClock) -> None:
    """What the service then says is its own word; an error of ours would be no answer."""
    limit = Nekkar(clock=clock)("dear", "10/second", margin=0.1)
    limit.acquire(cost=5)
    give_feedback(limit, Feedback(clock.now_us(), HOUR, budgets=(ReportedQuota(2, 3, S),)))
    assert limit.acquire(cost=5).waited == pytest.approx(1.0)  # for so long what it told is kept

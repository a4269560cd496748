"""The check that calls were never over a limit: exact at the edge, whatever the order, and told in numbers."""

from __future__ import annotations

import random

import pytest

from nekkar import Admission, ConfigurationError, Nekkar
from nekkar.testing import FakeClock, assert_never_over
from tests.support.checks import spans_broken, worst_window
from tests.support.internals.core import SECOND, quota

NOON = 1_795_457_555.0


@pytest.mark.parametrize(
    ("times", "rate"),
    [
        ([], 1),
        ([5.0], "1/second"),
        ([0, 60], 1),
        ([60.0, 0.0, 120.0], 1),
        ([0.1 * step for step in range(50)], "10/second"),
        ([NOON + 0.1 * step for step in range(500)], "10 per 1 second"),
        ([0.0] * 100 + [2.0] * 100, "100 per 2 seconds"),
        ([0, 0, 1, 1, 60, 60, 61, 61], "2/second; 4/minute"),
    ],
)
def test_calls_within_a_limit_pass(times: list[float], rate: str | int) -> None:
    """Windows are half-open: a call a whole period after the first of N is on time, to the microsecond."""
    assert_never_over(times, rate)
    assert_never_over(reversed(times), rate)


@pytest.mark.parametrize(
    ("times", "rate"),
    [
        ([0.0, 59.999999], 1),
        ([0.0] * 100 + [1.999999], "100 per 2 seconds"),
        ([NOON, NOON + 0.999999], "1/second"),
        ([0, 0, 1, 1, 59, 59], "2/second; 4/minute"),
        ([7.0, 7.0], "1/second"),
    ],
)
def test_one_call_a_microsecond_early_fails(times: list[float], rate: str | int) -> None:
    """Whatever the order that they come in, and whichever window it is."""
    for order in (times, times[::-1]):
        with pytest.raises(AssertionError, match="over the limit"):
            assert_never_over(order, rate)


def test_the_worst_window_is_shown_with_all_its_numbers() -> None:
    """Where it starts and ends, how many calls against the limit, by how much, and how close they come."""
    times = [100.0, 100.5, 100.7, 200.0, 200.1, 200.2, 200.3, 300.0]
    with pytest.raises(AssertionError) as caught:
        assert_never_over(times, "2 per 1 second")
    assert str(caught.value) == (
        "over the limit: 4 calls in the window from 200.000000 to 201.000000 s, 2 over the limit of 2 per 1 s;"
        " some 3 consecutive calls come 0.800000 s too close"
    )


def test_each_broken_window_is_shown_and_no_kept_one() -> None:
    """A line for each rate that was broken."""
    with pytest.raises(AssertionError) as caught:
        assert_never_over([0, 0, 0, 30, 30], "2/second; 4/minute; 100/hour")
    first, second = str(caught.value).splitlines()
    assert "3 calls in the window from 0.000000 to 1.000000 s, 1 over the limit of 2 per 1 s" in first
    assert "5 calls in the window from 0.000000 to 60.000000 s, 1 over the limit of 4 per 60 s" in second


def test_a_rate_is_written_as_for_a_limiter() -> None:
    """A number with a period, a text, or a quota; what is none is refused as there."""
    times = [0.0, 0.0, 5.0, 5.0]
    assert_never_over(times, 2, period=5)
    assert_never_over(times, quota("2 per 5 seconds"))
    for rate, period in ((2, 5.1), ("2 per 6 seconds", None), (quota(2, 6), None)):
        with pytest.raises(AssertionError):
            assert_never_over(times, rate, period=period)
    with pytest.raises(ConfigurationError, match="is not a rate"):
        assert_never_over(times, "many")


@pytest.mark.parametrize("time", [float("nan"), float("inf")])
def test_a_time_that_is_none_is_refused(time: float) -> None:
    """A hole in what was recorded is no proof."""
    with pytest.raises(ValueError, match="must be a number of seconds"):
        assert_never_over([0.0, time], 5)


def test_admissions_count_their_cost() -> None:
    """What acquire returned can be checked as it is; here a thousand calls of all costs, on a fake clock."""
    chance = random.Random(1)
    limit = Nekkar(clock=FakeClock())("jobs", "10/second; 60/minute")
    admissions = [limit.acquire(cost=chance.randint(1, 5)) for _ in range(1000)]
    assert_never_over(admissions, "10/second; 60/minute")
    with pytest.raises(AssertionError, match="over the limit"):
        assert_never_over([*admissions, Admission("jobs", 10, admissions[500].at, 0.0)], "10/second; 60/minute")


def test_it_agrees_with_the_plain_checks() -> None:
    """On 2,000 random lists of times, with the checks of tests/support/checks.py."""
    chance, broken = random.Random(2), 0
    for _ in range(2000):
        times = [chance.randrange(5 * SECOND) for _ in range(chance.randint(1, 30))]
        count, period = chance.randint(1, 8), chance.choice([1, 2])
        over = bool(spans_broken(times, count, period * SECOND))
        assert over == (worst_window(times, period * SECOND) > count)
        broken += over
        if over:
            with pytest.raises(AssertionError, match=f"^over the limit: {worst_window(times, period * SECOND)} calls"):
                assert_never_over([time / SECOND for time in times], count, period=period)
        else:
            assert_never_over([time / SECOND for time in times], count, period=period)
    assert 200 < broken < 1800

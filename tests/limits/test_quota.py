"""Rates as users write them: every notation, every bound, and what is said about the rest."""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nekkar.core.errors import ConfigurationError
from tests.support.internals.core import MAX_COUNT, Quota, Rate, quota

S = 1_000_000
MINUTE, HOUR, DAY, WEEK, MONTH, YEAR = 60 * S, 3600 * S, 86_400 * S, 604_800 * S, 2_592_000 * S, 31_536_000 * S

NOTATION: list[tuple[str, list[tuple[int, int]]]] = [
    ("10/s", [(10, S)]),
    ("10/sec", [(10, S)]),
    ("10/secs", [(10, S)]),
    ("10/second", [(10, S)]),
    ("10/seconds", [(10, S)]),
    ("10/min", [(10, MINUTE)]),
    ("10/mins", [(10, MINUTE)]),
    ("10/minute", [(10, MINUTE)]),
    ("10/minutes", [(10, MINUTE)]),
    ("10/h", [(10, HOUR)]),
    ("10/hr", [(10, HOUR)]),
    ("10/hour", [(10, HOUR)]),
    ("10/hours", [(10, HOUR)]),
    ("10/d", [(10, DAY)]),
    ("10/day", [(10, DAY)]),
    ("10/days", [(10, DAY)]),
    ("10/w", [(10, WEEK)]),
    ("10/week", [(10, WEEK)]),
    ("10/weeks", [(10, WEEK)]),
    ("10/month", [(10, MONTH)]),
    ("10/months", [(10, MONTH)]),
    ("10/year", [(10, YEAR)]),
    ("10/years", [(10, YEAR)]),
    ("1/100 years", [(1, 100 * YEAR)]),
    ("10 per second", [(10, S)]),
    ("10  PER  Second", [(10, S)]),
    ("5 per 2 hours", [(5, 2 * HOUR)]),
    ("5/2hours", [(5, 2 * HOUR)]),
    ("5 / 2 hours", [(5, 2 * HOUR)]),
    ("5 per 90 min", [(5, 90 * MINUTE)]),
    (" 010/01 SEC\n", [(10, S)]),
    ("1000000000/s", [(10**9, S)]),
    ("00000000000001/s", [(1, S)]),
    ("10/second; 300/minute", [(10, S), (300, MINUTE)]),
    ("300/minute;10/second", [(10, S), (300, MINUTE)]),
    ("10/second, 300/minute", [(10, S), (300, MINUTE)]),
    ("10/second | 300 per minute | 5000/h", [(10, S), (300, MINUTE), (5000, HOUR)]),
    ("10/s; 10/second", [(10, S)]),
    ("10/s; 5/s", [(5, S), (10, S)]),
    ("60/minute; 1/second", [(1, S), (60, MINUTE)]),
]


@pytest.mark.parametrize(("text", "windows"), NOTATION, ids=[text for text, _ in NOTATION])
def test_the_notation_names_counts_and_periods(text: str, windows: list[tuple[int, int]]) -> None:
    """Each row's text means its windows, the shortest period first."""
    assert [(rate.count, rate.period_us) for rate in quota(text).rates] == windows


@pytest.mark.parametrize(
    ("rate_limit", "period", "expected"),
    [
        (100, None, Rate(MINUTE, 100)),
        (100, 60, Rate(MINUTE, 100)),
        (100, 60.0, Rate(MINUTE, 100)),
        (100, 0.001, Rate(1000, 100)),
        (100, 0.1, Rate(100_000, 100)),
        (100, 1 / 3, Rate(333_334, 100)),
        (1, 3.1536e9, Rate(100 * YEAR, 1)),
        (MAX_COUNT, None, Rate(MINUTE, 10**9)),
    ],
)
def test_a_bare_number_is_per_period_and_a_minute_unless_told(
    rate_limit: int, period: float | None, expected: Rate
) -> None:
    """A whole number of calls per ``period`` seconds, rounded up to microseconds, 60 s by default."""
    assert quota(rate_limit, period).rates == (expected,)


class Five:
    """A whole number that is no int, as numpy's are."""

    def __index__(self) -> int:
        return 5


def test_whatever_python_takes_as_an_index_is_a_count() -> None:
    """The whole numbers of other libraries are counts too."""
    assert quota(Five()).rates == (Rate(MINUTE, 5),)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("rate_limit", "spacing", "spacing_us"),
    [
        (100, 0.0, 0),
        (100, 0, 0),
        (100, 0.05, 50_000),
        (100, 0.1, 100_000),
        (100, 0.0000001, 1),
        ("100/second", "even", 10_000),
        ("7000/min", "even", 8572),
        ("3/s", "even", 333_334),
        ("10/second; 300/minute", "even", 200_000),
        ("10/second; 6000/minute", "even", 100_000),
        ("1000000000/s", "even", 1),
    ],
)
def test_spacing_is_rounded_up_and_even_is_the_largest_share_of_a_period(
    rate_limit: int | str, spacing: float | str, spacing_us: int
) -> None:
    """``even`` is the largest P/N of the windows, up to a whole microsecond: never too close."""
    assert quota(rate_limit, spacing=spacing).spacing_us == spacing_us


@given(st.lists(st.tuples(st.integers(1, 10**9), st.integers(1, 10**5)), min_size=1, max_size=4))
def test_even_spacing_never_outruns_a_window(windows: list[tuple[int, int]]) -> None:
    """N slots evenly spaced take at least P, in every window, and in one of them one µs less would not do."""
    even = quota("; ".join(f"{count}/{seconds} s" for count, seconds in windows), spacing="even").spacing_us
    assert all(even * count >= seconds * S for count, seconds in windows)
    assert any((even - 1) * count < seconds * S for count, seconds in windows)


@pytest.mark.parametrize(
    ("rate_limit", "period", "margin_us"),
    [
        (100, 0.001, 50_000),
        (100, 1, 50_000),
        (100, 10, 50_000),
        (100, 10.0002, 50_001),
        (100, 20, 100_000),
        (100, 60, 300_000),
        (100, 200, S),
        (100, 3600, S),
        ("1/year", None, S),
        ("10/second; 5000/hour", None, 50_000),
        ("5000/hour; 100/minute", None, 300_000),
    ],
)
def test_the_margin_is_a_two_hundredth_of_the_shortest_period_within_bounds(
    rate_limit: int | str, period: float | None, margin_us: int
) -> None:
    """By default the larger of 50 ms and P/200, P being the shortest period, and at most 1 s."""
    assert quota(rate_limit, period).margin_us == margin_us


@pytest.mark.parametrize(("margin", "margin_us"), [(0.001, 1000), (0.02, 20_000), (1, S), (3600, HOUR)])
def test_a_margin_can_be_given(margin: float, margin_us: int) -> None:
    """A margin from 1 ms to an hour is taken as it is, whatever the period."""
    assert quota("10/second", margin=margin).margin_us == margin_us


def test_the_largest_cost_is_the_smallest_count() -> None:
    """No call can cost more than the tightest window holds."""
    assert quota("10/second; 300/minute; 7/hour").most("calls") == 7


def test_a_quota_reads_as_its_windows() -> None:
    """Where a limit is shown, each window is a count and its seconds."""
    assert str(quota("10/second; 300/minute")) == "10 per 1 s; 300 per 60 s"


def test_equal_limits_are_equal_and_hashable() -> None:
    """Two ways to write one limit are one limit."""
    assert quota("100/minute") == quota(100) == quota(100, 60.0)
    assert len({quota("100/minute"), quota(100), quota("100 per 60 s")}) == 1


COUNT, SECONDS, RATE = "from 1 to 1000000000", "give seconds from", "expected COUNT/PERIOD"
HUGE = 10**5000  # more digits than Python prints
LARGE = 10**400  # more than a float holds
NAN, INF = math.nan, math.inf

BAD: list[tuple[dict[str, Any], str, str]] = [
    # what is given; what of it the message shows; what the message says was expected
    ({"rate_limit": 0}, "rate_limit 0", COUNT),
    ({"rate_limit": -5}, "rate_limit -5", COUNT),
    ({"rate_limit": MAX_COUNT + 1}, "1000000001", COUNT),
    ({"rate_limit": HUGE}, "too large to show", COUNT),
    ({"rate_limit": -HUGE}, "too large to show", COUNT),
    ({"rate_limit": LARGE}, "10000", COUNT),
    ({"rate_limit": True}, "True", COUNT),
    ({"rate_limit": False}, "False", COUNT),
    ({"rate_limit": 10.0}, "10.0", COUNT),
    ({"rate_limit": 1.5}, "1.5", COUNT),
    ({"rate_limit": NAN}, "nan", COUNT),
    ({"rate_limit": INF}, "inf", COUNT),
    ({"rate_limit": Fraction(1, 2)}, "Fraction(1, 2)", COUNT),
    ({"rate_limit": Decimal(10)}, "Decimal('10')", COUNT),
    ({"rate_limit": 1j}, "1j", COUNT),
    ({"rate_limit": None}, "None", COUNT),
    ({"rate_limit": b"10/second"}, "b'10/second'", COUNT),
    ({"rate_limit": [10]}, "[10]", COUNT),
    ({"rate_limit": {"10": "second"}}, "{'10': 'second'}", COUNT),
    ({"rate_limit": ([10], 60)}, "([10], 60)", COUNT),
    ({"rate_limit": (10, 60)}, "(10, 60)", COUNT),
    ({"rate_limit": len}, "built-in function len", COUNT),
    ({"rate_limit": ""}, "''", RATE),
    ({"rate_limit": " \t"}, "' \\t'", RATE),
    ({"rate_limit": "10"}, "'10'", RATE),
    ({"rate_limit": "ten/second"}, "'ten/second'", RATE),
    ({"rate_limit": "nan/second"}, "'nan/second'", RATE),
    ({"rate_limit": "inf/second"}, "'inf/second'", RATE),
    ({"rate_limit": "1e3/second"}, "'1e3/second'", RATE),
    ({"rate_limit": "1_000/second"}, "'1_000/second'", RATE),
    ({"rate_limit": "1.5/second"}, "'1.5/second'", RATE),
    ({"rate_limit": "1/2.5 seconds"}, "'1/2.5 seconds'", RATE),
    ({"rate_limit": "-1/second"}, "'-1/second'", RATE),
    ({"rate_limit": "+1/second"}, "'+1/second'", RATE),
    ({"rate_limit": "1/-1 second"}, "'1/-1 second'", RATE),
    ({"rate_limit": "\u0661/second"}, "'\u0661/second'", RATE),
    ({"rate_limit": "10/60"}, "'10/60'", RATE),
    ({"rate_limit": "10//second"}, "'10//second'", RATE),
    ({"rate_limit": "10 second"}, "'10 second'", RATE),
    ({"rate_limit": "10persecond"}, "'10persecond'", RATE),
    ({"rate_limit": "/second"}, "'/second'", RATE),
    ({"rate_limit": "10/"}, "'10/'", RATE),
    ({"rate_limit": "10/second;"}, "'' in rate '10/second;'", RATE),
    ({"rate_limit": ";"}, "'' in rate ';'", RATE),
    ({"rate_limit": "10/second;;300/minute"}, "'' in rate '10/second;;300/minute'", RATE),
    ({"rate_limit": "10/second; 300"}, "'300' in rate '10/second; 300'", RATE),
    ({"rate_limit": "10/second and 300/minute"}, "'10/second and 300/minute'", RATE),
    ({"rate_limit": "10/fortnight"}, "period 'fortnight' in rate '10/fortnight'", "min, hour"),
    ({"rate_limit": "10/ms"}, "period 'ms'", "min, hour"),
    ({"rate_limit": "10/ss"}, "period 'ss'", "min, hour"),
    ({"rate_limit": "10/\u017f"}, "'10/\u017f'", RATE),
    ({"rate_limit": "10/m"}, "period 'm' in rate '10/m'", "'min' or 'month'"),
    ({"rate_limit": "10/M"}, "period 'M' in rate '10/M'", "'min' or 'month'"),
    ({"rate_limit": "10/second; 5/2 m"}, "period 'm' in rate '10/second; 5/2 m'", "'min' or 'month'"),
    ({"rate_limit": "0/second"}, "the count in rate '0/second'", COUNT),
    ({"rate_limit": "000/second"}, "the count in rate '000/second'", COUNT),
    ({"rate_limit": "1000000001/second"}, "1000000001", COUNT),
    ({"rate_limit": "9" * 5000 + "/second"}, "'9999", COUNT),
    ({"rate_limit": "1/0 seconds"}, "the multiple in rate '1/0 seconds'", COUNT),
    ({"rate_limit": "1/" + "9" * 5000 + " seconds"}, "'1/999", COUNT),
    ({"rate_limit": "1/101 years"}, "'1/101 years'", "100 years"),
    ({"rate_limit": "1/1000000000 years"}, "'1/1000000000 years'", "100 years"),
    ({"rate_limit": "10/second", "period": 60}, "'10/second'", "leave one out"),
    ({"rate_limit": "10/second", "period": 0}, "period=0", "leave one out"),
    ({"rate_limit": 10, "period": 0}, "period 0", SECONDS),
    ({"rate_limit": 10, "period": -1}, "period -1", SECONDS),
    ({"rate_limit": 10, "period": 0.0009}, "period 0.0009", SECONDS),
    ({"rate_limit": 10, "period": 4e9}, "period 4000000000.0", SECONDS),
    ({"rate_limit": 10, "period": 1.7e308}, "period 1.7e+308", SECONDS),
    ({"rate_limit": 10, "period": NAN}, "period nan", SECONDS),
    ({"rate_limit": 10, "period": INF}, "period inf", SECONDS),
    ({"rate_limit": 10, "period": -INF}, "period -inf", SECONDS),
    ({"rate_limit": 10, "period": True}, "period True", SECONDS),
    ({"rate_limit": 10, "period": "60"}, "period '60'", SECONDS),
    ({"rate_limit": 10, "period": Decimal(60)}, "period Decimal('60')", SECONDS),
    ({"rate_limit": 10, "period": Fraction(1, 2)}, "period Fraction(1, 2)", SECONDS),
    ({"rate_limit": 10, "period": [60]}, "period [60]", SECONDS),
    ({"rate_limit": 10, "period": ([60],)}, "period ([60],)", SECONDS),
    ({"rate_limit": 10, "period": LARGE}, "period 1000", SECONDS),
    ({"rate_limit": 10, "period": HUGE}, "period <int too large to show>", SECONDS),
    ({"rate_limit": 10, "period": -HUGE}, "period <int too large to show>", SECONDS),
    ({"rate_limit": 10, "spacing": -0.1}, "spacing -0.1", SECONDS),
    ({"rate_limit": 10, "spacing": 4e9}, "spacing 4000000000.0", SECONDS),
    ({"rate_limit": 10, "spacing": NAN}, "spacing nan", SECONDS),
    ({"rate_limit": 10, "spacing": INF}, "spacing inf", SECONDS),
    ({"rate_limit": 10, "spacing": True}, "spacing True", SECONDS),
    ({"rate_limit": 10, "spacing": None}, "spacing None", SECONDS),
    ({"rate_limit": 10, "spacing": "odd"}, "spacing 'odd'", "'even'"),
    ({"rate_limit": 10, "spacing": ""}, "spacing ''", "'even'"),
    ({"rate_limit": 10, "spacing": [1]}, "spacing [1]", SECONDS),
    ({"rate_limit": 10, "spacing": LARGE}, "spacing 1000", SECONDS),
    ({"rate_limit": 10, "spacing": HUGE}, "spacing <int too large to show>", SECONDS),
    ({"rate_limit": 10, "margin": 0}, "margin 0", SECONDS),
    ({"rate_limit": 10, "margin": -1}, "margin -1", SECONDS),
    ({"rate_limit": 10, "margin": 3601}, "margin 3601", SECONDS),
    ({"rate_limit": 10, "margin": NAN}, "margin nan", SECONDS),
    ({"rate_limit": 10, "margin": False}, "margin False", SECONDS),
    ({"rate_limit": 10, "margin": "0.05"}, "margin '0.05'", SECONDS),
    ({"rate_limit": 10, "margin": {1}}, "margin {1}", SECONDS),
    ({"rate_limit": 10, "margin": HUGE}, "margin <int too large to show>", SECONDS),
]


def row(index: int) -> str:
    text = f"{index}: {BAD[index][1]}"
    return text.encode("ascii", "backslashreplace").decode()


@pytest.mark.parametrize("index", range(len(BAD)), ids=row)
def test_what_is_no_limit_is_refused_with_the_value_and_what_was_expected(index: int) -> None:
    """Every bad argument is a ConfigurationError, so a ValueError, that names the value and the remedy."""
    given_, value, expected = BAD[index]
    with pytest.raises(ConfigurationError) as caught:
        quota(**given_)
    assert isinstance(caught.value, ValueError)
    assert value in str(caught.value)
    assert expected in str(caught.value)
    assert len(str(caught.value)) < 400


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=2) | st.tuples(inner) | st.dictionaries(st.text(max_size=2), inner),
    max_leaves=4,
)
NEARLY = st.text(alphabet="0123456789 /;,|per.-+smhdwyinuteco\u017f\u0661", max_size=24)


@given(ANYTHING | NEARLY, st.none() | ANYTHING, st.just(0.0) | ANYTHING, st.none() | ANYTHING)
def test_any_argument_gives_a_quota_in_bounds_or_a_configuration_error(
    rate_limit: Any, period: Any, spacing: Any, margin: Any
) -> None:
    """Nothing else is ever raised, and no value out of bounds is ever let in."""
    try:
        found = quota(rate_limit, period, spacing, margin)
    except ConfigurationError:
        return
    assert isinstance(found, Quota)
    assert found.spacing_us >= 0
    assert 1000 <= found.margin_us <= HOUR
    assert found.rates == tuple(sorted(set(found.rates)))
    assert all(1 <= rate.count <= 10**9 and 1000 <= rate.period_us <= 100 * YEAR for rate in found.rates)


@given(st.floats(0.001, 3e9))
def test_a_period_is_never_cut(seconds: float) -> None:
    """A period in microseconds is the seconds given, but for a rounding up of at most a microsecond."""
    assert -0.001 <= quota(1, seconds).rates[0].period_us - seconds * S <= 1


def test_one_kind_of_number_does_not_answer_for_another() -> None:
    """1, 1.0 and True are equal to Python, but only 1 is a count, however often each is asked for."""
    for _ in range(2):
        assert quota(1).rates[0].count == 1
        for other in (1.0, True):
            with pytest.raises(ConfigurationError):
                quota(other)  # type: ignore[arg-type]
